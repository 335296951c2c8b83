//! What a guest that breaks out of its machine finds: a process without rights, whose user owns nothing. The break-out itself is
//! played: whatever is tried here is tried as that user, with that process's groups.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Host, Setup, VM, World, qemu_with, run};

/// A line of a process's status, as the kernel has it.
fn status(pid: u32, key: &str) -> Vec<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    let words = line.unwrap_or_else(|| panic!("no {key} in {status}"));
    words.split_ascii_whitespace().map(ToOwned::to_owned).collect()
}

/// A guest's process, as whoever has taken it over.
struct Intruder {
    pid: u32,
    uid: String,
    groups: String,
}

impl Intruder {
    fn of(pid: u32) -> Self {
        Self {
            pid,
            uid: status(pid, "Uid:")[0].clone(),
            groups: status(pid, "Groups:").join(","),
        }
    }

    fn can(&self, program: &str, args: &[&str]) -> bool {
        let (uid, groups) = (&self.uid, &self.groups);
        let out = Command::new("setpriv")
            .args(["--reuid", uid, "--regid", uid, "--groups", groups])
            .args([
                "--no-new-privs",
                "--inh-caps=-all",
                "--bounding-set=-all",
                "--",
                program,
            ])
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!said.contains("setpriv"), "{said}");
        out.status.success()
    }

    fn can_read(&self, path: &Path) -> bool {
        self.can("head", &["-c", "1", path.to_str().unwrap()])
    }
}

/// Files of a host that hold something: images, state, keys, logs.
fn files_of(host: &Host) -> Vec<PathBuf> {
    let all = run("find", &[host.dir.to_str().unwrap(), "-type", "f"]);
    all.lines().map(PathBuf::from).collect()
}

fn has_no_rights(pid: u32) {
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(status(pid, set), ["0000000000000000"], "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs:"), ["1"]);
    assert_eq!(status(pid, "Seccomp:"), ["2"]);
    let ids: BTreeSet<_> = status(pid, "Uid:")
        .into_iter()
        .chain(status(pid, "Gid:"))
        .collect();
    assert_eq!(ids.len(), 1, "one user, and its group: {ids:?}");
    let id: u32 = ids.first().unwrap().parse().unwrap();
    assert!((1_900_000_001..=1_900_065_535).contains(&id), "{id}");
}

#[test]
fn guest_a_process_that_was_broken_into_reaches_nothing() {
    let mut world = World::new(&Setup {
        empty_mib: Some(8),
        ..Setup::default()
    });
    world.start();
    // Where an administrator keeps images.
    run("chmod", &["700", world.a.dir.join("disks").to_str().unwrap()]);
    world.a.ok(&["vm", "start", VM]);
    world.replicate(&["--interval", "1s"]);
    world.arrived();
    let b = &world.b;
    b.ok(&["failover", "start", VM, "--test", "--start"]);
    let tested = b.json(&["vm", "list"]);
    let test = tested
        .as_array()
        .unwrap()
        .iter()
        .find(|vm| vm["spec"]["name"] == format!("{VM} - Test"));
    let test = test.unwrap()["spec"]["uuid"].as_str().unwrap();
    let of_a = world.qemu_pid(&world.a).unwrap();
    let of_b = qemu_with(&b.dir.join("run").join(test)).unwrap();
    let intruders = [of_a, of_b].map(|pid| {
        has_no_rights(pid);
        Intruder::of(pid)
    });
    assert_ne!(intruders[0].uid, intruders[1].uid, "each guest has its own user");
    for (intruder, host) in intruders.iter().zip([&world.a, b]) {
        let running = host.dir.join("state/running");
        let own = running.join(if intruder.pid == of_a { &world.uuid } else { test });
        assert!(
            intruder.can_read(&own.join("pid")),
            "its own file, so the way is open"
        );
        assert!(!intruder.can("ls", &[running.to_str().unwrap()]), "who else runs");
        let files: Vec<_> = files_of(&world.a).into_iter().chain(files_of(b)).collect();
        let catalog = |file: &PathBuf| file.ends_with("catalog.sqlite");
        assert!(files.len() > 30 && files.iter().any(catalog), "{files:?}");
        let read: Vec<_> = files
            .iter()
            .filter(|file| !file.starts_with(&own) && intruder.can_read(file))
            .collect();
        // What this test, and no host, keeps for everybody: its configuration, certificates and captured output.
        let public = |file: &PathBuf| {
            let name = file.file_name().unwrap().to_str().unwrap();
            name.ends_with(".crt") || name.ends_with(".toml") || name == "daemon.log"
        };
        assert!(read.iter().all(|file| public(file)), "{read:#?}");
        for socket in ["qmp.sock", "console.sock", "nbd.sock"] {
            let socket = host.dir.join("run").join(&world.uuid).join(socket);
            assert!(
                !intruder.can("test", &["-w", socket.to_str().unwrap()]),
                "{socket:?}"
            );
        }
        for other in [world.a.daemon(), b.daemon(), of_a, of_b] {
            let reached = intruder.can("kill", &["-0", &other.to_string()]);
            assert_eq!(reached, other == intruder.pid, "process {other}");
        }
    }
    b.ok(&["failover", "stop-test", VM]);
}

/// The capabilities in docs/security.md.
const DAEMON: u64 = 0x28_15eb;

#[test]
fn a_daemon_keeps_the_capabilities_that_it_needs() {
    let mut world = World::new(&Setup {
        empty_mib: Some(8),
        ..Setup::default()
    });
    world.start();
    let pid = world.a.daemon();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        let held = u64::from_str_radix(&status(pid, set)[0], 16).unwrap();
        assert_eq!(held & !DAEMON, 0, "{set} {held:x}");
    }
    assert_ne!(status(pid, "CapEff:"), ["0000000000000000"], "it is root's");
}
