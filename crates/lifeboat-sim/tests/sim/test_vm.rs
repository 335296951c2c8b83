//! Test failover in full: the VM of a test is a VM like others, replication and points do not notice it, no real failover
//! waits for it. Every step of making and ending it fails once and crashes once.

use lifeboat_engine::action::{Action, Answer, PointSelector, PointView, RelationshipRef, VmRef, VmView};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_engine::ports::store::Target;
use lifeboat_engine::records::{FailoverPhase, Side, Test, TestPhase};
use lifeboat_model::{
    JobState, JobType, NicBackend, NicSpec, ReplicationHealth as Health, ReplicationMode as Mode,
    ReplicationState as State,
};
use lifeboat_sim::harness::{
    A, B, Steps, commit, durable, enable, eventually, failover, healthy, insist_until, job, phase, planned,
    points, refused_with_hint, remove, replicating, resume, resync, revert, simulate, start_copy, start_test,
    start_vm, state, stop_test, suspend, truth,
};
use lifeboat_sim::{Content, SYS_BYTES, VM, World};

fn named() -> VmRef {
    VmRef::Text("web - Test".into())
}

fn test(w: &World) -> Option<Test> {
    w.recorded(B)?.replica()?.test.clone()
}

async fn made(w: &World, point: PointSelector) {
    assert_eq!(job(w, B, start_test(point)).await.unwrap(), JobState::Completed);
}

async fn ended(w: &World) {
    assert_eq!(job(w, B, stop_test()).await.unwrap(), JobState::Completed);
}

async fn listed(w: &World) -> Vec<VmView> {
    match w.insist(B, Action::ListVms(Paging::FIRST)).await {
        Ok(Answer::Vms(vms)) => vms.items,
        other => panic!("{other:?}"),
    }
}

/// What the test VM's disks hold.
fn tested(w: &World) -> Vec<Content> {
    let vm = test(w).unwrap().vm;
    let s = w.shared.state();
    let keys = &s.hosts[B].processes[&vm].images;
    keys.iter()
        .map(|k| s.hosts[B].images[k].content.clone())
        .collect()
}

/// Nothing of a test is left.
async fn over(w: &World) {
    assert_eq!(test(w), None);
    assert_eq!(listed(w).await.len(), 1);
    let s = w.shared.state();
    assert_eq!(s.hosts[B].catalog.relationships.len(), 1);
    let running = s.hosts[B]
        .processes
        .iter()
        .find(|(id, p)| **id != VM && p.power != PowerState::Off);
    assert!(running.is_none(), "{running:?}");
}

fn branches(w: &World) -> usize {
    w.shared.state().hosts[B].replicas[&VM].branches.len()
}

/// It is refused with this code, and with a way out.
async fn refused(w: &World, host: usize, action: Action, code: u32) {
    let e = refused_with_hint(w, host, action.clone()).await;
    assert_eq!(e.code.number(), code, "{action:?}: {e}");
}

async fn history(w: &mut World) {
    replicating(w).await;
    for _ in 0..9 {
        w.write(10);
        w.run(10).await;
    }
}

/// The oldest listed one of a kind.
fn oldest(points: &[PointView], sealed: bool) -> PointView {
    let kind = |p: &&PointView| matches!(p.target, Target::Point { .. }) == sealed;
    points.iter().rev().find(kind).unwrap().clone()
}

#[test]
fn logs_expire_while_a_test_keeps_the_oldest_point() {
    simulate(61, async |w| {
        history(w).await;
        for _ in 0..60 {
            w.write(1);
            w.run(10).await;
        }
        let logs = |w: &World| w.shared.state().hosts[B].replicas[&VM].logs.len();
        let before = logs(w);
        let all = points(w).await;
        made(w, PointSelector::Id(oldest(&all, true).id)).await;
        for _ in 0..120 {
            w.write(1);
            w.run(10).await;
        }
        assert!(logs(w) <= before + 3, "{} logs, {before} before", logs(w));
        ended(w).await;
        w.check(B).unwrap();
    });
}

async fn one_test(w: &mut World, selector: PointSelector, wanted: &PointView) {
    let before = points(w).await;
    let want = truth(w, wanted);
    made(w, selector).await;
    assert_eq!(tested(w), want, "the test is of the chosen point");
    assert_eq!(test(w).unwrap().instant, wanted.instant);
    let (was, state_before) = (durable(w, B).sequence(), state(w, B));
    // The guest of the test writes as well, and nobody but itself may notice.
    for _ in 0..12 {
        w.write(20);
        w.run(5).await;
        w.check(B).unwrap();
    }
    assert_ne!(tested(w), want);
    assert!(durable(w, B).sequence() >= was + 5, "replication goes on");
    assert!(points(w).await[0].instant > before[0].instant, "points are made");
    assert_eq!(state(w, B), state_before);
    let shown = w.view(B).await.unwrap().replication.unwrap();
    assert_eq!(shown.health, Health::Ok, "{:?}", shown.health_notes);
    ended(w).await;
    over(w).await;
    w.run(40).await;
    w.check(B).unwrap();
    assert_eq!(branches(w), 0);
    assert!(points(w).await.len() < 30, "points expire again");
}

