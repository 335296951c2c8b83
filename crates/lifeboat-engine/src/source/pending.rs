//! How much waits to be sent: what a replica would lack if this host were lost now, in bytes. A primary knows it from the
//! dirty bitmaps of its running VM, a replica that is extended from the logs the third host does not have. Where neither
//! tells, it is not known; zero is said only of what was seen to be nothing.

use crate::core::order::places;
use crate::host::observe::{GLANCE, Observer};
use crate::port::hypervisor::{Hypervisor, Power};
use crate::port::store::ReplicaInfo;
use crate::record::{OutgoingRelationship, Relationship};
use lifeboat_model::DiskId;
use lifeboat_model::ReplicationState as State;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Whether what the replica lacks is what was recorded since its position. During the first copy and while copies are
/// compared it is not known how much of the rest differs, and after a split nothing of it will be sent.
fn is_recorded(rel: &Relationship) -> bool {
    let flows = matches!(
        rel.state,
        State::Replicating | State::SyncedReplicationComplete | State::Suspended | State::Critical
    );
    let follows = |side: &crate::record::PrimarySide| side.sync.is_none() && side.split.is_none();
    flows && rel.primary().is_some_and(follows)
}

/// What the VM does, and then what its dirty bitmaps say waits to be sent, all within `patience`. One after the other,
/// because its monitor takes one client at a time.
pub(crate) async fn with_power(
    observer: &Arc<Observer>,
    hypervisor: &Arc<dyn Hypervisor>,
    rel: Option<&Relationship>,
    patience: Duration,
) -> (Option<Power>, Option<u64>) {
    let until = Instant::now() + patience;
    let power = observer.power(hypervisor, patience).await;
    let answers = match &power {
        Some(Power::Running | Power::Paused | Power::Stalled(_)) => true,
        Some(Power::Off | Power::NotKnown { .. }) | None => false,
    };
    let disks: Option<&[DiskId]> = rel
        .filter(|rel| answers && is_recorded(rel))
        .map(|rel| rel.settings.disks.as_slice());
    let pending = match disks {
        Some(disks) => {
            let left = until.saturating_duration_since(Instant::now()).min(GLANCE);
            observer.pending(hypervisor, disks, left).await
        }
        None => None,
    };
    (power, pending)
}

/// What waits on a primary. `settled`: its VM is off, and its images were seen to be what the replica has. `recorded`: what
/// the dirty bitmaps of a running VM said.
pub(crate) fn of_primary(rel: &Relationship, settled: bool, recorded: Option<u64>) -> Option<u64> {
    let nothing = settled.then_some(0);
    nothing.or(recorded).filter(|_| is_recorded(rel))
}

/// What of this replica waits to be sent to a third host: the logs after the position it is known to have, as large as
/// they are here. `None` while some of it will not travel as a log, because a log is gone or copies are compared.
pub(crate) fn of_outgoing(ext: &OutgoingRelationship, info: &ReplicaInfo) -> Option<u64> {
    let flows = matches!(ext.state, State::Replicating | State::Suspended | State::Critical);
    let at = ext
        .acknowledged
        .filter(|_| flows && ext.compare.is_none() && ext.comparison.is_none())?;
    if at == info.durable {
        return Some(0);
    }
    let places = places(info);
    let there = places.iter().position(|p| p.position == at)?;
    let after = places.get(there + 1..)?.iter();
    after.map(|p| p.log.map(|log| log.size)).sum()
}
