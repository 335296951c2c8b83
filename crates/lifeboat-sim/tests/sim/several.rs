//! A → B → C and B → D: one replica with several outgoing relationships. Each goes its own way: one that fails, is suspended or
//! ends holds up no other, and an action is about the one that it names. What one of them does alone is `extended`'s and
//! `third`'s.

use lifeboat_engine::action::{Action, InitialCopy, PointSelector, RelationshipRef};
use lifeboat_engine::records::OutgoingRelationship;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::{
    Bandwidth, JobState, JobType, RelationshipId, ReplicationMode as Mode, ReplicationSettings,
    ReplicationState as State, Timestamp,
};
use lifeboat_sim::harness::{
    A, B, C, D, FOUR_HOSTS, asked, durable, events, eventually, extend, flows, gets_all, healthy, job, mode,
    moved, planned, refused, replicating, simulate_small, taken_over,
};
use lifeboat_sim::{Rng, VM, World};

fn to(peer: &str) -> RelationshipRef {
    RelationshipRef::Peer(peer.into())
}

fn suspend(relationship: RelationshipRef) -> Action {
    let vm = World::vm();
    Action::SuspendReplication { vm, relationship }
}

fn resume(relationship: RelationshipRef) -> Action {
    let vm = World::vm();
    Action::ResumeReplication { vm, relationship }
}

fn remove(relationship: RelationshipRef) -> Action {
    let vm = World::vm();
    Action::RemoveReplication { vm, relationship }
}

fn resync(relationship: RelationshipRef, at: Option<Timestamp>) -> Action {
    let vm = World::vm();
    Action::Resynchronize { vm, at, relationship }
}

fn start(relationship: RelationshipRef, at: Option<Timestamp>) -> Action {
    Action::StartReplication {
        vm: World::vm(),
        how: InitialCopy::Network,
        at,
        relationship,
    }
}

fn settings(peer: &str) -> ReplicationSettings {
    ReplicationSettings {
        peer: peer.into(),
        interval_s: 15,
        ..World::settings()
    }
}

/// What `b` has recorded of its relationship to a host.
fn outgoing(w: &World, peer: &str) -> Option<OutgoingRelationship> {
    let all = w.recorded(B)?.outgoing().to_vec();
    all.into_iter().find(|one| one.settings.peer == peer)
}

fn state_to(w: &World, peer: &str) -> State {
    outgoing(w, peer).map_or(State::Disabled, |one| one.state)
}

fn c_follows(w: &World) -> bool {
    outgoing(w, "c:7000").is_some_and(|one| gets_all(w, B, &one, C))
}

fn d_follows(w: &World) -> bool {
    outgoing(w, "d:7000").is_some_and(|one| gets_all(w, B, &one, D))
}

/// Replicates from `a` to `b` and from there to `c` and `d`, and waits until both have everything.
async fn both(w: &mut World) {
    replicating(w).await;
    for peer in ["c:7000", "d:7000"] {
        assert_eq!(
            job(w, B, extend(peer)).await.unwrap(),
            JobState::Completed,
            "{peer}"
        );
    }
    eventually(w, "both follow", |w| c_follows(w) && d_follows(w)).await;
}

async fn cycles(w: &mut World, seconds: u64) {
    for _ in 0..seconds / 5 {
        w.write(10);
        w.run(5).await;
        w.check_all().unwrap();
    }
}

#[test]
fn two_hosts_get_what_a_replica_gets_each_by_itself() {
    for seed in 1..4 {
        simulate_small(seed, FOUR_HOSTS, async |w| {
            both(w).await;
            for host in [C, D] {
                assert_eq!(mode(w, host), Mode::ExtendedReplica);
            }
            let before = moved(w);
            cycles(w, 100).await;
            // One is away far longer than any point is kept; the other goes on, and the daemon between them is started again.
            w.cut_between(B, D, true);
            cycles(w, 200).await;
            eventually(w, "c follows while d is away", c_follows).await;
            assert_eq!(state_to(w, "d:7000"), State::Critical);
            assert!(outgoing(w, "c:7000").unwrap().problem.is_none());
            w.restart(B).await;
            cycles(w, 100).await;
            eventually(w, "c follows after a start", c_follows).await;
            w.cut_between(B, D, false);
            eventually(w, "both follow", |w| c_follows(w) && d_follows(w)).await;
            assert_eq!(moved(w), before, "every log that d lacked was kept for it");
            let s = w.shared.state();
            let logs = |h: usize| s.hosts[h].replicas[&VM].logs.last().map(|l| l.bytes.clone());
            assert_eq!(
                (logs(B), logs(B)),
                (logs(C), logs(D)),
                "the bytes are those that were received"
            );
        });
    }
}

