//! The servers as a stranger meets them: who gets in, what refused and oversized requests cost, how connections begin and
//! end. What the protocols say inside is tested elsewhere.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::remote_support::{Authority, basic, basic_with, host, host_within, post};
use lifeboat_wbem::users::{Secret, add_user, remove};
use lifeboat_wbem::{Limits, Remote, RemoteConfig, RemoteError, Transport};

const IDENTIFY: &str = "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
    xmlns:i=\"http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd\">\
    <s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>";

const SOAP: (&str, &str) = ("Content-Type", "application/soap+xml;charset=UTF-8");

#[tokio::test]
async fn a_refused_login_keeps_the_connection_and_the_next_one_works() {
    let host = host().await;
    for (address, path, realm) in [
        (host.wsman, "/wsman", "WSMAN"),
        (host.cimxml, "/cimom", "lifeboat"),
    ] {
        let mut c = host.connect(address).await;
        let nothing = c.post(path, &[SOAP], IDENTIFY).await;
        assert_eq!((nothing.status, nothing.body.as_str()), (401, ""));
        let challenge = nothing.header("www-authenticate").unwrap();
        assert!(
            challenge.starts_with(&format!("Basic realm=\"{realm}\"")),
            "{challenge}"
        );
        assert_eq!(nothing.header("content-length"), Some("0"));
        let wrong = [
            basic_with("admin", "secret of viewer"),
            basic_with("nobody", "secret of admin"),
            "Negotiate TlRMTVNTUAABAAAA".to_owned(),
            "Basic !".to_owned(),
        ];
        for wrong in wrong {
            let answer = c.post(path, &[("Authorization", &wrong)], IDENTIFY).await;
            assert_eq!(answer.status, 401, "{wrong}");
        }
        let known = c
            .post(path, &[("Authorization", &basic("viewer"))], IDENTIFY)
            .await;
        assert_ne!(known.status, 401, "{known:?}");
    }
    let mut c = host.connect(host.wsman).await;
    let known = c
        .post("/wsman/", &[("Authorization", &basic("viewer"))], IDENTIFY)
        .await;
    assert_eq!(known.status, 200, "{known:?}");
    assert!(known.header("content-length").is_some() && known.header("transfer-encoding").is_none());
    host.stop().await;
}

#[tokio::test]
async fn identify_may_be_asked_by_anybody_who_says_so_and_nothing_else_may() {
    let host = host().await;
    let mut c = host.connect(host.wsman).await;
    let open = ("WSMANIDENTIFY", "unauthenticated");
    let answer = c.post("/wsman", &[SOAP, open], IDENTIFY).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.element("ProtocolVersion"),
        Some("http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd")
    );
    assert!(answer.element("SecurityProfiles").is_none(), "{}", answer.body);
    let other = IDENTIFY.replace("Identify", "Enumerate");
    assert_eq!(c.post("/wsman", &[SOAP, open], &other).await.status, 401);
    let known = c
        .post("/wsman", &[SOAP, ("Authorization", &basic("viewer"))], IDENTIFY)
        .await;
    assert!(known.element("SecurityProfiles").is_some(), "{}", known.body);
    host.stop().await;
}

#[tokio::test]
async fn certificates_count_by_their_entry_and_strangers_are_told_so() {
    let host = host().await;
    let mutual = (
        "Authorization",
        "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual",
    );
    let known = host.authority.client("mgmt.example.org");
    let mut c = host.connect_as(host.wsman, Some(&known)).await.unwrap();
    assert_eq!(c.post("/wsman", &[SOAP], IDENTIFY).await.status, 200);
    assert_eq!(c.post("/wsman", &[SOAP, mutual], IDENTIFY).await.status, 200);

    let stranger = host.authority.client("stranger.example.org");
    let mut c = host.connect_as(host.wsman, Some(&stranger)).await.unwrap();
    assert_eq!(c.post("/wsman", &[SOAP], IDENTIFY).await.status, 401);
    assert_eq!(c.post("/wsman", &[SOAP, mutual], IDENTIFY).await.status, 401);
    let password = ("Authorization", basic("viewer"));
    assert_eq!(
        c.post("/wsman", &[(password.0, &password.1)], IDENTIFY)
            .await
            .status,
        200
    );

    let mut c = host.connect(host.wsman).await;
    assert_eq!(c.post("/wsman", &[SOAP, mutual], IDENTIFY).await.status, 401);

    let foreign = Authority::new().client("mgmt.example.org");
    let mut refused = true;
    if let Ok(mut c) = host.connect_as(host.wsman, Some(&foreign)).await {
        refused = c.closed().await;
    }
    assert!(refused);
    host.stop().await;
}

