//! Records that lost what they belong to: each is shown, can be named, says what is missing, and can be removed. No removal
//! touches data that somebody may want.

use lifeboat_engine::action::{Action, Answer, InitialCopy, PointSelector, VmRef, VmView};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_engine::query::Query;
use lifeboat_engine::records::Side;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint::{self, Hint};
use lifeboat_model::{
    BranchId, JobState, ReplicationHealth, ReplicationMode as Mode, ReplicationState as State, VmId,
};
use lifeboat_sim::harness::hints_at;
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, enable, events, failover, job, refused, replicating, server, simulate, start_vm, state,
};
use lifeboat_sim::{Image, VM, World};
use uuid::Uuid;

fn by_id() -> VmRef {
    VmRef::Text(VM.to_string())
}

fn remove(vm: VmRef) -> Action {
    Action::RemoveReplication {
        vm,
        relationship: Default::default(),
    }
}

fn forget(vm: VmRef) -> Action {
    Action::ForgetReplication { vm }
}

async fn done(w: &World, host: usize, action: Action) {
    let answer = w.act(host, action.clone()).await.unwrap();
    assert_eq!(answer, Ok(Answer::Done), "{action:?}");
}

async fn listed(w: &World, host: usize) -> Vec<VmView> {
    let vms = w.query(host, Query::list_vms(Paging::FIRST)).await;
    vms.unwrap().unwrap().items
}

#[test]
fn a_vm_without_its_description_is_shown_and_its_replication_can_be_removed() {
    for (seed, reference) in [(1, World::vm()), (2, by_id())] {
        simulate(seed, async |w| {
            replicating(w).await;
            w.shared.state().hosts[PRIMARY].local.clear();
            w.restart(PRIMARY).await;
            let views = listed(w, PRIMARY).await;
            let [view] = views.as_slice() else {
                panic!("{views:?}");
            };
            assert_eq!((view.spec.uuid, view.spec.name.as_str()), (VM, "web"));
            let gone = view.description_gone.as_ref().unwrap();
            assert!(gone.text.contains(&VM.to_string()), "{gone}");
            let Some(Hint::Replicate(hint::Replicate::DescribeOrRemove { file })) = &gone.hint else {
                panic!("{gone:?}");
            };
            assert!(file.ends_with("web.toml"), "{file}");
            let replication = view.replication.as_ref().unwrap();
            assert_eq!(replication.health, ReplicationHealth::Critical);
            w.run(60).await;
            let notes = w.view(PRIMARY).await.unwrap().replication.unwrap().health_notes;
            assert_eq!(
                notes
                    .iter()
                    .filter(|n| n.text.contains("description is gone"))
                    .count(),
                1,
                "{notes:?}"
            );
            let start = refused(
                w,
                PRIMARY,
                Action::StartVm {
                    vm: by_id(),
                    force: false,
                },
            )
            .await;
            assert_ne!(start.code, ReturnCode::Completed);

            done(w, PRIMARY, remove(reference)).await;
            assert!(w.recorded(PRIMARY).is_none());
            assert!(listed(w, PRIMARY).await.is_empty());
            let e = refused(w, PRIMARY, Action::ShowVm { vm: World::vm() }).await;
            assert_eq!(
                (e.code, e.message.as_str()),
                (ReturnCode::FileNotFound, "no VM \"web\" on this host")
            );
            assert_eq!(
                state(w, REPLICA),
                State::Replicating,
                "the other host keeps what it has"
            );
        });
    }
}

#[test]
fn an_offer_that_never_became_a_copy_can_be_removed() {
    simulate(3, async |w| {
        w.insist(PRIMARY, enable()).await.unwrap();
        w.cut(true);
        w.restart(REPLICA).await;
        assert_eq!(state(w, REPLICA), State::WaitingToCompleteInitialReplication);
        done(w, REPLICA, remove(by_id())).await;
        assert!(w.recorded(REPLICA).is_none() && listed(w, REPLICA).await.is_empty());
        assert!(
            w.shared.state().hosts[REPLICA].replicas.is_empty(),
            "nothing of it is left"
        );
        // The side whose peer is gone for good.
        done(w, PRIMARY, remove(by_id())).await;
        assert!(w.recorded(PRIMARY).is_none());
    });
}

