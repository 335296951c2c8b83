//! What an authorized peer may not do to the replica's host. The peer is hostile: it has a good certificate and an entry, and
//! says what the product never would.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use serde_json::{Value, json};

use crate::support::hostile::Hostile;
use crate::support::{Setup, VM, World, run};

/// Files that nobody may open, and who tells of it.
struct Watched {
    inotify: OwnedFd,
    files: Vec<PathBuf>,
}

impl Watched {
    fn new(files: Vec<PathBuf>) -> Self {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let inotify = inotify::init(flags).unwrap();
        for file in &files {
            inotify::add_watch(&inotify, file, inotify::WatchFlags::OPEN).unwrap();
        }
        Self { inotify, files }
    }

    fn nobody_opened(&self, after: &str) {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let opened = inotify::Reader::new(&self.inotify, &mut buffer).next().is_ok();
        assert!(!opened, "{after}: one of {:?} was opened", self.files);
    }

    fn path(&self, n: usize) -> &str {
        self.files[n].to_str().unwrap()
    }
}

/// Another tenant's file, a device that blocks whoever opens it, and a disk.
fn victims(dir: &Path) -> Watched {
    let files: Vec<_> = ["secret", "fifo", "disk"].map(|name| dir.join(name)).into();
    for file in [&files[0], &files[2]] {
        std::fs::write(file, vec![b'S'; 1 << 20]).unwrap();
    }
    run("mkfifo", &[files[1].to_str().unwrap()]);
    Watched::new(files)
}

/// The VM as a hostile primary describes it.
fn described(world: &World, code: &str, watched: &Watched) -> Value {
    let disk = |id: &str, path: &str| {
        json!({
            "id": id, "path": path, "format": "raw", "bus": "virtio",
            "allow": {"backing_in": ["/"], "raw_header": true},
        })
    };
    json!({
        "name": VM, "uuid": world.uuid, "memory_mib": 192, "cpus": 1, "machine": "q35", "cpu": "qemu64",
        "firmware": {"type": "uefi", "code": code, "vars": watched.path(0)},
        "disk": [disk("sys", watched.path(2)), disk("data", watched.path(0))],
        "nic": [{"mac": "52:54:00:4c:42:01", "backend": {"type": "tap", "ifname": "lo"}}],
    })
}

/// Hosts whose VM has empty disks and no system.
fn hosts() -> World {
    let mut world = World::new(&Setup {
        empty_mib: Some(8),
        ..Setup::default()
    });
    world.start();
    world
}

/// A replica on B whose primary is hostile from now on.
fn hostile_primary() -> (World, Hostile) {
    let mut world = hosts();
    world.replicate(&["--interval", "1s"]);
    world.a.kill9();
    let peer = Hostile::with_certificate_of(&world.a, world.b.port);
    (world, peer)
}

#[test]
fn guest_no_file_that_a_peer_names_is_opened() {
    let (world, peer) = hostile_primary();
    let watched = victims(world.dir.path());
    let settings = world.b.replication()["settings"].clone();
    let listed = "/nowhere/OVMF_CODE_4M.fd";
    for code in [watched.path(1), watched.path(0), "/", "../fifo", listed] {
        let document = json!({
            "request": "update", "vm": described(&world, code, &watched), "settings": settings, "firmware": "",
        });
        let said = peer.call(&document);
        world.b.ok(&["server", "show"]);
        watched.nobody_opened(&format!("told of {code}: {said}"));
        let shown = world.b.json(&["vm", "show", VM]);
        assert!(
            !shown
                .to_string()
                .contains(world.dir.path().join("secret").to_str().unwrap()),
            "{code}: {shown}"
        );
        assert!(
            !said.to_string().contains(world.b.dir.to_str().unwrap()),
            "{said}"
        );
    }
    // The last one is firmware of this host's list: the VM starts, with variables of its own.
    world.b.ok(&["failover", "start", VM, "--test", "--start"]);
    watched.nobody_opened("a test failover");
    world.b.ok(&["failover", "stop-test", VM]);
    world.b.ok(&["failover", "start", VM]);
    let pid = world.qemu_pid(&world.b).unwrap();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let line = String::from_utf8_lossy(&line).into_owned();
    for file in &watched.files {
        assert!(!line.contains(file.to_str().unwrap()), "{line}");
    }
    assert!(
        line.contains("/usr/share/OVMF/OVMF_CODE_4M.fd") && line.contains("firmware.fd"),
        "{line}"
    );
    world.b.ok(&["failover", "revert", VM, "--force"]);
    world.b.ok(&["failover", "start", VM]);
    world.b.ok(&["failover", "commit", VM]);
    watched.nobody_opened("a failover, reverted, done again and committed");
    for file in [0, 2] {
        assert_eq!(std::fs::read(&watched.files[file]).unwrap(), vec![b'S'; 1 << 20]);
    }
}

