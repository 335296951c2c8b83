//! A host with very many VMs: lists come in pages of bounded size, every VM is in them once, and an enumeration asks for what
//! is pulled and no more. Real engines in the simulated world, a real socket; the world's own record says which VMs there are.

use std::collections::BTreeSet;
use std::sync::Arc;

use camino::Utf8PathBuf;
use lifeboat_api::cim::{Cursor, ObjectManager, Relations, VIRTUALIZATION};
use lifeboat_api::{Admission, Client, Server};
use lifeboat_cim::InstanceName;
use lifeboat_engine::action::{Action, Answer, VmView};
use lifeboat_engine::paging::{MOST_BYTES, Paging};
use lifeboat_model::VmId;
use lifeboat_sim::{VM, World};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cim_views::world::{Counting, from, managed, replicating};
use crate::rest_pages::get;

/// For each test run; the soak takes [`MANY`].
const SOME: usize = 1200;
/// What quotas and lists are made for.
const MANY: usize = 10_000;
/// VMs that a walk of the management API asks for at once.
const PULLED: usize = 100;

/// Host `a` has `n` VMs with two disks each; `b` has `n` replicas with recovery points.
async fn world(n: usize) -> World {
    tokio::time::pause();
    let mut w = World::with(60, &["a", "b"], 24 << 20).await;
    replicating(&mut w).await;
    let template = w.recorded(1).unwrap();
    w.stop(0).await;
    w.stop(1).await;
    {
        let mut s = w.shared.state();
        let (vm, replica) = (s.hosts[0].local[0].clone(), s.hosts[1].replicas[&VM].clone());
        for n in 1..n {
            let uuid = VmId(Uuid::from_u128(VM.0.as_u128() + 1 + n as u128));
            let mut other = vm.clone();
            // Names in another order than UUIDs, and some that several VMs have.
            (other.name, other.uuid) = (format!("vm-{}", n * 7919 % (MANY - 10)), uuid);
            for disk in &mut other.disks {
                disk.path = format!("/vm/{n}-{}.qcow2", disk.id);
            }
            let mut copy = template.clone();
            (copy.vm, copy.spec.uuid, copy.spec.name) = (uuid, uuid, other.name.clone());
            s.hosts[0].local.push(other);
            s.hosts[1].catalog.relationships.push(copy);
            s.hosts[1].replicas.insert(uuid, replica.clone());
        }
    }
    w.boot(0).await;
    w.boot(1).await;
    tokio::time::resume();
    w
}

fn there(w: &World, host: usize) -> BTreeSet<VmId> {
    let s = w.shared.state();
    match host {
        0 => s.hosts[0].local.iter().map(|vm| vm.uuid).collect(),
        host => s.hosts[host].replicas.keys().copied().collect(),
    }
}

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

/// Kilobytes of memory that this process has, and has had at most.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
    };
    (field("VmRSS:"), field("VmHWM:"))
}

async fn lists(n: usize) {
    let w = world(n).await;
    for host in [0, 1] {
        let engine = w.shared.engines.lock().unwrap()[host].clone().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = Utf8PathBuf::from_path_buf(dir.path().join("lifeboat.sock")).unwrap();
        let server = Server::bind(&socket, Admission::local(None)).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.serve(engine, stop.clone()));
        let there = there(&w, host);
        assert_eq!(there.len(), n);
        for (first, most) in [("/api/v1/vms", 500), ("/api/v1/vms?limit=1000", 1000)] {
            let began = std::time::Instant::now();
            let pages = pages(&socket, first).await;
            let largest = pages.iter().map(|(bytes, _)| *bytes).max().unwrap();
            let took = began.elapsed();
            println!(
                "{n} VMs of host {host} by {first}: {} pages of at most {largest} bytes in {took:?}, memory {:?}",
                pages.len(),
                memory()
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
        let all = client.gather(&Action::ListVms(Paging::FIRST), usize::MAX).await;
        let Answer::Vms(all) = all.unwrap() else {
            panic!("no VMs")
        };
        let known: BTreeSet<_> = all.items.iter().map(|vm| vm.spec.uuid).collect();
        assert_eq!((all.items.len(), known), (n, there));
        stop.cancel();
        task.await.unwrap();
    }
}

/// Pulls one instance and then the rest; what was asked for the first, for all, and how many instances there are.
async fn pulled(counting: &Counting, mut cursor: Cursor) -> (u32, u32, Vec<lifeboat_cim::Instance>) {
    let lists =
        |asked: Vec<(String, u32)>| asked.iter().filter(|(n, _)| n == "ListVms").map(|(_, n)| n).sum();
    let mut all = vec![cursor.next().await.unwrap().unwrap().instance];
    let first: u32 = lists(counting.take());
    while let Some(found) = cursor.next().await.unwrap() {
        all.push(found.instance);
    }
    let rest: u32 = lists(counting.take());
    (first, first + rest, all)
}

async fn enumerations(n: usize) {
    let w = world(n).await;
    let asks = u32::try_from(n.div_ceil(PULLED)).unwrap();
    for host in [0, 1] {
        let (m, counting) = managed(&w, host);
        let service = InstanceName::new("Msvm_ReplicationService", &[]);
        let affected = Relations {
            association: Some("Msvm_ServiceAffectsElement".into()),
            result: Some("Msvm_ComputerSystem".into()),
            ..from(service)
        };
        let systems = m.enumerate(VIRTUALIZATION, "Msvm_ComputerSystem").await.unwrap();
        measured(&m, &counting, systems, n, asks, "Msvm_ComputerSystem").await;
        let related = m.associators(VIRTUALIZATION, affected).await.unwrap();
        measured(&m, &counting, related, n, asks, "associators").await;
        let links = m
            .enumerate(VIRTUALIZATION, "Msvm_SettingsDefineState")
            .await
            .unwrap();
        measured(&m, &counting, links, n, asks, "Msvm_SettingsDefineState").await;
    }
}

async fn measured(
    m: &Arc<ObjectManager>,
    counting: &Counting,
    cursor: Cursor,
    n: usize,
    asks: u32,
    what: &str,
) {
    let (began, before) = (std::time::Instant::now(), memory());
    counting.take();
    let (first, in_all, found) = pulled(counting, cursor).await;
    println!(
        "{what} at {n} VMs: {} instances in {:?}, memory {before:?} before and {:?} with all instances kept",
        found.len(),
        began.elapsed(),
        memory()
    );
    assert!(first <= 1, "{what}: the first instance needs one page: {first}");
    assert_eq!(in_all, asks, "{what}");
    let namespace = m.schema().namespace(VIRTUALIZATION).unwrap();
    let names: BTreeSet<_> = found.iter().map(|i| namespace.name_of(i).to_string()).collect();
    assert_eq!(names.len(), found.len(), "{what}: each once");
    let systems = found.iter().filter(|i| i.unsigned("EnabledState").is_some());
    assert!(systems.count() >= n || !what.contains("System"), "{what}");
    assert!(found.len() >= n, "{what}: {}", found.len());
}

#[tokio::test]
async fn every_vm_is_listed_once_in_pages_of_bounded_size() {
    lists(SOME).await;
}

#[tokio::test]
async fn an_enumeration_asks_for_what_is_pulled() {
    enumerations(SOME).await;
}

#[tokio::test]
#[ignore = "long; part of make soak"]
async fn soak_ten_thousand_vms_are_listed_once_in_pages_of_bounded_size() {
    lists(MANY).await;
}

#[tokio::test]
#[ignore = "long; part of make soak"]
async fn soak_enumerations_of_ten_thousand_vms_ask_for_what_is_pulled() {
    enumerations(MANY).await;
}
