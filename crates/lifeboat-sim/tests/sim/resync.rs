//! Resynchronization by digests: after lost tracking, on demand, by itself in its window; suspended, given up, interrupted.
//! Recovery points stay as they are throughout, and a failover in the middle uses the last of them.

use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_engine::ports::store::Target;
use lifeboat_model::{DayWindow, JobState, JobType, ReplicationSettings, ReplicationState as State};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, difference, eventually, failover, flows, healthy, job, local_disks, points,
    replicating, resume, resync, revert, simulate, start_copy, start_vm, state, suspend,
};
use lifeboat_sim::{Content, Fault, VM, World};

fn sealed(w: &World) -> Vec<(String, Vec<Content>)> {
    let s = w.shared.state();
    let points = &s.hosts[REPLICA].replicas[&VM].points;
    points
        .iter()
        .map(|(p, c)| (p.id.0.to_string(), c.clone()))
        .collect()
}

/// What of a list is still listed is as it was, and the newest of it is still there.
fn kept(before: &[(String, Vec<Content>)], now: &[(String, Vec<Content>)]) {
    for (id, content) in now {
        if let Some((_, was)) = before.iter().find(|(b, _)| b == id) {
            assert!(was == content, "point {id} changed");
        }
    }
    let (newest, _) = before.last().unwrap();
    assert!(now.iter().any(|(id, _)| id == newest), "point {newest} is gone");
}

fn sync_blocks(w: &World) -> u64 {
    w.shared.state().sync_blocks
}

fn replica_holds(w: &World) -> Vec<Content> {
    w.shared.state().hosts[REPLICA].replicas[&VM].head.clone()
}

/// Cycles, then the process of the VM is killed: nobody knows what changed.
async fn lost(w: &mut World) {
    replicating(w).await;
    for _ in 0..6 {
        w.write(10);
        w.run(10).await;
    }
    w.write(20);
    w.kill_vm(PRIMARY);
    w.run(15).await;
    w.insist(PRIMARY, start_vm()).await.unwrap();
    eventually(w, "the loss", |w| {
        state(w, PRIMARY) == State::WaitingToStartResynchronization
    })
    .await;
}

/// The records of changes are lost again after everything was compared and before that was closed. What comes next ends
/// at any of its steps: what was compared before counts for nothing, however far beginning anew had come.
#[test]
fn a_comparison_begins_anew_after_a_second_loss_wherever_the_daemon_ends() {
    let mut ended = 0;
    for n in 1..=40 {
        ended += simulate(n, async |w| {
            lost(w).await;
            w.shared.state().hangs.insert((PRIMARY, "capture.take"));
            w.act(PRIMARY, resync()).await;
            eventually(w, "everything is compared", |w| {
                let sync = w.recorded(PRIMARY).and_then(|r| r.primary()?.sync.clone());
                sync.is_some_and(|s| s.cursor.0 > 0)
            })
            .await;
            w.write(20);
            w.kill_vm(PRIMARY);
            w.shared.state().hangs.clear();
            w.gate(PRIMARY).arm(n, Fault::CrashAfter);
            w.restart(PRIMARY).await;
            w.run(15).await;
            let hit = w.gate(PRIMARY).disarm();
            w.insist(PRIMARY, start_vm()).await.unwrap();
            healthy(w, PRIMARY, REPLICA).await;
            w.run(20).await;
            w.check_all().unwrap();
            u32::from(hit.is_some())
        });
    }
    assert!(ended > 5, "{ended}");
}

#[test]
fn a_resynchronization_after_lost_tracking_sends_only_what_differs() {
    for seed in 1..8 {
        simulate(seed, async |w| {
            lost(w).await;
            let before = sealed(w);
            let (all, data) = difference(&replica_holds(w), &local_disks(w));
            let bulk = w.shared.state().bulk_blocks;
            assert_eq!(job(w, PRIMARY, resync()).await.unwrap(), JobState::Completed);
            assert_eq!(w.shared.state().bulk_blocks, bulk);
            assert!(
                (data..=all).contains(&sync_blocks(w)),
                "{} of {all}",
                sync_blocks(w)
            );
            kept(&before, &sealed(w));
            healthy(w, PRIMARY, REPLICA).await;
        });
    }
}

