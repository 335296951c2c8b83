//! Certificates that are revoked while hosts talk: in effect at once for callers and for whom is called, on connections that
//! are open as on new ones, by the certificate and by its key. And who may be talked to, by the key that is shown.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use common::{Handler, Running, Site, delta, failed, hello, read_all};
use lifeboat_engine::ports::link::{
    KeyJudge, LinkError, LogAddress, OtherKey, PeerIdentity, PeerLink, PeerRefusal, PeerReply, PeerRequest,
};
use lifeboat_link::{Limits, Link, Timing, serve_with};
use lifeboat_model::VmId;
use lifeboat_model::hint::Trust;
use lifeboat_tls::certificate::describe;
use lifeboat_tls::{CertificateFiles, Credentials, Purpose, RevocationList};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A revocation list of its own.
struct List {
    _dir: tempfile::TempDir,
    path: Utf8PathBuf,
    list: Arc<RevocationList>,
}

impl List {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("revoked");
        std::fs::write(&path, "# nobody\n").unwrap();
        let list = RevocationList::load(&path).unwrap();
        Self {
            _dir: dir,
            path,
            list,
        }
    }

    fn write(&self, text: &str) {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, &self.path).unwrap();
    }
}

async fn start(config: &CertificateFiles, list: &List, handler: Arc<Handler>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let credentials = Credentials::load(Purpose::Peers, config, list.list.clone()).unwrap();
    let (stop, token) = (CancellationToken::new(), CancellationToken::new());
    let task = {
        let stop = stop.clone();
        tokio::spawn(async move {
            serve_with(Limits::default(), listener, credentials, handler, stop).await;
            token.cancel();
        })
    };
    Running { address, stop, task }
}

fn link(config: &CertificateFiles, list: &List) -> Link {
    let credentials = Credentials::load(Purpose::Peers, config, list.list.clone()).unwrap();
    Link::with_credentials(credentials, Timing::default())
}

async fn call(link: &Link, peer: &str) -> Result<(), LinkError> {
    link.call(peer, PeerRequest::Hello)
        .await
        .map(|reply| assert_eq!(reply, hello()))
}

/// By which a list may name a certificate.
fn both(config: &CertificateFiles) -> [String; 2] {
    let info = describe(&config.cert).unwrap();
    [info.fingerprint.to_string(), info.key_fingerprint.to_string()]
}

#[tokio::test]
async fn a_revoked_caller_is_refused_at_once_and_a_list_that_cannot_be_read_lets_nobody_in_again() {
    let site = Site::new();
    let (server, client, other) = (site.host(&["localhost"]), site.host(&["a"]), site.host(&["a"]));
    for named in both(&client) {
        let (here, there) = (List::new(), List::new());
        let handler = Arc::new(Handler::default());
        let running = start(&server, &here, handler.clone()).await;
        let link = link(&client, &there);
        call(&link, &running.peer()).await.unwrap();
        here.write(&format!("{named} # stolen\n"));
        let calls = handler.calls.lock().unwrap().len();
        // A connection that is kept may be used until the list is looked at, a second later at most.
        let refused = loop {
            match call(&link, &running.peer()).await {
                Ok(()) | Err(LinkError::Unreachable { .. }) => tokio::task::yield_now().await,
                Err(e) => break e,
            }
        };
        assert!(
            calls > 0 && matches!(refused, LinkError::Untrusted { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("revocation list there"), "{refused}");
        assert_eq!(refused.hint(), Some(Trust::NewKey.into()));
        here.write("oops");
        let e = call(&link, &running.peer()).await.unwrap_err();
        assert!(matches!(e, LinkError::Untrusted { .. }), "{e}");
        assert!(here.list.problem().is_some_and(|p| p.contains("line 1")));
        // Another certificate of that name is as good as ever.
        call(&self::link(&other, &there), &running.peer()).await.unwrap();
        here.write("");
        call(&link, &running.peer()).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_is_open_ends_when_its_caller_is_revoked() {
    let site = Site::new();
    let (server, client) = (site.host(&["localhost"]), site.host(&["a"]));
    let (here, there) = (List::new(), List::new());
    let (begun, ended) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
    let handler = {
        let (begun, ended) = (begun.clone(), ended.clone());
        Handler::receiving(move |_, body| {
            let (begun, ended) = (begun.clone(), ended.clone());
            async move {
                begun.notify_one();
                let read = read_all(body).await;
                *ended.lock().unwrap() = Some(read.is_err());
                Err(failed("cut"))
            }
        })
    };
    let running = start(&server, &here, handler).await;
    let link = link(&client, &there);
    let peer = running.peer();
    let sending = tokio::spawn(async move {
        // A body that never ends, and moves all the time.
        let endless = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok(vec![1_u8; 10].into()), ()))
        });
        link.send(&peer, delta(), Box::pin(endless)).await
    });
    begun.notified().await;
    here.write(&both(&client)[1]);
    let sent = tokio::time::timeout(Duration::from_secs(20), sending)
        .await
        .unwrap()
        .unwrap();
    assert!(sent.is_err(), "{sent:?}");
    while ended.lock().unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        *ended.lock().unwrap(),
        Some(true),
        "what was cut did not look like an end"
    );
}