#[test]
fn a_comparison_costs_its_host_little() {
    let (world, peer) = hostile_primary();
    let range =
        |len: u64, block: u32| json!({"disk": 0, "offset": 0, "len": len, "block": block, "digests": ""});
    for disk in ["sys", "none-of-this-vm"] {
        // Hours of hashing in a document of a few MiB.
        for (count, len, block) in [
            (50_000, 0, 1 << 20),
            (50_000, 1 << 20, 1 << 20),
            (500, 0, 1 << 20),
        ] {
            let ranges = vec![range(len, block); count];
            let document = json!({"request": "compare", "vm": world.uuid, "disk": disk, "ranges": ranges});
            let said = peer.call(&document);
            assert_eq!(said["reply"], "refused", "{disk} {count} {len}: {said}");
        }
    }
    world.b.ok(&["server", "show"]);
}

/// What a host with an entry of its own asks of a VM that two others replicate.
fn of_others(world: &World, offer: &Value) -> Vec<Value> {
    let vm = &world.uuid;
    let at = &offer["start"];
    let mut all: Vec<_> = [
        json!({"request": "prepare", "force": true, "start": true}),
        json!({"request": "take-over", "at": at, "start": true}),
        json!({"request": "stand-down"}),
        json!({"request": "status", "report": "up-to-date"}),
        json!({"request": "restart-bulk", "disk": 0}),
        json!({"request": "finish-bulk", "instant": 1, "consistency": "crash"}),
        json!({"request": "log-offset", "position": at}),
        json!({"request": "compare", "disk": "sys", "ranges": []}),
        json!({"request": "differences", "disk": "sys", "from": 0}),
        json!({"request": "read-disk", "ranges": [{"disk": "sys", "offset": 0, "len": 65536}]}),
        json!({"request": "compare-again"}),
    ]
    .into();
    for document in &mut all {
        document["vm"] = json!(vm);
    }
    let update =
        json!({"request": "update", "vm": offer["vm"], "settings": offer["settings"], "firmware": ""});
    all.push(update);
    for content in [
        json!({"content": "empty"}),
        json!({"content": "seed"}),
        json!({"content": "media"}),
        json!({"content": "media", "sealing": {"export": vm, "key": format!("{}=", "A".repeat(43))}}),
        json!({"content": "extended"}),
        json!({"content": "reverse", "since": at, "planned": true}),
        json!({"content": "reverse", "since": at, "planned": false}),
    ] {
        let mut document = offer.clone();
        document["content"] = content;
        all.push(document);
    }
    all
}

#[test]
fn a_host_with_an_entry_gets_nothing_of_a_vm_that_others_replicate() {
    let mut world = hosts();
    world.allow_return();
    world.add_third();
    world.replicate(&["--interval", "1s"]);
    let location = |host: &str| world.dir.path().join(host).join("foreign").display().to_string();
    for (host, dir) in [(&world.a, "a"), (&world.b, "b")] {
        let entry = [
            "authorization",
            "add",
            "gamma.test",
            "--trust-group",
            "gamma",
            "--location",
        ];
        host.ok(&[&entry[..], &[location(dir).as_str()]].concat());
    }
    let replication = world.b.replication();
    let watched = victims(world.dir.path());
    let offer = json!({
        "request": "offer", "vm": described(&world, "OVMF_CODE_4M.fd", &watched), "settings": replication["settings"],
        "disks": [{"id": "sys", "size": 8 << 20}, {"id": "data", "size": 8 << 20}],
        "start": {"generation": world.uuid, "sequence": 1}, "from": "localhost:1", "firmware": "",
    });
    for host in [&world.a, &world.b] {
        let peer = Hostile::with_certificate_of(&world.third().host, host.port);
        let hello = peer.call(&json!({"request": "hello"}));
        assert_eq!(hello["reply"], "hello", "it has an entry: {hello}");
        for document in of_others(&world, &offer) {
            let said = peer.call(&document);
            let (what, name) = (&document["request"], host.name);
            assert_eq!(
                said["reply"], "refused",
                "{name} {what} {}: {said}",
                document["content"]
            );
        }
    }
    let (a, b) = (world.a.replication(), world.b.replication());
    assert_eq!(
        (&a["state"], &b["state"]),
        (&json!("Replicating"), &json!("Replicating"))
    );
    assert_eq!(b["settings"], replication["settings"]);
    world.arrived();
    watched.nobody_opened("everything was asked");
}

