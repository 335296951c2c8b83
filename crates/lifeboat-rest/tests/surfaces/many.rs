//! A host with very many VMs: lists come in pages of bounded size, and every VM is in them once. Real engines in the simulated
//! world, a real socket; the world's own record says which VMs there are.

use std::collections::BTreeSet;

use camino::Utf8PathBuf;
use lifeboat_engine::action::VmView;
use lifeboat_engine::paging::{MOST_BYTES, Paging};
use lifeboat_engine::query::Query;
use lifeboat_rest::{Admission, Client, Server};
use lifeboat_sim::World;
use lifeboat_sim::harness::{PRIMARY, REPLICA, memory_kb};
use tokio_util::sync::CancellationToken;

use crate::rest_pages::get;

/// For each test run; the soak takes [`MANY`].
const SOME: usize = 1200;
/// What quotas and lists are made for.
const MANY: usize = 10_000;
/// All pages of a list of VMs, one connection each, as a client that knows of nothing but links sees them.
async fn pages(socket: &Utf8PathBuf, first: &str) -> Vec<(usize, Vec<VmView>)> {
    let (mut next, mut pages) = (Some(first.to_owned()), Vec::new());
    while let Some(target) = next {
        let (status, link, body) = get(socket, &target).await;
        assert!(status.is_success(), "{status}");
        pages.push((body.len(), serde_json::from_slice(&body).unwrap()));
        next = link;
    }
    pages
}

async fn lists(n: usize) {
    tokio::time::pause();
    let w = World::of_many(n).await;
    tokio::time::resume();
    for host in [PRIMARY, REPLICA] {
        let engine = w.engine(host).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = Utf8PathBuf::from_path_buf(dir.path().join("lifeboat.sock")).unwrap();
        let server = Server::bind(&socket, Admission::local(None)).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.serve(engine, stop.clone()));
        let there = w.uuids(host);
        assert_eq!(there.len(), n);
        for (first, most) in [("/api/v1/vms", 500), ("/api/v1/vms?limit=1000", 1000)] {
            let began = std::time::Instant::now();
            let pages = pages(&socket, first).await;
            let largest = pages.iter().map(|(bytes, _)| *bytes).max().unwrap();
            let took = began.elapsed();
            println!(
                "{n} VMs of host {host} by {first}: {} pages of at most {largest} bytes in {took:?}, memory {:?}",
                pages.len(),
                memory_kb()
            );
            // The items, and the brackets around them.
            assert!(largest <= MOST_BYTES + 2, "{largest}");
            assert!(pages.len() >= n.div_ceil(most));
            let all: Vec<_> = pages.into_iter().flat_map(|(_, vms)| vms).collect();
            let known: BTreeSet<_> = all.iter().map(|vm| vm.spec.uuid).collect();
            assert_eq!((all.len(), &known), (n, &there), "each once");
            assert!(all.is_sorted_by_key(|vm| (vm.spec.name.clone(), vm.spec.uuid)));
        }
        // What the command line does.
        let client = Client::new(&socket);
        let all = client.gather(Query::list_vms(Paging::FIRST), usize::MAX).await;
        let all = all.unwrap();
        let known: BTreeSet<_> = all.iter().map(|vm| vm.spec.uuid).collect();
        assert_eq!((all.len(), known), (n, there));
        stop.cancel();
        task.await.unwrap();
    }
}

#[tokio::test]
async fn every_vm_is_listed_once_in_pages_of_bounded_size() {
    lists(SOME).await;
}

#[tokio::test]
#[ignore = "long; part of make soak"]
async fn soak_ten_thousand_vms_are_listed_once_in_pages_of_bounded_size() {
    lists(MANY).await;
}