#[test]
fn a_disk_taken_out_of_the_description_is_named_with_the_command() {
    simulate(10, async |w| {
        replicating(w).await;
        w.shared.state().hosts[PRIMARY].local[0].disks.pop();
        w.restart(PRIMARY).await;
        let replication = w.view(PRIMARY).await.unwrap().replication.unwrap();
        assert_eq!(replication.health, ReplicationHealth::Critical);
        let left = hint::Replicate::DescribeOrExclude {
            disks: vec!["sys".into()],
        };
        let notes = replication.health_notes;
        assert!(hints_at(&notes, left), "{notes:?}");
    });
}

/// The replica's host has the VM as well, off, and made it a replica; the primary sends to it, and is cut off in the middle.
async fn seeding(w: &mut World) {
    {
        let mut s = w.shared.state();
        let spec = s.hosts[PRIMARY].local.clone();
        s.hosts[REPLICA].local = spec;
        for (path, size) in [
            ("/vm/sys.qcow2", lifeboat_sim::SYS_BYTES),
            ("/vm/data.qcow2", lifeboat_sim::DATA_BYTES),
        ] {
            s.hosts[REPLICA].images.insert(path.into(), Image::new(size));
        }
    }
    w.restart(REPLICA).await;
    done(w, REPLICA, Action::BecomeReplica { vm: World::vm() }).await;
    w.insist(PRIMARY, enable()).await.unwrap();
    let seed = Action::StartReplication {
        vm: World::vm(),
        how: InitialCopy::Seed,
        at: None,
        relationship: Default::default(),
    };
    assert!(w.insist(PRIMARY, seed).await.is_ok());
    w.cut(true);
    w.run(5).await;
}

#[test]
fn a_seed_whose_primary_died_gets_its_vm_back() {
    simulate(4, async |w| {
        seeding(w).await;
        w.kill_vm(PRIMARY);
        let own = |w: &World| {
            let s = w.shared.state();
            ["/vm/sys.qcow2", "/vm/data.qcow2"].map(|k| s.hosts[REPLICA].images[k].content.clone())
        };
        let before = own(w);
        let side = w.recorded(REPLICA).unwrap();
        assert_eq!(
            (side.mode, side.state),
            (Mode::Replica, State::WaitingToCompleteInitialReplication)
        );
        if side.replica().unwrap().dir.is_some() {
            let e = refused(w, REPLICA, remove(by_id())).await;
            assert_eq!(e.hint, Some(hint::Copies::AwaitOrForget.into()), "{e:?}");
        }
        done(w, REPLICA, forget(by_id())).await;
        assert!(w.recorded(REPLICA).is_none());
        done(w, REPLICA, start_vm()).await;
        assert!(w.runs(REPLICA));
        assert!(own(w) == before, "its own images are as they were");
    });
}

#[test]
fn a_failed_over_replica_is_forgotten_only_while_its_vm_is_off() {
    simulate(5, async |w| {
        replicating(w).await;
        w.guest_off(PRIMARY);
        w.cut(true);
        let done_with = job(w, REPLICA, failover(PointSelector::Latest)).await.unwrap();
        assert_eq!(done_with, JobState::Completed);
        assert!(w.runs(REPLICA));
        let e = refused(w, REPLICA, remove(by_id())).await;
        assert_eq!(e.code, ReturnCode::InvalidState);
        let e = refused(w, REPLICA, forget(by_id())).await;
        assert_eq!(e.code, ReturnCode::InUse, "{e:?}");
        done(
            w,
            REPLICA,
            Action::StopVm {
                vm: by_id(),
                force: true,
            },
        )
        .await;
        done(w, REPLICA, forget(by_id())).await;
        assert!(w.recorded(REPLICA).is_none());
        let kept = w.shared.state().hosts[REPLICA].replicas.contains_key(&VM);
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
        assert_eq!(job(w, REPLICA, test).await.unwrap(), JobState::Completed);
        let named = VmRef::Text("web - Test".into());
        let e = refused(w, REPLICA, remove(named.clone())).await;
        let end = hint::Failover::EndTestOf {
            replica: "web".into(),
        };
        assert_eq!(e.hint, Some(end.into()), "{e:?}");
        let record = |r: &lifeboat_engine::records::Relationship| r.vm == VM;
        w.shared.state().hosts[REPLICA]
            .catalog
            .relationships
            .retain(|r| !record(r));
        w.restart(REPLICA).await;
        let e = refused(w, REPLICA, remove(named.clone())).await;
        assert_eq!(e.code, ReturnCode::InUse, "it runs: {e:?}");
        done(
            w,
            REPLICA,
            Action::StopVm {
                vm: named.clone(),
                force: true,
            },
        )
        .await;
        done(w, REPLICA, remove(named)).await;
        assert!(w.shared.state().hosts[REPLICA].catalog.relationships.is_empty());
        assert!(listed(w, REPLICA).await.is_empty());
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
        assert_eq!(job(w, REPLICA, test).await.unwrap(), JobState::Completed);
        assert_eq!(refused(w, REPLICA, remove(by_id())).await.code, ReturnCode::InUse);
        done(w, REPLICA, forget(by_id())).await;
        assert!(w.shared.state().hosts[REPLICA].catalog.relationships.is_empty());
        assert!(listed(w, REPLICA).await.is_empty());
    });
}

