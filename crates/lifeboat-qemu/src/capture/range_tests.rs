//! What is known without an instant, against what was written and what other tools say.

use std::collections::BTreeSet;
use std::time::Duration;

use lifeboat_block::qmp::Qmp;
use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::{Extent, Tracking};
use lifeboat_engine::ports::hypervisor::{DiskImage, Hypervisor};
use lifeboat_model::DiskFormat::{Qcow2, Raw};
use serde_json::{Value, json};

use crate::testing::{AtOnce, DISK, Host, MIB, Model, Random, at, tool};

const CRASH: Consistency = Consistency::Crash;
/// Bytes that one bit of a record stands for, and of a sub-cluster, at the size of these disks.
const PIECE: u64 = 4096;

/// The pieces that ranges consist of.
fn pieces(extents: &[Extent]) -> BTreeSet<u64> {
    let mut end = 0;
    for e in extents {
        assert!(e.len > 0 && (end == 0 || e.offset > end), "{extents:?}");
        end = e.offset + e.len;
    }
    let numbers = extents.iter().flat_map(|e| {
        assert!(
            e.offset.is_multiple_of(PIECE) && e.len.is_multiple_of(PIECE),
            "{e:?}"
        );
        e.offset / PIECE..(e.offset + e.len) / PIECE
    });
    numbers.collect()
}

fn known(ranges: &[Option<Vec<Extent>>], disk: usize) -> BTreeSet<u64> {
    pieces(ranges[disk].as_ref().expect("known"))
}

fn set(pieces: &[u64]) -> BTreeSet<u64> {
    pieces.iter().copied().collect()
}

#[tokio::test]
async fn known_changes_are_those_of_an_interrupted_cycle_too() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    let mut model = Model::new(&["a", "b"]);
    guest.write("a", &mut model, 100 * PIECE, PIECE, 1).await;
    let source = host.source(&launch).await;
    assert_eq!(
        source.known_changes().await.unwrap(),
        [None, None],
        "never recorded"
    );
    source.start_tracking(at(1)).await.unwrap();
    guest.write("a", &mut model, 3 * PIECE, PIECE, 2).await;
    guest.write("b", &mut model, 4 * PIECE, 2 * PIECE, 3).await;
    drop(source.instant(at(1), at(2), CRASH).await.unwrap());
    guest.write("a", &mut model, 9 * PIECE, PIECE, 4).await;
    source.recover().await.unwrap();
    for _ in 0..2 {
        // Asking alone changes nothing.
        let ranges = source.known_changes().await.unwrap();
        assert_eq!(
            (known(&ranges, 0), known(&ranges, 1)),
            (set(&[3, 9]), set(&[4, 5]))
        );
        assert_eq!(
            source.recover().await.unwrap(),
            Tracking::Since(vec![at(1), at(2)])
        );
    }
    source.close().await.unwrap();
}

#[tokio::test]
async fn known_changes_of_a_vm_that_is_off() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    let vm = launch.spec.uuid;
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    source.close().await.unwrap();
    let guest = host.guest(&launch).await;
    let mut model = Model::new(&["a", "b"]);
    guest.write("a", &mut model, 3 * PIECE, PIECE, 2).await;
    guest.write("b", &mut model, DISK - PIECE, PIECE, 3).await;
    drop(guest);
    host.qemu.turn_off(vm).await.unwrap();
    for _ in 0..2 {
        let source = host.source(&launch).await;
        assert!(!source.live());
        let ranges = source.known_changes().await.unwrap();
        assert_eq!(known(&ranges, 0), set(&[3]));
        assert_eq!(known(&ranges, 1), set(&[DISK / PIECE - 1]));
        source.close().await.unwrap();
    }
    let source = host.source(&launch).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
    source.close().await.unwrap();
    // Recording goes on with the guest's next writes.
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    guest.write("b", &mut model, 8 * PIECE, PIECE, 4).await;
    let source = host.source(&launch).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
    let ranges = source.known_changes().await.unwrap();
    let last = DISK / PIECE - 1;
    assert_eq!(
        (known(&ranges, 0), known(&ranges, 1)),
        (set(&[3]), set(&[8, last]))
    );
    source.close().await.unwrap();
}

#[tokio::test]
async fn a_disk_whose_records_are_gone_does_not_spoil_the_others() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw, Qcow2]);
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    let mut model = Model::new(&["a", "b", "c"]);
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    for disk in ["a", "b", "c"] {
        guest.write(disk, &mut model, 3 * PIECE, PIECE, 2).await;
    }
    let name = lifeboat_block::capture::tracking::record(at(1));
    // Somebody else's monitor: the guest and the source hold theirs.
    let monitor = host.qemu.paths(launch.spec.uuid).merge();
    let monitor = Qmp::connect(monitor, Duration::from_secs(10)).await.unwrap();
    let gone = json!({"node": "disk-c", "name": name});
    monitor.execute("block-dirty-bitmap-remove", gone).await.unwrap();
    let frozen = json!({"node": "disk-a", "name": name});
    let ranges = source.known_changes().await.unwrap();
    assert_eq!((known(&ranges, 0), &ranges[2]), (set(&[3]), &None));
    monitor
        .execute("block-dirty-bitmap-disable", frozen)
        .await
        .unwrap();
    let ranges = source.known_changes().await.unwrap();
    assert_eq!(ranges[0], None, "what came after it was frozen is nowhere");
    assert_eq!((known(&ranges, 1), &ranges[2]), (set(&[3]), &None));
    source.close().await.unwrap();
}

