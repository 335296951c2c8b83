//! Lists and views while something hangs: each VM by itself, in half a second, and what is not known is labelled as such.

use lifeboat_engine::action::{Action, Answer, PointSelector, VmView};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::ports::hypervisor::{PowerState, Stall, StallCause};
use lifeboat_engine::query::Query;
use lifeboat_model::Finding;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::{DiskId, JobState, ReplicationHealth, VmId};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, events, failover, job, pause_vm, refused, replicating, reset_vm, simulate, start_vm,
};
use lifeboat_sim::{VM, World};
use uuid::Uuid;

const OTHER: VmId = VmId(Uuid::from_u128(0x77));

/// Adds a second VM without disks, which is off, to the first host.
async fn second(w: &mut World) {
    {
        let mut s = w.shared.state();
        let mut other = s.hosts[PRIMARY].local[0].clone();
        (other.name, other.uuid) = ("second".into(), OTHER);
        other.disks.clear();
        s.hosts[PRIMARY].local.push(other);
    }
    w.restart(PRIMARY).await;
}

/// The list of a host, and how many milliseconds it took.
async fn list(w: &World, host: usize) -> (Vec<VmView>, u128) {
    let asked = w.shared.now();
    let views = w.query(host, Query::list_vms(Paging::FIRST)).await;
    let took = w.shared.now().since(asked).as_millis();
    (views.unwrap().unwrap().items, took)
}

fn of(views: &[VmView], name: &str) -> VmView {
    views.iter().find(|v| v.spec.name == name).unwrap().clone()
}

#[test]
fn a_vm_that_does_not_answer_is_listed_as_unknown_and_delays_no_other() {
    simulate(1, async |w| {
        second(w).await;
        let (views, _) = list(w, PRIMARY).await;
        assert_eq!(of(&views, "web").power, PowerState::Running);
        let seen = w.shared.now();
        w.shared.state().hosts[PRIMARY].stuck.insert(VM);
        w.run(60).await;
        for _ in 0..3 {
            let (views, took) = list(w, PRIMARY).await;
            assert!(took <= 500, "{took} ms");
            assert_eq!(of(&views, "second").power, PowerState::Off);
            let web = of(&views, "web");
            assert_eq!(web.power, PowerState::Unknown);
            let note = web.power_note.unwrap();
            let before = note.before.unwrap();
            assert_eq!(before.power, PowerState::Running);
            assert!(before.at.since(seen).as_secs() <= 10 && note.since.since(seen).as_secs() <= 20);
        }
        let asked = w.shared.now();
        let view = w.view(PRIMARY).await.unwrap();
        assert_eq!(view.power, PowerState::Unknown);
        assert!(w.shared.now().since(asked).as_millis() <= 5000);
        w.shared.state().hosts[PRIMARY].stuck.clear();
        w.run(10).await;
        assert_eq!(of(&list(w, PRIMARY).await.0, "web").power, PowerState::Running);
    });
}

#[test]
fn a_daemon_that_starts_beside_a_vm_that_hangs_lists_it() {
    simulate(2, async |w| {
        w.shared.state().hosts[PRIMARY].stuck.insert(VM);
        w.restart(PRIMARY).await;
        let (views, took) = list(w, PRIMARY).await;
        assert!(took <= 500, "{took} ms");
        let web = of(&views, "web");
        assert_eq!(web.power, PowerState::Unknown);
        assert!(web.power_note.unwrap().before.is_none(), "it was never seen");
    });
}

#[test]
fn a_store_that_hangs_delays_no_list_and_is_reported() {
    simulate(3, async |w| {
        replicating(w).await;
        w.run(30).await;
        let (views, _) = list(w, REPLICA).await;
        assert!(of(&views, "web").replication.is_some());
        w.shared.state().hangs.insert((REPLICA, "store.info"));
        for _ in 0..3 {
            let (views, took) = list(w, REPLICA).await;
            assert!(took <= 500, "{took} ms");
            assert!(of(&views, "web").replication.is_some());
            w.run(10).await;
        }
        let web = of(&list(w, REPLICA).await.0, "web").replication.unwrap();
        assert_eq!(web.health, ReplicationHealth::Critical, "{:?}", web.health_notes);
        let said = |n: &Finding| n.text.contains("the storage of the replica does not answer");
        assert!(web.health_notes.iter().any(said), "{:?}", web.health_notes);
    });
}

#[test]
fn a_catalog_that_hangs_delays_no_view_and_is_reported() {
    simulate(11, async |w| {
        for hangs in ["catalog.load", "catalog.events"] {
            w.shared.state().hangs.insert((PRIMARY, hangs));
        }
        let asked = w.shared.now();
        let shown = w.act(PRIMARY, Action::ShowServer).await;
        let Some(Ok(Answer::Server(view))) = shown else {
            panic!("{shown:?}")
        };
        let said = |n: &Finding| n.text.contains("the catalog did not answer");
        assert!(view.notes.iter().any(said), "{:?}", view.notes);
        assert!(w.shared.now().since(asked).as_millis() <= 5000);
        let asked = w.shared.now();
        let (vm, limit, after) = (None, 10, None);
        let refusal = w.act(PRIMARY, Action::ListEvents { vm, limit, after }).await;
        let refusal = refusal.unwrap().unwrap_err();
        assert_eq!(refusal.code, ReturnCode::Timeout, "{refusal:?}");
        assert!(w.shared.now().since(asked).as_millis() <= 5000);
    });
}

