//! The machine around the disks travels unchanged, is told again when it changes, and its replica's host says beforehand
//! what would keep it from starting there.

use crate::common::{eventually, failover, healthy, job, replicating, simulate, state};
use bytes::Bytes;
use lifeboat_engine::action::{Action, PointSelector, ReplicationView};
use lifeboat_model::{
    Firmware, JobState, Machine, NicBackend, NicSpec, ReplicationHealth as Health, ReplicationState as State,
    VmSpec,
};
use lifeboat_sim::{Fault, VM, World};

fn uefi() -> Firmware {
    Firmware::Uefi {
        code: "/fw/code.fd".into(),
        vars: Some("/vm/vars.fd".into()),
    }
}

/// Changes the VM's file, which the daemon reads when it starts.
async fn described(w: &World, change: impl FnOnce(&mut VmSpec)) {
    change(&mut w.shared.state().hosts[0].local[0]);
    w.restart(0).await;
}

fn local(w: &World) -> VmSpec {
    w.shared.state().hosts[0].local[0].clone()
}

/// The VM as its replica's host may know it.
fn known(w: &World) -> VmSpec {
    Machine::from(local(w)).into()
}

fn variables(w: &World, to: &'static str) {
    w.shared.state().hosts[0]
        .vars
        .insert(VM, Bytes::from_static(to.as_bytes()));
}

fn kept(w: &World) -> Option<Bytes> {
    w.shared.state().hosts[1].replicas[&VM].vars.clone()
}

async fn shown(w: &World, host: usize) -> ReplicationView {
    w.view(host).await.unwrap().replication.unwrap()
}

