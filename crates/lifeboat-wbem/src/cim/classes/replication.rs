//! Relationships and their settings. A VM has settings of a relationship before it is replicated: clients read them,
//! change them and send them back.

use lifeboat_cim::{Instance, ObjectPath};
use lifeboat_engine::action::{ExtendedView, ReplicationView, VmView};
use lifeboat_model::{
    DayWindow, DiskId, RelationshipId, ReplicationHealth, ReplicationMode, ReplicationSettings,
    ReplicationState,
};

use super::names::{disk_path, guid, relationship_id, relationship_path, settings_path, text, vm_path};
use super::service::{has_settings, provider_path};
use super::system::Replicated;
use super::{ClassView, Make, element, link, span, view};
use crate::cim::HostFacts;
use crate::cim::facts::VmParts;

pub(super) const CLASSES: &[ClassView] = &[
    view("Msvm_ReplicationRelationship", Make::Vm(relationships)),
    view("Msvm_ReplicationSettingData", Make::Vm(settings)),
    view("Msvm_SystemReplicationRelationship", Make::Vm(of_system)),
    view("Msvm_SettingsDefineState", Make::Vm(define_state)),
    view("Msvm_ElementSettingData", Make::Vm(of_element)),
];

/// The interval in settings of a VM that is not replicated yet, in seconds.
const INTERVAL_S: u16 = 300;
/// The window for resynchronizations that settings without one show, in minutes of the day: 18:30 to 6:00.
const WINDOW: DayWindow = DayWindow {
    from_min: 18 * 60 + 30,
    to_min: 6 * 60,
};

/// Indices of a VM's relationships: none of a VM that is not replicated, and none of a test VM.
fn indices(view: &VmView) -> Vec<RelationshipId> {
    match view.replication.as_ref() {
        Some(r) if r.mode == ReplicationMode::TestReplica => Vec::new(),
        Some(r) => {
            let outgoing = r.outgoing().map(|one| one.relationship);
            std::iter::once(RelationshipId::OWN).chain(outgoing).collect()
        }
        None => Vec::new(),
    }
}

/// Indices of a VM's settings: those of its relationships, and always the first.
fn setting_indices(view: &VmView) -> Vec<RelationshipId> {
    let mut all = indices(view);
    if all.is_empty() {
        all.push(RelationshipId::OWN);
    }
    all
}

fn relationship(
    view: &VmView,
    index: RelationshipId,
    state: ReplicationState,
    health: ReplicationHealth,
    facts: Replicated,
) -> Instance {
    let name = &view.spec.name;
    let instance = element(
        "Msvm_ReplicationRelationship",
        "Replication Relationship",
        "Replication of a virtual machine",
        name,
    )
    .with("InstanceID", relationship_id(view.spec.uuid, index))
    .with("ReplicationState", state.number())
    .with("ReplicationHealth", health.number());
    facts.add(instance)
}

fn relationships(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let Some(first) = of.view.replication.as_ref() else {
        return Vec::new();
    };
    let one = |index| match first.outgoing().find(|e| e.relationship == index) {
        Some(e) => relationship(
            &of.view,
            index,
            e.state,
            e.health,
            Replicated::last(e.last_replication),
        ),
        None => {
            let mut facts = relationship(&of.view, index, first.state, first.health, Replicated::of(first));
            if is_copy(first) {
                // A log counts as received when the VM can be brought up with it, which clients call applied.
                facts = facts.with_some("LastApplyTime", first.last_replication.map(super::instant));
            }
            facts
        }
    };
    indices(&of.view).into_iter().map(one).collect()
}

fn is_copy(replication: &ReplicationView) -> bool {
    match replication.mode {
        ReplicationMode::Replica | ReplicationMode::ExtendedReplica => true,
        ReplicationMode::None | ReplicationMode::Primary | ReplicationMode::TestReplica => false,
    }
}

/// The two hosts of a relationship as `HOST:PORT`, or only a name; empty when it is not known.
struct Hosts<'a> {
    primary: &'a str,
    recovery: &'a str,
}

/// A name without its port.
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn port_of(address: &str) -> u16 {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.unwrap_or(0)
}