#[tokio::test]
async fn users_change_under_a_running_server() {
    let host = host().await;
    let mut c = host.connect(host.wsman).await;
    let eve = basic_with("eve", "a new secret");
    let eve = [SOAP, ("Authorization", eve.as_str())];
    assert_eq!(c.post("/wsman", &eve, IDENTIFY).await.status, 401);
    add_user(
        &host.users,
        "eve",
        &Secret::new("a new secret".into()),
        lifeboat_wbem::cim::Role::Monitor,
    )
    .unwrap();
    assert_eq!(c.post("/wsman", &eve, IDENTIFY).await.status, 200);
    remove(&host.users, "eve").unwrap();
    assert_eq!(c.post("/wsman", &eve, IDENTIFY).await.status, 401);
    let viewer = basic("viewer");
    std::fs::write(&host.users, "what?").unwrap();
    assert_eq!(
        c.post("/wsman", &[("Authorization", &viewer)], IDENTIFY)
            .await
            .status,
        200
    );
    host.stop().await;
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let host = host().await;
    let auth = format!("Authorization: {}\r\n", basic("viewer"));
    for (address, line, status) in [
        (host.wsman, "POST /other", 404),
        (host.wsman, "POST /wsman/x", 404),
        (host.wsman, "GET /wsman", 405),
        (host.wsman, "OPTIONS /wsman", 405),
        (host.cimxml, "POST /wsman", 404),
        (host.cimxml, "GET /cimom", 405),
        (host.cimxml, "M-POST /cimom", 501),
        (host.cimxml, "OPTIONS /cimom", 200),
    ] {
        let mut c = host.connect(address).await;
        c.send(format!(
            "{line} HTTP/1.1\r\nHost: h\r\n{auth}Content-Length: 2\r\n\r\nhi"
        ))
        .await;
        let answer = c.answer().await.unwrap();
        assert_eq!(answer.status, status, "{line}");
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("POST"));
        }
    }
    host.stop().await;
}

#[tokio::test]
async fn an_oversized_request_is_refused_before_it_is_read() {
    let host = host().await;
    let auth = format!("Authorization: {}\r\n", basic("viewer"));
    for auth in ["", &auth] {
        let mut c = host.connect(host.wsman).await;
        c.send(format!(
            "POST /wsman HTTP/1.1\r\nHost: h\r\n{auth}Content-Length: 4194305\r\n\r\n"
        ))
        .await;
        let answer = c.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
        assert!(c.closed().await);
    }
    // One that does not say how large it is.
    let mut c = host.connect(host.wsman).await;
    c.send(format!(
        "POST /wsman HTTP/1.1\r\nHost: h\r\n{auth}Transfer-Encoding: chunked\r\n\r\n"
    ))
    .await;
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    for _ in 0..4 {
        c.send(&chunk).await;
    }
    c.send("1\r\n \r\n0\r\n\r\n").await;
    assert_eq!(c.answer().await.unwrap().status, 413);
    // A stranger's is thrown away as long as it is small, and cut when it is not.
    let mut c = host.connect(host.wsman).await;
    assert_eq!(c.post("/wsman", &[], &" ".repeat(60 << 10)).await.status, 401);
    c.send(format!(
        "POST /wsman HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
        3 << 20
    ))
    .await;
    c.send(" ".repeat(80 << 10)).await;
    let answer = c.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
    host.stop().await;
}

