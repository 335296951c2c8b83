//! Tests of the monitor client against `qemu-storage-daemon` and `qemu-system-x86_64`, and against peers that
//! hang or lie.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

struct Peer {
    process: Child,
    dir: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Peer {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(dir.path())
            .stdin(Stdio::null());
        let process = command
            .spawn()
            .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
        Self { process, dir }
    }

    fn storage_daemon() -> Self {
        let socket = "socket,id=c,path=qmp.sock,server=on,wait=off";
        Self::start(
            "qemu-storage-daemon",
            &["--chardev", socket, "--monitor", "chardev=c"],
        )
    }

    fn qemu() -> Self {
        let basics = ["-S", "-nodefaults", "-display", "none", "-machine", "none"];
        let monitor = ["-qmp", "unix:qmp.sock,server=on,wait=off"];
        Self::start("qemu-system-x86_64", &[&basics[..], &monitor].concat())
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("qmp.sock")
    }

    /// The peer does not tell when it listens, so connecting is tried until it works.
    async fn connect(&self) -> Qmp {
        let deadline = Instant::now() + LIMIT;
        loop {
            match Qmp::connect(self.socket(), LIMIT).await {
                Err(QmpError::Connect { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                outcome => return outcome.expect("the peer must come up"),
            }
        }
    }
}

#[tokio::test]
async fn commands_events_and_the_end_of_a_real_qemu() {
    let peer = Peer::qemu();
    let qmp = peer.connect().await;
    assert!(qmp.version().0 >= 7, "{:?}", qmp.version());
    let mut events = qmp.events();
    assert_eq!(
        qmp.execute("query-status", Value::Null).await.unwrap()["running"],
        json!(false)
    );
    qmp.execute("cont", Value::Null).await.unwrap();
    qmp.execute("stop", Value::Null).await.unwrap();
    let stop = events.wait_for("STOP", |_| true, LIMIT).await.unwrap();
    assert!(
        stop.seconds > 1_500_000_000 && (0..1_000_000).contains(&stop.micros),
        "{stop:?}"
    );
    let closed = qmp.closed();
    qmp.execute("quit", Value::Null).await.unwrap();
    let shutdown = events
        .wait_for("SHUTDOWN", |data| data["guest"] == json!(false), LIMIT)
        .await
        .unwrap();
    assert_eq!(shutdown.data["reason"], json!("host-qmp-quit"));
    tokio::time::timeout(LIMIT, closed).await.unwrap();
    assert!(matches!(
        qmp.execute("query-status", Value::Null).await,
        Err(QmpError::Closed)
    ));
    assert!(matches!(events.next().await, Err(QmpError::Closed)));
    assert!(matches!(qmp.events().next().await, Err(QmpError::Closed)));
}

#[tokio::test]
async fn concurrent_callers_each_get_their_own_answer() {
    let peer = Peer::storage_daemon();
    let qmp = peer.connect().await;
    let mut callers = JoinSet::new();
    for number in 0..200 {
        let qmp = qmp.clone();
        callers.spawn(async move {
            let name = format!("nobody-{number}");
            if number % 2 == 0 {
                let error = qmp
                    .execute("blockdev-del", json!({"node-name": name}))
                    .await
                    .unwrap_err();
                assert!(
                    matches!(&error, QmpError::Command { desc, .. } if desc.contains(&name)),
                    "{error}"
                );
                assert!(error.to_string().starts_with("QEMU refused blockdev-del: "));
            } else {
                let node = json!({"driver": "null-co", "node-name": name, "read-zeroes": true});
                assert_eq!(qmp.execute("blockdev-add", node).await.unwrap(), json!({}));
            }
        });
    }
    callers.join_all().await;
    let nodes = qmp
        .execute("query-named-block-nodes", json!({"flat": true}))
        .await
        .unwrap();
    assert_eq!(nodes.as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn a_second_client_is_told_that_the_monitor_is_taken() {
    let peer = Peer::storage_daemon();
    let first = peer.connect().await;
    let second = Qmp::connect(peer.socket(), Duration::from_millis(200)).await;
    assert!(matches!(second, Err(QmpError::Busy { .. })), "{second:?}");
    first.execute("query-block-jobs", Value::Null).await.unwrap();
    drop(first);
    Qmp::connect(peer.socket(), LIMIT)
        .await
        .expect("a dropped handle frees the monitor");
    let missing = Qmp::connect(peer.dir.path().join("none"), LIMIT).await;
    assert!(matches!(missing, Err(QmpError::Connect { .. })));
}

#[tokio::test]
async fn callers_learn_that_qemu_was_killed() {
    let mut peer = Peer::qemu();
    let qmp = peer.connect().await;
    let pid = peer.process.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-STOP", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut callers = JoinSet::new();
    (0..100).for_each(|_| {
        let qmp = qmp.clone();
        callers.spawn(async move { qmp.execute("query-status", Value::Null).await });
    });
    tokio::task::yield_now().await;
    assert!(
        callers.try_join_next().is_none(),
        "a stopped process cannot answer"
    );
    peer.process.kill().unwrap();
    for outcome in callers.join_all().await {
        assert!(matches!(outcome, Err(QmpError::Closed)), "{outcome:?}");
    }
    tokio::time::timeout(LIMIT, qmp.closed()).await.unwrap();
}

/// The server's side of a monitor that the test plays itself; greeting and negotiation are done.
struct Fake {
    /// The first id of the connection; what is heard and said counts from it.
    first: Option<u64>,
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
    _dir: TempDir,
}

impl Fake {
    async fn new() -> (Self, Qmp) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let connecting = tokio::spawn(async move { Qmp::connect(path, LIMIT).await.unwrap() });
        let (read, write) = listener.accept().await.unwrap().0.into_split();
        let mut fake = Self {
            first: None,
            lines: BufReader::new(read).lines(),
            write,
            _dir: dir,
        };
        // What an earlier client was still to be told comes first.
        let late = b"{\"return\": {}, \"id\": 77}\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"\"}, \"id\": 78}\n";
        fake.write.write_all(late).await.unwrap();
        fake.say("{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n")
            .await;
        assert_eq!(fake.hear().await, json!({"execute": "qmp_capabilities", "id": 0}));
        // Greeted twice, as a QEMU that is still starting does, and forgetful once.
        fake.say("{\"QMP\": {}}\n{\"return\": {}, \"id\": 0}\n").await;
        assert_eq!(fake.hear().await, json!({"execute": "query-version", "id": 1}));
        fake.say("{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"negotiate\"}, \"id\": 1}\n")
            .await;
        assert_eq!(fake.hear().await, json!({"execute": "qmp_capabilities", "id": 2}));
        fake.say("{\"return\": {}, \"id\": 2}\n").await;
        assert_eq!(fake.hear().await, json!({"execute": "query-version", "id": 3}));
        fake.say("{\"return\": {}, \"id\": 3}\n").await;
        (fake, connecting.await.unwrap())
    }

    async fn say(&mut self, text: &str) {
        let mut said = String::new();
        for (n, part) in text.split("\"id\": ").enumerate() {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            match part[..digits].parse::<u64>() {
                Ok(id) if n > 0 => said.push_str(&format!("\"id\": {}{}", self.id(id), &part[digits..])),
                _ if n > 0 => said.push_str(&format!("\"id\": {part}")),
                _ => said.push_str(part),
            }
        }
        self.write.write_all(said.as_bytes()).await.unwrap();
    }

    /// An id as it is on the wire.
    fn id(&self, id: u64) -> u64 {
        self.first.unwrap() + id
    }

    async fn hear(&mut self) -> Value {
        let line = self.lines.next_line().await.unwrap().unwrap();
        let mut heard: Value = serde_json::from_str(&line).unwrap();
        let id = heard["id"].as_u64().unwrap();
        heard["id"] = (id - *self.first.get_or_insert(id)).into();
        heard
    }
}

#[tokio::test]
async fn a_peer_that_says_much_and_never_greets_is_no_monitor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let connecting = tokio::spawn(Qmp::connect(path, LIMIT));
    let (mut stream, _) = listener.accept().await.unwrap();
    stream
        .write_all(&b"{\"return\": {}, \"id\": 1}\n".repeat(200))
        .await
        .unwrap();
    let refused = connecting.await.unwrap().unwrap_err();
    assert!(matches!(refused, QmpError::Protocol(_)), "{refused:?}");
}

#[tokio::test]
async fn a_late_answer_to_a_command_given_up_is_not_taken_for_another() {
    let (mut fake, qmp) = Fake::new().await;
    let late = qmp
        .execute_timeout("first", Value::Null, Duration::from_millis(20))
        .await
        .unwrap_err();
    assert!(
        matches!(&late, QmpError::Timeout { command, .. } if command == "first"),
        "{late}"
    );
    let second = tokio::spawn(async move { (qmp.execute("second", json!({"a": 1})).await, qmp) });
    assert_eq!(fake.hear().await, json!({"execute": "first", "id": 4}));
    assert_eq!(
        fake.hear().await,
        json!({"execute": "second", "id": 5, "arguments": {"a": 1}})
    );
    fake.say("{\"return\": \"late\", \"id\": 4}\n{\"return\": \"right\", \"id\": 5}\n")
        .await;
    let (outcome, _qmp) = second.await.unwrap();
    assert_eq!(outcome.unwrap(), json!("right"));
}

/// QEMU answers whoever is connected when it has the answer, whoever asked.
#[tokio::test]
async fn an_answer_to_an_earlier_connection_is_nobody_s() {
    let (mut fake, qmp) = Fake::new().await;
    let (other, _earlier) = Fake::new().await;
    let asked = tokio::spawn(async move { (qmp.execute("blockdev-del", Value::Null).await, qmp) });
    assert_eq!(fake.hear().await, json!({"execute": "blockdev-del", "id": 4}));
    let theirs = other.id(4);
    assert_ne!(theirs, fake.id(4), "two connections have no id in common");
    fake.write
        .write_all(format!("{{\"return\": \"of another command\", \"id\": {theirs}}}\n").as_bytes())
        .await
        .unwrap();
    fake.say("{\"return\": \"right\", \"id\": 4}\n").await;
    let (outcome, _qmp) = asked.await.unwrap();
    assert_eq!(outcome.unwrap(), json!("right"));
}

#[tokio::test]
async fn a_peer_that_reads_nothing_cannot_hold_callers_beyond_their_time() {
    let (_fake, qmp) = Fake::new().await;
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let qmp = qmp.clone();
        let arguments = json!({"text": "x".repeat(10_000)});
        callers.spawn(async move {
            qmp.execute_timeout("stuck", arguments, Duration::from_millis(50))
                .await
        });
    }
    for outcome in callers.join_all().await {
        assert!(matches!(outcome, Err(QmpError::Timeout { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn lies_end_the_connection_for_everyone() {
    let unknown = "an answer to a command never sent";
    let lies = [
        ("{\"return\": {}}\n", unknown),
        ("{\"return\": {}, \"id\": \"1\"}\n", unknown),
        (
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n",
            "JSON parse error",
        ),
        ("not json\n", "not JSON"),
    ];
    for (lie, complaint) in lies {
        let (mut fake, qmp) = Fake::new().await;
        let calls = tokio::spawn(async move {
            let both = tokio::join!(qmp.execute("a", Value::Null), qmp.execute("b", Value::Null));
            tokio::time::timeout(LIMIT, qmp.closed()).await.unwrap();
            both
        });
        fake.hear().await;
        fake.hear().await;
        fake.say(lie).await;
        let (first, second) = calls.await.unwrap();
        for outcome in [first, second] {
            let said = outcome.unwrap_err().to_string();
            assert!(said.contains(complaint), "{lie}: {said}");
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_sleeps_is_told_and_holds_nobody_up() {
    let (mut fake, qmp) = Fake::new().await;
    let mut sleeper = qmp.events();
    for number in 0..3000 {
        fake.say(&format!("{{\"event\": \"E\", \"data\": {number}}}\n"))
            .await;
    }
    let call = tokio::spawn(async move { (qmp.execute("x", Value::Null).await, qmp) });
    fake.hear().await;
    fake.say("{\"return\": 5, \"id\": 4}\n").await;
    let (outcome, _qmp) = call.await.unwrap();
    assert_eq!(outcome.unwrap(), json!(5));
    let lost = sleeper.wait_for("E", |_| true, LIMIT).await.unwrap_err();
    assert!(
        matches!(lost, QmpError::Lagged { missed } if missed == 3000 - EVENT_BACKLOG as u64),
        "{lost}"
    );
    assert_eq!(sleeper.next().await.unwrap().data, json!(3000 - EVENT_BACKLOG));
    let last = sleeper
        .wait_for("E", |data| *data == json!(2999), LIMIT)
        .await
        .unwrap();
    assert_eq!((last.seconds, last.micros), (-1, -1));
    let never = sleeper
        .wait_for("NEVER", |_| true, Duration::from_millis(20))
        .await;
    assert!(matches!(never, Err(QmpError::Timeout { command, .. }) if command == "event NEVER"));
}
