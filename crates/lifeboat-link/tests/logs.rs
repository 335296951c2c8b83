//! Logs on their way: whole, refused early, cut, stalled, slow to become durable.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::{
    Handler, Running, Site, Sum, body, bulk_receipt, delta, failed, long_body, position, quick, raw_client,
    raw_server, read_all, receipt, start, start_within,
};
use futures_util::StreamExt;
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::link::{LinkError, LogAddress, PeerLink, PeerRefusal};
use lifeboat_link::{Limits, Link};
use lifeboat_model::VmId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

async fn pair(handler: Arc<Handler>) -> (Site, Running, Link) {
    let site = Site::new();
    let server = start(&site.host(&["localhost"]), handler).await;
    let link = Link::with_timing(&site.host(&["a"]), quick()).unwrap();
    (site, server, link)
}

#[tokio::test]
async fn both_kinds_arrive_with_address_and_bytes() {
    let bulk = LogAddress::Bulk {
        vm: VmId(uuid::Uuid::from_u128(9)),
    };
    let (seen, mut addresses) = mpsc::unbounded_channel();
    let handler = Handler::receiving(move |address, stream| {
        seen.send(address).unwrap();
        async move {
            let read = read_all(stream).await?;
            Ok(if matches!(address, LogAddress::Bulk { .. }) {
                bulk_receipt()
            } else {
                receipt(read)
            })
        }
    });
    let (_site, server, link) = pair(handler).await;
    let parts = ["some ", "", "bytes"];
    let chunks = || {
        body(
            parts
                .iter()
                .map(|p| Ok(Bytes::from_static(p.as_bytes())))
                .collect(),
        )
    };
    let mut sum = Sum::default();
    sum.add(b"some bytes");
    assert_eq!(
        link.send(&server.peer(), delta(), chunks()).await.unwrap(),
        receipt((10, sum.value))
    );
    assert_eq!(
        link.send(&server.peer(), bulk, chunks()).await.unwrap(),
        bulk_receipt()
    );
    assert_eq!(
        link.send(&server.peer(), delta(), body(vec![])).await.unwrap(),
        receipt((0, 0))
    );
    let got: Vec<_> = std::iter::from_fn(|| addresses.try_recv().ok()).collect();
    assert_eq!(got, [delta(), bulk, delta()]);
}

#[tokio::test]
async fn a_refusal_in_the_middle_arrives_although_more_was_to_be_sent() {
    let refusals = [
        PeerRefusal::OutOfSequence { have: position() },
        PeerRefusal::NoSpace {
            host: "b".into(),
            location: "/srv".into(),
        },
        PeerRefusal::NotAuthorized {
            host: "b".into(),
            names: vec!["a".into()],
        },
    ];
    for refusal in refusals {
        let answer = refusal.clone();
        let handler = Handler::receiving(move |_, mut stream: ByteStream| {
            let answer = answer.clone();
            async move {
                stream.next().await.unwrap().unwrap();
                Err(answer)
            }
        });
        let (_site, server, link) = pair(handler.clone()).await;
        for round in 1..=20 {
            // Far more than any buffer on the way, and more than is drained.
            let long = long_body(4096, Bytes::from(vec![7; 1 << 17]));
            let e = link.send(&server.peer(), delta(), long).await.unwrap_err();
            assert!(
                matches!(&e, LinkError::Refused(r) if *r == refusal),
                "{round}: {e}"
            );
            assert_eq!(handler.logs.load(Ordering::SeqCst), round);
        }
    }
}

#[tokio::test]
async fn a_receipt_before_the_end_of_the_body_counts() {
    let handler = Handler::receiving(|_, _| async { Ok(bulk_receipt()) });
    let (_site, server, link) = pair(handler).await;
    for _ in 0..10 {
        let long = long_body(64, Bytes::from(vec![7; 1 << 17]));
        assert_eq!(
            link.send(&server.peer(), delta(), long).await.unwrap(),
            bulk_receipt()
        );
    }
}

