//! A primary whose replica has enough to apply: it waits, and offers again. What waits on the replica is
//! `target::backlog`'s.

use crate::source::SourcePart;
use crate::target::backlog::OFFER_AGAIN;
use crate::work::message::{HeldBack, Waiting};
use tokio::time::Instant;

impl SourcePart {
    /// The replica has enough to apply: the same is offered again soon. Nothing is lost by it, and nothing failed.
    pub(crate) fn held_back(&mut self, waiting: Waiting) {
        let since = self.held_back.as_ref().map_or_else(Instant::now, |h| h.since);
        self.held_back = Some(HeldBack { since, waiting });
        self.next_at = Instant::now() + OFFER_AGAIN;
    }
}
