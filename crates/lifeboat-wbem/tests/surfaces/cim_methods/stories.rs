//! Whole stories, as administrators' scripts live them.

use lifeboat_cim::{InstanceName, ObjectPath, Raw, Value};
use lifeboat_engine::action::{Action, InitialCopy, RelationshipRef};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::query::Query;
use lifeboat_model::{JobState, NicBackend, NicSpec, ReplicationState as State};
use lifeboat_sim::World;
use lifeboat_sim::harness::{A, B, C, FOUR_HOSTS, THREE_HOSTS, TWO_HOSTS, job, simulate_small};
use lifeboat_wbem::cim::VIRTUALIZATION;

use crate::cim_methods::world::*;

/// Create, copy, cycles.
pub(crate) async fn replicating(w: &World) {
    done(w, A, "CreateReplicationRelationship", vec![vm(), to("b")]).await;
    assert_eq!((stands(w, A).await, stands(w, B).await), ((1, 1), (2, 2)));
    let network = vec![text("InitialReplicationType", "1"), vm()];
    complete(w, A, "StartReplication", network).await;
    until(w, A, (1, 3)).await;
    until(w, B, (2, 3)).await;
}

/// A few cycles, so that there is something to choose from.
async fn cycles(w: &World) {
    for _ in 0..16 {
        w.write(10);
        w.run(10).await;
    }
}

#[test]
fn a_point_is_tried_reverted_and_another_is_committed() {
    simulate_small(1, TWO_HOSTS, async |w| {
        replicating(w).await;
        cycles(w).await;
        w.cut(true);
        w.run(30).await;
        let points = points(w, B).await;
        assert!(points.len() >= 2, "{points:?}");
        complete(w, B, "InitiateFailover", vec![vm(), snapshot(&points[1])]).await;
        assert_eq!(stands(w, B).await, (2, 5));
        let on = vec![text("RequestedState", "2")];
        let started = call(w, B, system(&guid()).name, "RequestStateChange", on)
            .await
            .unwrap();
        assert_eq!((started.value, w.runs(B)), (0, true));
        // A second one must wait until the first is reverted.
        assert_eq!(ask(w, B, "InitiateFailover", vec![vm()]).await.value, 32775);
        // The VM that runs is turned off.
        complete(w, B, "RevertFailover", vec![vm()]).await;
        assert_eq!((stands(w, B).await, w.runs(B)), ((2, 3), false));
        assert_eq!(ask(w, B, "RevertFailover", vec![vm()]).await.value, 32775);
        // Null in words is null as well.
        let newest = vec![vm(), arg("SnapshotSettingData", Raw::Null)];
        complete(w, B, "InitiateFailover", newest).await;
        complete(w, B, "CommitFailover", vec![vm()]).await;
        assert_eq!(stands(w, B).await, (2, 6));
        assert_eq!(ask(w, B, "RevertFailover", vec![vm()]).await.value, 32775);
        // The old primary comes back, is turned off, and becomes the replica.
        w.cut(false);
        w.guest_off(A);
        w.run(5).await;
        let reversed = ask(w, B, "ReverseReplicationRelationship", vec![vm(), to("a")]).await;
        assert_eq!(ended(w, B, &reversed).await, 7);
        until(w, B, (1, 3)).await;
        until(w, A, (2, 3)).await;
        w.check_all().unwrap();
    });
}

#[test]
fn a_second_copy_is_not_started_while_the_primary_answers() {
    simulate_small(17, TWO_HOSTS, async |w| {
        replicating(w).await;
        cycles(w).await;
        // Only disks: nothing runs on them yet.
        complete(w, B, "InitiateFailover", vec![vm()]).await;
        let start = async || {
            let on = vec![text("RequestedState", "2")];
            let name = system(&guid()).name;
            call(w, B, name, "RequestStateChange", on).await.unwrap().value
        };
        assert_eq!((start().await, w.runs(B)), (32775, false), "it runs there");
        w.shared.state().hosts[A].stuck.insert(lifeboat_sim::VM);
        assert_eq!((start().await, w.runs(B)), (32771, false), "nobody can tell");
        w.shared.state().hosts[A].stuck.clear();
        w.cut(true);
        assert_eq!((start().await, w.runs(B)), (0, true), "a lost site");
    });
}

