//! What is asked of a replica about the third host: made and started apart, at a time, changed, compared anew, given up.

use lifeboat_engine::action::{Action, Answer, InitialCopy, RelationshipRef};
use lifeboat_engine::records::Job;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{
    JobState, JobType, ReplicationMode as Mode, ReplicationSettings, ReplicationState as State, Timestamp,
};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, THIRD, cancel_planned, chain, eventually, extended, job, mode, refused, replicating,
    simulate_three, state,
};
use lifeboat_sim::{VM, World};

fn settings() -> ReplicationSettings {
    ReplicationSettings {
        peer: "c:7000".into(),
        interval_s: 15,
        ..World::settings()
    }
}

fn extend(start: bool) -> Action {
    Action::ExtendReplication {
        vm: World::vm(),
        settings: settings(),
        start,
    }
}

fn start(how: InitialCopy, at: Option<Timestamp>) -> Action {
    Action::StartReplication {
        vm: World::vm(),
        how,
        at,
        relationship: Default::default(),
    }
}

fn resync(at: Option<Timestamp>) -> Action {
    Action::Resynchronize {
        vm: World::vm(),
        at,
        relationship: Default::default(),
    }
}

fn modify(change: impl FnOnce(&mut ReplicationSettings)) -> Action {
    let mut settings = settings();
    change(&mut settings);
    Action::ModifyReplication {
        vm: World::vm(),
        settings,
        relationship: Default::default(),
    }
}

fn resume_outgoing() -> Action {
    let relationship = RelationshipRef::Outgoing;
    Action::ResumeReplication {
        vm: World::vm(),
        relationship,
    }
}

fn cancel() -> Action {
    Action::CancelInitialCopy {
        vm: World::vm(),
        relationship: RelationshipRef::Outgoing,
    }
}

fn third(w: &World) -> State {
    extended(w, REPLICA).map_or(State::Disabled, |e| e.state)
}

fn follows(w: &World) -> bool {
    let s = w.shared.state();
    let at = |h: usize| s.hosts[h].replicas.get(&VM).map(|r| (r.durable, r.applied));
    let equal = at(THIRD).is_some() && at(REPLICA) == at(THIRD);
    drop(s);
    equal && extended(w, REPLICA).is_some_and(|e| e.state == State::Replicating && e.problem.is_none())
}

fn open(w: &World) -> Vec<Job> {
    let all = w.jobs(REPLICA).into_iter();
    all.filter(|j| !j.state.is_final()).collect()
}

fn hours(w: &World, n: u64) -> Option<Timestamp> {
    Some(Timestamp(w.shared.now().0 + n * 3_600_000))
}

/// Whether the third host was made equal by pieces of a comparison; an instant that is forwarded needs none.
fn compared(w: &World) -> bool {
    let s = w.shared.state();
    s.hosts[THIRD].replicas[&VM].logs.iter().any(|l| l.log.partial)
}

#[test]
fn an_extended_relationship_is_created_first_and_started_later() {
    simulate_three(1, async |w| {
        replicating(w).await;
        assert_eq!(
            refused(w, REPLICA, start(InitialCopy::Network, None)).await.code,
            ReturnCode::InvalidState
        );
        assert_eq!(w.insist(REPLICA, extend(false)).await.unwrap(), Answer::Done);
        assert_eq!(
            (third(w), mode(w, THIRD)),
            (State::ReadyForReplication, Mode::ExtendedReplica)
        );
        assert_eq!(state(w, THIRD), State::WaitingToCompleteInitialReplication);
        assert!(open(w).is_empty());
        for _ in 0..12 {
            w.write(5);
            w.run(10).await;
        }
        w.restart(REPLICA).await;
        assert_eq!(third(w), State::ReadyForReplication, "nothing begins by itself");
        assert_eq!(
            refused(w, REPLICA, extend(false)).await.code,
            ReturnCode::InvalidState
        );
        assert_eq!(refused(w, REPLICA, cancel()).await.code, ReturnCode::InvalidState);
        assert_eq!(
            refused(w, REPLICA, resync(None)).await.code,
            ReturnCode::InvalidState
        );
        for how in [InitialCopy::Seed, InitialCopy::Export { dir: "/m".into() }] {
            assert_eq!(
                refused(w, REPLICA, start(how, None)).await.code,
                ReturnCode::NotSupported
            );
        }
        assert_eq!(
            job(w, REPLICA, start(InitialCopy::Network, None)).await.unwrap(),
            JobState::Completed
        );
        eventually(w, "the third host follows", follows).await;
        assert_eq!(
            refused(w, REPLICA, start(InitialCopy::Network, None)).await.code,
            ReturnCode::InvalidState
        );
        w.check_all().unwrap();
    });
}

