//! Who may speak with whom: every wrong certificate is refused in words that say whose it is and why, and nothing of a
//! refused caller reaches the handler.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::sync::Arc;

use common::{DAY, Handler, Site, body, delta, hello, raw_client, start};
use lifeboat_engine::ports::link::{LinkError, PeerLink, PeerRequest};
use lifeboat_link::Link;
use lifeboat_tls::{CertificateFiles, CredentialsError};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_call_reaches_the_handler_with_the_callers_names() {
    let site = Site::new();
    let handler = Arc::new(Handler::default());
    let server = start(&site.host(&["localhost", "127.0.0.1"]), handler.clone()).await;
    let link = Link::new(&site.host(&["A.Example.ORG", "a", "*.example.org", "10.0.0.1"])).unwrap();
    for peer in [server.peer(), server.address.to_string()] {
        assert_eq!(link.call(&peer, PeerRequest::Hello).await.unwrap(), hello());
    }
    let calls = handler.calls.lock().unwrap();
    assert_eq!(calls.len(), 2);
    assert_eq!(
        calls[0].0.names,
        ["a.example.org", "a"],
        "lower case, no wildcard, no address, no common name"
    );
    let address: std::net::IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(calls[0].0.addresses, [address]);
}

/// Calls and sends, and wants both refused as untrusted.
async fn untrusted(server: &CertificateFiles, client: &CertificateFiles, part: &str) {
    let handler = Arc::new(Handler::default());
    let running = start(server, handler.clone()).await;
    let link = Link::new(client).unwrap();
    for round in 0..10 {
        let call = link.call(&running.peer(), PeerRequest::Hello).await.unwrap_err();
        let chunk = Ok(vec![0; 1 << 16].into());
        let send = link
            .send(&running.peer(), delta(), body(vec![chunk]))
            .await
            .unwrap_err();
        for e in [call, send] {
            assert!(matches!(e, LinkError::Untrusted { .. }), "{round}: {e}");
            assert!(e.to_string().contains(part), "{round}: {e}");
        }
    }
    assert!(handler.untouched());
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_trusted() {
    let (here, there) = (Site::new(), Site::new());
    untrusted(
        &there.host(&["localhost"]),
        &here.host(&["a"]),
        "was not issued by the CA trusted here",
    )
    .await;
}

#[tokio::test]
async fn a_caller_of_another_ca_is_told_so() {
    let (here, there) = (Site::new(), Site::new());
    // The caller trusts the server's CA; only its own certificate is a stranger's.
    let client = CertificateFiles {
        ca: there.host(&["x"]).ca,
        ..here.host(&["a"])
    };
    untrusted(
        &there.host(&["localhost"]),
        &client,
        "not issued by the CA trusted there",
    )
    .await;
}

#[tokio::test]
async fn an_expired_certificate_is_called_expired_on_its_own_side() {
    let site = Site::new();
    let past = OffsetDateTime::now_utc() - DAY;
    let (good_server, good_client) = (site.host(&["localhost"]), site.host(&["a"]));
    let on = past.date().to_string();
    untrusted(
        &site.host_until(&["localhost"], past),
        &good_client,
        "its certificate has expired",
    )
    .await;
    untrusted(&site.host_until(&["localhost"], past), &good_client, &on).await;
    untrusted(&good_server, &site.host_until(&["a"], past), "ours has expired").await;
}

#[tokio::test]
async fn a_certificate_of_the_future_is_not_valid_yet() {
    let site = Site::new();
    let server = site.host_until(&["localhost"], OffsetDateTime::now_utc() + 500 * DAY);
    untrusted(&server, &site.host(&["a"]), "is not valid before").await;
}

#[tokio::test]
async fn a_server_with_another_name_is_not_trusted() {
    let site = Site::new();
    untrusted(
        &site.host(&["other.example.org"]),
        &site.host(&["a"]),
        "other.example.org",
    )
    .await;
    // The common name does not count.
    let running = start(&site.host(&["other"]), Arc::new(Handler::default())).await;
    let e = Link::new(&site.host(&["a"]))
        .unwrap()
        .call(&running.address.to_string(), PeerRequest::Hello)
        .await;
    assert!(matches!(e, Err(LinkError::Untrusted { .. })), "{e:?}");
}

#[tokio::test]
async fn a_caller_without_a_dns_name_is_refused() {
    let site = Site::new();
    untrusted(
        &site.host(&["localhost"]),
        &site.host(&["10.0.0.1"]),
        "carries no DNS name",
    )
    .await;
    untrusted(
        &site.host(&["localhost"]),
        &site.host(&["*.example.org"]),
        "carries no DNS name",
    )
    .await;
}

#[tokio::test]
async fn without_a_certificate_nobody_comes_in() {
    let site = Site::new();
    let handler = Arc::new(Handler::default());
    let config = site.host(&["localhost"]);
    let server = start(&config, handler.clone()).await;
    // With TLS 1.3 the caller's handshake ends before the server has judged it.
    let mut stream = raw_client(server.address, &config, None, &[]).await.unwrap();
    let _ = stream.write_all(b"POST /lifeboat/1/control HTTP/1.1\r\nHost: x\r\nContent-Length: 19\r\n\r\n{\"request\":\"hello\"}").await;
    let mut answer = Vec::new();
    let e = stream.read_to_end(&mut answer).await.unwrap_err();
    assert!(
        answer.is_empty() && e.to_string().contains("CertificateRequired"),
        "{e}"
    );
    assert!(handler.untouched());
}

#[tokio::test]
async fn only_http_1_is_offered() {
    let site = Site::new();
    let handler = Arc::new(Handler::default());
    let config = site.host(&["localhost"]);
    let server = start(&config, handler.clone()).await;
    let e = raw_client(server.address, &config, Some(&config), &["h2"])
        .await
        .err()
        .unwrap();
    assert!(e.to_string().contains("NoApplicationProtocol"), "{e}");
    raw_client(server.address, &config, Some(&config), &["http/1.1"])
        .await
        .unwrap();
    assert!(handler.untouched());
}

#[tokio::test]
async fn unusable_files_are_named() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    let (a, b) = (site.host(&["a"]), site.host(&["b"]));
    let missing = Link::new(&CertificateFiles {
        cert: "/no/such.crt".into(),
        ..a.clone()
    })
    .unwrap_err();
    assert!(missing.to_string().starts_with("/no/such.crt: "), "{missing}");
    let swapped = Link::new(&CertificateFiles {
        key: b.key.clone(),
        ..a.clone()
    })
    .unwrap_err();
    assert!(matches!(swapped, CredentialsError::Mismatch { .. }), "{swapped}");
    let wrong = Link::new(&CertificateFiles {
        key: a.cert.clone(),
        ..a.clone()
    })
    .unwrap_err();
    assert!(
        matches!(
            wrong,
            CredentialsError::Content {
                what: "private key",
                ..
            }
        ),
        "{wrong}"
    );
    let empty = Link::new(&CertificateFiles {
        ca: a.key.clone(),
        ..a.clone()
    })
    .unwrap_err();
    assert!(
        matches!(
            empty,
            CredentialsError::Content {
                what: "certificate",
                ..
            }
        ),
        "{empty}"
    );
    std::fs::set_permissions(&b.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = Link::new(&b).unwrap_err();
    assert!(exposed.to_string().contains("chmod 600"), "{exposed}");
}

#[tokio::test]
async fn a_name_that_leads_to_this_host_is_not_called() {
    let site = Site::new();
    let handler = Arc::new(Handler::default());
    let server = start(&site.host(&["localhost", "127.0.0.1", "::1"]), handler.clone()).await;
    let link = Link::new(&site.host(&["a.example.org"])).unwrap();
    let port = server.address.port();
    // Whoever answers for a name could let it lead here; these do without anybody being asked for them.
    for name in ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "0"] {
        let refused = link.call(&format!("{name}:{port}"), PeerRequest::Hello).await;
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, LinkError::Unreachable { .. }),
            "{name}: {refused}"
        );
        let said = refused.to_string();
        assert!(said.contains("the name leads to"), "{name}: {said}");
    }
    assert!(handler.untouched());
    for meant in ["127.0.0.1", "localhost"] {
        let reply = link.call(&format!("{meant}:{port}"), PeerRequest::Hello).await;
        assert_eq!(reply.unwrap(), hello(), "{meant}");
    }
}
