//! The initial copy on media: cycles flow while it is carried, nothing of it goes over the network, the wrong, a damaged or
//! a forged medium changes nothing, the key is where it is needed and nowhere else, and every step of exporting and
//! importing may fail or be the daemon's last. How files are sealed is `lifeboat-store`'s to test.

use bytes::Bytes;
use lifeboat_engine::action::{Action, Answer, InitialCopy, PointSelector};
use lifeboat_engine::ports::media::{Media, Part, Seal};
use lifeboat_engine::sealing::{ExportKey, Sealing};
use lifeboat_model::hint;
use lifeboat_model::{JobState, ReplicationState as State};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, Steps, eventually, failover, healthy, job, refused, remove, simulate, start_copy,
    start_vm, state,
};
use lifeboat_sim::{Port, SYS_BYTES, Sealed, VM, World};

const DIR: &str = "/media/usb/web";

fn export(dir: &str) -> Action {
    Action::StartReplication {
        vm: World::vm(),
        how: InitialCopy::Export { dir: dir.to_owned() },
        at: None,
        relationship: Default::default(),
    }
}

fn import(dir: &str) -> Action {
    Action::ImportCopy {
        vm: World::vm(),
        dir: dir.to_owned(),
    }
}

async fn enabled(w: &World) {
    let (vm, settings) = (World::vm(), World::settings());
    let enable = Action::EnableReplication { vm, settings };
    w.insist(PRIMARY, enable).await.unwrap();
}

async fn exported(w: &mut World) {
    enabled(w).await;
    assert_eq!(job(w, PRIMARY, export(DIR)).await.unwrap(), JobState::Completed);
}

/// What of the copy is on the replica, and how many logs wait there.
fn there(w: &World) -> (u64, usize) {
    let s = w.shared.state();
    let r = &s.hosts[REPLICA].replicas[&VM];
    assert!(r.points.is_empty() && r.applied == r.start);
    (r.bulk.iter().sum(), r.logs.len())
}

/// What each side has recorded to seal and to open with.
fn keys(w: &World) -> [Option<Sealing>; 2] {
    let primary = w
        .recorded(PRIMARY)
        .and_then(|r| r.primary()?.sealing.as_deref().cloned().map(Sealing::from));
    let replica = w
        .recorded(REPLICA)
        .and_then(|r| r.replica()?.sealing.as_deref().cloned().map(Sealing::from));
    [primary, replica]
}

