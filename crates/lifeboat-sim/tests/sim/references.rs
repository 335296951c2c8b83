//! What a reference means: a name that several VMs have, a file that several VMs have, a host name in several cases.

use lifeboat_engine::action::{Action, Answer, VmRef};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::query::Query;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::{AuthorizationEntry, VmId, VmSpec};
use lifeboat_sim::harness::{PRIMARY, REPLICA, entry, refused, replicating, simulate};
use lifeboat_sim::{Image, VM, World};
use uuid::Uuid;

/// Larger than the world's VM, so that the smaller UUID is the replica's.
const OTHER: VmId = VmId(Uuid::from_u128(0xffff_2f2e_3a63_4a0e_9a53_0d9f_5f6f_0002));

/// Describes another VM on a host, made from the world's, and starts the daemon again so that it is read.
async fn describe(w: &World, host: usize, change: impl FnOnce(&mut VmSpec)) {
    let mut spec = w.shared.state().hosts[PRIMARY].local[0].clone();
    spec.uuid = OTHER;
    for disk in &mut spec.disks {
        disk.path = format!("/other/{}.qcow2", disk.id);
    }
    change(&mut spec);
    {
        let mut s = w.shared.state();
        for disk in &spec.disks {
            s.hosts[host]
                .images
                .entry(disk.path.clone())
                .or_insert_with(|| Image::new(16 << 20));
        }
        s.hosts[host].local.push(spec);
    }
    w.restart(host).await;
}

fn start(vm: &str) -> Action {
    Action::StartVm {
        vm: VmRef::Text(vm.into()),
        force: false,
    }
}

/// A program that names a VM by its id means no VM that is merely called so; a person may.
#[test]
fn an_id_is_no_name() {
    const NOWHERE: VmId = VmId(Uuid::from_u128(77));
    simulate(2, async |w| {
        describe(w, REPLICA, |spec| spec.name = NOWHERE.to_string()).await;
        let text = VmRef::Text(NOWHERE.to_string());
        let id = VmRef::Id(NOWHERE);
        let called = w.query(REPLICA, Query::show_vm(text.clone())).await;
        assert_eq!(called.unwrap().unwrap().spec.uuid, OTHER);
        let e = refused(w, REPLICA, Action::ShowVm { vm: id.clone() }).await;
        assert_eq!(e.code, ReturnCode::FileNotFound);
        assert!(e.message.contains(&NOWHERE.to_string()), "{e}");
        // They are written alike, so that what was recorded is the same when it is read.
        assert_eq!(id, text);
        assert_eq!(serde_json::to_value(&id).unwrap(), NOWHERE.to_string());
        assert_ne!(VmRef::Id(OTHER), text);
    });
}

#[test]
fn a_name_of_two_vms_is_refused_with_both_and_a_uuid_means_one() {
    simulate(1, async |w| {
        replicating(w).await;
        describe(w, REPLICA, |_| {}).await;
        let by_name = VmRef::Text("web".into());
        for action in [
            Action::ShowVm { vm: by_name.clone() },
            start("web"),
            Action::RemoveReplication {
                vm: by_name.clone(),
                relationship: Default::default(),
            },
            Action::ListPoints {
                vm: by_name.clone(),
                page: Paging::FIRST,
            },
            Action::ListEvents {
                vm: Some(by_name.clone()),
                limit: 5,
                after: None,
            },
        ] {
            let e = refused(w, REPLICA, action).await;
            assert_eq!(e.code, ReturnCode::InvalidParameter, "{e:?}");
            for part in [
                &VM.to_string(),
                &OTHER.to_string(),
                "(replica, Replicating)",
                "(a VM of this host, not replicated)",
            ] {
                assert!(e.message.contains(part), "{} should name {part}", e.message);
            }
            assert_eq!(e.hint, Some(hint::Again::ByUuid.into()));
        }
        for (vm, points) in [(VM, true), (OTHER, false)] {
            let vm = VmRef::Text(vm.to_string());
            let Some(Ok(Answer::Vm(view))) = w.act(REPLICA, Action::ShowVm { vm: vm.clone() }).await else {
                panic!("{vm:?} is not shown");
            };
            assert_eq!(view.spec.uuid.to_string(), vm.to_string());
            let listed = w
                .act(
                    REPLICA,
                    Action::ListPoints {
                        vm,
                        page: Paging::FIRST,
                    },
                )
                .await
                .unwrap();
            assert_eq!(listed.is_ok(), points, "{listed:?}");
        }
        // On the other host the name has one meaning.
        assert!(w.view(PRIMARY).await.is_some());
    });
}

#[test]
fn a_name_is_free_again_when_its_vm_is_gone() {
    simulate(2, async |w| {
        replicating(w).await;
        describe(w, REPLICA, |_| {}).await;
        let vm = VmRef::Text(VM.to_string());
        w.act(
            REPLICA,
            Action::RemoveReplication {
                vm: vm.clone(),
                relationship: Default::default(),
            },
        )
        .await
        .unwrap()
        .unwrap();
        let Some(Ok(Answer::Vm(view))) = w
            .act(
                REPLICA,
                Action::ShowVm {
                    vm: VmRef::Text("web".into()),
                },
            )
            .await
        else {
            panic!("the name means the VM that is left");
        };
        assert_eq!(view.spec.uuid, OTHER);
        let e = refused(w, REPLICA, Action::ShowVm { vm }).await;
        assert_eq!(e.code, ReturnCode::FileNotFound);
        assert!(e.message.starts_with("no VM "), "{}", e.message);
    });
}