/// A handler that tells how each body ended.
type Ends = mpsc::UnboundedReceiver<Result<(u64, u64), String>>;

fn ends() -> (Arc<Handler>, Ends) {
    let (told, ends) = mpsc::unbounded_channel();
    let handler = Handler::receiving(move |_, stream| {
        let told = told.clone();
        async move {
            let end = read_all(stream).await;
            let _ = told.send(end.clone().map_err(|e| e.to_string()));
            end.map(receipt)
        }
    });
    (handler, ends)
}

#[tokio::test]
async fn a_source_that_fails_never_looks_like_the_end() {
    let (handler, mut ends) = ends();
    let (_site, server, link) = pair(handler.clone()).await;
    let (arrived, wait) = tokio::sync::oneshot::channel::<()>();
    // Fails only once the log is on its way: before that, nothing would reach the handler at all.
    let failing = body(vec![Ok(Bytes::from_static(b"part"))]).chain(futures_util::stream::once(async {
        let _ = wait.await;
        Err(std::io::Error::other("spool unreadable"))
    }));
    let (peer, handler) = (server.peer(), handler.clone());
    let watch = async {
        while handler.logs.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        arrived.send(()).unwrap();
    };
    let (sent, ()) = tokio::join!(link.send(&peer, delta(), Box::pin(failing)), watch);
    let e = sent.unwrap_err();
    assert!(e.to_string().contains("on this host: spool unreadable"), "{e}");
    let end = ends.recv().await.unwrap().unwrap_err();
    assert!(end.contains("cut on its way"), "{end}");
}

#[tokio::test]
async fn a_caller_that_gives_up_never_looks_like_the_end() {
    let (handler, mut ends) = ends();
    let (_site, server, link) = pair(handler).await;
    let (begun, mut waiting) = mpsc::channel(1);
    let endless = futures_util::stream::unfold(begun, |begun| async move {
        begun.send(()).await.ok()?;
        Some((Ok(Bytes::from_static(b"more")), begun))
    });
    let peer = server.peer();
    let task = tokio::spawn(async move { link.send(&peer, delta(), Box::pin(endless)).await });
    for _ in 0..100 {
        waiting.recv().await.unwrap();
    }
    task.abort();
    assert!(ends.recv().await.unwrap().unwrap_err().contains("cut on its way"));
}

#[tokio::test]
async fn a_connection_cut_at_any_byte_never_looks_like_the_end() {
    let (handler, mut ends) = ends();
    let (site, server, _link) = pair(handler).await;
    let caller = site.host(&["a"]);
    let vm = uuid::Uuid::from_u128(3);
    let head = format!("PUT /lifeboat/1/logs?kind=bulk&vm={vm} HTTP/1.1\r\nHost: b\r\n");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    let sized = format!("{head}Content-Length: 10\r\n\r\n");
    let whole = format!("{chunked}5\r\nhello\r\n0\r\n\r\n");
    let mut cases: Vec<String> = (chunked.len() + 1..whole.len())
        .map(|n| whole[..n].into())
        .collect();
    cases.extend((0..10).map(|n| format!("{sized}{}", &"0123456789"[..n])));
    for case in cases {
        for polite in [false, true] {
            let mut stream = raw_client(server.address, &caller, Some(&caller), &[])
                .await
                .unwrap();
            stream.write_all(case.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            if polite {
                // A TLS close_notify is no end of a body either.
                stream.shutdown().await.unwrap();
            }
            drop(stream);
            let end = ends.recv().await.unwrap();
            assert!(end.is_err(), "{case:?} gave {end:?}");
        }
    }
    let mut stream = raw_client(server.address, &caller, Some(&caller), &[])
        .await
        .unwrap();
    stream.write_all(whole.as_bytes()).await.unwrap();
    assert_eq!(ends.recv().await.unwrap().unwrap().0, 5, "the whole one is whole");
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_unreachable_in_time() {
    let site = Site::new();
    let (listener, acceptor) = raw_server(&site.host(&["localhost"])).await;
    let peer = format!("localhost:{}", listener.local_addr().unwrap().port());
    let held = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = acceptor.accept(tcp).await.unwrap();
        let mut some = [0; 100_000];
        tls.read_exact(&mut some).await.unwrap();
        std::future::pending::<()>().await;
    });
    let link = Link::with_timing(&site.host(&["a"]), quick()).unwrap();
    let begun = std::time::Instant::now();
    let endless = long_body(usize::MAX, Bytes::from(vec![7; 1 << 16]));
    let e = link.send(&peer, delta(), endless).await.unwrap_err();
    assert!(
        matches!(&e, LinkError::Unreachable { .. }) && e.to_string().contains("has not moved"),
        "{e}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    held.abort();
}

#[tokio::test]
async fn a_peer_that_never_answers_is_unreachable_in_time() {
    let site = Site::new();
    let (listener, acceptor) = raw_server(&site.host(&["localhost"])).await;
    let peer = format!("localhost:{}", listener.local_addr().unwrap().port());
    let held = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = acceptor.accept(tcp).await.unwrap();
        tokio::io::copy(&mut tls, &mut tokio::io::sink()).await
    });
    let link = Link::with_timing(&site.host(&["a"]), quick()).unwrap();
    let e = link
        .send(&peer, delta(), body(vec![Ok(Bytes::from_static(b"all"))]))
        .await
        .unwrap_err();
    assert!(
        matches!(&e, LinkError::Unreachable { .. }) && e.to_string().contains("has not moved"),
        "{e}"
    );
    held.abort();
}

