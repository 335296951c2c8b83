//! Outgoing relationships where they concern the whole VM: which relationship an action is about, following another primary, the
//! end of an initial copy, going on alone. Forwarding is `source::outgoing`'s.

use crate::actor::Actor;
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, Refusal, RelationshipRef};
use crate::host::offer::Offer;
use crate::port::link::{PeerIdentity, PeerRefusal, PeerReply};
use crate::port::store::{Adoption, Origin, StoreLocation};
use crate::source::outgoing::{not_extended, stood};
use crate::target::replica::as_replica;
use lifeboat_deltalog::Consistency;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::lifecycle::Turn;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{JobType, PointId};

impl Actor {
    pub(crate) async fn suspend_of(&mut self, of: &RelationshipRef) -> Result<Answer, Refusal> {
        match self.core.outgoing_meant(of)? {
            Some(id) => self.forward.suspend(&mut self.core, id).await,
            None => self.suspend().await,
        }
    }

    pub(crate) async fn resume_of(&mut self, of: &RelationshipRef) -> Result<Answer, Refusal> {
        match self.core.outgoing_meant(of)? {
            Some(id) => self.forward.resume(&mut self.core, id).await,
            None => self.resume().await,
        }
    }

    pub(crate) async fn remove_of(&mut self, of: &RelationshipRef) -> Result<Answer, Refusal> {
        match self.core.outgoing_meant(of)? {
            Some(id) => self.forward.remove(&mut self.core, id).await,
            None => self.remove().await,
        }
    }

    /// Of an outgoing relationship the two cancellations mean the same: whatever is scheduled or under way.
    pub(crate) async fn cancel_copy_of(&mut self, of: &RelationshipRef) -> Result<Answer, Refusal> {
        match self.core.outgoing_meant(of)? {
            Some(id) => self.forward.give_up(&mut self.core, id, None).await,
            None => self.cancel_initial_copy().await,
        }
    }

    pub(crate) async fn give_up_resync_of(&mut self, of: &RelationshipRef) -> Result<Answer, Refusal> {
        match self.core.outgoing_meant(of)? {
            Some(id) => self.forward.give_up(&mut self.core, id, None).await,
            None => self.give_up_resync().await,
        }
    }

    /// ChangeReplicationModeToPrimary.
    pub(crate) async fn continue_as_primary(&mut self, of: &RelationshipRef) -> Result<Answer, Refusal> {
        let rel = self.core.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::turn(rel.mode, rel.state, Turn::ContinueAlone).map_err(|e| not_now(&e))?;
        let id = self.core.sender_meant(of)?.ok_or_else(not_extended)?;
        let settings = self.core.outgoing(id).ok_or_else(not_extended)?.settings.clone();
        if let Some(running) = rel.failover().and_then(|f| f.reverse.as_ref()) {
            let job = self.core.host.jobs.get(running.job);
            return Ok(job.map_or(Answer::Done, Answer::from));
        }
        self.begin_reverse(JobType::ModeToPrimary, Some(settings), false, false)
            .await
    }

    /// The initial copy of a sealed point is complete.
    pub(crate) async fn finish_bulk(
        &mut self,
        peer: &PeerIdentity,
        instant: lifeboat_model::Timestamp,
        consistency: Consistency,
    ) -> Result<PeerReply, PeerRefusal> {
        self.core.may_receive(peer)?;
        self.interrupt().await;
        let id = PointId(self.core.host.ports.entropy.uuid());
        let finished = async {
            let images = self.core.images()?;
            images.finish_bulk(self.core.id, id, instant, consistency).await
        };
        finished.await.map_err(|e| self.core.host.peer_refusal(e))?;
        self.core.tally(|rel| rel.newest_instant = Some(instant));
        self.target.dirty = true;
        self.target.begin_now();
        self.core.replica_status().await
    }

    /// The host that this extended replica follows has become the primary itself: this one becomes its replica, with all it
    /// has. Repeatable.
    pub(crate) async fn follow(
        &mut self,
        peer: &PeerIdentity,
        offer: Offer,
    ) -> Result<PeerReply, PeerRefusal> {
        let entry = self.core.trusts(peer)?;
        self.core.may_receive(peer)?;
        let host = self.core.host.config.name.clone();
        if offer.disks.iter().map(|d| &d.id).ne(&offer.settings.disks) {
            let detail = "the offered disks are not those of the settings".into();
            return Err(PeerRefusal::Conflict { detail });
        }
        self.core.no_test().map_err(|e| PeerRefusal::NotNow {
            host: host.clone(),
            detail: e.note().into(),
        })?;
        self.interrupt().await;
        self.target.stop_receiving().await;
        let images = self.core.peer_images()?;
        let repeated = {
            let info = images
                .info(self.core.id)
                .await
                .map_err(|e| self.core.host.peer_refusal(e))?;
            info.durable.same_generation(offer.start)
        };
        if !repeated {
            self.catch_up().await?;
        }
        let info = images
            .info(self.core.id)
            .await
            .map_err(|e| self.core.host.peer_refusal(e))?;
        if !repeated {
            let sealed = self.target.seal_before_adoption(&self.core, &*images).await;
            sealed.map_err(|e| self.core.host.peer_refusal(e))?;
        }
        let adoption = Adoption {
            divergence: stood(&info, &offer),
            disks: offer.disks.clone(),
            start: offer.start,
            origin: Origin::Here,
            sealed: None,
            keep: None,
        };
        let location = StoreLocation::new(&entry.storage_location);
        let adopted = images.adopt(&location, self.core.id, &adoption).await;
        adopted.map_err(|e| self.core.host.peer_refusal(e))?;
        let mut change = self.core.change().map_err(|e| self.core.catalog_refusal(e))?;
        (change.mode, change.state, change.position) = (Mode::Replica, State::Replicating, offer.start);
        change.spec = as_replica(&offer.spec, &offer.settings);
        change.settings = offer.settings;
        change.peer = peer.names.first().cloned().unwrap_or_default();
        change.callback = offer.from;
        change.problem = None;
        change.tell("the host this replica followed is the primary now; this one is its replica");
        let committed = self.core.commit(change).await;
        committed.map_err(|e| self.core.catalog_refusal(e))?;
        self.core.opened = true;
        self.target.adopted();
        self.core.replica_status().await
    }
}
