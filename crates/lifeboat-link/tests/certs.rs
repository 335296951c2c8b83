//! Certificates of the own CA: good for the link, saying clearly what they are.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use camino::Utf8PathBuf;
use common::{DAY, Handler, hello, start};
use lifeboat_engine::ports::link::{PeerLink, PeerRequest};
use lifeboat_link::Link;
use lifeboat_tls::authority::{init_ca, issue};
use lifeboat_tls::certificate::describe;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn issued_certificates_carry_the_link() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::from_path_buf(temp.path().join("new")).unwrap();
    let ca = init_ca(&dir.join("ca"), "Example CA", None).unwrap();
    assert!(ca.is_ca && ca.subject.contains("Example CA"));
    let b = issue(
        &dir.join("ca"),
        &names(&["LocalHost", "127.0.0.1", "::1"]),
        &dir.join("b"),
        30 * DAY,
    )
    .unwrap();
    let a = issue(
        &dir.join("ca"),
        &names(&["a.example.org"]),
        &dir.join("a"),
        30 * DAY,
    )
    .unwrap();
    let handler = Arc::new(Handler::default());
    let server = start(&b, handler.clone()).await;
    let link = Link::new(&a).unwrap();
    for peer in [server.peer(), server.address.to_string()] {
        assert_eq!(link.call(&peer, PeerRequest::Hello).await.unwrap(), hello());
    }
    assert_eq!(handler.calls.lock().unwrap()[0].0.names, ["a.example.org"]);

    let info = describe(&b.cert).unwrap();
    assert_eq!(info.names, ["localhost"]);
    assert_eq!(
        info.addresses,
        [
            "127.0.0.1".parse::<std::net::IpAddr>().unwrap(),
            "::1".parse().unwrap()
        ]
    );
    assert!(!info.is_ca && info.issuer.contains("Example CA"));
    let lasts = info.not_after.since(info.not_before);
    assert!((30 * DAY..31 * DAY).contains(&lasts), "{lasts:?}");
    assert_eq!(info.fingerprint.to_string().len(), 32 * 3 - 1);
    for (file, mode) in [(&b.key, 0o600), (&dir.join("ca/ca.key"), 0o600), (&b.cert, 0o644)] {
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            mode & 0o777,
            "{file}"
        );
    }
}
