//! A host with very many VMs: an enumeration asks for what is pulled and no more. Real engines in the simulated world; the
//! world's own record says which VMs there are.

use std::collections::BTreeSet;
use std::sync::Arc;

use lifeboat_cim::InstanceName;
use lifeboat_sim::World;
use lifeboat_sim::harness::{PRIMARY, REPLICA, memory_kb};
use lifeboat_wbem::cim::{Cursor, ObjectManager, Relations, VIRTUALIZATION};

use crate::cim_views::world::{Counting, from, managed};

/// For each test run; the soak takes [`MANY`].
const SOME: usize = 1200;
/// What quotas and lists are made for.
const MANY: usize = 10_000;
/// VMs that a walk of the management API asks for at once.
const PULLED: usize = 100;

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
    tokio::time::pause();
    let w = World::of_many(n).await;
    tokio::time::resume();
    let asks = u32::try_from(n.div_ceil(PULLED)).unwrap();
    for host in [PRIMARY, REPLICA] {
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
    let (began, before) = (std::time::Instant::now(), memory_kb());
    counting.take();
    let (first, in_all, found) = pulled(counting, cursor).await;
    println!(
        "{what} at {n} VMs: {} instances in {:?}, memory {before:?} before and {:?} with all instances kept",
        found.len(),
        began.elapsed(),
        memory_kb()
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
async fn an_enumeration_asks_for_what_is_pulled() {
    enumerations(SOME).await;
}

#[tokio::test]
#[ignore = "long; part of make soak"]
async fn soak_enumerations_of_ten_thousand_vms_ask_for_what_is_pulled() {
    enumerations(MANY).await;
}