/// Everything of both hosts that somebody can read, and nothing of it has the key.
async fn nobody_sees(w: &World, sealing: &Sealing) {
    let secret = serde_json::to_value(sealing).unwrap()["key"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(secret.len(), 44);
    let mut shown = String::new();
    for host in [PRIMARY, REPLICA] {
        shown += &format!("{:?}{:?}", w.recorded(host), w.jobs(host));
        shown += &serde_json::to_string(&w.view(host).await.unwrap()).unwrap();
        let s = w.shared.state();
        shown += &format!("{:?}", s.hosts[host].events);
    }
    shown += &format!("{:?}", w.shared.state().media);
    assert!(
        shown.contains(&sealing.export.to_string()),
        "the export's name is no secret"
    );
    assert!(!shown.contains(&secret), "{shown}");
}

async fn story(w: &mut World) {
    exported(w).await;
    let [None, Some(sealing)] = keys(w) else {
        panic!(
            "the replica keeps the key, and the primary has no more use for it: {:?}",
            keys(w)
        )
    };
    nobody_sees(w, &sealing).await;
    assert_eq!(
        (state(w, PRIMARY), state(w, REPLICA)),
        (State::Replicating, State::WaitingToCompleteInitialReplication)
    );
    for _ in 0..6 {
        w.write(20);
        w.run(10).await;
    }
    let (copied, waiting) = there(w);
    assert_eq!(copied, 0);
    assert!(waiting >= 5, "cycles flow and wait: {waiting}");
    assert_eq!(state(w, PRIMARY), State::Replicating);
    let notes = w.view(REPLICA).await.unwrap().replication.unwrap().health_notes;
    assert!(
        notes.iter().any(|n| n.hint == Some(hint::Copies::Import.into())),
        "{notes:?}"
    );
    refused(w, REPLICA, failover(PointSelector::Latest)).await;
    refused(w, PRIMARY, export("/media/usb/other")).await;
    assert_eq!(
        refused(w, REPLICA, import("/media/usb/none")).await.code.number(),
        32779
    );
    assert_eq!(refused(w, PRIMARY, import(DIR)).await.code.number(), 32775);
    w.restart(REPLICA).await;
    assert_eq!(job(w, REPLICA, import(DIR)).await.unwrap(), JobState::Completed);
    eventually(w, "the first point", |w| state(w, REPLICA) == State::Replicating).await;
    assert_eq!(keys(w), [None, None]);
    refused(w, REPLICA, import(DIR)).await;
    healthy(w, PRIMARY, REPLICA).await;
    let s = w.shared.state();
    assert_eq!(
        (s.bulk_blocks, s.sync_blocks),
        (0, 0),
        "nothing of the copy went over the network"
    );
}

#[test]
fn a_copy_is_carried_while_cycles_flow() {
    for seed in 1..6 {
        simulate(seed, story);
    }
}

#[test]
fn damaged_and_incomplete_media_change_nothing() {
    simulate(2, async |w| {
        exported(w).await;
        w.write(20);
        w.run(30).await;
        let files = w.shared.state().media[DIR].files.clone();
        for part in files.keys() {
            let with = |content: Bytes| {
                let digest = files[part].digest.clone();
                Some(Sealed { content, digest })
            };
            let cut = with(files[part].content.slice(1..));
            for spoilt in [None, cut, with(Bytes::from_static(b"x"))] {
                let medium = |w: &World, to: Option<Sealed>| {
                    let mut s = w.shared.state();
                    let files = &mut s.media.get_mut(DIR).unwrap().files;
                    match to {
                        Some(to) => files.insert(*part, to),
                        None => files.remove(part),
                    };
                };
                medium(w, spoilt);
                assert_eq!(job(w, REPLICA, import(DIR)).await.unwrap(), JobState::Exception);
                let text = w
                    .jobs(REPLICA)
                    .iter()
                    .filter_map(|j| j.error.clone())
                    .next_back()
                    .unwrap();
                assert!(text.contains("damaged"), "{text}");
                assert_eq!(there(w).0, 0, "something was imported");
                medium(w, Some(files[part].clone()));
            }
        }
        let manifest = w
            .shared
            .state()
            .media
            .get_mut(DIR)
            .unwrap()
            .manifest
            .take()
            .unwrap();
        assert!(
            refused(w, REPLICA, import(DIR))
                .await
                .message
                .contains("incomplete")
        );
        w.shared.state().media.get_mut(DIR).unwrap().manifest = Some(manifest);
        assert_eq!(job(w, REPLICA, import(DIR)).await.unwrap(), JobState::Completed);
        healthy(w, PRIMARY, REPLICA).await;
    });
}

/// Starts an export and lets it come as far as its first segment.
async fn begun(w: &World, dir: &str) -> lifeboat_engine::action::JobView {
    let Ok(Answer::Job(job)) = w.insist(PRIMARY, export(dir)).await else {
        panic!("no job")
    };
    for _ in 0..2000 {
        if w.shared
            .state()
            .media
            .get(dir)
            .is_some_and(|m| !m.files.is_empty())
        {
            return job;
        }
        w.pause(1).await;
    }
    panic!("no segment is ever written")
}

#[test]
fn an_export_can_be_cancelled_and_its_medium_is_of_no_use() {
    simulate(3, async |w| {
        enabled(w).await;
        let first = begun(w, DIR).await;
        w.insist(PRIMARY, Action::CancelJob { job: first.id })
            .await
            .unwrap();
        assert_eq!(state(w, PRIMARY), State::ReadyForReplication);
        assert!(
            refused(w, PRIMARY, export(DIR))
                .await
                .message
                .contains("not empty")
        );
        // A second one, complete, and a third one that is not carried.
        assert_eq!(
            job(w, PRIMARY, export("/media/two")).await.unwrap(),
            JobState::Completed
        );
        w.write(30);
        w.run(30).await;
        assert!(
            refused(w, REPLICA, import(DIR))
                .await
                .message
                .contains("no export")
        );
        assert_eq!(
            job(w, REPLICA, import("/media/two")).await.unwrap(),
            JobState::Completed
        );
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn media_of_an_earlier_attempt_are_refused() {
    simulate(4, async |w| {
        exported(w).await;
        w.write(30);
        w.run(20).await;
        w.insist(PRIMARY, remove()).await.unwrap();
        enabled(w).await;
        assert_eq!(
            job(w, PRIMARY, export("/media/two")).await.unwrap(),
            JobState::Completed
        );
        w.run(20).await;
        assert!(
            refused(w, REPLICA, import(DIR))
                .await
                .message
                .contains("another attempt")
        );
        assert_eq!(there(w).0, 0);
        assert_eq!(
            job(w, REPLICA, import("/media/two")).await.unwrap(),
            JobState::Completed
        );
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn after_a_cancelled_export_the_network_may_carry_the_copy() {
    simulate(5, async |w| {
        enabled(w).await;
        let first = begun(w, DIR).await;
        w.insist(PRIMARY, Action::CancelJob { job: first.id })
            .await
            .unwrap();
        assert!(matches!(keys(w), [None, Some(_)]));
        assert_eq!(job(w, PRIMARY, start_copy()).await.unwrap(), JobState::Completed);
        healthy(w, PRIMARY, REPLICA).await;
        assert_eq!(keys(w), [None, None], "no medium is awaited any more");
    });
}

/// A carrier writes an export of their own, complete and consistent, in place of the one they were given: with everything they
/// can know, which is all but the key.
#[test]
fn a_medium_forged_by_its_carrier_is_refused() {
    simulate(8, async |w| {
        exported(w).await;
        w.run(20).await;
        let [_, Some(sealing)] = keys(w) else { panic!() };
        let carrier = Port {
            shared: w.shared.clone(),
            host: PRIMARY,
        };
        let genuine = w.shared.state().media[DIR].clone();
        let (dir, key) = (camino::Utf8Path::new(DIR), ExportKey::new([7; 32]));
        let seal = Seal {
            vm: VM,
            sealing: Sealing {
                key,
                ..sealing.clone()
            },
        };
        let (mut manifest, _) = genuine.manifest.clone().unwrap();
        for segment in &mut manifest.segments {
            let content = genuine.files[&segment.file.part].content.clone();
            let body = Box::pin(futures_util::stream::iter([Ok(content)]));
            segment.file = carrier.put(dir, &seal, segment.file.part, body).await.unwrap();
        }
        // The manifest is the primary's or the carrier's; the segments are the carrier's.
        let refusal = job(w, REPLICA, import(DIR)).await.unwrap();
        assert_eq!((refusal, there(w).0), (JobState::Exception, 0));
        carrier.finish(dir, &seal, &manifest).await.unwrap();
        let said = refused(w, REPLICA, import(DIR)).await;
        assert!(said.message.contains("forged"), "{said:?}");
        assert_eq!((said.code.number(), there(w).0), (32768, 0));
        // Segments of one export, at each other's place.
        let mut swapped = genuine.clone();
        let parts: Vec<Part> = swapped.files.keys().copied().collect();
        let (one, other) = (swapped.files[&parts[0]].clone(), swapped.files[&parts[1]].clone());
        swapped.files.extend([(parts[0], other), (parts[1], one)]);
        w.shared.state().media.insert(DIR.into(), swapped);
        assert_eq!(job(w, REPLICA, import(DIR)).await.unwrap(), JobState::Exception);
        assert_eq!(there(w).0, 0);
        w.shared.state().media.insert(DIR.into(), genuine);
        assert_eq!(job(w, REPLICA, import(DIR)).await.unwrap(), JobState::Completed);
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn nothing_is_exported_under_a_key_that_the_replica_has_not_recorded() {
    simulate(9, async |w| {
        enabled(w).await;
        w.cut(true);
        let said = refused(w, PRIMARY, export(DIR)).await;
        assert!(said.message.contains("cannot be reached"), "{said:?}");
        assert_eq!(
            (state(w, PRIMARY), keys(w)),
            (State::ReadyForReplication, [None, None])
        );
        assert!(w.shared.state().media.is_empty());
        w.cut(false);
        w.run(10).await;
        assert_eq!(job(w, PRIMARY, export(DIR)).await.unwrap(), JobState::Completed);
        w.cut(true);
        w.write(20);
        // Once it is there, the link is not needed for the import.
        assert_eq!(job(w, REPLICA, import(DIR)).await.unwrap(), JobState::Completed);
        w.cut(false);
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn each_export_has_a_key_of_its_own() {
    simulate(10, async |w| {
        enabled(w).await;
        let mut seen = Vec::new();
        for n in 0..3 {
            let first = begun(w, &format!("/media/{n}")).await;
            let [Some(own), Some(told)] = keys(w) else {
                panic!()
            };
            assert_eq!(own, told);
            nobody_sees(w, &own).await;
            assert!(
                seen.iter()
                    .all(|s: &Sealing| s.export != own.export && s.key != own.key)
            );
            seen.push(own);
            w.insist(PRIMARY, Action::CancelJob { job: first.id })
                .await
                .unwrap();
            assert!(keys(w)[0].is_none(), "given up");
        }
    });
}

/// Records of a version that wrote exports in the clear and told no key.
#[test]
fn an_export_of_an_earlier_version_is_reported_with_a_way_out() {
    simulate(11, async |w| {
        enabled(w).await;
        let first = begun(w, DIR).await;
        let forget = |w: &World, host: usize| {
            let mut s = w.shared.state();
            let rel = s.hosts[host]
                .catalog
                .relationships
                .iter_mut()
                .find(|r| r.vm == VM)
                .unwrap();
            match host {
                0 => rel.primary_mut().unwrap().sealing = None,
                _ => rel.replica_mut().unwrap().sealing = None,
            }
        };
        forget(w, PRIMARY);
        w.restart(PRIMARY).await;
        eventually(w, "the end of the export", |w| {
            w.jobs(PRIMARY)
                .iter()
                .any(|j| j.id == first.id && j.state == JobState::Exception)
        })
        .await;
        let why = w
            .jobs(PRIMARY)
            .iter()
            .find(|j| j.id == first.id)
            .and_then(|j| j.error.clone());
        assert!(why.as_ref().unwrap().contains("earlier version"), "{why:?}");
        assert_eq!(state(w, PRIMARY), State::ReadyForReplication);
        assert_eq!(
            job(w, PRIMARY, export("/media/two")).await.unwrap(),
            JobState::Completed
        );
        forget(w, REPLICA);
        w.restart(REPLICA).await;
        let said = refused(w, REPLICA, import("/media/two")).await;
        assert!(said.message.contains("export it again: remove"), "{said:?}");
        // The way out that it names.
        w.insist(PRIMARY, remove()).await.unwrap();
        enabled(w).await;
        assert_eq!(
            job(w, PRIMARY, export("/media/three")).await.unwrap(),
            JobState::Completed
        );
        assert_eq!(
            job(w, REPLICA, import("/media/three")).await.unwrap(),
            JobState::Completed
        );
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn an_export_whose_changes_are_no_longer_recorded_is_given_up() {
    simulate(6, async |w| {
        enabled(w).await;
        let first = begun(w, DIR).await;
        w.kill_vm(PRIMARY);
        eventually(w, "the end of the export", |w| {
            w.jobs(PRIMARY)
                .iter()
                .any(|j| j.id == first.id && j.state == JobState::Exception)
        })
        .await;
        assert_eq!(state(w, PRIMARY), State::ReadyForReplication);
        w.insist(PRIMARY, start_vm()).await.unwrap();
        assert_eq!(
            job(w, PRIMARY, export("/media/two")).await.unwrap(),
            JobState::Completed
        );
        w.run(20).await;
        assert_eq!(
            job(w, REPLICA, import("/media/two")).await.unwrap(),
            JobState::Completed
        );
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn a_full_medium_ends_the_export_and_the_import_can_be_cancelled() {
    simulate(7, async |w| {
        enabled(w).await;
        w.shared.state().medium_full = true;
        assert_eq!(job(w, PRIMARY, export(DIR)).await.unwrap(), JobState::Exception);
        assert_eq!(state(w, PRIMARY), State::ReadyForReplication);
        w.shared.state().medium_full = false;
        assert_eq!(
            job(w, PRIMARY, export("/media/two")).await.unwrap(),
            JobState::Completed
        );
        let Ok(Answer::Job(first)) = w.insist(REPLICA, import("/media/two")).await else {
            panic!("no job")
        };
        if let Some(Ok(_)) = w.act(REPLICA, Action::CancelJob { job: first.id }).await {
            assert_eq!(state(w, REPLICA), State::WaitingToCompleteInitialReplication);
        }
        w.run(5).await;
        assert_eq!(
            job(w, REPLICA, import("/media/two")).await.unwrap(),
            JobState::Completed
        );
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Saga {
    Export,
    Import,
}

async fn run(saga: Saga, w: &mut World) {
    for n in 0..15 {
        match saga {
            // What an attempt left makes a directory of no use for the next one.
            Saga::Export => drop(w.act(PRIMARY, export(&format!("/media/{n}"))).await),
            Saga::Import => drop(w.act(REPLICA, import(DIR)).await),
        }
        for _ in 0..20 {
            let done = match saga {
                Saga::Export => state(w, PRIMARY) == State::Replicating,
                Saga::Import => state(w, REPLICA) == State::Replicating,
            };
            if done {
                return;
            }
            w.run(2).await;
            w.write(1);
            if state(w, PRIMARY) == State::ReadyForReplication {
                break;
            }
        }
    }
    panic!(
        "{saga:?} never ends: {:?}\n{:?}",
        w.recorded(PRIMARY),
        w.recorded(REPLICA)
    );
}

async fn prepare(saga: Saga, w: &mut World) {
    match saga {
        Saga::Export => enabled(w).await,
        Saga::Import => {
            exported(w).await;
            w.write(20);
            w.run(25).await;
        }
    }
}

async fn whole(w: &mut World) {
    if state(w, REPLICA) != State::Replicating {
        let complete = |w: &World| {
            let s = w.shared.state();
            let start = s.hosts[REPLICA].replicas[&VM].start;
            let fits = |m: &lifeboat_sim::Medium| m.manifest.as_ref().is_some_and(|(m, _)| m.start == start);
            s.media.iter().find(|(_, m)| fits(m)).map(|(dir, _)| dir.clone())
        };
        let dir = complete(w).unwrap();
        w.insist(REPLICA, import(&dir)).await.unwrap();
        eventually(w, "the first point", |w| state(w, REPLICA) == State::Replicating).await;
    }
    healthy(w, PRIMARY, REPLICA).await;
    assert_eq!(keys(w), [None, None], "a key outlived the import");
    assert_eq!(w.shared.state().bulk_blocks, 0);
}

fn every_step(saga: Saga) {
    let steps = Steps {
        bytes: SYS_BYTES,
        ..Steps::of(&saga)
    };
    steps.each_fails_once(
        async |w| prepare(saga, w).await,
        async |w, ()| run(saga, w).await,
        async |w, ()| whole(w).await,
    );
}

sagas! {
    every_step_of_an_export Export,
    every_step_of_an_import Import,
}