#[test]
fn a_scheduled_copy_to_the_third_host_starts_at_its_time_or_is_cancelled() {
    simulate_three(2, async |w| {
        replicating(w).await;
        w.insist(REPLICA, extend(false)).await.unwrap();
        let at = hours(w, 170);
        assert_eq!(
            refused(w, REPLICA, start(InitialCopy::Network, at)).await.code,
            ReturnCode::InvalidParameter
        );
        let at = hours(w, 1);
        w.insist(REPLICA, start(InitialCopy::Network, at)).await.unwrap();
        assert_eq!((third(w), open(w).len()), (State::ReadyForReplication, 1));
        w.insist(REPLICA, cancel()).await.unwrap();
        assert!(open(w).is_empty() && extended(w, REPLICA).unwrap().scheduled.is_none());
        w.run(3700).await;
        assert_eq!(third(w), State::ReadyForReplication);
        let at = hours(w, 1);
        w.insist(REPLICA, start(InitialCopy::Network, at)).await.unwrap();
        w.restart(REPLICA).await;
        assert_eq!(open(w).len(), 1, "a restart does not forget it");
        w.run(3700).await;
        eventually(w, "the third host follows", follows).await;
        assert!(open(w).is_empty());
        // The same for a comparison.
        let at = hours(w, 1);
        w.insist(REPLICA, resync(at)).await.unwrap();
        let waits = open(w).remove(0);
        assert_eq!(
            (waits.kind, third(w)),
            (JobType::ResyncExtended, State::Replicating)
        );
        w.insist(REPLICA, Action::CancelJob { job: waits.id })
            .await
            .unwrap();
        assert!(open(w).is_empty());
        let at = hours(w, 1);
        w.insist(REPLICA, resync(at)).await.unwrap();
        assert!(!compared(w));
        w.run(3700).await;
        eventually(w, "it is compared", |w| follows(w) && open(w).is_empty()).await;
        let ended = w
            .jobs(REPLICA)
            .into_iter()
            .any(|j| j.kind == JobType::ResyncExtended && j.state == JobState::Completed);
        assert!(ended || compared(w));
        w.check_all().unwrap();
    });
}

#[test]
fn a_requested_comparison_runs_although_logs_would_do() {
    for seed in 3..6 {
        simulate_three(seed, async |w| {
            chain(w).await;
            let before = w.shared.state().sync_blocks;
            assert!(!compared(w));
            assert_eq!(job(w, REPLICA, resync(None)).await.unwrap(), JobState::Completed);
            let ended = w
                .jobs(REPLICA)
                .into_iter()
                .find(|j| j.kind == JobType::ResyncExtended);
            assert_eq!(ended.unwrap().state, JobState::Completed);
            eventually(w, "the third host follows", follows).await;
            assert!(compared(w), "logs alone came");
            assert!(
                w.shared.state().sync_blocks - before < 200,
                "the copies were nearly equal"
            );
            w.write(20);
            w.run(60).await;
            w.check_all().unwrap();
        });
    }
}

