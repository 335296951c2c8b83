//! Addresses after a failover: what guests are told, when, and that nothing else ever waits for it.

use lifeboat_engine::action::{Action, PointSelector, VmRef};
use lifeboat_engine::ports::hypervisor::GuestOs;
use lifeboat_engine::records::Addressing;
use lifeboat_model::{
    JobState, NicBackend, NicFailover, NicSpec, ReplicationHealth as Health, ReplicationState as State, VmId,
};
use lifeboat_sim::harness::{
    A, B, Steps, commit, eventually, failover, healthy, job, planned, refused, replicating, revert, simulate,
    start_vm, state, stop_test, stop_vm,
};
use lifeboat_sim::{SYS_BYTES, VM, World};

const MAC: &str = "52:54:00:00:00:01";

fn tap(name: &str) -> NicBackend {
    NicBackend::Tap { ifname: name.into() }
}

fn card() -> NicFailover {
    NicFailover {
        mac: MAC.into(),
        addresses: vec!["10.9.0.5/24".into()],
        gateways: vec!["10.9.0.1".parse().unwrap()],
        dns: vec!["10.9.0.53".parse().unwrap()],
        backend: Some(tap("dr0")),
        test_backend: Some(tap("lab0")),
        ..NicFailover::default()
    }
}

fn set(cards: Vec<NicFailover>) -> Action {
    Action::SetFailoverNetwork {
        vm: World::vm(),
        cards,
    }
}

async fn begun(w: &mut World) {
    let nic = NicSpec {
        mac: MAC.into(),
        backend: tap("lan0"),
    };
    w.shared.state().hosts[A].local[0].nics = vec![nic];
    w.restart(A).await;
    replicating(w).await;
    w.run(20).await;
    w.insist(B, set(vec![card()])).await.unwrap();
}

/// Programs that ran in a guest on the replica's host, as text.
fn ran(w: &World, vm: VmId) -> Vec<String> {
    let s = w.shared.state();
    let here = s.ran.iter().filter(|r| r.host == 1 && r.vm == vm);
    here.map(|r| r.command.join(" ")).collect()
}

fn addressing(w: &World) -> Addressing {
    w.recorded(B).unwrap().addressing
}

fn events(w: &World, word: &str) -> usize {
    w.shared.state().hosts[B]
        .events
        .iter()
        .filter(|e| e.message.contains(word))
        .count()
}

fn backends(w: &World, vm: VmId) -> Vec<NicBackend> {
    let s = w.shared.state();
    let spec = s.hosts[B].processes[&vm].spec.as_ref().unwrap();
    spec.nics.iter().map(|n| n.backend.clone()).collect()
}

async fn failed_over(w: &mut World) {
    w.cut(true);
    w.run(5).await;
    assert_eq!(
        job(w, B, failover(PointSelector::Latest)).await.unwrap(),
        JobState::Completed
    );
}

#[test]
fn a_failed_over_guest_is_connected_and_told_its_addresses() {
    simulate(1, async |w| {
        begun(w).await;
        failed_over(w).await;
        eventually(w, "addresses", |w| addressing(w) == Addressing::None).await;
        assert_eq!(backends(w, VM), [tap("dr0")]);
        let told = ran(w, VM);
        assert_eq!(told.len(), 2, "the card and the resolver: {told:?}");
        assert!(
            told[0].ends_with("52:54:00:00:00:01 static address 10.9.0.5/24 gateway 10.9.0.1 dns 10.9.0.53")
        );
        assert_eq!(events(w, "has its addresses"), 1);
        let s = w.shared.state();
        let seed = &s.hosts[B].processes[&VM].seed;
        let network = seed.iter().find(|(name, _)| name == "network-config").unwrap();
        assert!(network.1.contains("10.9.0.5/24"), "{network:?}");
        let branch = s.hosts[B].replicas[&VM].branches.keys().next().unwrap();
        assert!(
            seed[0].1.contains(&branch.to_string()),
            "a new instance for each failover: {seed:?}"
        );
    });
}

#[test]
fn without_settings_the_guest_gets_no_addresses_and_no_tap() {
    simulate(2, async |w| {
        begun(w).await;
        w.insist(B, set(Vec::new())).await.unwrap();
        failed_over(w).await;
        w.run(30).await;
        assert_eq!(backends(w, VM), [NicBackend::None]);
        assert!(ran(w, VM).is_empty());
        assert!(w.shared.state().hosts[B].processes[&VM].seed.is_empty());
    });
}