#[tokio::test]
async fn a_revoked_host_is_not_called_and_what_is_sent_to_it_is_cut() {
    let site = Site::new();
    let (server, client) = (site.host(&["localhost"]), site.host(&["a"]));
    for named in both(&server) {
        let (here, there) = (List::new(), List::new());
        let begun = Arc::new(Notify::new());
        let handler = {
            let begun = begun.clone();
            Handler::receiving(move |_, body| {
                let begun = begun.clone();
                async move {
                    begun.notify_one();
                    let _ = read_all(body).await;
                    Err(failed("cut"))
                }
            })
        };
        let running = start(&server, &there, handler.clone()).await;
        let link = Arc::new(link(&client, &here));
        let peer = running.peer();
        let sending = {
            let link = link.clone();
            let peer = peer.clone();
            tokio::spawn(async move {
                let endless = futures_util::stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Some((Ok(vec![1_u8; 10].into()), ()))
                });
                link.send(&peer, delta(), Box::pin(endless)).await
            })
        };
        begun.notified().await;
        here.write(&named);
        let sent = tokio::time::timeout(Duration::from_secs(20), sending)
            .await
            .unwrap()
            .unwrap();
        assert!(sent.is_err(), "{sent:?}");
        let asked = handler.calls.lock().unwrap().len();
        let e = call(&link, &peer).await.unwrap_err();
        assert!(matches!(e, LinkError::Untrusted { .. }), "{e}");
        assert!(e.to_string().contains("revocation list here"), "{e}");
        assert_eq!(handler.calls.lock().unwrap().len(), asked);
    }
}

/// Lets nobody pass whose key is not this one.
struct Only(PeerIdentity, Mutex<Vec<(String, Option<VmId>)>>);

impl KeyJudge for Only {
    fn judge(&self, peer: &str, vm: Option<VmId>, shown: &PeerIdentity) -> Result<(), OtherKey> {
        self.1.lock().unwrap().push((peer.to_owned(), vm));
        match shown.key == self.0.key && shown.key.is_some() {
            true => Ok(()),
            false => Err(OtherKey("another key".into())),
        }
    }

    fn fits(&self, _: &str, _: Option<VmId>, _: &PeerIdentity) -> bool {
        true
    }
}

/// Lets only this key pass, whichever it is at the moment.
struct Now(Mutex<lifeboat_model::Fingerprint>);

impl KeyJudge for Now {
    fn judge(&self, peer: &str, vm: Option<VmId>, shown: &PeerIdentity) -> Result<(), OtherKey> {
        match self.fits(peer, vm, shown) {
            true => Ok(()),
            false => Err(OtherKey("another key".into())),
        }
    }

    fn fits(&self, _: &str, _: Option<VmId>, shown: &PeerIdentity) -> bool {
        shown.key == Some(*self.0.lock().unwrap())
    }
}

