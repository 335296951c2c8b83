//! The object manager's reads over real engines in the simulated world. What every instance must be, the checker knows by
//! the schema alone; what the main ones say is written out here from the world's own state.

mod checker;
mod points;
pub mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use checker::{sound, steady};
use futures_util::future::join_all;
use lifeboat_cim::{CimError, Instance, InstanceName, KeyValue, ObjectPath, Status, Value, wql};
use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_engine::point_guid;
use lifeboat_model::{NicBackend, NicFailover, Position, ReplicationSettings, ReplicationState as State};
use lifeboat_sim::harness::{PRIMARY, REPLICA, THIRD, THREE_HOSTS, TWO_HOSTS, completed, state};
use lifeboat_sim::{VM, World};
use lifeboat_wbem::cim::{ObjectManager, Relations, VIRTUALIZATION};
use world::{
    GUID, all, ask, by_id, drain, from, managed, manager, related, simulate_several, system, tested, vm,
};

const FOREIGN: &str = "11111111-2222-4333-8444-555555555555";

/// Classes that a host with a VM has instances of in any case.
const ALWAYS: &[&str] = &[
    "CIM_ElementCapabilities",
    "CIM_IndicationService",
    "CIM_IndicationServiceCapabilities",
    "CIM_Namespace",
    "CIM_NamespaceInManager",
    "CIM_ObjectManager",
    "Msvm_ComputerSystem",
    "Msvm_ElementConformsToProfile",
    "Msvm_ElementSettingData",
    "Msvm_EthernetPortAllocationSettingData",
    "Msvm_EthernetPortFailoverSettingDataComponent",
    "Msvm_FailoverNetworkAdapterSettingData",
    "Msvm_HostedDependency",
    "Msvm_HostedService",
    "Msvm_MemorySettingData",
    "Msvm_ProcessorSettingData",
    "Msvm_RegisteredProfile",
    "Msvm_ReplicationAuthorizationSettingData",
    "Msvm_ReplicationProvider",
    "Msvm_ReplicationService",
    "Msvm_ReplicationServiceSettingData",
    "Msvm_ReplicationSettingData",
    "Msvm_ResourceAllocationSettingData",
    "Msvm_ServiceAffectsElement",
    "Msvm_SettingsDefineState",
    "Msvm_StorageAllocationSettingData",
    "Msvm_SyntheticEthernetPortSettingData",
    "Msvm_VirtualSystemManagementService",
    "Msvm_VirtualSystemManagementServiceSettingData",
    "Msvm_VirtualSystemSettingData",
    "Msvm_VirtualSystemSettingDataComponent",
    "Msvm_VirtualSystemSnapshotService",
    "Win32_ComputerSystem",
    "Win32_ComputerSystemProcessor",
    "Win32_ComputerSystemProduct",
    "Win32_OperatingSystem",
    "Win32_Processor",
];
const RUNNING: &[&str] = &[
    "Msvm_HeartbeatComponent",
    "Msvm_KvpExchangeComponent",
    "Msvm_ShutdownComponent",
    "Msvm_SystemDevice",
];
const REPLICATED: &[&str] = &[
    "Msvm_ReplicationRelationship",
    "Msvm_SystemReplicationRelationship",
];
const POINTS: &[&str] = &["Msvm_MostCurrentSnapshotInBranch", "Msvm_SnapshotOfVirtualSystem"];
const JOBS: &[&str] = &[
    "Msvm_AffectedJobElement",
    "Msvm_ConcreteJob",
    "Msvm_OwningJobElement",
];

fn classes(lists: &[&[&str]]) -> BTreeSet<String> {
    lists.iter().copied().flatten().map(|c| (*c).to_owned()).collect()
}

// --- What is there ---------------------------------------------------------------------------------------------------

#[test]
fn every_instance_is_declared_named_found_and_linked() {
    simulate_several(41, TWO_HOSTS, async |w| {
        let plain = sound(&manager(w, PRIMARY)).await;
        assert_eq!(plain, classes(&[ALWAYS, RUNNING]));
        w.replicate().await;
        let primary = sound(&manager(w, PRIMARY)).await;
        assert_eq!(primary, classes(&[ALWAYS, RUNNING, REPLICATED, JOBS]));
        tested(w).await;
        let replica = sound(&manager(w, REPLICA)).await;
        let test = ["Msvm_ReplicaSystemDependency"];
        assert_eq!(replica, classes(&[ALWAYS, REPLICATED, POINTS, JOBS, &test]));
        completed(w, REPLICA, Action::StopTest { vm: World::vm() }).await;
        let failover = Action::InitiateFailover {
            vm: World::vm(),
            point: PointSelector::Latest,
            start: true,
            force: true,
        };
        completed(w, REPLICA, failover).await;
        let failed_over = sound(&manager(w, REPLICA)).await;
        let applied = ["Msvm_LastAppliedSnapshot"];
        assert_eq!(
            failed_over,
            classes(&[ALWAYS, RUNNING, REPLICATED, POINTS, JOBS, &applied])
        );
    });
}

