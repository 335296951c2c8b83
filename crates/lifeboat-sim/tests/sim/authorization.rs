//! Who may replicate to a host: what a change of the entries, of their places and of the host itself does to what relies
//! on them.

use lifeboat_engine::action::{Action, Answer, ServerSettings};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::ports::link::{PeerHandler, PeerIdentity};
use lifeboat_engine::query::Query;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::quota::Quota;
use lifeboat_model::{AuthorizationEntry, Bandwidth, ReplicationHealth as Health, ReplicationState as State};
use lifeboat_sim::harness::texts;
use lifeboat_sim::harness::{
    A, B, durable, entry, healthy, job, refused, replicating, reverse, simulate, state, taken_over,
};
use lifeboat_sim::{VM, World};

async fn allow(w: &World, primary: &str, location: &str) {
    let entry = entry(primary, location);
    let done = w.insist(B, Action::AddAuthorization { entry }).await;
    assert_eq!(done.unwrap(), Answer::Done);
}

async fn forbid(w: &World, primary: &str) {
    let primary = primary.to_owned();
    let done = w.insist(B, Action::RemoveAuthorization { primary }).await;
    assert_eq!(done.unwrap(), Answer::Done);
}

async fn enabled(w: &World, enabled: bool) {
    let settings = ServerSettings {
        enabled,
        ..ServerSettings::default()
    };
    w.insist(B, Action::SetServer { settings }).await.unwrap();
}

async fn health(w: &World, host: usize) -> (Health, String) {
    let v = w.view(host).await.unwrap().replication.unwrap();
    (v.health, texts(&v.health_notes).join("; "))
}

/// Nothing arrives, both sides say why, and it goes on by itself when `cure` is done.
async fn stopped(w: &mut World, word: &str, cure: impl AsyncFnOnce(&World)) {
    let before = durable(w, B);
    w.write(20);
    w.run(60).await;
    assert_eq!(durable(w, B), before, "something arrived");
    for host in [A, B] {
        let (health, notes) = health(w, host).await;
        assert_eq!(health, Health::Critical, "host {host}: {notes}");
        assert!(notes.contains(word), "host {host}: {notes}");
    }
    assert_eq!(state(w, A), State::Critical);
    cure(w).await;
    healthy(w, A, B).await;
    assert_eq!(health(w, B).await.0, Health::Ok);
}

#[test]
fn replication_stops_with_its_entry_and_continues_with_another() {
    simulate(1, async |w| {
        replicating(w).await;
        forbid(w, "a").await;
        stopped(w, "authorization entry", async |w| {
            allow(w, "a", "/replicas").await
        })
        .await;
        // An entry for everybody does as well; the exact one may go.
        allow(w, "*", "/replicas").await;
        forbid(w, "a").await;
        healthy(w, A, B).await;
        forbid(w, "*").await;
        w.restart(B).await;
        stopped(w, "authorization entry", async |w| allow(w, "*", "/other").await).await;
    });
}

#[test]
fn replication_stops_at_its_quota_and_continues_with_more() {
    simulate(9, async |w| {
        replicating(w).await;
        let with = |bytes| AuthorizationEntry {
            quota: Quota {
                bytes,
                ..Quota::default()
            },
            ..entry("a", "/replicas")
        };
        let set = async |w: &World, bytes| {
            let entry = with(bytes);
            let done = w.insist(B, Action::AddAuthorization { entry }).await;
            assert_eq!(done.unwrap(), Answer::Done);
        };
        set(w, Some(1)).await;
        stopped(w, "1 bytes on disk", async |w| set(w, Some(1 << 40)).await).await;
        w.restart(B).await;
        set(w, Some(1)).await;
        w.restart(B).await;
        stopped(w, "1 bytes on disk", async |w| set(w, None).await).await;
    });
}

#[test]
fn a_host_that_is_no_longer_a_replica_server_receives_nothing() {
    simulate(2, async |w| {
        replicating(w).await;
        enabled(w, false).await;
        stopped(w, "replica server", async |w| enabled(w, true).await).await;
    });
}

#[test]
fn a_transfer_under_way_ends_with_the_entry() {
    simulate(3, async |w| {
        replicating(w).await;
        let mut settings = w.recorded(A).unwrap().settings;
        settings.compression = false;
        settings.bandwidth = Bandwidth {
            bytes_per_s: 65_536,
            windows: Vec::new(),
        };
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
        w.write(3000);
        // At this rate it takes half a minute.
        let receiving = |w: &World| {
            w.shared.state().hosts[B]
                .busy
                .get(&VM)
                .is_some_and(|b| b.contains(&"store.receive"))
        };
        w.run(15).await;
        assert!(receiving(w), "{:?}", w.shared.state().hosts[B].busy);
        forbid(w, "a").await;
        w.pause(500).await;
        assert!(!receiving(w), "{:?}", w.shared.state().hosts[B].busy);
        let told = |w: &World| {
            let s = w.shared.state();
            s.hosts[B]
                .events
                .iter()
                .any(|e| e.message.starts_with("receiving ended"))
        };
        assert!(told(w));
        w.run(30).await;
        assert!(health(w, A).await.1.contains("authorization entry"));
        allow(w, "a", "/replicas").await;
        w.run(60).await;
        healthy(w, A, B).await;
    });
}

#[test]
fn changing_the_location_of_an_entry_moves_no_replica() {
    simulate(4, async |w| {
        replicating(w).await;
        let dir = |w: &World| w.shared.state().hosts[B].replicas[&VM].dir.clone();
        let before = dir(w);
        allow(w, "a", "/elsewhere").await;
        healthy(w, A, B).await;
        w.restart(B).await;
        healthy(w, A, B).await;
        assert_eq!(dir(w), before);
        assert!(before.starts_with("/replicas"));
        assert_eq!(w.recorded(B).unwrap().replica().unwrap().dir, Some(before));
    });
}

