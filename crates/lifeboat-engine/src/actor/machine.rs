//! A machine and its firmware variables as the primary has announced them, and what that changes here. What is announced is
//! `source::machine`'s.

use crate::actor::Actor;
use crate::port::link::{PeerIdentity, PeerRefusal, PeerReply};
use crate::record::Relationship;
use crate::target::replica::as_replica;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use lifeboat_model::{Machine, ReplicationSettings};

impl Actor {
    /// Keeps firmware variables that came with a call.
    pub(crate) async fn keep_firmware(&mut self, firmware: &str) -> Result<(), PeerRefusal> {
        let made = self.core.rel.as_ref().and_then(Relationship::replica);
        if firmware.is_empty() || made.is_none_or(|r| r.dir.is_none()) {
            return Ok(());
        }
        let vars = BASE64.decode(firmware).map_err(|e| PeerRefusal::Conflict {
            detail: format!("the firmware variables are not base64: {e}").into(),
        })?;
        // Points may be expiring at this moment.
        self.interrupt().await;
        let kept = async {
            self.core
                .images()?
                .put_firmware(self.core.id, Bytes::from(vars))
                .await
        };
        kept.await.map_err(|e| self.core.host.peer_refusal(e))
    }

    /// An accepted offer is answered when the variables that came with it are kept.
    pub(crate) async fn with_firmware(
        &mut self,
        taken: Result<PeerReply, PeerRefusal>,
        firmware: &str,
    ) -> Result<PeerReply, PeerRefusal> {
        let reply = taken?;
        self.keep_firmware(firmware).await?;
        Ok(reply)
    }

    /// The machine or the settings changed on the primary. Repeatable.
    pub(crate) async fn updated(
        &mut self,
        peer: &PeerIdentity,
        spec: &Machine,
        settings: ReplicationSettings,
        firmware: &str,
    ) -> Result<PeerReply, PeerRefusal> {
        self.core.may_receive(peer)?;
        let conflict = |detail: String| {
            let detail = detail.into();
            Err(PeerRefusal::Conflict { detail })
        };
        if let Err(e) = spec.validate() {
            return conflict(format!("the VM's description: {e}"));
        }
        if let Err(e) = settings.validate(spec.disks.iter().map(|d| &d.id)) {
            return conflict(format!("the settings: {e}"));
        }
        self.core.settings_within_quota(peer, &settings)?;
        self.core.rename(&spec.name)?;
        self.keep_firmware(firmware).await?;
        let mut change = self.core.change().map_err(|e| self.core.catalog_refusal(e))?;
        (change.spec, change.settings) = (as_replica(spec, &settings), settings);
        let committed = self.core.commit(change).await;
        committed.map_err(|e| self.core.catalog_refusal(e))?;
        let problems = self.core.problems().await;
        Ok(PeerReply::Checked { problems })
    }
}