#[tokio::test]
async fn a_slow_source_is_not_the_peers_stall() {
    let (_site, server, link) = pair(Arc::new(Handler::default())).await;
    let slow = futures_util::stream::iter(0..3).then(|_| async {
        tokio::time::sleep(2 * quick().stall).await;
        Ok(Bytes::from_static(b"x"))
    });
    link.send(&server.peer(), delta(), Box::pin(slow)).await.unwrap();
}

#[tokio::test]
async fn a_slow_disk_there_is_not_a_stall() {
    let site = Site::new();
    let limits = Limits {
        heartbeat: quick().stall / 4,
        ..Limits::default()
    };
    for answer in [Ok(bulk_receipt()), Err(failed("disk gone"))] {
        let given = answer.clone();
        let handler = Handler::receiving(move |_, stream| {
            let given = given.clone();
            async move {
                tokio::time::sleep(3 * quick().stall).await;
                read_all(stream).await?;
                tokio::time::sleep(3 * quick().stall).await;
                given
            }
        });
        let server = start_within(limits, &site.host(&["localhost"]), handler, "127.0.0.1:0").await;
        let link = Link::with_timing(&site.host(&["a"]), quick()).unwrap();
        let long = long_body(256, Bytes::from(vec![7; 1 << 16]));
        match (link.send(&server.peer(), delta(), long).await, answer) {
            (Ok(got), Ok(want)) => assert_eq!(got, want),
            (Err(LinkError::Refused(got)), Err(want)) => assert_eq!(got, want),
            (got, want) => panic!("{got:?} instead of {want:?}"),
        }
    }
}

#[tokio::test]
async fn a_caller_that_goes_silent_is_not_waited_for_for_ever() {
    let site = Site::new();
    let (handler, mut ends) = ends();
    let limits = Limits {
        silence: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = start_within(limits, &site.host(&["localhost"]), handler, "127.0.0.1:0").await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    let silent = body(vec![Ok(Bytes::from_static(b"x"))]).chain(futures_util::stream::pending());
    let peer = server.peer();
    let task = tokio::spawn(async move { link.send(&peer, delta(), Box::pin(silent)).await });
    assert!(
        ends.recv()
            .await
            .unwrap()
            .unwrap_err()
            .contains("nothing of the log has come")
    );
    assert!(matches!(task.await.unwrap(), Err(LinkError::Refused(_))));
}
