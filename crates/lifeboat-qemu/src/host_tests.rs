//! What a host is asked about a VM before and beside running it: what it lacks, firmware variables, seeds; a test VM
//! beside the real one; merging layers in the middle of captures.

use std::time::Duration;

use camino::Utf8PathBuf;
use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::Tracking;
use lifeboat_engine::ports::hypervisor::{
    DiskImage, Hypervisor, HypervisorError, Launch, LiveMerge, Power, StateKind,
};
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{DiskFormat, DiskId, Firmware, NicBackend, NicSpec, VmId, VmSpec};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::QemuConfig;
use crate::preflight;
use crate::qemu::Qemu;
use crate::testing::{AtOnce, DISK, Host, MIB, Random, Replica, at, hardware, tool};

#[tokio::test]
async fn what_a_host_lacks_is_said_in_words() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2]);
    let mut spec = launch.spec.clone();
    // Neither the disks nor what the network cards are connected to have to be here yet.
    spec.nics = vec![NicSpec {
        mac: "52:54:00:00:00:01".into(),
        backend: NicBackend::Tap {
            ifname: "elsewhere".into(),
        },
    }];
    assert_eq!(host.qemu.missing(&spec).await, Vec::<String>::new());
    type Spoil = fn(&mut VmSpec);
    let table: [(Spoil, &str); _] = [
        (
            |s| hardware(s).machine = "pc-q35-99.0".into(),
            "machine \"pc-q35-99.0\"",
        ),
        // A word of the list, but of a description.
        (
            |s| hardware(s).machine = "Standard".into(),
            "machine \"Standard\"",
        ),
        (|s| hardware(s).cpu = "Zilog-Z80".into(), "cpu \"Zilog-Z80\""),
        (|s| hardware(s).cpu = "host".into(), "needs KVM"),
        (|s| s.memory_mib = 16 << 20, "this host has"),
        (|s| s.disks[0].bus = DiskBus::Ide, "no IDE bus"),
        (
            |s| {
                hardware(s).firmware = Firmware::Uefi {
                    code: "/no/code.fd".into(),
                    vars: None,
                }
            },
            "/no/code.fd",
        ),
    ];
    let mut all = spec.clone();
    for (spoil, word) in table {
        let mut bad = spec.clone();
        spoil(&mut bad);
        spoil(&mut all);
        let missing = host.qemu.missing(&bad).await;
        assert!(
            missing.len() == 1 && missing[0].contains(word),
            "{word}: {missing:?}"
        );
    }
    assert_eq!(host.qemu.missing(&all).await.len(), 5, "one line for each reason");
    preflight::check_memory(1 << 20, None).unwrap();
    let elsewhere = Host::with(|c| c.binary = Some("/no/qemu".into()));
    let missing = elsewhere.qemu.missing(&spec).await;
    assert!(
        missing.len() == 1 && missing[0].contains("is QEMU installed?"),
        "{missing:?}"
    );
}

fn file(host: &Host, name: &str, bytes: usize, byte: u8) -> Utf8PathBuf {
    let path = Utf8PathBuf::from_path_buf(host.path(name)).unwrap();
    std::fs::write(&path, vec![byte; bytes]).unwrap();
    path
}

#[tokio::test]
async fn firmware_variables_are_read_and_replaced() {
    let mut host = Host::new();
    let mut launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    assert_eq!(host.qemu.machine_state(&launch.spec).await.unwrap(), []);
    let code = file(&host, "code, 1.fd", 64 << 10, 0xf4);
    let own = file(&host, "vars.fd", 64 << 10, 1);
    hardware(&mut launch.spec).firmware = Firmware::Uefi {
        code: code.to_string(),
        vars: Some(own.to_string()),
    };
    let state = host.qemu.machine_state(&launch.spec).await.unwrap();
    let [(StateKind::Nvram, vars)] = state.as_slice() else {
        panic!("{state:?}")
    };
    assert_eq!(*vars, std::fs::read(&own).unwrap());
    for replaced in [None, Some(file(&host, "other, vars.fd", 64 << 10, 2))] {
        launch.firmware_vars = replaced.clone();
        host.qemu.start(&launch).await.unwrap();
        let monitor = host.qemu.control(vm).await.unwrap();
        let nodes = monitor
            .execute("query-named-block-nodes", json!({"flat": true}))
            .await
            .unwrap();
        let flash = nodes
            .as_array()
            .unwrap()
            .iter()
            .find(|n| n["node-name"] == "uefi-vars");
        let expected = replaced.unwrap_or_else(|| own.clone());
        let sets = monitor.execute("query-fdsets", Value::Null).await.unwrap();
        let set = sets
            .as_array()
            .unwrap()
            .iter()
            .find(|set| set["fds"][0]["opaque"] == expected.as_str());
        let name = format!("/dev/fdset/{}", set.unwrap()["fdset-id"]);
        assert_eq!(flash.unwrap()["file"], Value::String(name));
        drop(monitor);
        host.qemu.turn_off(vm).await.unwrap();
    }
    // The path of the primary does not have to be here when it is replaced.
    std::fs::remove_file(&own).unwrap();
    host.qemu.preflight(&launch).await.unwrap();
    let gone = host.qemu.machine_state(&launch.spec).await.unwrap_err();
    assert!(gone.to_string().contains("vars.fd"), "{gone}");
    launch.firmware_vars = Some("/no/vars.fd".into());
    let refused = host.qemu.preflight(&launch).await.unwrap_err().to_string();
    assert!(refused.contains("names a template"), "{refused}");
    launch.firmware_vars = None;
    let refused = host.qemu.preflight(&launch).await.unwrap_err().to_string();
    assert!(refused.contains("vars.fd cannot be opened"), "{refused}");
    let huge = std::fs::File::create(&own).unwrap();
    huge.set_len((64 << 20) + 1).unwrap();
    assert!(host.qemu.machine_state(&launch.spec).await.is_err());
    huge.set_len(64 << 20).unwrap();
    assert!(host.qemu.machine_state(&launch.spec).await.is_ok());
}