#[test]
fn a_requested_resynchronization_of_equal_copies_finds_no_difference() {
    simulate(3, async |w| {
        replicating(w).await;
        w.run(25).await;
        let before = sealed(w);
        w.write(7);
        let (all, data) = difference(&replica_holds(w), &local_disks(w));
        assert_eq!(job(w, PRIMARY, resync()).await.unwrap(), JobState::Completed);
        assert!(
            (data..=all).contains(&sync_blocks(w)),
            "{} of {all}",
            sync_blocks(w)
        );
        kept(&before, &sealed(w));
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn a_resynchronization_survives_guest_writes_crashes_and_cuts() {
    for seed in 0..60 {
        simulate(seed, async |w| {
            lost(w).await;
            let before = sealed(w);
            w.insist(PRIMARY, resync()).await.unwrap();
            w.pause(seed * 5).await;
            w.write(10);
            match seed % 4 {
                0 => w.restart(PRIMARY).await,
                1 => w.restart(REPLICA).await,
                2 => {
                    w.cut(true);
                    w.write(10);
                    w.run(20).await;
                    w.cut(false);
                }
                _ => w.restart_both().await,
            }
            w.write(10);
            healthy(w, PRIMARY, REPLICA).await;
            kept(&before, &sealed(w));
        });
    }
}

#[test]
fn a_resynchronization_starts_by_itself_in_its_window() {
    simulate(4, async |w| {
        let settings = ReplicationSettings {
            auto_resync: Some(DayWindow {
                from_min: 0,
                to_min: 0,
            }),
            ..World::settings()
        };
        w.insist(
            PRIMARY,
            Action::EnableReplication {
                vm: World::vm(),
                settings,
            },
        )
        .await
        .unwrap();
        w.insist(PRIMARY, start_copy()).await.unwrap();
        eventually(w, "replication", |w| flows(w, PRIMARY, REPLICA)).await;
        w.run(40).await;
        w.write(20);
        w.kill_vm(PRIMARY);
        w.run(15).await;
        w.insist(PRIMARY, start_vm()).await.unwrap();
        w.run(120).await;
        healthy(w, PRIMARY, REPLICA).await;
    });
}

/// A link that carries nothing keeps it under way.
async fn under_way(w: &mut World) {
    lost(w).await;
    w.shared.state().cut_after[PRIMARY] = Some(1);
    w.insist(PRIMARY, resync()).await.unwrap();
    w.run(5).await;
    assert_eq!(
        state(w, PRIMARY),
        State::Resynchronizing,
        "{:?}",
        w.recorded(PRIMARY)
    );
}

#[test]
fn a_resynchronization_is_suspended_resumed_and_cancelled() {
    for seed in 1..8 {
        simulate(seed, async |w| {
            under_way(w).await;
            let before = sealed(w);
            w.insist(PRIMARY, suspend()).await.unwrap();
            assert_eq!(state(w, PRIMARY), State::ResynchronizationSuspended);
            w.cut(false);
            w.write(10);
            w.run(30).await;
            assert_eq!(state(w, PRIMARY), State::ResynchronizationSuspended);
            kept(&before, &sealed(w));
            if seed % 2 == 0 {
                w.insist(PRIMARY, resume()).await.unwrap();
            } else {
                w.insist(
                    PRIMARY,
                    Action::CancelResync {
                        vm: World::vm(),
                        relationship: Default::default(),
                    },
                )
                .await
                .unwrap();
                assert_eq!(state(w, PRIMARY), State::WaitingToStartResynchronization);
                w.write(10);
                w.run(30).await;
                kept(&before, &sealed(w));
                w.insist(PRIMARY, resync()).await.unwrap();
            }
            healthy(w, PRIMARY, REPLICA).await;
            kept(&before, &sealed(w));
        });
    }
}

#[test]
fn a_failover_in_the_middle_uses_the_last_sealed_point() {
    for seed in 1..8 {
        simulate(seed, async |w| {
            under_way(w).await;
            // One piece arrives, the closing cycle does not.
            w.cut(false);
            for _ in 0..2000 {
                if sync_blocks(w) > 0 {
                    break;
                }
                w.pause(1).await;
            }
            w.cut(true);
            w.run(5).await;
            let before = sealed(w);
            let newest = points(w).await[0].clone();
            let position = match newest.target {
                Target::Cycle { position } => position,
                Target::Point { id } => {
                    let s = w.shared.state();
                    let points = &s.hosts[REPLICA].replicas[&VM].points;
                    points.iter().find(|(p, _)| p.id == id).unwrap().0.position
                }
                Target::Abandoned => panic!("{newest:?}"),
            };
            let truth = w.shared.state().truth_at(VM, position).unwrap().disks.clone();
            assert_eq!(
                job(w, REPLICA, failover(PointSelector::Latest)).await.unwrap(),
                JobState::Completed
            );
            assert!(truth == w.disks_now(REPLICA), "{newest:?} is not what runs");
            w.write(20);
            assert_eq!(job(w, REPLICA, revert()).await.unwrap(), JobState::Completed);
            kept(&before, &sealed(w));
            w.cut(false);
            healthy(w, PRIMARY, REPLICA).await;
        });
    }
}

/// The log of a cycle is whole on the replica and not durable yet: its disk takes time.
async fn landing(w: &World) {
    w.shared.state().delay_ms = 20;
    for _ in 0..20_000 {
        w.pause(1).await;
        let now = w.shared.now().0 % 1_000_000_000;
        let lands = |l: &String| {
            *l == format!("{now} 1 store.receive") || *l == format!("{} 1 store.receive", now - 1)
        };
        if !w.tail(8).iter().any(lands) {
            continue;
        }
        w.hang_store(REPLICA, true);
        w.pause(25).await;
        if w.shared.state().hosts[REPLICA].stuck_since.is_some() {
            return;
        }
        w.hang_store(REPLICA, false);
    }
    panic!("no log lands: {}", w.tail(40).join("\n"));
}

/// Sending is ended here when all of a log is there; the replica says where it stands, and stands elsewhere a moment later.
#[test]
fn replication_continues_from_a_log_that_arrived_after_its_sending_was_ended() {
    for seed in 0..30 {
        simulate(seed, async |w| {
            replicating(w).await;
            w.write(20);
            landing(w).await;
            let before = w.shared.state().hosts[REPLICA].replicas[&VM].durable;
            match seed % 3 {
                0 => w.restart(PRIMARY).await,
                1 => {
                    w.insist(PRIMARY, suspend()).await.unwrap();
                    w.insist(PRIMARY, resume()).await.unwrap();
                }
                _ => w.cut(true),
            }
            w.cut(false);
            w.write(20);
            w.run(seed % 5).await;
            w.hang_store(REPLICA, false);
            healthy(w, PRIMARY, REPLICA).await;
            assert!(w.shared.state().hosts[REPLICA].replicas[&VM].durable != before);
            let compared = w
                .jobs(PRIMARY)
                .into_iter()
                .find(|j| j.kind == JobType::Resynchronize);
            assert!(
                compared.is_none(),
                "seed {seed}: {compared:?}\n{}",
                w.tail(60).join("\n")
            );
        });
    }
}
