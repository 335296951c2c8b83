//! The newest data is the newest position, in whatever generation it is and whatever any clock says: seeds on top of
//! points of an older generation, clocks that are set on either host, and what people are told of both.

use std::collections::HashSet;

use lifeboat_engine::action::{Action, InitialCopy, PointSelector};
use lifeboat_engine::ports::store::Target;
use lifeboat_model::{JobState, Position, ReplicationSettings, ReplicationState as State, Timestamp};
use lifeboat_sim::harness::{
    A, B, agreed, durable, events, failover, job, planned, points, remove, replicating, simulate, state,
};
use lifeboat_sim::{Fault, VM, World};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Steps of clocks that were seen in the field.
const STEPS: [i64; 3] = [-HOUR, DAY, 40 * DAY];

/// A cycle each second, a point each 40, and a minute of any-point recovery.
fn quick() -> ReplicationSettings {
    ReplicationSettings {
        interval_s: 1,
        point_spacing_s: 40,
        any_point_window_s: 60,
        history: 2,
        ..World::settings()
    }
}

/// Position, instant and arrival order of what the store has sealed, oldest first.
fn sealed(w: &World) -> Vec<(Position, Timestamp)> {
    let s = w.shared.state();
    let points = &s.hosts[B].replicas[&VM].points;
    points.iter().map(|(p, _)| (p.position, p.instant)).collect()
}

fn logs(w: &World) -> usize {
    w.shared.state().hosts[B].replicas[&VM].logs.len()
}

async fn enabled(w: &mut World, settings: ReplicationSettings) {
    replicating(w).await;
    let vm = World::vm();
    let disks = w.recorded(A).unwrap().settings.disks;
    let settings = ReplicationSettings { disks, ..settings };
    w.insist(
        A,
        Action::ModifyReplication {
            vm,
            settings,
            relationship: Default::default(),
        },
    )
    .await
    .unwrap();
    agreed(w).await;
}

async fn flowing(w: &World, seconds: u64) {
    for _ in 0..seconds {
        w.write(2);
        w.run(1).await;
    }
}

/// Removed on both sides with points of high sequence, enabled again, started with what the replica's host has as the seed.
async fn seeded(w: &mut World, different: bool) {
    enabled(w, quick()).await;
    flowing(w, 110).await;
    let vm = World::vm;
    // Everything written is on the replica: the copies are equal.
    w.run(5).await;
    for host in [A, B] {
        w.insist(host, remove()).await.unwrap();
    }
    if different {
        w.write(20);
    }
    let settings = quick();
    w.insist(A, Action::EnableReplication { vm: vm(), settings })
        .await
        .unwrap();
    let how = InitialCopy::Seed;
    w.insist(
        A,
        Action::StartReplication {
            vm: vm(),
            how,
            at: None,
            relationship: Default::default(),
        },
    )
    .await
    .unwrap();
    for _ in 0..60 {
        if state(w, A) == State::Replicating && state(w, B) == State::Replicating {
            return;
        }
        w.run(1).await;
    }
    panic!("the seed does not become a replica: {:?}", w.recorded(B));
}

/// Blocks of the VM's disks that a failover to the newest brings up other than the primary had them in the end.
async fn newest_comes_up(w: &mut World) {
    w.run(5).await;
    let last = w.disks_now(A);
    w.kill_vm(A);
    w.cut(true);
    // What had arrived whole becomes durable.
    w.pause(500).await;
    let newest = durable(w, B);
    let list = points(w).await;
    assert_eq!(position(w, &list[0].target), newest, "the newest is listed first");
    let done = job(w, B, failover(PointSelector::Latest)).await.unwrap();
    assert_eq!(done, JobState::Completed);
    assert!(
        w.disks_now(B) == last,
        "an older instant than the newest data came up"
    );
    w.check_all().unwrap();
}

fn position(w: &World, target: &Target) -> Position {
    match target {
        Target::Cycle { position } => *position,
        Target::Point { id } => {
            let s = w.shared.state();
            let points = &s.hosts[B].replicas[&VM].points;
            points.iter().find(|(p, _)| p.id == *id).unwrap().0.position
        }
        Target::Abandoned => panic!("nothing was abandoned"),
    }
}