#[tokio::test]
async fn a_machine_of_another_host_gets_listed_firmware_and_variables_of_its_own() {
    let mut host = Host::new();
    let code = file(&host, "code.fd", 64 << 10, 0xf4);
    let template = file(&host, "empty.fd", 64 << 10, 3);
    let descriptor = json!({"mapping": {
        "device": "flash", "executable": {"filename": code, "format": "raw"},
        "nvram-template": {"filename": template, "format": "raw"},
    }});
    std::fs::write(host.path("50-code.json"), descriptor.to_string()).unwrap();
    let dir = Utf8PathBuf::from_path_buf(host.path("")).unwrap();
    host.qemu = Qemu::new(QemuConfig {
        firmware_dirs: vec![dir],
        ..host.qemu.config.clone()
    });
    let mut launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    hardware(&mut launch.spec).firmware = Firmware::Uefi {
        code: "code.fd".into(),
        vars: None,
    };
    assert_eq!(host.qemu.missing(&launch.spec).await, Vec::<String>::new());
    let refused = host.qemu.preflight(&launch).await.unwrap_err().to_string();
    assert!(
        refused.contains("no file for its firmware's variables"),
        "{refused}"
    );
    let own = Utf8PathBuf::from_path_buf(host.path("own.fd")).unwrap();
    launch.firmware_vars = Some(own.clone());
    host.qemu.preflight(&launch).await.unwrap();
    assert!(!own.exists(), "looking makes nothing");
    host.qemu.start(&launch).await.unwrap();
    assert_eq!(std::fs::read(&own).unwrap(), std::fs::read(&template).unwrap());
    host.qemu.turn_off(vm).await.unwrap();
    // It is the VM's from now on.
    std::fs::write(&own, vec![4; 64 << 10]).unwrap();
    host.qemu.start(&launch).await.unwrap();
    assert_eq!(std::fs::read(&own).unwrap(), vec![4; 64 << 10]);
    host.qemu.turn_off(vm).await.unwrap();
}

#[tokio::test]
async fn a_seed_is_a_disk_of_its_own_for_one_start() {
    let mut host = Host::new();
    let mut launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    for bad in ["", "..", "a/b", ".hidden", "a,b"] {
        launch.seed = vec![file(bad, "")];
        let refused = host.qemu.start(&launch).await.unwrap_err();
        assert!(matches!(refused, HypervisorError::Preflight(_)), "{refused:?}");
    }
    launch.seed = vec![file("meta-data", "x"), file("network-config", "")];
    host.qemu.start(&launch).await.unwrap();
    let monitor = host.qemu.control(vm).await.unwrap();
    let blocks = monitor.execute("query-block", Value::Null).await.unwrap();
    let seeds = blocks.as_array().unwrap().iter();
    let seeds: Vec<_> = seeds.filter(|b| b["inserted"]["node-name"] == "seed").collect();
    assert_eq!(seeds.len(), 1);
    assert_eq!(seeds[0]["inserted"]["ro"], true);
    drop(monitor);
    host.qemu.turn_off(vm).await.unwrap();
    launch.seed.remove(0);
    host.qemu.start(&launch).await.unwrap();
    let left = std::fs::read_dir(host.qemu.paths(vm).seed()).unwrap();
    let left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["network-config"]);
    host.qemu.turn_off(vm).await.unwrap();
    launch.seed.clear();
    host.qemu.start(&launch).await.unwrap();
    assert!(!host.qemu.paths(vm).seed().exists());
    host.qemu.turn_off(vm).await.unwrap();
}

/// Another writable layer on what a branch stands on.
fn beside(host: &mut Host, launch: &Launch, name: &str) -> Launch {
    let mut disk = launch.disks[0].clone();
    let DiskImage::Chain { layers } = &mut disk.image else {
        panic!("no branch")
    };
    let below = layers[layers.len() - 2].file.to_string();
    let file = format!("{below} {name}");
    let options = "extended_l2=on,cluster_size=128k";
    tool(
        "qemu-img",
        &[
            "create", "-q", "-f", "qcow2", "-o", options, "-F", "qcow2", "-b", &below, &file,
        ],
    );
    layers.last_mut().unwrap().file = file.into();
    let mut beside = host.launch(vec![disk]);
    beside.spec.name = name.to_owned();
    beside
}