#[test]
fn a_windows_guest_gets_its_addresses_by_powershell() {
    simulate(3, async |w| {
        begun(w).await;
        w.shared.state().agent = Some(GuestOs::Windows);
        failed_over(w).await;
        eventually(w, "addresses", |w| addressing(w) == Addressing::None).await;
        let told = ran(w, VM);
        assert!(
            told.len() == 1 && told[0].starts_with("powershell.exe"),
            "{told:?}"
        );
        assert!(told[0].ends_with("'52-54-00-00-00-01' 'static' '10.9.0.5/24' '10.9.0.1' '10.9.0.53'"));
    });
}

#[test]
fn settings_are_checked_and_kept_on_both_sides() {
    simulate(4, async |w| {
        begun(w).await;
        let other = NicFailover {
            mac: "52:54:00:00:00:09".into(),
            ..card()
        };
        for host in [A, B] {
            let e = refused(w, host, set(vec![other.clone()])).await;
            assert_eq!(e.code.number(), 32773, "{e}");
            assert!(e.message.contains("52:54:00:00:00:09") && e.hint.is_some(), "{e}");
        }
        w.insist(A, set(vec![card()])).await.unwrap();
        w.restart(A).await;
        w.restart(B).await;
        for host in [A, B] {
            assert_eq!(w.view(host).await.unwrap().replication.unwrap().network, [card()]);
        }
        // What replication tells the replica of the machine leaves its own settings alone.
        w.run(200).await;
        assert_eq!(w.recorded(B).unwrap().network, [card()]);
        healthy(w, A, B).await;
    });
}

#[test]
fn a_silent_agent_delays_nothing_and_is_reported() {
    simulate(5, async |w| {
        begun(w).await;
        w.shared.state().agent = None;
        failed_over(w).await;
        assert_eq!(state(w, B), State::Recovered);
        w.run(200).await;
        assert_eq!(addressing(w), Addressing::Due);
        w.run(120).await;
        assert!(matches!(addressing(w), Addressing::Failed { .. }));
        assert_eq!(events(w, "not given its addresses"), 1);
        let shown = w.view(B).await.unwrap().replication.unwrap();
        assert!(shown.health >= Health::Warning);
        assert!(
            shown
                .health_notes
                .iter()
                .any(|n| n.text.contains("not given its addresses")),
            "{shown:?}"
        );
        // The next start of the VM tries again.
        w.shared.state().agent = Some(GuestOs::Linux);
        w.insist(B, stop_vm(true)).await.unwrap();
        w.insist(B, start_vm()).await.unwrap();
        eventually(w, "addresses", |w| {
            addressing(w) == Addressing::None && !ran(w, VM).is_empty()
        })
        .await;
        // And nothing of it is left after a revert.
        assert_eq!(job(w, B, revert()).await.unwrap(), JobState::Completed);
        w.cut(false);
        healthy(w, A, B).await;
    });
}

#[test]
fn failed_guest_commands_are_reported_and_fail_nothing_else() {
    simulate(6, async |w| {
        begun(w).await;
        w.shared.state().exit_code = 3;
        failed_over(w).await;
        eventually(w, "the end", |w| {
            matches!(addressing(w), Addressing::Failed { .. })
        })
        .await;
        assert_eq!(state(w, B), State::Recovered);
        assert!(ran(w, VM).len() > 1, "it is tried more than once");
        let Addressing::Failed { why } = addressing(w) else {
            unreachable!()
        };
        assert!(why.contains("code 3"), "{why}");
        assert_eq!(job(w, B, revert()).await.unwrap(), JobState::Completed);
        assert_eq!(addressing(w), Addressing::None);
        let notes = w.view(B).await.unwrap().replication.unwrap().health_notes;
        assert!(!notes.iter().any(|n| n.text.contains("addresses")), "{notes:?}");
    });
}

#[test]
fn waiting_for_a_guest_ends_with_a_revert() {
    simulate(7, async |w| {
        begun(w).await;
        w.shared.state().agent = None;
        failed_over(w).await;
        w.run(20).await;
        assert_eq!(job(w, B, revert()).await.unwrap(), JobState::Completed);
        w.shared.state().agent = Some(GuestOs::Linux);
        w.run(600).await;
        assert!(ran(w, VM).is_empty());
        assert_eq!(events(w, "addresses"), 0);
    });
}