/// The settings of a VM's relationship, as a client gets them.
fn setting_data(
    host: &HostFacts,
    view: &VmView,
    index: RelationshipId,
    hosts: &Hosts<'_>,
    settings: Option<&ReplicationSettings>,
) -> Instance {
    let vm = view.spec.uuid;
    let all: Vec<DiskId> = view.spec.disks.iter().map(|d| d.id.clone()).collect();
    let disks = match settings {
        Some(s) if !s.disks.is_empty() => &s.disks,
        Some(_) | None => &all,
    };
    let disks: Vec<String> = disks.iter().map(|d| text(host, disk_path(vm, d))).collect();
    let window = settings.and_then(|s| s.auto_resync);
    let shown = window.unwrap_or(WINDOW);
    let minute = |m: u16| span(u64::from(m) * 60);
    element(
        "Msvm_ReplicationSettingData",
        "Replication Settings",
        "Virtual Machine Replication Settings Data",
        &view.spec.name,
    )
    .with("InstanceID", relationship_id(vm, index))
    .with("VirtualSystemIdentifier", guid(vm))
    .with("VirtualSystemType", "Microsoft:Hyper-V:Replica")
    .with("AuthenticationType", 2_u16)
    .with("CertificateThumbPrint", "")
    .with("RootCertificateThumbPrint", "")
    .with("CompressionEnabled", settings.is_none_or(|s| s.compression))
    .with("BypassProxyServer", false)
    .with("RecoveryConnectionPoint", host_of(hosts.recovery))
    .with("RecoveryHostSystem", host_of(hosts.recovery))
    .with("PrimaryConnectionPoint", host_of(hosts.primary))
    .with("PrimaryHostSystem", host_of(hosts.primary))
    .with("RecoveryServerPortNumber", port_of(hosts.recovery))
    .with("ReplicateHostKvpItems", true)
    .with(
        "ApplicationConsistentSnapshotInterval",
        settings.map_or(0, |s| u16::from(s.application_h)),
    )
    .with("RecoveryHistory", settings.map_or(0, |s| s.history))
    .with("IncludedDisks", disks)
    .with("AutoResynchronizeEnabled", window.is_some())
    .with("AutoResynchronizeIntervalStart", minute(shown.from_min))
    .with("AutoResynchronizeIntervalEnd", minute(shown.to_min))
    .with("EnableWriteOrderPreservationAcrossDisks", true)
    .with("ReplicationProvider", text(host, provider_path()))
    .with(
        "ReplicationInterval",
        settings.map_or(INTERVAL_S, |s| s.interval_s),
    )
}

fn first_settings(host: &HostFacts, view: &VmView) -> Instance {
    let none = Hosts {
        primary: "",
        recovery: "",
    };
    let Some(replication) = view.replication.as_ref() else {
        return setting_data(host, view, RelationshipId::OWN, &none, None);
    };
    // The settings of a replica are a copy of its primary's: the peer in them is this host, as the primary calls it.
    let hosts = match replication.mode {
        ReplicationMode::None | ReplicationMode::TestReplica => none,
        ReplicationMode::Primary => Hosts {
            primary: &host.name,
            recovery: &replication.settings.peer,
        },
        ReplicationMode::Replica | ReplicationMode::ExtendedReplica => Hosts {
            primary: &replication.peer,
            recovery: &replication.settings.peer,
        },
    };
    setting_data(
        host,
        view,
        RelationshipId::OWN,
        &hosts,
        Some(&replication.settings),
    )
}

fn extended_settings(host: &HostFacts, view: &VmView, extended: &ExtendedView) -> Instance {
    let hosts = Hosts {
        primary: &host.name,
        recovery: &extended.settings.peer,
    };
    setting_data(
        host,
        view,
        extended.relationship,
        &hosts,
        Some(&extended.settings),
    )
}

fn settings(host: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let replication = of.view.replication.as_ref();
    let one = |index| {
        let outgoing = replication.and_then(|r| r.outgoing().find(|e| e.relationship == index));
        match outgoing {
            Some(e) => extended_settings(host, &of.view, e),
            None => first_settings(host, &of.view),
        }
    };
    setting_indices(&of.view).into_iter().map(one).collect()
}

fn of_system(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let vm = of.view.spec.uuid;
    let one = |index| {
        let dependent = ("Dependent", relationship_path(vm, index));
        link(
            "Msvm_SystemReplicationRelationship",
            ("Antecedent", vm_path(vm)),
            dependent,
        )
    };
    indices(&of.view).into_iter().map(one).collect()
}

/// Settings that say what the state of something is.
pub(super) fn defines(element: ObjectPath, settings: ObjectPath) -> Instance {
    let ends = (("ManagedElement", element), ("SettingData", settings));
    link("Msvm_SettingsDefineState", ends.0, ends.1)
}

fn define_state(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let vm = of.view.spec.uuid;
    let one = |index| defines(relationship_path(vm, index), settings_path(vm, index));
    indices(&of.view).into_iter().map(one).collect()
}

fn of_element(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let vm = of.view.spec.uuid;
    let one = |index| has_settings(vm_path(vm), settings_path(vm, index));
    setting_indices(&of.view).into_iter().map(one).collect()
}