async fn story(w: &mut World) {
    refused(w, A, start_test(PointSelector::Latest), 32775).await;
    history(w).await;
    refused(w, A, start_test(PointSelector::Latest), 32775).await;
    refused(w, B, stop_test(), 32775).await;
    let newest = points(w).await[0].clone();
    one_test(w, PointSelector::Latest, &newest).await;
    for sealed in [true, false] {
        let point = oldest(&points(w).await, sealed);
        one_test(w, PointSelector::Id(point.id.clone()), &point).await;
    }
    assert!(w.recorded(B).unwrap().replica().unwrap().last_test.is_some());
}

#[test]
fn a_test_is_a_vm_of_its_own_and_replication_goes_on() {
    for seed in 1..5 {
        simulate(seed, story);
    }
}

async fn like_others(w: &mut World) {
    w.insist(
        B,
        Action::StartVm {
            vm: named(),
            force: false,
        },
    )
    .await
    .unwrap();
    refused(w, B, start_vm(), 32775).await;
    w.insist(B, Action::Screenshot { vm: named() }).await.unwrap();
    w.insist(
        B,
        Action::StopVm {
            vm: named(),
            force: false,
        },
    )
    .await
    .unwrap();
    w.insist(
        B,
        Action::StartVm {
            vm: named(),
            force: false,
        },
    )
    .await
    .unwrap();
    // The daemon may die meanwhile; the test is none of its memory.
    w.restart(B).await;
    assert_eq!(listed(w).await[1].power, PowerState::Running);
    w.insist(
        B,
        Action::StopVm {
            vm: named(),
            force: true,
        },
    )
    .await
    .unwrap();
}

#[test]
fn the_test_vm_is_a_vm_like_others_detached_and_with_an_identity_of_its_own() {
    simulate(11, async |w| {
        let nic = |mac: &str, backend| NicSpec {
            mac: mac.into(),
            backend,
        };
        let cards = vec![
            nic("52:54:00:00:00:01", NicBackend::User),
            nic("52:54:00:00:00:02", NicBackend::None),
        ];
        w.shared.state().hosts[A].local[0].nics = cards.clone();
        w.restart(A).await;
        history(w).await;
        let (vm, point) = (World::vm(), PointSelector::Latest);
        let off = Action::StartTest {
            vm,
            point,
            start: false,
        };
        assert_eq!(job(w, B, off).await.unwrap(), JobState::Completed);
        let vms = listed(w).await;
        let (replica, vm) = (&vms[0], &vms[1]);
        assert_eq!((vm.spec.name.as_str(), vm.power), ("web - Test", PowerState::Off));
        assert_ne!(vm.spec.uuid, VM);
        let macs = |v: &VmView| v.spec.nics.iter().map(|n| n.mac.clone()).collect::<Vec<_>>();
        assert_eq!(macs(vm), macs(replica));
        assert!(vm.spec.nics.iter().all(|n| n.backend == NicBackend::None));
        assert_eq!(replica.spec.nics, cards);
        let shown = vm.replication.as_ref().unwrap();
        assert_eq!((shown.mode, shown.state), (Mode::TestReplica, State::Disabled));
        assert_eq!(
            (shown.health, shown.health_notes.len()),
            (Health::NotApplicable, 0)
        );
        like_others(w).await;
        let vm = named;
        for action in [
            Action::SuspendReplication {
                vm: vm(),
                relationship: RelationshipRef::Usual,
            },
            Action::RemoveReplication {
                vm: vm(),
                relationship: RelationshipRef::Usual,
            },
            Action::CommitFailover { vm: vm() },
            Action::StartTest {
                vm: vm(),
                point: PointSelector::Latest,
                start: false,
            },
            Action::EnableReplication {
                vm: vm(),
                settings: World::settings(),
            },
            Action::SetFailoverNetwork {
                vm: vm(),
                cards: Vec::new(),
            },
        ] {
            refused(w, B, action, 32775).await;
        }
        refused(w, B, Action::StopTest { vm: vm() }, 32776).await;
        // One at a time; and the replica stays while there is one.
        refused(w, B, start_test(PointSelector::Latest), 32775).await;
        refused(w, B, remove(), 32774).await;
        w.run(20).await;
        ended(w).await;
        over(w).await;
        w.insist(B, remove()).await.unwrap();
    });
}