fn number(instance: &Instance, property: &str) -> u64 {
    let value = instance.unsigned(property);
    value.unwrap_or_else(|| panic!("{}.{property} is no number: {instance:?}", instance.class))
}

fn text<'a>(instance: &'a Instance, property: &str) -> &'a str {
    let value = instance.text(property);
    value.unwrap_or_else(|| panic!("{}.{property} is no text: {instance:?}", instance.class))
}

#[test]
fn a_vm_that_is_not_replicated_has_settings_to_send_back() {
    simulate_several(42, TWO_HOSTS, async |w| {
        let m = manager(w, PRIMARY);
        let systems = all(&m, "Msvm_ComputerSystem").await;
        let names: BTreeSet<&str> = systems.iter().map(|s| text(s, "ElementName")).collect();
        assert_eq!(names, BTreeSet::from(["a", "vm2", "vm3", "vm4", "web"]));
        let host = m.get(VIRTUALIZATION, &system("a")).await.unwrap();
        assert_eq!(text(&host, "Description"), "Microsoft Hosting Computer System");
        let web = vm(&m).await;
        assert_eq!(text(&web, "Name"), GUID);
        assert_eq!(
            (text(&web, "Caption"), text(&web, "Description")),
            ("Virtual Machine", "Microsoft Virtual Machine")
        );
        let numbers = [
            "EnabledState",
            "ReplicationMode",
            "ReplicationState",
            "ReplicationHealth",
        ];
        assert_eq!(numbers.map(|p| number(&web, p)), [2, 0, 0, 0]);
        let settings = related(&m, system(GUID), "Msvm_ElementSettingData").await;
        let [settings] = settings.as_slice() else {
            panic!("{settings:?}");
        };
        assert_eq!(settings.class, "Msvm_ReplicationSettingData");
        assert_eq!(text(settings, "InstanceID"), format!("Microsoft:{GUID}\\HVR\\0"));
        assert_eq!(number(settings, "ReplicationInterval"), 300);
        assert_eq!(text(settings, "RecoveryConnectionPoint"), "");
        let disk = |id: &str| {
            Value::Text(format!(
                "\\\\a\\root\\virtualization\\v2:Msvm_StorageAllocationSettingData.InstanceID=\"Microsoft:{GUID}\\\\{id}\""
            ))
        };
        let disks = Value::Array(vec![disk("sys"), disk("data")]);
        assert_eq!(settings.get("IncludedDisks"), Some(&disks));
        assert!(all(&m, "Msvm_ReplicationRelationship").await.is_empty());
        w.guest_off(PRIMARY);
        w.run(5).await;
        assert_eq!(number(&vm(&m).await, "EnabledState"), 3);
        assert!(related(&m, system(GUID), "Msvm_SystemDevice").await.is_empty());
    });
}