#[test]
fn a_failover_to_the_newest_after_a_seed_brings_up_the_newest() {
    for (seed, different) in [(1, true), (2, false)] {
        simulate(seed, async |w| {
            seeded(w, different).await;
            let old = sealed(w)[0].0;
            assert!(
                !old.same_generation(durable(w, B)),
                "points of before are still below"
            );
            flowing(w, 20).await;
            let cycles = points(w).await;
            let cycles = cycles.iter().filter(|p| matches!(p.target, Target::Cycle { .. }));
            assert!(cycles.count() > 10, "cycles above old points can be chosen");
            newest_comes_up(w).await;
        });
    }
}

#[test]
fn a_seed_that_is_equal_is_sealed_at_once_and_can_be_brought_up() {
    simulate(3, async |w| {
        seeded(w, false).await;
        w.run(3).await;
        let newest = sealed(w).last().unwrap().0;
        assert!(newest.same_generation(durable(w, B)), "{newest}");
        newest_comes_up(w).await;
    });
}

#[test]
fn a_planned_failover_after_a_seed_finds_its_recovery_point() {
    for (seed, different) in [(4, true), (5, false)] {
        simulate(seed, async |w| {
            seeded(w, different).await;
            flowing(w, 5).await;
            let done = job(w, A, planned(true)).await.unwrap();
            assert_eq!(done, JobState::Completed, "{:?}", w.tail(30));
            w.run(30).await;
            assert!(w.runs(B) && !w.runs(A));
            w.check_all().unwrap();
        });
    }
}

#[test]
fn every_cycle_of_the_window_can_be_chosen_at_any_moment() {
    simulate(9, async |w| {
        enabled(w, quick()).await;
        flowing(w, 120).await;
        for _ in 0..12 {
            flowing(w, 17).await;
            let listed = points(w).await;
            let since = listed[0].instant.0 - 60_000;
            let chosen = listed.iter().filter(|p| p.instant.0 > since).count();
            assert!(chosen >= 57, "{chosen} of the last 60 seconds");
        }
        w.check_all().unwrap();
    });
}

/// How many points there are just after the clock of a host was set, and how many points and logs in the end.
async fn kept(w: &mut World, host: usize, off: i64, back: bool) -> [usize; 3] {
    enabled(w, quick()).await;
    flowing(w, 60).await;
    w.set_clock(host, off);
    flowing(w, 5).await;
    let then = sealed(w).len();
    flowing(w, 90).await;
    if back {
        w.set_clock(host, 0);
    }
    flowing(w, 120).await;
    [then, sealed(w).len(), logs(w)]
}

#[test]
fn a_clock_that_is_set_neither_loses_nor_keeps_anything() {
    let plain = simulate(6, async |w| kept(w, A, 0, false).await);
    for off in STEPS {
        for (host, back) in [(A, true), (A, false), (B, true)] {
            let what = format!("host {host} off by {off} ms, back: {back}");
            simulate(6, async |w| {
                let found = kept(w, host, off, back).await;
                // A call more or less moves everything a little, and what expires does so each 10 seconds, a log a second.
                for (n, by) in [(0, 1), (1, 1), (2, 10)] {
                    let even = found[n].abs_diff(plain[n]) <= by;
                    assert!(even, "{what}: {found:?} instead of {plain:?}");
                }
                let lag = w.view(B).await.unwrap().replication.unwrap().lag_ms.unwrap();
                assert!(lag < 10_000, "{what}: lag {lag}");
                let primary = w.view(A).await.unwrap().replication.unwrap();
                assert!(primary.lag_ms.unwrap() < 10_000, "{what}");
                let counters = primary.counters;
                assert!(counters.max_latency_ms < 60_000, "{what}: {counters:?}");
                let off_now = if back || host == B { 0 } else { off };
                let now = w.shared.now().0.saturating_add_signed(off_now);
                let since = counters.since.unwrap().0;
                assert!(since <= now, "{what}: a window that begins in the future");
                newest_comes_up(w).await;
            });
        }
    }
}

