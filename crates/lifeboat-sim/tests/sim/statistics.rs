//! What is counted in a monitoring window, on both sides, and what an administrator is told of it.

use lifeboat_engine::action::{Action, Answer, CountersView, ServerSettings};
use lifeboat_model::{ReplicationHealth as Health, Timestamp};
use lifeboat_sim::World;
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, eventually, refused, replicating, replication, reset_statistics, simulate,
};

/// The world begins at 08:00 of this day.
const BEGIN: u64 = 1_800_000_000_000;
const MINUTE: u64 = 60_000;

async fn counters(w: &World, host: usize) -> CountersView {
    replication(w, host).await.counters
}

/// Windows of an hour that end at half past.
async fn hourly(w: &World) {
    for host in [PRIMARY, REPLICA] {
        let enabled = w.shared.state().hosts[host].catalog.server.enabled;
        let settings = ServerSettings {
            enabled,
            monitoring_interval_s: 3600,
            monitoring_start_min: 30,
            ..ServerSettings::default()
        };
        w.insist(host, Action::SetServer { settings }).await.unwrap();
    }
}

fn closed(w: &World, host: usize) -> Vec<String> {
    let s = w.shared.state();
    let told = s.hosts[host].events.iter().map(|e| &e.message);
    told.filter(|m| m.starts_with("monitoring window"))
        .cloned()
        .collect()
}

async fn until(w: &World, minute: u64) {
    let now = w.shared.now().0;
    w.run((BEGIN + minute * MINUTE).saturating_sub(now) / 1000).await;
}

#[test]
fn a_window_ends_at_its_time_and_its_numbers_are_told_on_both_sides() {
    simulate(1, async |w| {
        hourly(w).await;
        replicating(w).await;
        until(w, 29).await;
        let before = [counters(w, PRIMARY).await, counters(w, REPLICA).await];
        for c in before {
            assert!(c.cycles > 100 && c.bytes > 0 && c.missed == 0, "{c:?}");
            assert!(c.since.unwrap() < Timestamp(BEGIN + MINUTE), "{c:?}");
            assert!(c.total_latency_ms >= c.max_latency_ms && c.max_latency_ms >= c.last_latency_ms);
        }
        until(w, 31).await;
        for (host, before) in before.into_iter().enumerate() {
            let c = counters(w, host).await;
            assert_eq!(c.since, Some(Timestamp(BEGIN + 30 * MINUTE)), "host {host}");
            assert!(c.cycles < 10, "{c:?}");
            let told = closed(w, host);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains("0.5 hours"), "{told:?}");
            let cycles =
                (before.cycles..before.cycles + 10).any(|n| told[0].contains(&format!(" {n} cycles")));
            assert!(cycles, "{told:?} after {before:?}");
        }
        // A window that ends while the daemon is away, or nothing is sent, ends nevertheless.
        w.cut(true);
        until(w, 89).await;
        w.restart(REPLICA).await;
        until(w, 91).await;
        assert_eq!((closed(w, PRIMARY).len(), closed(w, REPLICA).len()), (2, 2));
        assert_eq!(
            counters(w, REPLICA).await.since,
            Some(Timestamp(BEGIN + 90 * MINUTE))
        );
    });
}

#[test]
fn an_outage_is_counted_as_network_failures_and_missed_cycles_until_reset() {
    simulate(2, async |w| {
        replicating(w).await;
        w.run(200).await;
        let before = counters(w, PRIMARY).await;
        assert_eq!((before.missed, before.failures), (0, 0));
        w.cut(true);
        w.run(300).await;
        let out = counters(w, PRIMARY).await;
        assert!(
            out.failures > 5 && out.network_failures == out.failures,
            "{out:?}"
        );
        w.cut(false);
        eventually(w, "the end of the outage", |w| {
            w.recorded(PRIMARY).is_some_and(|r| r.problem.is_none())
        })
        .await;
        w.run(20).await;
        let after = counters(w, PRIMARY).await;
        // Thirty cycles would have fitted, the one that waited took place.
        assert!((27..=31).contains(&after.missed), "{after:?}");
        assert!(after.max_latency_ms > 200_000, "{after:?}");
        let v = replication(w, PRIMARY).await;
        assert_eq!(v.health, Health::Warning, "{:?}", v.health_notes);
        assert!(
            v.health_notes.iter().any(|n| n.text.contains("missed")),
            "{:?}",
            v.health_notes
        );
        for host in [PRIMARY, REPLICA] {
            let done = w.insist(host, reset_statistics()).await;
            assert_eq!(done.unwrap(), Answer::Done);
            let now = counters(w, host).await;
            assert!(now.cycles <= 1 && now.missed == 0 && now.failures == 0, "{now:?}");
        }
        w.run(60).await;
        let v = replication(w, PRIMARY).await;
        assert_eq!(v.health, Health::Ok, "{:?}", v.health_notes);
    });
}

#[test]
fn resetting_statistics_without_replication_is_refused() {
    simulate(3, async |w| {
        let e = refused(w, PRIMARY, reset_statistics()).await;
        assert_eq!(e.code.number(), 32775, "{e}");
    });
}

#[test]
fn settings_of_a_host_keep_their_limits_and_survive_a_restart() {
    simulate(4, async |w| {
        let bad = ServerSettings {
            monitoring_interval_s: 60,
            ..ServerSettings::default()
        };
        let e = refused(w, REPLICA, Action::SetServer { settings: bad }).await;
        assert!(e.message.contains("3600"), "{e}");
        hourly(w).await;
        w.restart(REPLICA).await;
        let Some(Ok(Answer::Server(server))) = w.act(REPLICA, Action::ShowServer).await else {
            panic!("no answer");
        };
        assert_eq!(
            (server.settings.monitoring_interval_s, server.settings.enabled),
            (3600, true)
        );
    });
}
