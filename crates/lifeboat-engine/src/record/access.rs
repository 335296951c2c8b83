//! What is read off a relationship's record.

use crate::record::{Extended, Relationship};
use lifeboat_model::JobType;

pub(crate) fn extended(rel: Option<&Relationship>) -> Option<&Extended> {
    rel?.replica()?.extended.as_deref()
}

/// The name in `HOST:PORT`.
pub(crate) fn host_of(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(host, _)| host)
}

/// Whether a job that waits belongs to what the record says is scheduled.
pub(crate) fn waits(rel: &Relationship, kind: JobType) -> bool {
    let kinds = [
        JobType::StartReplication,
        JobType::StartSeeded,
        JobType::Resynchronize,
    ];
    if let Some(ext) = crate::record::access::extended(Some(rel)) {
        return ext.scheduled.is_some() && (kinds.contains(&kind) || kind == JobType::ResyncExtended);
    }
    kinds.contains(&kind) && rel.primary().is_some_and(|p| p.scheduled.is_some())
}
