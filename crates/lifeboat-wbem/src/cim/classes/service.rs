//! The host's services and their settings, the provider of replication, and the authorization entries.

use lifeboat_cim::{Instance, ObjectPath};

use super::names::{SYSTEM, by_id, host_path, path, service_path, vm_path};
use super::{ClassView, Make, element, link, span, view, well};
use crate::cim::HostFacts;
use crate::cim::embedded::utc_minute;
use crate::cim::facts::{HostParts, ServerParts, VmParts};

pub(super) const CLASSES: &[ClassView] = &[
    view(REPLICATION, Make::Host(replication)),
    view(MANAGEMENT, Make::Host(management)),
    view(SNAPSHOTS, Make::Host(snapshots)),
    view(SETTINGS, Make::Server(settings)),
    view(MANAGEMENT_SETTINGS, Make::Host(management_settings)),
    view(ENTRY, Make::Server(entries)),
    view(PROVIDER, Make::Host(provider)),
    view("Msvm_HostedService", Make::Host(hosted)),
    view("Msvm_ElementSettingData", Make::Server(setting_data)),
    view("Msvm_ServiceAffectsElement", Make::Vm(affected)),
];

const REPLICATION: &str = "Msvm_ReplicationService";
const MANAGEMENT: &str = "Msvm_VirtualSystemManagementService";
const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";
const SETTINGS: &str = "Msvm_ReplicationServiceSettingData";
const MANAGEMENT_SETTINGS: &str = "Msvm_VirtualSystemManagementServiceSettingData";
const ENTRY: &str = "Msvm_ReplicationAuthorizationSettingData";
const PROVIDER: &str = "Msvm_ReplicationProvider";

/// A service of this host, with the texts by which people know it.
struct Service {
    class: &'static str,
    name: &'static str,
    caption: &'static str,
    description: &'static str,
}

/// The services.
const SERVICES: [Service; 3] = [
    Service {
        class: REPLICATION,
        name: "replicasvc",
        caption: "Hyper-V Replica Service",
        description: "Replication Service",
    },
    Service {
        class: MANAGEMENT,
        name: "vmms",
        caption: "Hyper-V Virtual System Management Service",
        description: "Service for creating, manipulating, and managing virtual machines",
    },
    Service {
        class: SNAPSHOTS,
        name: "vssnapsvc",
        caption: "Hyper-V Virtual System Snapshot Service",
        description: "Service for creating, destroying, and applying virtual machine snapshots",
    },
];

impl Service {
    fn path(&self, host: &HostFacts) -> ObjectPath {
        service_path(host, self.class, self.name)
    }

    fn instance(&self, host: &HostFacts) -> Vec<Instance> {
        let service = element(self.class, self.caption, self.description, self.caption);
        let service = well(service)
            .with("SystemCreationClassName", SYSTEM)
            .with("SystemName", host.name.as_str())
            .with("CreationClassName", self.class)
            .with("Name", self.name)
            .with("EnabledState", 2_u16)
            .with("RequestedState", 12_u16)
            .with("EnabledDefault", 2_u16)
            .with("Started", true);
        vec![service]
    }
}

fn replication(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    SERVICES[0].instance(host)
}

fn management(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    SERVICES[1].instance(host)
}

fn snapshots(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    SERVICES[2].instance(host)
}

fn settings_id(host: &HostFacts) -> String {
    format!("Microsoft:{}\\ReplicationService", host.name)
}

/// The host as a replica server. Peers prove themselves by certificates, on one port; plain HTTP is never taken, which is
/// what port 0 says.
fn settings(host: &HostFacts, of: &ServerParts) -> Vec<Instance> {
    let name = "Replication Service Settings";
    let description = "Virtual Machine Replication Service Settings Data";
    let settings = &of.view.settings;
    let data = element(SETTINGS, name, description, name)
        .with("InstanceID", settings_id(host))
        .with("RecoveryServerEnabled", settings.enabled)
        .with("AllowedAuthenticationType", 2_u16)
        .with("CertificateThumbPrint", "")
        .with("HttpsPort", host.peer_port)
        .with("HttpPort", 0_u16)
        .with(
            "MonitoringStartTime",
            span(u64::from(utc_minute(settings.monitoring_start_min, of.ahead_min)) * 60),
        )
        .with("MonitoringInterval", settings.monitoring_interval_s);
    vec![data]
}

