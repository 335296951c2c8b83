//! `lifeboat user` as a person runs it: the real command on a file of its own. What the servers make of the file is tested
//! with them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

struct Place {
    dir: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn users(&self) -> String {
        self.dir.path().join("users.toml").to_str().unwrap().to_owned()
    }

    fn run(&self, words: &[&str], input: &str) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lifeboat"))
            .args(words)
            .args(["--users", &self.users()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn done(&self, words: &[&str], input: &str) -> String {
        let ran = self.run(words, input);
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
        ran.out
    }

    fn refused(&self, words: &[&str], input: &str, code: i32, why: &str) {
        let ran = self.run(words, input);
        assert!(
            ran.code == code && ran.err.contains(why),
            "{words:?}: {} {}",
            ran.code,
            ran.err
        );
    }
}

#[test]
fn users_and_certificates_come_are_listed_and_go() {
    let p = Place::new();
    p.refused(&["user", "list"], "", 4, "lifeboat user add");
    p.done(
        &["user", "add", "ada", "--role", "administrator"],
        "correct horse\n",
    );
    p.done(&["user", "add", "bob", "--role", "tester"], "battery staple");
    let sha = "AB:".repeat(31) + "CD";
    p.done(&["user", "add-certificate", &sha, "--role", "operator"], "");
    p.done(
        &["user", "add-certificate", "mgmt.example.org", "--role", "monitor"],
        "",
    );
    let table = p.done(&["user", "list"], "");
    let words: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    let plain = "ab".repeat(31) + "cd";
    assert_eq!(
        words,
        [
            vec!["NAME", "LOGS", "IN", "BY", "ROLE"],
            vec!["ada", "password", "administrator"],
            vec!["bob", "password", "tester"],
            vec![&plain, "certificate", "operator"],
            vec!["mgmt.example.org", "certificate", "monitor"],
        ]
    );
    let json: serde_json::Value =
        serde_json::from_str(&p.done(&["user", "list", "--output", "json"], "")).unwrap();
    assert_eq!(
        json,
        serde_json::json!([
            {"user": "ada", "role": "administrator"},
            {"user": "bob", "role": "tester"},
            {"fingerprint": plain, "role": "operator"},
            {"certificate": "mgmt.example.org", "role": "monitor"},
        ])
    );
    let text = std::fs::read_to_string(p.users()).unwrap();
    assert!(!text.contains("horse") && !text.contains("staple") && text.contains("$argon2id$"));
    let mode = std::fs::metadata(p.users()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    p.refused(
        &["user", "add", "ada", "--role", "viewer"],
        "another password\n",
        1,
        "user \"ada\" already",
    );
    p.done(&["user", "remove", "ada"], "");
    p.done(&["user", "remove", &sha], "");
    p.refused(&["user", "remove", "ada"], "", 4, "lifeboat user list");
    assert_eq!(p.done(&["user", "list"], "").lines().count(), 3);
}

#[test]
fn mistakes_are_named_and_change_nothing() {
    let p = Place::new();
    p.refused(
        &["user", "add", "ada", "--role", "viewer"],
        "short\n",
        1,
        "a password has 8 to 1024 bytes",
    );
    p.refused(
        &["user", "add", "ada", "--role", "viewer"],
        "",
        1,
        "a password has",
    );
    p.refused(
        &["user", "add", "a b", "--role", "viewer"],
        "correct horse\n",
        1,
        "a user's name has",
    );
    p.refused(
        &["user", "add", "ada", "--role", "king"],
        "correct horse\n",
        2,
        "king",
    );
    p.refused(&["user", "add", "ada"], "correct horse\n", 2, "--role");
    p.refused(
        &["user", "add-certificate", "ab:cd", "--role", "viewer"],
        "",
        1,
        "SHA-256 fingerprint",
    );
    assert!(!std::path::Path::new(&p.users()).exists());
    std::fs::write(p.users(), "[[user]]\nname = \"ada\"\n").unwrap();
    std::fs::set_permissions(p.users(), std::fs::Permissions::from_mode(0o600)).unwrap();
    p.refused(
        &["user", "add", "bob", "--role", "viewer"],
        "correct horse\n",
        1,
        "line 1: missing field",
    );
    std::fs::set_permissions(p.users(), std::fs::Permissions::from_mode(0o644)).unwrap();
    p.refused(&["user", "list"], "", 1, "chmod 600");
}

#[test]
fn the_file_is_where_the_configuration_says() {
    let p = Place::new();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lifeboat.toml");
    let sample = std::fs::read_to_string(sample).unwrap();
    let own = format!("[management]\nusers = \"{}\"\n", p.users());
    let config = p.dir.path().join("lifeboat.toml");
    std::fs::write(&config, sample.replacen("# [management]\n", &own, 1)).unwrap();
    p.done(&["user", "add", "ada", "--role", "viewer"], "correct horse\n");
    let listed = Command::new(env!("CARGO_BIN_EXE_lifeboat"))
        .args(["user", "list", "--config", config.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains("ada"));
    let nowhere = Command::new(env!("CARGO_BIN_EXE_lifeboat"))
        .args(["user", "list", "--config", "/nowhere/lifeboat.toml"])
        .output()
        .unwrap();
    let text = String::from_utf8(nowhere.stderr).unwrap();
    assert!(
        !nowhere.status.success() && text.contains("hint: name the file of users with --users"),
        "{text}"
    );
}
