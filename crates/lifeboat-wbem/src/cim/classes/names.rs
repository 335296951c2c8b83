//! Names of instances. Ids and paths are made nowhere else, so that both sides of an association write them alike. Names are
//! not parsed here.

use lifeboat_cim::{InstanceName, ObjectPath};
use lifeboat_engine::action::PointView;
use lifeboat_model::{DiskId, JobId, RelationshipId, VmId};

use crate::cim::{HostFacts, VIRTUALIZATION};

/// The class of VMs and of the host.
pub(crate) const SYSTEM: &str = "Msvm_ComputerSystem";

/// A UUID as clients of this API write it, in capitals.
pub(crate) fn guid(id: impl std::fmt::Display) -> String {
    id.to_string().to_uppercase()
}

pub(super) fn path(class: &str, keys: &[(&str, &str)]) -> ObjectPath {
    ObjectPath::new(VIRTUALIZATION, InstanceName::new(class, keys))
}

/// A path to something whose only key is `InstanceID`.
pub(super) fn by_id(class: &str, id: &str) -> ObjectPath {
    path(class, &[("InstanceID", id)])
}

/// A path as text, with the host's name, as settings refer to each other.
pub(super) fn text(host: &HostFacts, path: ObjectPath) -> String {
    ObjectPath {
        host: Some(host.name.clone()),
        ..path
    }
    .to_string()
}

/// The host's Msvm_ComputerSystem.
pub(crate) fn host_path(host: &HostFacts) -> ObjectPath {
    path(SYSTEM, &[("CreationClassName", SYSTEM), ("Name", &host.name)])
}

/// A VM's Msvm_ComputerSystem.
pub(crate) fn vm_path(vm: VmId) -> ObjectPath {
    path(SYSTEM, &[("CreationClassName", SYSTEM), ("Name", &guid(vm))])
}

/// A service of this host.
pub(super) fn service_path(host: &HostFacts, class: &str, name: &str) -> ObjectPath {
    let keys = [
        ("SystemCreationClassName", SYSTEM),
        ("SystemName", &host.name),
        ("CreationClassName", class),
        ("Name", name),
    ];
    path(class, &keys)
}

/// The replication service.
pub(crate) fn replication_service_path(host: &HostFacts) -> ObjectPath {
    service_path(host, "Msvm_ReplicationService", "replicasvc")
}

/// A job.
pub(crate) fn job_path(job: JobId) -> ObjectPath {
    by_id("Msvm_ConcreteJob", &guid(job))
}

/// Which of a VM's relationships; `Microsoft:GUID\HVR\0`.
pub(super) fn relationship_id(vm: VmId, index: RelationshipId) -> String {
    format!("Microsoft:{}\\HVR\\{index}", guid(vm))
}

/// A relationship: index 0, or from 1 on for the extended ones.
pub(crate) fn relationship_path(vm: VmId, index: RelationshipId) -> ObjectPath {
    by_id("Msvm_ReplicationRelationship", &relationship_id(vm, index))
}

/// The settings of a relationship.
pub(crate) fn settings_path(vm: VmId, index: RelationshipId) -> ObjectPath {
    by_id("Msvm_ReplicationSettingData", &relationship_id(vm, index))
}

/// A VM's active settings.
pub(super) fn active_id(vm: VmId) -> String {
    format!("Microsoft:{}", guid(vm))
}

/// A part of a VM's settings.
pub(super) fn part_id(vm: VmId, part: &str) -> String {
    format!("{}\\{part}", active_id(vm))
}

/// A disk's setting data.
pub(crate) fn disk_path(vm: VmId, disk: &DiskId) -> ObjectPath {
    by_id("Msvm_StorageAllocationSettingData", &part_id(vm, disk.as_str()))
}

/// A MAC address without colons, in capitals.
pub(super) fn plain_mac(mac: &str) -> String {
    mac.replace(':', "").to_uppercase()
}

/// A recovery point as the settings of a snapshot, by the GUID of its instant; `None` for what is none.
pub(super) fn point_id(point: &PointView) -> Option<String> {
    point.guid.map(|id| format!("Microsoft:{}", guid(id)))
}

/// A recovery point; `None` for what is none.
pub(crate) fn point_path(point: &PointView) -> Option<ObjectPath> {
    let id = point_id(point)?;
    Some(by_id("Msvm_VirtualSystemSettingData", &id))
}