/// One entry does not fill the host: with VMs, with disks, with points, nor with what was refused.
#[test]
fn an_entry_gives_no_more_than_it_says() {
    let world = hosts();
    let watched = victims(world.dir.path());
    world.b.ok(&[
        "authorization",
        "add",
        "alpha.test",
        "--max-vms",
        "2",
        "--max-disk",
        "16MiB",
        "--max-points",
        "3",
    ]);
    let peer = Hostile::with_certificate_of(&world.a, world.b.port);
    let settings = json!({
        "peer": "127.0.0.1:1", "interval_s": 1, "history": 3, "point_spacing_s": 1, "any_point_window_s": 0,
        "disks": ["sys", "data"], "compression": false,
    });
    let offer = |n: u32| {
        let uuid = format!("77777777-7777-4777-8777-{n:012}");
        let mut vm = described(&world, "OVMF_CODE_4M.fd", &watched);
        (vm["uuid"], vm["name"]) = (json!(uuid), json!(format!("vm-{n}")));
        json!({
            "request": "offer", "vm": vm, "settings": settings,
            "disks": [{"id": "sys", "size": 8 << 20}, {"id": "data", "size": 16 << 20}],
            "start": {"generation": uuid, "sequence": 1}, "from": "127.0.0.1:1",
            "content": {"content": "empty"}, "firmware": "",
        })
    };
    for (place, value, why) in [
        ("/disks/1/size", json!((16 << 20) + 512), "a disk has"),
        ("/settings/history", json!(4), "recovery points"),
    ] {
        let mut document = offer(1);
        *document.pointer_mut(place).unwrap() = value;
        let said = peer.call(&document).to_string();
        assert!(said.contains(why) && said.contains("refused"), "{place}: {said}");
    }
    // From several connections at once two places are two.
    let said: Vec<String> = std::thread::scope(|all| {
        let asked: Vec<_> = (1..=8)
            .map(|n| {
                let (peer, offer) = (&peer, offer(n));
                all.spawn(move || peer.call(&offer).to_string())
            })
            .collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    });
    let taken = said.iter().filter(|s| s.contains("\"status\"")).count();
    let refused = said.iter().filter(|s| s.contains("VMs are replicated there"));
    assert_eq!((taken, refused.count()), (2, 6), "{said:?}");
    let listed = || world.b.json(&["vm", "list"]).as_array().unwrap().len();
    assert_eq!(listed(), 2);
    let left = || std::fs::read_dir(world.b.dir.join("replicas")).unwrap().count();
    assert_eq!(left(), 2, "a refused offer leaves nothing");
    // One is removed: its place, and its name, are free.
    let gone = world.b.json(&["vm", "list"])[0]["spec"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    world.b.ok(&["replication", "remove", &gone]);
    let mut document = offer(9);
    document["vm"]["name"] = json!(gone);
    let said = peer.call(&document);
    assert_eq!(said["reply"], "status", "{said}");
    assert_eq!(listed(), 2);
}

/// A VM that nobody replicates is not for the asking, and an offer is read before anything of it is done.
#[test]
fn a_vm_that_is_off_and_not_replicated_stays_its_host_s_own() {
    let world = hosts();
    world.allow_return();
    let watched = victims(world.dir.path());
    let peer = Hostile::with_certificate_of(&world.b, world.a.port);
    let settings = json!({
        "peer": "127.0.0.1:1", "interval_s": 1, "history": 0, "point_spacing_s": 1, "any_point_window_s": 0,
        "disks": ["sys", "data"], "compression": false,
    });
    let at = json!({"generation": world.uuid, "sequence": 1});
    let offer = json!({
        "request": "offer", "vm": described(&world, "OVMF_CODE_4M.fd", &watched), "settings": settings,
        "disks": [{"id": "sys", "size": 8 << 20}, {"id": "data", "size": 8 << 20}],
        "start": at, "from": "127.0.0.1:1", "content": {"content": "empty"}, "firmware": "",
    });
    let own = world.a.dir.to_str().unwrap();
    let refused = |document: &Value, what: &str| -> String {
        let said = peer.call(document).to_string();
        assert!(said.contains("\"refused\""), "{what}: {said}");
        assert!(!said.contains(own) && said.len() < 8192, "{what}: {said}");
        said
    };
    for content in [
        json!({"content": "empty"}),
        json!({"content": "seed"}),
        json!({"content": "reverse", "since": at, "planned": false}),
    ] {
        let mut document = offer.clone();
        document["content"] = content.clone();
        let said = refused(&document, &content.to_string());
        assert!(said.contains("become-replica"), "{content}: {said}");
    }
    // As a new VM, with one thing that cannot be.
    let card = &offer["vm"]["nic"][0];
    let wrong = [
        ("/vm/name", json!("web\u{202e}")),
        ("/vm/name", json!("x".repeat(4 << 20))),
        ("/vm/name", json!(world.uuid)),
        ("/vm/nic", json!(vec![card; 17])),
        ("/vm/nic/0/mac", json!("52:54:00:+f:01:01")),
        ("/disks/0/size", json!(0)),
        ("/disks/0/size", json!(1)),
        ("/disks/0/size", json!(u64::MAX)),
        ("/from", json!("http://169.254.169.254/latest\n")),
        ("/from", json!("x".repeat(4 << 20))),
    ];
    for (place, value) in wrong {
        let mut document = offer.clone();
        document["vm"]["uuid"] = json!("77777777-7777-4777-8777-777777777777");
        document["vm"]["name"] = json!("another");
        *document.pointer_mut(place).unwrap() = value;
        refused(&document, place);
    }
    let left = std::fs::read_dir(world.a.dir.join("replicas")).unwrap().count();
    assert_eq!(left, 0, "a refused offer leaves nothing");
    watched.nobody_opened("everything was offered");
    world.a.ok(&["vm", "start", VM]);
}

/// What a carrier wants at the beginning of a disk.
const FORGED: &[u8] = b"FORGED-BY-THE-CARRIER";

/// A segment as versions wrote it that did not seal: a delta log in the clear, with valid checksums.
fn segment_in_the_clear(world: &World, start: &Value) -> Vec<u8> {
    use lifeboat_deltalog::{Consistency, Encoder, Header, LogDisk, LogKind};
    let position = serde_json::from_value(start.clone()).unwrap();
    let header = Header {
        vm: world.uuid.parse().unwrap(),
        kind: LogKind::Bulk,
        position,
        parent: position,
        instant: serde_json::from_value(json!(0)).unwrap(),
        consistency: Consistency::Crash,
        disks: vec![LogDisk {
            id: serde_json::from_value(json!("sys")).unwrap(),
            size: 8 << 20,
        }],
    };
    let (mut log, mut content) = (Vec::new(), FORGED.to_vec());
    content.resize(1 << 20, 0);
    let mut encoder = Encoder::new(&header, false, &mut log).unwrap();
    encoder.data(0, 0, &content, &mut log).unwrap();
    encoder.zero(0, 1 << 20, 7 << 20, &mut log).unwrap();
    encoder.finish(&mut log);
    log
}

/// Every byte of the files below a directory.
fn bytes_below(dir: &Path) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match std::fs::symlink_metadata(&path).unwrap() {
            m if m.is_dir() => all.extend(bytes_below(&path)),
            m if m.is_file() => all.push(std::fs::read(&path).unwrap()),
            _ => {}
        }
    }
    all
}

