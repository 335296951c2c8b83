//! What hypervisors are told of machines while roles change, that a start of the daemon says it again, and what happens when one
//! does not listen. That no VM is started of which its hypervisor does not know, the simulated host notices in every test.

use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_engine::ports::hypervisor::Role::{FailedOver, Primary, Replica, Test};
use lifeboat_engine::records::FailoverPhase;
use lifeboat_model::{JobState, ReplicationHealth as Health, ReplicationState as State, VmId};
use lifeboat_sim::Order::{Define, Free, Hold, Undefine};
use lifeboat_sim::harness::{
    A, B, cancel_planned, commit, completed, durable, events, eventually, failover, flows, healthy, job,
    phase, planned, points, prepare, replicating, replication, revert, said, simulate, start_test, start_vm,
    state, stop_test, stop_vm,
};
use lifeboat_sim::{Order, VM, World};

/// What a host's hypervisor was told of a VM, without what was only said again.
fn told(w: &World, host: usize, vm: VmId) -> Vec<Order> {
    let mut told: Vec<Order> = Vec::new();
    for (_, order) in w.shared.state().hosts[host]
        .orders
        .iter()
        .filter(|(v, _)| *v == vm)
    {
        if told.last() != Some(order) {
            told.push(*order);
        }
    }
    told
}

fn test_vm(w: &World) -> VmId {
    let s = w.shared.state();
    let test = s.hosts[B].orders.iter().find(|(vm, _)| *vm != VM);
    test.expect("a machine of another VM").0
}

async fn becomes(w: &World, host: usize, vm: VmId, wanted: &[Order]) {
    let what = format!("{wanted:?} on {host}");
    eventually(w, &what, |w| told(w, host, vm).len() >= wanted.len()).await;
    assert_eq!(told(w, host, vm), wanted);
}

#[test]
fn a_hypervisor_is_told_of_every_role_of_a_machine() {
    simulate(1, async |w| {
        let (mut a, mut b) = (vec![Free], vec![Define(Replica)]);
        replicating(w).await;
        becomes(w, A, VM, &a).await;
        becomes(w, B, VM, &b).await;

        w.run(40).await;
        completed(w, B, start_test(PointSelector::Latest)).await;
        let test = test_vm(w);
        becomes(w, B, test, &[Define(Test)]).await;
        completed(w, B, stop_test()).await;
        becomes(w, B, test, &[Define(Test), Undefine]).await;

        w.cut(true);
        w.guest_off(A);
        w.run(60).await;
        completed(w, B, failover(PointSelector::Latest)).await;
        b.push(Define(FailedOver));
        becomes(w, B, VM, &b).await;
        w.insist(B, stop_vm(true)).await.unwrap();
        completed(w, B, revert()).await;
        b.push(Define(Replica));
        becomes(w, B, VM, &b).await;
        w.cut(false);
        w.insist(A, start_vm()).await.unwrap();
        healthy(w, A, B).await;

        // There and back: the copy that yields is held where it is the host's own, and without disks where it is not.
        w.insist(A, planned(true)).await.unwrap();
        eventually(w, "the VM starts there", |w| w.runs(B)).await;
        healthy(w, B, A).await;
        a.push(Hold);
        b.extend([Define(FailedOver), Define(Primary)]);
        becomes(w, A, VM, &a).await;
        becomes(w, B, VM, &b).await;
        w.insist(B, planned(true)).await.unwrap();
        eventually(w, "the VM starts here", |w| w.runs(A)).await;
        healthy(w, A, B).await;
        a.extend([Define(FailedOver), Define(Primary)]);
        b.extend([Hold, Define(Replica)]);
        becomes(w, A, VM, &a).await;
        becomes(w, B, VM, &b).await;

        w.insist(B, remove()).await.unwrap();
        b.push(Undefine);
        becomes(w, B, VM, &b).await;
        assert!(w.shared.state().hosts[B].machines.is_empty());
        w.insist(A, remove()).await.unwrap();
        w.run(10).await;
        assert_eq!(told(w, A, VM), a, "the VM lives on, on the disks it has");
    });
}

fn remove() -> Action {
    Action::RemoveReplication {
        vm: World::vm(),
        relationship: Default::default(),
    }
}