#[test]
fn the_identity_of_the_machine_arrives_unchanged() {
    simulate(1, async |w| {
        described(w, |spec| {
            (spec.machine, spec.cpu) = ("pc-q35-7.2".into(), "Skylake-Server-v4".into());
            (spec.memory_mib, spec.cpus, spec.guest_agent) = (1024, 3, false);
            spec.firmware = uefi();
            spec.nics = vec![
                NicSpec {
                    mac: "52:54:00:AA:00:01".into(),
                    backend: NicBackend::Tap {
                        ifname: "lan0".into(),
                    },
                },
                NicSpec {
                    mac: "52:54:00:aa:00:02".into(),
                    backend: NicBackend::User,
                },
            ];
        })
        .await;
        replicating(w).await;
        let mut want = known(w);
        want.nics[0].backend = NicBackend::None;
        assert_eq!(w.recorded(1).unwrap().spec, want);
        w.cut(true);
        w.run(5).await;
        assert_eq!(
            job(w, 1, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        assert_eq!(w.shared.state().hosts[1].processes[&VM].spec, Some(want));
    });
}

#[test]
fn a_changed_description_reaches_the_replica_before_its_next_data() {
    simulate(2, async |w| {
        replicating(w).await;
        described(w, |spec| (spec.memory_mib, spec.cpus) = (2048, 4)).await;
        let before = w.recorded(1).unwrap().position.sequence();
        eventually(w, "a cycle", |w| {
            w.recorded(0).unwrap().position.sequence() > before
        })
        .await;
        assert_eq!(w.recorded(1).unwrap().spec, known(w));
        assert_eq!(w.recorded(0).unwrap().spec, local(w));
        healthy(w, 0, 1).await;
    });
}

#[test]
fn firmware_variables_travel_with_the_offer_and_when_they_change() {
    simulate(3, async |w| {
        described(w, |spec| spec.firmware = uefi()).await;
        variables(w, "as installed");
        replicating(w).await;
        assert_eq!(kept(w).unwrap(), "as installed");
        variables(w, "another boot entry");
        w.run(130).await;
        assert_eq!(kept(w).unwrap(), "another boot entry");
        w.cut(true);
        w.run(5).await;
        assert_eq!(
            job(w, 1, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        let s = w.shared.state();
        let (branch, vars) = s.hosts[1].replicas[&VM].branch_vars.iter().next().unwrap();
        assert_eq!(vars, "another boot entry");
        let started = s.hosts[1].processes[&VM].vars.clone().unwrap();
        assert!(started.contains(&branch.to_string()), "{started}");
    });
}

#[test]
fn paths_of_the_primary_that_an_older_release_recorded_are_forgotten() {
    simulate(7, async |w| {
        described(w, |spec| spec.firmware = uefi()).await;
        replicating(w).await;
        w.stop(1).await;
        let described = local(w);
        for rel in &mut w.shared.state().hosts[1].catalog.relationships {
            rel.spec = described.clone();
        }
        w.boot(1).await;
        w.cut(true);
        w.run(5).await;
        assert_eq!(
            job(w, 1, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        let want = known(w);
        assert_eq!(w.shared.state().hosts[1].processes[&VM].spec, Some(want));
    });
}

#[test]
fn what_the_replica_s_host_lacks_is_told_when_enabled_and_until_it_is_there() {
    simulate(4, async |w| {
        w.shared.state().hosts[1].missing = vec!["no firmware /fw/code.fd".into()];
        let (vm, settings) = (World::vm(), World::settings());
        w.insist(0, Action::EnableReplication { vm, settings })
            .await
            .unwrap();
        assert_eq!(shown(w, 0).await.preflight, ["no firmware /fw/code.fd"]);
        w.insist(0, crate::common::start_copy()).await.unwrap();
        eventually(w, "replication", |w| crate::common::flows(w, 0, 1)).await;
        let view = shown(w, 0).await;
        assert_eq!(view.preflight, ["no firmware /fw/code.fd"]);
        assert_eq!(view.health, Health::Warning);
        assert!(
            view.health_notes.iter().any(|n| n.contains("/fw/code.fd")),
            "{:?}",
            view.health_notes
        );
        w.shared.state().hosts[1].missing.clear();
        w.run(130).await;
        let view = shown(w, 0).await;
        assert!(view.preflight.is_empty());
        assert_eq!(view.health, Health::Ok, "{:?}", view.health_notes);
        healthy(w, 0, 1).await;
    });
}

#[test]
fn a_replica_that_is_away_is_told_later_and_nothing_waits_for_it() {
    simulate(5, async |w| {
        replicating(w).await;
        w.cut(true);
        described(w, |spec| spec.cpus = 7).await;
        w.run(100).await;
        assert_ne!(w.recorded(1).unwrap().spec.cpus, 7);
        w.cut(false);
        healthy(w, 0, 1).await;
        assert_eq!(w.recorded(1).unwrap().spec.cpus, 7);
    });
}

#[test]
fn a_new_name_is_the_replica_s_name_too() {
    simulate(6, async |w| {
        replicating(w).await;
        described(w, |spec| spec.name = "shop".into()).await;
        w.run(30).await;
        let vm = lifeboat_engine::action::VmRef::Text("shop".into());
        for host in 0..2 {
            w.insist(host, Action::ShowVm { vm: vm.clone() }).await.unwrap();
            let old = w.act(host, Action::ShowVm { vm: World::vm() }).await.unwrap();
            assert!(old.is_err(), "{old:?}");
        }
        w.check(1).unwrap();
    });
}

/// Every call of a port around an update fails once and crashes once, on either host; the replica knows in the end.
#[test]
fn every_step_of_an_update() {
    let changed = |spec: &mut VmSpec| {
        spec.firmware = uefi();
        spec.cpus = 5;
    };
    for host in 0..2 {
        let calls = simulate(3, async |w| {
            replicating(w).await;
            let before = w.gate(host).calls();
            described(w, changed).await;
            variables(w, "vars");
            w.run(20).await;
            w.gate(host).calls() - before
        });
        for n in 1..=calls {
            for fault in Fault::ALL {
                simulate(3, async |w| {
                    replicating(w).await;
                    variables(w, "vars");
                    w.gate(host).arm(n, fault);
                    described(w, changed).await;
                    w.run(150).await;
                    let hit = w.gate(host).disarm();
                    let told = format!("host {host} step {n} {hit:?} {fault:?}");
                    assert_eq!(w.recorded(1).unwrap().spec, known(w), "{told}");
                    assert_eq!(kept(w).as_deref(), Some(&b"vars"[..]), "{told}");
                    assert_eq!(state(w, 0), State::Replicating, "{told}");
                    w.check(1).unwrap();
                });
            }
        }
    }
}
