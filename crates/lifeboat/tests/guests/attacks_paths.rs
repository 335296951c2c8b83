//! No path of a peer is ever opened, nor looked at: every system call of a daemon and of its guests that names a file is recorded
//! (`strace`) through a whole lifecycle, while the peer puts paths into every text that it can send.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::hostile::Hostile;
use crate::support::{Setup, VM, World, wait_until};

/// Part of every path that the hostile peer names.
const TRAP: &str = "trap-of-a-peer";

/// System calls that named this path, or one below it.
fn naming(trace: &Path, path: &str) -> Vec<String> {
    let text = std::fs::read(trace).unwrap();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter(|line| line.contains(path));
    lines.map(ToOwned::to_owned).collect()
}

/// The VM as its primary describes it when it wants this host to open something.
fn described(uuid: &str, name: &str, code: &str) -> Value {
    let path = format!("/{TRAP}/disk");
    let disk = |id: &str, path: &str| {
        json!({
            "id": id, "path": path, "format": "raw", "bus": "virtio",
            "allow": {"backing_in": [format!("/{TRAP}")], "raw_header": true},
        })
    };
    json!({
        "name": name, "uuid": uuid, "memory_mib": 192, "cpus": 1, "machine": "q35", "cpu": "qemu64",
        "firmware": {"type": "uefi", "code": code, "vars": format!("/{TRAP}/vars.fd")},
        "disk": [disk("sys", &path), disk("data", &format!("../../{TRAP}/data"))],
        "nic": [{"mac": "52:54:00:4c:42:01", "backend": {"type": "tap", "ifname": TRAP}}],
    })
}

/// Every request there is, with a path in each text of it.
fn requests(world: &World, settings: &Value) -> Vec<Value> {
    let other = "77777777-7777-4777-8777-777777777777";
    let path = format!("../../../{TRAP}");
    let at = json!({"generation": other, "sequence": 1});
    let offer = |content: Value, id: &str| {
        json!({
            "request": "offer", "vm": described(other, &path, &path), "settings": settings,
            "disks": [{"id": id, "size": 8 << 20}], "start": at, "from": format!("/{TRAP}:1"),
            "content": content, "firmware": path,
        })
    };
    let range = json!({"disk": 0, "offset": 0, "len": 65_536, "block": 65_536, "digests": path});
    let mut all = vec![
        json!({"request": "hello", "path": path}),
        json!({"request": "read-disk", "vm": world.uuid, "ranges": [{"disk": path, "offset": 0, "len": 512}]}),
        json!({"request": "restart-bulk", "vm": world.uuid, "disk": path}),
        json!({"request": "compare", "vm": world.uuid, "disk": path, "ranges": [range]}),
        json!({"request": "differences", "vm": world.uuid, "disk": path, "from": 0}),
    ];
    for kind in ["empty", "media", "seed", "extended"] {
        for id in [path.as_str(), "sys"] {
            all.push(offer(json!({"content": kind, "dir": path}), id));
        }
    }
    for request in [
        "standing",
        "prepare",
        "stand-down",
        "status",
        "finish-bulk",
        "take-over",
        "compare-again",
    ] {
        for vm in [path.as_str(), world.uuid.as_str()] {
            // What is no request at all is refused as well, and named in no file.
            all.push(json!({
                "request": request, "vm": vm, "force": path, "start": path, "at": path, "instant": path,
                "consistency": path, "report": path,
            }));
        }
    }
    all
}

#[test]
fn guest_no_path_of_a_peer_is_looked_at_through_a_whole_lifecycle() {
    let mut world = World::new(&Setup {
        empty_mib: Some(8),
        ..Setup::default()
    });
    world.start();
    world.allow_return();
    world.b.kill9();
    let trace: PathBuf = world.dir.path().join("trace");
    world.b.start_traced(&trace);
    world.replicate(&["--interval", "1s"]);
    world.arrived();
    let settings = world.b.replication()["settings"].clone();
    world.a.kill9();
    let peer = Hostile::with_certificate_of(&world.a, world.b.port);
    for document in requests(&world, &settings) {
        let said = peer.call(&document);
        assert!(
            said["reply"].is_string() || said["error"].is_string(),
            "{document}: {said}"
        );
    }
    for code in [
        format!("/{TRAP}/code.fd"),
        format!("../{TRAP}"),
        "OVMF_CODE_4M.fd".to_owned(),
    ] {
        let update = json!({
            "request": "update", "vm": described(&world.uuid, VM, &code), "settings": settings, "firmware": "",
        });
        let said = peer.call(&update);
        assert_eq!(said["reply"], "checked", "{code}: {said}");
    }
    // The last description is one that starts, with firmware of this host's list.
    let b = &world.b;
    b.ok(&["failover", "start", VM, "--test", "--start"]);
    b.ok(&["failover", "stop-test", VM]);
    b.ok(&["failover", "start", VM]);
    b.ok(&["failover", "revert", VM, "--force"]);
    b.ok(&["failover", "start", VM]);
    b.ok(&["failover", "commit", VM]);
    world.a.start();
    world.b.ok(&["replication", "reverse", VM]);
    wait_until("the roles are swapped", Duration::from_secs(120), || {
        (world.b.state() == "Replicating" && world.a.state() == "Replicating").then_some(())
    });
    world.b.ok(&["vm", "stop", VM, "--force"]);
    world.b.ok(&["replication", "remove", VM]);
    world.b.terminate();
    // The record is one: it has what the daemon and its guest did open.
    let replica = world.b.dir.join("replicas");
    assert!(!naming(&trace, replica.to_str().unwrap()).is_empty());
    assert!(!naming(&trace, "execve(\"/usr/bin/qemu-system-x86_64\"").is_empty());
    assert!(!naming(&trace, "OVMF_CODE_4M.fd").is_empty());
    let touched = naming(&trace, TRAP);
    assert!(touched.is_empty(), "{touched:#?}");
    // Nor what an honest peer has: the description of the VM on A names files that exist.
    let of_a = format!("{}/", world.a.dir.display());
    let touched = naming(&trace, &of_a);
    assert!(touched.is_empty(), "{touched:#?}");
}
