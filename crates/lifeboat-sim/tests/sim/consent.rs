//! What another host can cause on this one by its word alone, and what an administrator of this host has to agree to.

use lifeboat_engine::action::{Action, Answer, PointSelector, Refusal};
use lifeboat_engine::ports::storage::{StorageFault, StorageFaultKind};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::{AuthorizationEntry, JobState, ReplicationMode as Mode, ReplicationState as State};
use lifeboat_sim::harness::{
    A, B, entry, eventually, flows, healthy, job, mode, planned, refused, replicating, reverse, sealed,
    simulate, start_vm, state, taken_over,
};
use lifeboat_sim::{VM, World};

async fn set(w: &World, host: usize, entry: AuthorizationEntry) -> Result<Answer, Refusal> {
    w.insist(host, Action::AddAuthorization { entry }).await
}

#[test]
fn a_vm_that_is_not_replicated_becomes_a_replica_with_consent_only() {
    simulate(1, async |w| {
        replicating(w).await;
        w.cut(true);
        taken_over(w, PointSelector::Latest, 10).await;
        w.guest_off(A);
        let vm = World::vm();
        w.insist(
            A,
            Action::RemoveReplication {
                vm: vm.clone(),
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
        assert_eq!(mode(w, A), Mode::None);
        w.cut(false);
        let asked = job(w, B, reverse()).await;
        let told = match asked {
            Err(e) => format!("{e:?}"),
            Ok(state) => {
                assert_eq!(state, JobState::Exception);
                format!("{:?}", w.jobs(B))
            }
        };
        assert!(told.contains("BecomeReplicaThere"), "{told}");
        assert_eq!(mode(w, A), Mode::None, "it was demoted");
        w.insist(A, Action::BecomeReplica { vm }).await.unwrap();
        w.insist(B, reverse()).await.unwrap();
        healthy(w, B, A).await;
    });
}

#[test]
fn a_primary_starts_its_vm_on_the_replica_where_the_entry_allows_it() {
    simulate(2, async |w| {
        replicating(w).await;
        set(w, B, entry("a", "/replicas")).await.unwrap();
        let refusal = refused(w, A, planned(true)).await;
        assert_eq!(refusal.code, ReturnCode::AccessDenied, "{refusal:?}");
        assert_eq!(
            refusal.hint,
            Some(hint::Planned::PlanThereOrAllow.into()),
            "{refusal:?}"
        );
        assert!(w.runs(A), "it was shut down for nothing");
        assert_eq!(state(w, A), State::Replicating);
        // Off is how it may come there, and on its own host it is started.
        assert_eq!(job(w, A, planned(false)).await.unwrap(), JobState::Completed);
        eventually(w, "the roles are swapped", |w| flows(w, B, A)).await;
        assert!(!w.runs(A) && !w.runs(B));
        w.insist(B, start_vm()).await.unwrap();
        // Asked for where it is to run, nobody's word is needed.
        let back = AuthorizationEntry {
            primary: "b".into(),
            ..entry("a", "/replicas")
        };
        set(w, A, back).await.unwrap();
        w.insist(A, planned(true)).await.unwrap();
        eventually(w, "the VM starts here", |w| w.runs(A)).await;
        healthy(w, A, B).await;
    });
}

/// The entry changes between the question and the handing over: the replica looks again.
#[test]
fn a_start_is_refused_when_the_entry_stopped_allowing_it() {
    simulate(3, async |w| {
        replicating(w).await;
        w.shared.state().stubborn = true;
        w.insist(A, planned(true)).await.unwrap();
        set(w, B, entry("a", "/replicas")).await.unwrap();
        w.guest_off(A);
        eventually(w, "it is prepared and refused", |w| {
            let jobs = w.jobs(A);
            jobs.iter().any(|j| j.state == JobState::Exception)
        })
        .await;
        assert_eq!(state(w, A), State::SyncedReplicationComplete);
        assert!(!w.runs(A) && !w.runs(B));
        let allow = Some(hint::Planned::PlanThereOrAllow.into());
        assert!(w.jobs(A).iter().any(|j| j.hint == allow), "{:?}", w.jobs(A));
        assert_eq!(job(w, A, planned(false)).await.unwrap(), JobState::Completed);
        eventually(w, "the roles are swapped", |w| flows(w, B, A)).await;
    });
}

/// A primary that was taken over wants no history, makes a point each second, and asks for what gives points up.
#[test]
fn points_are_kept_for_the_time_of_the_entry_whatever_the_primary_asks_for() {
    const HOUR: u32 = 3600;
    simulate(4, async |w| {
        replicating(w).await;
        let kept = AuthorizationEntry {
            keep_at_least_s: HOUR,
            ..entry("a", "/replicas")
        };
        set(w, B, kept.clone()).await.unwrap();
        for _ in 0..20 {
            w.write(20);
            w.run(60).await;
        }
        let before = sealed(w).await;
        assert!(before.len() > 5, "{before:?}");
        let mut settings = w.recorded(A).unwrap().settings;
        (
            settings.history,
            settings.any_point_window_s,
            settings.point_spacing_s,
        ) = (0, 0, 1);
        settings.interval_s = 1;
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
        for _ in 0..10 {
            w.write(20);
            w.run(60).await;
        }
        let after = sealed(w).await;
        let lost: Vec<_> = before.difference(&after).collect();
        assert!(lost.is_empty(), "{lost:?} of {}", before.len());
        assert!(after.len() > before.len(), "no new point");
        // Nor by a planned failover, which commits.
        let refusal = refused(w, A, planned(false)).await;
        assert_eq!(refusal.code, ReturnCode::AccessDenied, "{refusal:?}");
        assert!(w.runs(A));
        // An entry that is more exact, or broader, takes nothing from what this one promises.
        let other = AuthorizationEntry {
            primary: "*".into(),
            ..entry("a", "/replicas")
        };
        set(w, B, other).await.unwrap();
        w.run(120).await;
        let still = sealed(w).await;
        assert!(after.is_subset(&still));
        set(w, B, entry("a", "/replicas")).await.unwrap();
        // Nor without the entry: somebody on this host has to agree.
        w.write(20);
        w.run(120).await;
        assert!(still.is_subset(&sealed(w).await));
        let vm = World::vm();
        w.insist(B, Action::ReleasePoints { vm }).await.unwrap();
        w.write(20);
        w.run(120).await;
        let left = sealed(w).await.len();
        assert!(left < 4, "{left} are kept, as the primary asks for");
        healthy(w, A, B).await;
    });
}

#[test]
fn a_locked_entry_is_neither_removed_nor_shortened() {
    simulate(5, async |w| {
        replicating(w).await;
        let now = w.shared.now();
        let locked = AuthorizationEntry {
            keep_at_least_s: 600,
            locked_until: Some(now.plus(std::time::Duration::from_secs(600))),
            ..entry("a", "/replicas")
        };
        set(w, B, locked.clone()).await.unwrap();
        let remove = Action::RemoveAuthorization { primary: "A.".into() };
        let refusal = refused(w, B, remove.clone()).await;
        assert_eq!(refusal.code, ReturnCode::AccessDenied, "{refusal:?}");
        assert_eq!(
            set(w, B, entry("a", "/replicas")).await.unwrap_err().code,
            ReturnCode::AccessDenied
        );
        w.restart(B).await;
        assert_eq!(
            set(w, B, entry("a", "/replicas")).await.unwrap_err().code,
            ReturnCode::AccessDenied
        );
        let moved = AuthorizationEntry {
            storage_location: "/other".into(),
            keep_at_least_s: 700,
            ..locked
        };
        set(w, B, moved).await.unwrap();
        w.run(601).await;
        w.insist(B, remove).await.unwrap();
    });
}

/// What the primary is told when the replica's storage does not work: enough to know where to look, and no file.
#[test]
fn a_primary_learns_no_file_of_the_replica_s_host() {
    simulate(6, async |w| {
        replicating(w).await;
        w.shared.state().hosts[B].store_full = true;
        w.write(20);
        w.run(60).await;
        let view = w.view(A).await.unwrap().replication.unwrap();
        let told = format!("{view:?}{:?}", w.shared.state().hosts[A].events);
        assert!(told.contains("no space left in its storage location"), "{told}");
        assert!(!told.contains("/replicas"), "{told}");
        w.shared.state().hosts[B].store_full = false;
        healthy(w, A, B).await;
        let fault = StorageFault {
            kind: StorageFaultKind::Failing,
            path: "/replicas/secret.qcow2".into(),
            detail: "check the disk".to_owned(),
            since: w.shared.now(),
        };
        w.shared.state().hosts[B].replicas.get_mut(&VM).unwrap().faults = vec![fault];
        w.run(120).await;
        let view = w.view(A).await.unwrap().replication.unwrap();
        let told = format!("{view:?}{:?}", w.shared.state().hosts[A].events);
        assert!(!told.contains("secret"), "{told}");
        let own = w.view(B).await.unwrap().replication.unwrap();
        assert!(
            format!("{:?}", own.health_notes).contains("secret.qcow2"),
            "{own:?}"
        );
    });
}
