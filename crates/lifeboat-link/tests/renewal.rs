//! Certificates that are replaced, half replaced, and that end while connections are kept: what is in use follows the files,
//! and no request goes over a connection whose certificates are over.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use lifeboat_model::hint::Trust;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use common::{DAY, Handler, Site, body, delta, hello, start, start_within};
use lifeboat_engine::ports::link::{LinkError, PeerLink, PeerRequest};
use lifeboat_link::{Limits, Link, Timing};
use lifeboat_tls::{CertificateFiles, Credentials, Holder, Purpose, RevocationList};
use time::OffsetDateTime;

async fn call(link: &Link, peer: &str) -> Result<(), LinkError> {
    link.call(peer, PeerRequest::Hello)
        .await
        .map(|reply| assert_eq!(reply, hello()))
}

/// Puts a file in place of another one as `mv` does.
fn replace(from: &Utf8Path, to: &Utf8Path) {
    let beside = to.with_extension("new");
    std::fs::copy(from, &beside).unwrap();
    std::fs::rename(&beside, to).unwrap();
}

fn renew(old: &CertificateFiles, new: &CertificateFiles) {
    replace(&new.cert, &old.cert);
    replace(&new.key, &old.key);
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart_on_both_sides() {
    let site = Site::new();
    let soon = OffsetDateTime::now_utc() + Duration::from_secs(4);
    let (server, client) = (
        site.host_until(&["localhost"], soon),
        site.host_until(&["a"], soon),
    );
    let handler = Arc::new(Handler::default());
    let running = start(&server, handler.clone()).await;
    let link = Link::new(&client).unwrap();
    call(&link, &running.peer()).await.unwrap();
    renew(&server, &site.host(&["localhost"]));
    renew(&client, &site.host(&["renamed"]));
    tokio::time::sleep(Duration::from_secs(5)).await;
    call(&link, &running.peer()).await.unwrap();
    let calls = handler.calls.lock().unwrap();
    assert_eq!(
        calls.last().unwrap().0.names,
        ["renamed"],
        "the kept connection was made again"
    );
}

#[tokio::test]
async fn a_kept_connection_ends_with_its_certificates() {
    for (whose, word) in [
        ("server", "its certificate has expired"),
        ("client", "ours has expired"),
    ] {
        let site = Site::new();
        let soon = OffsetDateTime::now_utc() + Duration::from_secs(3);
        let until = |ends: bool, name: &str| {
            if ends {
                site.host_until(&[name], soon)
            } else {
                site.host(&[name])
            }
        };
        let server = until(whose == "server", "localhost");
        let running = start(&server, Arc::new(Handler::default())).await;
        let link = Link::new(&until(whose == "client", "a")).unwrap();
        call(&link, &running.peer()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        let e = call(&link, &running.peer()).await.unwrap_err();
        assert!(matches!(e, LinkError::Untrusted { .. }), "{whose}: {e}");
        let text = e.to_string();
        for part in [word, "the clock here says"] {
            assert!(text.contains(part), "{whose}: {text} should say {part}");
        }
        let renew = match whose {
            "server" => Trust::RenewThere,
            _ => Trust::RenewOwn,
        };
        assert_eq!(e.hint(), Some(renew.into()));
    }
}

#[tokio::test]
async fn what_is_under_way_may_end_within_the_grace_and_is_cut_after_it() {
    for (grace, fine) in [
        (Duration::from_secs(60), true),
        (Duration::from_millis(200), false),
    ] {
        let site = Site::new();
        let soon = OffsetDateTime::now_utc() + Duration::from_secs(2);
        let limits = Limits {
            expiry_grace: grace,
            ..Limits::default()
        };
        let running = start_within(
            limits,
            &site.host_until(&["localhost"], soon),
            Arc::new(Handler::default()),
            "127.0.0.1:0",
        )
        .await;
        let timing = Timing {
            grace,
            ..Timing::default()
        };
        let link = Link::with_timing(&site.host(&["a"]), timing).unwrap();
        let slow = futures_util::stream::unfold(0, |n| async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            (n < 8).then(|| (Ok(vec![1_u8; 100].into()), n + 1))
        });
        let sent = link.send(&running.peer(), delta(), Box::pin(slow)).await;
        assert_eq!(sent.is_ok(), fine, "{grace:?}: {sent:?}");
    }
}

#[tokio::test]
async fn files_that_do_not_fit_together_change_nothing_and_are_said() {
    let site = Site::new();
    let (server, client) = (site.host(&["localhost"]), site.host(&["a"]));
    let handler = Arc::new(Handler::default());
    let running = start(&server, handler.clone()).await;
    let credentials = Credentials::load(Purpose::Peers, &client, RevocationList::none()).unwrap();
    let own = |c: &Credentials| c.seen().into_iter().find(|(h, _)| *h == Holder::Host).unwrap().1;
    let before = own(&credentials);
    let new = site.host_until(&["b"], OffsetDateTime::now_utc() + 90 * DAY);
    let kept = std::fs::read(&client.cert).unwrap();

    // A certificate whose key has not come yet, half a certificate, nothing at all.
    let new_cert = std::fs::read(&new.cert).unwrap();
    for content in [
        Some(new_cert.clone()),
        Some(new_cert[..new_cert.len() / 2].to_vec()),
        None,
    ] {
        match content {
            Some(content) => std::fs::write(&client.cert, content).unwrap(),
            None => std::fs::remove_file(&client.cert).unwrap(),
        }
        credentials.refresh();
        let why = credentials.problem().expect("it is said");
        assert!(why.contains(client.cert.as_str()), "{why}");
        assert_eq!(own(&credentials), before);
        let link = Link::with_credentials(credentials.clone(), Timing::default());
        call(&link, &running.peer()).await.unwrap();
    }
    assert!(
        handler
            .calls
            .lock()
            .unwrap()
            .iter()
            .all(|(peer, _)| peer.names == ["a"])
    );

    // What was there before is no problem, and neither is a pair that fits.
    std::fs::write(&client.cert, kept).unwrap();
    credentials.refresh();
    assert_eq!(credentials.problem(), None);
    renew(&client, &new);
    credentials.refresh();
    assert_eq!(credentials.problem(), None);
    assert!(own(&credentials).not_after > before.not_after.plus(80 * DAY));
    let link = Link::with_credentials(credentials.clone(), Timing::default());
    call(&link, &running.peer()).await.unwrap();
    assert_eq!(handler.calls.lock().unwrap().last().unwrap().0.names, ["b"]);
    let seen = credentials.seen();
    assert!(
        seen.iter().any(|(h, _)| *h == Holder::Peer(running.peer())),
        "{seen:?}"
    );
    assert!(seen.iter().any(|(h, _)| *h == Holder::Authority), "{seen:?}");
}

#[tokio::test]
async fn an_authority_that_is_no_longer_trusted_is_no_longer_served() {
    let (here, there) = (Site::new(), Site::new());
    let server = here.host(&["localhost"]);
    let limits = Limits {
        look: Duration::from_millis(100),
        ..Limits::default()
    };
    let running = start_within(limits, &server, Arc::new(Handler::default()), "127.0.0.1:0").await;
    let link = Link::new(&here.host(&["a"])).unwrap();
    call(&link, &running.peer()).await.unwrap();
    replace(&there.host(&["x"]).ca, &server.ca);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let e = call(&link, &running.peer()).await.unwrap_err();
    assert!(
        e.to_string().contains("not issued by the CA trusted there"),
        "{e}"
    );
    let sent = link
        .send(&running.peer(), delta(), body(vec![Ok(vec![0; 10].into())]))
        .await;
    assert!(matches!(sent, Err(LinkError::Untrusted { .. })), "{sent:?}");
}
