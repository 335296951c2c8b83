//! Recovery points of a replica as settings of snapshots, and the way back from such an instance to a point.

use lifeboat_cim::{CimError, Instance, InstanceName, ObjectPath, Status};
use lifeboat_deltalog::Consistency;
use lifeboat_engine::action::{PointSelector, PointView};

use super::names::{point_id, point_path, text, vm_path};
use super::settings::{ACTIVE, machine};
use super::{ClassView, Make, instant, link, view};
use crate::cim::HostFacts;
use crate::cim::facts::VmParts;

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
    let all = of.points();
    let one = |(n, point): (usize, &PointView)| {
        let id = point_id(&point.target)?;
        let at = instant(point.instant);
        let name = format!(
            "{} - {} - ({})",
            of.view.spec.name,
            words(point.consistency),
            at.to_iso()
        );
        let description = "Snapshot settings for the virtual machine";
        let settings = machine(&of.view, &id, kind(point.consistency), &name, description);
        // Newest first: what a point builds upon comes after it.
        let parent = all.get(n + 1).and_then(point_path).map(|p| text(host, p));
        Some(settings.with("CreationTime", at).with_some("Parent", parent))
    };
    all.iter().enumerate().filter_map(one).collect()
}

fn snapshots(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let vm = of.view.spec.uuid;
    let snapshot = |p: ObjectPath| {
        let antecedent = ("Antecedent", vm_path(vm));
        link("Msvm_SnapshotOfVirtualSystem", antecedent, ("Dependent", p))
    };
    of.points().iter().filter_map(point_path).map(snapshot).collect()
}

fn newest(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let vm = of.view.spec.uuid;
    let newest = of.points().first().and_then(point_path);
    let current = |p| {
        let antecedent = ("Antecedent", vm_path(vm));
        link("Msvm_MostCurrentSnapshotInBranch", antecedent, ("Dependent", p))
    };
    newest.map(current).into_iter().collect()
}

/// The point that a VM is failed over to, while it is there: a commit lets it go.
fn applied(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let failover = of.view.replication.as_ref().and_then(|r| r.failover.as_ref());
    let used = failover.and_then(|f| of.points().iter().find(|p| p.target == f.target));
    let applied = |p| {
        let vm = ("Dependent", vm_path(of.view.spec.uuid));
        link("Msvm_LastAppliedSnapshot", ("Antecedent", p), vm)
    };
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
    let point = id.filter(|id| {
        let (uuid, sequence) = id
            .split_once(':')
            .map_or((*id, "1"), |(uuid, sequence)| (uuid, sequence));
        uuid.parse::<lifeboat_model::PointId>().is_ok() && sequence.parse::<u64>().is_ok()
    });
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
