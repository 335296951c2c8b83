//! The guest image and the workload together, on a real QEMU: records are written under load, QEMU is killed as a
//! power cut would, and what was acknowledged must be found, from outside and by the guest's own next boot.
//! Replication has no part in this; it shows that a fault found elsewhere is not the test equipment's.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use lifeboat_workload::Mode;
use lifeboat_workload::args::Place;
use lifeboat_workload::verify::{self, Verdict};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Far above what a loaded machine without KVM needs; reaching it means that nothing will come.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where the pair stream lies in the bare area of the data disk, behind the scatter ring.
const PAIR_OFFSET: u64 = 64 << 20;

const WRITERS: &str = "\
lifeboat-workload append /data/records.log --ack-ms 50 >/dev/console 2>&1 &
lifeboat-workload scatter /dev/lifeboat/data-area --ack-ms 50 >/dev/console 2>&1 &
lifeboat-workload pair /dev/lifeboat/sys-area /dev/lifeboat/data-area --offset 0,67108864 --ack-ms 50 \
>/dev/console 2>&1 &
";

#[test]
fn guest_workload_survives_power_cut() {
    let dir = TempDir::new().unwrap();
    let image = guest_image();
    for disk in ["sys.qcow2", "data.qcow2"] {
        std::fs::copy(image.join(disk), dir.path().join(disk)).unwrap();
    }

    let mut guest = Guest::start(dir.path());
    guest.wait_for("LIFEBOAT boot 1");
    guest.wait_for("LIFEBOAT ready");
    guest.shell("echo 'lifeboat-workload append /data/records.log --count 5' >/data/autostart; sync");
    guest.shell(WRITERS);
    let mut acked = BTreeMap::new();
    while acked.len() < 3 || acked.values().any(|seq| *seq < 150) {
        note_ack(&guest.next_line(), &mut acked);
    }
    for line in guest.cut_power() {
        note_ack(&line, &mut acked);
    }
    println!("acknowledged before the cut: {acked:?}");

    let layout: Value = serde_json::from_slice(&std::fs::read(image.join("guest.json")).unwrap()).unwrap();
    let [sys, data] = ["sys", "data"].map(|disk| as_raw(dir.path(), disk));
    let [sys_area, data_area] =
        ["sys_area", "data_area"].map(|area| layout[area]["offset"].as_u64().unwrap());
    let place = |mode, path: &Path, path_b: &Path, offsets| Place {
        mode,
        path: path.into(),
        path_b: path_b.into(),
        offsets,
        slots: 1024,
        run: 1,
    };
    for place in [
        place(Mode::Scatter, &data, &data, [data_area; 2]),
        place(Mode::Pair, &sys, &data, [sys_area, data_area + PAIR_OFFSET]),
    ] {
        let report = verify::run(&place, true);
        assert_eq!(report.verdict, Verdict::Ok, "{report}");
        assert!(
            report.high.unwrap() >= acked[&place.mode.to_string()],
            "acknowledged and lost: {report}"
        );
    }

    let guest = Guest::start(dir.path());
    guest.wait_for("LIFEBOAT boot 2");
    let verdict = guest.wait_for("LIFEBOAT verify-append ");
    assert!(verdict.contains("RESULT OK mode=append "), "{verdict}");
    let high = verdict
        .split_once(" high=")
        .unwrap()
        .1
        .split(' ')
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap();
    assert!(high >= acked["append"], "acknowledged and lost: {verdict}");
    let resumed = guest.wait_for("START append ");
    assert_eq!(resumed, format!("START append {}", high + 1));
    guest.wait_for(&format!("ACK append {} ", high + 5));
}

/// The directory `make-guest.sh` filled.
fn guest_image() -> PathBuf {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest-image");
    assert!(
        image.join("guest.json").exists(),
        "there is no test guest; run 'make guest'"
    );
    image.canonicalize().unwrap()
}

/// Remembers the highest acknowledged record of each stream.
fn note_ack(line: &str, acked: &mut BTreeMap<String, u64>) {
    let mut words = line.split_whitespace();
    // A line cut short by the power cut has no wall clock, and perhaps not all digits of its number.
    if let (Some("ACK"), Some(mode), Some(seq), Some(_)) =
        (words.next(), words.next(), words.next(), words.next())
    {
        acked.insert(mode.into(), seq.parse().unwrap());
    }
}

fn as_raw(dir: &Path, disk: &str) -> PathBuf {
    let raw = dir.join(format!("{disk}.raw"));
    let converted = Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(dir.join(format!("{disk}.qcow2")))
        .arg(&raw)
        .status()
        .expect("qemu-img cannot be run; 'make setup' installs it");
    assert!(converted.success());
    raw
}

/// A running QEMU, killed when it goes out of scope.
struct Guest {
    qemu: Child,
    lines: Receiver<String>,
    agent: PathBuf,
}

impl Guest {
    fn start(dir: &Path) -> Self {
        let agent = dir.join("agent.sock");
        let drive = |disk: &str| {
            format!(
                "file={},format=qcow2,if=virtio",
                dir.join(format!("{disk}.qcow2")).display()
            )
        };
        let mut qemu = Command::new("qemu-system-x86_64")
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-accel",
                "tcg",
                "-m",
                "256",
            ])
            .args([
                "-drive",
                &drive("sys"),
                "-drive",
                &drive("data"),
                "-serial",
                "stdio",
            ])
            .args(["-device", "virtio-serial-pci", "-chardev"])
            .arg(format!(
                "socket,id=agent,server=on,wait=off,path={}",
                agent.display()
            ))
            .args([
                "-device",
                "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86_64 cannot be run; 'make setup' installs it");
        let mut serial = BufReader::new(qemu.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while serial.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                if sender
                    .send(String::from_utf8_lossy(&line).trim_end().to_owned())
                    .is_err()
                {
                    break;
                }
                line.clear();
            }
        });
        Self { qemu, lines, agent }
    }

    /// The next line on the serial console; the test's output keeps a copy.
    fn next_line(&self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                println!("guest: {line}");
                line
            }
            Err(RecvTimeoutError::Timeout) => panic!("the guest said nothing for {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("QEMU ended"),
        }
    }

    /// The next line that begins with `start`.
    fn wait_for(&self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let line = self.next_line();
            if line.starts_with(start) {
                return line;
            }
        }
        panic!("no line '{start}...' from the guest in {PATIENCE:?}");
    }

    /// Runs a shell command in the guest and waits until the agent has started it.
    fn shell(&self, command: &str) {
        let mut agent = UnixStream::connect(&self.agent).unwrap();
        agent.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = json!({
            "execute": "guest-exec",
            "arguments": { "path": "/bin/sh", "arg": ["-c", command] },
        });
        writeln!(agent, "{request}").unwrap();
        let mut answer = String::new();
        BufReader::new(agent).read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["return"]["pid"].is_number(), "{answer}");
    }

    /// SIGKILL, as sudden as a pulled plug. Returns what the guest had said until then.
    fn cut_power(&mut self) -> Vec<String> {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
        self.lines.iter().collect()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Already ended and waited for is fine.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
