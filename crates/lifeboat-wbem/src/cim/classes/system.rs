//! The host and its VMs as computer systems, and the little of a guest's services that is known: an agent's channel.

use lifeboat_cim::Instance;
use lifeboat_engine::action::{ReplicationView, TestStage, VmView};
use lifeboat_model::power::PowerState;
use lifeboat_model::{
    FailedOverReplicationType, ReplicationHealth, ReplicationMode, ReplicationState, Timestamp,
};

use super::names::{SYSTEM, guid, host_path, part_id, path, vm_path};
use super::{ClassView, Make, element, instant, link, view, well};
use crate::cim::HostFacts;
use crate::cim::facts::{HostParts, VmParts};

pub(super) const CLASSES: &[ClassView] = &[
    view(SYSTEM, Make::Host(host)),
    view(SYSTEM, Make::Vm(vm)),
    view("Msvm_HostedDependency", Make::Vm(hosted)),
    view("Msvm_ReplicaSystemDependency", Make::Vm(test_of)),
    view("Msvm_ShutdownComponent", Make::Vm(shutdown)),
    view("Msvm_HeartbeatComponent", Make::Vm(heartbeat)),
    view("Msvm_KvpExchangeComponent", Make::Vm(exchange)),
    view("Msvm_SystemDevice", Make::Vm(devices)),
];

fn host(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let name = &host.name;
    let system = element(
        SYSTEM,
        "Hosting Computer System",
        "Microsoft Hosting Computer System",
        name,
    );
    let system = well(system)
        .with("CreationClassName", SYSTEM)
        .with("Name", name.as_str())
        .with("EnabledState", 2_u16)
        .with("RequestedState", 12_u16)
        .with("EnabledDefault", 2_u16)
        .with("Dedicated", vec![0_u16])
        .with("ResetCapability", 1_u16)
        .with("NumberOfNumaNodes", 1_u16)
        .with("EnhancedSessionModeState", 3_u16);
    vec![replicated(system, None)]
}

fn vm(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let view = &of.view;
    let description = "Microsoft Virtual Machine";
    let system = element(SYSTEM, "Virtual Machine", description, &view.spec.name)
        .with("CreationClassName", SYSTEM)
        .with("Name", guid(view.spec.uuid))
        .with("OperationalStatus", vec![operational_status(view)])
        .with("StatusDescriptions", vec![status_description(view)])
        .with("Status", status_text(view))
        .with("HealthState", health_state(view))
        .with("EnabledState", enabled_state(shown_power(view)))
        .with("RequestedState", 12_u16)
        .with("EnabledDefault", 3_u16)
        .with("AvailableRequestedStates", vec![2_u16, 3, 9, 11])
        .with("Dedicated", vec![0_u16])
        .with("ResetCapability", 1_u16)
        .with_some("OnTimeInMilliseconds", on_time(view))
        .with_some("ProcessID", view.process.map(|p| p.pid))
        .with_some("InstallDate", view.times.known.map(instant))
        .with_some("TimeOfLastStateChange", view.times.power.map(instant))
        .with_some(
            "TimeOfLastConfigurationChange",
            view.times.configured.map(instant),
        )
        .with("NumberOfNumaNodes", 1_u16)
        .with("EnhancedSessionModeState", 3_u16);
    vec![replicated(system, view.replication.as_ref())]
}

/// The power state that is shown: the last known one while it is unknown, because one query that takes too long is no change
/// of state. But "off" is shown only of a VM that is known to be off now: clients act on it.
pub(super) fn shown_power(view: &VmView) -> PowerState {
    match (view.power, view.power_note.as_ref().and_then(|n| n.before)) {
        (PowerState::Unknown, Some(before)) if before.power != PowerState::Off => before.power,
        (power, _) => power,
    }
}

/// Time since the VM was started, in milliseconds: 0 when it is off, `None` when it is not known.
pub(super) fn on_time(view: &VmView) -> Option<u64> {
    match (view.power, view.process) {
        (PowerState::Off, _) => Some(0),
        (_, process) => process.map(|p| p.age_ms),
    }
}

/// `EnabledState` of a power state.
pub(super) fn enabled_state(power: PowerState) -> u16 {
    match power {
        PowerState::Running => 2,
        PowerState::Off => 3,
        PowerState::Paused | PowerState::Stalled => 9,
        PowerState::Unknown => 0,
    }
}

/// `OperationalStatus`: unknown when this host cannot tell, degraded when the guest is stalled because of its disks.
pub(super) fn operational_status(view: &VmView) -> u16 {
    match view.power {
        PowerState::Running | PowerState::Off | PowerState::Paused => 2,
        PowerState::Stalled => 3,
        PowerState::Unknown => 0,
    }
}

/// `StatusDescriptions`: the operational status in words, with the reason where there is one.
fn status_description(view: &VmView) -> String {
    let text = status_text(view);
    match &view.power_note {
        Some(note) => format!("{text}: {}", note.reason),
        None => text.to_owned(),
    }
}

pub(super) fn status_text(view: &VmView) -> &'static str {
    match view.power {
        PowerState::Running | PowerState::Off | PowerState::Paused => "OK",
        PowerState::Stalled => "Degraded",
        PowerState::Unknown => "Unknown",
    }
}

/// `HealthState` of the machine itself, not of its replication.
pub(super) fn health_state(view: &VmView) -> u16 {
    match view.power {
        PowerState::Running | PowerState::Off | PowerState::Paused => 5,
        PowerState::Stalled => 20,
        PowerState::Unknown => 0,
    }
}

