//! Tests of the agent client against a played agent. A real one runs in a guest, and those tests need a guest;
//! one on the host must never be asked to freeze or to shut down.

use tokio::net::UnixListener;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// The guest's side, played by the test.
struct Guest {
    stream: UnixStream,
    decoder: bytes::BytesMut,
    _dir: tempfile::TempDir,
}

impl Guest {
    async fn new() -> (Self, Agent) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = Agent::connect(&path).await.unwrap();
        let stream = listener.accept().await.unwrap().0;
        (
            Self {
                stream,
                decoder: bytes::BytesMut::new(),
                _dir: dir,
            },
            agent,
        )
    }

    async fn hear(&mut self) -> Value {
        loop {
            if let Some(end) = self.decoder.iter().position(|byte| *byte == b'\n') {
                let line = self.decoder.split_to(end + 1);
                let line = line.rsplit(|byte| *byte == 0xff).next().unwrap();
                return serde_json::from_slice(line).unwrap();
            }
            assert!(self.stream.read_buf(&mut self.decoder).await.unwrap() > 0);
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn answer_sync(&mut self) {
        let asked = self.hear().await;
        assert_eq!(asked["execute"], json!("guest-sync-delimited"));
        self.say(format!("{{\"return\": {}}}\n", asked["arguments"]["id"]).as_bytes())
            .await;
    }

    async fn answer(&mut self, command: &str, value: Value) -> Value {
        let asked = self.hear().await;
        assert_eq!(asked["execute"], json!(command));
        self.say(format!("{}\n", json!({"return": value})).as_bytes())
            .await;
        asked["arguments"].clone()
    }
}

#[tokio::test]
async fn an_answer_owed_to_an_earlier_connection_is_not_ours() {
    let (mut guest, mut agent) = Guest::new().await;
    assert!(agent.sync(Duration::from_millis(10)).await.is_err());
    let owed = guest.hear().await["arguments"]["id"].clone();
    drop(agent);
    let (mut guest, mut agent) = Guest::new().await;
    let freezing = tokio::spawn(async move { agent.fsfreeze(LIMIT).await });
    guest
        .say(format!("{{\"return\": {owed}}}\n{{\"return\": 7}}\n").as_bytes())
        .await;
    guest.answer_sync().await;
    guest.answer("guest-fsfreeze-freeze", json!(2)).await;
    assert_eq!(freezing.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn the_first_command_synchronizes_past_leftovers_of_others() {
    let (mut guest, mut agent) = Guest::new().await;
    let freezing = tokio::spawn(async move { (agent.fsfreeze(LIMIT).await, agent.thaw(LIMIT).await) });
    guest
        .say(b"{\"return\": 1}\ngarbage\n{\"return\": {\"pid\": 1\xff")
        .await;
    guest.answer_sync().await;
    guest.answer("guest-fsfreeze-freeze", json!(2)).await;
    guest.answer("guest-fsfreeze-thaw", json!(2)).await;
    let (frozen, thawed) = freezing.await.unwrap();
    assert_eq!((frozen.unwrap(), thawed.unwrap()), (2, 2));
}

#[tokio::test]
async fn after_a_timeout_the_late_answer_is_not_taken_for_the_next() {
    let (mut guest, mut agent) = Guest::new().await;
    let syncing = tokio::spawn(async move { (agent.sync(LIMIT).await, agent) });
    guest.answer_sync().await;
    let (outcome, mut agent) = syncing.await.unwrap();
    outcome.unwrap();
    let late = agent
        .execute("guest-info", Value::Null, Duration::from_millis(20))
        .await
        .unwrap_err();
    assert!(matches!(late, AgentError::Timeout { .. }), "{late}");
    let next = tokio::spawn(async move { agent.execute("guest-get-time", Value::Null, LIMIT).await });
    assert_eq!(guest.hear().await["execute"], json!("guest-info"));
    guest.say(b"{\"return\": \"late\"}\n").await;
    guest.answer_sync().await;
    guest.answer("guest-get-time", json!(42)).await;
    assert_eq!(next.await.unwrap().unwrap(), json!(42));
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_asked_ever_more_rarely() {
    let (mut guest, mut agent) = Guest::new().await;
    for _ in 0..3600 {
        let silent = agent.sync(Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(silent, AgentError::NotResponding { .. }), "{silent}");
    }
    drop(agent);
    let mut asked = 0;
    let mut bytes = Vec::new();
    guest.stream.read_to_end(&mut bytes).await.unwrap();
    asked += bytes.iter().filter(|byte| **byte == b'\n').count();
    assert!(
        (100..150).contains(&asked),
        "{asked} questions in an hour; the port holds about 170"
    );
}

#[tokio::test]
async fn a_script_in_the_guest_returns_code_and_output() {
    let (mut guest, mut agent) = Guest::new().await;
    let running = tokio::spawn(async move { (agent.exec_sh("echo hi; exit 3", LIMIT).await, agent) });
    guest.answer_sync().await;
    let arguments = guest.answer("guest-exec", json!({"pid": 7})).await;
    assert_eq!(arguments["arg"], json!(["-c", "echo hi; exit 3"]));
    guest.answer("guest-exec-status", json!({"exited": false})).await;
    let ended =
        json!({"exited": true, "exitcode": 3, "out-data": "aGkK", "err-data": "YQ==", "out-truncated": true});
    assert_eq!(guest.answer("guest-exec-status", ended).await, json!({"pid": 7}));
    let output = running.await.unwrap().0.unwrap();
    let (stdout, stderr) = (b"hi\n".to_vec(), b"a".to_vec());
    assert_eq!(
        output,
        ExecOutput {
            exit: Some(3),
            signal: None,
            stdout,
            stderr,
            truncated: true
        }
    );
}

#[tokio::test]
async fn a_refused_shutdown_is_an_error_and_silence_is_consent() {
    for refuse in [true, false] {
        let (mut guest, mut agent) = Guest::new().await;
        let asking = tokio::spawn(async move { agent.shutdown(ShutdownMode::Powerdown, LIMIT).await });
        guest.answer_sync().await;
        assert_eq!(
            guest.hear().await,
            json!({"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}})
        );
        if refuse {
            guest
                .say(b"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"disabled\"}}\n")
                .await;
        }
        let outcome = asking.await.unwrap();
        assert_eq!(
            matches!(outcome, Err(AgentError::Command { .. })),
            refuse,
            "{outcome:?}"
        );
        assert_eq!(outcome.is_ok(), !refuse);
    }
}

#[tokio::test]
async fn a_port_that_closes_is_told_apart_from_a_silent_agent() {
    let (guest, mut agent) = Guest::new().await;
    drop(guest);
    assert!(matches!(agent.sync(LIMIT).await, Err(AgentError::Closed)));
    assert!(matches!(
        Agent::connect("/nowhere/agent.sock").await,
        Err(AgentError::Connect { .. })
    ));
}

#[test]
fn base64_of_the_standard_is_decoded_and_nothing_else() {
    // RFC 4648, section 10.
    let vectors = [
        ("", ""),
        ("Zg==", "f"),
        ("Zm8=", "fo"),
        ("Zm9v", "foo"),
        ("Zm9vYg==", "foob"),
        ("Zm9vYmFy", "foobar"),
    ];
    for (text, plain) in vectors {
        assert_eq!(
            decode_base64(text.as_bytes()).as_deref(),
            Some(plain.as_bytes()),
            "{text}"
        );
    }
    assert_eq!(decode_base64(b"+/+/").as_deref(), Some(&[0xfb, 0xff, 0xbf][..]));
    for text in ["Z", "Zg=", "Zg", "Z===", "Zm9v!", "Zm=v", "Zm9v====", "Zg==Zg=="] {
        assert_eq!(decode_base64(text.as_bytes()), None, "{text}");
    }
}
