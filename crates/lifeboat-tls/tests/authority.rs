//! The own CA: it never overwrites, and refuses what cannot be certified.

#![allow(clippy::unwrap_used, reason = "test support")]

use std::time::Duration;

use camino::Utf8PathBuf;
use lifeboat_tls::CertError;
use lifeboat_tls::authority::{init_ca, issue};

const DAY: Duration = Duration::from_secs(86_400);

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
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