#[test]
fn an_action_is_about_the_relationship_that_it_names() {
    simulate_small(2, FOUR_HOSTS, async |w| {
        both(w).await;
        let ids: Vec<_> = w
            .recorded(B)
            .unwrap()
            .outgoing()
            .iter()
            .map(|one| one.id)
            .collect();
        assert_eq!(ids, [RelationshipId::new(1), RelationshipId::new(2)]);
        // Of two, one has to be named; and by a name that one of them has.
        for of in [
            RelationshipRef::Outgoing,
            to("x:7000"),
            RelationshipRef::Id(RelationshipId::new(3)),
        ] {
            for action in [suspend(of.clone()), remove(of.clone()), resync(of.clone(), None)] {
                let said = refused(w, B, action).await;
                assert_eq!(said.code, ReturnCode::InvalidParameter, "{said:?}");
                assert_eq!(said.hint, Some(hint::Extend::NameOne.into()), "{said:?}");
                assert!(said.message.contains("c:7000, d:7000"), "{said:?}");
            }
        }
        let said = refused(w, B, resync(RelationshipRef::Usual, None)).await;
        assert_eq!(said.hint, Some(hint::Extend::NameOne.into()), "{said:?}");
        let said = refused(w, B, extend("d:7001")).await;
        assert!(said.message.contains("d:7000 already"), "{said:?}");
        // By its host, with and without the port, and by its number.
        w.insist(B, suspend(to("d"))).await.unwrap();
        assert_eq!(
            (state_to(w, "c:7000"), state_to(w, "d:7000")),
            (State::Replicating, State::Suspended)
        );
        let stands = durable(w, D);
        cycles(w, 60).await;
        eventually(w, "c follows", c_follows).await;
        assert_eq!(durable(w, D), stands);
        w.insist(B, resume(RelationshipRef::Id(RelationshipId::new(2))))
            .await
            .unwrap();
        eventually(w, "both follow", |w| c_follows(w) && d_follows(w)).await;
        // The replica's own relationship stays while there are others.
        let said = refused(w, B, remove(RelationshipRef::Usual)).await;
        assert!(said.message.contains("c:7000, d:7000"), "{said:?}");
        w.insist(B, remove(to("c:7000"))).await.unwrap();
        assert!(outgoing(w, "c:7000").is_none());
        let stands = durable(w, C);
        cycles(w, 60).await;
        eventually(w, "d follows", d_follows).await;
        assert_eq!(durable(w, C), stands, "it keeps what it has, and gets nothing");
        // A removal that is repeated is not one of the other.
        let said = refused(w, B, remove(to("c:7000"))).await;
        assert_eq!(said.code, ReturnCode::InvalidParameter, "{said:?}");
        refused(w, B, remove(RelationshipRef::Id(RelationshipId::new(1)))).await;
        assert!(outgoing(w, "d:7000").is_some());
        let view = w.view(B).await.unwrap().replication.unwrap();
        let shown: Vec<_> = view
            .outgoing()
            .map(|one| (one.relationship.number(), one.peer.as_str()))
            .collect();
        assert_eq!(shown, [(2, "d:7000")]);
        // The free number is taken again.
        assert_eq!(job(w, B, extend("c:7000")).await.unwrap(), JobState::Completed);
        eventually(w, "both follow", |w| c_follows(w) && d_follows(w)).await;
        assert_eq!(outgoing(w, "c:7000").unwrap().id, RelationshipId::new(1));
    });
}

