//! Holds on a replica's history: what begins one, what it keeps, and that nobody but somebody on the replica's host ends it.

use std::collections::HashSet;

use lifeboat_engine::action::HoldReason as Reason;
use lifeboat_engine::action::{Action, InitialCopy, PointSelector, VmView};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::{PointId, ReplicationHealth, ReplicationMode as Mode, ReplicationState as State};
use lifeboat_sim::World;
use lifeboat_sim::harness::{
    A, B, eventually, flows, healthy, mode, points, refused, remove, replicating, sealed, simulate, state,
    taken_over,
};
use lifeboat_sim::harness::{hints_at, texts};

fn hold() -> Action {
    Action::HoldPoints { vm: World::vm() }
}

fn release() -> Action {
    Action::ReleasePoints { vm: World::vm() }
}

/// Some minutes of work, with a point each 30 seconds.
async fn work(w: &World, minutes: u64) {
    for _ in 0..minutes {
        w.write(20);
        w.run(60).await;
    }
}

async fn reasons(w: &World) -> Vec<Reason> {
    let hold = w.view(B).await.unwrap().replication.unwrap().hold;
    hold.map(|h| h.reasons).unwrap_or_default()
}

fn lost(before: &HashSet<PointId>, after: &HashSet<PointId>) -> Vec<PointId> {
    before.difference(after).copied().collect()
}

fn notes(view: &VmView) -> String {
    texts(&view.replication.as_ref().unwrap().health_notes).join("; ")
}

/// The primary asks for no history.
async fn asks_for_less(w: &World) {
    let mut settings = w.recorded(A).unwrap().settings;
    (settings.history, settings.any_point_window_s) = (0, 0);
    let vm = World::vm();
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
}

#[test]
fn less_history_takes_effect_when_the_replica_side_agrees() {
    simulate(1, async |w| {
        replicating(w).await;
        work(w, 4).await;
        let (before, instants) = (sealed(w).await, points(w).await.len());
        asks_for_less(w).await;
        work(w, 9).await;
        let mut settings = w.recorded(A).unwrap().settings;
        settings.point_spacing_s = 1;
        let vm = World::vm();
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
        work(w, 1).await;
        assert_eq!(lost(&before, &sealed(w).await), []);
        assert!(points(w).await.len() > instants, "the logs are held as well");
        w.restart(B).await;
        work(w, 5).await;
        let after = sealed(w).await;
        assert_eq!(lost(&before, &after), []);
        // Points are made more and more rarely, so that the chain does not grow beyond what it can.
        assert!(after.len() < before.len() + 10, "{}", after.len());
        let view = w.view(B).await.unwrap();
        assert_eq!(
            view.replication.as_ref().unwrap().health,
            ReplicationHealth::Warning
        );
        let notes = notes(&view);
        assert!(notes.contains("a asks for less history"), "{notes}");
        let findings = &view.replication.as_ref().unwrap().health_notes;
        assert!(hints_at(findings, hint::Replicate::ReleasePoints), "{findings:?}");
        let told = w.shared.state().hosts[B].events.clone();
        let told = told
            .iter()
            .filter(|e| e.message.contains("asks for less history"));
        assert_eq!(told.count(), 1, "whatever it asks for next");
        // The primary's host has no say in it.
        for action in [hold(), release()] {
            let refusal = refused(w, A, action).await;
            assert_eq!(refusal.code, ReturnCode::InvalidState);
        }
        w.insist(B, release()).await.unwrap();
        work(w, 2).await;
        let left = sealed(w).await.len();
        assert!(left < 4, "{left}");
        healthy(w, A, B).await;
    });
}

/// The same by a relationship that is made anew on the copy which is there: its administrator kept it when the old one was
/// removed.
#[test]
fn less_history_of_a_relationship_that_is_made_anew_holds_too() {
    simulate(2, async |w| {
        replicating(w).await;
        work(w, 4).await;
        let before = sealed(w).await;
        let mut settings = w.recorded(A).unwrap().settings;
        let vm = World::vm;
        w.insist(A, remove()).await.unwrap();
        w.insist(B, remove()).await.unwrap();
        (settings.history, settings.any_point_window_s) = (0, 0);
        w.insist(A, Action::EnableReplication { vm: vm(), settings })
            .await
            .unwrap();
        let seed = Action::StartReplication {
            vm: vm(),
            how: InitialCopy::Seed,
            at: None,
            relationship: Default::default(),
        };
        w.insist(A, seed).await.unwrap();
        eventually(w, "they are one again", |w| flows(w, A, B)).await;
        work(w, 3).await;
        assert!(matches!(reasons(w).await[..], [Reason::LessHistory { .. }]));
        assert_eq!(lost(&before, &sealed(w).await), []);
        w.insist(B, release()).await.unwrap();
        work(w, 2).await;
        assert!(sealed(w).await.len() < 4);
    });
}

