//! More connections than there are places: who is answered all the same, and who loses what. Numbers are small here; the
//! default ones are measured by `lifeboat-bench`.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{HERE, Handler, Running, Site, THERE, Wire, connect_from, hello, raw_client, start_within};
use lifeboat_engine::ports::link::{LinkError, PeerLink, PeerRequest};
use lifeboat_link::{Cap, Limits, Link, Places};
use lifeboat_tls::CertificateFiles;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HELLO: &str =
    "POST /lifeboat/1/control HTTP/1.1\r\nHost: b\r\nContent-Length: 19\r\n\r\n{\"request\":\"hello\"}";

fn few() -> Limits {
    Limits {
        places: Places {
            silent: Cap { total: 8, each: 4 },
            handshaking: Cap { total: 4, each: 2 },
            strangers: Cap { total: 4, each: 2 },
            known: Cap { total: 4, each: 2 },
        },
        ..Limits::default()
    }
}

async fn start(site: &Site, limits: Limits, handler: Arc<Handler>) -> Running {
    start_within(limits, &site.host(&["localhost"]), handler, "127.0.0.1:0").await
}

async fn tls(server: &Running, config: &CertificateFiles) -> std::io::Result<Box<dyn Wire>> {
    raw_client(server.address, config, Some(config), &[]).await
}

/// Asks for a hello and waits for the answer.
async fn ask(stream: &mut Box<dyn Wire>) -> std::io::Result<()> {
    stream.write_all(HELLO.as_bytes()).await?;
    let end = serde_json::to_string(&hello()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let mut some = [0; 1024];
        let n = stream.read(&mut some).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&some[..n]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    Ok(())
}

/// Reads until the server closes the connection.
async fn closed(mut stream: impl AsyncReadExt + Unpin) {
    let mut some = [0; 1024];
    while !matches!(stream.read(&mut some).await, Ok(0) | Err(_)) {}
}

#[tokio::test]
async fn half_open_connections_from_there_and_here_keep_nobody_out() {
    let site = Site::new();
    let server = start(&site, few(), Arc::new(Handler::default())).await;
    let mut silent = Vec::new();
    for from in [THERE, HERE] {
        for _ in 0..50 {
            silent.push(connect_from(from, server.address).await.unwrap());
        }
    }
    let link = Link::new(&site.host(&["a"])).unwrap();
    let peer = server.peer();
    assert_eq!(link.call(&peer, PeerRequest::Hello).await.unwrap(), hello());
    // All but the youngest of each address have lost their place for others, long before their time is over.
    for stream in silent.drain(..46).collect::<Vec<_>>() {
        closed(stream).await;
    }
    silent.drain(..4);
    for stream in silent.drain(..46).collect::<Vec<_>>() {
        closed(stream).await;
    }
}

#[tokio::test]
async fn a_host_without_an_entry_may_ask_and_takes_no_place_of_those_with_one() {
    let site = Site::new();
    let limits = Limits {
        strangers: Duration::from_secs(2),
        ..few()
    };
    let server = start(&site, limits, Arc::new(Handler::default())).await;
    let (alpha, eve) = (site.host(&["a"]), site.host(&["eve"]));
    let mut early = tls(&server, &alpha).await.unwrap();
    ask(&mut early).await.unwrap();
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = tls(&server, &eve).await.unwrap();
        // It may have been dropped for the one before.
        let _ = stream
            .write_all(b"POST /lifeboat/1/control HTTP/1.1\r\nX-Slow: ")
            .await;
        slow.push(stream);
    }
    // The connection that was there is still there, and further ones come in.
    ask(&mut early).await.unwrap();
    let link = Link::new(&alpha).unwrap();
    assert_eq!(
        link.call(&server.peer(), PeerRequest::Hello).await.unwrap(),
        hello()
    );
    // She is answered when she asks.
    let mut asks = tls(&server, &eve).await.unwrap();
    ask(&mut asks).await.unwrap();
    // Her connections end by their number or by their time, also one on which she asked.
    for stream in slow {
        closed(stream).await;
    }
    closed(asks).await;
    ask(&mut early).await.unwrap();
}

#[tokio::test]
async fn a_peer_with_too_many_connections_loses_those_it_does_not_use() {
    let site = Site::new();
    let (entered, mut inside) = tokio::sync::mpsc::unbounded_channel();
    let go = Arc::new(tokio::sync::Notify::new());
    let gate = go.clone();
    let handler = Handler::receiving(move |_, stream| {
        entered.send(()).unwrap();
        let gate = gate.clone();
        async move {
            gate.notified().await;
            common::read_all(stream).await.map(common::receipt)
        }
    });
    let server = start(&site, few(), handler).await;
    let config = site.host(&["a"]);
    let link = Link::new(&config).unwrap();
    let peer = server.peer();
    let sending = tokio::spawn(async move {
        let body = common::body(vec![Ok(bytes::Bytes::from_static(b"x"))]);
        link.send(&peer, common::delta(), body).await
    });
    inside.recv().await.unwrap();
    let mut idle = tls(&server, &config).await.unwrap();
    ask(&mut idle).await.unwrap();
    let mut next = tls(&server, &config).await.unwrap();
    ask(&mut next).await.unwrap();
    closed(idle).await;
    // The other place is in use, so this one is the next to go.
    let mut last = tls(&server, &config).await.unwrap();
    ask(&mut last).await.unwrap();
    closed(next).await;
    go.notify_one();
    sending.await.unwrap().unwrap();
    // Other hosts have places of their own.
    let other = Link::new(&site.host(&["c"])).unwrap();
    assert_eq!(
        other.call(&server.peer(), PeerRequest::Hello).await.unwrap(),
        hello()
    );
}

#[tokio::test]
async fn whoever_has_no_certificate_takes_places_of_handshakes_alone() {
    let site = Site::new();
    let server = start(&site, few(), Arc::new(Handler::default())).await;
    let config = site.host(&["a"]);
    for _ in 0..20 {
        let refused = match raw_client(server.address, &config, None, &[]).await {
            Ok(mut stream) => ask(&mut stream).await.is_err(),
            Err(_) => true,
        };
        assert!(refused);
    }
    let link = Link::new(&config).unwrap();
    let answer: Result<_, LinkError> = link.call(&server.peer(), PeerRequest::Hello).await;
    assert_eq!(answer.unwrap(), hello());
}
