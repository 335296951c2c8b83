//! A log passes through in constant memory, whatever its length. Nothing else may run in this process.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::alloc::System;
use std::sync::Arc;

use bytes::Bytes;
use cap::Cap;
use common::{Handler, Site, Sum, delta, long_body, receipt, start};
use futures_util::StreamExt;
use lifeboat_engine::ports::link::PeerLink;
use lifeboat_link::Link;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

const CHUNK: usize = 1 << 18;

#[tokio::test]
async fn sixty_four_mebibytes_take_no_more_memory_than_four() {
    let site = Site::new();
    let server = start(&site.host(&["localhost"]), Arc::new(Handler::default())).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    let chunk = Bytes::from((0..=250).cycle().take(CHUNK).collect::<Vec<u8>>());
    let send = async |mib: usize| {
        let count = (mib << 20) / CHUNK;
        let mut sum = Sum::default();
        (0..count).for_each(|_| sum.add(&chunk));
        let got = link
            .send(&server.peer(), delta(), long_body(count, chunk.clone()))
            .await
            .unwrap();
        assert_eq!(got, receipt((sum.bytes, sum.value)));
        MEMORY.max_allocated()
    };
    let few = send(4).await;
    let many = send(64).await;
    assert!(
        many < few + (1 << 20),
        "{few} bytes at most for 4 MiB, {many} for 64 MiB"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: cargo test --release -p lifeboat-link --test memory -- --ignored --nocapture"]
async fn throughput() {
    let site = Site::new();
    let handler = Handler::receiving(|_, mut stream: lifeboat_engine::ports::ByteStream| async move {
        let mut bytes = 0;
        while let Some(chunk) = stream.next().await {
            bytes += chunk.unwrap().len() as u64;
        }
        Ok(receipt((bytes, 0)))
    });
    let server = start(&site.host(&["localhost"]), handler).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    let chunk = Bytes::from(vec![7; CHUNK]);
    for _ in 0..5 {
        let begun = std::time::Instant::now();
        link.send(&server.peer(), delta(), long_body(8192, chunk.clone()))
            .await
            .unwrap();
        println!("{:.0} MiB/s", 2048.0 / begun.elapsed().as_secs_f64());
    }
}
