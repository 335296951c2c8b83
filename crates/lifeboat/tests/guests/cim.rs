//! The management API in the hands of independent clients, on two real hosts with a real guest under write load: pywbem over
//! CIM-XML, a client made from the protocol's rules over WS-Management, and two more foreign ones that look around. The
//! clients check what is answered; whether the guest has its data is said by the workload's verifier.

#![allow(
    clippy::unwrap_used,
    reason = "stories are long, and their helpers may fail them"
)]

use std::time::Duration;

use crate::support::client::Managed;
use crate::support::guest::{acknowledged, assert_intact, console, start_load, stop_load, wait_ready};
use crate::support::{Host, Setup, VM, World, kill9, wait_until};

/// What the guest held at the stations of its story: the highest record of each writer.
#[derive(Default)]
struct Seen {
    /// Acknowledged, and replicated, before the primary was lost.
    safe: i64,
    chosen: Vec<i64>,
    newest: Vec<i64>,
    quiet: Vec<i64>,
}

fn all_good(world: &World, host: &Host, what: &str) -> Vec<i64> {
    wait_ready(world, host);
    assert_intact(world, host, what)
}

fn written(world: &World, host: &Host) -> i64 {
    wait_until("the guest writes", Duration::from_secs(60), || {
        acknowledged(&console(world, host), "append").map(|(seq, _)| seq)
    })
}

/// The primary and everything that runs there are lost, and so is the way there.
fn disaster(world: &mut World) -> i64 {
    let safe = written(world, &world.a);
    world.a.wait_cycles(2);
    world.cut();
    let guest = world.qemu_pid(&world.a).unwrap();
    world.a.kill9();
    kill9(guest);
    // What arrived last is applied, and sealed where a point is due: the list of points is final then.
    wait_until(
        "the replica has applied what it has",
        Duration::from_secs(60),
        || world.b.replication()["backlog"].is_null().then_some(()),
    );
    safe
}

fn test_vm_boots(world: &World, uuid: &str) {
    let log = world.b.dir.join("run").join(uuid).join("console.log");
    let text = wait_until("the test VM boots", Duration::from_secs(120), || {
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        text.contains("LIFEBOAT ready").then_some(text)
    });
    let own = text
        .lines()
        .find(|l| l.contains("LIFEBOAT verify-append"))
        .unwrap();
    assert!(own.contains("RESULT OK"), "{own}");
}

/// What is looked at outside of the API wherever the story stops.
fn check(world: &mut World, seen: &mut Seen, name: &str) {
    if let Some(test) = name.strip_prefix("test-running ") {
        return test_vm_boots(world, test);
    }
    match name {
        "running" => {
            wait_ready(world, &world.a);
            start_load(world, &world.a);
        }
        "replicating" => {
            // The API has no word for points that are closer than an hour, and nobody waits for those here.
            let often = ["--history", "24", "--point-spacing", "3s"];
            let set = ["replication", "set", VM];
            world.a.ok(&[&set[..], &often[..]].concat());
            // They reach less far back, which the replica's host has to agree to.
            wait_until("the replica holds its points", Duration::from_secs(60), || {
                let release = ["replication", "release-points", VM];
                world.b.cli(&release).status.success().then_some(())
            });
        }
        "disaster" => seen.safe = disaster(world),
        "on-chosen-point" => {
            seen.chosen = all_good(world, &world.b, "on the chosen point");
            // What is written now must be gone after the revert.
            start_load(world, &world.b);
            written(world, &world.b);
        }
        "on-newest" => {
            seen.newest = all_good(world, &world.b, "on the newest data");
            assert!(
                seen.newest[0] >= seen.safe,
                "record {} was replicated, found up to {}",
                seen.safe,
                seen.newest[0]
            );
            for (chosen, newest) in seen.chosen.iter().zip(&seen.newest) {
                assert!(
                    chosen < newest,
                    "the chosen point, up to {chosen}, is older than {newest}"
                );
            }
        }
        "on-last-point" => {
            let last = all_good(world, &world.b, "on the last point");
            for ((chosen, last), newest) in seen.chosen.iter().zip(&last).zip(&seen.newest) {
                assert!(chosen < last && last <= newest, "{chosen} < {last} <= {newest}");
            }
            start_load(world, &world.b);
        }
        "healed" => {
            world.heal();
            world.a.start();
        }
        "reversed" => world.b.wait_cycles(2),
        "quiet" => {
            stop_load(world, &world.b);
            seen.quiet = all_good(world, &world.b, "before the way home");
        }
        "home" => {
            let home = all_good(world, &world.a, "at home");
            assert_eq!(home, seen.quiet, "a planned failover loses nothing");
        }
        other => panic!("no such check: {other}"),
    }
}

fn play(story: &str, look_around: fn(&Managed)) {
    let mut managed = Managed::new(&Setup::default());
    managed.world.a.start();
    managed.world.b.start();
    let mut seen = Seen::default();
    managed.play(story, &mut |managed, name| {
        check(&mut managed.world, &mut seen, name);
        if name == "replicating" {
            look_around(managed);
        }
    });
    assert_eq!(seen.quiet.len(), 3, "the story was told to its end");
}

/// A client in C with a strict parser: instances, names, associations, and a method with a reference.
fn look_around_with_wbemcli(managed: &Managed) {
    let guid = managed.world.uuid.to_uppercase();
    let vm = format!("Msvm_ComputerSystem.CreationClassName=\"Msvm_ComputerSystem\",Name=\"{guid}\"");
    let names = managed.wbemcli("ein", "Msvm_ComputerSystem", &[]);
    assert!(names.contains(&guid), "{names}");
    let got = managed.wbemcli("gi", &vm, &["-nl"]);
    assert!(got.contains(&format!("-ElementName=\"{VM}\"")), "{got}");
    let settings = managed.wbemcli("ai", &vm, &["-nl", "-arc", "Msvm_ReplicationSettingData"]);
    assert!(settings.contains("-ReplicationInterval=1"), "{settings}");
    let service = managed.wbemcli("ein", "Msvm_ReplicationService", &[]);
    let (_, service) = service.trim().split_once("v2:").unwrap();
    // wbemcli writes a reference with a host before its namespace.
    let call = format!("CommitFailover.ComputerSystem=alpha.test/root/virtualization/v2:{vm}");
    let value = managed.wbemcli("cm", service, &[&call]);
    assert!(value.contains("32775"), "{value}");
}

#[test]
fn guest_story_over_cim_xml_with_pywbem() {
    play("pywbem_story.py", look_around_with_wbemcli);
}

#[test]
fn guest_story_over_ws_management() {
    play("wsman_story.py", |managed| managed.run_script("pypsrp_smoke.py"));
}

/// What the page for administrators says is done as it stands there.
#[test]
fn guest_examples_of_the_page() {
    let mut managed = Managed::new(&Setup::default());
    managed.world.a.start();
    managed.world.b.start();
    managed.world.a.ok(&["vm", "start", VM]);
    wait_ready(&managed.world, &managed.world.a);
    start_load(&managed.world, &managed.world.a);
    managed.run_script("page_examples.py");
}
