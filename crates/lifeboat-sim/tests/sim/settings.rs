//! Changing a relationship while it runs: what counts when, what is refused, and what a crash in the middle leaves.

use lifeboat_deltalog::Consistency;
use lifeboat_engine::action::{Action, Answer, Refusal};
use lifeboat_engine::ports::store::Target;
use lifeboat_model::hint;
use lifeboat_model::{
    Bandwidth, BandwidthWindow, DayWindow, DiskId, JobState, ReplicationHealth as Health,
    ReplicationSettings, ReplicationState as State, Timestamp,
};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, agreed, cancel_planned, eventually, failover, healthy, job, points, prepare, refused,
    replicating, replication, reset_statistics, resync, simulate, state,
};
use lifeboat_sim::{Fault, VM, World};

type Change<'a> = &'a dyn Fn(&mut ReplicationSettings);

fn changed(w: &World, change: Change<'_>) -> Action {
    let mut settings = w.recorded(PRIMARY).unwrap().settings;
    change(&mut settings);
    Action::ModifyReplication {
        vm: World::vm(),
        settings,
        relationship: Default::default(),
    }
}

async fn modify(w: &World, change: Change<'_>) -> Result<Answer, Refusal> {
    w.act(PRIMARY, changed(w, change)).await.unwrap()
}

fn agree(w: &World) -> bool {
    let of = |h| w.recorded(h).map(|r| r.settings);
    of(PRIMARY) == of(REPLICA)
}

fn events(w: &World, host: usize, begin: &str) -> usize {
    let s = w.shared.state();
    s.hosts[host]
        .events
        .iter()
        .filter(|e| e.message.starts_with(begin))
        .count()
}

async fn cycles_in(w: &World, seconds: u64) -> u64 {
    let before = replication(w, PRIMARY).await.counters.cycles;
    for _ in 0..seconds / 5 {
        w.write(3);
        w.run(5).await;
    }
    replication(w, PRIMARY).await.counters.cycles - before
}

