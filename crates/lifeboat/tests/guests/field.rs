//! What failed at people who replicate virtual machines, each with the smallest input that showed it: two real hosts, a VM
//! (with a system only where a guest has to write), and nothing but the command line and files. `LIFEBOAT_BINARY` plays the
//! same on another build, which is how these tests were seen to fail on the one that had the faults.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::limits::{Small, writes_on};
use crate::support::client::Managed;
use crate::support::guest::{start_load, wait_ready};
use crate::support::{Host, Setup, VM, World, binary, run, wait_until};
use serde_json::json;

/// A pair of hosts and a powered-off VM with two disks of 64 MiB, the second of which holds something.
fn pair(format: &'static str) -> World {
    let mut world = World::new(&Setup {
        format,
        empty_mib: Some(64),
        ..Setup::default()
    });
    write(&data(&world, format), format, 7, "0 4M");
    world.start();
    world
}

fn data(world: &World, format: &str) -> PathBuf {
    world.a.dir.join(format!("disks/data.{format}"))
}

/// Somebody writes to an image that no QEMU has open.
fn write(image: &Path, format: &str, pattern: u8, place: &str) {
    let command = format!("write -P {pattern} {place}");
    run(
        "qemu-io",
        &["-f", format, "-c", &command, image.to_str().unwrap()],
    );
}

/// The VM writes to its second disk while it runs.
fn write_running(world: &World, pattern: u8, place: &str) {
    let command = format!("qemu-io top-data \"write -P {pattern} {place}\"");
    world.monitor("human-monitor-command", json!({"command-line": command}));
}

/// Whether both images show the same.
fn equal(a: &Path, b: &Path) -> bool {
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    Command::new("qemu-img")
        .args(["compare", "-q", "-U", a, b])
        .status()
        .unwrap()
        .success()
}

/// The primary is lost, and what is brought up is what its second disk holds.
fn newest_is_there(world: &mut World, format: &str) {
    world.a.kill9();
    assert!(equal(&world.brought_up(&["--force"]), &data(world, format)));
}

/// The relationship of a VM that runs is removed on both hosts and enabled again on the old copy, which differs by now.
#[test]
fn a_seed_that_differs_is_brought_up_with_its_newest_data() {
    let mut world = pair("qcow2");
    world.a.ok(&["vm", "start", VM]);
    world.replicate(&["--interval", "1s", "--history", "9", "--point-spacing", "1s"]);
    // The numbers of the old generation are higher than those of the new one will be.
    world.a.wait_cycles(12);
    world.a.ok(&["replication", "remove", VM]);
    world.b.ok(&["replication", "remove", VM]);
    write_running(&world, 9, "1M 1M");
    world.enable(&["--interval", "1s", "--history", "9"]);
    world.a.ok(&["replication", "start", VM, "--seed"]);
    wait_until("the seed is compared", Duration::from_secs(60), || {
        let now = world.a.replication();
        (now["sync"].is_null() && now["state"] == "Replicating").then_some(())
    });
    world.a.wait_cycles(1);
    // Newer than the point that closed the comparison: only cycles of the new generation have it.
    write_running(&world, 11, "2M 1M");
    world.a.wait_cycles(2);
    newest_is_there(&mut world, "qcow2");
}

/// A VM that was never started and whose image stands on another one, as clones and cloud images do.
#[test]
fn a_powered_off_vm_on_a_backing_file_is_copied_whole() {
    let mut world = pair("qcow2");
    let image = data(&world, "qcow2");
    let below = image.with_file_name("below.qcow2");
    std::fs::rename(&image, &below).unwrap();
    let (below, image_) = (below.to_str().unwrap(), image.to_str().unwrap());
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, image_],
    );
    write(&image, "qcow2", 9, "1M 64k");
    world.replicate(&["--interval", "1s"]);
    world.arrived();
    assert!(equal(&world.brought_up(&["--force"]), &image));
}

/// `qemu-io` on the image of a powered-off VM that is replicated: a restore, guestfish, virt-customize.
#[test]
fn an_edit_of_a_powered_off_vm_reaches_the_replica() {
    let mut world = pair("qcow2");
    world.replicate(&["--interval", "1s"]);
    world.arrived();
    write(&data(&world, "qcow2"), "qcow2", 9, "2M 64k");
    world.arrived();
    newest_is_there(&mut world, "qcow2");
}

/// `dd` into the part of a raw disk that a slow first copy has behind it.
#[test]
fn a_write_into_what_was_copied_already_reaches_the_replica() {
    let mut world = pair("raw");
    write(&data(&world, "raw"), "raw", 5, "0 48M");
    world.enable(&["--interval", "1s", "--bandwidth", "16MiB/s", "--no-compression"]);
    world.a.ok(&["replication", "start", VM, "--detach"]);
    let base = world.replica().join("disks/data/base.raw");
    let copied = || std::fs::metadata(&base).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
    wait_until("a part is copied", Duration::from_secs(60), || {
        (copied() > 4 << 20).then_some(())
    });
    write(&data(&world, "raw"), "raw", 9, "64k 4k");
    world.b.wait_state("Replicating");
    world.arrived();
    newest_is_there(&mut world, "raw");
}

