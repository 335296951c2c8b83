//! Certificates that end: told once for each threshold, shown by the host and by the relationships that depend on them.

use lifeboat_engine::ports::environment::Certificate;
use lifeboat_model::certificates::CertificateUse;
use lifeboat_model::hint::Trust;
use lifeboat_model::{ReplicationHealth, Timestamp};
use lifeboat_sim::World;
use lifeboat_sim::harness::{PRIMARY, REPLICA, replicating, server, simulate, simulate_with};
use lifeboat_sim::harness::{hints_at, texts};

const DAY: u64 = 86_400_000;

fn certificate(w: &World, usage: CertificateUse, place: &str, days: u64) -> Certificate {
    let now = w.shared.now();
    Certificate {
        usage,
        place: place.into(),
        not_before: Timestamp(0),
        not_after: Timestamp(now.0 + days * DAY),
        problem: None,
    }
}

async fn set(w: &World, host: usize, certificates: Vec<Certificate>) {
    w.shared.state().hosts[host].certificates = certificates;
    w.run(61).await;
}

fn told(w: &World, host: usize, about: &str) -> Vec<String> {
    let s = w.shared.state();
    let messages = s.hosts[host].events.iter().map(|e| e.message.clone());
    messages.filter(|m| m.contains(about)).collect()
}

#[test]
fn the_end_of_a_certificate_is_told_once_for_each_threshold() {
    simulate_with(1, &["a"], lifeboat_sim::SYS_BYTES, async |w| {
        let own = certificate(w, CertificateUse::Host, "/tls/host.crt", 31);
        set(w, PRIMARY, vec![own]).await;
        assert!(server(w, PRIMARY).await.notes.is_empty());
        let mut day = 0;
        for (until, count, word) in [
            (0, 0, ""),
            (2, 1, "30 days"),
            (12, 1, "30 days"),
            (18, 2, "14 days"),
            (25, 3, "7 days"),
            (30, 3, "7 days"),
            (32, 4, "ended on"),
            (33, 4, "ended on"),
        ] {
            w.run((until - day) * 86_400).await;
            day = until;
            let all = told(w, PRIMARY, "host.crt");
            assert_eq!(all.len(), count, "day {day}: {all:?}");
            assert!(all.last().is_none_or(|m| m.contains(word)), "day {day}: {all:?}");
            let notes = server(w, PRIMARY).await.notes;
            assert_eq!(notes.len(), usize::from(count > 0), "day {day}: {notes:?}");
            w.restart(PRIMARY).await;
            w.run(61).await;
            assert_eq!(told(w, PRIMARY, "host.crt"), all, "a restart is no news");
        }
    });
}

#[test]
fn an_end_shows_in_the_health_of_what_depends_on_it() {
    simulate(2, async |w| {
        replicating(w).await;
        let peer = |w: &World, place: &str, days| certificate(w, CertificateUse::Peer, place, days);
        set(w, PRIMARY, vec![peer(w, "c:7000", 3)]).await;
        let health = |v: &lifeboat_engine::action::VmView| v.replication.as_ref().map(|r| r.health);
        assert_eq!(
            health(&w.view(PRIMARY).await.unwrap()),
            Some(ReplicationHealth::Ok),
            "another peer's"
        );
        set(w, PRIMARY, vec![peer(w, "B:7000", 3)]).await;
        let view = w.view(PRIMARY).await.unwrap();
        assert_eq!(health(&view), Some(ReplicationHealth::Warning));
        let notes = view.replication.unwrap().health_notes;
        assert!(
            texts(&notes).join("\n").contains("B:7000") && hints_at(&notes, Trust::RenewThere),
            "{notes:?}"
        );
        let over = Certificate {
            not_after: Timestamp(w.shared.now().0 - 1),
            ..certificate(w, CertificateUse::Authority, "/tls/ca.crt", 1)
        };
        set(w, REPLICA, vec![over]).await;
        let view = w.view(REPLICA).await.unwrap();
        assert_eq!(health(&view), Some(ReplicationHealth::Critical), "{view:?}");
        let broken = Certificate {
            problem: Some("the key is another one's".into()),
            ..certificate(w, CertificateUse::Host, "/tls/host.crt", 300)
        };
        set(w, REPLICA, vec![broken]).await;
        let view = w.view(REPLICA).await.unwrap();
        assert_eq!(health(&view), Some(ReplicationHealth::Warning), "{view:?}");
        assert!(
            server(w, REPLICA).await.notes[0]
                .text
                .contains("the key is another one's")
        );
    });
}