fn has(files: &[Vec<u8>], what: &[u8]) -> bool {
    files.iter().any(|f| f.windows(what.len()).any(|w| w == what))
}

/// The keys of exports that are in a host's catalog.
fn keys_of(host: &crate::support::Host) -> Vec<String> {
    let mut keys = Vec::new();
    for file in bytes_below(&host.dir.join("state")) {
        let text = String::from_utf8_lossy(&file).into_owned();
        let found = text.split("\"key\":\"").skip(1).filter_map(|t| t.get(..44));
        // The fingerprint of another host's key is no secret.
        let secret = found.filter(|key| !key.contains(':'));
        keys.extend(secret.map(ToOwned::to_owned));
    }
    keys.sort();
    keys.dedup();
    keys
}

/// The replica's host keeps the key, in its catalog, and nothing that anybody can read shows it.
fn the_key_is_in_the_catalog_alone(world: &World, exported: String, medium: &Path) {
    let keys = keys_of(&world.b);
    assert_eq!(keys.len(), 1, "{} keys", keys.len());
    let key = keys[0].as_bytes();
    let lines = run(
        "sh",
        &["-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"],
    );
    let mut shown = vec![exported.into_bytes(), lines.into_bytes()];
    for host in [&world.a, &world.b] {
        shown.push(host.log().into_bytes());
        for args in [
            &["vm", "show", VM][..],
            &["events"],
            &["job", "list"],
            &["replication", "status", VM],
            &["server", "show"],
        ] {
            shown.push(host.json(args).to_string().into_bytes());
        }
    }
    assert!(!has(&shown, key), "the key is shown");
    assert!(!has(&bytes_below(medium), key), "the key is on the medium");
}