#[test]
fn an_actor_that_does_not_come_back_stops_no_list() {
    simulate(4, async |w| {
        second(w).await;
        list(w, PRIMARY).await;
        w.shared.state().hangs.insert((PRIMARY, "hv.turn_off"));
        let (vm, force) = (World::vm(), true);
        let stop = w.act(PRIMARY, Action::StopVm { vm, force });
        assert!(
            tokio::time::timeout(std::time::Duration::from_secs(1), stop)
                .await
                .is_err()
        );
        let (views, took) = list(w, PRIMARY).await;
        assert!(took <= 500, "{took} ms");
        assert_eq!(of(&views, "second").power, PowerState::Off);
        assert_eq!(of(&views, "web").power, PowerState::Running, "that can be seen");
        w.shared.state().hosts[PRIMARY].stuck.insert(VM);
        let (views, took) = list(w, PRIMARY).await;
        assert!(took <= 500, "{took} ms");
        let web = of(&views, "web");
        assert_eq!(web.power, PowerState::Unknown);
        assert_eq!(web.power_note.unwrap().before.unwrap().power, PowerState::Running);
    });
}

#[test]
fn a_command_that_meets_a_hanging_port_is_answered_within_five_seconds_and_not_carried_out_later() {
    simulate(8, async |w| {
        replicating(w).await;
        w.run(30).await;
        // Whoever wants to stop the VM first ends what is under way; here that does not come back.
        w.shared.state().hangs.insert((PRIMARY, "hv.turn_off"));
        let (vm, force) = (World::vm(), true);
        let stop = w.act(PRIMARY, Action::StopVm { vm, force });
        assert!(
            tokio::time::timeout(std::time::Duration::from_secs(1), stop)
                .await
                .is_err()
        );
        let asked = w.shared.now();
        let refusal = refused(w, PRIMARY, pause_vm()).await;
        assert_eq!(
            refusal.code,
            lifeboat_model::api::ReturnCode::InUse,
            "{refusal:?}"
        );
        assert!(refusal.message.contains("was not begun"), "{refusal:?}");
        assert!(
            w.view(PRIMARY)
                .await
                .is_some_and(|v| v.power == PowerState::Unknown)
        );
        assert!(w.shared.now().since(asked).as_millis() <= 10_000, "two answers");
        assert_eq!(
            w.shared.state().hosts[PRIMARY].processes[&VM].power,
            PowerState::Running
        );
    });
    simulate(9, async |w| {
        for (hangs, action) in [
            ("hv.pause", pause_vm()),
            ("hv.reset", reset_vm()),
            ("hv.screenshot", Action::Screenshot { vm: World::vm() }),
        ] {
            w.shared.state().hangs.insert((PRIMARY, hangs));
            let asked = w.shared.now();
            let refusal = refused(w, PRIMARY, action).await;
            assert!(
                refusal.message.contains("may still be carried out"),
                "{refusal:?}"
            );
            assert!(w.shared.now().since(asked).as_millis() <= 5000);
            w.shared.state().hangs.clear();
        }
    });
}

#[test]
fn a_vm_whose_images_do_not_answer_is_not_started_and_that_is_said_in_time() {
    simulate(10, async |w| {
        w.guest_off(PRIMARY);
        w.shared.state().hangs.insert((PRIMARY, "hv.preflight"));
        let asked = w.shared.now();
        let refusal = refused(w, PRIMARY, start_vm()).await;
        assert!(refusal.message.contains("was not started"), "{refusal:?}");
        assert!(w.shared.now().since(asked).as_millis() <= 5000);
        assert!(!w.runs(PRIMARY));
        w.shared.state().hangs.clear();
        w.insist(PRIMARY, start_vm()).await.unwrap();
        assert!(w.runs(PRIMARY));
    });
}

/// The guest on `host` finds no space.
fn full(w: &World, host: usize) {
    let mut s = w.shared.state();
    let p = s.hosts[host].processes.get_mut(&VM).unwrap();
    p.power = PowerState::Stalled;
    p.stall = Some(Stall {
        cause: StallCause::NoSpace,
        disks: vec![DiskId::new("sys").unwrap()],
    });
}

/// A guest on `host` stalls and goes on: it is shown with its reason, and recorded once each time.
async fn stands_still_and_goes_on(w: &mut World, host: usize) {
    full(w, host);
    w.run(40).await;
    let view = w.view(host).await.unwrap();
    assert_eq!(view.power, PowerState::Stalled);
    assert_eq!(view.power_note.unwrap().reason, "no space left for disk sys");
    if let Some(replication) = view.replication {
        assert_eq!(replication.health, ReplicationHealth::Critical);
        let said = |n: &Finding| {
            n.text.contains("no space left for disk sys") && n.hint == Some(hint::Guest::CureAndResume.into())
        };
        assert!(
            replication.health_notes.iter().any(said),
            "{:?}",
            replication.health_notes
        );
    }
    assert_eq!(events(w, host, "the guest is stalled: no space left").len(), 1);
    w.shared.state().hosts[host].processes.get_mut(&VM).unwrap().stall = None;
    w.act(host, start_vm()).await.unwrap().unwrap();
    w.run(20).await;
    assert_eq!(w.view(host).await.unwrap().power, PowerState::Running);
    assert_eq!(events(w, host, "the guest is no longer stalled").len(), 1);
}

#[test]
fn a_guest_that_stands_still_is_shown_replicated_or_not() {
    for replicated in [false, true] {
        simulate(5, async |w| {
            if replicated {
                replicating(w).await;
            }
            stands_still_and_goes_on(w, PRIMARY).await;
        });
    }
}

#[test]
fn a_guest_that_stands_still_is_shown_where_it_is_failed_over() {
    simulate(6, async |w| {
        replicating(w).await;
        w.run(30).await;
        w.cut(true);
        assert_eq!(
            job(w, REPLICA, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        stands_still_and_goes_on(w, REPLICA).await;
    });
}