#[test]
fn a_changed_interval_and_history_take_effect_at_once() {
    simulate(1, async |w| {
        replicating(w).await;
        w.run(200).await;
        assert!(points(w).await.len() > 4);
        modify(w, &|s| s.interval_s = 2).await.unwrap();
        let fast = cycles_in(w, 60).await;
        assert!((25..=31).contains(&fast), "{fast}");
        modify(w, &|s| s.interval_s = 30).await.unwrap();
        let slow = cycles_in(w, 60).await;
        assert!((1..=3).contains(&slow), "{slow}");
        modify(w, &|s| (s.history, s.any_point_window_s) = (0, 0))
            .await
            .unwrap();
        assert!(agree(w));
        agreed(w).await;
        w.run(120).await;
        let left = points(w).await;
        assert!(left.len() <= 2, "{left:?}");
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn invalid_settings_are_refused_and_change_nothing() {
    simulate(2, async |w| {
        let settings = World::settings();
        let vm = World::vm();
        let e = refused(
            w,
            PRIMARY,
            Action::ModifyReplication {
                vm,
                settings,
                relationship: Default::default(),
            },
        )
        .await;
        assert_eq!(e.code.number(), 32775, "{e}");
        replicating(w).await;
        let before = w.recorded(PRIMARY).unwrap().settings;
        let bad: [(Change<'_>, u32, &str); 7] = [
            (&|s| s.interval_s = 0, 32773, "interval_s"),
            (&|s| s.application_h = 13, 32773, "application_h"),
            (&|s| s.bandwidth.bytes_per_s = 5, 32773, "65536"),
            (
                &|s| s.disks.push(DiskId::new("nowhere").unwrap()),
                32773,
                "nowhere",
            ),
            // Its own host takes no replicas; a stranger does not answer.
            (&|s| s.peer = "a:7000".into(), 0, "a has no"),
            (&|s| s.peer = "c:7000".into(), 0, "cannot be reached"),
            (&|s| s.peer = "b".into(), 32773, "HOST:PORT"),
        ];
        for (change, code, word) in bad {
            let e = modify(w, change).await.unwrap_err();
            assert!(e.message.contains(word), "{word}: {e}");
            assert!(
                code == 0 || code == 32768 || e.code.number() == code,
                "{word}: {:?}",
                e.code
            );
            assert_eq!(w.recorded(PRIMARY).unwrap().settings, before);
        }
        // On the replica it is not done.
        let settings = before.clone();
        let vm = World::vm();
        let e = refused(
            w,
            REPLICA,
            Action::ModifyReplication {
                vm,
                settings,
                relationship: Default::default(),
            },
        )
        .await;
        assert_eq!(e.hint, Some(hint::Replicate::OnPrimary.into()), "{e:?}");
        // Nor without the replica, nor in state 4.
        w.cut(true);
        let e = modify(w, &|s| s.interval_s = 20).await.unwrap_err();
        assert!(e.message.contains("cannot be reached"), "{e}");
        w.cut(false);
        assert_eq!(w.recorded(PRIMARY).unwrap().settings, before);
        healthy(w, PRIMARY, REPLICA).await;
        w.insist(PRIMARY, prepare()).await.unwrap();
        eventually(w, "preparation", |w| {
            state(w, PRIMARY) == State::SyncedReplicationComplete
        })
        .await;
        let e = modify(w, &|s| s.interval_s = 20).await.unwrap_err();
        assert_eq!(e.code.number(), 32775, "{e}");
        w.insist(PRIMARY, cancel_planned(false)).await.unwrap();
        eventually(w, "the end of it", |w| state(w, PRIMARY) == State::Replicating).await;
        modify(w, &|s| s.interval_s = 20).await.unwrap();
    });
}

#[test]
fn the_replica_address_may_change_but_not_to_another_copy() {
    simulate(3, async |w| {
        replicating(w).await;
        modify(w, &|s| s.peer = "b:7001".into()).await.unwrap();
        assert_eq!(w.recorded(PRIMARY).unwrap().peer, "b:7001");
        healthy(w, PRIMARY, REPLICA).await;
        // What answers there is older than what this side knows to be safe.
        w.shared.state().hosts[REPLICA].catalog.relationships.clear();
        w.restart(REPLICA).await;
        let e = modify(w, &|s| s.peer = "b:7002".into()).await.unwrap_err();
        assert!(e.message.contains("no replica"), "{e}");
        assert_eq!(w.recorded(PRIMARY).unwrap().peer, "b:7001");
    });
}

#[test]
fn limits_of_the_bandwidth_hold_and_change_within_a_second() {
    simulate(4, async |w| {
        replicating(w).await;
        modify(w, &|s| s.compression = false).await.unwrap();
        let latency = async |w: &World| {
            w.write(400);
            w.run(60).await;
            replication(w, PRIMARY).await.counters.max_latency_ms
        };
        w.insist(PRIMARY, reset_statistics()).await.unwrap();
        let free = latency(w).await;
        assert!(free < 2000, "{free}");
        modify(w, &|s| s.bandwidth.bytes_per_s = 65_536).await.unwrap();
        w.insist(PRIMARY, reset_statistics()).await.unwrap();
        let bytes = replication(w, PRIMARY).await.counters.bytes;
        let slow = latency(w).await;
        let c = replication(w, PRIMARY).await.counters;
        let sent = c.largest * 1000 / 65_536;
        assert!(
            c.bytes > bytes && slow + 1500 >= sent && slow > 2 * free,
            "{slow} ms for {c:?}"
        );
        // The minute of the day chooses another limit: none.
        let always = BandwidthWindow {
            window: DayWindow {
                from_min: 0,
                to_min: 0,
            },
            bytes_per_s: 0,
        };
        modify(w, &|s| {
            s.bandwidth = Bandwidth {
                bytes_per_s: 65_536,
                windows: vec![always],
            };
        })
        .await
        .unwrap();
        w.insist(PRIMARY, reset_statistics()).await.unwrap();
        let free = latency(w).await;
        assert!(free < 2000, "{free}");
        healthy(w, PRIMARY, REPLICA).await;
    });
}

fn application(points: &[lifeboat_engine::action::PointView]) -> usize {
    let sealed = points.iter().filter(|p| matches!(p.target, Target::Point { .. }));
    sealed
        .filter(|p| p.consistency == Consistency::Application)
        .count()
}

async fn newest_application(w: &World) -> Option<Timestamp> {
    let points = points(w).await;
    let application = points
        .iter()
        .filter(|p| p.consistency == Consistency::Application);
    application.map(|p| p.instant).max()
}

#[test]
fn application_consistent_points_come_by_the_hour_and_a_guest_that_does_not_help_is_reported() {
    simulate(5, async |w| {
        w.shared.state().agent = Some(lifeboat_engine::ports::hypervisor::GuestOs::Linux);
        replicating(w).await;
        // Spacing and history are such that nothing else is sealed and nothing is merged away.
        modify(w, &|s| {
            (s.application_h, s.interval_s, s.point_spacing_s, s.history) = (1, 60, 86_400, 24);
        })
        .await
        .unwrap();
        w.run(120).await;
        assert_eq!(application(&points(w).await), 1, "the first at once");
        // Each may be a few milliseconds early at its hour and then comes with the next cycle.
        w.run(2 * 3600 + 120).await;
        assert_eq!(application(&points(w).await), 3);
        let third = newest_application(w).await;
        let v = replication(w, PRIMARY).await;
        assert_eq!(v.last_application, third);
        assert_eq!(replication(w, REPLICA).await.last_application, third);
        assert_eq!(
            (v.health, v.counters.application_failures),
            (Health::Ok, 0),
            "{:?}",
            v.health_notes
        );
        w.shared.state().agent = None;
        w.run(3700).await;
        assert_eq!(application(&points(w).await), 3);
        let v = replication(w, PRIMARY).await;
        assert_eq!((v.health, v.counters.application_failures), (Health::Warning, 1));
        assert_eq!(
            v.last_application, None,
            "the primary keeps only how the last one came out"
        );
        assert_eq!(replication(w, REPLICA).await.last_application, third);
        assert!(
            v.health_notes[0].text.contains("crash-consistent"),
            "{:?}",
            v.health_notes
        );
        assert_eq!(events(w, PRIMARY, "the guest was not frozen"), 1);
        w.restart(PRIMARY).await;
        assert_eq!(
            replication(w, PRIMARY).await.health,
            Health::Warning,
            "it is remembered"
        );
        w.shared.state().agent = Some(lifeboat_engine::ports::hypervisor::GuestOs::Linux);
        w.run(3700).await;
        assert_eq!(application(&points(w).await), 4);
        let v = replication(w, PRIMARY).await;
        assert_eq!(v.health, Health::Ok);
        assert!(v.last_application > third && v.last_application == newest_application(w).await);
        w.check(REPLICA).unwrap();
    });
}

#[test]
fn an_interrupted_change_of_settings_leaves_both_hosts_in_agreement() {
    for fault in Fault::ALL {
        for n in 1..12 {
            simulate(100 + n, async |w| {
                replicating(w).await;
                w.gate(if n % 2 == 0 { PRIMARY } else { REPLICA })
                    .arm(n.div_ceil(2), fault);
                let _ = w
                    .act(PRIMARY, changed(w, &|s| (s.interval_s, s.history) = (5, 7)))
                    .await;
                w.gate(PRIMARY).disarm();
                w.gate(REPLICA).disarm();
                w.run(120).await;
                assert!(
                    agree(w),
                    "{fault:?} at {n}: {:?}\n{:?}",
                    w.recorded(PRIMARY),
                    w.recorded(REPLICA)
                );
                w.insist(PRIMARY, changed(w, &|s| (s.interval_s, s.history) = (5, 7)))
                    .await
                    .unwrap();
                assert!(agree(w) && w.recorded(PRIMARY).unwrap().settings.history == 7);
                healthy(w, PRIMARY, REPLICA).await;
            });
        }
    }
}

fn disk(id: &str) -> DiskId {
    DiskId::new(id).unwrap()
}

/// The replica's head holds the disk as it is now on the primary.
async fn equal(w: &World, which: usize) -> bool {
    w.run(45).await;
    let now = w.disks_now(PRIMARY)[which].clone();
    let s = w.shared.state();
    assert!(s.violations.is_empty(), "{:?}", s.violations);
    s.hosts[REPLICA].replicas[&VM].head[which] == now
}

#[test]
fn disks_are_removed_and_added_while_the_others_replicate() {
    for (gone, (which, other)) in [("data", (1, 0)), ("sys", (0, 1))] {
        simulate(6, async |w| {
            replicating(w).await;
            w.write(50);
            assert!(equal(w, which).await && equal(w, other).await);
            modify(w, &|s| s.disks.retain(|d| *d != disk(gone)))
                .await
                .unwrap();
            assert!(agree(w));
            w.write(200);
            assert!(equal(w, other).await, "{gone}: the other goes on");
            assert!(!equal(w, which).await, "{gone} stays as it was");
            let path = format!("/vm/{gone}.qcow2");
            assert!(
                w.shared.state().hosts[PRIMARY].images[&path].tracked.is_empty(),
                "its record is ended"
            );
            // What is compared is the same disk on both sides, whatever its number is.
            w.insist(PRIMARY, resync()).await.unwrap();
            w.write(50);
            eventually(w, "the resynchronization", |w| {
                state(w, PRIMARY) == State::Replicating
            })
            .await;
            w.restart(PRIMARY).await;
            assert!(equal(w, other).await && !equal(w, which).await);
            modify(w, &|s| s.disks.push(disk(gone))).await.unwrap();
            assert_eq!(state(w, PRIMARY), State::Resynchronizing);
            w.restart(PRIMARY).await;
            w.write(50);
            eventually(w, "the disk", |w| state(w, PRIMARY) == State::Replicating).await;
            w.write(50);
            assert!(equal(w, which).await && equal(w, other).await);
            // A failover brings up what is replicated now.
            w.cut(true);
            assert_eq!(
                job(w, REPLICA, failover(Default::default())).await.unwrap(),
                JobState::Completed
            );
            assert_eq!(w.disks_now(REPLICA).len(), 2);
        });
    }
}

#[test]
fn a_failover_brings_up_only_the_replicated_disks() {
    simulate(7, async |w| {
        replicating(w).await;
        modify(w, &|s| s.disks = vec![disk("sys")]).await.unwrap();
        w.write(50);
        assert!(equal(w, 0).await);
        let now = w.disks_now(PRIMARY)[0].clone();
        w.cut(true);
        assert_eq!(
            job(w, REPLICA, failover(Default::default())).await.unwrap(),
            JobState::Completed
        );
        assert_eq!(w.disks_now(REPLICA), [now]);
    });
}
