//! The machine around the disks travels unchanged, is told again when it changes, and its replica's host says beforehand
//! what would keep it from starting there.

use bytes::Bytes;
use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_model::{
    Firmware, Hardware, JobState, Machine, NicBackend, NicSpec, OwnHardware, ReplicationHealth as Health,
    ReplicationState as State, VmSpec,
};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, Steps, enable, eventually, failover, flows, healthy, job, replicating, replication,
    simulate, start_copy, state,
};
use lifeboat_sim::{SYS_BYTES, VM, World};

fn uefi() -> Firmware {
    Firmware::Uefi {
        code: "/fw/code.fd".into(),
        vars: Some("/vm/vars.fd".into()),
    }
}

/// Changes the VM's file, which the daemon reads when it starts.
async fn described(w: &World, change: impl FnOnce(&mut VmSpec)) {
    change(&mut w.shared.state().hosts[PRIMARY].local[0]);
    w.restart(PRIMARY).await;
}

fn hardware(spec: &mut VmSpec) -> &mut OwnHardware {
    let Hardware::Own(hardware) = &mut spec.hardware;
    hardware
}

fn local(w: &World) -> VmSpec {
    w.shared.state().hosts[PRIMARY].local[0].clone()
}

/// The VM as its replica's host may know it.
fn known(w: &World) -> VmSpec {
    Machine::from(local(w)).into()
}

fn variables(w: &World, to: &'static str) {
    w.shared.state().hosts[PRIMARY]
        .vars
        .insert(VM, Bytes::from_static(to.as_bytes()));
}

fn kept(w: &World) -> Option<Bytes> {
    w.shared.state().hosts[REPLICA].replicas[&VM].vars.clone()
}

#[test]
fn the_identity_of_the_machine_arrives_unchanged() {
    simulate(1, async |w| {
        described(w, |spec| {
            let own = hardware(spec);
            (own.machine, own.cpu) = ("pc-q35-7.2".into(), "Skylake-Server-v4".into());
            own.firmware = uefi();
            (spec.memory_mib, spec.cpus, spec.guest_agent) = (1024, 3, false);
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
        assert_eq!(w.recorded(REPLICA).unwrap().spec, want);
        w.cut(true);
        w.run(5).await;
        assert_eq!(
            job(w, REPLICA, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        assert_eq!(w.shared.state().hosts[REPLICA].processes[&VM].spec, Some(want));
    });
}

#[test]
fn a_changed_description_reaches_the_replica_before_its_next_data() {
    simulate(2, async |w| {
        replicating(w).await;
        described(w, |spec| (spec.memory_mib, spec.cpus) = (2048, 4)).await;
        let before = w.recorded(REPLICA).unwrap().position.sequence();
        eventually(w, "a cycle", |w| {
            w.recorded(PRIMARY).unwrap().position.sequence() > before
        })
        .await;
        assert_eq!(w.recorded(REPLICA).unwrap().spec, known(w));
        assert_eq!(w.recorded(PRIMARY).unwrap().spec, local(w));
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn firmware_variables_travel_with_the_offer_and_when_they_change() {
    simulate(3, async |w| {
        described(w, |spec| hardware(spec).firmware = uefi()).await;
        variables(w, "as installed");
        replicating(w).await;
        assert_eq!(kept(w).unwrap(), "as installed");
        variables(w, "another boot entry");
        w.run(130).await;
        assert_eq!(kept(w).unwrap(), "another boot entry");
        w.cut(true);
        w.run(5).await;
        assert_eq!(
            job(w, REPLICA, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        let s = w.shared.state();
        let (branch, vars) = s.hosts[REPLICA].replicas[&VM].branch_vars.iter().next().unwrap();
        assert_eq!(vars, "another boot entry");
        let started = s.hosts[REPLICA].processes[&VM].vars.clone().unwrap();
        assert!(started.contains(&branch.to_string()), "{started}");
    });
}

#[test]
fn paths_of_the_primary_that_an_older_release_recorded_are_forgotten() {
    simulate(7, async |w| {
        described(w, |spec| hardware(spec).firmware = uefi()).await;
        replicating(w).await;
        w.stop(REPLICA).await;
        let described = local(w);
        for rel in &mut w.shared.state().hosts[REPLICA].catalog.relationships {
            rel.spec = described.clone();
        }
        w.boot(REPLICA).await;
        w.cut(true);
        w.run(5).await;
        assert_eq!(
            job(w, REPLICA, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        let want = known(w);
        assert_eq!(w.shared.state().hosts[REPLICA].processes[&VM].spec, Some(want));
    });
}

#[test]
fn what_the_replica_host_lacks_is_reported_until_it_is_there() {
    simulate(4, async |w| {
        w.shared.state().hosts[REPLICA].missing = vec!["no firmware /fw/code.fd".into()];
        w.insist(PRIMARY, enable()).await.unwrap();
        assert_eq!(
            replication(w, PRIMARY).await.preflight,
            ["no firmware /fw/code.fd"]
        );
        w.insist(PRIMARY, start_copy()).await.unwrap();
        eventually(w, "replication", |w| flows(w, PRIMARY, REPLICA)).await;
        let view = replication(w, PRIMARY).await;
        assert_eq!(view.preflight, ["no firmware /fw/code.fd"]);
        assert_eq!(view.health, Health::Warning);
        assert!(
            view.health_notes.iter().any(|n| n.text.contains("/fw/code.fd")),
            "{:?}",
            view.health_notes
        );
        w.shared.state().hosts[REPLICA].missing.clear();
        w.run(130).await;
        let view = replication(w, PRIMARY).await;
        assert!(view.preflight.is_empty());
        assert_eq!(view.health, Health::Ok, "{:?}", view.health_notes);
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn a_changed_description_reaches_a_replica_that_was_away() {
    simulate(5, async |w| {
        replicating(w).await;
        w.cut(true);
        described(w, |spec| spec.cpus = 7).await;
        w.run(100).await;
        assert_ne!(w.recorded(REPLICA).unwrap().spec.cpus, 7);
        w.cut(false);
        healthy(w, PRIMARY, REPLICA).await;
        assert_eq!(w.recorded(REPLICA).unwrap().spec.cpus, 7);
    });
}

#[test]
fn a_new_name_is_the_replica_s_name_too() {
    simulate(6, async |w| {
        replicating(w).await;
        described(w, |spec| spec.name = "shop".into()).await;
        w.run(30).await;
        let vm = lifeboat_engine::action::VmRef::Text("shop".into());
        for host in [PRIMARY, REPLICA] {
            w.insist(host, Action::ShowVm { vm: vm.clone() }).await.unwrap();
            let old = w.act(host, Action::ShowVm { vm: World::vm() }).await.unwrap();
            assert!(old.is_err(), "{old:?}");
        }
        w.check(REPLICA).unwrap();
    });
}

/// Every call of a port around an update fails once and crashes once, on either host; the replica knows in the end.
#[test]
fn every_step_of_an_update() {
    let steps = Steps {
        bytes: SYS_BYTES,
        ..Steps::of(&"an update")
    };
    steps.each_fails_once(
        async |w| replicating(w).await,
        async |w, ()| {
            variables(w, "vars");
            described(w, |spec| (hardware(spec).firmware, spec.cpus) = (uefi(), 5)).await;
            w.run(20).await;
        },
        async |w, ()| {
            w.run(120).await;
            assert_eq!(w.recorded(REPLICA).unwrap().spec, known(w));
            assert_eq!(kept(w).as_deref(), Some(&b"vars"[..]));
            assert_eq!(state(w, PRIMARY), State::Replicating);
            w.check(REPLICA).unwrap();
        },
    );
}
