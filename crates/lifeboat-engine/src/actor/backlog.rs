//! What the backlog means for the health of a relationship, on either side.

use crate::actor::Actor;
use crate::record::Relationship;
use crate::target::backlog::HOLD;
use crate::work::span::span;
use lifeboat_model::{Finding, ProblemKind};

impl Actor {
    /// What of the backlog needs attention.
    pub(crate) fn backlog_findings(&self, rel: &Relationship) -> Vec<Finding> {
        if let (Some(held), Some(_)) = (&self.source.held_back, rel.primary()) {
            let text = format!(
                "{} holds new data back since {}: {} logs ({} bytes) that are safe there wait for its disk to apply them",
                rel.peer,
                span(held.since.elapsed()),
                held.waiting.logs,
                held.waiting.bytes
            );
            return vec![Finding::warning(ProblemKind::PeerBacklog, text)];
        }
        let waiting = Some(self.target.queue.waiting()).filter(|w| w.full() && rel.replica().is_some());
        let since = self
            .target
            .queue
            .since()
            .map(|at| at.elapsed())
            .unwrap_or_default();
        // While it is short, it is what a slow moment looks like.
        let long = waiting.filter(|_| since >= HOLD);
        long.map(|w| {
            let text = format!(
                "{} logs ({} bytes) wait for this host's disk to apply them, the oldest for {}; the primary is held back until then",
                w.logs,
                w.bytes,
                span(since)
            );
            Finding::warning(ProblemKind::Backlog, text)
        })
        .into_iter()
        .collect()
    }
}
