//! The model check: random histories of everything an administrator can ask for and everything that can go wrong, over
//! three hosts. After each step every copy must hold what it claims to hold, nothing that was set aside may be gone, and no
//! VM may have been started beside its twin while the twin's host could have been asked. In peace, afterwards, an
//! administrator who follows the hints must be able to bring the VM back under replication.
//!
//! `LIFEBOAT_SEED` replays one history, `LIFEBOAT_HISTORIES` says how many there are.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "helpers of tests fail like the tests; one table of what may happen"
)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_engine::action::{Action, PointSelector, RelationshipRef};
use lifeboat_engine::records::{FailoverPhase, PlannedPhase, Side};
use lifeboat_model::{
    PointId, ReplicationMode as Mode, ReplicationSettings, ReplicationState as State, Timestamp,
};
use lifeboat_sim::harness::{
    A, B, C, THREE_HOSTS, asked, cancel_planned, clock_step, commit, flows, planned, play, prepare, remove,
    resume, resync, reverse, revert, start_copy, start_vm, suspend,
};
use lifeboat_sim::{Fault, Rng, VM, World};

/// The hosts of all histories; which role each has is a matter of the history.
const ALL: [usize; 3] = [A, B, C];
/// Both disks are small: what is looked for is in the order of things, not in their size.
const SMALL: u64 = 16 << 20;

/// What was seen of a host before the step.
#[derive(Default)]
struct Seen {
    /// Points at the time of the failover, by host.
    held: BTreeMap<usize, Vec<PointId>>,
    /// Somebody has said that a second living copy is wanted, or gave a copy up.
    forced: bool,
    /// Hosts whose abandoned copy may be gone.
    dropped: [bool; 3],
    kept: [bool; 3],
}

fn settings(peer: usize) -> ReplicationSettings {
    ReplicationSettings {
        peer: format!("{}:7000", THREE_HOSTS[peer]),
        ..World::settings()
    }
}

fn host(rng: &mut Rng) -> usize {
    usize::try_from(rng.below(3)).unwrap()
}

fn mode(w: &World, host: usize) -> Mode {
    lifeboat_sim::harness::mode(w, host)
}

/// A host in this role, if there is one; else any.
fn in_role(w: &World, rng: &mut Rng, role: Mode) -> usize {
    let first = host(rng);
    if rng.one_in(4) {
        return first;
    }
    ALL.into_iter()
        .map(|n| (first + n) % ALL.len())
        .find(|h| mode(w, *h) == role)
        .unwrap_or(first)
}

fn phase(w: &World, host: usize) -> Option<FailoverPhase> {
    Some(w.recorded(host)?.failover()?.phase)
}

async fn ask(w: &World, host: usize, action: Action) {
    let _ = w.act(host, action).await;
}

async fn fail_over(w: &World, rng: &mut Rng, seen: &mut Seen) {
    let ago = rng.below(150_000);
    let force = rng.one_in(6);
    seen.forced |= force;
    let wish = Action::InitiateFailover {
        vm: World::vm(),
        point: match rng.below(3) {
            0 => PointSelector::At(Timestamp(w.shared.now().0 - ago)),
            _ => PointSelector::Latest,
        },
        start: !rng.one_in(4),
        force,
    };
    ask(w, in_role(w, rng, Mode::Replica), wish).await;
}