#[test]
fn each_has_its_own_settings_schedule_and_jobs() {
    simulate_small(3, FOUR_HOSTS, async |w| {
        replicating(w).await;
        for peer in ["c:7000", "d:7000"] {
            let (vm, settings, start) = (World::vm(), settings(peer), false);
            w.insist(B, Action::ExtendReplication { vm, settings, start })
                .await
                .unwrap();
        }
        let hour = |w: &World, n: u64| Some(Timestamp(w.shared.now().0 + n * 3_600_000));
        let waiting = |w: &World| {
            let all = w.jobs(B).into_iter();
            all.filter(|j| j.state == JobState::New).count()
        };
        let (first, second) = (hour(w, 1), hour(w, 2));
        w.insist(B, start(to("c"), first)).await.unwrap();
        w.insist(B, start(to("d"), second)).await.unwrap();
        assert_eq!(waiting(w), 2, "each waits with a job of its own");
        w.restart(B).await;
        // What begins now for one of them does not take the other's place.
        assert_eq!(
            job(w, B, start(to("d"), None)).await.unwrap(),
            JobState::Completed
        );
        assert_eq!(
            (state_to(w, "c:7000"), waiting(w)),
            (State::ReadyForReplication, 1)
        );
        w.run(3700).await;
        eventually(w, "both follow", |w| c_follows(w) && d_follows(w)).await;
        assert_eq!(waiting(w), 0);
        let copies = w
            .jobs(B)
            .into_iter()
            .filter(|j| j.kind == JobType::StartReplication);
        assert!(copies.into_iter().all(|j| j.state == JobState::Completed));
        // A comparison that is scheduled for one is cancelled by its job, and the other's stays.
        w.insist(B, resync(to("c"), hour(w, 1))).await.unwrap();
        w.insist(B, resync(to("d"), hour(w, 1))).await.unwrap();
        let of_c = outgoing(w, "c:7000").unwrap().waiting.unwrap();
        w.insist(B, Action::CancelJob { job: of_c }).await.unwrap();
        assert!(outgoing(w, "c:7000").unwrap().scheduled.is_none());
        assert!(outgoing(w, "d:7000").unwrap().scheduled.is_some());
        assert_eq!(waiting(w), 1);
        let modified = Action::ModifyReplication {
            vm: World::vm(),
            settings: ReplicationSettings {
                bandwidth: Bandwidth {
                    bytes_per_s: 1 << 20,
                    windows: Vec::new(),
                },
                interval_s: 60,
                ..settings("d:7000")
            },
            relationship: to("d"),
        };
        w.insist(B, modified).await.unwrap();
        assert_eq!(outgoing(w, "d:7000").unwrap().settings.interval_s, 60);
        assert_eq!(outgoing(w, "c:7000").unwrap().settings, settings_of(w, "c:7000"));
        // One cannot be turned to the host of the other.
        let turned = Action::ModifyReplication {
            vm: World::vm(),
            settings: settings("c:7000"),
            relationship: to("d"),
        };
        let said = refused(w, B, turned).await;
        assert!(said.message.contains("c:7000 already"), "{said:?}");
    });
}

/// The settings that it was made with, and the disks that it got.
fn settings_of(w: &World, peer: &str) -> ReplicationSettings {
    ReplicationSettings {
        disks: w.recorded(B).unwrap().settings.disks,
        ..settings(peer)
    }
}

/// Whether a host was made equal by pieces of a comparison.
fn compared(w: &World, host: usize) -> bool {
    let s = w.shared.state();
    s.hosts[host].replicas[&VM].logs.iter().any(|l| l.log.partial)
}

#[test]
fn one_is_compared_while_the_other_goes_on() {
    for seed in 4..7 {
        simulate_small(seed, FOUR_HOSTS, async |w| {
            both(w).await;
            assert_eq!(
                job(w, B, resync(to("c"), None)).await.unwrap(),
                JobState::Completed
            );
            assert_eq!((compared(w, C), compared(w, D)), (true, false));
            // Both at once: one point serves both.
            w.insist(B, resync(to("c"), None)).await.unwrap();
            w.insist(B, resync(to("d"), None)).await.unwrap();
            w.write(20);
            eventually(w, "both follow", |w| c_follows(w) && d_follows(w)).await;
            cycles(w, 30).await;
        });
    }
}