#[test]
fn a_planned_failover_goes_call_by_call() {
    simulate_small(2, TWO_HOSTS, async |w| {
        replicating(w).await;
        assert_eq!(ask_state(w, A, "4").await.value, 32775, "the VM runs");
        assert_eq!(
            ask_state(w, B, "4").await.value,
            32775,
            "the replica is not asked for it"
        );
        let component = InstanceName::new("Msvm_ShutdownComponent", &[("SystemName", &guid())]);
        let force = vec![text("Force", "true"), text("Reason", "moving house")];
        let off = call(w, A, component, "InitiateShutdown", force).await.unwrap();
        assert_eq!((off.value, w.runs(A)), (0, false));
        let prepared = ask_state(w, A, "4").await;
        assert_eq!(ended(w, A, &prepared).await, 7);
        assert_eq!(stands(w, A).await, (1, 4));
        // Cancelled, and again.
        assert_eq!(ask_state(w, A, "3").await.value, 0);
        assert_eq!(stands(w, A).await, (1, 3));
        let prepared = ask_state(w, A, "4").await;
        assert_eq!(ended(w, A, &prepared).await, 7);
        complete(w, B, "InitiateFailover", vec![vm()]).await;
        let failed_over = read(w, B, &system(&guid()).name).await;
        assert_eq!(
            failed_over.unsigned("FailedOverReplicationType"),
            Some(3),
            "planned"
        );
        // From state 5 at once, as after a planned failover; without settings those of the old direction are taken.
        let reversed = ask(w, B, "ReverseReplicationRelationship", vec![vm()]).await;
        assert_eq!(ended(w, B, &reversed).await, 7);
        until(w, B, (1, 3)).await;
        until(w, A, (2, 3)).await;
        w.check_all().unwrap();
    });
}

#[test]
fn replication_is_paused_compared_and_counted() {
    simulate_small(3, TWO_HOSTS, async |w| {
        replicating(w).await;
        cycles(w).await;
        for (state, stands_then) in [("7", 7), ("3", 3)] {
            assert_eq!(ask_state(w, A, state).await.value, 0);
            assert_eq!(stands(w, A).await, (1, stands_then));
        }
        let report = done(w, A, "GetReplicationStatistics", vec![vm()]).await;
        let Some(Value::Array(statistics)) = out(&report, "ReplicationStatistics") else {
            panic!("{report:?}");
        };
        let [Value::Instance(statistics)] = statistics.as_slice() else {
            panic!("{statistics:?}");
        };
        assert!(
            statistics.unsigned("ReplicationSuccessCount").unwrap() >= 10,
            "{statistics:?}"
        );
        assert!(
            statistics.get("StartStatisticTime").is_some() && statistics.get("EndStatisticTime").is_some()
        );
        assert!(matches!(
            out(&report, "ReplicationHealthIssues"),
            Some(Value::Array(_))
        ));
        done(w, A, "ResetReplicationStatisticsEx", vec![vm(), relationship(0)]).await;
        let report = done(w, A, "GetReplicationStatisticsEx", vec![vm(), relationship(0)]).await;
        let Some(Value::Array(statistics)) = out(&report, "ReplicationStatistics") else {
            panic!("{report:?}");
        };
        let Some(Value::Instance(statistics)) = statistics.first() else {
            panic!("{statistics:?}");
        };
        assert_eq!(statistics.unsigned("ReplicationSuccessCount"), Some(0));
        assert_eq!(ask_state(w, A, "7").await.value, 0);
        complete(w, A, "Resynchronize", vec![vm()]).await;
        until(w, A, (1, 3)).await;
        w.check_all().unwrap();
    });
}

