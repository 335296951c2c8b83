//! The initial copy on media: cycles flow while it is carried, nothing of it goes over the network, the wrong, a damaged or
//! a forged medium changes nothing, the key is where it is needed and nowhere else, and every step of exporting and
//! importing may fail or be the daemon's last. How files are sealed is `lifeboat-store`'s to test.

use bytes::Bytes;
use lifeboat_engine::action::{Action, Answer, InitialCopy, PointSelector};
use lifeboat_engine::ports::media::{Media, Part, Seal};
use lifeboat_engine::sealing::{ExportKey, Sealing};
use lifeboat_model::{JobState, ReplicationState as State};
use lifeboat_sim::harness::{
    Steps, eventually, failover, healthy, job, refused, simulate, start_copy, start_vm, state,
};
use lifeboat_sim::{Port, SYS_BYTES, Sealed, VM, World};

const DIR: &str = "/media/usb/web";

fn export(dir: &str) -> Action {
    Action::StartReplication {
        vm: World::vm(),
        how: InitialCopy::Export { dir: dir.to_owned() },
        at: None,
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
    w.insist(0, enable).await.unwrap();
}

async fn exported(w: &mut World) {
    enabled(w).await;
    assert_eq!(job(w, 0, export(DIR)).await.unwrap(), JobState::Completed);
}

/// What of the copy is on the replica, and how many logs wait there.
fn there(w: &World) -> (u64, usize) {
    let s = w.shared.state();
    let r = &s.hosts[1].replicas[&VM];
    assert!(r.points.is_empty() && r.applied == r.start);
    (r.bulk.iter().sum(), r.logs.len())
}

/// What each side has recorded to seal and to open with.
fn keys(w: &World) -> [Option<Sealing>; 2] {
    let of = |host| w.recorded(host);
    let primary = of(0).and_then(|r| r.primary()?.sealing.as_deref().cloned());
    let replica = of(1).and_then(|r| r.replica()?.sealing.as_deref().cloned());
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
    for host in 0..2 {
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
        (state(w, 0), state(w, 1)),
        (State::Replicating, State::WaitingToCompleteInitialReplication)
    );
    for _ in 0..6 {
        w.write(20);
        w.run(10).await;
    }
    let (copied, waiting) = there(w);
    assert_eq!(copied, 0);
    assert!(waiting >= 5, "cycles flow and wait: {waiting}");
    assert_eq!(state(w, 0), State::Replicating);
    let notes = w.view(1).await.unwrap().replication.unwrap().health_notes;
    assert!(
        notes.iter().any(|n| n.contains("replication import")),
        "{notes:?}"
    );
    refused(w, 1, failover(PointSelector::Latest)).await;
    refused(w, 0, export("/media/usb/other")).await;
    assert_eq!(
        refused(w, 1, import("/media/usb/none")).await.code.number(),
        32779
    );
    assert_eq!(refused(w, 0, import(DIR)).await.code.number(), 32775);
    w.restart(1).await;
    assert_eq!(job(w, 1, import(DIR)).await.unwrap(), JobState::Completed);
    eventually(w, "the first point", |w| state(w, 1) == State::Replicating).await;
    assert_eq!(keys(w), [None, None]);
    refused(w, 1, import(DIR)).await;
    healthy(w, 0, 1).await;
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
                assert_eq!(job(w, 1, import(DIR)).await.unwrap(), JobState::Exception);
                let text = w
                    .jobs(1)
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
        assert!(refused(w, 1, import(DIR)).await.message.contains("incomplete"));
        w.shared.state().media.get_mut(DIR).unwrap().manifest = Some(manifest);
        assert_eq!(job(w, 1, import(DIR)).await.unwrap(), JobState::Completed);
        healthy(w, 0, 1).await;
    });
}

/// Starts an export and lets it come as far as its first segment.
async fn begun(w: &World, dir: &str) -> lifeboat_engine::records::Job {
    let Ok(Answer::Job(job)) = w.insist(0, export(dir)).await else {
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
        w.insist(0, Action::CancelJob { job: first.id }).await.unwrap();
        assert_eq!(state(w, 0), State::ReadyForReplication);
        assert!(refused(w, 0, export(DIR)).await.message.contains("not empty"));
        // A second one, complete, and a third one that is not carried.
        assert_eq!(
            job(w, 0, export("/media/two")).await.unwrap(),
            JobState::Completed
        );
        w.write(30);
        w.run(30).await;
        assert!(refused(w, 1, import(DIR)).await.message.contains("no export"));
        assert_eq!(
            job(w, 1, import("/media/two")).await.unwrap(),
            JobState::Completed
        );
        healthy(w, 0, 1).await;
    });
}

