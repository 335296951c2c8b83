//! Records that lost what they belong to: each is shown, can be named, says what is missing, and can be removed. No removal
//! touches data that somebody may want.

use crate::common::{failover, job, replicating, simulate, start_vm, state};
use lifeboat_engine::action::{
    Action, Answer, InitialCopy, PointSelector, Refusal, ServerView, VmRef, VmView,
};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_engine::query::Query;
use lifeboat_engine::records::Side;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{
    BranchId, JobState, ReplicationHealth, ReplicationMode as Mode, ReplicationState as State, VmId,
};
use lifeboat_sim::{Image, VM, World};
use uuid::Uuid;

fn by_id() -> VmRef {
    VmRef::Text(VM.to_string())
}

fn remove(vm: VmRef) -> Action {
    Action::RemoveReplication { vm }
}

fn forget(vm: VmRef) -> Action {
    Action::ForgetReplication { vm }
}

async fn done(w: &World, host: usize, action: Action) {
    let answer = w.act(host, action.clone()).await.unwrap();
    assert_eq!(answer, Ok(Answer::Done), "{action:?}");
}

async fn refused(w: &World, host: usize, action: Action) -> Refusal {
    let answer = w.act(host, action.clone()).await.unwrap();
    answer.expect_err(&format!("{action:?} should be refused"))
}

async fn listed(w: &World, host: usize) -> Vec<VmView> {
    let vms = w.query(host, Query::list_vms(Paging::FIRST)).await;
    vms.unwrap().unwrap().items
}

async fn server(w: &World, host: usize) -> ServerView {
    w.query(host, Query::show_server()).await.unwrap().unwrap()
}

fn told(w: &World, host: usize, about: &str) -> usize {
    let s = w.shared.state();
    s.hosts[host]
        .events
        .iter()
        .filter(|e| e.message.contains(about))
        .count()
}

#[test]
fn a_vm_without_its_description_is_shown_and_its_replication_can_be_removed() {
    for (seed, reference) in [(1, World::vm()), (2, by_id())] {
        simulate(seed, async |w| {
            replicating(w).await;
            w.shared.state().hosts[0].local.clear();
            w.restart(0).await;
            let views = listed(w, 0).await;
            let [view] = views.as_slice() else {
                panic!("{views:?}");
            };
            assert_eq!((view.spec.uuid, view.spec.name.as_str()), (VM, "web"));
            let gone = view.description_gone.as_deref().unwrap();
            for part in [&VM.to_string(), "web.toml", "lifeboat replication remove web"] {
                assert!(gone.contains(part), "{gone} should name {part}");
            }
            let replication = view.replication.as_ref().unwrap();
            assert_eq!(replication.health, ReplicationHealth::Critical);
            w.run(60).await;
            let notes = w.view(0).await.unwrap().replication.unwrap().health_notes;
            assert_eq!(
                notes.iter().filter(|n| n.contains("description is gone")).count(),
                1,
                "{notes:?}"
            );
            let start = refused(
                w,
                0,
                Action::StartVm {
                    vm: by_id(),
                    force: false,
                },
            )
            .await;
            assert_ne!(start.code, ReturnCode::Completed);

            done(w, 0, remove(reference)).await;
            assert!(w.recorded(0).is_none());
            assert!(listed(w, 0).await.is_empty());
            let e = refused(w, 0, Action::ShowVm { vm: World::vm() }).await;
            assert_eq!(
                (e.code, e.message.as_str()),
                (ReturnCode::FileNotFound, "no VM \"web\" on this host")
            );
            assert_eq!(
                state(w, 1),
                State::Replicating,
                "the other host keeps what it has"
            );
        });
    }
}

#[test]
fn an_offer_that_never_became_a_copy_can_be_removed() {
    simulate(3, async |w| {
        let (vm, settings) = (World::vm(), World::settings());
        w.insist(0, Action::EnableReplication { vm, settings })
            .await
            .unwrap();
        w.cut(true);
        w.restart(1).await;
        assert_eq!(state(w, 1), State::WaitingToCompleteInitialReplication);
        done(w, 1, remove(by_id())).await;
        assert!(w.recorded(1).is_none() && listed(w, 1).await.is_empty());
        assert!(
            w.shared.state().hosts[1].replicas.is_empty(),
            "nothing of it is left"
        );
        // The side whose peer is gone for good.
        done(w, 0, remove(by_id())).await;
        assert!(w.recorded(0).is_none());
    });
}

