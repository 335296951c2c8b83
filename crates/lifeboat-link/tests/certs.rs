//! Certificates of the own CA: good for the link, never overwriting, saying clearly what they are.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use common::{DAY, Handler, hello, start};
use lifeboat_engine::ports::link::{PeerLink, PeerRequest};
use lifeboat_link::certs::{CertError, CertFiles, describe, init_ca, issue};
use lifeboat_link::{Link, LinkConfig};

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn config(files: &CertFiles) -> LinkConfig {
    LinkConfig {
        cert: files.cert.clone(),
        key: files.key.clone(),
        ca: files.ca.clone(),
    }
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
    let server = start(&config(&b), handler.clone()).await;
    let link = Link::new(&config(&a)).unwrap();
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

#[test]
fn nothing_is_overwritten_and_nonsense_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::from_path_buf(temp.path().to_owned()).unwrap();
    let (ca, out) = (dir.join("ca"), dir.join("out"));
    let try_issue = |list: &[&str], days: u32| issue(&ca, &names(list), &out, days * DAY);
    assert!(matches!(try_issue(&["a"], 1), Err(CertError::NoCa(_))));
    init_ca(&ca, "one", None).unwrap();
    assert!(matches!(init_ca(&ca, "two", None), Err(CertError::Exists(_))));
    for bad in ["", "*.example.org", "a b", "a/../b", "ä"] {
        assert!(
            matches!(try_issue(&["a", bad], 1), Err(CertError::Name(_))),
            "{bad}"
        );
    }
    assert!(matches!(try_issue(&["10.0.0.1"], 1), Err(CertError::NoDnsName)));
    assert!(matches!(try_issue(&[], 1), Err(CertError::NoDnsName)));
    assert!(matches!(try_issue(&["a"], 0), Err(CertError::Validity)));
    assert!(!out.exists(), "a refusal leaves nothing behind");
    let files = try_issue(&["a"], 1).unwrap();
    let before = std::fs::read(&files.key).unwrap();
    assert!(matches!(try_issue(&["a"], 1), Err(CertError::Exists(_))));
    assert_eq!(std::fs::read(&files.key).unwrap(), before);

    init_ca(&dir.join("other"), "one", None).unwrap();
    std::fs::copy(dir.join("other/ca.key"), ca.join("ca.key")).unwrap();
    let e = issue(&ca, &names(&["a"]), &dir.join("x"), Duration::from_secs(7200)).unwrap_err();
    assert!(e.to_string().contains("is not its key"), "{e}");
}