#[test]
fn a_comparison_with_the_third_host_is_cancelled_and_started_again() {
    simulate_three(6, async |w| {
        chain(w).await;
        w.cut_between(REPLICA, THIRD, true);
        let answer = w.insist(REPLICA, resync(None)).await.unwrap();
        let Answer::Job(first) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(third(w), State::Resynchronizing);
        // Asked again: the same.
        assert!(matches!(w.insist(REPLICA, resync(None)).await.unwrap(), Answer::Job(j) if j.id == first.id));
        w.insist(REPLICA, cancel()).await.unwrap();
        assert_eq!(third(w), State::WaitingToStartResynchronization);
        assert!(open(w).is_empty());
        w.cut_between(REPLICA, THIRD, false);
        let stands = w.shared.state().hosts[THIRD].replicas[&VM].durable;
        w.write(20);
        w.run(60).await;
        assert_eq!(
            w.shared.state().hosts[THIRD].replicas[&VM].durable,
            stands,
            "nothing is sent"
        );
        assert_eq!(refused(w, REPLICA, cancel()).await.code, ReturnCode::InvalidState);
        assert_eq!(
            refused(w, REPLICA, resume_outgoing()).await.code,
            ReturnCode::InvalidState
        );
        assert_eq!(job(w, REPLICA, resync(None)).await.unwrap(), JobState::Completed);
        eventually(w, "the third host follows", follows).await;
        assert_eq!(refused(w, REPLICA, cancel()).await.code, ReturnCode::InvalidState);
        // A copy as well.
        w.insist(
            REPLICA,
            Action::RemoveReplication {
                vm: World::vm(),
                relationship: RelationshipRef::Outgoing,
            },
        )
        .await
        .unwrap();
        assert_eq!(refused(w, REPLICA, cancel()).await.code, ReturnCode::InvalidState);
        w.cut_between(REPLICA, THIRD, true);
        w.cut_between(REPLICA, THIRD, false);
        w.insist(REPLICA, extend(true)).await.unwrap();
        w.insist(REPLICA, cancel()).await.unwrap();
        assert_eq!(third(w), State::ReadyForReplication);
        assert!(open(w).is_empty());
        // What is asked of the first relationship does not mean the other one.
        assert_eq!(
            refused(
                w,
                REPLICA,
                Action::CancelInitialCopy {
                    vm: World::vm(),
                    relationship: Default::default()
                }
            )
            .await
            .code,
            ReturnCode::InvalidState
        );
        assert_eq!(
            refused(w, REPLICA, cancel_planned(false)).await.code,
            ReturnCode::InvalidState
        );
    });
}

#[test]
fn an_extended_relationship_has_settings_and_statistics_of_its_own() {
    simulate_three(7, async |w| {
        chain(w).await;
        let own = w.recorded(REPLICA).unwrap().settings;
        w.insist(
            REPLICA,
            modify(|s| {
                s.interval_s = 30;
                s.history = 1;
                s.compression = false;
            }),
        )
        .await
        .unwrap();
        let there = extended(w, REPLICA).unwrap().settings;
        assert_eq!(
            (there.interval_s, there.history, there.compression),
            (30, 1, false)
        );
        assert_eq!(w.recorded(REPLICA).unwrap().settings, own);
        eventually(w, "the third host knows", |w| {
            w.recorded(THIRD).unwrap().settings.history == 1
        })
        .await;
        eventually(w, "the third host follows", follows).await;
        for bad in [
            modify(|s| s.interval_s = 5),
            modify(|s| s.application_h = 2),
            modify(|s| s.peer = "a:7000".into()),
            modify(|s| s.history = 99),
        ] {
            assert_eq!(refused(w, REPLICA, bad).await.code, ReturnCode::InvalidParameter);
        }
        assert_eq!(
            refused(w, REPLICA, modify(|s| s.peer = "nowhere:7000".into()))
                .await
                .code,
            ReturnCode::Unavailable
        );
        w.cut_between(REPLICA, THIRD, true);
        assert_eq!(
            refused(w, REPLICA, modify(|s| s.history = 2)).await.code,
            ReturnCode::Unavailable
        );
        w.cut_between(REPLICA, THIRD, false);
        assert_eq!(extended(w, REPLICA).unwrap().settings.history, 1);
        eventually(w, "a log is forwarded", |w| {
            extended(w, REPLICA).unwrap().counters.cycles > 0
        })
        .await;
        assert!(extended(w, REPLICA).unwrap().counters.cycles > 0);
        let reset = |relationship| Action::ResetStatistics {
            vm: World::vm(),
            relationship,
        };
        w.insist(REPLICA, reset(RelationshipRef::Usual)).await.unwrap();
        assert!(extended(w, REPLICA).unwrap().counters.cycles > 0);
        let first = w.recorded(REPLICA).unwrap().counters.since;
        w.insist(REPLICA, reset(RelationshipRef::Outgoing)).await.unwrap();
        assert!(extended(w, REPLICA).unwrap().counters.cycles <= 1);
        assert_eq!(
            w.recorded(REPLICA).unwrap().counters.since,
            first,
            "the other goes on"
        );
        assert_eq!(
            refused(w, PRIMARY, reset(RelationshipRef::Outgoing)).await.code,
            ReturnCode::InvalidState
        );
    });
}
