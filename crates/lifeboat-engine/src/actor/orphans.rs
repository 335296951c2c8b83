//! Forgetting a VM that is no longer described, or a replica whose other side is gone. Whether that may be is
//! `core::orphans`'s.

use crate::actor::Actor;
use crate::contract::refusal::no_relationship;
use crate::contract::{Answer, Refusal};
use crate::record::{FailoverPhase, Relationship, ReplicaSide, Side};
use crate::target::TargetPart;
use crate::work::calls::failed;
use lifeboat_model::JobState;
use lifeboat_model::causes::chain;
use lifeboat_model::shell::quoted;
use tokio::time::Instant;
use tracing::warn;

impl Actor {
    /// Ends a relationship on this side by its record alone, whatever state it is in: no host is asked, no file is needed,
    /// none is deleted. Only a VM that runs on the files in question stops it.
    pub(crate) async fn forget(&mut self) -> Result<Answer, Refusal> {
        let rel = self.core.rel.clone().ok_or_else(no_relationship)?;
        match &rel.side {
            Side::Alone => Err(no_relationship()),
            Side::Primary(_) => {
                self.remove_primary().await?;
                self.core.event("replication removed").await;
                Ok(Answer::Done)
            }
            Side::Test { of, branch } => {
                self.core.no_replica_of_test(*of).await?;
                self.core.off_for_removal().await?;
                // A branch of a replica that is gone is gone with it.
                let dropped = async { self.core.host.images_of(*of)?.drop_branch(*of, *branch).await };
                if let Err(e) = dropped.await {
                    warn!(vm = %self.core.id, error = %chain(&e), "the test's disks are not thrown away");
                }
                self.drop_record("the test VM's record was removed").await
            }
            Side::Replica(side) => self.forget_replica(&rel, side).await,
        }
    }

    async fn forget_replica(&mut self, rel: &Relationship, side: &ReplicaSide) -> Result<Answer, Refusal> {
        if let Some(FailoverPhase::Merging | FailoverPhase::Done) = side.failover.as_ref().map(|f| f.phase) {
            // The VM lives here by now: that is more than a record.
            return Box::pin(self.remove()).await;
        }
        self.core.off_for_removal().await?;
        if side.own && self.core.local.is_some() && side.dir.is_some() {
            self.core.images_whole(rel.state).await?;
        }
        if let Some(test) = &side.test {
            self.core.host.dismiss(test.vm).await;
            let hypervisor = self.core.host.ports.hypervisors.of_vm(test.vm);
            let off = hypervisor.turn_off(test.vm).await;
            off.map_err(|e| failed("the test VM is not off", &e))?;
            if let Err(e) = crate::failover::defined::undefine(&*hypervisor, test.vm).await {
                warn!(vm = %test.vm, error = %chain(&e), "the hypervisor keeps the test VM's machine");
            }
            let removed = self.core.host.ports.catalog.remove_relationship(test.vm, 0).await;
            removed.map_err(|e| failed("the catalog cannot be written", &e))?;
        }
        self.interrupt().await;
        self.target.stop_receiving().await;
        if side.dir.is_none()
            && let Some(home) = rel.home.clone()
        {
            self.live_alone(home).await?;
            self.core.event("replication removed").await;
            return Ok(Answer::Done);
        }
        let what = match side.dir.as_deref() {
            None => "replication removed by its record; this host had no files of it".to_owned(),
            Some(dir) => format!(
                "replication removed by its record; all files are kept in {dir}, delete them with: rm -r {}",
                quoted(dir)
            ),
        };
        crate::host::stores::close(self.core.images().ok(), self.core.id).await;
        self.drop_record(&what).await
    }

    async fn drop_record(&mut self, what: &str) -> Result<Answer, Refusal> {
        if let Err(e) = self.definition.undefine(&self.core).await {
            // By the record alone: what the hypervisor keeps has disks that nothing writes to.
            warn!(vm = %self.core.id, error = %e, "the hypervisor keeps the machine of a record that is removed");
        }
        self.core.erase().await?;
        self.target = TargetPart::default();
        self.source.next_at = Instant::now();
        for job in self.core.host.jobs.list() {
            if job.vm == self.core.id && !job.state.is_final() {
                self.core
                    .end_job(job.id, JobState::Terminated, "replication was removed")
                    .await;
            }
        }
        warn!(vm = %self.core.id, "{what}");
        self.core.event(what).await;
        Ok(Answer::Done)
    }
}