#[test]
fn media_of_an_earlier_attempt_are_refused() {
    simulate(4, async |w| {
        exported(w).await;
        w.write(30);
        w.run(20).await;
        w.insist(0, Action::RemoveReplication { vm: World::vm() })
            .await
            .unwrap();
        enabled(w).await;
        assert_eq!(
            job(w, 0, export("/media/two")).await.unwrap(),
            JobState::Completed
        );
        w.run(20).await;
        assert!(
            refused(w, 1, import(DIR))
                .await
                .message
                .contains("another attempt")
        );
        assert_eq!(there(w).0, 0);
        assert_eq!(
            job(w, 1, import("/media/two")).await.unwrap(),
            JobState::Completed
        );
        healthy(w, 0, 1).await;
    });
}

#[test]
fn after_a_cancelled_export_the_network_may_carry_the_copy() {
    simulate(5, async |w| {
        enabled(w).await;
        let first = begun(w, DIR).await;
        w.insist(0, Action::CancelJob { job: first.id }).await.unwrap();
        assert!(matches!(keys(w), [None, Some(_)]));
        assert_eq!(job(w, 0, start_copy()).await.unwrap(), JobState::Completed);
        healthy(w, 0, 1).await;
        assert_eq!(keys(w), [None, None], "no medium is awaited any more");
    });
}

/// A carrier writes an export of their own, complete and consistent, in place of the one they were given: with everything they
/// can know, which is all but the key.
#[test]
fn what_a_carrier_has_made_is_refused() {
    simulate(8, async |w| {
        exported(w).await;
        w.run(20).await;
        let [_, Some(sealing)] = keys(w) else { panic!() };
        let carrier = Port {
            shared: w.shared.clone(),
            host: 0,
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
        let refusal = job(w, 1, import(DIR)).await.unwrap();
        assert_eq!((refusal, there(w).0), (JobState::Exception, 0));
        carrier.finish(dir, &seal, &manifest).await.unwrap();
        let said = refused(w, 1, import(DIR)).await;
        assert!(said.message.contains("forged"), "{said:?}");
        assert_eq!((said.code.number(), there(w).0), (32768, 0));
        // Segments of one export, at each other's place.
        let mut swapped = genuine.clone();
        let parts: Vec<Part> = swapped.files.keys().copied().collect();
        let (one, other) = (swapped.files[&parts[0]].clone(), swapped.files[&parts[1]].clone());
        swapped.files.extend([(parts[0], other), (parts[1], one)]);
        w.shared.state().media.insert(DIR.into(), swapped);
        assert_eq!(job(w, 1, import(DIR)).await.unwrap(), JobState::Exception);
        assert_eq!(there(w).0, 0);
        w.shared.state().media.insert(DIR.into(), genuine);
        assert_eq!(job(w, 1, import(DIR)).await.unwrap(), JobState::Completed);
        healthy(w, 0, 1).await;
    });
}

#[test]
fn nothing_is_exported_under_a_key_that_the_replica_has_not_recorded() {
    simulate(9, async |w| {
        enabled(w).await;
        w.cut(true);
        let said = refused(w, 0, export(DIR)).await;
        assert!(said.message.contains("cannot be reached"), "{said:?}");
        assert_eq!((state(w, 0), keys(w)), (State::ReadyForReplication, [None, None]));
        assert!(w.shared.state().media.is_empty());
        w.cut(false);
        w.run(10).await;
        assert_eq!(job(w, 0, export(DIR)).await.unwrap(), JobState::Completed);
        w.cut(true);
        w.write(20);
        // Once it is there, the link is not needed for the import.
        assert_eq!(job(w, 1, import(DIR)).await.unwrap(), JobState::Completed);
        w.cut(false);
        healthy(w, 0, 1).await;
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
            w.insist(0, Action::CancelJob { job: first.id }).await.unwrap();
            assert!(keys(w)[0].is_none(), "given up");
        }
    });
}