fn management_settings_id(host: &HostFacts) -> String {
    format!("Microsoft:{}", host.name)
}

fn management_settings(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let name = "Hyper-V Virtual System Management Service";
    let description = "Settings for the Virtual System Management Service";
    let data = element(MANAGEMENT_SETTINGS, name, description, name)
        .with("InstanceID", management_settings_id(host))
        .with("DefaultExternalDataRoot", "")
        .with("DefaultVirtualHardDiskPath", "")
        .with("PrimaryOwnerContact", "")
        .with("PrimaryOwnerName", "")
        .with("NumaSpanningEnabled", true)
        .with("EnhancedSessionModeEnabled", false);
    vec![data]
}

/// The id of an entry; its primary is what is unique about it.
fn entry_id(primary: &str) -> String {
    format!("Microsoft:Authorization\\{primary}")
}

fn entries(_: &HostFacts, of: &ServerParts) -> Vec<Instance> {
    let entry = |e: &lifeboat_model::AuthorizationEntry| {
        let description = "A primary, or a group of them, that may replicate to this host";
        element(ENTRY, "Replication Authorization Entry", description, &e.primary)
            .with("InstanceID", entry_id(&e.primary))
            .with("AllowedPrimaryHostSystem", e.primary.as_str())
            .with("TrustGroup", e.trust_group.as_str())
            .with("ReplicaStorageLocation", e.storage_location.as_str())
    };
    of.entries.iter().map(entry).collect()
}

/// `Name` of the built-in provider of replication.
const PROVIDER_ID: &str = "22391CDC-272C-4DDF-BA88-9BEFB1A0975C";

/// The built-in provider.
pub(super) fn provider_path() -> ObjectPath {
    path(PROVIDER, &[("Name", PROVIDER_ID)])
}

fn provider(_: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let name = "Hyper-V Replica";
    let provider = element(PROVIDER, name, "Replication between hosts", name)
        .with("InstanceID", PROVIDER_ID)
        .with("Name", PROVIDER_ID)
        .with("OperationalStatus", vec![2_u16]);
    vec![provider]
}

fn hosted(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let hosted = |s: &Service| {
        let antecedent = ("Antecedent", host_path(host));
        link("Msvm_HostedService", antecedent, ("Dependent", s.path(host)))
    };
    SERVICES.iter().map(hosted).collect()
}

/// A service or a VM with settings that are in force.
pub(super) fn has_settings(of: ObjectPath, settings: ObjectPath) -> Instance {
    let ends = (("ManagedElement", of), ("SettingData", settings));
    link("Msvm_ElementSettingData", ends.0, ends.1)
        .with("IsDefault", 2_u16)
        .with("IsCurrent", 1_u16)
        .with("IsNext", 1_u16)
}

fn setting_data(host: &HostFacts, of: &ServerParts) -> Vec<Instance> {
    let entry = |e: &lifeboat_model::AuthorizationEntry| {
        has_settings(SERVICES[0].path(host), by_id(ENTRY, &entry_id(&e.primary)))
    };
    let own = has_settings(SERVICES[0].path(host), by_id(SETTINGS, &settings_id(host)));
    let managing = has_settings(
        SERVICES[1].path(host),
        by_id(MANAGEMENT_SETTINGS, &management_settings_id(host)),
    );
    [own, managing]
        .into_iter()
        .chain(of.entries.iter().map(entry))
        .collect()
}

fn affected(host: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let affected = |s: &Service| {
        let vm = ("AffectedElement", vm_path(of.view.spec.uuid));
        link(
            "Msvm_ServiceAffectsElement",
            vm,
            ("AffectingElement", s.path(host)),
        )
        .with("ElementEffects", vec![5_u16])
    };
    SERVICES.iter().map(affected).collect()
}