#[test]
fn settings_are_read_changed_in_part_and_sent_back() {
    simulate_small(4, TWO_HOSTS, async |w| {
        replicating(w).await;
        let id = format!("Microsoft:{}\\HVR\\0", guid());
        let name = InstanceName::new("Msvm_ReplicationSettingData", &[("InstanceID", &id)]);
        let before = w.recorded(A).unwrap().settings;
        // A part: everything else stays.
        let part = settings(&[
            ("InstanceID", "string", &id),
            ("RecoveryHistory", "uint16", "7"),
            ("AutoResynchronizeEnabled", "boolean", "true"),
            (
                "AutoResynchronizeIntervalStart",
                "datetime",
                "00000000223000.000000:000",
            ),
        ]);
        done(w, A, "ModifyReplicationSettings", vec![vm(), part]).await;
        let after = w.recorded(A).unwrap().settings;
        assert_eq!(
            (after.history, after.interval_s, &after.peer),
            (7, 10, &before.peer)
        );
        let window = after.auto_resync.unwrap();
        assert_eq!((window.from_min, window.to_min), (22 * 60 + 30, 6 * 60));
        // What was read is sent back: nothing changes.
        let read_back = read(w, A, &name).await;
        let raw: Vec<(String, Raw)> = read_back.properties.iter().map(|(n, v)| arg(n, raw(v))).collect();
        let whole = Raw::Instance(lifeboat_cim::RawInstance {
            class: read_back.class.clone(),
            properties: raw,
        });
        let args = vec![vm(), arg("ReplicationSettingData", whole)];
        done(w, A, "ModifyReplicationSettings", args).await;
        assert_eq!(w.recorded(A).unwrap().settings, after);
        // One disk, by InstanceID, by path, and by instance.
        let disk = format!("Microsoft:{}\\sys", guid());
        let path = ObjectPath::new(
            VIRTUALIZATION,
            InstanceName::new("Msvm_StorageAllocationSettingData", &[("InstanceID", &disk)]),
        );
        let instance = xml(
            "Msvm_StorageAllocationSettingData",
            &[("InstanceID", "string", &disk)],
        );
        for item in [
            Raw::Text(disk.clone()),
            Raw::Text(path.to_string()),
            Raw::Path(path),
            Raw::Text(instance),
        ] {
            let given = Raw::Instance(lifeboat_cim::RawInstance {
                class: "Msvm_ReplicationSettingData".into(),
                properties: vec![arg("IncludedDisks", Raw::List(vec![item.clone()]))],
            });
            let args = vec![vm(), arg("ReplicationSettingData", given)];
            let outcome = ask(w, A, "ModifyReplicationSettings", args).await;
            assert_eq!(outcome.value, 0, "{item:?}");
            assert_eq!(w.recorded(A).unwrap().settings.disks.len(), 1, "{item:?}");
        }
    });
}

/// A value that was read, as a client writes it.
fn raw(value: &Value) -> Raw {
    match value {
        Value::Boolean(b) => Raw::Text(b.to_string()),
        Value::Unsigned(n) => Raw::Text(n.to_string()),
        Value::Signed(n) => Raw::Text(n.to_string()),
        Value::Real(n) => Raw::Text(n.to_string()),
        Value::Text(text) => Raw::Text(text.clone()),
        Value::DateTime(at) => Raw::Text(at.to_string()),
        Value::Reference(path) => Raw::Path((**path).clone()),
        Value::Instance(_) => panic!("no instances are in settings"),
        Value::Array(items) => Raw::List(items.iter().map(raw).collect()),
    }
}