#[test]
fn a_disk_taken_out_of_the_description_is_named_with_the_command() {
    simulate(10, async |w| {
        replicating(w).await;
        w.shared.state().hosts[0].local[0].disks.pop();
        w.restart(0).await;
        let replication = w.view(0).await.unwrap().replication.unwrap();
        assert_eq!(replication.health, ReplicationHealth::Critical);
        let notes = replication.health_notes.join("\n");
        assert!(
            notes.contains("lifeboat replication set web --disk sys"),
            "{notes}"
        );
    });
}

/// Host 1 has the VM as well, off, and made it a replica; host 0 sends to it, and is cut off in the middle.
async fn seeding(w: &mut World) {
    {
        let mut s = w.shared.state();
        let spec = s.hosts[0].local.clone();
        s.hosts[1].local = spec;
        for (path, size) in [
            ("/vm/sys.qcow2", lifeboat_sim::SYS_BYTES),
            ("/vm/data.qcow2", lifeboat_sim::DATA_BYTES),
        ] {
            s.hosts[1].images.insert(path.into(), Image::new(size));
        }
    }
    w.restart(1).await;
    done(w, 1, Action::BecomeReplica { vm: World::vm() }).await;
    let (vm, settings) = (World::vm(), World::settings());
    w.insist(0, Action::EnableReplication { vm, settings })
        .await
        .unwrap();
    let seed = Action::StartReplication {
        vm: World::vm(),
        how: InitialCopy::Seed,
        at: None,
    };
    assert!(w.insist(0, seed).await.is_ok());
    w.cut(true);
    w.run(5).await;
}

#[test]
fn a_seed_whose_primary_died_gets_its_vm_back() {
    simulate(4, async |w| {
        seeding(w).await;
        w.kill_vm(0);
        let own = |w: &World| {
            let s = w.shared.state();
            ["/vm/sys.qcow2", "/vm/data.qcow2"].map(|k| s.hosts[1].images[k].content.clone())
        };
        let before = own(w);
        let side = w.recorded(1).unwrap();
        assert_eq!(
            (side.mode, side.state),
            (Mode::Replica, State::WaitingToCompleteInitialReplication)
        );
        if !side.replica().unwrap().dir.is_empty() {
            let e = refused(w, 1, remove(by_id())).await;
            assert!(e.hint.contains("lifeboat replication remove --force"), "{e:?}");
        }
        done(w, 1, forget(by_id())).await;
        assert!(w.recorded(1).is_none());
        done(w, 1, start_vm()).await;
        assert!(w.runs(1));
        assert!(own(w) == before, "its own images are as they were");
    });
}

#[test]
fn a_failed_over_replica_is_forgotten_only_while_its_vm_is_off() {
    simulate(5, async |w| {
        replicating(w).await;
        w.guest_off(0);
        w.cut(true);
        let done_with = job(w, 1, failover(PointSelector::Latest)).await.unwrap();
        assert_eq!(done_with, JobState::Completed);
        assert!(w.runs(1));
        let e = refused(w, 1, remove(by_id())).await;
        assert_eq!(e.code, ReturnCode::InvalidState);
        let e = refused(w, 1, forget(by_id())).await;
        assert_eq!(e.code, ReturnCode::InUse, "{e:?}");
        done(
            w,
            1,
            Action::StopVm {
                vm: by_id(),
                force: true,
            },
        )
        .await;
        done(w, 1, forget(by_id())).await;
        assert!(w.recorded(1).is_none());
        let kept = w.shared.state().hosts[1].replicas.contains_key(&VM);
        assert!(kept, "no file is deleted");
    });
}

#[test]
fn the_vm_of_a_test_whose_replica_is_gone_can_be_removed() {
    simulate(6, async |w| {
        replicating(w).await;
        let test = Action::StartTest {
            vm: World::vm(),
            point: PointSelector::Latest,
            start: true,
        };
        assert_eq!(job(w, 1, test).await.unwrap(), JobState::Completed);
        let named = VmRef::Text("web - Test".into());
        let e = refused(w, 1, remove(named.clone())).await;
        assert!(e.hint.contains("lifeboat failover stop-test web"), "{e:?}");
        let record = |r: &lifeboat_engine::records::Relationship| r.vm == VM;
        w.shared.state().hosts[1]
            .catalog
            .relationships
            .retain(|r| !record(r));
        w.restart(1).await;
        let e = refused(w, 1, remove(named.clone())).await;
        assert_eq!(e.code, ReturnCode::InUse, "it runs: {e:?}");
        done(
            w,
            1,
            Action::StopVm {
                vm: named.clone(),
                force: true,
            },
        )
        .await;
        done(w, 1, remove(named)).await;
        assert!(w.shared.state().hosts[1].catalog.relationships.is_empty());
        assert!(listed(w, 1).await.is_empty());
    });
}

