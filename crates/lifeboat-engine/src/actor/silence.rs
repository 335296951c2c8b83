//! A call of the other side, as all parts of an actor hear of it. What silence means is `roles::silence`'s.

use crate::actor::Actor;
use crate::contract::BacklogView;
use crate::port::link::PeerIdentity;
use crate::record::Relationship;
use tokio::time::Instant;

impl Actor {
    /// A call came about this VM. One of the other side, whatever it asks, is a sign of life.
    pub(crate) fn heard_from(&mut self, peer: &PeerIdentity) {
        if self.core.is_peer(peer).is_ok() {
            self.contact.heard = Some(Instant::now());
            self.hurry();
        }
    }

    /// What waits on the replica, as far as this side knows.
    pub(crate) fn backlog_view(&self, rel: &Relationship) -> Option<BacklogView> {
        let (waiting, age) = if rel.primary().is_some() {
            let held = self.source.held_back.as_ref().map(|h| h.waiting);
            (held.or(self.core.line(rel).waiting)?, None)
        } else {
            let since = self.target.queue.since().map(|at| at.elapsed());
            (self.target.queue.waiting(), since)
        };
        (waiting.logs > 0).then(|| BacklogView {
            logs: waiting.logs,
            bytes: waiting.bytes,
            age_ms: age.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}