#[test]
fn a_test_vm_is_made_and_destroyed() {
    simulate_small(5, TWO_HOSTS, async |w| {
        replicating(w).await;
        cycles(w).await;
        let points = points(w, B).await;
        let outcome = ask(w, B, "TestReplicaSystem", vec![vm(), snapshot(&points[1])]).await;
        let test = referred(&outcome, "ResultingSystem");
        assert_eq!(ended(w, B, &outcome).await, 7);
        let seen = read(w, B, &test).await;
        assert_eq!(seen.text("ElementName"), Some("web - Test"));
        assert_eq!(seen.unsigned("ReplicationMode"), Some(3));
        assert_eq!(ask(w, B, "TestReplicaSystem", vec![vm()]).await.value, 32775);
        let on = vec![text("RequestedState", "2")];
        assert_eq!(
            call(w, B, test.clone(), "RequestStateChange", on)
                .await
                .unwrap()
                .value,
            0
        );
        let management = service("Msvm_VirtualSystemManagementService");
        let real = vec![arg("AffectedSystem", Raw::Path(system(&guid())))];
        let refused = call(w, B, management.clone(), "DestroySystem", real)
            .await
            .unwrap();
        assert_eq!(refused.value, 32770);
        let path = ObjectPath::new(VIRTUALIZATION, test.clone());
        let affected = vec![arg("AffectedSystem", Raw::Text(path.to_string()))];
        let destroyed = call(w, B, management, "DestroySystem", affected).await.unwrap();
        assert_eq!(ended(w, B, &destroyed).await, 7);
        let gone = manager(w, B).get(VIRTUALIZATION, &test).await.unwrap_err();
        assert_eq!(gone.status, lifeboat_cim::Status::NotFound);
        assert_eq!((stands(w, A).await, stands(w, B).await), ((1, 3), (2, 3)));
        w.check_all().unwrap();
    });
}

#[test]
fn a_replica_is_extended_and_goes_on_as_the_primary() {
    simulate_small(6, THREE_HOSTS, async |w| {
        replicating(w).await;
        cycles(w).await;
        // On a replica the methods are about the third host.
        let third = settings(&[
            ("RecoveryConnectionPoint", "string", "c"),
            ("RecoveryServerPortNumber", "uint16", "7000"),
        ]);
        done(w, B, "CreateReplicationRelationship", vec![vm(), third]).await;
        complete(
            w,
            B,
            "StartReplication",
            vec![vm(), text("InitialReplicationType", "1")],
        )
        .await;
        until(w, C, (4, 3)).await;
        let first = vec![vm(), relationship(0)];
        assert_eq!(
            ask(w, B, "RemoveReplicationRelationshipEx", first).await.value,
            32775,
            "while it is extended"
        );
        let report = done(w, B, "GetReplicationStatisticsEx", vec![vm(), relationship(1)]).await;
        assert!(out(&report, "ReplicationStatistics").is_some());
        let ex = |state: &str, which: Raw| {
            vec![
                text("RequestedState", state),
                arg("ReplicationRelationship", which),
            ]
        };
        let id = format!("Microsoft:{}\\HVR\\1", guid());
        let path = by_id("Msvm_ReplicationRelationship", &id);
        for (state, which) in [("7", Raw::Text(id.clone())), ("3", path)] {
            let args = ex(state, which);
            let name = system(&guid()).name;
            let outcome = call(w, B, name, "RequestReplicationStateChangeEx", args)
                .await
                .unwrap();
            assert_eq!(outcome.value, 0, "{state}");
        }
        w.cut(true);
        complete(w, B, "InitiateFailover", vec![vm()]).await;
        complete(w, B, "CommitFailover", vec![vm()]).await;
        let onward = vec![vm(), relationship(1)];
        complete(w, B, "ChangeReplicationModeToPrimary", onward).await;
        until(w, B, (1, 3)).await;
        until(w, C, (2, 3)).await;
    });
}