async fn manage(w: &World, rng: &mut Rng, seen: &mut Seen) {
    let vm = World::vm;
    let (any, primary, replica) = (
        host(rng),
        in_role(w, rng, Mode::Primary),
        in_role(w, rng, Mode::Replica),
    );
    match rng.below(29) {
        0..=3 => fail_over(w, rng, seen).await,
        4 | 5 => ask(w, replica, revert()).await,
        6 | 7 => ask(w, replica, commit()).await,
        8 | 9 => ask(w, replica, reverse()).await,
        10 | 11 => ask(w, if rng.one_in(3) { replica } else { primary }, planned(true)).await,
        12 => ask(w, primary, prepare()).await,
        13 => {
            let force = rng.one_in(4);
            seen.forced |= force;
            ask(w, primary, cancel_planned(force)).await;
        }
        14 => ask(w, primary, resync()).await,
        15 => {
            ask(
                w,
                primary,
                Action::CancelResync {
                    vm: vm(),
                    relationship: Default::default(),
                },
            )
            .await
        }
        16 => ask(w, any, suspend()).await,
        17 => ask(w, any, resume()).await,
        18 => {
            let point = PointSelector::Latest;
            let start = true;
            ask(
                w,
                replica,
                Action::StartTest {
                    vm: vm(),
                    point,
                    start,
                },
            )
            .await;
        }
        19 => ask(w, replica, Action::StopTest { vm: vm() }).await,
        20 => {
            // To start a copy that was brought up is to want it, whatever runs elsewhere.
            seen.forced |= phase(w, any).is_some();
            ask(w, any, start_vm()).await;
        }
        21 => {
            ask(
                w,
                any,
                Action::StopVm {
                    vm: vm(),
                    force: true,
                },
            )
            .await
        }
        22 => ask(w, primary, Action::ReplicateNow { vm: vm() }).await,
        23 => {
            let enable = Action::EnableReplication {
                vm: vm(),
                settings: settings((any + 1 + host(rng) % 2) % 3),
            };
            ask(w, any, enable).await;
            ask(w, any, start_copy()).await;
        }
        24 => {
            let middle = if rng.one_in(2) { replica } else { any };
            let settings = ReplicationSettings {
                interval_s: 15,
                ..settings((middle + 1 + host(rng) % 2) % 3)
            };
            ask(
                w,
                middle,
                Action::ExtendReplication {
                    vm: vm(),
                    settings,
                    start: true,
                },
            )
            .await;
        }
        25 => {
            ask(
                w,
                replica,
                Action::ContinueAsPrimary {
                    vm: vm(),
                    relationship: Default::default(),
                },
            )
            .await
        }
        26 => {
            let wish = match rng.below(3) {
                0 => Action::SuspendReplication {
                    vm: vm(),
                    relationship: RelationshipRef::Outgoing,
                },
                1 => Action::ResumeReplication {
                    vm: vm(),
                    relationship: RelationshipRef::Outgoing,
                },
                _ => Action::RemoveReplication {
                    vm: vm(),
                    relationship: RelationshipRef::Outgoing,
                },
            };
            ask(w, any, wish).await;
        }
        27 if rng.one_in(3) => {
            // Whoever separates the two, or gives a copy up, has said so.
            (seen.forced, seen.dropped[any]) = (true, true);
            let wish = match rng.below(3) {
                // A replica on this host's own images cannot be left behind: they would be a VM's and a replica's at once.
                n if n == 0 || stands_on_images(w, any) => Action::BecomeReplica { vm: vm() },
                _ => remove(),
            };
            ask(w, any, wish).await;
        }
        _ => {
            seen.dropped[replica] = true;
            ask(w, replica, Action::DropAbandoned { vm: vm() }).await;
        }
    }
}

async fn trouble(w: &World, rng: &mut Rng) {
    let (one, other) = (host(rng), host(rng));
    match rng.below(13) {
        10 => w.set_clock(one, clock_step(rng)),
        0..=3 if one != other => {
            let pair = (one.min(other), one.max(other));
            let cut = !w.shared.cuts.borrow().contains(&pair);
            w.cut_between(one, other, cut);
        }
        4 => w.shared.state().cut_after[one] = Some(rng.below(4)),
        5 => w.shared.state().lose_replies[one] = 1,
        6 => w.restart(one).await,
        7 | 8 => {
            let n = usize::try_from(rng.below(4)).unwrap();
            w.gate(one).arm(1 + rng.below(50), Fault::ALL[n]);
        }
        9 => w.kill_vm(one),
        _ => w.guest_off(one),
    }
}

fn stands_on_images(w: &World, host: usize) -> bool {
    let s = w.shared.state();
    let replica = s.hosts[host].replicas.get(&VM);
    replica.is_some_and(|r| r.base_images.iter().any(Option::is_some))
}

fn points(w: &World, host: usize) -> Vec<PointId> {
    let s = w.shared.state();
    let replica = s.hosts[host].replicas.get(&VM);
    replica.map_or_else(Vec::new, |r| r.points.iter().map(|(p, _)| p.id).collect())
}

