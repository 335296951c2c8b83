//! A change of a relationship's settings, which may add disks or turn to another address. What is checked is
//! `core::settings`'s.

use crate::actor::Actor;
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, Refusal, RelationshipRef};
use crate::host::settings::{DiskChange, in_order, invalid, told};
use crate::source::machine::Told;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{DiskId, ReplicationSettings};
use tokio::time::Instant;
use tracing::info;

impl Actor {
    /// ModifyReplicationSettings. The replica is told before the change counts here: what it refuses does not happen. A
    /// daemon that ends between the two leaves the replica with settings that the next change, or the same one again,
    /// brings in line; nothing that is sent depends on them.
    pub(crate) async fn modify(
        &mut self,
        of: &RelationshipRef,
        mut settings: ReplicationSettings,
    ) -> Result<Answer, Refusal> {
        if let Some(id) = self.core.sender_meant(of)? {
            return self.forward.modify(&mut self.core, id, settings).await;
        }
        let rel = self.core.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::step(rel.mode, rel.state, Step::Modify).map_err(|e| not_now(&e))?;
        let old = rel.settings.clone();
        if settings.disks.is_empty() {
            settings.disks.clone_from(&old.disks);
        }
        // The order of the disks is the replica's business; only which ones they are can be chosen.
        settings.disks = in_order(&old.disks, &settings.disks);
        let spec = self.core.spec()?.clone();
        settings
            .validate(spec.disks.iter().map(|d| &d.id))
            .map_err(invalid)?;
        let change = DiskChange::between(&old.disks, &settings.disks);
        self.core.disks_may_change(rel.state, &change)?;
        if settings.peer != old.peer {
            let acknowledged = rel.primary().map_or(rel.position, |p| p.acknowledged);
            self.core.same_replica(acknowledged, &settings.peer).await?;
        }
        // Whatever comes of it here, the replica is told again what counts.
        self.source.told = Told::default();
        let problems = self.core.update_replica(&spec, &settings).await?;
        if settings.peer != old.peer || !change.none() {
            // What is under way was begun with the old ones.
            self.interrupt().await;
        }
        let mut changed = self.core.change()?;
        changed.peer.clone_from(&settings.peer);
        (changed.settings, changed.spec, changed.preflight) = (settings, spec, problems);
        changed.tell(format!("settings changed{}", told(&change)));
        self.core.commit(changed).await?;
        self.release(&change.removed).await;
        if let Some(rel) = self.core.rel.as_ref() {
            let throttle = &self.core.host.throttle;
            throttle.set(self.core.id, &rel.peer, &rel.settings.bandwidth);
        }
        self.source.next_at = Instant::now();
        if change.added.is_empty() {
            return Ok(Answer::Done);
        }
        // An added disk has nothing on the replica: what differs there is all of it.
        self.begin_resync().await
    }

    /// Ends the dirty bitmaps of disks that are no longer replicated. What stays behind when it fails costs the guest
    /// a little memory, and is removed when the disk is replicated again.
    async fn release(&mut self, disks: &[DiskId]) {
        if disks.is_empty() {
            return;
        }
        self.interrupt().await;
        let released = async {
            let launch = self.core.launch().await.map_err(|e| e.to_string())?;
            let hypervisor = self.core.hypervisor();
            let source = hypervisor
                .source(&launch, disks)
                .await
                .map_err(|e| e.to_string())?;
            let stopped = match source.recover().await {
                Ok(_) => source.stop_tracking().await,
                Err(e) => Err(e),
            };
            let closed = source.close().await;
            stopped.and(closed).map_err(|e| e.to_string())
        };
        if let Err(e) = released.await {
            info!(vm = %self.core.id, error = e, "change tracking not removed from a disk that is no longer replicated");
        }
    }
}