#[test]
fn a_replica_with_two_third_hosts_has_an_index_for_each() {
    simulate_small(7, FOUR_HOSTS, async |w| {
        replicating(w).await;
        for (host, relationship) in [("c", "1"), ("d", "2")] {
            done(w, B, "CreateReplicationRelationship", vec![vm(), to(host)]).await;
            let start = Action::StartReplication {
                vm: World::vm(),
                how: InitialCopy::Network,
                at: None,
                relationship: RelationshipRef::from(relationship.to_owned()),
            };
            assert_eq!(job(w, B, start).await.unwrap(), JobState::Completed);
        }
        let suspended = vec![text("RequestedState", "7"), relationship(2)];
        let outcome = call(
            w,
            B,
            system(&guid()).name,
            "RequestReplicationStateChangeEx",
            suspended,
        )
        .await;
        assert_eq!(outcome.unwrap().value, 0);
        let states = |w: &World| {
            let rel = w.recorded(B).unwrap();
            let states = rel.outgoing().iter().map(|one| one.state);
            states.collect::<Vec<_>>()
        };
        assert_eq!(states(w), [State::Replicating, State::Suspended]);
        // What does not say which one it means would mean either.
        let either = vec![vm(), text("InitialReplicationType", "1")];
        assert_eq!(ask(w, B, "StartReplication", either).await.value, 32773);
        done(
            w,
            B,
            "RemoveReplicationRelationshipEx",
            vec![vm(), relationship(1)],
        )
        .await;
        assert_eq!(states(w), [State::Suspended]);
        let again = vec![vm(), relationship(1)];
        assert_eq!(
            ask(w, B, "RemoveReplicationRelationshipEx", again).await.value,
            32773
        );
        assert_eq!(states(w), [State::Suspended], "the other one stays");
        done(
            w,
            B,
            "RemoveReplicationRelationshipEx",
            vec![vm(), relationship(2)],
        )
        .await;
        assert!(states(w).is_empty());
    });
}

/// An authorization entry as the only parameter.
fn entry(primary: &str, location: &str) -> Args {
    let values = [
        ("AllowedPrimaryHostSystem", "string", primary),
        ("ReplicaStorageLocation", "string", location),
        ("TrustGroup", "string", "t"),
    ];
    let xml = xml("Msvm_ReplicationAuthorizationSettingData", &values);
    vec![text("AuthorizationEntry", &xml)]
}

/// The way to `b`.
fn connection(authentication: &str) -> Args {
    vec![
        text("RecoveryConnectionPoint", "b"),
        text("RecoveryServerPortNumber", "7000"),
        text("AuthenticationType", authentication),
    ]
}

#[test]
fn entries_decide_who_may_replicate() {
    simulate_small(7, TWO_HOSTS, async |w| {
        let (add, modify) = ("AddAuthorizationEntry", "ModifyAuthorizationEntry");
        assert_eq!(ask(w, B, add, entry("a", "/replicas")).await.value, 32773);
        done(w, B, add, entry("*.example.org", "/elsewhere")).await;
        done(w, B, modify, entry("*.EXAMPLE.org", "/other")).await;
        assert_eq!(ask(w, B, modify, entry("x", "/other")).await.value, 32779);
        {
            let s = w.shared.state();
            let mut entries = s.hosts[B].catalog.entries.iter();
            let known = entries.find(|e| e.primary == "*.example.org").unwrap();
            assert_eq!(known.storage_location, "/other");
        }
        let a = vec![text("AllowedPrimaryHostSystem", "a")];
        done(w, B, "RemoveAuthorizationEntry", a).await;
        let refused = ask(w, A, "CreateReplicationRelationship", vec![vm(), to("b")]).await;
        assert_eq!(refused.value, 32769, "b does not know a any more");
        let test = "TestReplicationConnection";
        assert_eq!(ask(w, A, test, connection("2")).await.value, 32769);
        assert_eq!(ask(w, A, test, connection("1")).await.value, 32770);
        done(w, B, add, entry("a", "/replicas")).await;
        done(w, A, test, connection("2")).await;
        replicating(w).await;
        let mut bound = entry("A", "/replicas");
        bound.push(vm());
        done(w, B, "SetAuthorizationEntry", bound).await;
        let replica = w.recorded(B).unwrap().replica().unwrap().clone();
        assert_eq!(replica.allowed.as_deref(), Some("a"));
    });
}

