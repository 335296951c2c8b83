//! Roles and second persons on the wire: every method below its role, by both protocols, and a method that waits.

use lifeboat_engine::action::{Action, Answer as Answered, InitialCopy, Management};
use lifeboat_engine::by::By;
use lifeboat_model::Timestamp;
use lifeboat_sim::World;
use lifeboat_sim::harness::PRIMARY;
use lifeboat_wbem::cim::Role;
use lifeboat_wbem::cim::methods::METHODS;

use crate::indications_remote::{MODES, PUSH, notify, wish};
use crate::remote_cimxml::{self as cimxml, V2};
use crate::remote_support::{Host, basic, host, host_of_four_eyes};
use crate::remote_wsman::{self as wsman, Ask, VM, WMI};

/// The users of the test's host, from the least.
const USERS: [(&str, Role); 4] = [
    ("viewer", Role::Monitor),
    ("tester", Role::Tester),
    ("operator", Role::Operator),
    ("admin", Role::Administrator),
];

/// A relationship, and a job that waits for its time; its id.
async fn a_waiting_job(world: &World) -> String {
    let (vm, settings) = (World::vm(), World::settings());
    let enable = Action::EnableReplication { vm, settings };
    world.insist(PRIMARY, enable).await.unwrap();
    let (vm, how) = (World::vm(), InitialCopy::Network);
    let at = Some(Timestamp(world.shared.now().0 + 3_600_000));
    match world
        .insist(
            PRIMARY,
            Action::StartReplication {
                vm,
                how,
                at,
                relationship: Default::default(),
            },
        )
        .await
    {
        Ok(Answered::Job(job)) => job.id.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Keys of the instance whose methods are called.
fn keys<'a>(class: &str, job: &'a str) -> Vec<(&'static str, &'a str)> {
    match class {
        "Msvm_ComputerSystem" => vec![("CreationClassName", "Msvm_ComputerSystem"), ("Name", VM)],
        "Msvm_ShutdownComponent" => vec![("SystemName", VM)],
        "Msvm_ConcreteJob" => vec![("InstanceID", job)],
        _ => Vec::new(),
    }
}

/// Parameters without which nobody is told more than that.
fn parameter(method: &str) -> Option<(&'static str, &'static str, &'static str)> {
    match method {
        "InitiateShutdown" => Some(("Force", "boolean", "true")),
        "RequestStateChange" => Some(("RequestedState", "uint16", "3")),
        _ => None,
    }
}

/// Everything of both hosts that a call could change.
fn everything(world: &World) -> String {
    let s = world.shared.state();
    let of = |h: &lifeboat_sim::HostState| {
        let c = &h.catalog;
        let power: Vec<_> = h.processes.iter().map(|(vm, p)| (*vm, p.power)).collect();
        let rels: Vec<_> = c
            .relationships
            .iter()
            .map(|r| (r.state, r.settings.clone()))
            .collect();
        format!(
            "{rels:?} {:?} {:?} {:?} {:?} {power:?}",
            c.jobs, c.entries, c.server, c.requests
        )
    };
    s.hosts.iter().map(of).collect()
}

async fn by_wsman(c: &mut wsman::Client, class: &str, method: &str, job: &str) -> String {
    let uri = format!("{WMI}{class}");
    let parameter = parameter(method).map_or(String::new(), |(n, _, v)| format!("<p:{n}>{v}</p:{n}>"));
    let ask = Ask::new(&format!("{uri}/{method}"), &uri)
        .select(&keys(class, job))
        .body(&format!(
            "<p:{method}_INPUT xmlns:p=\"{uri}\">{parameter}</p:{method}_INPUT>"
        ));
    let answer = c.good(&ask).await;
    answer.element("ReturnValue").unwrap().to_owned()
}

async fn by_cimxml(c: &mut cimxml::Client, class: &str, method: &str, job: &str) -> String {
    let (mut object, mut bindings) = (format!("{V2}:{class}"), String::new());
    for (n, (key, value)) in keys(class, job).into_iter().enumerate() {
        object += &format!("{}{key}=\"{value}\"", if n == 0 { '.' } else { ',' });
        bindings += &format!(
            "<KEYBINDING NAME=\"{key}\"><KEYVALUE VALUETYPE=\"string\">{value}</KEYVALUE></KEYBINDING>"
        );
    }
    let parameter = parameter(method).map_or(String::new(), |(n, kind, v)| {
        format!("<PARAMVALUE NAME=\"{n}\" PARAMTYPE=\"{kind}\"><VALUE>{v}</VALUE></PARAMVALUE>")
    });
    let call = cimxml::message(&format!(
        "<SIMPLEREQ><METHODCALL NAME=\"{method}\"><LOCALINSTANCEPATH>{}<INSTANCENAME \
         CLASSNAME=\"{class}\">{bindings}</INSTANCENAME></LOCALINSTANCEPATH>{parameter}</METHODCALL></SIMPLEREQ>",
        cimxml::path(V2)
    ));
    let answer = c.send(method, &object, &call).await;
    let value = answer
        .body
        .split_once("<RETURNVALUE PARAMTYPE=\"uint32\"><VALUE>");
    let value = value.unwrap_or_else(|| panic!("{method}: {}", answer.body)).1;
    value.split('<').next().unwrap().to_owned()
}

#[tokio::test]
async fn every_method_above_a_role_is_denied_on_the_wire_and_changes_nothing() {
    let host = host().await;
    let job = a_waiting_job(&host.world).await;
    let before = everything(&host.world);
    let mut denied = 0;
    for (user, role) in USERS {
        let mut wsman = wsman::client(&host, user).await;
        let mut cimxml = cimxml::client(&host, user).await;
        for (class, entries) in METHODS {
            for entry in entries.iter().filter(|e| e.role > role) {
                let values = [
                    by_wsman(&mut wsman, class, entry.method, &job).await,
                    by_cimxml(&mut cimxml, class, entry.method, &job).await,
                ];
                assert_eq!(values, ["32769", "32769"], "{user} {class}.{}", entry.method);
                denied += 2;
            }
        }
        // The VM is no test VM: its power is an operator's, though a tester may call the method.
        if role == Role::Tester {
            let values = [
                by_wsman(&mut wsman, "Msvm_ComputerSystem", "RequestStateChange", &job).await,
                by_cimxml(&mut cimxml, "Msvm_ShutdownComponent", "InitiateShutdown", &job).await,
            ];
            assert_eq!(values, ["32769", "32769"]);
        }
    }
    assert!(denied > 120, "{denied}");
    assert_eq!(everything(&host.world), before);
    host.stop().await;
}

/// A Subscribe with somewhere to send events to, by both protocols.
async fn listens(host: &Host, user: &'static str) -> (bool, bool) {
    let mut connection = host.connect(host.wsman).await;
    let auth = basic(user);
    let fields = [
        ("Authorization", auth.as_str()),
        ("Content-Type", "application/soap+xml;charset=UTF-8"),
    ];
    let pushed = connection
        .post("/wsman", &fields, &wish(PUSH, &notify(1), "PT60S"))
        .await;
    let denied = pushed.body.contains("AccessDenied");
    assert!(denied || pushed.status == 200, "{}", pushed.body);
    let filter = "<IPARAMVALUE NAME=\"NewInstance\"><INSTANCE CLASSNAME=\"CIM_IndicationFilter\">\
                  <PROPERTY NAME=\"Query\" TYPE=\"string\"><VALUE>SELECT * FROM CIM_InstModification</VALUE></PROPERTY>\
                  <PROPERTY NAME=\"QueryLanguage\" TYPE=\"string\"><VALUE>WQL</VALUE></PROPERTY>\
                  <PROPERTY NAME=\"SourceNamespaces\" TYPE=\"string\"><VALUE>root/virtualization/v2</VALUE></PROPERTY>\
                  </INSTANCE></IPARAMVALUE>";
    let mut c = cimxml::client(host, user).await;
    let made = c.error("root/interop", "CreateInstance", filter).await != 2;
    (!denied, made)
}

#[tokio::test]
async fn listeners_are_made_by_operators_and_administrators() {
    let host = host().await;
    for (user, role) in USERS {
        let may = role >= Role::Operator;
        assert_eq!(listens(&host, user).await, (may, may), "{user}");
        // Pulling is reading, which everybody may.
        let mut connection = host.connect(host.wsman).await;
        let auth = basic(user);
        let fields = [("Authorization", auth.as_str())];
        let text = wish(&format!("{MODES}Pull"), "", "PT60S").replace(
            "<e:EndTo><a:Address>http://127.0.0.1:1/</a:Address></e:EndTo>",
            "",
        );
        let answer = connection.post("/wsman", &fields, &text).await;
        assert_eq!(answer.status, 200, "{user}: {}", answer.body);
    }
    host.stop().await;
}

#[tokio::test]
async fn a_method_that_waits_answers_with_the_request_and_the_command() {
    let host = host_of_four_eyes().await;
    a_waiting_job(&host.world).await;
    let before = host.world.recorded(PRIMARY).unwrap().state;
    let uri = format!("{WMI}Msvm_ReplicationService");
    let name = "RemoveReplicationRelationship";
    let body = format!(
        "<p:{name}_INPUT xmlns:p=\"{uri}\"><p:ComputerSystem><a:Address>http://localhost/wsman</a:Address>\
         <a:ReferenceParameters><w:ResourceURI>{WMI}Msvm_ComputerSystem</w:ResourceURI><w:SelectorSet>\
         <w:Selector Name=\"CreationClassName\">Msvm_ComputerSystem</w:Selector><w:Selector Name=\"Name\">{VM}</w:Selector>\
         </w:SelectorSet></a:ReferenceParameters></p:ComputerSystem></p:{name}_INPUT>"
    );
    let ask = Ask::new(&format!("{uri}/{name}"), &uri).body(&body);
    let mut c = wsman::client(&host, "admin").await;
    let answer = c.fault(&ask, "w:AccessDenied").await;
    let asked = host.world.shared.state().hosts[PRIMARY].catalog.requests[0].clone();
    let how = format!("confirms request {}", asked.id);
    assert!(answer.body.contains(&how), "{}", answer.body);
    // The same by the other protocol is the same request of the same person.
    let reference = format!(
        "<PARAMVALUE NAME=\"ComputerSystem\" PARAMTYPE=\"reference\"><VALUE.REFERENCE><INSTANCENAME \
         CLASSNAME=\"Msvm_ComputerSystem\"><KEYBINDING NAME=\"CreationClassName\"><KEYVALUE>Msvm_ComputerSystem\
         </KEYVALUE></KEYBINDING><KEYBINDING NAME=\"Name\"><KEYVALUE>{VM}</KEYVALUE></KEYBINDING></INSTANCENAME>\
         </VALUE.REFERENCE></PARAMVALUE>"
    );
    let call = cimxml::message(&format!(
        "<SIMPLEREQ><METHODCALL NAME=\"{name}\"><LOCALINSTANCEPATH>{}<INSTANCENAME CLASSNAME=\"Msvm_ReplicationService\"/>\
         </LOCALINSTANCEPATH>{reference}</METHODCALL></SIMPLEREQ>",
        cimxml::path(V2)
    ));
    let mut c = cimxml::client(&host, "admin").await;
    let answer = c
        .send(name, &format!("{V2}:Msvm_ReplicationService"), &call)
        .await;
    assert!(
        answer.body.contains("<ERROR CODE=\"2\"") && answer.body.contains(&how),
        "{}",
        answer.body
    );
    assert_eq!(host.world.shared.state().hosts[PRIMARY].catalog.requests.len(), 1);
    assert_eq!(host.world.recorded(PRIMARY).unwrap().state, before);
    // Somebody on the host confirms it.
    let engine = host.world.engine(PRIMARY).unwrap();
    let request = asked.id;
    let answer = engine
        .perform(Some(By::process(0, None)), Action::ConfirmRequest { request })
        .await;
    assert!(answer.is_ok(), "{answer:?}");
    let removed = host.world.shared.state().hosts[PRIMARY].events.iter().any(|e| {
        let by = e.by.as_ref().map(By::names);
        by.as_deref() == Some("admin, confirmed by root") && e.message.contains("is carried out")
    });
    assert!(removed);
    host.stop().await;
}