#[test]
fn after_a_commit_one_of_them_is_gone_on_with_and_the_other_keeps_what_it_has() {
    for seed in 7..9 {
        simulate_small(seed, FOUR_HOSTS, async |w| {
            both(w).await;
            w.cut(true);
            w.kill_vm(A);
            taken_over(w, PointSelector::Latest, 30).await;
            let go_on = |relationship| Action::ContinueAsPrimary {
                vm: World::vm(),
                relationship,
            };
            let said = refused(w, B, go_on(RelationshipRef::Usual)).await;
            assert_eq!(said.hint, Some(hint::Extend::NameOne.into()), "{said:?}");
            let stands = durable(w, C);
            assert_eq!(job(w, B, go_on(to("d"))).await.unwrap(), JobState::Completed);
            eventually(w, "replication to d", |w| flows(w, B, D)).await;
            healthy(w, B, D).await;
            assert_eq!((mode(w, C), mode(w, D)), (Mode::ExtendedReplica, Mode::Replica));
            assert_eq!(durable(w, C), stands, "nothing more is sent there");
            assert_eq!(events(w, B, "c:7000 keeps its recovery points").len(), 1);
            assert!(w.recorded(B).unwrap().outgoing().is_empty());
            assert!(
                w.recorded(B).unwrap().formerly.contains(&"c:7000".to_owned()),
                "it is asked before a start"
            );
        });
    }
}

#[test]
fn what_a_relationship_needed_that_ended_with_a_change_of_roles_keeps_no_logs() {
    simulate_small(11, FOUR_HOSTS, async |w| {
        both(w).await;
        // Logs are kept for d, which is away when the roles change.
        w.cut_between(B, D, true);
        assert_eq!(job(w, A, planned(true)).await.unwrap(), JobState::Completed);
        healthy(w, B, A).await;
        assert!(w.recorded(B).unwrap().outgoing().is_empty());
        assert_eq!(job(w, B, planned(true)).await.unwrap(), JobState::Completed);
        healthy(w, A, B).await;
        w.cut_between(B, D, false);
        assert_eq!(job(w, B, extend("c:7000")).await.unwrap(), JobState::Completed);
        eventually(w, "c follows", c_follows).await;
        cycles(w, 600).await;
        let kept = w.shared.state().hosts[B].replicas[&VM].keep_since.len();
        assert_eq!(kept, 1, "logs are kept for c alone");
    });
}

/// What happens at random to a replica with two outgoing relationships, and at the end everything comes together again.
async fn random(w: &mut World, rng: &mut Rng) {
    both(w).await;
    for _ in 0..40 {
        let (peer, host) = if rng.below(2) == 0 { ("c", C) } else { ("d", D) };
        match rng.below(9) {
            0 => w.cut_between(B, host, true),
            1 | 2 => w.cut_between(B, host, false),
            3 => w.restart(B).await,
            4 => w.restart(host).await,
            // Any of them may be refused in the state that it is in.
            5 => drop(w.act(B, suspend(to(peer))).await),
            6 => drop(w.act(B, resume(to(peer))).await),
            7 => drop(w.act(B, resync(to(peer), None)).await),
            _ => w.cut(rng.below(2) == 0),
        }
        cycles(w, 5 * (1 + rng.below(12))).await;
    }
    for host in [C, D] {
        w.cut_between(B, host, false);
    }
    w.cut(false);
    for peer in ["c", "d"] {
        drop(w.act(B, resume(to(peer))).await);
    }
    eventually(w, "both follow", |w| c_follows(w) && d_follows(w)).await;
    let s = w.shared.state();
    let content = |h: usize| s.hosts[h].replicas[&VM].applied;
    assert_eq!((content(B), content(B)), (content(C), content(D)));
}

#[test]
fn random_histories_of_two_outgoing_relationships_end_equal() {
    let seeds = asked().map_or(1..25, |seed| seed..seed + 1);
    for seed in seeds {
        println!("LIFEBOAT_SEED={seed}");
        simulate_small(seed, FOUR_HOSTS, async |w| random(w, &mut Rng(seed)).await);
    }
}
