//! The answer of a replica to the question what this VM does here, and what of it is under way.

use crate::core::Core;
use crate::host::question::{own_power, with_power};
use crate::port::link::{PeerIdentity, PeerPower, PeerReply, Standing};
use crate::record::{FailoverPhase, Side};
use crate::target::TargetPart;
use tokio::sync::oneshot;

impl TargetPart {
    /// This side's word to the other. Nothing is waited for here: what takes time is looked at beside the actor.
    ///
    /// A host that shares no replication of the VM any more is answered too, when it has an authorization entry: an old
    /// primary that comes back must learn that its VM went on here with another host.
    pub(crate) fn answer_standing(
        &self,
        core: &Core,
        asks: &PeerIdentity,
        reply: oneshot::Sender<PeerReply>,
    ) {
        let entry = |_| core.host.authorize(asks).map(|_| ());
        if let Err(refusal) = core.is_peer(asks).or_else(entry) {
            return drop(reply.send(PeerReply::Refused(refusal)));
        }
        let standing = core.rel.as_ref().map(|rel| Standing {
            mode: rel.mode,
            state: rel.state,
            position: rel.position,
            running: true,
            power: None,
            newest_instant: rel.newest_instant,
            planned: core.planned().map(|p| p.phase.into()),
        });
        let (ports, vm, others) = (core.host.ports.clone(), core.id, core.others_than(asks));
        let under_way = self.under_way_for(core, asks);
        tokio::spawn(async move {
            let power = match (own_power(&ports, vm, others).await, under_way) {
                (PeerPower::Off, Some(why)) => PeerPower::NotKnown { why: why.into() },
                (power, _) => power,
            };
            drop(reply.send(with_power(standing, power)));
        });
    }

    /// What of this VM is about to start it, for a host that does not know; `None`: nothing is.
    fn under_way_for(&self, core: &Core, asks: &PeerIdentity) -> Option<&'static str> {
        let rel = core.rel.as_ref().filter(|_| !core.is_other_end(asks))?;
        match &rel.side {
            Side::Primary(p) if p.planned.is_some() => Some("a planned failover is under way"),
            Side::Primary(p) if p.start => Some("the VM is about to be started"),
            Side::Replica(_) if self.following.is_some() => Some("a planned failover was asked for"),
            Side::Replica(_) => rel.failover().and_then(|f| {
                let initiating = matches!(f.phase, FailoverPhase::Initiating { .. });
                let moves = f.take_over.is_some() || f.reverse.is_some();
                (initiating || moves).then_some("a failover is under way")
            }),
            Side::Primary(_) | Side::Test { .. } | Side::Alone => None,
        }
    }
}
