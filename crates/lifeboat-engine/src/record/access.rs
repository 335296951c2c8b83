//! What is read off a relationship's record.

use crate::record::{OutgoingRelationship, Relationship};
use lifeboat_model::JobType;

/// The outgoing relationships of a VM, as far as it has a record.
pub(crate) fn outgoing(rel: Option<&Relationship>) -> &[OutgoingRelationship] {
    rel.map_or(&[], Relationship::outgoing)
}

/// The third hosts that a VM's data is forwarded to, `HOST:PORT`.
pub(crate) fn third_hosts(rel: Option<&Relationship>) -> impl Iterator<Item = &String> + Clone {
    outgoing(rel).iter().map(|one| &one.settings.peer)
}

/// Whether a job that waits belongs to what the record says is scheduled.
pub(crate) fn waits(rel: &Relationship, kind: JobType) -> bool {
    let kinds = [
        JobType::StartReplication,
        JobType::StartSeeded,
        JobType::Resynchronize,
    ];
    let forwarded = kinds.contains(&kind) || kind == JobType::ResyncExtended;
    if forwarded && rel.outgoing().iter().any(|one| one.scheduled.is_some()) {
        return true;
    }
    kinds.contains(&kind) && rel.primary().is_some_and(|p| p.scheduled.is_some())
}
