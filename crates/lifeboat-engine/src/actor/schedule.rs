//! What was scheduled and begins now, with what it interrupts. What begins when is `source::schedule`'s.

use crate::actor::Actor;
use crate::contract::refusal::no_relationship;
use crate::contract::{Answer, InitialCopy, Refusal, RelationshipRef};
use crate::record::Transfer;
use crate::source::schedule::TRY_AGAIN;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::{JobState, JobType, Timestamp};
use tokio::time::Instant;
use tracing::warn;

impl Actor {
    /// What is to be done before each piece of work is planned.
    pub(crate) async fn before_work(&mut self) {
        self.core.roll_statistics().await;
        if let Some(rel) = self.core.rel.as_ref().filter(|r| r.primary().is_some()) {
            let throttle = &self.core.host.throttle;
            throttle.set(self.core.id, &rel.peer, &rel.settings.bandwidth);
        }
        let now = self.core.host.ports.clock.now();
        let due = self.core.begins_at().is_some_and(|at| at <= now);
        if due && Instant::now() >= self.source.begin_after {
            self.begin_scheduled(now).await;
        }
    }

    async fn begin_scheduled(&mut self, now: Timestamp) {
        self.source.begin_after = Instant::now() + TRY_AGAIN;
        let Some(rel) = self.core.rel.as_ref() else { return };
        let how = rel.primary().map(|p| p.how.clone()).unwrap_or_default();
        let begun = match rel.state {
            _ if rel.primary().is_none() => self.forward.begin_due(&mut self.core, now).await,
            State::ReadyForReplication => self.begin_copy(how).await,
            _ => self.begin_resync().await,
        };
        match begun {
            Ok(_) => self.source.begin_after = Instant::now(),
            Err(e) => {
                warn!(vm = %self.core.id, error = %e, "what was scheduled did not begin; it is tried again")
            }
        }
    }

    /// StartReplication, now.
    async fn begin_copy(&mut self, how: Transfer) -> Result<Answer, Refusal> {
        match how {
            Transfer::Network => self.source.start_replication(&mut self.core).await,
            Transfer::Seed => self.start_seeded().await,
            Transfer::Export { dir } => self.start_export(&dir).await,
        }
    }

    /// StartReplication.
    pub(crate) async fn start_copy(
        &mut self,
        of: &RelationshipRef,
        how: InitialCopy,
        at: Option<Timestamp>,
    ) -> Result<Answer, Refusal> {
        if let Some(id) = self.core.sender_meant(of)? {
            return self.core.start_outgoing(id, how, at).await;
        }
        let at = self.core.ahead(at)?;
        for kind in [JobType::StartReplication, JobType::StartSeeded] {
            // What is asked for now replaces what waits.
            let waits = self.core.host.jobs.unfinished(self.core.id, kind);
            if let Some(job) = waits.filter(|j| j.state == JobState::New) {
                self.core.unschedule(job.id, None).await?;
            }
        }
        let how = Transfer::from(how);
        match at {
            None => self.begin_copy(how).await,
            // The API ignores the time of an export: the person who carries the medium is there now.
            Some(_) if matches!(how, Transfer::Export { .. }) => self.begin_copy(how).await,
            Some(at) => {
                let kind = match how {
                    Transfer::Seed => JobType::StartSeeded,
                    Transfer::Network | Transfer::Export { .. } => JobType::StartReplication,
                };
                self.core.schedule(Step::StartCopy, at, kind, how).await
            }
        }
    }

    /// Resynchronize: now, or at a later time.
    pub(crate) async fn resynchronize(
        &mut self,
        of: &RelationshipRef,
        at: Option<Timestamp>,
    ) -> Result<Answer, Refusal> {
        if let Some(id) = self.core.sender_meant(of)? {
            return self.forward.resync(&mut self.core, id, at).await;
        }
        match self.core.ahead(at)? {
            None => self.begin_resync().await,
            Some(at) => {
                let how = Transfer::default();
                self.core
                    .schedule(Step::ScheduleResync, at, JobType::Resynchronize, how)
                    .await
            }
        }
    }

    /// RequestReplicationStateChange to 9, and the same by its job: cancels a resynchronization that goes on, or takes
    /// back one that waits. With a window for automatic ones the next window is waited for: the caller wants none now.
    pub(crate) async fn give_up_resync(&mut self) -> Result<Answer, Refusal> {
        let rel = self.core.rel.as_ref().ok_or_else(no_relationship)?;
        let waits = self
            .core
            .host
            .jobs
            .unfinished(self.core.id, JobType::Resynchronize)
            .filter(|j| j.state == JobState::New);
        let Some(job) = waits.filter(|_| rel.primary().is_some_and(|p| p.scheduled.is_some())) else {
            return self.cancel_resync().await;
        };
        let later = match rel.state {
            State::WaitingToStartResynchronization => self.core.next_window(),
            _ => None,
        };
        self.core.unschedule(job.id, later).await?;
        self.core
            .event("the scheduled resynchronization was cancelled")
            .await;
        Ok(Answer::Done)
    }
}
