//! A resynchronization that begins or is cancelled, which ends other work first. Its steps are `source::resync`'s.

use crate::actor::Actor;
use crate::contract::{Answer, Refusal};
use crate::core::Core;
use crate::record::SyncKind;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::{JobState, JobType};
use tokio::time::Instant;

impl Actor {
    /// Resynchronize, now. The state before is what the state machine allows.
    pub(crate) async fn begin_resync(&mut self) -> Result<Answer, Refusal> {
        let mut change = self.core.change()?;
        change.step(Step::StartResync)?;
        let job =
            self.core
                .host
                .jobs
                .begin(self.core.id, JobType::Resynchronize, "comparing with the replica");
        let old = self.core.synchronization().and_then(|s| s.job);
        let sync = Core::new_sync(&mut change, SyncKind::Resync, Some(job.id));
        change.problem = None;
        if let Some(primary) = change.primary_mut() {
            (primary.sync, primary.scheduled) = (Some(sync), None);
        }
        let old = old.filter(|old| *old != job.id);
        change.end_job(
            &self.core.host.jobs,
            old,
            JobState::Terminated,
            Some("begun again".into()),
        );
        change.tell("resynchronization started");
        let answer = self.core.begin(change, job).await?;
        self.interrupt().await;
        self.source.next_at = Instant::now();
        self.core.tell_plan(Some("comparing with the replica"));
        Ok(answer)
    }

    /// RequestReplicationStateChange to 9: what was sent is kept, the comparison is cancelled.
    pub(crate) async fn cancel_resync(&mut self) -> Result<Answer, Refusal> {
        let mut change = self.core.change()?;
        change.step(Step::CancelResync)?;
        let job = change.drop_sync();
        let later = self.core.next_window();
        if let Some(primary) = change.primary_mut() {
            primary.scheduled = later;
        }
        change.end_job(
            &self.core.host.jobs,
            job,
            JobState::Terminated,
            Some("cancelled".into()),
        );
        change.tell("resynchronization cancelled; recovery points are as they were");
        self.core.commit(change).await?;
        self.interrupt().await;
        Ok(Answer::Done)
    }
}
