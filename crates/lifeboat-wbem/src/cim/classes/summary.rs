//! The summary of a VM, which a method gives back and which is nowhere enumerated.

use lifeboat_cim::Instance;
use lifeboat_engine::action::TestStage;
use lifeboat_model::power::PowerState;
use lifeboat_model::{Firmware, Hardware, ReplicationHealth, ReplicationMode, ReplicationState};

use super::instant;
use super::names::{active_id, guid, point_path, text, vm_path};
use super::system::{enabled_state, health_state, on_time, operational_status, shown_power, status_text};
use crate::cim::HostFacts;
use crate::cim::facts::VmParts;

/// Msvm_SummaryInformation of a VM, with everything that is known. Snapshots are paths, as text.
pub(crate) fn summary(host: &HostFacts, of: &VmParts) -> Instance {
    let view = &of.view;
    let replication = view.replication.as_ref();
    let outgoing = || replication.into_iter().flat_map(|r| r.outgoing());
    let states = replication.iter().map(|r| r.state);
    let states = states
        .chain(outgoing().map(|e| e.state))
        .map(ReplicationState::number);
    let healths = replication.iter().map(|r| r.health);
    let healths = healths
        .chain(outgoing().map(|e| e.health))
        .map(ReplicationHealth::number);
    let test = replication.and_then(|r| r.test.as_ref());
    let test = test
        .filter(|t| t.stage == TestStage::Ready)
        .map(|t| vm_path(t.vm));
    let agent = view.power == PowerState::Running && view.spec.guest_agent;
    let Hardware::Own(hardware) = &view.spec.hardware;
    let generation = match hardware.firmware {
        Firmware::Bios => "Microsoft:Hyper-V:SubType:1",
        Firmware::Uefi { .. } => "Microsoft:Hyper-V:SubType:2",
    };
    let points = of.points().filter_map(point_path);
    Instance::new("Msvm_SummaryInformation")
        .with("InstanceID", active_id(view.spec.uuid))
        .with("Name", guid(view.spec.uuid))
        .with("ElementName", view.spec.name.as_str())
        .with("HostComputerSystemName", host.name.as_str())
        .with("EnabledState", enabled_state(shown_power(view)))
        .with("HealthState", health_state(view))
        .with("OperationalStatus", vec![operational_status(view)])
        .with("StatusDescriptions", vec![status_text(view)])
        .with("NumberOfProcessors", view.spec.cpus)
        .with("MemoryUsage", u64::from(view.spec.memory_mib))
        .with("Notes", "")
        .with("Version", hardware.machine.as_str())
        .with_some("UpTime", on_time(view))
        .with_some("CreationTime", view.times.known.map(instant))
        .with("Heartbeat", if agent { 2_u16 } else { 12 })
        .with("Shielded", false)
        .with("SwapFilesInUse", false)
        .with("MemorySpansPhysicalNumaNodes", false)
        .with("EnhancedSessionModeState", 3_u16)
        .with("VirtualSystemSubType", generation)
        .with("Snapshots", points.map(|p| text(host, p)).collect::<Vec<_>>())
        .with(
            "ReplicationMode",
            replication.map_or(ReplicationMode::None, |r| r.mode).number(),
        )
        .with(
            "ReplicationState",
            replication
                .map_or(ReplicationState::Disabled, |r| r.state)
                .number(),
        )
        .with(
            "ReplicationHealth",
            replication
                .map_or(ReplicationHealth::NotApplicable, |r| r.health)
                .number(),
        )
        .with("ReplicationStateEx", states.collect::<Vec<_>>())
        .with("ReplicationHealthEx", healths.collect::<Vec<_>>())
        .with_some("TestReplicaSystem", test)
}