#[test]
fn a_replica_with_a_test_is_forgotten_with_it() {
    simulate(7, async |w| {
        replicating(w).await;
        let test = Action::StartTest {
            vm: World::vm(),
            point: PointSelector::Latest,
            start: false,
        };
        assert_eq!(job(w, 1, test).await.unwrap(), JobState::Completed);
        assert_eq!(refused(w, 1, remove(by_id())).await.code, ReturnCode::InUse);
        done(w, 1, forget(by_id())).await;
        assert!(w.shared.state().hosts[1].catalog.relationships.is_empty());
        assert!(listed(w, 1).await.is_empty());
    });
}

#[test]
fn records_that_belong_to_no_relationship_are_removed_and_said() {
    simulate(8, async |w| {
        replicating(w).await;
        let mut stray = w.recorded(1).unwrap();
        stray.index = 1;
        let mut test = w.recorded(1).unwrap();
        test.vm = VmId(Uuid::from_u128(77));
        test.spec.name = "old - Test".into();
        test.mode = Mode::TestReplica;
        test.state = State::Disabled;
        test.side = Side::Test {
            of: VmId(Uuid::from_u128(78)),
            branch: BranchId(Uuid::from_u128(79)),
        };
        w.shared.state().hosts[1]
            .catalog
            .relationships
            .extend([stray, test]);
        w.restart(1).await;
        assert!(
            w.shared.state().hosts[1]
                .catalog
                .relationships
                .iter()
                .all(|r| r.index == 0)
        );
        assert_eq!(told(w, 1, "belongs to no relationship"), 1);
        done(w, 1, remove(VmRef::Text(Uuid::from_u128(77).to_string()))).await;
        let left = listed(w, 1).await;
        assert_eq!(left.iter().map(|v| v.spec.uuid).collect::<Vec<_>>(), [VM]);
        assert_eq!(left[0].power, PowerState::Off);
    });
}

#[test]
fn of_very_many_files_without_a_relationship_some_are_named() {
    simulate(10, async |w| {
        replicating(w).await;
        {
            let mut s = w.shared.state();
            let replica = s.hosts[1].replicas[&VM].clone();
            for n in 0..1000 {
                let vm = VmId(Uuid::from_u128(1000 + n));
                s.hosts[1].replicas.insert(vm, replica.clone());
            }
        }
        w.run(601).await;
        let notes = server(w, 1).await.notes;
        assert_eq!(notes.len(), 21, "{notes:?}");
        assert!(notes[20].contains("980 more replicas"), "{}", notes[20]);
        assert_eq!(told(w, 1, "no relationship of this host uses"), 21);
    });
}

#[test]
fn files_without_a_relationship_and_locations_that_are_gone_are_shown_by_the_host() {
    simulate(9, async |w| {
        replicating(w).await;
        assert!(server(w, 1).await.notes.is_empty());
        let dir = w.recorded(1).unwrap().replica().unwrap().dir.clone();
        let shown = w.view(1).await.unwrap().replication.unwrap().dir;
        assert_eq!(shown.as_ref(), Some(&dir));
        done(w, 0, remove(by_id())).await;
        done(w, 1, remove(by_id())).await;
        w.run(601).await;
        let notes = server(w, 1).await.notes;
        assert!(
            notes.len() == 1 && notes[0].contains(&dir) && notes[0].contains(&VM.to_string()),
            "{notes:?}"
        );
        assert_eq!(told(w, 1, "no relationship of this host uses it"), 1);
        w.restart(1).await;
        w.run(601).await;
        assert_eq!(
            told(w, 1, "no relationship of this host uses it"),
            1,
            "a restart is no news"
        );
        w.shared.state().hosts[1].not_there.insert("/replicas".into());
        w.run(601).await;
        let notes = server(w, 1).await.notes;
        assert!(
            notes
                .iter()
                .any(|n| n.contains("/replicas") && n.contains("mounted?")),
            "{notes:?}"
        );
    });
}
