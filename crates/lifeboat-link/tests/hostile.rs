//! Callers with a good certificate and bad manners, and peers that come and go.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{
    Handler, Running, Site, body, delta, hello, quick, raw_client, raw_server, start, start_within,
};
use lifeboat_engine::ports::link::{LinkError, PeerLink, PeerRefusal, PeerReply, PeerRequest};
use lifeboat_link::{Limits, Link, Timing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HELLO: &str = "{\"request\":\"hello\"}";

fn post(path: &str, document: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: b\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{document}",
        document.len()
    )
}

/// Says `text` and returns everything that is answered until the end.
async fn say(site: &Site, server: &Running, text: &[u8]) -> String {
    let caller = site.host(&["a"]);
    let mut stream = raw_client(server.address, &caller, Some(&caller), &[])
        .await
        .unwrap();
    // The server may have heard enough before the end.
    let _ = stream.write_all(text).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(end.is_ok(), "the connection was left open");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_not_the_protocol_gets_a_clear_answer_and_never_the_handler() {
    let site = Site::new();
    let handler = Arc::new(Handler::default());
    let server = start(&site.host(&["localhost"]), handler.clone()).await;
    let big = format!("{{\"request\":\"hello\",\"x\":\"{}\"}}", "x".repeat(8 << 20));
    for (text, status, part) in [
        (
            post("/lifeboat/2/control", HELLO),
            "404",
            "version 1, the only version",
        ),
        (post("/lifeboat/1/other", HELLO), "404", "not part of version 1"),
        (post("/", HELLO), "404", "nothing is at /"),
        (post("/lifeboat/1/logs", HELLO), "405", "POST is not understood"),
        (post("/lifeboat/1/control", "{}"), "400", "not understood"),
        (
            post("/lifeboat/1/control", "{\"request\":\"format-disk\"}"),
            "400",
            "format-disk",
        ),
        (
            post("/lifeboat/1/control", &big),
            "413",
            "larger than 8388608 bytes",
        ),
        (
            post("/lifeboat/1/logs?kind=bulk&vm=7", "").replace("POST", "PUT"),
            "400",
            "not a UUID",
        ),
        ("garbage\r\n\r\n".into(), "400", ""),
        (
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
            "431",
            "",
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "", ""),
        (String::from("\0\u{1}\u{16}\u{3}").repeat(50), "", ""),
    ] {
        let answer = say(&site, &server, text.as_bytes()).await;
        let shown: String = text.chars().take(60).collect();
        assert!(
            answer.is_empty() && status.is_empty() || answer.starts_with("HTTP/1.1 "),
            "{shown}: {answer}"
        );
        assert!(
            answer.get(9..).unwrap_or("").starts_with(status),
            "{shown}: {answer}"
        );
        assert!(answer.contains(part), "{shown}: {answer}");
    }
    assert!(handler.untouched());
    let answer = say(&site, &server, post("/lifeboat/1/control", HELLO).as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "the server still serves: {answer}"
    );
}

#[tokio::test]
async fn slow_callers_are_shown_out() {
    let site = Site::new();
    let handler = Arc::new(Handler::default());
    let short = Duration::from_millis(300);
    let limits = Limits {
        handshake: short,
        header: short,
        document: short,
        ..Limits::default()
    };
    let server = start_within(limits, &site.host(&["localhost"]), handler.clone(), "127.0.0.1:0").await;

    let mut mute = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut none = [0];
    assert_eq!(mute.read(&mut none).await.unwrap(), 0, "no handshake");
    say(
        &site,
        &server,
        b"POST /lifeboat/1/control HTTP/1.1\r\nHost: b\r\nX-Slow: ",
    )
    .await;
    let half = post("/lifeboat/1/control", HELLO).replace("hello\"}", "");
    assert!(
        say(&site, &server, half.as_bytes()).await.contains("408"),
        "half a document"
    );
    assert!(handler.untouched());
}

#[tokio::test]
async fn after_a_restart_of_the_peer_calls_and_logs_go_on() {
    let site = Site::new();
    let config = site.host(&["localhost"]);
    let handler = Arc::new(Handler::default());
    let mut server = start(&config, handler.clone()).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    for round in 1..=5 {
        let at = server.address.to_string();
        let peer = server.peer();
        assert_eq!(link.call(&peer, PeerRequest::Hello).await.unwrap(), hello());
        link.send(&peer, delta(), body(vec![Ok(Bytes::from_static(b"x"))]))
            .await
            .unwrap();
        assert_eq!(handler.logs.load(Ordering::SeqCst), round);
        server.stop.cancel();
        (&mut server.task).await.unwrap();
        server = start_within(Limits::default(), &config, handler.clone(), &at).await;
    }
}

#[tokio::test]
async fn a_dead_connection_is_replaced_once_for_a_call_and_never_for_a_log() {
    let site = Site::new();
    let (listener, acceptor) = raw_server(&site.host(&["localhost"])).await;
    let peer = format!("localhost:{}", listener.local_addr().unwrap().port());
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = requests.clone();
    // Answers the first request of each connection and hangs up on reading the second.
    let server = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                let mut tls = acceptor.accept(tcp).await.unwrap();
                let mut some = vec![0; 1 << 16];
                let _ = tls.read(&mut some).await.unwrap();
                seen.fetch_add(1, Ordering::SeqCst);
                let document = serde_json::to_string(&hello()).unwrap();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{document}",
                    document.len()
                );
                tls.write_all(answer.as_bytes()).await.unwrap();
                if tls.read(&mut some).await.unwrap() > 0 {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let link = Link::with_timing(&site.host(&["a"]), quick()).unwrap();
    link.call(&peer, PeerRequest::Hello).await.unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    link.call(&peer, PeerRequest::Hello).await.unwrap();
    assert_eq!(
        requests.load(Ordering::SeqCst),
        3,
        "once on the dead one, once on a new one"
    );
    let e = link
        .send(&peer, delta(), body(vec![Ok(Bytes::from_static(b"x"))]))
        .await
        .unwrap_err();
    assert!(matches!(e, LinkError::Unreachable { .. }), "{e}");
    assert_eq!(requests.load(Ordering::SeqCst), 4, "a log is sent once");
    server.abort();
}

#[tokio::test]
async fn a_refusal_of_a_call_comes_back_as_one() {
    let site = Site::new();
    let refusal = PeerRefusal::NotEnabled { host: "b".into() };
    let reply = PeerReply::Refused(refusal.clone());
    let handler = Handler {
        reply: Box::new(move || reply.clone()),
        ..Handler::default()
    };
    let server = start(&site.host(&["localhost"]), Arc::new(handler)).await;
    let e = Link::new(&site.host(&["a"]))
        .unwrap()
        .call(&server.peer(), PeerRequest::Hello)
        .await
        .unwrap_err();
    assert!(matches!(&e, LinkError::Refused(r) if *r == refusal), "{e}");
}

#[tokio::test]
async fn a_handler_that_panics_costs_one_answer() {
    let site = Site::new();
    let panics = AtomicUsize::new(0);
    let reply = move || {
        if panics.fetch_add(1, Ordering::SeqCst) == 0 {
            panic!("on purpose")
        } else {
            hello()
        }
    };
    let handler = Handler {
        reply: Box::new(reply),
        ..Handler::default()
    };
    let server = start(&site.host(&["localhost"]), Arc::new(handler)).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    let e = link.call(&server.peer(), PeerRequest::Hello).await.unwrap_err();
    assert!(
        matches!(&e, LinkError::Unreachable { .. }) && e.to_string().contains("fault of Lifeboat"),
        "{e}"
    );
    link.call(&server.peer(), PeerRequest::Hello).await.unwrap();
}

#[tokio::test]
async fn peers_that_are_something_else_are_told_apart() {
    let site = Site::new();
    let timing = Timing {
        call: Duration::from_millis(500),
        ..quick()
    };
    let link = Link::with_timing(&site.host(&["a"]), timing).unwrap();
    let fails = async |peer: &str| link.call(peer, PeerRequest::Hello).await.unwrap_err();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let e = fails(&format!("localhost:{port}")).await;
    assert!(matches!(e, LinkError::Unreachable { .. }), "silence: {e}");
    let plain = tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
        }
    });
    let e = fails(&format!("localhost:{port}")).await;
    assert!(
        matches!(&e, LinkError::Protocol { .. }) && e.to_string().contains("TLS"),
        "plain HTTP: {e}"
    );
    plain.abort();
    let _ = plain.await;
    let e = fails(&format!("localhost:{port}")).await;
    assert!(matches!(e, LinkError::Unreachable { .. }), "nobody: {e}");
    let e = fails("nowhere").await;
    assert!(e.to_string().contains("HOST:PORT"), "{e}");
}

#[tokio::test]
async fn stopping_lets_what_is_under_way_end() {
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
    let mut server = start(&site.host(&["localhost"]), handler).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    let peer = server.peer();
    let sending = tokio::spawn(async move {
        let answer = link
            .send(&peer, delta(), body(vec![Ok(Bytes::from_static(b"x"))]))
            .await;
        (answer, link)
    });
    inside.recv().await.unwrap();
    server.stop.cancel();
    go.notify_one();
    let (answer, link) = sending.await.unwrap();
    answer.unwrap();
    (&mut server.task).await.unwrap();
    let e = link.call(&server.peer(), PeerRequest::Hello).await.unwrap_err();
    assert!(matches!(e, LinkError::Unreachable { .. }), "{e}");
}