#[test]
fn removing_an_unknown_entry_and_adding_an_invalid_one_are_refused() {
    simulate(5, async |w| {
        let primary = "nobody".to_owned();
        let e = refused(w, B, Action::RemoveAuthorization { primary }).await;
        assert!(e.hint.is_some(), "{e}");
        for entry in [entry("a b", "/srv"), entry("a", "srv"), entry("a", "/srv/../etc")] {
            refused(w, B, Action::AddAuthorization { entry }).await;
        }
    });
}

fn bind(primary: &str) -> Action {
    Action::SetAuthorization {
        vm: World::vm(),
        primary: primary.into(),
    }
}

#[test]
fn a_replica_that_is_bound_to_an_entry_takes_from_nobody_else() {
    simulate(6, async |w| {
        assert_eq!(
            refused(w, B, bind("a")).await.code,
            ReturnCode::FileNotFound,
            "no VM yet"
        );
        replicating(w).await;
        assert_eq!(refused(w, A, bind("b")).await.code, ReturnCode::InvalidState);
        assert_eq!(
            refused(w, B, bind("elsewhere")).await.code,
            ReturnCode::FileNotFound
        );
        let other = AuthorizationEntry {
            trust_group: "others".into(),
            ..entry("other", "/replicas")
        };
        w.insist(B, Action::AddAuthorization { entry: other })
            .await
            .unwrap();
        w.insist(B, bind("OTHER")).await.unwrap();
        let view = w.view(B).await.unwrap().replication.unwrap();
        assert_eq!(view.allowed.as_deref(), Some("other"));
        w.restart(B).await;
        // It is covered by an entry of its own, but not by that one.
        let before = durable(w, B);
        w.write(20);
        w.run(60).await;
        assert_eq!(durable(w, B), before, "something arrived");
        assert!(health(w, B).await.1.contains("bound"), "{:?}", health(w, B).await);
        assert_eq!(health(w, A).await.0, Health::Critical);
        w.insist(B, bind("a")).await.unwrap();
        healthy(w, A, B).await;
        assert_eq!(health(w, B).await.0, Health::Ok);
    });
}

#[test]
fn hosts_of_the_trust_group_are_authorized_until_the_entry_is_removed() {
    simulate(7, async |w| {
        replicating(w).await;
        allow(w, "other", "/replicas").await;
        w.insist(B, bind("other")).await.unwrap();
        healthy(w, A, B).await;
        forbid(w, "other").await;
        let before = durable(w, B);
        w.write(20);
        w.run(60).await;
        assert_eq!(durable(w, B), before, "something arrived");
        assert!(health(w, B).await.1.contains("is gone"));
        w.insist(B, bind("a")).await.unwrap();
        healthy(w, A, B).await;
    });
}

#[test]
fn a_copy_that_awaits_its_first_offer_is_bound_before_it() {
    simulate(8, async |w| {
        replicating(w).await;
        w.cut(true);
        taken_over(w, lifeboat_engine::action::PointSelector::Latest, 10).await;
        w.guest_off(A);
        w.insist(A, Action::BecomeReplica { vm: World::vm() })
            .await
            .unwrap();
        let other = AuthorizationEntry {
            trust_group: "others".into(),
            ..entry("other", "/replicas")
        };
        w.insist(A, Action::AddAuthorization { entry: other })
            .await
            .unwrap();
        w.insist(A, bind("other")).await.unwrap();
        w.cut(false);
        let ended = job(w, B, reverse()).await;
        assert!(
            ended
                .as_ref()
                .is_ok_and(|s| *s == lifeboat_model::JobState::Exception)
                || ended.as_ref().is_err_and(|e| e.code == ReturnCode::AccessDenied),
            "{ended:?}"
        );
        w.insist(A, bind("b")).await.unwrap();
        w.insist(B, reverse()).await.unwrap();
        healthy(w, B, A).await;
        let view = w.view(A).await.unwrap().replication.unwrap();
        assert_eq!(view.allowed.as_deref(), Some("b"));
    });
}

fn knows(w: &World, host: usize, name: &str) -> bool {
    let engine = w.engine(host).unwrap();
    let names = vec![name.to_owned()];
    engine.knows(&PeerIdentity {
        names,
        addresses: Vec::new(),
        key: None,
    })
}

/// What the listener asks of each host that calls: whether places are kept for it.
#[test]
fn a_host_is_known_by_an_entry_or_by_a_replication_that_names_it() {
    simulate(41, async |w| {
        for host in [A, B] {
            let entries = w
                .insist_on(host, Query::list_authorization(Paging::FIRST))
                .await
                .unwrap();
            for entry in entries {
                let primary = entry.primary;
                w.insist(host, Action::RemoveAuthorization { primary })
                    .await
                    .unwrap();
            }
        }
        for host in [A, B] {
            assert!(!knows(w, host, "a") && !knows(w, host, "b") && !knows(w, host, "eve"));
        }
        allow(w, "*.example.org", "/replicas").await;
        assert!(knows(w, B, "x.example.org") && !knows(w, B, "x.example.com"));
        allow(w, "a", "/replicas").await;
        replicating(w).await;
        // The primary has no entry for its replica's host and is asked by it all the same.
        assert!(knows(w, A, "b") && !knows(w, A, "eve"));
        forbid(w, "a").await;
        assert!(knows(w, B, "a"), "there is still a replica of it");
        w.restart(A).await;
        assert!(knows(w, A, "b"), "also after a start");
    });
}
