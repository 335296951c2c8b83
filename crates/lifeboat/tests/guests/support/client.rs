//! Clients of the management API for the tests: hosts that serve it, with users and certificates, and the scripts of
//! `tests/clients` run against them. What the scripts say is right is their business; what a guest holds is the caller's.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::json;

use super::{Setup, World, binary, free_port, run};

const PASSWORD: &str = "correct-horse";

/// A world whose two first hosts serve the management API. Nothing is started.
pub struct Managed {
    pub world: World,
    facts: serde_json::Value,
}

/// A client's script while it runs. Ends with its owner.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

fn python() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/bin/python");
    assert!(
        program.exists(),
        "the Python environment is missing: run 'make setup'"
    );
    program
}

impl Managed {
    pub fn new(setup: &Setup) -> Self {
        let world = World::new(setup);
        let users = world.dir.path().join("users.toml");
        for role in ["viewer", "operator", "administrator"] {
            add_user(&users, role);
        }
        let client = client_certificate(&world, &users);
        let mut ports = Vec::new();
        for host in [&world.a, &world.b] {
            let (wsman, cimxml) = (free_port(), free_port());
            host.configure(&format!(
                "[management]\nwsman = \"127.0.0.1:{wsman}\"\ncimxml = \"127.0.0.1:{cimxml}\"\nusers = \"{}\"\n\n[media]\ndirectories = [\"/nowhere\"]\n",
                users.display()
            ));
            ports.push(json!({"wsman": wsman, "cimxml": cimxml}));
        }
        let user = |role: &str| json!([role, PASSWORD]);
        let facts = json!({
            "vm": world.uuid,
            "alpha": ports[0],
            "beta": ports[1],
            "to_beta": ["127.0.0.1", world.proxy.port],
            "to_alpha": ["127.0.0.1", world.way_back.port],
            "ca": world.a.dir.join("tls/ca.crt"),
            "users": {
                "viewer": user("viewer"),
                "operator": user("operator"),
                "administrator": user("administrator"),
            },
            "certificate": client,
            // Where both hosts take replicas in the examples of the page.
            "replicas": world.dir.path().join("replicas"),
            "replicas_a": world.a.dir.join("replicas"),
            "replicas_b": world.b.dir.join("replicas"),
            "interval": 1,
            "checks": true,
        });
        Self { world, facts }
    }

    fn facts_file(&self) -> PathBuf {
        let path = self.world.dir.path().join("facts.json");
        std::fs::write(&path, self.facts.to_string()).unwrap();
        path
    }

    /// Plays a story to its end. Wherever it stops for a check, `check` is called with the check's name.
    pub fn play(&mut self, script: &str, check: &mut dyn FnMut(&mut Self, &str)) {
        let mut child = Script(
            self.script(script)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut go: ChildStdin = child.0.stdin.take().unwrap();
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        for line in lines {
            let line = line.unwrap();
            println!("{line}");
            if let Some(name) = line.strip_prefix("CHECK ") {
                check(self, name);
                writeln!(go, "go").unwrap();
            }
        }
        let status = child.0.wait().unwrap();
        assert!(
            status.success(),
            "{script} ended with {status}\nlog of alpha:\n{}\nlog of beta:\n{}",
            last_lines(&self.world.a.log()),
            last_lines(&self.world.b.log())
        );
        for host in [&self.world.a, &self.world.b] {
            assert!(!host.log().contains("panicked"), "{}: {}", host.name, host.log());
        }
    }

    /// Runs a script that needs no checks.
    pub fn run_script(&self, script: &str) {
        let status = self.script(script).stdin(Stdio::null()).status().unwrap();
        assert!(status.success(), "{script} ended with {status}");
    }

    fn script(&self, script: &str) -> Command {
        // A script that hangs is the server's fault as well: it ends, and the test with it.
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", "600"])
            .arg(python())
            .arg("-B")
            .arg(clients().join(script))
            .arg(self.facts_file());
        // Whoever runs the tests may have told all Python programs of a proxy or of other authorities.
        for name in [
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// `wbemcli`, a client in C with a strict parser, on alpha.
    pub fn wbemcli(&self, operation: &str, path: &str, more: &[&str]) -> String {
        let ca = self.facts["ca"].as_str().unwrap();
        let port = &self.facts["alpha"]["cimxml"];
        let url = format!("https://administrator:{PASSWORD}@127.0.0.1:{port}/root/virtualization/v2:{path}");
        let mut args = vec!["-cacert", ca, operation, url.as_str()];
        args.extend_from_slice(more);
        run("wbemcli", &args)
    }
}

fn add_user(users: &Path, role: &str) {
    let mut child = Command::new(binary())
        .args([
            "user",
            "add",
            role,
            "--role",
            role,
            "--users",
            users.to_str().unwrap(),
        ])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{PASSWORD}").unwrap();
    assert!(child.wait().unwrap().success(), "user {role} cannot be added");
}

/// A certificate that lets its owner in as an administrator.
fn client_certificate(world: &World, users: &Path) -> serde_json::Value {
    let (ca, out) = (world.dir.path().join("ca"), world.dir.path().join("client"));
    std::fs::create_dir(&out).unwrap();
    let (ca, dir) = (ca.to_str().unwrap(), out.to_str().unwrap());
    let name = "console.test";
    run(
        &binary(),
        &["cert", "issue", "--ca", ca, "--host", name, "--out", dir],
    );
    let users = users.to_str().unwrap();
    let args = [
        "user",
        "add-certificate",
        name,
        "--role",
        "administrator",
        "--users",
        users,
    ];
    run(&binary(), &args);
    let mode = std::fs::metadata(out.join("host.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o004, 0, "nobody else reads a key");
    json!([out.join("host.crt"), out.join("host.key")])
}