#[tokio::test]
async fn a_kept_connection_is_made_again_when_its_host_has_another_key_now() {
    let site = Site::new();
    let (server, next) = (site.host(&["localhost"]), site.host(&["localhost"]));
    let key = |config: &CertificateFiles| describe(&config.cert).unwrap().key_fingerprint;
    let running = common::start(&server, Arc::new(Handler::default())).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    let now = Arc::new(Now(Mutex::new(key(&server))));
    link.judged_by(now.clone());
    call(&link, &running.peer()).await.unwrap();
    for (from, to) in [(&next.cert, &server.cert), (&next.key, &server.key)] {
        std::fs::rename(from, to).unwrap();
    }
    *now.0.lock().unwrap() = key(&server);
    call(&link, &running.peer()).await.unwrap();
    let body = common::body(vec![Ok(vec![0; 9].into())]);
    link.send(&running.peer(), delta(), body).await.unwrap();
}

#[tokio::test]
async fn nothing_is_said_to_a_host_that_shows_another_key() {
    let site = Site::new();
    let (server, stolen, client) = (
        site.host(&["localhost"]),
        site.host(&["localhost"]),
        site.host(&["a"]),
    );
    let key = describe(&server.cert).unwrap().key_fingerprint;
    let vm = VmId(uuid::Uuid::from_u128(3));
    let about = |n| match n {
        0 => PeerRequest::Hello,
        _ => PeerRequest::StandDown { vm },
    };
    for (config, good) in [(&server, true), (&stolen, false)] {
        // Two requests of each kind, each answered by what fits it.
        let answered = AtomicUsize::new(0);
        let reply = move || match answered.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => hello(),
            _ => PeerReply::Accepted,
        };
        let handler = Arc::new(Handler {
            reply: Box::new(reply),
            ..Handler::default()
        });
        let running = common::start(config, handler.clone()).await;
        let link = Link::new(&client).unwrap();
        let only = Arc::new(Only(
            PeerIdentity {
                names: Vec::new(),
                addresses: Vec::new(),
                key: Some(key),
            },
            Mutex::default(),
        ));
        link.judged_by(only.clone());
        for n in [0, 1] {
            let answer = link.call(&running.peer(), about(n)).await;
            assert_eq!(answer.is_ok(), good, "{answer:?}");
            let asked = link.ask(&running.peer(), about(n), Duration::from_secs(10)).await;
            assert_eq!(asked.is_ok(), good, "{asked:?}");
        }
        let sent = link
            .send(
                &running.peer(),
                delta(),
                common::body(vec![Ok(vec![0; 9].into())]),
            )
            .await;
        assert_eq!(sent.is_ok(), good, "{sent:?}");
        assert_eq!(handler.untouched(), !good);
        if let Err(e) = sent {
            assert!(
                matches!(&e, LinkError::Untrusted { detail, .. } if detail == "another key"),
                "{e}"
            );
        }
        let asked = only.1.lock().unwrap().clone();
        let LogAddress::Delta { vm: of, .. } = delta() else {
            unreachable!()
        };
        assert_eq!(
            asked.into_iter().map(|(_, vm)| vm).collect::<Vec<_>>(),
            [None, None, Some(vm), Some(vm), Some(of)],
            "asked for each request, on kept connections as well"
        );
    }
}

#[tokio::test]
async fn a_log_of_a_caller_with_another_key_is_refused_in_words() {
    let site = Site::new();
    let handler = Handler::receiving(|_, body| async move {
        drop(body);
        Err(PeerRefusal::OtherKey {
            host: "b".into(),
            detail: "another key is known".into(),
        })
    });
    let running = common::start(&site.host(&["localhost"]), handler.clone()).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    let sent = link
        .send(
            &running.peer(),
            delta(),
            common::body(vec![Ok(vec![0; 9].into())]),
        )
        .await;
    assert!(
        matches!(&sent, Err(LinkError::Untrusted { detail, .. }) if detail == "another key is known"),
        "{sent:?}"
    );
    // The caller's certificate is known by its key.
    let link = Link::new(&site.host(&["a"])).unwrap();
    link.call(&running.peer(), PeerRequest::Hello).await.unwrap();
    assert!(handler.calls.lock().unwrap()[0].0.key.is_some());
}
