//! What a question proves that was not answered: a host nobody can connect to is told from one that is there and does not
//! say, whatever connections were kept from before.
#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Handler, Site, hello, start};
use lifeboat_engine::ports::link::{NoAnswer, PeerLink, PeerRefusal, PeerReply, PeerRequest};
use lifeboat_link::Link;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_millis(900);

async fn ask(link: &Link, peer: &str) -> Result<PeerReply, NoAnswer> {
    let asked = Instant::now();
    let answer = link.ask(peer, PeerRequest::Hello, PATIENCE).await;
    assert!(
        asked.elapsed() < PATIENCE + Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    answer
}

fn unanswered(answer: Result<PeerReply, NoAnswer>, part: &str) {
    match answer {
        Err(NoAnswer::Unanswered { detail }) => assert!(detail.contains(part), "{detail}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_is_an_answer() {
    let site = Site::new();
    let server = start(&site.host(&["localhost"]), Arc::new(Handler::default())).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    assert_eq!(ask(&link, &server.peer()).await, Ok(hello()));
}

#[tokio::test]
async fn nobody_listens() {
    let site = Site::new();
    let link = Link::new(&site.host(&["a"])).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    for peer in [address.as_str(), "no-such-host.invalid:8700"] {
        let answer = ask(&link, peer).await;
        assert!(
            matches!(answer, Err(NoAnswer::Unreachable { .. })),
            "{peer}: {answer:?}"
        );
    }
}

/// A relay whose host is gone takes the connection and ends it at once; so does a host on which no daemon runs.
#[tokio::test]
async fn a_connection_that_ends_before_the_handshake_reached_nobody() {
    let site = Site::new();
    let link = Link::new(&site.host(&["a"])).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = listener.local_addr().unwrap().to_string();
    let relay = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let answer = ask(&link, &peer).await;
    assert!(matches!(answer, Err(NoAnswer::Unreachable { .. })), "{answer:?}");
    relay.abort();
}

#[tokio::test]
async fn a_host_that_takes_the_connection_and_says_nothing_is_there() {
    let site = Site::new();
    let link = Link::new(&site.host(&["a"])).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = listener.local_addr().unwrap().to_string();
    unanswered(ask(&link, &peer).await, "no answer within");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_answer_a_refusal_and_a_foreign_certificate_are_no_silence() {
    let (site, elsewhere) = (Site::new(), Site::new());
    let link = Link::new(&site.host(&["a"])).unwrap();
    let slowly = || {
        std::thread::sleep(2 * PATIENCE);
        hello()
    };
    let handler = Handler {
        reply: Box::new(slowly),
        ..Handler::default()
    };
    let slow = start(&site.host(&["localhost"]), Arc::new(handler)).await;
    unanswered(ask(&link, &slow.peer()).await, "no answer within");
    let refusal = || {
        PeerReply::Refused(PeerRefusal::NotAuthorized {
            host: "alpha".into(),
            names: vec!["a".into()],
        })
    };
    let handler = Handler {
        reply: Box::new(refusal),
        ..Handler::default()
    };
    let refusing = start(&site.host(&["localhost"]), Arc::new(handler)).await;
    unanswered(ask(&link, &refusing.peer()).await, "no authorization entry");
    let foreign = start(&elsewhere.host(&["localhost"]), Arc::new(Handler::default())).await;
    unanswered(ask(&link, &foreign.peer()).await, "certificate");
}

/// The connection that was kept leads to a host that is gone without a word, as after a power cut.
#[tokio::test]
async fn a_kept_connection_to_a_host_that_is_gone_is_no_host_that_is_slow() {
    let site = Site::new();
    let server = start(&site.host(&["localhost"]), Arc::new(Handler::default())).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    let address = server.address;
    // Everything passes through here until the host is gone: then nothing moves, and nobody takes connections.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = format!("localhost:{}", relay.local_addr().unwrap().port());
    let (kept, mut held) = tokio::sync::mpsc::channel(4);
    let passing = tokio::spawn(async move {
        loop {
            let (mut near, _) = relay.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect(address).await.unwrap();
            let kept = kept.clone();
            tokio::spawn(async move {
                // Enough for one call; then both ends stay open and mute.
                let pass = tokio::io::copy_bidirectional(&mut near, &mut far);
                let _ = tokio::time::timeout(Duration::from_millis(500), pass).await;
                kept.send((near, far)).await.unwrap();
            });
        }
    });
    assert_eq!(link.call(&peer, PeerRequest::Hello).await.unwrap(), hello());
    let _open = held.recv().await.unwrap();
    passing.abort();
    let _ = passing.await;
    let answer = ask(&link, &peer).await;
    assert!(matches!(answer, Err(NoAnswer::Unreachable { .. })), "{answer:?}");
}
