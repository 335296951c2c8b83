//! Recovery points of a replica as settings of snapshots, and how the name of such an instance is mapped back to a point.

use lifeboat_cim::{CimError, Instance, InstanceName, ObjectPath, Status};
use lifeboat_deltalog::Consistency;
use lifeboat_engine::action::{PointSelector, PointView};

use super::names::{point_id, point_path, text, vm_path};
use super::settings::{ACTIVE, machine};
use super::{ClassView, Make, instant, link, view};
use crate::cim::HostFacts;
use crate::cim::facts::VmParts;
use crate::cim::recovery::is_used;

pub(super) const CLASSES: &[ClassView] = &[
    view(ACTIVE, Make::Points(points)),
    view("Msvm_SnapshotOfVirtualSystem", Make::Points(snapshots)),
    view("Msvm_MostCurrentSnapshotInBranch", Make::Points(newest)),
    view("Msvm_LastAppliedSnapshot", Make::Points(applied)),
];

/// `VirtualSystemType` of a recovery point.
fn kind(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Crash => "Microsoft:Hyper-V:Snapshot:Replica:Standard",
        Consistency::Application => "Microsoft:Hyper-V:Snapshot:Replica:ApplicationConsistent",
        Consistency::Planned => "Microsoft:Hyper-V:Snapshot:Replica:PlannedFailover",
    }
}

fn words(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Crash => "Standard Recovery Point",
        Consistency::Application => "Application-consistent Recovery Point",
        Consistency::Planned => "Planned Failover Recovery Point",
    }
}

fn points(host: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let one = |(point, builds_on): (&PointView, Option<&PointView>)| {
        let id = point_id(point)?;
        let at = instant(point.instant);
        let name = format!(
            "{} - {} - ({})",
            of.view.spec.name,
            words(point.consistency),
            at.to_iso()
        );
        let description = "Snapshot settings for the virtual machine";
        let settings = machine(&of.view, &id, kind(point.consistency), &name, description);
        let parent = builds_on.and_then(point_path).map(|p| text(host, p));
        Some(settings.with("CreationTime", at).with_some("Parent", parent))
    };
    of.chain().filter_map(one).collect()
}

fn snapshots(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let vm = of.view.spec.uuid;
    let snapshot = |p: ObjectPath| {
        let antecedent = ("Antecedent", vm_path(vm));
        link("Msvm_SnapshotOfVirtualSystem", antecedent, ("Dependent", p))
    };
    of.points().filter_map(point_path).map(snapshot).collect()
}

fn newest(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let vm = of.view.spec.uuid;
    let newest = of.points().next().and_then(point_path);
    let current = |p| {
        let antecedent = ("Antecedent", vm_path(vm));
        link("Msvm_MostCurrentSnapshotInBranch", antecedent, ("Dependent", p))
    };
    newest.map(current).into_iter().collect()
}

/// The association of a VM with the point that it is failed over to; none when a commit has ended the failover.
fn applied(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let applied = |p| {
        let vm = ("Dependent", vm_path(of.view.spec.uuid));
        link("Msvm_LastAppliedSnapshot", ("Antecedent", p), vm)
    };
    let used = of.points().find(|p| is_used(&of.view, p));
    used.and_then(point_path).map(applied).into_iter().collect()
}

/// The point that a name of a recovery point means. Whether there is one, the engine says.
///
/// # Errors
/// A name of something else.
pub(crate) fn selector(name: &InstanceName) -> Result<PointSelector, CimError> {
    let id = name
        .text("InstanceID")
        .and_then(|id| id.strip_prefix("Microsoft:"));
    let point = id.filter(|id| id.parse::<lifeboat_model::PointId>().is_ok());
    match point {
        Some(id) if name.class.eq_ignore_ascii_case(ACTIVE) => Ok(PointSelector::Id(id.to_lowercase())),
        Some(_) | None => {
            let class: String = name.class.chars().take(80).collect();
            let text = format!(
                "SnapshotSettingData: this {class} is no recovery point; take one that Msvm_SnapshotOfVirtualSystem leads to"
            );
            Err(CimError::new(Status::InvalidParameter, text))
        }
    }
}