#[test]
fn a_burst_of_what_cannot_be_compressed_holds_until_somebody_has_looked() {
    simulate(3, async |w| {
        replicating(w).await;
        work(w, 4).await;
        w.shared.state().noise = 1 << 30;
        w.write(20);
        w.run(30).await;
        w.shared.state().noise = 0;
        let before = sealed(w).await;
        assert!(
            matches!(reasons(w).await[..], [Reason::Burst { .. }]),
            "{:?}",
            reasons(w).await
        );
        work(w, 10).await;
        assert_eq!(lost(&before, &sealed(w).await), []);
        let view = w.view(B).await.unwrap();
        assert!(notes(&view).contains("cannot be compressed"), "{}", notes(&view));
        // The point that the changes led to says so.
        let changed: Vec<_> = points(w).await.into_iter().filter_map(|p| p.changed).collect();
        assert!(changed.iter().any(|c| c.random >= 1 << 30), "{changed:?}");
        assert!(changed.iter().any(|c| c.random == 0 && c.data > 0), "{changed:?}");
        // Told once, however long it goes on.
        let told = w.shared.state().hosts[B].events.clone();
        let told = told.iter().filter(|e| e.message.contains("cannot be compressed"));
        assert_eq!(told.count(), 1);
        w.insist(B, release()).await.unwrap();
        work(w, 4).await;
        assert!(sealed(w).await.len() < 10);
        // The same again is usual now.
        w.shared.state().noise = 1 << 30;
        w.write(20);
        w.run(30).await;
        w.shared.state().noise = 0;
        work(w, 2).await;
        assert_eq!(reasons(w).await, []);
        healthy(w, A, B).await;
    });
}

#[test]
fn nothing_expires_while_a_hold_cannot_be_recorded() {
    simulate(4, async |w| {
        replicating(w).await;
        work(w, 4).await;
        let before = sealed(w).await;
        asks_for_less(w).await;
        w.shared.state().hosts[B].catalog_full = true;
        for _ in 0..5 {
            w.write(20);
            w.pause(60_000).await;
        }
        assert_eq!(lost(&before, &sealed(w).await), []);
        w.shared.state().hosts[B].catalog_full = false;
        work(w, 3).await;
        assert_eq!(lost(&before, &sealed(w).await), []);
        assert!(matches!(reasons(w).await[..], [Reason::LessHistory { .. }]));
    });
}

#[test]
fn a_requested_hold_keeps_an_old_point_for_a_failover() {
    simulate(5, async |w| {
        replicating(w).await;
        work(w, 4).await;
        let before = sealed(w).await;
        w.insist(B, hold()).await.unwrap();
        w.insist(B, hold()).await.unwrap();
        assert_eq!(reasons(w).await, [Reason::Asked]);
        work(w, 30).await;
        assert_eq!(lost(&before, &sealed(w).await), []);
        let oldest = points(w).await.last().unwrap().id.clone();
        w.cut(true);
        taken_over(w, PointSelector::Id(oldest), 10).await;
        assert_eq!(state(w, B), State::Committed);
        assert_eq!(mode(w, B), Mode::Replica);
    });
}

#[test]
fn held_logs_are_removed_on_a_full_disk_and_points_stay() {
    simulate(6, async |w| {
        replicating(w).await;
        work(w, 4).await;
        let before = sealed(w).await;
        w.insist(B, hold()).await.unwrap();
        work(w, 10).await;
        let held = points(w).await.len();
        w.shared.state().hosts[B].store_full = true;
        w.write(20);
        w.run(60).await;
        w.shared.state().hosts[B].store_full = false;
        work(w, 5).await;
        let after = points(w).await.len();
        assert!(after < held, "{after} of {held}");
        assert_eq!(lost(&before, &sealed(w).await), []);
        assert_eq!(reasons(w).await, [Reason::Asked]);
    });
}
