//! Two stores on one host: a replica is in the store of the location that was configured when it was made, and every call about it
//! goes there, whatever is configured later.

use std::collections::BTreeSet;

use lifeboat_engine::action::{Action, InitialCopy, PointSelector, VmRef};
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_engine::ports::link::{Content as Offered, PeerHandler, PeerIdentity, PeerReply, PeerRequest};
use lifeboat_model::{JobState, Machine, ReplicationState as State, VmId};
use lifeboat_sim::harness::{A, B, entry, eventually, failover, job, replicating, simulate};
use lifeboat_sim::{Content, Image, VM, World};
use uuid::Uuid;

/// A second VM of host `a`.
const DB: VmId = VmId(Uuid::from_u128(0x6f3b_2f2e_3a63_4a0e_9a53_0d9f_5f6f_0002));
/// The location with a store to itself.
const FAST: &str = "/fast";

/// Host `a` has one more VM, which runs.
async fn second_vm(w: &World) {
    w.stop(A).await;
    {
        let mut s = w.shared.state();
        let mut db = s.hosts[A].local[0].clone();
        (db.name, db.uuid) = ("db".into(), DB);
        for (n, disk) in (2_u64..).zip(&mut db.disks) {
            disk.path = format!("/vm/db-{}.qcow2", disk.id);
            s.hosts[A].images.insert(disk.path.clone(), Image::new(n << 20));
        }
        let images = db.disks.iter().map(|d| d.path.clone()).collect();
        s.hosts[A].local.push(db);
        let mut p = s.hosts[A].processes[&VM].clone();
        p.images = images;
        s.hosts[A].processes.insert(DB, p);
    }
    w.boot(A).await;
}

fn db() -> VmRef {
    VmRef::Text("db".into())
}

/// What a VM's disks hold on a host.
fn content(w: &World, host: usize, vm: VmId) -> Vec<Content> {
    let s = w.shared.state();
    let images = &s.hosts[host].processes[&vm].images;
    let of = |path: &String| s.hosts[host].images[path].content.clone();
    images.iter().map(of).collect()
}

fn replicates(w: &World, vm: VmId) -> bool {
    let s = w.shared.state();
    let recorded = s.hosts[B].catalog.relationships.iter().find(|r| r.vm == vm);
    recorded.is_some_and(|r| r.state == State::Replicating)
}

/// The first offer of a replica comes once more, as when its answer was lost.
async fn offered_again(w: &World, vm: VmId) {
    let known = w.recorded(B).unwrap().keys.remove(0);
    let primary = PeerIdentity {
        names: known.names,
        addresses: Vec::new(),
        key: Some(known.key),
    };
    let offer = {
        let s = w.shared.state();
        let record = s.hosts[A]
            .catalog
            .relationships
            .iter()
            .find(|r| r.vm == vm)
            .unwrap();
        PeerRequest::Offer {
            vm: Box::new(Machine::from(record.spec.clone())),
            settings: record.settings.clone(),
            disks: s.hosts[B].replicas[&vm].disks.clone(),
            start: s.hosts[B].replicas[&vm].start,
            from: "a:7000".into(),
            content: Offered::Empty,
            firmware: String::new(),
        }
    };
    let reply = w.engine(B).unwrap().call(&primary, offer).await;
    assert!(matches!(reply, PeerReply::Status(_)), "{reply:?}");
}

/// Fails a VM over on host `b` and compares what it comes up with.
async fn comes_up(w: &World, vm: VmId, action: Action) {
    let before = content(w, A, vm);
    assert!(
        before.iter().any(|disk| !disk.is_empty()),
        "{vm}: nothing was written"
    );
    let up = job(w, B, action).await;
    assert_eq!(up.unwrap(), JobState::Completed, "{vm}");
    assert_eq!(
        w.shared.state().hosts[B].processes[&vm].power,
        PowerState::Running
    );
    assert_eq!(content(w, B, vm), before, "{vm}");
}

#[test]
fn each_replica_is_in_the_store_of_its_location_and_fails_over_from_there() {
    simulate(31, async |w| {
        w.shared.state().hosts[B].stores.insert(FAST.into());
        second_vm(w).await;
        replicating(w).await;

        let entry = entry("a", FAST);
        w.insist(B, Action::AddAuthorization { entry }).await.unwrap();
        let settings = World::settings();
        w.insist(A, Action::EnableReplication { vm: db(), settings })
            .await
            .unwrap();
        let start = Action::StartReplication {
            vm: db(),
            how: InitialCopy::Network,
            at: None,
            relationship: Default::default(),
        };
        w.insist(A, start).await.unwrap();
        eventually(w, "both replicate", |w| {
            [VM, DB].iter().all(|vm| replicates(w, *vm))
        })
        .await;

        let place = |vm: VmId| w.shared.state().hosts[B].replicas[&vm].dir.clone();
        assert_eq!(
            [VM, DB].map(place),
            [format!("/replicas/{VM}"), format!("{FAST}/{DB}")]
        );
        offered_again(w, VM).await;
        // Points are sealed and expire in both, and both are opened again where they were recorded.
        for _ in 0..20 {
            w.write(5);
            w.run(10).await;
        }
        w.restart(B).await;
        w.write(5);
        w.run(30).await;

        w.cut(true);
        comes_up(w, VM, failover(PointSelector::Latest)).await;
        let action = Action::InitiateFailover {
            vm: db(),
            point: PointSelector::Latest,
            start: true,
            force: false,
        };
        comes_up(w, DB, action).await;

        let calls = w.shared.state().hosts[B].store_calls.clone();
        assert_eq!(calls, BTreeSet::from([(None, VM), (Some(FAST.to_owned()), DB)]));
        let none = BTreeSet::new();
        assert_eq!(
            w.shared.state().hosts[A].store_calls,
            none,
            "a primary has no replica"
        );
    });
}
