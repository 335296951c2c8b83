//! Who may replicate to a host: what a change of the entries, of their places and of the host itself does to what relies
//! on them.

use crate::common::{healthy, replicating, simulate, state};
use lifeboat_engine::action::{Action, Answer};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::ports::link::{PeerHandler, PeerIdentity};
use lifeboat_engine::query::Query;
use lifeboat_engine::records::ServerSettings;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::quota::Quota;
use lifeboat_model::{
    AuthorizationEntry, Bandwidth, Position, ReplicationHealth as Health, ReplicationState as State,
};
use lifeboat_sim::{VM, World};

fn entry(primary: &str, location: &str) -> AuthorizationEntry {
    AuthorizationEntry {
        primary: primary.into(),
        storage_location: location.into(),
        trust_group: "t".into(),
        allow_start: false,
        keep_at_least_s: 0,
        locked_until: None,
        quota: Default::default(),
    }
}

async fn allow(w: &World, primary: &str, location: &str) {
    let entry = entry(primary, location);
    let done = w.insist(1, Action::AddAuthorization { entry }).await;
    assert_eq!(done.unwrap(), Answer::Done);
}

async fn forbid(w: &World, primary: &str) {
    let primary = primary.to_owned();
    let done = w.insist(1, Action::RemoveAuthorization { primary }).await;
    assert_eq!(done.unwrap(), Answer::Done);
}

async fn enabled(w: &World, enabled: bool) {
    let settings = ServerSettings {
        enabled,
        ..ServerSettings::default()
    };
    w.insist(1, Action::SetServer { settings }).await.unwrap();
}

fn durable(w: &World) -> Position {
    w.shared.state().hosts[1].replicas[&VM].durable
}

async fn health(w: &World, host: usize) -> (Health, String) {
    let v = w.view(host).await.unwrap().replication.unwrap();
    (v.health, v.health_notes.join("; "))
}

/// Nothing arrives, both sides say why, and it goes on by itself when `cure` is done.
async fn stopped(w: &mut World, word: &str, cure: impl AsyncFnOnce(&World)) {
    let before = durable(w);
    w.write(20);
    w.run(60).await;
    assert_eq!(durable(w), before, "something arrived");
    for host in 0..2 {
        let (health, notes) = health(w, host).await;
        assert_eq!(health, Health::Critical, "host {host}: {notes}");
        assert!(notes.contains(word), "host {host}: {notes}");
    }
    assert_eq!(state(w, 0), State::Critical);
    cure(w).await;
    healthy(w, 0, 1).await;
    assert_eq!(health(w, 1).await.0, Health::Ok);
}

#[test]
fn what_relied_on_an_entry_stops_with_it_and_goes_on_with_another() {
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
        healthy(w, 0, 1).await;
        forbid(w, "*").await;
        w.restart(1).await;
        stopped(w, "authorization entry", async |w| allow(w, "*", "/other").await).await;
    });
}

#[test]
fn what_an_entry_may_take_stops_at_its_quota_and_goes_on_with_more() {
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
            let done = w.insist(1, Action::AddAuthorization { entry }).await;
            assert_eq!(done.unwrap(), Answer::Done);
        };
        set(w, Some(1)).await;
        stopped(w, "1 bytes on disk", async |w| set(w, Some(1 << 40)).await).await;
        w.restart(1).await;
        set(w, Some(1)).await;
        w.restart(1).await;
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
        let mut settings = w.recorded(0).unwrap().settings;
        settings.compression = false;
        settings.bandwidth = Bandwidth {
            bytes_per_s: 65_536,
            windows: Vec::new(),
        };
        let vm = World::vm();
        w.insist(0, Action::ModifyReplication { vm, settings })
            .await
            .unwrap();
        w.write(3000);
        // At this rate it takes half a minute.
        let receiving = |w: &World| {
            w.shared.state().hosts[1]
                .busy
                .get(&VM)
                .is_some_and(|b| b.contains(&"store.receive"))
        };
        w.run(15).await;
        assert!(receiving(w), "{:?}", w.shared.state().hosts[1].busy);
        forbid(w, "a").await;
        w.pause(500).await;
        assert!(!receiving(w), "{:?}", w.shared.state().hosts[1].busy);
        let told = |w: &World| {
            let s = w.shared.state();
            s.hosts[1]
                .events
                .iter()
                .any(|e| e.message.starts_with("receiving ended"))
        };
        assert!(told(w));
        w.run(30).await;
        assert!(health(w, 0).await.1.contains("authorization entry"));
        allow(w, "a", "/replicas").await;
        w.run(60).await;
        healthy(w, 0, 1).await;
    });
}

#[test]
fn another_place_in_an_entry_moves_no_replica_that_is_there() {
    simulate(4, async |w| {
        replicating(w).await;
        let dir = |w: &World| w.shared.state().hosts[1].replicas[&VM].dir.clone();
        let before = dir(w);
        allow(w, "a", "/elsewhere").await;
        healthy(w, 0, 1).await;
        w.restart(1).await;
        healthy(w, 0, 1).await;
        assert_eq!(dir(w), before);
        assert!(before.starts_with("/replicas"));
        assert_eq!(w.recorded(1).unwrap().replica().unwrap().dir, before);
    });
}