#[test]
fn a_clock_that_was_set_is_an_event_and_a_warning_for_a_while() {
    for off in STEPS {
        simulate(7, async |w| {
            replicating(w).await;
            flowing(w, 40).await;
            w.set_clock(A, off);
            flowing(w, 25).await;
            assert_eq!(events(w, A, "the clock of this host jumped by").len(), 1, "{off}");
            assert_eq!(
                events(w, B, "jumped by").len(),
                1,
                "the replica sees it too: {off}"
            );
            for host in [A, B] {
                let view = w.view(host).await.unwrap().replication.unwrap();
                let said = view.health_notes.iter().any(|n| n.text.contains("jumped by"));
                assert!(said, "{off} {host}: {:?}", view.health_notes);
            }
            w.run(3700).await;
            for host in [A, B] {
                let view = w.view(host).await.unwrap().replication.unwrap();
                let said = view.health_notes.iter().any(|n| n.text.contains("jumped by"));
                assert!(!said, "{off} {host}: {:?}", view.health_notes);
            }
        });
    }
}

#[test]
fn a_clock_that_is_set_between_starts_is_seen_and_costs_nothing() {
    for off in [-HOUR, 40 * DAY] {
        for reboot in [false, true] {
            simulate(8, async |w| {
                enabled(w, quick()).await;
                flowing(w, 100).await;
                let before: HashSet<Position> = sealed(w).into_iter().map(|p| p.0).collect();
                w.set_clock(B, off);
                match reboot {
                    true => w.reboot(B).await,
                    false => w.restart(B).await,
                }
                flowing(w, 8).await;
                let after: HashSet<Position> = sealed(w).into_iter().map(|p| p.0).collect();
                assert!(
                    before.difference(&after).count() <= 1,
                    "{off}: {before:?} {after:?}"
                );
                // Across a start of the host, a clock that was set forward cannot be told from time that passed.
                let seen = usize::from(!reboot || off < 0);
                assert_eq!(
                    events(w, B, "the clock of this host jumped by").len(),
                    seen,
                    "{off} {reboot}"
                );
                flowing(w, 120).await;
                assert!(sealed(w).len() <= 5 && logs(w) < 160, "{off}: {} logs", logs(w));
                newest_comes_up(w).await;
            });
        }
    }
}

#[test]
fn a_time_among_instants_that_are_not_in_order_is_explained() {
    simulate(9, async |w| {
        enabled(w, quick()).await;
        flowing(w, 20).await;
        w.set_clock(A, 40 * DAY);
        flowing(w, 20).await;
        w.set_clock(A, 0);
        flowing(w, 10).await;
        w.kill_vm(A);
        w.cut(true);
        let list = points(w).await;
        let newest = list[0].clone();
        let selector = PointSelector::At(newest.instant);
        let done = job(w, B, failover(selector)).await.unwrap();
        assert_eq!(done, JobState::Completed);
        let chosen = w.recorded(B).unwrap().failover().unwrap().instant;
        assert_eq!(chosen, newest.instant, "not one of those that are 40 days ahead");
        assert_eq!(events(w, B, "the primary's clock was set back").len(), 1);
        w.check_all().unwrap();
    });
}

#[test]
fn a_clock_that_is_set_in_the_middle_of_a_cycle_changes_nothing() {
    for call in 1..12 {
        simulate(10 + call, async |w| {
            enabled(w, quick()).await;
            flowing(w, 10).await;
            w.gate(A).arm(call, Fault::Fail);
            w.write(5);
            w.pause(300).await;
            w.set_clock(A, if call % 2 == 0 { 40 * DAY } else { -HOUR });
            flowing(w, 40).await;
            newest_comes_up(w).await;
        });
    }
}

#[test]
fn a_seed_is_started_while_the_images_are_still_being_put_in_order() {
    simulate(1, async |w| {
        enabled(w, quick()).await;
        w.guest_off(A);
        w.run(20).await;
        let vm = World::vm;
        for host in [A, B] {
            w.insist(host, remove()).await.unwrap();
        }
        let settings = quick();
        // What enabling leaves to be done holds the images of a VM that is off.
        w.shared.state().hangs.insert((A, "capture.recover"));
        w.insist(A, Action::EnableReplication { vm: vm(), settings })
            .await
            .unwrap();
        w.run(2).await;
        w.shared.state().hangs.clear();
        let how = InitialCopy::Seed;
        let start = Action::StartReplication {
            vm: vm(),
            how,
            at: None,
            relationship: Default::default(),
        };
        let started = w.act(A, start).await.unwrap();
        assert!(started.is_ok(), "{started:?}");
    });
}
