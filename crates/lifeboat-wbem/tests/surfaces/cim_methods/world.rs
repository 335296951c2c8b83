//! A simulated world as a client of the management API sees it: calls of methods with parameters as the protocols hand
//! them over, jobs that are polled, instances that are read.

use std::sync::Arc;

use lifeboat_cim::{CimError, Instance, InstanceName, ObjectPath, Raw, Value};
use lifeboat_sim::{VM, World};
use lifeboat_wbem::cim::{
    Caller, Certificates, Found, HostFacts, ObjectManager, Outcome, Role, VIRTUALIZATION,
};

use crate::cim_views::world::Counting;
use crate::facts::facts;

/// Parameters as they come from a codec.
pub type Args = Vec<(String, Raw)>;

/// The host's certificate, as far as the API is concerned.
pub const CERTIFICATE: &[u8] = b"not really DER";
/// The VM's network card.
pub const MAC: &str = "52:54:00:00:00:01";

/// The object manager of a host, as it is at this moment, and what it asks the engine.
pub fn counted(w: &World, host: usize) -> (Arc<ObjectManager>, Arc<Counting>) {
    let engine = w.engine(host).unwrap();
    let facts = HostFacts {
        certificates: Certificates::Fixed(vec![CERTIFICATE.to_vec()]),
        media_directories: vec!["/media".into(), "/nowhere".into()],
        ..facts(w, host)
    };
    let counting = Counting::new(engine);
    (
        ObjectManager::new(counting.clone(), facts, w.clock(host)),
        counting,
    )
}

/// The same without what it asks.
pub fn manager(w: &World, host: usize) -> Arc<ObjectManager> {
    counted(w, host).0
}

pub fn guid() -> String {
    VM.to_string().to_uppercase()
}

/// A path to a VM.
pub fn system(name: &str) -> ObjectPath {
    let keys = [("CreationClassName", "Msvm_ComputerSystem"), ("Name", name)];
    ObjectPath::new(VIRTUALIZATION, InstanceName::new("Msvm_ComputerSystem", &keys))
}

/// A parameter.
pub fn arg(name: &str, raw: Raw) -> (String, Raw) {
    (name.to_owned(), raw)
}

/// A parameter that is text, as numbers and booleans are on the wire.
pub fn text(name: &str, value: &str) -> (String, Raw) {
    arg(name, Raw::Text(value.to_owned()))
}

/// The VM as the parameter that nearly every method has.
pub fn vm() -> (String, Raw) {
    arg("ComputerSystem", Raw::Path(system(&guid())))
}