/// The primary's daemon answers, but the record of its QEMU is lost: a cleaned /run.
#[test]
fn a_primary_that_lost_the_record_of_its_vm_is_not_off() {
    let mut world = pair("qcow2");
    world.a.ok(&["vm", "start", VM]);
    world.replicate(&["--interval", "1s"]);
    for entry in std::fs::read_dir(world.vm_dir(&world.a)).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    world.a.kill9();
    world.a.start();
    let refused = world.b.refused(&["failover", "start", VM]);
    assert!(refused.contains("--force"), "{refused}");
    assert_eq!(world.qemu_pid(&world.b), None, "two copies run");
}

/// The replica's directory of disks was moved away.
#[test]
fn a_replica_without_its_files_is_not_brought_up() {
    let mut world = pair("qcow2");
    world.replicate(&["--interval", "1s", "--history", "2"]);
    world.arrived();
    let disks = world.replica().join("disks");
    std::fs::rename(&disks, world.b.dir.join("elsewhere")).unwrap();
    let refused = world
        .b
        .refused(&["failover", "start", VM, "--no-start", "--force"]);
    assert!(refused.contains("disks"), "{refused}");
    assert!(
        !disks.join("data/base.raw").exists(),
        "an empty base took the place of the one that is gone"
    );
}

/// One bit of the header of a recovery point's layer.
#[test]
fn a_point_that_cannot_be_opened_is_refused_beforehand() {
    let mut world = pair("qcow2");
    world.replicate(&["--interval", "1s", "--history", "3", "--point-spacing", "1s"]);
    world.arrived();
    let newest = world.b.sealed_points()[0]["id"].as_str().unwrap().to_owned();
    let manifest = std::fs::read(world.replica().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let point = manifest["points"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["id"] == newest.as_str())
        .unwrap();
    for layer in point["layers"].as_array().unwrap() {
        let file = world.replica().join(layer["file"].as_str().unwrap());
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    let refused = world.b.refused(&[
        "failover",
        "start",
        VM,
        "--no-start",
        "--force",
        "--point",
        &newest,
    ]);
    assert!(refused.contains(".qcow2"), "{refused}");
}

/// The base was deleted under the running daemon.
#[test]
fn a_base_that_is_gone_is_critical_and_not_made_anew() {
    let mut world = pair("qcow2");
    world.replicate(&["--interval", "1s"]);
    world.arrived();
    let base = world.replica().join("disks/data/base.raw");
    std::fs::remove_file(&base).unwrap();
    world.a.cli(&["replication", "now", VM]);
    wait_until("it is critical", Duration::from_secs(60), || {
        (world.b.replication()["health"] == "Critical").then_some(())
    });
    assert!(!base.exists());
}

/// A replica, and a later VM of the same name on its host.
#[test]
fn a_name_of_two_vms_is_refused() {
    let mut world = pair("qcow2");
    world.replicate(&["--interval", "1s"]);
    world.b.kill9();
    let other = "name = \"story\"\nuuid = \"00000000-0000-4000-8000-000000000001\"\nmemory_mib = 64\ncpus = 1\nmachine = \"pc\"\ncpu = \"qemu64\"\n\n[[disk]]\nid = \"one\"\npath = \"/nowhere.qcow2\"\nformat = \"qcow2\"\n";
    std::fs::write(world.b.dir.join("vms/other.toml"), other).unwrap();
    world.b.start();
    let refused = world
        .b
        .refused(&["failover", "start", VM, "--no-start", "--force"]);
    assert!(
        refused.contains("00000000-0000-4000-8000-000000000001") && refused.contains(&world.uuid),
        "{refused}"
    );
}

/// The description of a replicated VM is deleted.
#[test]
fn a_record_without_a_description_can_be_reached_and_removed() {
    let mut world = pair("qcow2");
    world.replicate(&["--interval", "1s"]);
    world.a.kill9();
    std::fs::remove_file(world.a.dir.join("vms/story.toml")).unwrap();
    world.a.start();
    let listed = world.a.ok(&["vm", "list"]);
    assert!(listed.contains(VM), "{listed}");
    let uuid = world.uuid.clone();
    world.a.ok(&["replication", "remove", &uuid]);
}

/// The sockets of one VM are gone; it is on its own line that this shows.
#[test]
fn a_vm_that_does_not_answer_keeps_no_list_from_being_shown() {
    let world = pair("qcow2");
    world.a.ok(&["vm", "start", VM]);
    for entry in std::fs::read_dir(world.vm_dir(&world.a)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "sock") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let listed = world.a.cli(&["vm", "list"]);
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    assert!(String::from_utf8_lossy(&listed.stdout).contains(VM));
}

/// The primary's daemon stands still.
#[test]
fn silence_is_a_warning_on_the_replica() {
    let mut world = pair("qcow2");
    world.a.ok(&["vm", "start", VM]);
    world.replicate(&["--interval", "1s"]);
    let daemon = world.a.daemon().to_string();
    run("kill", &["-STOP", &daemon]);
    wait_until("the replica says so", Duration::from_secs(50), || {
        (world.b.replication()["health"] != "Ok").then_some(())
    });
    run("kill", &["-CONT", &daemon]);
}

/// The file system of a running VM's image is full, and has space again later.
#[test]
fn guest_that_stands_still_says_why_and_goes_on() {
    let mut world = World::new(&Setup::default());
    let space = Small::new(96);
    let (image, moved) = (data(&world, "qcow2"), space.path().join("data.qcow2"));
    let (from, to) = (image.to_str().unwrap(), moved.to_str().unwrap());
    run("cp", &["--sparse=always", from, to]);
    std::fs::remove_file(&image).unwrap();
    std::os::unix::fs::symlink(&moved, &image).unwrap();
    world.start();
    world.a.ok(&["vm", "start", VM]);
    wait_ready(&world, &world.a);
    start_load(&world, &world.a);
    space.fill(1);
    wait_until("its reason is shown", Duration::from_secs(60), || {
        world.a.ok(&["events"]).contains("no space").then_some(())
    });
    space.release();
    world.a.ok(&["vm", "start", VM]);
    writes_on(&world);
}

/// Processor time of a daemon so far, in ticks.
fn processor_time(host: &Host) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", host.daemon())).unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<u64> = after_name.split(' ').filter_map(|f| f.parse().ok()).collect();
    // Of the numbers after the state: utime and stime, see proc(5).
    fields[10] + fields[11]
}

/// 4 MiB in two disks of 16 GiB: holes of a raw file cost what those of a qcow2 image cost.
#[test]
fn holes_of_raw_disks_cost_nothing() {
    let [qcow2, raw] = ["qcow2", "raw"].map(|format| {
        let mut world = World::new(&Setup {
            format,
            empty_mib: Some(16 << 10),
            ..Setup::default()
        });
        write(&data(&world, format), format, 7, "0 4M");
        world.start();
        let before = processor_time(&world.a);
        world.replicate(&["--interval", "1s"]);
        processor_time(&world.a) - before
    });
    assert!(
        raw < 8 * qcow2 + 100,
        "{raw} ticks for raw disks, {qcow2} for qcow2"
    );
}

/// A certificate is issued anew into the files of the old one; nobody restarts the daemon.
#[test]
fn a_renewed_certificate_is_used_without_a_restart() {
    let mut world = pair("qcow2");
    let peer = world.peer();
    let enable = ["replication", "enable", VM, "--to", &peer, "--interval", "1s"];
    let tls = world.a.dir.join("tls");
    let issue = |name: &str| {
        for file in ["host.crt", "host.key"] {
            std::fs::remove_file(tls.join(file)).unwrap();
        }
        let ca = world.dir.path().join("ca");
        let (ca, out) = (ca.to_str().unwrap(), tls.to_str().unwrap());
        run(
            &binary(),
            &[
                "cert",
                "issue",
                "--ca",
                ca,
                "--host",
                name,
                "--host",
                "127.0.0.1",
                "--out",
                out,
            ],
        );
    };
    world.a.kill9();
    issue("unknown.test");
    world.a.start();
    let refused = world.a.refused(&enable);
    assert!(refused.contains("unknown.test"), "{refused}");
    issue("alpha.test");
    wait_until("the new one is used", Duration::from_secs(60), || {
        world.a.cli(&enable).status.success().then_some(())
    });
}

/// The daemon has hardly a descriptor left, beside its cycles.
#[test]
fn without_descriptors_a_running_vm_is_not_called_off() {
    let mut world = pair("qcow2");
    world.a.ok(&["vm", "start", VM]);
    world.replicate(&["--interval", "1s"]);
    let daemon = world.a.daemon().to_string();
    let open = std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count();
    for more in (0..24).rev() {
        run(
            "prlimit",
            &["--pid", &daemon, &format!("--nofile={}:", open + more)],
        );
        for _ in 0..3 {
            let shown = world.a.cli(&["--output", "json", "vm", "list"]);
            if shown.status.success() {
                let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
                let power = shown[0]["power"].as_str().unwrap();
                assert_ne!(power, "off", "{more} descriptors more: {shown}");
            }
        }
    }
}

/// The root directory, a file, and a directory that is not there.
#[test]
fn a_location_that_cannot_be_one_is_refused() {
    let world = pair("qcow2");
    let file = world.b.dir.join("lifeboat.toml");
    let nowhere = world.b.dir.join("no/such/place");
    for place in ["/", file.to_str().unwrap(), nowhere.to_str().unwrap()] {
        world
            .b
            .refused(&["authorization", "add", "other.test", "--location", place]);
    }
}

/// What clients in C dereference, and what was a zero where nothing was known.
#[test]
fn the_management_api_says_what_it_knows() {
    let mut managed = Managed::new(&Setup {
        empty_mib: Some(64),
        ..Setup::default()
    });
    managed.world.start();
    managed.world.a.ok(&["vm", "start", VM]);
    managed
        .world
        .replicate(&["--interval", "1s", "--history", "2", "--any-point", "1h"]);
    managed.world.a.wait_cycles(3);
    managed.run_script("field.py");
}
