//! Which recovery points of a replica are listed. The API's history is a number of points; a replica may have many more,
//! because any-point recovery needs them and because each cycle of its window can be brought back. Those that are not listed
//! have names too: an instant that was listed once is found by its name for as long as it exists. Which instants exist, the
//! engine says.

use lifeboat_engine::action::{PointView, VmView};
use lifeboat_engine::point_guid;
use lifeboat_model::Target;

/// An instant that can be brought back.
pub(crate) struct Recovery {
    /// The instant.
    pub(crate) point: PointView,
    /// Whether enumerations and associations show it.
    pub(crate) listed: bool,
}

/// Whether this VM is failed over to this instant. The time is compared as well: the instant may have been a cycle when the
/// failover began, and a point since.
pub(crate) fn is_used(view: &VmView, point: &PointView) -> bool {
    let failover = view.replication.as_ref().and_then(|r| r.failover.as_ref());
    failover.is_some_and(|f| {
        f.point == point.target || f.position.is_some_and(|at| point.guid == Some(point_guid(at)))
    })
}

/// The instants of a replica, newest first: the newest of all and, before it, as many sealed points as the history says
/// are listed, and the one that the VM is failed over to.
pub(crate) fn recoveries(view: &VmView, points: Vec<PointView>) -> Vec<Recovery> {
    let history = view.replication.as_ref().map_or(0, |r| r.settings.history);
    let mut room = usize::from(history) + 1;
    let mut newest = true;
    let recovery = |point: PointView| {
        let first = std::mem::replace(&mut newest, false);
        let counts = match point.target {
            Target::Point { .. } => true,
            Target::Cycle { .. } => first,
            Target::Abandoned => return None,
        };
        let listed = counts && room > 0;
        room -= usize::from(listed);
        Some(Recovery {
            listed: listed || is_used(view, &point),
            point,
        })
    };
    points.into_iter().filter_map(recovery).collect()
}