/// A reference by an InstanceID.
pub fn by_id(class: &str, id: &str) -> Raw {
    Raw::Path(ObjectPath::new(
        VIRTUALIZATION,
        InstanceName::new(class, &[("InstanceID", id)]),
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// An embedded instance as its XML. Values are (name, type, value); a type with `[]` takes values that are separated by
/// blanks, and none when it is empty.
pub fn xml(class: &str, values: &[(&str, &str, &str)]) -> String {
    let mut out = format!("<INSTANCE CLASSNAME=\"{class}\">");
    for (name, kind, value) in values {
        match kind.strip_suffix("[]") {
            Some(kind) => {
                out += &format!("<PROPERTY.ARRAY NAME=\"{name}\" TYPE=\"{kind}\"><VALUE.ARRAY>");
                for item in value.split_whitespace() {
                    out += &format!("<VALUE>{}</VALUE>", escaped(item));
                }
                out += "</VALUE.ARRAY></PROPERTY.ARRAY>";
            }
            None => {
                let value = escaped(value);
                out +=
                    &format!("<PROPERTY NAME=\"{name}\" TYPE=\"{kind}\"><VALUE>{value}</VALUE></PROPERTY>");
            }
        }
    }
    out + "</INSTANCE>"
}

/// Settings of a relationship as a parameter.
pub fn settings(values: &[(&str, &str, &str)]) -> (String, Raw) {
    text(
        "ReplicationSettingData",
        &xml("Msvm_ReplicationSettingData", values),
    )
}

/// Settings that lead to a peer, and nothing else.
pub fn to(peer: &str) -> (String, Raw) {
    settings(&[
        ("RecoveryConnectionPoint", "string", peer),
        ("RecoveryServerPortNumber", "uint16", "7000"),
        ("AuthenticationType", "uint16", "2"),
        ("ReplicationInterval", "uint16", "10"),
        ("RecoveryHistory", "uint16", "3"),
    ])
}

/// A relationship of the VM as a parameter.
pub fn relationship(index: u8) -> (String, Raw) {
    let id = format!("Microsoft:{}\\HVR\\{index}", guid());
    let xml = xml("Msvm_ReplicationRelationship", &[("InstanceID", "string", &id)]);
    text("ReplicationRelationship", &xml)
}

/// The instance of a service.
pub fn service(class: &str) -> InstanceName {
    InstanceName::new(class, &[])
}

pub fn replication_service() -> InstanceName {
    service("Msvm_ReplicationService")
}

pub fn caller(role: Role) -> Caller {
    Caller {
        name: "tester".into(),
        role,
        from: None,
    }
}

/// Calls a method as an administrator.
pub async fn call(
    w: &World,
    host: usize,
    target: InstanceName,
    method: &str,
    args: Args,
) -> Result<Outcome, CimError> {
    let manager = manager(w, host);
    manager
        .invoke(
            &caller(Role::Administrator),
            VIRTUALIZATION,
            &target,
            method,
            args,
        )
        .await
}

/// Calls a method of the replication service, which must be a call that can be carried out.
pub async fn ask(w: &World, host: usize, method: &str, args: Args) -> Outcome {
    call(w, host, replication_service(), method, args).await.unwrap()
}

/// Asks for another state of the VM's replication.
pub async fn ask_state(w: &World, host: usize, state: &str) -> Outcome {
    let args = vec![text("RequestedState", state)];
    call(
        w,
        host,
        system(&guid()).name,
        "RequestReplicationStateChange",
        args,
    )
    .await
    .unwrap()
}

pub fn out<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a Value> {
    outcome.out.iter().find(|(n, _)| n == name).map(|(_, v)| v)
}

/// The instance that an output parameter refers to.
pub fn referred(outcome: &Outcome, name: &str) -> InstanceName {
    match out(outcome, name) {
        Some(Value::Reference(path)) => path.name.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

pub async fn read(w: &World, host: usize, name: &InstanceName) -> Instance {
    manager(w, host).get(VIRTUALIZATION, name).await.unwrap()
}

/// Polls the job of an answer to its end, as clients do; its last JobState.
pub async fn ended(w: &World, host: usize, outcome: &Outcome) -> u64 {
    assert_eq!(outcome.value, 4096, "no job: {outcome:?}");
    let name = referred(outcome, "Job");
    assert_eq!(name.class, "Msvm_ConcreteJob");
    for _ in 0..600 {
        let state = read(w, host, &name).await.unsigned("JobState").unwrap();
        if state >= 7 {
            return state;
        }
        w.write(1);
        w.run(1).await;
    }
    panic!("{name:?} does not end");
}

/// A method whose job ends well.
pub async fn complete(w: &World, host: usize, method: &str, args: Args) -> Outcome {
    let outcome = ask(w, host, method, args).await;
    assert_eq!(ended(w, host, &outcome).await, 7, "{method}");
    outcome
}

/// A method that is done when it is answered.
pub async fn done(w: &World, host: usize, method: &str, args: Args) -> Outcome {
    let outcome = ask(w, host, method, args).await;
    assert_eq!(outcome.value, 0, "{method}");
    outcome
}

/// Mode and state of the VM's replication as Msvm_ComputerSystem shows them.
pub async fn stands(w: &World, host: usize) -> (u64, u64) {
    let vm = read(w, host, &system(&guid()).name).await;
    let number = |name| vm.unsigned(name).unwrap_or(0);
    (number("ReplicationMode"), number("ReplicationState"))
}

/// Waits for a mode and a state.
pub async fn until(w: &World, host: usize, wanted: (u64, u64)) {
    for _ in 0..300 {
        if stands(w, host).await == wanted {
            return;
        }
        w.write(1);
        w.run(1).await;
    }
    let is = stands(w, host).await;
    panic!(
        "host {host} is {is:?}, not {wanted:?}:\n{}",
        w.tail(30).join("\n")
    );
}

/// Recovery points of the VM on a host, newest first, as their InstanceIDs.
pub async fn points(w: &World, host: usize) -> Vec<String> {
    let mut all = manager(w, host)
        .enumerate(VIRTUALIZATION, "Msvm_VirtualSystemSettingData")
        .await
        .unwrap();
    let mut found = Vec::new();
    while let Some(Found { instance, .. }) = all.next().await.unwrap() {
        let kind = instance.text("VirtualSystemType").unwrap_or_default();
        if kind.starts_with("Microsoft:Hyper-V:Snapshot:Replica:") {
            found.push(instance.text("InstanceID").unwrap().to_owned());
        }
    }
    found
}

/// A recovery point as a parameter.
pub fn snapshot(id: &str) -> (String, Raw) {
    arg("SnapshotSettingData", by_id("Msvm_VirtualSystemSettingData", id))
}
