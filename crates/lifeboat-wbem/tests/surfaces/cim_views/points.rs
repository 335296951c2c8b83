//! Recovery points by their names: one for each instant, whatever becomes of it; and as many in the list as the history says.

use std::collections::BTreeMap;

use lifeboat_cim::{Instance, Status};
use lifeboat_engine::action::{Action, PointSelector, PointView};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::query::Query;
use lifeboat_model::Target;
use lifeboat_sim::World;
use lifeboat_sim::harness::{REPLICA, TWO_HOSTS, completed};
use lifeboat_wbem::cim::{ObjectManager, VIRTUALIZATION};

use crate::cim_views::text;
use crate::cim_views::world::{GUID, by_id, manager, related, simulate_several, system};

const POINT: &str = "Msvm_VirtualSystemSettingData";

/// What the replica can be brought up at, newest first.
async fn instants(w: &World) -> Vec<PointView> {
    let points = Query::list_points(World::vm(), Paging::FIRST);
    w.insist_on(REPLICA, points).await.unwrap().items
}

/// The InstanceID of an instant.
fn named(point: &PointView) -> String {
    format!("Microsoft:{}", point.guid.unwrap().to_string().to_uppercase())
}

async fn get(m: &ObjectManager, id: &str) -> Result<Instance, Status> {
    let found = m.get(VIRTUALIZATION, &by_id(POINT, id)).await;
    found.map_err(|e| e.status)
}

#[test]
fn a_name_from_the_list_is_found_while_its_instant_is_there_and_then_no_more() {
    simulate_several(61, TWO_HOSTS, async |w| {
        w.replicate().await;
        let m = manager(w, REPLICA);
        let mut listed: BTreeMap<String, Instance> = BTreeMap::new();
        let mut left = 0;
        for _ in 0..40 {
            w.write(3);
            w.run(5).await;
            for point in related(&m, system(GUID), "Msvm_SnapshotOfVirtualSystem").await {
                let id = text(&point, "InstanceID").to_owned();
                let before = listed.entry(id).or_insert_with(|| point.clone());
                // What it builds upon changes when that is merged away.
                for property in ["CreationTime", "ElementName", "VirtualSystemType"] {
                    assert_eq!(before.get(property), point.get(property));
                }
            }
            let there: Vec<String> = instants(w).await.iter().map(named).collect();
            for id in listed.keys() {
                match get(&m, id).await {
                    Ok(point) => assert_eq!(text(&point, "InstanceID"), id),
                    Err(status) => {
                        assert_eq!(status, Status::NotFound);
                        assert!(!there.contains(id), "{id} can be brought up and has no instance");
                        left += 1;
                    }
                }
            }
        }
        assert!(
            listed.len() > 15,
            "each newest cycle was listed: {}",
            listed.len()
        );
        assert!(left > 0, "none was ever let go");
    });
}

#[test]
fn the_list_is_as_long_as_the_history_says_and_the_rest_can_be_named() {
    simulate_several(62, TWO_HOSTS, async |w| {
        w.replicate().await;
        let m = manager(w, REPLICA);
        for _ in 0..12 {
            w.write(3);
            w.run(10).await;
            let all = instants(w).await;
            let sealed = |p: &&PointView| matches!(p.target, Target::Point { .. });
            let first = all.iter().take(1);
            let kept = first.chain(all.iter().skip(1).filter(sealed));
            let wanted: Vec<String> = kept.take(4).map(named).collect();
            let points = related(&m, system(GUID), "Msvm_SnapshotOfVirtualSystem").await;
            let ids: Vec<&str> = points.iter().map(|p| text(p, "InstanceID")).collect();
            assert_eq!(ids, wanted, "three more than the newest");
            for point in &all {
                let found = get(&m, &named(point)).await.unwrap();
                let owner = related(&m, by_id(POINT, &named(point)), "Msvm_SnapshotOfVirtualSystem").await;
                assert_eq!(text(&owner[0], "Name"), GUID, "of {found:?}");
            }
            if all.iter().filter(sealed).count() > 4 {
                return;
            }
        }
        panic!("there were never more points than the history has");
    });
}

#[test]
fn a_cycle_that_was_sealed_is_failed_over_to_by_the_name_it_had() {
    simulate_several(63, TWO_HOSTS, async |w| {
        w.replicate().await;
        let m = manager(w, REPLICA);
        let newest = loop {
            w.write(3);
            w.run(1).await;
            let newest = instants(w).await.remove(0);
            if matches!(newest.target, Target::Cycle { .. }) {
                break newest;
            }
        };
        let name = named(&newest);
        let before = get(&m, &name).await.unwrap();
        w.cut(true);
        let failover = |id: String| Action::InitiateFailover {
            vm: World::vm(),
            point: PointSelector::Id(id),
            start: false,
            force: true,
        };
        // A failover to the newest data seals it. Its old name of a cycle and its GUID mean what was sealed.
        let id = newest.id.clone();
        for selector in [id.clone(), newest.guid.unwrap().to_string().to_uppercase(), id] {
            completed(w, REPLICA, failover(selector)).await;
            let applied = related(&m, system(GUID), "Msvm_LastAppliedSnapshot").await;
            assert_eq!(text(&applied[0], "InstanceID"), name);
            let after = get(&m, &name).await.unwrap();
            assert_eq!(after.get("CreationTime"), before.get("CreationTime"));
            let sealed = instants(w)
                .await
                .into_iter()
                .find(|p| p.guid == newest.guid)
                .unwrap();
            assert!(matches!(sealed.target, Target::Point { .. }), "{sealed:?}");
            let (vm, force) = (World::vm(), true);
            completed(w, REPLICA, Action::RevertFailover { vm, force }).await;
        }
    });
}
