//! A → B → C: what the replica gets goes on to a third host, which is a replica like any other. Logs are forwarded as they
//! are; when they are gone, digests find the difference; and after a commit the middle goes on as the primary.

use lifeboat_engine::action::{Action, PointSelector, RelationshipRef};
use lifeboat_model::Hint;
use lifeboat_model::hint;
use lifeboat_model::{JobState, ReplicationMode as Mode, ReplicationSettings, ReplicationState as State};
use lifeboat_sim::harness::{
    A, B, C, Steps, THREE_HOSTS, chain, commit, durable, eventually, extend, extended, failover, flows,
    follows, healthy, insist_until, job, mode, moved, planned, refused, replicating, resync, revert,
    simulate_three, simulate_with, start_copy, start_vm, state, taken_over,
};
use lifeboat_sim::{VM, World};

fn settings(peer: &str) -> ReplicationSettings {
    ReplicationSettings {
        peer: peer.into(),
        interval_s: 15,
        ..World::settings()
    }
}

fn suspend() -> Action {
    Action::SuspendReplication {
        vm: World::vm(),
        relationship: RelationshipRef::Outgoing,
    }
}

fn resume() -> Action {
    Action::ResumeReplication {
        vm: World::vm(),
        relationship: RelationshipRef::Outgoing,
    }
}

fn remove() -> Action {
    Action::RemoveReplication {
        vm: World::vm(),
        relationship: RelationshipRef::Outgoing,
    }
}

fn go_on() -> Action {
    Action::ContinueAsPrimary {
        vm: World::vm(),
        relationship: Default::default(),
    }
}

/// Cycles for so many seconds, with guests that write.
async fn cycles(w: &mut World, seconds: u64) {
    for _ in 0..seconds / 5 {
        w.write(10);
        w.run(5).await;
        w.check_all().unwrap();
    }
}

async fn story(w: &mut World) {
    chain(w).await;
    assert_eq!(mode(w, C), Mode::ExtendedReplica);
    let before = moved(w);
    cycles(w, 200).await;
    eventually(w, "the third host follows", |w| follows(w, B)).await;
    assert_eq!(moved(w), before, "forwarding copies nothing anew");
    {
        let s = w.shared.state();
        assert!(
            s.hosts[C].replicas[&VM].points.len() >= 3,
            "it has points of its own"
        );
        let logs = |h: usize| s.hosts[h].replicas[&VM].logs.last().map(|l| l.bytes.clone());
        assert_eq!(logs(B), logs(C), "the bytes are those that were received");
    }
    let said = refused(
        w,
        B,
        Action::RemoveReplication {
            vm: World::vm(),
            relationship: Default::default(),
        },
    )
    .await;
    assert_eq!(said.hint, Some(hint::Extend::RemoveOrContinue.into()), "{said:?}");
    refused(w, B, extend("c:7000")).await;
    refused(w, C, extend("a:7000")).await;
    refused(w, B, go_on()).await;
    let said = refused(w, C, failover(PointSelector::Latest)).await;
    assert!(
        said.message.contains("running"),
        "the first of the chain lives: {said:?}"
    );
    // It can be brought up and put back like any other.
    w.cut_between(A, B, true);
    w.cut_between(B, C, true);
    assert_eq!(
        job(w, C, failover(PointSelector::Latest)).await.unwrap(),
        JobState::Completed
    );
    w.run(30).await;
    assert_eq!(job(w, C, revert()).await.unwrap(), JobState::Completed);
    w.cut_between(A, B, false);
    w.cut_between(B, C, false);
    eventually(w, "the third host follows again", |w| follows(w, B)).await;
    cycles(w, 60).await;
    assert_eq!(moved(w), before, "nothing was copied again");
}

#[test]
fn a_replica_is_extended_and_the_third_host_is_a_replica_like_any_other() {
    for seed in 1..5 {
        simulate_three(seed, story);
    }
}