#[test]
fn a_host_is_told_to_take_replicas_and_when_its_windows_begin() {
    simulate_small(8, TWO_HOSTS, async |w| {
        const CLASS: &str = "Msvm_ReplicationServiceSettingData";
        let set = |values: &[(&str, &str, &str)]| vec![text("SettingData", &xml(CLASS, values))];
        let off = set(&[
            ("RecoveryServerEnabled", "boolean", "false"),
            ("MonitoringInterval", "uint32", "3600"),
            ("MonitoringStartTime", "datetime", "00000000050000.000000:000"),
        ]);
        done(w, B, "ModifyServiceSettings", off).await;
        let server = w.shared.state().hosts[B].catalog.server.clone();
        assert_eq!((server.enabled, server.monitoring_interval_s), (false, 3600));
        // Five o'clock UTC is another time of day elsewhere; when it is read it is five o'clock again.
        let read = read(w, B, &service(CLASS)).await;
        let five = lifeboat_cim::DateTime::Interval(5 * 3_600_000_000);
        assert_eq!(read.get("MonitoringStartTime"), Some(&Value::DateTime(five)));
        for (name, kind, value) in [
            ("HttpsPort", "uint16", "443"),
            ("HttpPort", "uint16", "80"),
            ("AllowedAuthenticationType", "uint16", "3"),
        ] {
            let outcome = ask(w, B, "ModifyServiceSettings", set(&[(name, kind, value)])).await;
            assert_eq!(outcome.value, 32770, "{name}");
        }
        let short = set(&[("MonitoringInterval", "uint32", "60")]);
        assert_eq!(ask(w, B, "ModifyServiceSettings", short).await.value, 32773);
        let certificates = done(w, B, "GetSystemCertificates", Vec::new()).await;
        let expected = vec!["bm90IHJlYWxseSBERVI="];
        assert_eq!(
            out(&certificates, "EncodedCertificates"),
            Some(&Value::from(expected))
        );
    });
}

#[test]
fn cards_get_addresses_for_the_other_site() {
    simulate_small(9, TWO_HOSTS, async |w| {
        let nic = NicSpec {
            mac: MAC.into(),
            backend: NicBackend::None,
        };
        w.shared.state().hosts[A].local[0].nics = vec![nic];
        w.restart(A).await;
        replicating(w).await;
        let id = format!("Microsoft:{}\\525400000001\\Failover", guid());
        let card = |values: &[(&str, &str, &str)]| {
            let mut all = vec![("InstanceID", "string", id.as_str())];
            all.extend(values);
            let xml = xml("Msvm_FailoverNetworkAdapterSettingData", &all);
            vec![vm(), arg("NetworkSettings", Raw::List(vec![Raw::Text(xml)]))]
        };
        const METHOD: &str = "SetFailoverNetworkAdapterSettings";
        let fixed = card(&[
            ("DHCPEnabled", "boolean", "false"),
            ("IPAddresses", "string[]", "10.9.0.5 fd00::5"),
            ("Subnets", "string[]", "255.255.255.0 64"),
            ("DefaultGateways", "string[]", "10.9.0.1"),
            ("DNSServers", "string[]", "10.9.0.53"),
            ("ProtocolIFType", "uint16", "4098"),
        ]);
        done(w, B, METHOD, fixed).await;
        let cards = w.recorded(B).unwrap().network;
        assert_eq!(cards[0].addresses, ["10.9.0.5/24", "fd00::5/64"]);
        assert_eq!((cards[0].mac.as_str(), cards[0].dhcp), (MAC, false));
        for wrong in [
            card(&[("DHCPEnabled", "boolean", "true")]),
            card(&[("IPAddresses", "string[]", "")]),
            card(&[
                ("DHCPEnabled", "boolean", "false"),
                ("IPAddresses", "string[]", "10.0.0.1"),
            ]),
            card(&[
                ("DHCPEnabled", "boolean", "false"),
                ("IPAddresses", "string[]", "10.0.0.1"),
                ("Subnets", "string[]", "255.0.255.0"),
            ]),
            card(&[
                ("DHCPEnabled", "boolean", "false"),
                ("IPAddresses", "string[]", "10.0.0.1"),
                ("Subnets", "string[]", "24"),
                ("ProtocolIFType", "uint16", "4097"),
            ]),
        ] {
            assert_eq!(ask(w, B, METHOD, wrong.clone()).await.value, 32773, "{wrong:?}");
        }
        let dhcp = card(&[
            ("DHCPEnabled", "boolean", "true"),
            ("IPAddresses", "string[]", ""),
        ]);
        done(w, B, METHOD, dhcp).await;
        assert!(w.recorded(B).unwrap().network[0].dhcp);
        let none = card(&[
            ("DHCPEnabled", "boolean", "false"),
            ("IPAddresses", "string[]", ""),
        ]);
        done(w, B, METHOD, none).await;
        assert!(w.recorded(B).unwrap().network.is_empty());
    });
}