#[tokio::test]
async fn a_test_vm_runs_beside_the_real_one_on_the_same_layers() {
    let mut host = Host::new();
    let (mut real, model) = host.branches(&["a"]);
    real.spec.name = "web".into();
    let test = beside(&mut host, &real, "web - Test");
    for launch in [&real, &test] {
        host.qemu.start(launch).await.unwrap();
    }
    let (mut ours, mut theirs) = (model.clone(), model);
    let (guest, other) = (host.guest(&real).await, host.guest(&test).await);
    guest.write("a", &mut ours, 0, MIB, 1).await;
    other.write("a", &mut theirs, 512 << 10, MIB, 2).await;
    let (source, tried) = (host.source(&real).await, host.source(&test).await);
    for (source, model) in [(&source, &ours), (&tried, &theirs)] {
        source.start_tracking(at(1)).await.unwrap();
        let instant = source.instant(at(1), at(2), Consistency::Crash).await.unwrap();
        assert!(model.differing(&*instant.view).await.is_empty());
        instant.view.close().await.unwrap();
    }
    drop((guest, other));
    drop(tried);
    host.qemu.turn_off(test.spec.uuid).await.unwrap();
    assert_eq!(host.qemu.power(real.spec.uuid).await, Power::Running);
    source.close().await.unwrap();
}

#[tokio::test]
async fn the_longest_names_have_room() {
    let mut host = Host::new();
    let mut launch = host.vm(&[DiskFormat::Qcow2]);
    launch.spec.name = format!("{} - Test", "ü".repeat(57));
    host.qemu.start(&launch).await.unwrap();
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    // The run directory the product uses.
    let paths = crate::config::QemuConfig {
        run_dir: "/run/lifeboat/vm".into(),
        ..host.qemu.config.clone()
    }
    .paths(VmId(Uuid::nil()))
    .offline();
    assert!(paths.capture().as_str().len() <= 107);
}

/// Layers are merged away while filters go in and out above and instants are read: every kind of overlap, again and
/// again.
#[tokio::test]
async fn merging_and_capturing_are_not_in_each_others_way() {
    for seed in 0..3 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut host = Host::new();
        let (launch, mut model) = host.branches(&["a"]);
        let vm = launch.spec.uuid;
        host.qemu.start(&launch).await.unwrap();
        let guest = host.guest(&launch).await;
        let source = host.source(&launch).await;
        source.start_tracking(at(0)).await.unwrap();
        let mut replica = Replica(model.clone());
        let DiskImage::Chain { layers } = &launch.disks[0].image else {
            panic!("no branch")
        };
        let [base, _, top, written] = &layers[..] else {
            panic!("{layers:?}")
        };
        let merges = [LiveMerge {
            id: DiskId::new("a").unwrap(),
            top: top.file.clone(),
            base: base.file.clone(),
        }];
        // At first with a filter in place, then whenever it happens.
        let speed = [0, 256 << 10, 1 << 20][usize::try_from(seed).unwrap()];
        let mut merge = std::pin::pin!(host.qemu.merge_live(vm, &merges, speed));
        let mut merged = false;
        for round in 0..20_u64 {
            for _ in 0..random.below(4) {
                let offset = random.below(DISK / 4096 - 16) * 4096;
                let byte = u8::try_from(random.below(255)).unwrap();
                guest
                    .write("a", &mut model, offset, 4096 * (1 + random.below(16)), byte)
                    .await;
            }
            let instant = source
                .instant(at(round), at(round + 1), Consistency::Crash)
                .await
                .unwrap();
            let past = model.clone();
            if !merged {
                let wait = Duration::from_millis(random.below(60));
                if let Ok(done) = tokio::time::timeout(wait, &mut merge).await {
                    done.unwrap();
                    merged = true;
                    println!("merged in round {round}");
                }
            }
            guest
                .write("a", &mut model, random.below(1000) * 4096, 8192, 78)
                .await;
            assert!(past.differing(&*instant.view).await.is_empty(), "round {round}");
            replica.apply(&*instant.view).await;
            assert!(replica.0 == past, "round {round}");
            instant.view.close().await.unwrap();
            source.acknowledge(at(round)).await.unwrap();
        }
        if !merged {
            merge.await.unwrap();
        }
        assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(20)]));
        let live = source.current().await.unwrap();
        assert!(model.differing(&*live).await.is_empty());
        live.close().await.unwrap();
        source.close().await.unwrap();
        drop(guest);
        host.qemu.turn_off(vm).await.unwrap();
        check_merged(&written.file);
    }
}

/// Only the base is left below the branch, and other tools find nothing wrong with it.
fn check_merged(branch: &Utf8PathBuf) {
    let chain = ["info", "--backing-chain", "--output=json", branch.as_str()];
    let info: Value = serde_json::from_str(&tool("qemu-img", &chain)).unwrap();
    assert_eq!(info.as_array().unwrap().len(), 2, "{info}");
    tool("qemu-img", &["check", "-q", "-f", "qcow2", branch.as_str()]);
}
