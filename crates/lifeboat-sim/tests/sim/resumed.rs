//! A host goes down in the middle of a change of roles: afterwards it says what was under way and what it goes on with, and
//! what was never recorded is said not to be.

use lifeboat_engine::action::{Answer, PointSelector};
use lifeboat_engine::records::PlannedPhase;
use lifeboat_model::JobState;
use lifeboat_sim::harness::{
    eventually, flows, healthy, planned, replicating, reverse, simulate, taken_over,
};
use lifeboat_sim::{Fault, World};

fn told(w: &World, host: usize, words: &[&str]) -> bool {
    let s = w.shared.state();
    let all = |m: &str| words.iter().all(|word| m.contains(word));
    s.hosts[host].events.iter().any(|e| all(&e.message))
}

async fn noted(w: &World, host: usize, word: &str) -> bool {
    let view = w.view(host).await.unwrap().replication.unwrap();
    view.health_notes.iter().any(|n| n.contains(word))
}

fn phase(w: &World) -> Option<PlannedPhase> {
    w.recorded(0)?.primary()?.planned.as_ref().map(|p| p.phase)
}

#[test]
fn a_primary_that_was_cut_says_what_it_goes_on_with() {
    simulate(1, async |w| {
        replicating(w).await;
        let Some(Ok(Answer::Job(job))) = w.act(0, planned(true)).await else {
            panic!("the planned failover does not begin");
        };
        w.cut(true);
        eventually(w, "the last changes", |w| phase(w) == Some(PlannedPhase::Closing)).await;
        w.restart(0).await;
        w.run(1).await;
        let words = ["a planned failover was under way", "sending the last changes"];
        assert!(told(w, 0, &words), "{:?}", w.shared.state().hosts[0].events);
        assert!(noted(w, 0, "sending the last changes").await);
        // The command given again is the same one.
        match w.act(0, planned(true)).await {
            Some(Ok(Answer::Job(again))) => assert_eq!((again.id, again.detail.as_str()), (job.id, words[1])),
            other => panic!("{other:?}"),
        }
        assert!(told(w, 0, &["under way already", "sending the last changes"]));
        w.cut(false);
        eventually(w, "the other direction", |w| flows(w, 1, 0)).await;
        assert!(!noted(w, 0, "was under way").await && !noted(w, 1, "was under way").await);
        healthy(w, 1, 0).await;
    });
}

#[test]
fn a_replica_that_was_cut_goes_on_asking_its_primary() {
    simulate(2, async |w| {
        replicating(w).await;
        assert!(matches!(w.act(1, planned(true)).await, Some(Ok(Answer::Job(_)))));
        w.cut(true);
        w.restart(1).await;
        w.run(1).await;
        assert!(told(
            w,
            1,
            &["a planned failover was under way", "asking a how far it is"]
        ));
        assert!(noted(w, 1, "asking a").await);
        w.cut(false);
        eventually(w, "the other direction", |w| flows(w, 1, 0)).await;
        healthy(w, 1, 0).await;
    });
}

#[test]
fn what_was_not_recorded_on_the_primary_is_said_so() {
    let mut missing = 0;
    for n in 1..=6 {
        missing += simulate(10 + n, async |w| {
            replicating(w).await;
            w.gate(1).arm(n, Fault::CrashBefore);
            let answer = w.act(1, planned(true)).await;
            let hit = w.gate(1).disarm();
            w.run(60).await;
            let asked = w.recorded(1).and_then(|r| r.replica().map(|r| r.asked));
            assert_ne!(
                asked,
                Some(true),
                "step {n} {hit:?} {answer:?}: it is asked for ever"
            );
            let said = told(w, 1, &["not recorded on the primary", "give the command again"]);
            if said {
                assert!(flows(w, 0, 1), "step {n} {hit:?}");
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
        w.guest_off(0);
        w.cut(false);
        w.run(10).await;
        w.cut(true);
        let Some(Ok(Answer::Job(job))) = w.act(1, reverse()).await else {
            panic!("the reversal does not begin");
        };
        w.run(12).await;
        w.cut(false);
        eventually(w, "the other direction", |w| flows(w, 1, 0)).await;
        let found = w.jobs(1).into_iter().find(|j| j.id == job.id).unwrap();
        assert_eq!(found.state, JobState::Completed, "{found:?}");
        healthy(w, 1, 0).await;
    });
}