#[test]
fn a_copy_is_cancelled_and_its_job_says_why() {
    simulate_small(10, TWO_HOSTS, async |w| {
        done(w, A, "CreateReplicationRelationship", vec![vm(), to("b")]).await;
        let later = w.shared.now().0 / 1000 + 3600;
        let at = lifeboat_cim::DateTime::Instant(i64::try_from(later * 1_000_000).unwrap());
        let scheduled = vec![
            vm(),
            text("InitialReplicationType", "1"),
            text("StartTime", &at.to_string()),
        ];
        let outcome = ask(w, A, "StartReplication", scheduled).await;
        let job = referred(&outcome, "Job");
        assert_eq!(stands(w, A).await, (1, 1), "it waits");
        let state = |n: &str| vec![text("RequestedState", n)];
        for (wanted, code) in [("2", 1), ("99", 5)] {
            let answered = call(w, A, job.clone(), "RequestStateChange", state(wanted))
                .await
                .unwrap();
            assert_eq!(answered.value, code, "{wanted}");
        }
        let mut limited = state("4");
        limited.push(text("TimeoutPeriod", "00000000000010.000000:000"));
        assert_eq!(
            call(w, A, job.clone(), "RequestStateChange", limited)
                .await
                .unwrap()
                .value,
            4098
        );
        assert_eq!(
            call(w, A, job.clone(), "RequestStateChange", state("4"))
                .await
                .unwrap()
                .value,
            0
        );
        assert_eq!(read(w, A, &job).await.unsigned("JobState"), Some(8));
        assert_eq!(
            call(w, A, job.clone(), "RequestStateChange", state("4"))
                .await
                .unwrap()
                .value,
            4097
        );
        let errors = call(w, A, job, "GetErrorEx", Vec::new()).await.unwrap();
        let Some(Value::Array(errors)) = out(&errors, "Errors") else {
            panic!("{errors:?}");
        };
        assert_eq!(errors.len(), 1);
        // The same by the state of replication.
        let network = vec![vm(), text("InitialReplicationType", "1")];
        assert_eq!(ask(w, A, "StartReplication", network).await.value, 4096);
        assert_eq!(ask_state(w, A, "1").await.value, 0);
        assert_eq!(stands(w, A).await, (1, 1));
    });
}

#[test]
fn a_copy_travels_on_a_medium() {
    simulate_small(11, TWO_HOSTS, async |w| {
        done(w, A, "CreateReplicationRelationship", vec![vm(), to("b")]).await;
        let export = vec![
            vm(),
            text("InitialReplicationType", "2"),
            text("InitialReplicationExportLocation", "/media/usb/"),
        ];
        complete(w, A, "StartReplication", export).await;
        assert_eq!((stands(w, A).await, stands(w, B).await), ((1, 3), (2, 2)));
        let dir = format!("/media/usb/web_{}", guid());
        complete(
            w,
            B,
            "ImportInitialReplica",
            vec![vm(), text("InitialReplicationImportLocation", &dir)],
        )
        .await;
        until(w, B, (2, 3)).await;
    });
}