#[test]
fn records_that_belong_to_no_relationship_are_removed_and_said() {
    simulate(8, async |w| {
        replicating(w).await;
        let mut stray = w.recorded(REPLICA).unwrap();
        stray.index = 1;
        let mut test = w.recorded(REPLICA).unwrap();
        test.vm = VmId(Uuid::from_u128(77));
        test.spec.name = "old - Test".into();
        test.mode = Mode::TestReplica;
        test.state = State::Disabled;
        test.side = Side::Test {
            of: VmId(Uuid::from_u128(78)),
            branch: BranchId(Uuid::from_u128(79)),
        };
        w.shared.state().hosts[REPLICA]
            .catalog
            .relationships
            .extend([stray, test]);
        w.restart(REPLICA).await;
        assert!(
            w.shared.state().hosts[REPLICA]
                .catalog
                .relationships
                .iter()
                .all(|r| r.index == 0)
        );
        assert_eq!(events(w, REPLICA, "belongs to no relationship").len(), 1);
        done(w, REPLICA, remove(VmRef::Text(Uuid::from_u128(77).to_string()))).await;
        let left = listed(w, REPLICA).await;
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
            let replica = s.hosts[REPLICA].replicas[&VM].clone();
            for n in 0..1000 {
                let vm = VmId(Uuid::from_u128(1000 + n));
                s.hosts[REPLICA].replicas.insert(vm, replica.clone());
            }
        }
        w.run(601).await;
        let notes = server(w, REPLICA).await.notes;
        assert_eq!(notes.len(), 21, "{notes:?}");
        assert!(notes[20].text.contains("980 more replicas"), "{}", notes[20]);
        assert_eq!(events(w, REPLICA, "no relationship of this host uses").len(), 21);
    });
}

#[test]
fn files_without_a_relationship_and_locations_that_are_gone_are_shown_by_the_host() {
    simulate(9, async |w| {
        replicating(w).await;
        assert!(server(w, REPLICA).await.notes.is_empty());
        let dir = w
            .recorded(REPLICA)
            .unwrap()
            .replica()
            .unwrap()
            .dir
            .clone()
            .unwrap();
        let shown = w.view(REPLICA).await.unwrap().replication.unwrap().dir;
        assert_eq!(shown.as_ref(), Some(&dir));
        done(w, PRIMARY, remove(by_id())).await;
        done(w, REPLICA, remove(by_id())).await;
        w.run(601).await;
        let notes = server(w, REPLICA).await.notes;
        assert!(
            notes.len() == 1
                && notes[0].text.contains(&dir)
                && notes[0].text.contains(&VM.to_string())
                && hints_at(&notes, hint::Copies::SeedOrDelete { dir: dir.clone() }),
            "{notes:?}"
        );
        assert_eq!(
            events(w, REPLICA, "no relationship of this host uses it").len(),
            1
        );
        w.restart(REPLICA).await;
        w.run(601).await;
        assert_eq!(
            events(w, REPLICA, "no relationship of this host uses it").len(),
            1,
            "a restart is no news"
        );
        w.shared.state().hosts[REPLICA]
            .not_there
            .insert("/replicas".into());
        w.run(601).await;
        let notes = server(w, REPLICA).await.notes;
        assert!(
            notes
                .iter()
                .any(|n| n.text.contains("/replicas") && n.hint == Some(hint::Look::Mounts.into())),
            "{notes:?}"
        );
    });
}