#[test]
fn a_machine_has_the_parts_that_clients_expect() {
    simulate_several(43, TWO_HOSTS, async |w| {
        let m = manager(w, PRIMARY);
        let active = related(&m, system(GUID), "Msvm_SettingsDefineState").await;
        let [active] = active.as_slice() else {
            panic!("{active:?}");
        };
        assert_eq!(text(active, "InstanceID"), format!("Microsoft:{GUID}"));
        assert_eq!(
            text(active, "VirtualSystemType"),
            "Microsoft:Hyper-V:System:Realized"
        );
        let whole = by_id(
            "Msvm_VirtualSystemSettingData",
            &format!("microsoft:{}", GUID.to_lowercase()),
        );
        let parts = related(&m, whole, "Msvm_VirtualSystemSettingDataComponent").await;
        let of = |class: &str| parts.iter().filter(|p| p.class == class).collect::<Vec<_>>();
        assert_eq!(number(of("Msvm_MemorySettingData")[0], "VirtualQuantity"), 256);
        assert_eq!(number(of("Msvm_ProcessorSettingData")[0], "VirtualQuantity"), 1);
        let kinds: Vec<u64> = of("Msvm_ResourceAllocationSettingData")
            .iter()
            .map(|r| number(r, "ResourceType"))
            .collect();
        assert_eq!(kinds, [6, 17, 17], "a SCSI controller and two drives");
        let images = of("Msvm_StorageAllocationSettingData");
        let files: Vec<_> = images
            .iter()
            .map(|i| i.get("HostResource").unwrap().clone())
            .collect();
        let file = |path: &str| Value::from(vec![path]);
        assert_eq!(files, [file("/vm/sys.qcow2"), file("/vm/data.qcow2")]);
        // From an image to its drive and on to the controller, by the text of their paths.
        for (n, image) in images.iter().enumerate() {
            let drive = ObjectPath::parse(text(image, "Parent")).unwrap();
            let drive = m.get(VIRTUALIZATION, &drive.name).await.unwrap();
            assert_eq!(text(&drive, "AddressOnParent"), n.to_string());
            let controller = ObjectPath::parse(text(&drive, "Parent")).unwrap();
            let controller = m.get(VIRTUALIZATION, &controller.name).await.unwrap();
            assert_eq!(number(&controller, "ResourceType"), 6);
        }
        let cards = of("Msvm_SyntheticEthernetPortSettingData");
        let macs: Vec<_> = cards.iter().map(|c| text(c, "Address")).collect();
        assert_eq!(macs, ["525400AA0001", "525400AA0002"]);
        let connected: Vec<_> = of("Msvm_EthernetPortAllocationSettingData")
            .iter()
            .map(|c| (number(c, "EnabledState"), c.text("LastKnownSwitchName")))
            .collect();
        assert_eq!(connected, [(2, Some("lan0")), (3, None)]);
    });
}

/// virsh shows the number of the process as the VM's id, and `InstallDate` is how programs tell VMs from the host. A value
/// that is not known is null, never a zero.
#[test]
fn a_running_vm_says_since_when_and_as_which_process() {
    simulate_several(55, TWO_HOSTS, async |w| {
        w.replicate().await;
        w.run(90).await;
        let running = vm(&manager(w, PRIMARY)).await;
        assert!(number(&running, "OnTimeInMilliseconds") >= 90_000, "{running:?}");
        assert!(number(&running, "ProcessID") > 0);
        let began = running.get("TimeOfLastStateChange").cloned();
        assert!(matches!(began, Some(Value::DateTime(_))), "{began:?}");
        w.run(30).await;
        let later = vm(&manager(w, PRIMARY)).await;
        assert_eq!(
            later.get("TimeOfLastStateChange").cloned(),
            began,
            "it went on running"
        );
        let copy = vm(&manager(w, REPLICA)).await;
        assert_eq!(number(&copy, "OnTimeInMilliseconds"), 0, "a copy is off");
        assert_eq!(copy.get("ProcessID"), None);
        for known in ["InstallDate", "TimeOfLastConfigurationChange"] {
            assert!(
                matches!(copy.get(known), Some(Value::DateTime(_))),
                "{known}: {copy:?}"
            );
        }
    });
}

/// libvirt's driver reads the first text of `HostResource` of every disk it meets, also of a VM that is only a copy.
#[test]
fn a_disk_of_a_copy_has_the_file_it_is_in() {
    simulate_several(54, TWO_HOSTS, async |w| {
        w.replicate().await;
        let files = async |w: &World| {
            let m = manager(w, REPLICA);
            let images = all(&m, "Msvm_StorageAllocationSettingData").await;
            let file = |i: &Instance| match i.get("HostResource") {
                Some(Value::Array(files)) => format!("{files:?}"),
                other => panic!("{other:?}"),
            };
            images.iter().map(file).collect::<Vec<_>>()
        };
        let copy = files(w).await;
        assert!(
            copy[0].contains("/sys/head") && copy[1].contains("/data/head"),
            "{copy:?}"
        );
        let failover = Action::InitiateFailover {
            vm: World::vm(),
            point: PointSelector::Latest,
            start: true,
            force: true,
        };
        completed(w, REPLICA, failover).await;
        let branch = w.recorded(REPLICA).unwrap().failover().unwrap().branch;
        let running = files(w).await;
        assert_eq!(running.len(), 2);
        assert!(
            running.iter().all(|f| f.contains(&branch.to_string())),
            "{running:?}"
        );
    });
}