#[test]
fn summaries_name_what_was_asked_for() {
    simulate_small(12, TWO_HOSTS, async |w| {
        replicating(w).await;
        let id = format!("Microsoft:{}", guid());
        let args = vec![
            arg(
                "SettingData",
                Raw::List(vec![by_id("Msvm_VirtualSystemSettingData", &id)]),
            ),
            arg(
                "RequestedInformation",
                Raw::List(vec![Raw::Text("1".into()), Raw::Text("115".into())]),
            ),
        ];
        let management = service("Msvm_VirtualSystemManagementService");
        let answered = call(w, A, management, "GetSummaryInformation", args)
            .await
            .unwrap();
        assert_eq!(answered.value, 0);
        let Some(Value::Array(all)) = out(&answered, "SummaryInformation") else {
            panic!("{answered:?}");
        };
        let [Value::Instance(summary)] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert_eq!(summary.text("ElementName"), Some("web"));
        assert_eq!(summary.unsigned("ReplicationState"), Some(3));
    });
}

#[test]
fn an_invalid_call_is_an_error_that_names_what_is_wrong() {
    simulate_small(13, TWO_HOSTS, async |w| {
        use lifeboat_cim::Status;
        let missing = InstanceName::new("Msvm_ReplicationService", &[("Name", "another")]);
        let doubled = vec![vm(), vm()];
        let cases = [
            (
                service("Msvm_Nothing"),
                "X",
                Vec::new(),
                Status::InvalidClass,
                "Msvm_Nothing",
            ),
            (
                replication_service(),
                "Reformat",
                Vec::new(),
                Status::MethodNotFound,
                "Reformat",
            ),
            (missing, "CommitFailover", vec![vm()], Status::NotFound, ""),
            (
                replication_service(),
                "CommitFailover",
                doubled,
                Status::InvalidParameter,
                "ComputerSystem",
            ),
            (
                replication_service(),
                "CommitFailover",
                vec![text("Force", "1")],
                Status::InvalidParameter,
                "Force",
            ),
            (
                replication_service(),
                "CommitFailover",
                vec![text("Job", "x")],
                Status::InvalidParameter,
                "Job",
            ),
            (
                replication_service(),
                "StartReplication",
                vec![vm(), text("InitialReplicationType", "one")],
                Status::TypeMismatch,
                "InitialReplicationType",
            ),
            (
                replication_service(),
                "CreateReplicationRelationship",
                vec![vm(), settings(&[("Colour", "string", "red")])],
                Status::InvalidParameter,
                "Colour",
            ),
        ];
        for (target, method, args, status, word) in cases {
            let error = call(w, A, target, method, args).await.unwrap_err();
            assert_eq!(error.status, status, "{method}: {error}");
            assert!(error.message.contains(word), "{method}: {error}");
        }
    });
}

/// The world is asked for what the API does not show.
#[test]
fn a_foreign_reference_is_refused_and_changes_nothing() {
    simulate_small(14, TWO_HOSTS, async |w| {
        replicating(w).await;
        let before = w.recorded(A).unwrap().settings;
        let other = "Microsoft:00000000-0000-0000-0000-0000000000FF";
        let foreign = settings(&[
            ("InstanceID", "string", &format!("{other}\\HVR\\0")),
            ("RecoveryHistory", "uint16", "9"),
        ]);
        assert_eq!(
            ask(w, A, "ModifyReplicationSettings", vec![vm(), foreign])
                .await
                .value,
            32773
        );
        let disks = settings(&[("IncludedDisks", "string[]", &format!("{other}\\sys"))]);
        assert_eq!(
            ask(w, A, "ModifyReplicationSettings", vec![vm(), disks])
                .await
                .value,
            32773
        );
        assert_eq!(w.recorded(A).unwrap().settings, before);
        assert_eq!(
            ask(w, B, "InitiateFailover", vec![vm(), snapshot(other)])
                .await
                .value,
            32773
        );
        let elsewhere = ObjectPath {
            namespace: Some("root/cimv2".into()),
            ..system(&guid())
        };
        let args = vec![arg("ComputerSystem", Raw::Path(elsewhere))];
        assert_eq!(ask(w, B, "CommitFailover", args).await.value, 32773);
        let jobs = w.query(B, Query::list_jobs(Paging::FIRST)).await;
        let jobs = jobs.unwrap().unwrap();
        assert!(jobs.items.is_empty(), "{jobs:?}");
    });
}