/// The properties that relationship and system share; the system's are those of its first relationship.
fn replicated(system: Instance, replication: Option<&ReplicationView>) -> Instance {
    let mode = replication.map_or(ReplicationMode::None, |r| r.mode);
    let state = replication.map_or(ReplicationState::Disabled, |r| r.state);
    let health = replication.map_or(ReplicationHealth::NotApplicable, |r| r.health);
    let facts = replication.map(Replicated::of).unwrap_or_default();
    facts.add(
        system
            .with("ReplicationMode", mode.number())
            .with("ReplicationState", state.number())
            .with("ReplicationHealth", health.number()),
    )
}

/// What was replicated last, and what the VM is failed over to.
pub(super) struct Replicated {
    failed_over: FailedOverReplicationType,
    kind: FailedOverReplicationType,
    last: Option<Timestamp>,
    application: Option<Timestamp>,
}

impl Default for Replicated {
    fn default() -> Self {
        Self {
            failed_over: FailedOverReplicationType::None,
            kind: FailedOverReplicationType::None,
            last: None,
            application: None,
        }
    }
}

impl Replicated {
    /// The first relationship of a VM.
    pub(super) fn of(replication: &ReplicationView) -> Self {
        let failover = replication.failover.as_ref();
        let mut facts = Self::last(replication.last_replication);
        facts.application = replication.last_application;
        if replication.state == ReplicationState::SyncedReplicationComplete {
            facts.kind = FailedOverReplicationType::Planned;
        } else if facts.application.is_some() && facts.application == replication.newest_instant {
            facts.kind = FailedOverReplicationType::ApplicationConsistent;
        }
        facts.failed_over = failover.map_or(FailedOverReplicationType::None, |f| f.kind);
        facts
    }

    /// A relationship of which nothing but the time of the last replication is known: what arrived was at least a
    /// regular one.
    pub(super) fn last(at: Option<Timestamp>) -> Self {
        Self {
            kind: match at {
                Some(_) => FailedOverReplicationType::Regular,
                None => FailedOverReplicationType::None,
            },
            last: at,
            ..Self::default()
        }
    }

    /// The same in an instance.
    pub(super) fn add(self, instance: Instance) -> Instance {
        instance
            .with("FailedOverReplicationType", self.failed_over.number())
            .with("LastReplicationType", self.kind.number())
            .with_some("LastReplicationTime", self.last.map(instant))
            .with_some(
                "LastApplicationConsistentReplicationTime",
                self.application.map(instant),
            )
    }
}

fn hosted(host: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let (host, vm) = (host_path(host), vm_path(of.view.spec.uuid));
    vec![link(
        "Msvm_HostedDependency",
        ("Antecedent", host),
        ("Dependent", vm),
    )]
}

/// A test VM that exists; not one that is being made or thrown away.
fn test_of(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let test = of.view.replication.as_ref().and_then(|r| r.test.as_ref());
    let test = test.filter(|t| t.stage == TestStage::Ready);
    let dependency = |vm| {
        let replica = ("Antecedent", vm_path(of.view.spec.uuid));
        link(
            "Msvm_ReplicaSystemDependency",
            replica,
            ("Dependent", vm_path(vm)),
        )
    };
    test.map(|t| dependency(t.vm)).into_iter().collect()
}

/// The services in the guest that a client may look for: class, name, what it is called.
const COMPONENTS: [(&str, &str, &str); 3] = [
    ("Msvm_ShutdownComponent", "Shutdown", "Microsoft Shutdown Service"),
    (
        "Msvm_HeartbeatComponent",
        "Heartbeat",
        "Microsoft Heartbeat Service",
    ),
    (
        "Msvm_KvpExchangeComponent",
        "Key-Value Pair Exchange",
        "Microsoft Key-Value Pair Exchange Service",
    ),
];

/// The services of a VM's guest: all of them when it runs and has a channel for the agent that serves them, otherwise none.
fn components(of: &VmParts) -> &'static [(&'static str, &'static str, &'static str)] {
    if of.view.power == PowerState::Running && of.view.spec.guest_agent {
        &COMPONENTS
    } else {
        &[]
    }
}

fn device_id(of: &VmParts, class: &str) -> String {
    part_id(of.view.spec.uuid, class)
}

fn component(of: &VmParts, wanted: &str) -> Vec<Instance> {
    let found = components(of).iter().filter(|(class, _, _)| *class == wanted);
    let make = |(class, name, description): &(&str, &str, &str)| {
        well(element(class, name, description, name))
            .with("Name", *name)
            .with("EnabledState", 2_u16)
            .with("RequestedState", 12_u16)
            .with("EnabledDefault", 7_u16)
            .with("SystemCreationClassName", SYSTEM)
            .with("SystemName", guid(of.view.spec.uuid))
            .with("CreationClassName", *class)
            .with("DeviceID", device_id(of, class))
            .with("Availability", 6_u16)
            .with("AdditionalAvailability", vec![6_u16])
    };
    found.map(make).collect()
}

fn shutdown(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    component(of, "Msvm_ShutdownComponent")
}

fn heartbeat(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    component(of, "Msvm_HeartbeatComponent")
}

fn exchange(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    component(of, "Msvm_KvpExchangeComponent")
}

fn devices(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let vm = of.view.spec.uuid;
    let device = |(class, _, _): &(&str, &str, &str)| {
        let keys = [
            ("SystemCreationClassName", SYSTEM),
            ("SystemName", &guid(vm)),
            ("CreationClassName", class),
            ("DeviceID", &device_id(of, class)),
        ];
        let device = ("PartComponent", path(class, &keys));
        link("Msvm_SystemDevice", ("GroupComponent", vm_path(vm)), device)
    };
    components(of).iter().map(device).collect()
}