/// What must hold after each step.
fn judge(w: &mut World, seen: &mut Seen) {
    w.check_all().unwrap();
    if !seen.forced {
        let twin = w.shared.state().twins.first().cloned();
        assert!(twin.is_none(), "{}", twin.unwrap_or_default());
    }
    for host in ALL {
        let now = points(w, host);
        match (seen.held.get(&host), phase(w, host)) {
            (None, Some(FailoverPhase::Ready)) => drop(seen.held.insert(host, now)),
            (Some(held), Some(FailoverPhase::Ready)) => {
                // A test may seal a newer one.
                assert!(now.starts_with(held), "points of {host} changed under a failover");
            }
            (Some(held), None) if mode(w, host) == Mode::Replica => {
                // Reverted. The oldest may expire again from now on, the newest cannot have yet.
                let newest = held.last().unwrap();
                assert!(now.contains(newest), "a revert on {host} lost the point {newest}");
                seen.held.remove(&host);
            }
            (_, None) => drop(seen.held.remove(&host)),
            (_, Some(_)) => {}
        }
        let kept = w.shared.state().hosts[host]
            .replicas
            .get(&VM)
            .is_some_and(|r| r.kept.is_some());
        let promoted = w.shared.state().hosts[host]
            .replicas
            .get(&VM)
            .is_some_and(|r| r.promoted.is_some());
        assert!(
            kept || promoted || !seen.kept[host] || seen.dropped[host],
            "what was abandoned on {host} is gone, and nobody dropped it"
        );
        seen.kept[host] = kept;
        if kept {
            seen.dropped[host] = false;
        }
    }
}

async fn step(w: &mut World, rng: &mut Rng, seen: &mut Seen) {
    match rng.below(10) {
        0 | 1 => w.write(1 + rng.below(20)),
        2..=5 => manage(w, rng, seen).await,
        6 => trouble(w, rng).await,
        _ => {
            w.run(1 + rng.below(15)).await;
            w.write(3);
        }
    }
    judge(w, seen);
}

fn healed(w: &World) {
    for host in ALL {
        w.gate(host).disarm();
        for other in 0..host {
            w.cut_between(other, host, false);
        }
    }
    let mut s = w.shared.state();
    (s.lose_replies, s.cut_after) = ([0; 4], [None; 4]);
}

/// What somebody who reads the states would do next on a host.
fn sensible(w: &World, host: usize, round: u32) -> Vec<Action> {
    let vm = World::vm;
    let Some(rel) = w.recorded(host) else {
        return Vec::new();
    };
    let alone = ALL.into_iter().all(|h| h == host || !w.runs(h));
    match &rel.side {
        Side::Replica(r) => match (&r.failover, rel.state) {
            _ if r.test.is_some() => vec![Action::StopTest { vm: vm() }],
            // Where the other side is a replica too there is nobody to go back to.
            (Some(f), _) if f.phase == FailoverPhase::Ready && round < 3 => vec![revert()],
            (Some(f), _) if f.phase == FailoverPhase::Ready => vec![commit()],
            (_, State::Committed) => vec![reverse()],
            (_, State::Suspended) => vec![resume()],
            _ => Vec::new(),
        },
        Side::Primary(p) => {
            let mut wishes = Vec::new();
            if p.split.as_ref().is_some_and(|s| s.committed || !alone) && w.runs(host) {
                wishes.push(Action::StopVm {
                    vm: vm(),
                    force: true,
                });
            }
            if p.planned
                .as_ref()
                .is_some_and(|p| p.phase == PlannedPhase::Prepared)
            {
                wishes.push(cancel_planned(false));
            }
            match rel.state {
                State::WaitingToStartResynchronization => wishes.push(resync()),
                State::Suspended | State::ResynchronizationSuspended => {
                    wishes.push(resume());
                }
                State::ReadyForReplication => wishes.push(start_copy()),
                _ => {}
            }
            if !w.runs(host) && alone && p.split.is_none() {
                wishes.push(start_vm());
            }
            wishes
        }
        Side::Test { .. } | Side::Alone => Vec::new(),
    }
}