#[test]
fn an_unknown_entry_cannot_be_removed_and_a_bad_one_not_be_added() {
    simulate(5, async |w| {
        let primary = "nobody".to_owned();
        let e = w
            .act(1, Action::RemoveAuthorization { primary })
            .await
            .unwrap()
            .unwrap_err();
        assert!(!e.hint.is_empty(), "{e}");
        for entry in [entry("a b", "/srv"), entry("a", "srv"), entry("a", "/srv/../etc")] {
            w.act(1, Action::AddAuthorization { entry })
                .await
                .unwrap()
                .unwrap_err();
        }
    });
}

fn bind(primary: &str) -> Action {
    Action::SetAuthorization {
        vm: World::vm(),
        primary: primary.into(),
    }
}

async fn refused(w: &World, host: usize, action: Action) -> ReturnCode {
    w.act(host, action).await.unwrap().unwrap_err().code
}

#[test]
fn a_replica_that_is_bound_to_an_entry_takes_from_nobody_else() {
    simulate(6, async |w| {
        assert_eq!(
            refused(w, 1, bind("a")).await,
            ReturnCode::FileNotFound,
            "no VM yet"
        );
        replicating(w).await;
        assert_eq!(refused(w, 0, bind("b")).await, ReturnCode::InvalidState);
        assert_eq!(refused(w, 1, bind("elsewhere")).await, ReturnCode::FileNotFound);
        let other = AuthorizationEntry {
            trust_group: "others".into(),
            ..entry("other", "/replicas")
        };
        w.insist(1, Action::AddAuthorization { entry: other })
            .await
            .unwrap();
        w.insist(1, bind("OTHER")).await.unwrap();
        let view = w.view(1).await.unwrap().replication.unwrap();
        assert_eq!(view.allowed.as_deref(), Some("other"));
        w.restart(1).await;
        // It is covered by an entry of its own, but not by that one.
        let before = durable(w);
        w.write(20);
        w.run(60).await;
        assert_eq!(durable(w), before, "something arrived");
        assert!(health(w, 1).await.1.contains("bound"), "{:?}", health(w, 1).await);
        assert_eq!(health(w, 0).await.0, Health::Critical);
        w.insist(1, bind("a")).await.unwrap();
        healthy(w, 0, 1).await;
        assert_eq!(health(w, 1).await.0, Health::Ok);
    });
}

#[test]
fn the_trust_group_of_the_entry_is_let_in_as_well_until_the_entry_is_gone() {
    simulate(7, async |w| {
        replicating(w).await;
        allow(w, "other", "/replicas").await;
        w.insist(1, bind("other")).await.unwrap();
        healthy(w, 0, 1).await;
        forbid(w, "other").await;
        let before = durable(w);
        w.write(20);
        w.run(60).await;
        assert_eq!(durable(w), before, "something arrived");
        assert!(health(w, 1).await.1.contains("is gone"));
        w.insist(1, bind("a")).await.unwrap();
        healthy(w, 0, 1).await;
    });
}

#[test]
fn a_copy_that_awaits_its_first_offer_is_bound_before_it() {
    simulate(8, async |w| {
        replicating(w).await;
        w.cut(true);
        crate::common::taken_over(w, lifeboat_engine::action::PointSelector::Latest, 10).await;
        w.guest_off(0);
        w.insist(0, Action::BecomeReplica { vm: World::vm() })
            .await
            .unwrap();
        let other = AuthorizationEntry {
            trust_group: "others".into(),
            ..entry("other", "/replicas")
        };
        w.insist(0, Action::AddAuthorization { entry: other })
            .await
            .unwrap();
        w.insist(0, bind("other")).await.unwrap();
        w.cut(false);
        let reverse = crate::common::job(w, 1, crate::common::reverse()).await;
        assert!(
            reverse
                .as_ref()
                .is_ok_and(|s| *s == lifeboat_model::JobState::Exception)
                || reverse
                    .as_ref()
                    .is_err_and(|e| e.code == ReturnCode::AccessDenied),
            "{reverse:?}"
        );
        w.insist(0, bind("b")).await.unwrap();
        w.insist(1, crate::common::reverse()).await.unwrap();
        healthy(w, 1, 0).await;
        let view = w.view(0).await.unwrap().replication.unwrap();
        assert_eq!(view.allowed.as_deref(), Some("b"));
    });
}

fn knows(w: &World, host: usize, name: &str) -> bool {
    let engine = w.shared.engines.lock().unwrap()[host].clone().unwrap();
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
        for host in 0..2 {
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
        for host in 0..2 {
            assert!(!knows(w, host, "a") && !knows(w, host, "b") && !knows(w, host, "eve"));
        }
        allow(w, "*.example.org", "/replicas").await;
        assert!(knows(w, 1, "x.example.org") && !knows(w, 1, "x.example.com"));
        allow(w, "a", "/replicas").await;
        replicating(w).await;
        // The primary has no entry for its replica's host and is asked by it all the same.
        assert!(knows(w, 0, "b") && !knows(w, 0, "eve"));
        forbid(w, "a").await;
        assert!(knows(w, 1, "a"), "there is still a replica of it");
        w.restart(0).await;
        assert!(knows(w, 0, "b"), "also after a start");
    });
}