#[tokio::test]
async fn after_a_power_cut_nothing_is_known() {
    let mut host = Host::new();
    let (mut launch, _) = host.branches(&["a"]);
    let plain = host.vm(&[Raw]);
    let mut other = plain.disks[0].clone();
    other.id = lifeboat_model::DiskId::new("b").unwrap();
    launch.disks.push(other);
    let disks = launch.disks.clone();
    let launch = host.launch(disks);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    source.close().await.unwrap();
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
    source.close().await.unwrap();
    let guest = host.guest(&launch).await;
    guest.io("b", "write -P 7 0 4k").await;
    drop(guest);
    host.kill(&launch).await;
    for running in [false, true] {
        if running {
            host.qemu.start(&launch).await.unwrap();
        }
        let source = host.source(&launch).await;
        let tracking = source.recover().await.unwrap();
        assert!(matches!(tracking, Tracking::Lost { .. }), "{tracking:?}");
        assert_eq!(source.known_changes().await.unwrap(), [None, None]);
        source.close().await.unwrap();
    }
}

/// What the branch's file holds according to `qemu-img`.
fn held(image: &DiskImage) -> BTreeSet<u64> {
    let DiskImage::Chain { layers } = image else {
        panic!("no branch")
    };
    let file = json!({"driver": "file", "filename": layers.last().unwrap().file});
    let alone = json!({"driver": "qcow2", "file": file, "backing": null});
    let map = tool("qemu-img", &["map", "--output=json", &format!("json:{alone}")]);
    let map: Value = serde_json::from_str(&map).unwrap();
    let held = map.as_array().unwrap().iter().filter(|e| e["present"] == true);
    let pieces = held.flat_map(|e| {
        let (start, length) = (e["start"].as_u64().unwrap(), e["length"].as_u64().unwrap());
        start / PIECE..(start + length) / PIECE
    });
    pieces.collect()
}

#[tokio::test]
async fn own_ranges_are_what_was_written_to_the_branch() {
    let seed = 11;
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut host = Host::new();
    let (launch, _) = host.branches(&["a", "b"]);
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    let source = host.source(&launch).await;
    assert_eq!(source.own_ranges().await.unwrap(), [vec![], vec![]]);
    source.start_tracking(at(1)).await.unwrap();
    const CLUSTER: u64 = 128 << 10;
    let mut own = BTreeSet::new();
    for _ in 0..100 {
        let (offset, len) = (
            random.below(DISK / PIECE - 80) * PIECE,
            (1 + random.below(80)) * PIECE,
        );
        let (from, to) = (offset / PIECE, (offset + len) / PIECE);
        match random.below(4) {
            0 => {
                guest.io("a", &format!("write -P 7 {offset} {len}")).await;
                own.extend(from..to);
            }
            1 => {
                guest.io("a", &format!("write -z {offset} {len}")).await;
                own.extend(from..to);
            }
            2 => {
                guest.io("a", &format!("write -z -u {offset} {len}")).await;
                own.extend(from..to);
            }
            _ => {
                // Whole clusters only are discarded; what hides the layers below stays hidden.
                guest.io("a", &format!("discard {offset} {len}")).await;
                let clusters = offset.div_ceil(CLUSTER)..(offset + len) / CLUSTER;
                own.extend(clusters.flat_map(|c| c * 32..(c + 1) * 32));
            }
        }
    }
    let live = source.own_ranges().await.unwrap();
    assert_eq!(pieces(&live[0]), own);
    assert_eq!(live[1], []);
    // An instant that is being read is not in the way of the next question, nor is its filter seen.
    drop(source.instant(at(1), at(2), CRASH).await.unwrap());
    source.recover().await.unwrap();
    assert_eq!(source.own_ranges().await.unwrap(), live);
    source.close().await.unwrap();
    drop(guest);
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    assert_eq!(held(&launch.disks[0].image), own);
    assert_eq!(held(&launch.disks[1].image), set(&[]));
    let source = host.source(&launch).await;
    assert_eq!(source.own_ranges().await.unwrap(), live);
    assert_eq!(
        source.recover().await.unwrap(),
        Tracking::Since(vec![at(1), at(2)])
    );
    source.close().await.unwrap();
}

#[tokio::test]
async fn plain_images_hold_what_they_have() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    let mut model = Model::new(&["a", "b"]);
    for disk in ["a", "b"] {
        guest.write(disk, &mut model, MIB, MIB, 7).await;
    }
    let source = host.source(&launch).await;
    for own in source.own_ranges().await.unwrap() {
        println!("{own:?}");
        let own = pieces(&own);
        assert!((MIB / PIECE..2 * MIB / PIECE).all(|p| own.contains(&p)));
    }
    source.close().await.unwrap();
}