#[test]
fn addresses_are_given_once_although_the_daemon_restarts() {
    simulate(8, async |w| {
        begun(w).await;
        w.shared.state().agent = None;
        failed_over(w).await;
        for _ in 0..5 {
            w.run(100).await;
            w.restart(B).await;
        }
        assert_eq!(addressing(w), Addressing::Due);
        w.shared.state().agent = Some(GuestOs::Linux);
        eventually(w, "addresses", |w| addressing(w) == Addressing::None).await;
        w.restart(B).await;
        w.run(60).await;
        assert_eq!(ran(w, VM).len(), 2);
        assert_eq!(job(w, B, commit()).await.unwrap(), JobState::Completed);
        w.run(60).await;
        assert_eq!(ran(w, VM).len(), 2);
    });
}

#[test]
fn after_a_planned_failover_the_new_primary_s_guest_is_told() {
    simulate(9, async |w| {
        begun(w).await;
        w.insist(A, planned(true)).await.unwrap();
        eventually(w, "the VM starts there", |w| w.runs(B)).await;
        eventually(w, "addresses", |w| ran(w, VM).len() == 2).await;
        assert_eq!(backends(w, VM), [tap("dr0")]);
        healthy(w, B, A).await;
        assert_eq!(addressing(w), Addressing::None);
    });
}

/// Cards are connected as this host knows them when the VM comes home, whichever way.
#[test]
fn a_vm_that_comes_home_is_connected_as_it_was() {
    let at_home = |w: &World| {
        let s = w.shared.state();
        let spec = s.hosts[A].processes[&VM].spec.as_ref().unwrap();
        spec.nics.iter().map(|n| n.backend.clone()).collect::<Vec<_>>()
    };
    for by_plan in [true, false] {
        simulate(12, async |w| {
            begun(w).await;
            w.insist(A, planned(true)).await.unwrap();
            eventually(w, "the VM starts there", |w| w.runs(B)).await;
            healthy(w, B, A).await;
            if by_plan {
                w.insist(B, planned(true)).await.unwrap();
                eventually(w, "the VM starts here", |w| w.runs(A)).await;
            } else {
                w.cut(true);
                w.run(5).await;
                w.guest_off(B);
                assert_eq!(
                    job(w, A, failover(PointSelector::Latest)).await.unwrap(),
                    JobState::Completed
                );
            }
            assert_eq!(at_home(w), [tap("lan0")], "by plan: {by_plan}");
        });
    }
}

#[test]
fn a_test_vm_is_told_in_the_network_of_tests_only() {
    simulate(10, async |w| {
        begun(w).await;
        let (vm, point) = (World::vm(), PointSelector::Latest);
        assert_eq!(
            job(
                w,
                B,
                Action::StartTest {
                    vm,
                    point,
                    start: true
                }
            )
            .await
            .unwrap(),
            JobState::Completed
        );
        let test = w.recorded(B).unwrap().replica().unwrap().test.clone().unwrap().vm;
        eventually(w, "addresses", |w| ran(w, test).len() == 2).await;
        assert_eq!(backends(w, test), [tap("lab0")]);
        let named = VmRef::Text("web - Test".into());
        w.insist(
            B,
            Action::StopVm {
                vm: named,
                force: true,
            },
        )
        .await
        .unwrap();
        assert_eq!(job(w, B, stop_test()).await.unwrap(), JobState::Completed);
        assert!(ran(w, VM).is_empty());
        healthy(w, A, B).await;
    });
}

/// Every call of a port during a failover with addresses fails once and crashes once; the guest has them in the end.
#[test]
fn every_step_on_the_way_to_an_address() {
    let steps = Steps {
        bytes: SYS_BYTES,
        failing: &[B],
        ..Steps::of(&"a failover with addresses")
    };
    steps.each_fails_once(
        async |w| {
            begun(w).await;
            w.cut(true);
            w.run(5).await;
        },
        async |w, ()| {
            for _ in 0..10 {
                let _ = w.act(B, failover(PointSelector::Latest)).await;
                w.run(20).await;
                if state(w, B) == State::Recovered {
                    break;
                }
            }
        },
        async |w, ()| {
            if !w.runs(B) {
                w.insist(B, start_vm()).await.unwrap();
            }
            w.run(60).await;
            assert!(ran(w, VM).len() >= 2, "{:?}", w.recorded(B));
            assert_eq!(addressing(w), Addressing::None);
        },
    );
}
