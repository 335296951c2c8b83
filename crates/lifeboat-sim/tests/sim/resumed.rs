//! A host goes down in the middle of a change of roles: afterwards it says what was under way and what it goes on with, and
//! what was never recorded is said not to be.

use lifeboat_engine::action::{Answer, PointSelector};
use lifeboat_engine::records::PlannedPhase;
use lifeboat_model::JobState;
use lifeboat_sim::harness::{
    A, B, eventually, flows, healthy, planned, replicating, reverse, simulate, taken_over,
};
use lifeboat_sim::{Fault, World};

fn told(w: &World, host: usize, words: &[&str]) -> bool {
    let s = w.shared.state();
    let all = |m: &str| words.iter().all(|word| m.contains(word));
    s.hosts[host].events.iter().any(|e| all(&e.message))
}

async fn noted(w: &World, host: usize, word: &str) -> bool {
    let view = w.view(host).await.unwrap().replication.unwrap();
    view.health_notes.iter().any(|n| n.text.contains(word))
}

fn phase(w: &World) -> Option<PlannedPhase> {
    w.recorded(A)?.primary()?.planned.as_ref().map(|p| p.phase)
}

#[test]
fn a_primary_that_was_cut_says_what_it_goes_on_with() {
    simulate(1, async |w| {
        replicating(w).await;
        let Some(Ok(Answer::Job(job))) = w.act(A, planned(true)).await else {
            panic!("the planned failover does not begin");
        };
        w.cut(true);
        eventually(w, "the last changes", |w| phase(w) == Some(PlannedPhase::Closing)).await;
        w.restart(A).await;
        w.run(1).await;
        let words = ["a planned failover was under way", "sending the last changes"];
        assert!(told(w, A, &words), "{:?}", w.shared.state().hosts[A].events);
        assert!(noted(w, A, "sending the last changes").await);
        // The command given again is the same one.
        match w.act(A, planned(true)).await {
            Some(Ok(Answer::Job(again))) => assert_eq!((again.id, again.detail.as_str()), (job.id, words[1])),
            other => panic!("{other:?}"),
        }
        assert!(told(w, A, &["under way already", "sending the last changes"]));
        w.cut(false);
        eventually(w, "the other direction", |w| flows(w, B, A)).await;
        assert!(!noted(w, A, "was under way").await && !noted(w, B, "was under way").await);
        healthy(w, B, A).await;
    });
}

#[test]
fn a_replica_that_was_cut_goes_on_asking_its_primary() {
    simulate(2, async |w| {
        replicating(w).await;
        assert!(matches!(w.act(B, planned(true)).await, Some(Ok(Answer::Job(_)))));
        w.cut(true);
        w.restart(B).await;
        w.run(1).await;
        assert!(told(
            w,
            B,
            &["a planned failover was under way", "asking a how far it is"]
        ));
        assert!(noted(w, B, "asking a").await);
        w.cut(false);
        eventually(w, "the other direction", |w| flows(w, B, A)).await;
        healthy(w, B, A).await;
    });
}

#[test]
fn a_planned_failover_that_the_primary_did_not_record_is_reported() {
    let mut missing = 0;
    for n in 1..=6 {
        missing += simulate(10 + n, async |w| {
            replicating(w).await;
            w.gate(B).arm(n, Fault::CrashBefore);
            let answer = w.act(B, planned(true)).await;
            let hit = w.gate(B).disarm();
            w.run(60).await;
            let asked = w.recorded(B).and_then(|r| r.replica().map(|r| r.asked));
            assert_ne!(
                asked,
                Some(true),
                "step {n} {hit:?} {answer:?}: it is asked for ever"
            );
            let said = told(w, B, &["not recorded on the primary", "give the command again"]);
            if said {
                assert!(flows(w, A, B), "step {n} {hit:?}");
            }
            u32::from(said)
        });
    }
    assert!(
        missing > 0,
        "no step lies between the record here and the record there"
    );
}

#[test]
fn an_old_primary_that_goes_away_in_the_middle_of_a_reversal_is_waited_for() {
    simulate(3, async |w| {
        replicating(w).await;
        w.cut(true);
        w.run(5).await;
        taken_over(w, PointSelector::Latest, 10).await;
        w.guest_off(A);
        w.cut(false);
        w.run(10).await;
        w.cut(true);
        let Some(Ok(Answer::Job(job))) = w.act(B, reverse()).await else {
            panic!("the reversal does not begin");
        };
        w.run(12).await;
        w.cut(false);
        eventually(w, "the other direction", |w| flows(w, B, A)).await;
        let found = w.jobs(B).into_iter().find(|j| j.id == job.id).unwrap();
        assert_eq!(found.state, JobState::Completed, "{found:?}");
        healthy(w, B, A).await;
    });
}
