//! What a replica asks of its primary's disks, where the disks are and where they are not. Reading them is
//! `source::lend`'s.

use crate::actor::Actor;
use crate::port::link::{PeerIdentity, PeerRefusal, PeerReply};
use lifeboat_model::ReplicationMode as Mode;

impl Actor {
    /// The replica's newest data is damaged, and nothing could repair it: both copies are compared.
    pub(crate) async fn compare_again(&mut self, peer: &PeerIdentity) -> Result<PeerReply, PeerRefusal> {
        self.core.is_peer(peer)?;
        let host = self.core.host.config.name.clone();
        if self.core.synchronization().is_some() {
            return Ok(PeerReply::Accepted);
        }
        if self.core.rel.as_ref().is_none_or(|r| r.mode != Mode::Primary) {
            let detail = "it is not the primary of this VM".into();
            return Err(PeerRefusal::NotNow { host, detail });
        }
        self.core
            .event("the replica's newest data is damaged there")
            .await;
        match self.begin_resync().await {
            Ok(_) => Ok(PeerReply::Accepted),
            Err(e) => Err(PeerRefusal::NotNow {
                host,
                detail: e.note().into(),
            }),
        }
    }
}