#[test]
fn a_name_that_is_taken_and_a_copy_that_is_not_complete_are_refused() {
    simulate(12, async |w| {
        w.insist(A, enable()).await.unwrap();
        refused(w, B, start_test(PointSelector::Latest), 32775).await;
        w.insist(A, start_copy()).await.unwrap();
        eventually(w, "replication", |w| state(w, B) == State::Replicating).await;
        let mut other = w.shared.state().hosts[A].local[0].clone();
        other.name = "web - Test".into();
        other.uuid = lifeboat_model::VmId(uuid::Uuid::from_u128(77));
        w.shared.state().hosts[B].local.push(other);
        w.restart(B).await;
        refused(w, B, start_test(PointSelector::Latest), 32774).await;
    });
}

#[test]
fn a_failover_goes_on_beside_a_test_and_a_commit_ends_it() {
    simulate(13, async |w| {
        history(w).await;
        w.cut(true);
        w.run(60).await;
        made(w, PointSelector::Latest).await;
        let before = test(w).unwrap();
        assert_eq!(
            job(w, B, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        w.write(30);
        assert_eq!(job(w, B, revert()).await.unwrap(), JobState::Completed);
        assert_eq!(test(w).as_ref(), Some(&before), "a revert leaves the test alone");
        assert_eq!(listed(w).await[1].power, PowerState::Running);
        assert_eq!(
            job(w, B, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        // Another point is tried before the decision.
        ended(w).await;
        let other = points(w).await.pop().unwrap();
        let want = truth(w, &other);
        made(w, PointSelector::Id(other.id)).await;
        assert_eq!(tested(w), want);
        assert_eq!(
            (state(w, B), phase(w)),
            (State::Recovered, Some(FailoverPhase::Ready))
        );
        w.write(30);
        let vm = test(w).unwrap().vm;
        assert_eq!(job(w, B, commit()).await.unwrap(), JobState::Completed);
        over(w).await;
        assert_eq!(w.shared.state().hosts[B].processes[&vm].power, PowerState::Off);
        w.run(30).await;
        assert_eq!(phase(w), Some(FailoverPhase::Done));
        refused(w, B, start_test(PointSelector::Latest), 32775).await;
        w.check(B).unwrap();
    });
}

#[test]
fn a_planned_failover_ends_the_test_on_its_way() {
    simulate(18, async |w| {
        history(w).await;
        made(w, PointSelector::Latest).await;
        w.insist(A, planned(true)).await.unwrap();
        eventually(w, "the VM starts there", |w| w.runs(B)).await;
        healthy(w, B, A).await;
        assert_eq!(listed(w).await.len(), 1);
        assert_eq!(w.shared.state().hosts[B].catalog.relationships.len(), 1);
        let s = w.shared.state();
        let mut others = s.hosts[B].processes.iter().filter(|(id, _)| **id != VM);
        assert!(others.all(|(_, p)| p.power == PowerState::Off));
    });
}

#[test]
fn a_suspended_replica_can_be_tested() {
    simulate(14, async |w| {
        history(w).await;
        w.insist(B, suspend()).await.unwrap();
        made(w, PointSelector::Latest).await;
        assert_eq!(state(w, B), State::Suspended);
        ended(w).await;
        w.insist(B, resume()).await.unwrap();
        over(w).await;
        w.run(60).await;
        w.check(B).unwrap();
    });
}

#[test]
fn a_test_that_cannot_be_made_is_cleared_away_and_reported() {
    simulate(15, async |w| {
        history(w).await;
        w.shared.state().hosts[B].store_full = true;
        assert_eq!(
            job(w, B, start_test(PointSelector::Latest)).await.unwrap(),
            JobState::Exception
        );
        w.shared.state().hosts[B].store_full = false;
        let jobs = w.jobs(B);
        let told = jobs.iter().find(|j| j.kind == JobType::TestFailover).unwrap();
        assert!(told.error.as_ref().unwrap().contains("no space"), "{told:?}");
        eventually(w, "the end of the test", |w| test(w).is_none()).await;
        over(w).await;
        w.run(40).await;
        w.check(B).unwrap();
        made(w, PointSelector::Latest).await;
    });
}

#[test]
fn during_a_resynchronization_sealed_points_can_be_tested() {
    simulate(17, async |w| {
        history(w).await;
        let cycle = oldest(&points(w).await, false);
        w.write(20);
        w.kill_vm(A);
        w.run(15).await;
        w.insist(A, start_vm()).await.unwrap();
        eventually(w, "the loss", |w| {
            state(w, A) == State::WaitingToStartResynchronization
        })
        .await;
        w.insist(A, resync()).await.unwrap();
        // One piece arrives, the closing cycle does not.
        for _ in 0..5000 {
            if w.shared.state().sync_blocks > 0 {
                break;
            }
            w.pause(1).await;
        }
        w.cut(true);
        w.run(5).await;
        assert_eq!(state(w, B), State::Resynchronizing);
        refused(w, B, start_test(PointSelector::Id(cycle.id)), 32775).await;
        made(w, PointSelector::Latest).await;
        let point = points(w)
            .await
            .into_iter()
            .find(|p| matches!(p.target, Target::Point { .. }))
            .unwrap();
        assert_eq!(test(w).unwrap().target, point.target);
        assert_eq!(tested(w), truth(w, &point));
        w.cut(false);
        healthy(w, A, B).await;
        ended(w).await;
        over(w).await;
        w.check(B).unwrap();
    });
}

/// The record of a test VM is not mistaken for a replica's by anybody.
#[test]
fn the_record_of_a_test_vm_names_its_replica() {
    simulate(16, async |w| {
        history(w).await;
        made(w, PointSelector::Latest).await;
        let want = test(w).unwrap();
        let s = w.shared.state();
        let rel = s.hosts[B]
            .catalog
            .relationships
            .iter()
            .find(|r| r.vm == want.vm)
            .unwrap();
        assert_eq!(
            rel.side,
            Side::Test {
                of: VM,
                branch: want.branch
            }
        );
        assert_eq!((rel.mode, rel.state), (Mode::TestReplica, State::Disabled));
    });
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Saga {
    Start,
    StartCycle,
    Stop,
    Commit,
}

async fn prepare(saga: Saga, w: &mut World) -> PointSelector {
    history(w).await;
    match saga {
        Saga::Start => {}
        Saga::StartCycle => return PointSelector::Id(oldest(&points(w).await, false).id),
        Saga::Stop => made(w, PointSelector::Latest).await,
        Saga::Commit => {
            made(w, PointSelector::Latest).await;
            w.cut(true);
            w.run(5).await;
            assert_eq!(
                job(w, B, failover(PointSelector::Latest)).await.unwrap(),
                JobState::Completed
            );
        }
    }
    PointSelector::Latest
}

fn ready(w: &World) -> bool {
    let Some(test) = test(w) else { return false };
    let s = w.shared.state();
    let process = s.hosts[B].processes.get(&test.vm);
    test.phase == TestPhase::Ready && process.is_some_and(|p| p.power == PowerState::Running)
}

async fn run(saga: Saga, w: &World, point: PointSelector) {
    match saga {
        Saga::Start | Saga::StartCycle => {
            let there = |w: &World| test(w).is_some_and(|t| t.phase == TestPhase::Ready);
            insist_until(w, B, start_test(point), there).await;
            // A start that failed is told, and the VM is there to be started again.
            insist_until(
                w,
                B,
                Action::StartVm {
                    vm: named(),
                    force: false,
                },
                ready,
            )
            .await;
        }
        Saga::Stop => insist_until(w, B, stop_test(), |w| test(w).is_none()).await,
        Saga::Commit => insist_until(w, B, commit(), |w| phase(w) == Some(FailoverPhase::Done)).await,
    }
}

async fn whole(saga: Saga, w: &mut World) {
    w.run(30).await;
    w.check(B).unwrap();
    let open = w.jobs(B).into_iter().find(|j| !j.state.is_final());
    assert!(open.is_none(), "left behind: {open:?}");
    if matches!(saga, Saga::Start | Saga::StartCycle) {
        assert!(ready(w));
        assert_eq!(listed(w).await.len(), 2);
        insist_until(w, B, stop_test(), |w| test(w).is_none()).await;
    }
    over(w).await;
    if saga == Saga::Commit {
        return;
    }
    let before = durable(w, B).sequence();
    w.write(20);
    w.run(60).await;
    assert!(durable(w, B).sequence() > before, "no progress");
    w.check(B).unwrap();
    assert_eq!(branches(w), 0, "a branch is left behind");
    let problem = w.recorded(B).unwrap().problem;
    assert!(problem.is_none(), "{problem:?}");
}

fn every_step(saga: Saga) {
    let steps = Steps {
        bytes: SYS_BYTES,
        failing: &[B],
        ..Steps::of(&saga)
    };
    steps.each_fails_once(
        async |w| prepare(saga, w).await,
        async |w, point| run(saga, w, point.clone()).await,
        async |w, _| whole(saga, w).await,
    );
}

sagas! {
    every_step_of_a_test Start,
    every_step_of_a_test_of_a_cycle StartCycle,
    every_step_of_ending_a_test Stop,
    every_step_of_a_commit_beside_a_test Commit,
}