#[test]
fn invalid_settings_of_an_extended_relationship_are_refused() {
    simulate_three(2, async |w| {
        let with = |change: fn(&mut ReplicationSettings)| {
            let mut settings = settings("c:7000");
            change(&mut settings);
            Action::ExtendReplication {
                vm: World::vm(),
                settings,
                start: true,
            }
        };
        replicating(w).await;
        type Spoil = fn(&mut ReplicationSettings);
        let table: [(Spoil, &str); _] = [
            (|s| s.interval_s = 5, "shorter"),
            (|s| s.application_h = 1, "application"),
            (|s| s.peer = "a:7000".into(), "primary"),
            (|s| s.peer = "c".into(), "HOST:PORT"),
        ];
        for (change, word) in table {
            let said = refused(w, B, with(change)).await;
            assert!(said.message.contains(word), "{said:?}");
        }
        refused(w, A, extend("c:7000")).await;
        for action in [suspend(), resume(), remove()] {
            assert!(refused(w, B, action).await.hint.is_some());
        }
        assert!(extended(w, B).is_none());
    });
}

#[test]
fn an_extended_relationship_is_suspended_resumed_removed_and_made_again_without_a_copy() {
    simulate_three(3, async |w| {
        chain(w).await;
        let before = moved(w);
        w.insist(B, suspend()).await.unwrap();
        let stands = durable(w, C);
        cycles(w, 60).await;
        assert_eq!(durable(w, C), stands);
        w.restart(B).await;
        cycles(w, 60).await;
        assert_eq!(durable(w, C), stands);
        w.insist(B, resume()).await.unwrap();
        eventually(w, "the third host follows", |w| follows(w, B)).await;
        w.insist(B, remove()).await.unwrap();
        assert!(extended(w, B).is_none());
        // Longer than logs are kept for nobody.
        cycles(w, 300).await;
        assert_eq!(moved(w), before);
        assert_eq!(job(w, B, extend("c:7000")).await.unwrap(), JobState::Completed);
        eventually(w, "the third host follows", |w| follows(w, B)).await;
        assert_eq!(moved(w).0, before.0, "only what differs is sent");
        assert!(moved(w).1 > before.1);
        cycles(w, 60).await;
    });
}

#[test]
fn logs_wait_for_a_third_host_that_is_away() {
    simulate_three(4, async |w| {
        chain(w).await;
        let before = moved(w);
        w.cut_between(B, C, true);
        // Far longer than any point is kept.
        cycles(w, 400).await;
        assert_eq!(extended(w, B).unwrap().state, State::Critical);
        w.restart(B).await;
        cycles(w, 200).await;
        w.cut_between(B, C, false);
        eventually(w, "the third host follows", |w| follows(w, B)).await;
        assert_eq!(moved(w), before, "they were all there");
    });
}

#[test]
fn too_many_waiting_logs_are_dropped_and_digests_find_the_difference() {
    simulate_with(5, THREE_HOSTS, 4 << 20, async |w| {
        let (vm, settings) = (World::vm(), World::settings());
        let settings = ReplicationSettings {
            compression: false,
            ..settings
        };
        w.insist(A, Action::EnableReplication { vm, settings })
            .await
            .unwrap();
        w.insist(A, start_copy()).await.unwrap();
        eventually(w, "the first point", |w| state(w, B) == State::Replicating).await;
        assert_eq!(job(w, B, extend("c:7000")).await.unwrap(), JobState::Completed);
        eventually(w, "the third host follows", |w| follows(w, B)).await;
        let before = moved(w);
        w.cut_between(B, C, true);
        let kept = |w: &World| w.shared.state().hosts[B].replicas[&VM].logs.len();
        for _ in 0..40 {
            w.write(2000);
            w.run(10).await;
        }
        let most = 24 << 20;
        let bytes: usize = w.shared.state().hosts[B].replicas[&VM]
            .logs
            .iter()
            .map(|l| l.bytes.len())
            .sum();
        assert!(
            kept(w) < 40 && bytes < most,
            "{bytes} bytes in {} logs are kept",
            kept(w)
        );
        let points: Vec<_> = w.shared.state().hosts[C].replicas[&VM]
            .points
            .iter()
            .map(|p| p.0.id)
            .collect();
        w.cut_between(B, C, false);
        eventually(w, "the third host follows", |w| follows(w, B)).await;
        assert_eq!(moved(w).0, before.0, "nothing is copied anew");
        assert!(moved(w).1 > before.1, "what differs is sent");
        {
            let s = w.shared.state();
            let now = &s.hosts[C].replicas[&VM].points;
            assert!(now.iter().any(|p| points.contains(&p.0.id)), "its points survive");
        }
        w.check_all().unwrap();
    });
}