/// A carrier changes what is on a medium, with everything in hand but the key. The finding that this is about: the forged
/// segment was imported, the base on the replica began with the carrier's words, and both hosts said Ok.
#[test]
fn a_medium_that_its_carrier_forged_is_not_imported() {
    let world = hosts();
    world.enable(&["--interval", "1s"]);
    world.a.ok(&["vm", "start", VM]);
    let medium = world.dir.path().join("medium");
    let dir = medium.to_str().unwrap();
    let exported = world.a.ok(&["replication", "start", VM, "--export", dir]);
    world.a.wait_state("Replicating");
    world.a.wait_cycles(2);

    the_key_is_in_the_catalog_alone(&world, exported, &medium);
    let names = |n: usize| ["00-000000.segment", "01-000000.segment", "lifeboat-export.sealed"][n];
    let good: Vec<Vec<u8>> = (0..3)
        .map(|n| std::fs::read(medium.join(names(n))).unwrap())
        .collect();
    let replication = world.b.replication();
    let start = json!({"generation": replication["position"]["generation"], "sequence": 0});
    let forged = segment_in_the_clear(&world, &start);
    assert!(has(std::slice::from_ref(&forged), FORGED));
    let manifest = json!({
        "version": 1, "vm": world.uuid, "name": VM, "start": start,
        "disks": [{"id": "sys", "size": 8 << 20}, {"id": "data", "size": 8 << 20}], "segments": [],
    });
    let import = ["replication", "import", VM, dir];
    let attempts = [
        (0, forged.clone(), "damaged or forged"),
        (0, [&good[0][..56], &forged[..]].concat(), "damaged or forged"),
        (0, good[1].clone(), "damaged or forged"),
        (2, manifest.to_string().into_bytes(), "damaged or forged"),
        (2, good[0].clone(), "damaged or forged"),
    ];
    for (n, content, words) in attempts {
        std::fs::write(medium.join(names(n)), content).unwrap();
        let said = world.b.refused(&import);
        assert!(said.contains(words) && said.contains(dir), "{said}");
        std::fs::write(medium.join(names(n)), &good[n]).unwrap();
    }
    // A medium as an earlier version wrote it.
    std::fs::remove_file(medium.join(names(2))).unwrap();
    std::fs::write(medium.join(names(0)), &forged).unwrap();
    std::fs::write(medium.join("lifeboat-export.json"), manifest.to_string()).unwrap();
    let said = world.b.refused(&import);
    assert!(said.contains("neither encrypted nor authenticated"), "{said}");
    assert!(
        !has(&bytes_below(&world.replica()), FORGED),
        "it is on the replica"
    );
    assert_eq!(world.b.state(), "WaitingToCompleteInitialReplication");

    // What was exported is taken all the same, and the key is forgotten with it.
    for (n, content) in good.iter().enumerate() {
        std::fs::write(medium.join(names(n)), content).unwrap();
    }
    world.b.ok(&import);
    world.b.wait_state("Replicating");
    assert!(!has(&bytes_below(&world.replica()), FORGED));
    let said = world.b.refused(&import);
    assert!(said.contains("no exported copy is awaited"), "{said}");
}