#[test]
fn a_prepared_primary_is_held_until_that_is_cancelled() {
    simulate(2, async |w| {
        replicating(w).await;
        assert_eq!(job(w, A, prepare()).await.unwrap(), JobState::Completed);
        becomes(w, A, VM, &[Free, Hold]).await;
        // Another daemon does not know what the last one said.
        let orders = w.shared.state().hosts[A].orders.len();
        w.restart(A).await;
        eventually(w, "it is said again", |w| {
            w.shared.state().hosts[A].orders.len() > orders
        })
        .await;
        assert_eq!(told(w, A, VM), [Free, Hold]);
        w.insist(A, cancel_planned(false)).await.unwrap();
        becomes(w, A, VM, &[Free, Hold, Free]).await;
        w.insist(A, start_vm()).await.unwrap();
        healthy(w, A, B).await;
    });
}

#[test]
fn a_start_of_the_daemon_says_everything_again() {
    simulate(3, async |w| {
        replicating(w).await;
        becomes(w, B, VM, &[Define(Replica)]).await;
        // It was taken back behind the daemon's back.
        w.shared.state().hosts[B].machines.clear();
        w.restart(B).await;
        eventually(w, "it is there again", |w| {
            w.shared.state().hosts[B].machines.contains_key(&VM)
        })
        .await;
        healthy(w, A, B).await;
    });
}

#[test]
fn a_hypervisor_that_takes_no_machine_is_a_problem_and_no_loss() {
    const WHY: &str = "no space for its definition";
    let refused = |w: &World, why: Option<&str>| {
        w.shared.state().hosts[B].takes_no_machines = why.map(str::to_owned);
    };
    simulate(4, async |w| {
        refused(w, Some(WHY));
        replicating(w).await;
        for _ in 0..6 {
            w.write(10);
            w.run(10).await;
        }
        // Data arrives and is sealed as if nothing was.
        assert!(flows(w, A, B) && points(w).await.len() > 1);
        let view = replication(w, B).await;
        assert_eq!(view.health, Health::Warning);
        assert!(view.health_notes.iter().any(|n| n.text.contains(WHY)), "{view:?}");
        assert_eq!(events(w, B, WHY).len(), 1, "said once, tried often");
        let before = durable(w, B);
        w.run(30).await;
        assert!(durable(w, B) != before);

        // A failover makes its disks, and says why no VM runs on them.
        w.cut(true);
        w.guest_off(A);
        w.run(60).await;
        assert_eq!(
            job(w, B, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Exception
        );
        assert_eq!(state(w, B), State::Recovered);
        assert!(said(w, B, "the VM did not start") && !w.runs(B));

        refused(w, None);
        eventually(w, "it is defined", |w| told(w, B, VM) == [Define(FailedOver)]).await;
        assert!(said(w, B, "has taken the VM's definition"));
        w.insist(B, start_vm()).await.unwrap();
        assert!(w.runs(B));
        let view = replication(w, B).await;
        assert!(
            !view.health_notes.iter().any(|n| n.text.contains(WHY)),
            "{view:?}"
        );
        completed(w, B, commit()).await;
        eventually(w, "it is merged", |w| phase(w) == Some(FailoverPhase::Done)).await;
        becomes(w, B, VM, &[Define(FailedOver), Define(Primary)]).await;
    });
}

#[test]
fn a_hypervisor_that_does_not_answer_stops_no_replication() {
    simulate(6, async |w| {
        w.shared.state().hangs.insert((B, "hv.define"));
        replicating(w).await;
        for _ in 0..12 {
            let before = durable(w, B);
            w.write(10);
            w.run(30).await;
            assert!(durable(w, B) != before);
        }
        assert!(said(w, B, "has not answered for 5 s"));
        w.shared.state().hangs.clear();
        becomes(w, B, VM, &[Define(Replica)]).await;
        healthy(w, A, B).await;
    });
}

#[test]
fn a_chain_that_the_hypervisor_does_not_open_is_refused_and_an_older_point_is_not() {
    simulate(5, async |w| {
        replicating(w).await;
        w.shared.state().hosts[B].max_images = Some(3);
        for _ in 0..10 {
            w.write(10);
            w.run(10).await;
        }
        w.cut(true);
        w.guest_off(A);
        w.run(60).await;
        let listed = points(w).await;
        assert!(listed.len() > 2, "{listed:?}");
        assert_eq!(
            job(w, B, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Exception
        );
        assert!(said(w, B, "opens at most 3"));
        assert_eq!((state(w, B), w.runs(B)), (State::Replicating, false));
        let oldest = PointSelector::Id(listed.last().unwrap().id.clone());
        completed(w, B, failover(oldest)).await;
        assert!(w.runs(B));
    });
}