#[test]
fn one_file_in_two_vms_is_refused_by_whatever_path() {
    simulate(3, async |w| {
        {
            let mut s = w.shared.state();
            let link = ("/link.qcow2".to_owned(), "/vm/data.qcow2".to_owned());
            s.hosts[PRIMARY].links.extend([link]);
        }
        describe(w, PRIMARY, |spec| {
            spec.name = "db".into();
            spec.disks[1].path = "/link.qcow2".into();
        })
        .await;
        // The description read first is no better than the other.
        let mut enable = World::settings();
        enable.disks.clear();
        let enable = Action::EnableReplication {
            vm: VmRef::Text("db".into()),
            settings: enable,
        };
        w.guest_off(PRIMARY);
        w.run(1).await;
        for action in [start("db"), start("web"), enable] {
            let e = refused(w, PRIMARY, action).await;
            assert_eq!(e.code, ReturnCode::InUse, "{e:?}");
            for part in ["\"db\"", "\"web\"", "/link.qcow2", "/vm/data.qcow2", "disk data"] {
                assert!(e.message.contains(part), "{} should name {part}", e.message);
            }
        }
    });
}

#[test]
fn one_file_twice_in_one_vm_is_refused() {
    simulate(4, async |w| {
        w.shared.state().hosts[PRIMARY]
            .links
            .extend([("/twice".to_owned(), "/other/sys.qcow2".to_owned())]);
        describe(w, PRIMARY, |spec| {
            spec.name = "db".into();
            spec.disks[1].path = "/twice".into();
        })
        .await;
        let e = refused(w, PRIMARY, start("db")).await;
        assert!(
            e.message.contains("disk sys") && e.message.contains("disk data"),
            "{}",
            e.message
        );
        assert!(
            w.act(PRIMARY, Action::ShowVm { vm: World::vm() })
                .await
                .unwrap()
                .is_ok()
        );
    });
}

async fn entries(w: &World) -> Vec<AuthorizationEntry> {
    match w.act(REPLICA, Action::ListAuthorization(Paging::FIRST)).await {
        Some(Ok(Answer::Entries(entries))) => entries.items,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_host_has_one_entry_in_whatever_case_it_is_written() {
    simulate(5, async |w| {
        let add = |primary: &str, location: &str| Action::AddAuthorization {
            entry: entry(primary, location),
        };
        for (primary, location) in [
            ("alpha.test", "/one"),
            ("ALPHA.test", "/two"),
            ("Alpha.Test.", "/three"),
        ] {
            w.act(REPLICA, add(primary, location)).await.unwrap().unwrap();
        }
        let of_alpha =
            |all: Vec<AuthorizationEntry>| all.into_iter().filter(|e| e.primary != "a").collect::<Vec<_>>();
        assert_eq!(of_alpha(entries(w).await), [entry("alpha.test", "/three")]);
        w.restart(REPLICA).await;
        assert_eq!(of_alpha(entries(w).await), [entry("alpha.test", "/three")]);
        let remove = Action::RemoveAuthorization {
            primary: "ALPHA.TEST".into(),
        };
        w.act(REPLICA, remove).await.unwrap().unwrap();
        assert_eq!(of_alpha(entries(w).await), []);
    });
}

#[test]
fn two_old_entries_for_one_host_are_merged_and_reported() {
    simulate(6, async |w| {
        let old = [entry("beta.test", "/one"), entry("BETA.test", "/two")];
        w.shared.state().hosts[REPLICA].catalog.entries.extend(old);
        w.restart(REPLICA).await;
        let seen: Vec<_> = entries(w)
            .await
            .into_iter()
            .filter(|e| e.primary != "a")
            .collect();
        assert_eq!(seen, [entry("BETA.test", "/two")], "the one that was in force");
        let events = w.shared.state().hosts[REPLICA].events.clone();
        assert!(
            events
                .iter()
                .any(|e| e.message.contains("/one") && e.message.contains("/two")),
            "{events:?}"
        );
        let again = Action::AddAuthorization {
            entry: entry("beta.test", "/two"),
        };
        w.act(REPLICA, again).await.unwrap().unwrap();
        let stored = w.shared.state().hosts[REPLICA].catalog.entries.clone();
        assert_eq!(
            stored.iter().filter(|e| e.same_primary("beta.test")).count(),
            1,
            "{stored:?}"
        );
    });
}

#[test]
fn a_location_that_is_not_there_is_refused_with_the_way_out() {
    simulate(7, async |w| {
        w.shared.state().hosts[REPLICA].not_there.insert("/gone".into());
        let add = Action::AddAuthorization {
            entry: entry("alpha.test", "/gone"),
        };
        let e = refused(w, REPLICA, add).await;
        assert_eq!(e.code, ReturnCode::InvalidParameter);
        assert!(e.message.contains("mkdir -p /gone"), "{}", e.message);
        assert_eq!(entries(w).await.len(), 1);
    });
}
