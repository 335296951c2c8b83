//! What begins when: copies and resynchronizations that wait for their time, application-consistent instants, and the
//! actor's wake-ups for them. How each is carried out is elsewhere.

use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, InitialCopy, Refusal};
use crate::core::Core;
use crate::record::{PrimarySide, Transfer};
use crate::source::SourcePart;
use crate::source::copy::Delivered;
use lifeboat_deltalog::Consistency;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::policy::{APPLICATION_RETRY, application_due};
use lifeboat_model::{JobId, JobState, JobType, Reading, Timestamp, hint};
use std::time::Duration;
use tokio::time::Instant;

/// How far ahead something may be scheduled; the API's limit.
const AHEAD: Duration = Duration::from_secs(7 * 86_400);

/// When what could not begin at its time is tried again.
pub(crate) const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Wall clocks jump: they are looked at this often at least.
const LOOK: Duration = Duration::from_secs(3600);

/// What was asked for, as it is remembered.
impl From<InitialCopy> for Transfer {
    fn from(how: InitialCopy) -> Self {
        match how {
            InitialCopy::Network => Self::Network,
            InitialCopy::Export { dir } => Self::Export { dir },
            InitialCopy::Seed => Self::Seed,
        }
    }
}

impl Core {
    /// When a copy or a resynchronization is to begin by itself. What a person scheduled goes before the window of the
    /// settings.
    pub(crate) fn begins_at(&self) -> Option<Timestamp> {
        let rel = self.rel.as_ref()?;
        if rel.replica().is_some() && rel.failover().is_none() {
            return rel.outgoing().iter().filter_map(|one| one.scheduled).min();
        }
        let side = rel.primary()?;
        if side.scheduled.is_some() {
            return side.scheduled;
        }
        // With two copies that both went on, overwriting one is a person's decision.
        if rel.state != State::WaitingToStartResynchronization || side.split.is_some() {
            return None;
        }
        let clock = &self.host.ports.clock;
        let window = rel.settings.auto_resync?;
        // A window spares the guest; a VM that is off for its planned failover has none to spare, and its user waits.
        let open = self.closing() || window.holds(clock.local_minute());
        if open {
            Some(clock.now())
        } else {
            self.next_window()
        }
    }

    /// When the window for resynchronizations opens the next time; `None` when they never begin by themselves.
    pub(crate) fn next_window(&self) -> Option<Timestamp> {
        let window = self.rel.as_ref()?.settings.auto_resync?;
        let clock = &self.host.ports.clock;
        let minutes = u64::from(window.opens_in(clock.local_minute()));
        let now = clock.now().0;
        Some(Timestamp(now - now % 60_000 + minutes * 60_000))
    }

    /// The time to wait for; `None`: it begins now.
    pub(crate) fn ahead(&self, at: Option<Timestamp>) -> Result<Option<Timestamp>, Refusal> {
        let now = self.host.ports.clock.now();
        let at = at.filter(|at| *at > now);
        match at.filter(|at| at.since(now) > AHEAD) {
            None => Ok(at),
            Some(_) => Err(Refusal::new(
                ReturnCode::InvalidParameter,
                "the start is more than 7 days ahead",
                hint::Again::Earlier,
            )),
        }
    }

    /// Notes the time durably, with a job that waits for it. The state stays what it is.
    pub(crate) async fn schedule(
        &mut self,
        step: Step,
        at: Timestamp,
        kind: JobType,
        how: Transfer,
    ) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        let jobs = self.host.jobs.clone();
        lifecycle::step(change.mode, change.state, step).map_err(|e| not_now(&e))?;
        let waiting = jobs
            .unfinished(self.id, kind)
            .filter(|j| j.state == JobState::New);
        let job = waiting.unwrap_or_else(|| jobs.waiting(self.id, kind, "waits for its time"));
        let side = change.primary_mut().ok_or_else(no_relationship)?;
        (side.scheduled, side.how) = (Some(at), how);
        change.tell(match kind {
            JobType::Resynchronize => "a resynchronization is scheduled",
            _ => "the initial copy is scheduled",
        });
        self.begin(change, job).await
    }

    /// Takes back what waits for its time and ends its job.
    pub(crate) async fn unschedule(
        &mut self,
        job: JobId,
        later: Option<Timestamp>,
    ) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        let ended = self
            .host
            .jobs
            .ended(job, JobState::Terminated, Some("cancelled".into()));
        let ended = ended.ok_or_else(|| Refusal::bare(ReturnCode::InvalidState, "the job has ended"))?;
        let side = change.primary_mut().ok_or_else(no_relationship)?;
        side.scheduled = later;
        change.with_job(ended.clone());
        self.commit(change).await?;
        Ok(Answer::from(ended))
    }

    /// What the next instant of a VM that runs is to guarantee.
    pub(crate) fn wanted_of_guest(&self) -> Consistency {
        let now = self.host.ports.clock.reading();
        let due = self.rel.as_ref().is_some_and(|r| {
            let since = r.primary().and_then(|p| since_application(p, now));
            let failed = r.primary().is_some_and(|p| p.application_failed) && r.settings.application_h > 0;
            let again = since.is_some_and(|passed| passed >= APPLICATION_RETRY);
            application_due(&r.settings, since) || failed && again
        });
        if due {
            Consistency::Application
        } else {
            Consistency::Crash
        }
    }

    /// Notes how an instant came out that was to be application-consistent. Only when it is on the replica: one that got
    /// lost on the way is tried again.
    pub(crate) async fn application_taken(&mut self, done: &Delivered) {
        // A VM that is off has no guest agent to ask and nothing in flight.
        if done.wanted != Consistency::Application || !done.source.live() {
            return;
        }
        let failed = done.consistency != Consistency::Application;
        let counted = self.tally(|rel| {
            rel.counters.application_failures += u64::from(failed);
            let side = rel.primary_mut()?;
            side.application = Some(done.taken.wall);
            side.application_at = Some(done.taken);
            Some(std::mem::replace(&mut side.application_failed, failed))
        });
        let Some(before) = counted.flatten() else { return };
        if failed {
            let text = "the guest was not frozen for an application-consistent point, which is crash-consistent instead; \
                        does its agent run?";
            self.event(text).await;
        } else if before {
            self.event("application-consistent points succeed again").await;
        }
    }
}

impl SourcePart {
    /// When the actor is needed although no work is due.
    pub(crate) fn scheduled_at(&self, core: &Core) -> Option<Instant> {
        let now = core.host.ports.clock.now();
        let begins = core.begins_at().map(|at| {
            let at = Instant::now() + at.since(now).min(LOOK);
            at.max(self.begin_after)
        });
        begins.into_iter().chain(core.statistics_due()).min()
    }
}

/// Time since the last instant that was to be application-consistent; `None` where there was none, and where a clock that
/// went back is all there is to say it: one too many does no harm.
fn since_application(side: &PrimarySide, now: Reading) -> Option<Duration> {
    match (side.application_at, side.application) {
        (Some(at), _) if now.jump_since(at) < 0 => now.since(at),
        (Some(at), _) => Some(now.about_since(at)),
        (None, at) => at.filter(|at| *at <= now.wall).map(|at| now.wall.since(at)),
    }
}
