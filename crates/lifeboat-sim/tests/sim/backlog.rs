//! A replica whose disk is slow: what waits to be applied is bounded and holds the sender back, nothing is lost or counted as
//! a failure, points go on expiring, and a failover does not wait for a replay.

use lifeboat_engine::action::{Action, Answer, PointSelector};
use lifeboat_model::policy::BACKLOG_LOGS;
use lifeboat_model::{JobState, ReplicationHealth as Health, ReplicationState as State};
use lifeboat_sim::harness::{PRIMARY, REPLICA, agreed, failover, replicating, replication, simulate, state};
use lifeboat_sim::{VM, World};

/// Logs that wait on the replica.
fn waiting(w: &World) -> usize {
    let s = w.shared.state();
    let r = &s.hosts[REPLICA].replicas[&VM];
    let behind = |l: &&lifeboat_sim::KeptLog| l.log.position.sequence() > r.applied.sequence();
    r.logs.iter().filter(behind).count()
}

/// Replicates each second, with a point every `spacing_s` seconds, to a disk that takes so long for each apply.
async fn slow(w: &mut World, spacing_s: u32, apply_ms: u64) {
    replicating(w).await;
    let mut settings = World::settings();
    settings.disks = w.recorded(PRIMARY).unwrap().settings.disks;
    (settings.interval_s, settings.point_spacing_s) = (1, spacing_s);
    settings.any_point_window_s = spacing_s * 2;
    let vm = World::vm();
    w.insist(
        PRIMARY,
        Action::ModifyReplication {
            vm,
            settings,
            relationship: Default::default(),
        },
    )
    .await
    .unwrap();
    agreed(w).await;
    w.run(20).await;
    w.shared.state().hosts[REPLICA].slow_apply_ms = apply_ms;
}

#[test]
fn a_backlog_is_bounded_and_holds_the_sender_back() {
    simulate(1, async |w| {
        slow(w, 3600, 60_000).await;
        let (mut most, mut warned) = (0, [false; 2]);
        for _ in 0..300 {
            w.write(2);
            w.run(1).await;
            most = most.max(waiting(w));
            for (host, word) in [
                (PRIMARY, "holds new data back"),
                (REPLICA, "wait for this host's disk"),
            ] {
                let v = replication(w, host).await;
                let noted = v.health_notes.iter().any(|n| n.text.contains(word));
                warned[host] |= noted && v.health == Health::Warning && v.backlog.is_some();
            }
        }
        assert!((3..=BACKLOG_LOGS + 1).contains(&most), "{most} logs waited");
        assert_eq!(warned, [true; 2], "both sides show it");
        let (primary, replica) = (replication(w, PRIMARY).await, replication(w, REPLICA).await);
        assert_eq!(
            primary.counters.failures, 0,
            "to be held back is no failure: {primary:?}"
        );
        assert_eq!(
            (state(w, PRIMARY), state(w, REPLICA)),
            (State::Replicating, State::Replicating)
        );
        assert!(primary.problem.is_none() && replica.problem.is_none());
        w.shared.state().hosts[REPLICA].slow_apply_ms = 0;
        w.run(30).await;
        assert!(waiting(w) < 7, "{}", waiting(w));
        assert_eq!(replication(w, PRIMARY).await.backlog, None);
        w.check_all().unwrap();
    });
}

#[test]
fn points_expire_while_logs_wait() {
    simulate(2, async |w| {
        slow(w, 60, 5000).await;
        let mut most = 0;
        for _ in 0..900 {
            w.write(1);
            w.run(1).await;
            most = most.max(w.shared.state().hosts[REPLICA].replicas[&VM].points.len());
        }
        // Four are wanted, and one more may have been sealed since the last look.
        assert!(most <= 6, "{most} points");
        w.check_all().unwrap();
    });
}

/// A daemon that ends again and again, before the look for expiry that comes each 10 seconds.
#[test]
fn points_expire_on_a_host_that_is_never_up_for_long() {
    simulate(4, async |w| {
        slow(w, 5, 7000).await;
        let mut most = 0;
        for _ in 0..60 {
            for _ in 0..8 {
                w.write(1);
                w.run(1).await;
            }
            most = most.max(w.shared.state().hosts[REPLICA].replicas[&VM].points.len());
            w.restart(REPLICA).await;
        }
        assert!(most <= 6, "{most} points, four are wanted");
        w.check_all().unwrap();
    });
}

#[test]
fn a_failover_takes_one_apply_however_many_logs_wait() {
    simulate(3, async |w| {
        slow(w, 3600, 10_000).await;
        for _ in 0..120 {
            w.write(2);
            w.run(1).await;
        }
        let waited = waiting(w);
        assert!(waited >= 3, "{waited}");
        w.cut(true);
        w.run(1).await;
        let began = w.shared.now().0;
        let job = match w.act(REPLICA, failover(PointSelector::Latest)).await {
            Some(Ok(Answer::Job(job))) => job,
            other => panic!("{other:?}"),
        };
        loop {
            let found = w.jobs(REPLICA).into_iter().find(|j| j.id == job.id).unwrap();
            if found.state.is_final() {
                assert_eq!(found.state, JobState::Completed);
                break;
            }
            w.pause(100).await;
        }
        let took = w.shared.now().0 - began;
        // The one that was under way, and the one that brings the head to the newest instant.
        assert!(took < 30_000, "{took} ms with {waited} logs waiting");
        w.check_all().unwrap();
    });
}