fn pairs() -> impl Iterator<Item = (usize, usize)> {
    ALL.into_iter()
        .flat_map(|a| ALL.map(|b| (a, b)))
        .filter(|(a, b)| a != b)
}

/// Whatever happened: after it, without further trouble, replication goes on somewhere by what a person can ask for.
async fn peace(w: &mut World, seen: &mut Seen) {
    healed(w);
    w.run(60).await;
    judge(w, seen);
    // Separated for good, or given up: that is what was wanted.
    if seen.forced {
        return;
    }
    for round in 0..12 {
        if pairs().any(|(a, b)| flows(w, a, b)) {
            break;
        }
        for host in ALL {
            for wish in sensible(w, host, round) {
                ask(w, host, wish).await;
            }
        }
        w.run(45).await;
        judge(w, seen);
    }
    let told = || {
        let side = |h: usize| {
            w.recorded(h).map(|r| {
                format!(
                    "{h}: {:?} {:?} {} {:?} {:?}",
                    r.mode, r.state, r.position, r.side, r.problem
                )
            })
        };
        ALL.into_iter().filter_map(side).collect::<Vec<_>>().join("\n")
    };
    assert!(
        pairs().any(|(a, b)| flows(w, a, b)),
        "no way back to replication:\n{}",
        told()
    );
}

async fn history(w: &mut World, seed: u64, steps: u32) -> u64 {
    let (mut rng, mut seen) = (Rng(seed ^ 0x3_5eed), Seen::default());
    let vm = World::vm;
    w.insist(
        A,
        Action::EnableReplication {
            vm: vm(),
            settings: settings(B),
        },
    )
    .await
    .unwrap();
    w.insist(A, start_copy()).await.unwrap();
    for _ in 0..30 {
        if flows(w, A, B) {
            break;
        }
        w.run(1).await;
    }
    assert!(flows(w, A, B));
    if rng.one_in(3) {
        let settings = ReplicationSettings {
            interval_s: 15,
            ..settings(C)
        };
        w.insist(
            B,
            Action::ExtendReplication {
                vm: vm(),
                settings,
                start: true,
            },
        )
        .await
        .unwrap();
    }
    for _ in 0..rng.below(4) {
        w.write(10);
        w.run(12).await;
    }
    for _ in 0..steps {
        step(w, &mut rng, &mut seen).await;
    }
    peace(w, &mut seen).await;
    w.shared.state().trace
}

fn one(seed: u64, steps: u32) -> Result<u64, String> {
    let played = play(seed, THREE_HOSTS, SMALL, async |w| history(w, seed, steps).await);
    played.map_err(|wrong| {
        let lines = &wrong.recent;
        let from = if asked().is_some() {
            0
        } else {
            lines.len().saturating_sub(25)
        };
        format!(
            "LIFEBOAT_SEED={seed} after {steps} steps: {}\n  {}",
            wrong.why,
            lines[from..].join("\n  ")
        )
    })
}

/// Runs histories on all cores and shows the first that went wrong.
fn many(first: u64, count: u64, steps: u32) {
    if let Some(seed) = asked() {
        let result = one(seed, steps);
        if let Err(e) = &result {
            println!("{e}");
        }
        return assert!(result.is_ok(), "the history goes wrong");
    }
    let (next, failures) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let full = failures.lock().unwrap().len() >= 20;
                    if seed >= first + count || full {
                        return;
                    }
                    if let Err(e) = one(seed, steps) {
                        // At once: what is left may take long.
                        println!("FAILED {e}");
                        failures.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "these histories went wrong: {failures:?}");
}

fn count(otherwise: u64) -> u64 {
    let told = std::env::var("LIFEBOAT_HISTORIES").ok();
    told.and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn histories_of_three_hosts() {
    many(1, count(300), 25);
}

#[test]
fn a_history_of_three_hosts_is_replayed_by_its_seed() {
    assert_eq!(one(3, 25), one(3, 25));
}

/// `LIFEBOAT_HISTORIES` histories, 100,000 unless told otherwise.
#[test]
#[ignore = "long: make soak"]
fn soak_histories_of_three_hosts() {
    many(1_000_000, count(100_000), 25);
}
