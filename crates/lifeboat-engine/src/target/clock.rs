//! The primary's clock, as the instants of its logs show it, and what is told when it was set.

use crate::core::Core;
use crate::host::clock::WARNED;
use crate::target::TargetPart;
use lifeboat_model::arrival::jump_text;
use lifeboat_model::{Finding, Note, ProblemKind, Reading, Timestamp, hint};
use tokio::time::Instant;

impl TargetPart {
    /// Takes in the instant of a log that arrived.
    pub(crate) async fn instant_arrived(&mut self, core: &Core, instant: Timestamp, now: Reading) {
        let Some(rel) = core.rel.as_ref() else { return };
        let (interval, peer) = (rel.settings.interval(), rel.peer.clone());
        let Some(by) = self.peer_clock.arrived(instant, now, interval) else {
            return;
        };
        let text = format!(
            "the clock of {peer} jumped by {}: instants of recovery points are not what they seem; the newest data is \
             still the newest",
            jump_text(by)
        );
        let note = Note::new(text, hint::Failover::ChooseById);
        core.event(note.clone()).await;
        self.peer_clock.jumped = Some((Instant::now(), note));
    }

    /// What is known of clocks that were set.
    pub(crate) fn clock_findings(&self, core: &Core) -> Vec<Finding> {
        let own = core.host.clock.finding(core.host.ports.clock.reading());
        let peers = self.peer_clock.jumped.as_ref();
        let peers = peers.filter(|(at, _)| at.elapsed() < WARNED);
        own.into_iter()
            .chain(peers.map(|(_, note)| Finding::warning(ProblemKind::PeerClockJumped, note.clone())))
            .collect()
    }
}