#[test]
fn nothing_is_forwarded_while_the_middle_host_is_failed_over() {
    simulate_three(6, async |w| {
        chain(w).await;
        let before = moved(w);
        w.cut(true);
        assert_eq!(
            job(w, B, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        let stands = durable(w, C);
        w.write(30);
        w.run(100).await;
        assert_eq!(durable(w, C), stands);
        w.restart(B).await;
        assert_eq!(job(w, B, revert()).await.unwrap(), JobState::Completed);
        w.cut(false);
        eventually(w, "the third host follows", |w| follows(w, B)).await;
        cycles(w, 60).await;
        assert_eq!(moved(w), before, "nothing was copied");
    });
}

#[test]
fn logs_of_a_resynchronization_are_forwarded_like_others() {
    for seed in 1..4 {
        simulate_three(seed, async |w| {
            chain(w).await;
            let before = moved(w);
            w.write(20);
            w.kill_vm(A);
            w.insist(A, start_vm()).await.unwrap();
            eventually(w, "the loss is noticed", |w| {
                state(w, A) == State::WaitingToStartResynchronization
            })
            .await;
            w.write(20);
            w.insist(A, resync()).await.unwrap();
            healthy(w, A, B).await;
            eventually(w, "the third host follows", |w| follows(w, B)).await;
            assert_eq!(moved(w).0, before.0, "nothing is copied");
            cycles(w, 30).await;
        });
    }
}

#[test]
fn a_third_host_that_was_failed_over_gets_nothing_more() {
    simulate_three(8, async |w| {
        chain(w).await;
        w.cut(true);
        w.kill_vm(A);
        assert_eq!(
            job(w, C, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        w.run(30).await;
        assert_eq!(extended(w, B).unwrap().state, State::Critical);
        assert_eq!(job(w, C, commit()).await.unwrap(), JobState::Completed);
        w.write(10);
        w.run(60).await;
        let ext = extended(w, B).unwrap();
        assert_eq!(ext.state, State::Critical);
        assert!(ext.problem.unwrap().message.contains("newer generation"));
        let health = w.view(B).await.unwrap().replication.unwrap().extended.unwrap();
        assert!(!health.health_notes.is_empty());
        w.insist(B, remove()).await.unwrap();
        w.check_all().unwrap();
    });
}

/// The middle host is committed and goes on as the primary of the third. `behind`: the third host does not have the instant
/// that was chosen.
async fn goes_on(w: &mut World, behind: bool) {
    chain(w).await;
    cycles(w, 60).await;
    eventually(w, "the third host follows", |w| follows(w, B)).await;
    if behind {
        w.cut_between(B, C, true);
        cycles(w, 30).await;
    }
    let before = moved(w);
    w.cut(true);
    w.kill_vm(A);
    taken_over(w, PointSelector::Latest, 30).await;
    w.write(20);
    w.cut_between(B, C, false);
    assert_eq!(job(w, B, go_on()).await.unwrap(), JobState::Completed);
    eventually(w, "replication to the third host", |w| flows(w, B, C)).await;
    healthy(w, B, C).await;
    assert_eq!(moved(w).0, before.0, "nothing is copied anew");
    let sent = moved(w).1 - before.1;
    assert!(sent <= 400, "{sent} blocks for less than 100 writes");
    assert!(w.runs(B));
    assert_eq!(mode(w, C), Mode::Replica);
    // And from there back again, like with any other replica.
    assert_eq!(job(w, B, planned(true)).await.unwrap(), JobState::Completed);
    healthy(w, C, B).await;
    assert!(w.runs(C) && !w.runs(B));
}

#[test]
fn after_a_commit_the_middle_host_becomes_the_primary_of_the_third() {
    for seed in 1..4 {
        simulate_three(seed, async |w| goes_on(w, false).await);
    }
}

#[test]
fn after_a_commit_the_middle_host_becomes_the_primary_of_a_third_host_that_is_behind() {
    for seed in 1..4 {
        simulate_three(seed, async |w| goes_on(w, true).await);
    }
}

#[test]
fn a_chain_is_extended_again_after_a_planned_failover() {
    for seed in 1..4 {
        simulate_three(seed, async |w| {
            chain(w).await;
            let before = moved(w);
            w.insist(A, planned(true)).await.unwrap();
            eventually(w, "the roles change", |w| flows(w, B, A)).await;
            assert!(extended(w, B).is_none() && extended(w, A).is_none());
            let events = w.shared.state().hosts[B].events.clone();
            assert!(
                events.iter().any(|e| matches!(&e.hint, Some(Hint::Extend(hint::Extend::ExtendThere { third, .. })) if third == "c:7000")),
                "{events:?}"
            );
            cycles(w, 30).await;
            assert_eq!(job(w, A, extend("c:7000")).await.unwrap(), JobState::Completed);
            eventually(w, "the third host follows the other", |w| follows(w, A)).await;
            assert_eq!(moved(w).0, before.0, "only what differs is sent");
            cycles(w, 60).await;
            eventually(w, "the third host follows the other", |w| follows(w, A)).await;
        });
    }
}

#[test]
fn a_copy_to_the_third_host_can_be_cancelled_and_begun_again() {
    simulate_three(7, async |w| {
        replicating(w).await;
        let Some(Ok(lifeboat_engine::action::Answer::Job(first))) = w.act(B, extend("c:7000")).await else {
            panic!("no job")
        };
        w.insist(B, Action::CancelJob { job: first.id }).await.unwrap();
        assert_eq!(extended(w, B).unwrap().state, State::ReadyForReplication);
        cycles(w, 200).await;
        assert_eq!(job(w, B, extend("c:7000")).await.unwrap(), JobState::Completed);
        eventually(w, "the third host follows", |w| follows(w, B)).await;
    });
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Saga {
    Extend,
    Forward,
    Compare,
    Asked,
    GoOn,
    Remove,
}

async fn prepare(saga: Saga, w: &mut World) {
    match saga {
        Saga::Extend => replicating(w).await,
        Saga::Forward | Saga::Remove | Saga::Asked => chain(w).await,
        Saga::Compare => {
            chain(w).await;
            w.insist(B, remove()).await.unwrap();
            // Longer than logs are kept for nobody.
            w.write(20);
            w.run(160).await;
            w.write(20);
            w.run(20).await;
        }
        Saga::GoOn => {
            chain(w).await;
            w.cut(true);
            w.kill_vm(A);
            taken_over(w, PointSelector::Latest, 30).await;
        }
    }
}

async fn run(saga: Saga, w: &mut World) {
    match saga {
        Saga::Extend | Saga::Compare => insist_until(w, B, extend("c:7000"), |w| follows(w, B)).await,
        Saga::Forward => {
            w.write(20);
            let before = durable(w, C);
            insist_until(w, B, Action::ReplicateNow { vm: World::vm() }, |w| {
                durable(w, C) != before && follows(w, B)
            })
            .await;
        }
        // An instant that is forwarded leaves no piece behind.
        Saga::Asked => {
            insist_until(w, B, resync(), |w| {
                let pieces = w.shared.state().hosts[C].replicas[&VM]
                    .logs
                    .iter()
                    .any(|l| l.log.partial);
                pieces && follows(w, B) && w.jobs(B).iter().all(|j| j.state.is_final())
            })
            .await;
        }
        Saga::Remove => insist_until(w, B, remove(), |w| extended(w, B).is_none()).await,
        Saga::GoOn => insist_until(w, B, go_on(), |w| flows(w, B, C)).await,
    }
}

async fn whole(saga: Saga, w: &mut World) {
    match saga {
        Saga::Extend | Saga::Compare | Saga::Asked | Saga::Forward => {
            cycles(w, 30).await;
            eventually(w, "the third host follows", |w| follows(w, B)).await;
            healthy(w, A, B).await;
            let open = w.jobs(B).into_iter().find(|j| !j.state.is_final());
            assert!(open.is_none(), "left behind: {open:?}");
        }
        Saga::Remove => healthy(w, A, B).await,
        Saga::GoOn => healthy(w, B, C).await,
    }
}

fn every_step(saga: Saga) {
    let steps = Steps {
        hosts: THREE_HOSTS,
        bytes: 2 << 20,
        failing: &[B, C],
        ..Steps::of(&saga)
    };
    steps.each_fails_once(
        async |w| {
            prepare(saga, w).await;
            moved(w).0
        },
        async |w, _| run(saga, w).await,
        async |w, bulk| {
            assert!(saga == Saga::Extend || moved(w).0 == bulk, "copied again");
            whole(saga, w).await;
        },
    );
}

sagas! {
    every_step_of_extending Extend,
    every_step_of_forwarding Forward,
    every_step_of_a_comparison Compare,
    every_step_of_a_comparison_that_was_asked_for Asked,
    every_step_of_going_on_as_the_primary GoOn,
    every_step_of_a_removal Remove,
}