#[tokio::test]
async fn a_slow_client_is_disconnected() {
    let limits = Limits {
        handshake: Duration::from_millis(100),
        ..Limits::default()
    };
    let host = host_within(limits, true).await;
    let mut c = host.connect_plainly(host.wsman).await;
    assert!(c.closed().await, "no handshake");
    host.stop().await;

    let limits = Limits {
        strangers: Duration::from_millis(700),
        head: Duration::from_millis(700),
        body: Duration::from_millis(700),
        ..Limits::default()
    };
    let host = host_within(limits, true).await;
    let mut c = host.connect(host.wsman).await;
    c.send("POST /wsman HTTP/1.1\r\nHost: ").await;
    assert!(c.closed().await, "half a head");
    let mut c = host.connect(host.wsman).await;
    let auth = basic("viewer");
    let whole = post("/wsman", &[("Authorization", &auth)], IDENTIFY);
    c.send(&whole[..whole.len() - 1]).await;
    assert_eq!(c.answer().await.unwrap().status, 408);
    assert!(c.closed().await, "half a body");
    let mut c = host.connect(host.wsman).await;
    assert_eq!(
        c.post("/wsman", &[("Authorization", &auth)], IDENTIFY)
            .await
            .status,
        200
    );
    assert!(c.closed().await, "idle");
    host.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_for_leave_gets_it_or_its_refusal() {
    let host = host().await;
    let mut c = host.connect(host.wsman).await;
    for (auth, status) in [
        (String::new(), 401),
        (format!("Authorization: {}\r\n", basic("viewer")), 200),
    ] {
        let length = IDENTIFY.len();
        c.send(format!(
            "POST /wsman HTTP/1.1\r\nHost: h\r\n{auth}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ))
        .await;
        c.send(IDENTIFY).await;
        assert_eq!(c.answer().await.unwrap().status, status);
    }
    host.stop().await;
}

#[tokio::test]
async fn two_hundred_logins_at_once_from_four_addresses_are_all_answered() {
    let host = std::sync::Arc::new(host().await);
    let all: Vec<_> = (0..200)
        .map(|n| {
            let host = host.clone();
            tokio::spawn(async move {
                let from = Ipv4Addr::new(127, 0, 0, 1 + n / 50);
                let mut c = host.connect_from(from, host.wsman, None).await.unwrap();
                let auth = match n % 2 {
                    0 => basic("viewer"),
                    _ => basic_with("viewer", &format!("guess {n}")),
                };
                let answer = c.post("/wsman", &[("Authorization", &auth)], IDENTIFY).await;
                (n % 2, answer.status)
            })
        })
        .collect();
    for task in all {
        let (wrong, status) = task.await.unwrap();
        let fine = match wrong {
            // The same right password is looked at once, unless others guess wrong at the account before.
            0 => [200, 429, 503].contains(&status),
            _ => [401, 429, 503].contains(&status),
        };
        assert!(fine, "{wrong} {status}");
    }
    // Afterwards the place is as it was.
    let mut c = host.connect(host.wsman).await;
    let auth = basic("admin");
    assert_eq!(
        c.post("/wsman", &[("Authorization", &auth)], IDENTIFY)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn without_tls_only_on_loopback() {
    let host = host_within(Limits::default(), false).await;
    let mut c = host.connect_plainly(host.wsman).await;
    assert_eq!(c.post("/wsman", &[], IDENTIFY).await.status, 401);
    let auth = basic("viewer");
    assert_eq!(
        c.post("/wsman", &[("Authorization", &auth)], IDENTIFY)
            .await
            .status,
        200
    );
    let config = |address: &str, users: &str| RemoteConfig {
        wsman: Some(address.parse().unwrap()),
        cimxml: None,
        users: users.into(),
        transport: Transport::Plain,
        revoked: lifeboat_tls::RevocationList::none(),
        destinations: Default::default(),
        limits: Limits::default(),
    };
    let exposed = Remote::bind(&config("0.0.0.0:0", host.users.as_str())).await;
    assert!(matches!(exposed.err(), Some(RemoteError::Exposed(_))));
    let nobody = Remote::bind(&config("127.0.0.1:0", "/nowhere/users.toml")).await;
    let text = nobody.err().unwrap().to_string();
    assert!(text.contains("/nowhere/users.toml"), "{text}");
    host.stop().await;
}