#[test]
fn an_application_consistent_instant_is_shown_by_both_sides_and_ceases_to_be_the_newest() {
    simulate_several(45, TWO_HOSTS, async |w| {
        w.replicate().await;
        let seen = async |w: &World, host| {
            let m = manager(w, host);
            let web = vm(&m).await;
            let relationship = related(&m, system(GUID), "Msvm_SystemReplicationRelationship").await;
            for shared in ["LastReplicationType", "LastApplicationConsistentReplicationTime"] {
                assert_eq!(relationship[0].get(shared), web.get(shared), "{shared}");
            }
            let at = web.get("LastApplicationConsistentReplicationTime").cloned();
            (number(&web, "LastReplicationType"), at)
        };
        assert_eq!(seen(w, PRIMARY).await, (1, None));
        let mut settings = w.recorded(PRIMARY).unwrap().settings;
        settings.application_h = 1;
        let vm = World::vm();
        w.insist(
            PRIMARY,
            Action::ModifyReplication {
                vm,
                settings,
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
        let mut seconds = 0;
        while seen(w, PRIMARY).await.0 != 2 || seen(w, REPLICA).await.0 != 2 {
            w.run(1).await;
            seconds += 1;
            assert!(seconds < 120);
        }
        let at = seen(w, PRIMARY).await.1;
        assert!(at.is_some() && seen(w, REPLICA).await.1 == at);
        w.write(5);
        w.run(60).await;
        for host in [PRIMARY, REPLICA] {
            assert_eq!(seen(w, host).await, (1, at.clone()));
        }
    });
}

#[test]
fn both_sides_of_a_relationship_show_it() {
    simulate_several(44, TWO_HOSTS, async |w| {
        w.replicate().await;
        for (host, mode) in [(PRIMARY, 1), (REPLICA, 2)] {
            let m = manager(w, host);
            let web = vm(&m).await;
            assert_eq!(
                (number(&web, "ReplicationMode"), number(&web, "ReplicationState")),
                (mode, 3)
            );
            let relationship = related(&m, system(GUID), "Msvm_SystemReplicationRelationship").await;
            let [relationship] = relationship.as_slice() else {
                panic!("{relationship:?}");
            };
            let id = format!("Microsoft:{GUID}\\HVR\\0");
            assert_eq!(text(relationship, "InstanceID"), id);
            for shared in ["ReplicationState", "ReplicationHealth", "LastReplicationTime"] {
                assert_eq!(relationship.get(shared), web.get(shared), "{shared}");
            }
            assert!(relationship.get("LastReplicationTime").is_some());
            let name = by_id("Msvm_ReplicationRelationship", &id);
            let settings = related(&m, name, "Msvm_SettingsDefineState").await;
            let [settings] = settings.as_slice() else {
                panic!("{settings:?}");
            };
            assert_eq!(
                (
                    text(settings, "PrimaryHostSystem"),
                    text(settings, "RecoveryHostSystem")
                ),
                ("a", "b")
            );
            let numbers = [
                "RecoveryServerPortNumber",
                "ReplicationInterval",
                "RecoveryHistory",
            ];
            // Ten seconds are none of the API's intervals and are shown as they are.
            assert_eq!(numbers.map(|p| number(settings, p)), [7000, 10, 3]);
        }
    });
}

fn point_name(at: Position) -> String {
    format!("Microsoft:{}", point_guid(at).to_string().to_uppercase())
}

/// Recovery points of the replica by the world's own memory: ids, oldest first.
fn sealed(w: &World) -> Vec<String> {
    let s = w.shared.state();
    let points = &s.hosts[REPLICA].replicas[&VM].points;
    points.iter().map(|(p, _)| point_name(p.position)).collect()
}

#[test]
fn recovery_points_form_a_chain_and_a_failover_shows_its_own() {
    simulate_several(45, TWO_HOSTS, async |w| {
        w.replicate().await;
        let m = manager(w, REPLICA);
        let mut want = sealed(w);
        assert!(want.len() >= 3, "{want:?}");
        let points = related(&m, system(GUID), "Msvm_SnapshotOfVirtualSystem").await;
        let ids: Vec<_> = points.iter().map(|p| text(p, "InstanceID").to_owned()).collect();
        let (newer, old): (Vec<_>, Vec<_>) = ids.iter().cloned().partition(|id| !want.contains(id));
        want.reverse();
        assert!(newer.len() <= 1, "at most the newest cycle: {newer:?}");
        // Three more than the newest.
        want.truncate(4 - newer.len());
        assert_eq!(old, want);
        for point in &points {
            assert_eq!(text(point, "VirtualSystemIdentifier"), GUID);
            let kind = text(point, "VirtualSystemType");
            assert_eq!(kind, "Microsoft:Hyper-V:Snapshot:Replica:Standard");
            assert!(matches!(point.get("CreationTime"), Some(Value::DateTime(_))));
        }
        for pair in points.windows(2) {
            let parent = ObjectPath::parse(text(&pair[0], "Parent")).unwrap();
            assert_eq!(parent.name.text("InstanceID"), pair[1].text("InstanceID"));
        }
        assert_eq!(points.last().unwrap().get("Parent"), None);
        let newest = related(&m, system(GUID), "Msvm_MostCurrentSnapshotInBranch").await;
        assert_eq!(newest, points[..1]);
        let chosen = points.last().unwrap();
        let id = text(chosen, "InstanceID")
            .trim_start_matches("Microsoft:")
            .to_lowercase();
        let failover = Action::InitiateFailover {
            vm: World::vm(),
            point: PointSelector::Id(id),
            start: true,
            force: true,
        };
        completed(w, REPLICA, failover).await;
        let web = vm(&m).await;
        assert_eq!(
            (
                number(&web, "ReplicationState"),
                number(&web, "FailedOverReplicationType")
            ),
            (5, 1)
        );
        let applied = related(&m, system(GUID), "Msvm_LastAppliedSnapshot").await;
        assert_eq!(applied.len(), 1);
        assert_eq!(applied[0].get("InstanceID"), chosen.get("InstanceID"));
        let jobs = ask(&m, "SELECT * FROM Msvm_ConcreteJob WHERE JobType = 97").await;
        let [failed_over] = jobs.as_slice() else {
            panic!("{jobs:?}");
        };
        let numbers = ["JobState", "PercentComplete", "ErrorCode", "HealthState"];
        assert_eq!(numbers.map(|p| number(failed_over, p)), [7, 100, 0, 5]);
    });
}

#[test]
fn the_newest_data_is_a_point_where_no_history_is_kept_and_can_be_chosen() {
    simulate_several(46, TWO_HOSTS, async |w| {
        w.replicate().await;
        let m = manager(w, REPLICA);
        for _ in 0..40 {
            w.run(1).await;
            let newest = related(&m, system(GUID), "Msvm_MostCurrentSnapshotInBranch").await;
            let id = text(&newest[0], "InstanceID").to_owned();
            if sealed(w).contains(&id) {
                continue;
            }
            let durable = w.shared.state().hosts[REPLICA].replicas[&VM].durable;
            assert_eq!(id, point_name(durable));
            let found = m
                .get(VIRTUALIZATION, &by_id("Msvm_VirtualSystemSettingData", &id))
                .await;
            assert_eq!(found.unwrap(), newest[0]);
            return;
        }
        panic!("no cycle was ever newer than the points");
    });
}

#[test]
fn a_test_vm_is_a_system_of_its_own() {
    simulate_several(47, TWO_HOSTS, async |w| {
        w.replicate().await;
        let test = tested(w).await;
        let m = manager(w, REPLICA);
        let replicas = related(&m, system(GUID), "Msvm_ReplicaSystemDependency").await;
        let [found] = replicas.as_slice() else {
            panic!("{replicas:?}");
        };
        let name = test.to_string().to_uppercase();
        assert_eq!(
            (text(found, "ElementName"), text(found, "Name")),
            ("web - Test", name.as_str())
        );
        assert_eq!(
            (number(found, "ReplicationMode"), number(found, "EnabledState")),
            (3, 3)
        );
        let back = related(&m, system(&name), "Msvm_ReplicaSystemDependency").await;
        assert_eq!(text(&back[0], "Name"), GUID);
        let modes = ask(
            &m,
            "SELECT Name FROM Msvm_ComputerSystem WHERE ReplicationMode = 3",
        )
        .await;
        assert_eq!(modes.len(), 1);
    });
}

#[test]
fn addresses_after_a_failover_belong_to_their_card() {
    simulate_several(48, TWO_HOSTS, async |w| {
        w.replicate().await;
        let card = NicFailover {
            mac: "52:54:00:aa:00:01".into(),
            dhcp: false,
            addresses: vec!["10.1.2.3/20".into(), "fd00::3/64".into()],
            gateways: vec!["10.1.0.1".parse().unwrap()],
            dns: vec!["10.1.0.2".parse().unwrap()],
            backend: None,
            test_backend: Some(NicBackend::Tap {
                ifname: "lab0".into(),
            }),
        };
        let set = Action::SetFailoverNetwork {
            vm: World::vm(),
            cards: vec![card],
        };
        w.insist(REPLICA, set).await.unwrap();
        let m = manager(w, REPLICA);
        let port = by_id(
            "Msvm_SyntheticEthernetPortSettingData",
            &format!("Microsoft:{GUID}\\525400AA0001"),
        );
        let settings = related(&m, port, "Msvm_EthernetPortFailoverSettingDataComponent").await;
        let settings = &settings[0];
        let list = |property: &str| settings.get(property).unwrap().clone();
        assert_eq!(
            text(settings, "InstanceID"),
            format!("Microsoft:{GUID}\\525400AA0001\\Failover")
        );
        assert_eq!(list("IPAddresses"), Value::from(vec!["10.1.2.3", "fd00::3"]));
        assert_eq!(list("Subnets"), Value::from(vec!["255.255.240.0", "64"]));
        assert_eq!(list("DefaultGateways"), Value::from(vec!["10.1.0.1"]));
        assert_eq!(number(settings, "ProtocolIFType"), 4098);
        let connections = all(&m, "Msvm_EthernetPortAllocationSettingData").await;
        assert_eq!(text(&connections[0], "TestReplicaSwitchName"), "lab0");
    });
}

#[test]
fn a_copy_that_goes_on_to_a_third_host_has_two_relationships() {
    simulate_several(54, THREE_HOSTS, async |w| {
        w.replicate().await;
        let settings = ReplicationSettings {
            peer: "c:7000".into(),
            interval_s: 300,
            ..World::settings()
        };
        let extend = Action::ExtendReplication {
            vm: World::vm(),
            settings,
            start: true,
        };
        w.insist(REPLICA, extend).await.unwrap();
        for _ in 0..120 {
            w.write(2);
            w.run(5).await;
            if state(w, THIRD) == State::Replicating {
                break;
            }
        }
        let m = manager(w, REPLICA);
        let both = related(&m, system(GUID), "Msvm_SystemReplicationRelationship").await;
        let states: Vec<_> = both.iter().map(|r| number(r, "ReplicationState")).collect();
        assert_eq!(states, [3, 3], "{both:?}");
        let second = format!("Microsoft:{GUID}\\HVR\\1");
        assert_eq!(text(&both[1], "InstanceID"), second);
        let settings = by_id("Msvm_ReplicationSettingData", &second);
        let settings = m.get(VIRTUALIZATION, &settings).await.unwrap();
        let hosts = ["PrimaryHostSystem", "RecoveryHostSystem"];
        assert_eq!(hosts.map(|p| text(&settings, p)), ["b", "c"]);
        let numbers = ["ReplicationInterval", "RecoveryServerPortNumber"];
        assert_eq!(numbers.map(|p| number(&settings, p)), [300, 7000]);
        assert_eq!(number(&vm(&m).await, "ReplicationMode"), 2);
        assert_eq!(number(&vm(&manager(w, THIRD)).await, "ReplicationMode"), 4);
        sound(&m).await;
    });
}

// --- How it is asked for ---------------------------------------------------------------------------------------------

async fn refused(m: &Arc<ObjectManager>, name: &InstanceName) -> CimError {
    m.get(VIRTUALIZATION, name).await.unwrap_err()
}

#[test]
fn instance_names_may_omit_clear_keys_and_not_contain_wrong_ones() {
    simulate_several(49, TWO_HOSTS, async |w| {
        let m = manager(w, PRIMARY);
        let only = |class: &str, keys: &[(&str, &str)]| InstanceName::new(class, keys);
        let web = vm(&m).await;
        for name in [
            only("Msvm_ComputerSystem", &[("Name", GUID)]),
            only("msvm_computersystem", &[("name", &GUID.to_lowercase())]),
            only("CIM_System", &[("Name", GUID)]),
        ] {
            let got = m.get(VIRTUALIZATION, &name).await.unwrap();
            assert_eq!(steady(&got), steady(&web), "{name:?}");
        }
        let management = "Msvm_VirtualSystemManagementService";
        for keys in [&[("CreationClassName", management)][..], &[]] {
            let found = m.get(VIRTUALIZATION, &only(management, keys)).await.unwrap();
            assert_eq!(text(&found, "Name"), "vmms");
        }
        assert!(
            m.get(VIRTUALIZATION, &only("Msvm_ReplicationService", &[]))
                .await
                .is_ok()
        );
        let many = refused(&m, &only("Msvm_ComputerSystem", &[])).await;
        assert_eq!(many.status, Status::InvalidParameter);
        let unknown = refused(&m, &only("Msvm_ComputerSystem", &[("Nmae", GUID)])).await;
        assert_eq!(unknown.status, Status::InvalidParameter);
        assert!(unknown.message.contains("Nmae"), "{unknown}");
        for name in [
            system(FOREIGN),
            system("nobody"),
            by_id(
                "Msvm_ReplicationSettingData",
                &format!("Microsoft:{FOREIGN}\\HVR\\0"),
            ),
            by_id(
                "Msvm_ReplicationSettingData",
                &format!("Microsoft:{GUID}\\HVR\\1"),
            ),
            by_id("Msvm_VirtualSystemSettingData", &format!("Microsoft:{FOREIGN}")),
            by_id("Msvm_ConcreteJob", FOREIGN),
        ] {
            assert_eq!(refused(&m, &name).await.status, Status::NotFound, "{name:?}");
        }
        assert_eq!(
            refused(&m, &by_id("Msvm_Nothing", "x")).await.status,
            Status::InvalidClass
        );
        let nowhere = m.get("root/nowhere", &system(GUID)).await.unwrap_err();
        assert_eq!(nowhere.status, Status::InvalidNamespace);
        let foreign = m.associators(VIRTUALIZATION, from(system(FOREIGN))).await;
        assert_eq!(foreign.err().unwrap().status, Status::NotFound);
        let class = Relations {
            result: Some("Msvm_Nothing".into()),
            ..from(system(GUID))
        };
        let class = m.associators(VIRTUALIZATION, class).await.err().unwrap();
        assert_eq!(class.status, Status::InvalidParameter);
        assert!(class.message.contains("ResultClass"), "{class}");
    });
}

#[test]
fn queries_of_the_clients_that_are_known() {
    simulate_several(50, TWO_HOSTS, async |w| {
        w.replicate().await;
        let m = manager(w, PRIMARY);
        let names = |found: Vec<Instance>| {
            let mut names: Vec<_> = found.iter().map(|i| text(i, "ElementName").to_owned()).collect();
            names.sort();
            names
        };
        let lower = GUID.to_lowercase();
        for (query, want) in [
            ("select * from Msvm_ComputerSystem where Name != __SERVER".to_owned(), vec!["vm2", "vm3", "vm4", "web"]),
            ("select * from Msvm_ComputerSystem where Description = \"Microsoft Virtual Machine\" and EnabledState != 2".to_owned(), vec!["vm2", "vm3", "vm4"]),
            (format!("select * from Msvm_ComputerSystem where Description like 'Microsoft Virtual%' and Name = \"{lower}\""), vec!["web"]),
            ("Select * From Msvm_ComputerSystem Where ElementName='web'".to_owned(), vec!["web"]),
            (format!("select * from Msvm_ComputerSystem where Name = '{lower}' or ElementName = 'vm3'"), vec!["vm3", "web"]),
            (format!("select * from Msvm_VirtualSystemSettingData where InstanceID = 'Microsoft:{GUID}'"), vec!["web"]),
            (format!("select * from Msvm_ReplicationSettingData where VirtualSystemIdentifier = '{GUID}'"), vec!["web"]),
            (format!("SELECT * FROM Msvm_ReplicationSettingData WHERE InstanceID='Microsoft:{GUID}\\\\HVR\\\\0'"), vec!["web"]),
            ("SELECT ElementName, InstanceID, ReplicationHealth, ReplicationState FROM Msvm_ReplicationRelationship".to_owned(), vec!["web"]),
            ("select * from Msvm_ReplicationService".to_owned(), vec!["Hyper-V Replica Service"]),
            (format!("associators of {{Msvm_ComputerSystem.CreationClassName=\"Msvm_ComputerSystem\",Name=\"{lower}\"}} where AssocClass = Msvm_SettingsDefineState ResultClass = Msvm_VirtualSystemSettingData"), vec!["web"]),
            (format!("associators of {{Msvm_ComputerSystem.CreationClassName=\"Msvm_ComputerSystem\",Name=\"{GUID}\"}} where ResultClass = Msvm_ReplicationService"), vec!["Hyper-V Replica Service"]),
        ] {
            assert_eq!(names(ask(&m, &query).await), want, "{query}");
        }
        let links = format!(
            "references of {{Msvm_ComputerSystem.Name=\"{GUID}\"}} where ResultClass = Msvm_ServiceAffectsElement"
        );
        assert_eq!(ask(&m, &links).await.len(), 3);
        let wrong = wql::parse("select * from Msvm_ComputerSystem where Nmae = 'x'").unwrap();
        let wrong = m.query(VIRTUALIZATION, &wrong).await.err().unwrap();
        assert_eq!(wrong.status, Status::InvalidQuery);
    });
}

fn counts(all: &[(&str, u32)]) -> Vec<(String, u32)> {
    all.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect()
}

#[test]
fn a_query_for_one_instance_asks_the_engine_for_one() {
    simulate_several(51, TWO_HOSTS, async |w| {
        w.replicate().await;
        let (m, counting) = managed(w, PRIMARY);
        let running = w.jobs(PRIMARY).first().unwrap().id.to_string().to_uppercase();
        let job = format!("select * from Msvm_ConcreteJob where InstanceID = \"{running}\"");
        assert_eq!(ask(&m, &job).await.len(), 1);
        assert_eq!(counting.take(), counts(&[("ShowJob", 1)]));
        let one = format!("select * from Msvm_ComputerSystem where Name = '{GUID}'");
        assert_eq!(ask(&m, &one).await.len(), 1);
        assert_eq!(counting.take(), counts(&[("ShowVm", 1)]));
        related(&m, system(GUID), "Msvm_SystemReplicationRelationship").await;
        let asked = counting.take();
        assert!(asked.iter().all(|(name, _)| name != "ListVms"), "{asked:?}");
        assert_eq!(all(&m, "Msvm_ReplicationSettingData").await.len(), 4);
        assert_eq!(counting.take(), counts(&[("ListVms", 1)]));
    });
}

#[test]
fn concurrent_enumerations_ask_the_engine_once() {
    simulate_several(52, TWO_HOSTS, async |w| {
        w.replicate().await;
        let (m, counting) = managed(w, REPLICA);
        let walks = (0..50).map(|_| all(&m, "Msvm_VirtualSystemSettingData"));
        let found = join_all(walks).await;
        assert!(found[0].len() > 3);
        assert!(found.iter().all(|f| *f == found[0]));
        // The second of each is for those that came while the first was under way.
        let asked = counting.take();
        let few = |name: &str| asked.iter().any(|(n, c)| n == name && *c <= 2);
        assert!(
            few("ListVms") && few("ListPoints") && asked.len() == 2,
            "{asked:?}"
        );
        // A walk that began before does not lend what it was told to one that begins later.
        let mut slow = m
            .enumerate(VIRTUALIZATION, "Msvm_VirtualSystemSettingData")
            .await
            .unwrap();
        let first = slow.next().await.unwrap().unwrap().instance;
        w.write(5);
        w.run(60).await;
        let later = all(&m, "Msvm_VirtualSystemSettingData").await;
        assert_ne!(later, found[0]);
        let mut rest = vec![first];
        rest.extend(drain(slow).await);
        assert_ne!(later, rest);
    });
}

#[test]
fn keys_of_references_may_be_text() {
    simulate_several(53, TWO_HOSTS, async |w| {
        let m = manager(w, PRIMARY);
        let path = |class: &str, key: &str| format!("\\\\A\\root\\virtualization\\v2:{class}.{key}");
        let vm = path(
            "Msvm_ComputerSystem",
            &format!("CreationClassName=\"Msvm_ComputerSystem\",Name=\"{GUID}\""),
        );
        let settings = path(
            "Msvm_VirtualSystemSettingData",
            &format!("InstanceID=\"Microsoft:{GUID}\""),
        );
        let keys = [
            ("ManagedElement", vm.as_str()),
            ("SettingData", settings.as_str()),
        ];
        let name = InstanceName::new("Msvm_SettingsDefineState", &keys);
        let found = m.get(VIRTUALIZATION, &name).await.unwrap();
        let namespace = m.schema().namespace(VIRTUALIZATION).unwrap();
        let own = namespace.name_of(&found);
        assert!(
            matches!(own.key("SettingData"), Some(KeyValue::Reference(p)) if p.name.text("InstanceID") == Some(&format!("Microsoft:{GUID}")))
        );
    });
}