/// Records of a version that wrote exports in the clear and told no key.
#[test]
fn what_an_earlier_version_left_is_said_and_leads_out() {
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
        forget(w, 0);
        w.restart(0).await;
        eventually(w, "the end of the export", |w| {
            w.jobs(0)
                .iter()
                .any(|j| j.id == first.id && j.state == JobState::Exception)
        })
        .await;
        let why = w
            .jobs(0)
            .iter()
            .find(|j| j.id == first.id)
            .and_then(|j| j.error.clone());
        assert!(why.as_ref().unwrap().contains("earlier version"), "{why:?}");
        assert_eq!(state(w, 0), State::ReadyForReplication);
        assert_eq!(
            job(w, 0, export("/media/two")).await.unwrap(),
            JobState::Completed
        );
        forget(w, 1);
        w.restart(1).await;
        let said = refused(w, 1, import("/media/two")).await;
        assert!(said.message.contains("export it again: remove"), "{said:?}");
        // The way out that it names.
        w.insist(0, Action::RemoveReplication { vm: World::vm() })
            .await
            .unwrap();
        enabled(w).await;
        assert_eq!(
            job(w, 0, export("/media/three")).await.unwrap(),
            JobState::Completed
        );
        assert_eq!(
            job(w, 1, import("/media/three")).await.unwrap(),
            JobState::Completed
        );
        healthy(w, 0, 1).await;
    });
}

#[test]
fn an_export_whose_changes_are_no_longer_recorded_is_given_up() {
    simulate(6, async |w| {
        enabled(w).await;
        let first = begun(w, DIR).await;
        w.kill_vm(0);
        eventually(w, "the end of the export", |w| {
            w.jobs(0)
                .iter()
                .any(|j| j.id == first.id && j.state == JobState::Exception)
        })
        .await;
        assert_eq!(state(w, 0), State::ReadyForReplication);
        w.insist(0, start_vm()).await.unwrap();
        assert_eq!(
            job(w, 0, export("/media/two")).await.unwrap(),
            JobState::Completed
        );
        w.run(20).await;
        assert_eq!(
            job(w, 1, import("/media/two")).await.unwrap(),
            JobState::Completed
        );
        healthy(w, 0, 1).await;
    });
}

#[test]
fn a_full_medium_ends_the_export_and_the_import_can_be_cancelled() {
    simulate(7, async |w| {
        enabled(w).await;
        w.shared.state().medium_full = true;
        assert_eq!(job(w, 0, export(DIR)).await.unwrap(), JobState::Exception);
        assert_eq!(state(w, 0), State::ReadyForReplication);
        w.shared.state().medium_full = false;
        assert_eq!(
            job(w, 0, export("/media/two")).await.unwrap(),
            JobState::Completed
        );
        let Ok(Answer::Job(first)) = w.insist(1, import("/media/two")).await else {
            panic!("no job")
        };
        if let Some(Ok(_)) = w.act(1, Action::CancelJob { job: first.id }).await {
            assert_eq!(state(w, 1), State::WaitingToCompleteInitialReplication);
        }
        w.run(5).await;
        assert_eq!(
            job(w, 1, import("/media/two")).await.unwrap(),
            JobState::Completed
        );
        healthy(w, 0, 1).await;
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
            Saga::Export => drop(w.act(0, export(&format!("/media/{n}"))).await),
            Saga::Import => drop(w.act(1, import(DIR)).await),
        }
        for _ in 0..20 {
            let done = match saga {
                Saga::Export => state(w, 0) == State::Replicating,
                Saga::Import => state(w, 1) == State::Replicating,
            };
            if done {
                return;
            }
            w.run(2).await;
            w.write(1);
            if state(w, 0) == State::ReadyForReplication {
                break;
            }
        }
    }
    panic!("{saga:?} never ends: {:?}\n{:?}", w.recorded(0), w.recorded(1));
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
    if state(w, 1) != State::Replicating {
        let complete = |w: &World| {
            let s = w.shared.state();
            let start = s.hosts[1].replicas[&VM].start;
            let fits = |m: &lifeboat_sim::Medium| m.manifest.as_ref().is_some_and(|(m, _)| m.start == start);
            s.media.iter().find(|(_, m)| fits(m)).map(|(dir, _)| dir.clone())
        };
        let dir = complete(w).unwrap();
        w.insist(1, import(&dir)).await.unwrap();
        eventually(w, "the first point", |w| state(w, 1) == State::Replicating).await;
    }
    healthy(w, 0, 1).await;
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
