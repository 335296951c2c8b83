//! Making two copies equal again, as the primary's actor sees it: when a synchronization begins, goes on and ends, and what
//! an administrator asks of it. The comparing and sending is in `sync`.

use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::{
    JobId, JobState, JobType, Position, ReplicationMode as Mode, ReplicationState as State,
};
use lifeboat_model::{Note, ProblemKind};
use tokio::time::Instant;

use crate::action::{Answer, Refusal};
use crate::actor::{Actor, Done, Work};
use crate::copy::{self, Base, Capture, CopyError};
use crate::ports::link::LinkError;
use crate::ports::link::PeerRefusal;
use crate::primary::droppable;
use crate::records::{Relationship, SyncKind, Synchronization};
use crate::sync::{self, Begun, Known, Piece};

/// What a synchronization keeps in memory between pieces of work. It can be lost: what is known is found again, or
/// compared.
pub(crate) struct Open {
    known: Known,
    /// The replica stands here.
    parent: Position,
}

impl Actor {
    pub(crate) fn synchronization(&self) -> Option<&Synchronization> {
        self.rel.as_ref()?.primary()?.sync.as_ref()
    }

    /// A new synchronization for the record, with the number that its records of changes are named after.
    pub(crate) fn new_sync(rel: &mut Relationship, kind: SyncKind, job: Option<JobId>) -> Synchronization {
        rel.position = rel.position.next();
        Synchronization {
            start: rel.position,
            kind,
            cursor: (0, 0),
            tracking: false,
            sent: 0,
            job,
        }
    }

    /// Resynchronize, now. The state before is what the state machine allows.
    pub(crate) async fn begin_resync(&mut self) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        change.step(Step::StartResync)?;
        let job = self
            .host
            .jobs
            .begin(self.id, JobType::Resynchronize, "comparing with the replica");
        let old = self.synchronization().and_then(|s| s.job);
        let sync = Self::new_sync(&mut change, SyncKind::Resync, Some(job.id));
        change.problem = None;
        if let Some(primary) = change.primary_mut() {
            (primary.sync, primary.scheduled) = (Some(sync), None);
        }
        let old = old.filter(|old| *old != job.id);
        change.end_job(
            &self.host.jobs,
            old,
            JobState::Terminated,
            Some("begun anew".into()),
        );
        change.tell("resynchronization started");
        let answer = self.begin(change, job).await?;
        self.interrupt().await;
        self.primary.next_at = Instant::now();
        self.tell_plan(Some("comparing with the replica"));
        Ok(answer)
    }

    /// RequestReplicationStateChange to 9: what was sent is kept, the comparison is given up.
    pub(crate) async fn cancel_resync(&mut self) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        change.step(Step::CancelResync)?;
        let job = change.drop_sync();
        let later = self.next_window();
        if let Some(primary) = change.primary_mut() {
            primary.scheduled = later;
        }
        change.end_job(
            &self.host.jobs,
            job,
            JobState::Terminated,
            Some("cancelled".into()),
        );
        change.tell("resynchronization cancelled; recovery points are as they were");
        self.commit(change).await?;
        self.interrupt().await;
        Ok(Answer::Done)
    }

    pub(crate) async fn end_job(&self, job: JobId, state: JobState, why: impl Into<Note>) {
        let why = (state != JobState::Completed).then(|| why.into());
        if let Err(e) = self.host.jobs.finish(job, state, why).await {
            tracing::warn!(vm = %self.id, error = %e, "the end of a job is not recorded");
        }
    }

    /// The next piece of a synchronization; `None` when nothing can be done now.
    pub(crate) async fn plan_sync(&mut self) -> Option<Work> {
        let sync = self.synchronization()?.clone();
        let (tools, route) = {
            let rel = self.rel.as_ref()?;
            (self.host.tools(), self.route(rel))
        };
        let (source, open) = match (self.primary.source.take(), self.primary.sync.take()) {
            (Some(source), Some(open)) => (source, open),
            _ => return self.plan_begin(sync).await,
        };
        if usize::from(sync.cursor.0) >= source.disks().len() {
            let capture = Capture {
                record: sync.start,
                parent: open.parent,
                next: self.next_number(open.parent),
                wanted: self.wanted(),
            };
            return self.plan_capture(source, capture).await;
        }
        let position = self.next_number(open.parent);
        let mut change = self.change().ok()?;
        // A number is used for one log only, so that its use is durable before the log is.
        change.position = position;
        if self.commit(change).await.is_err() {
            self.retry_later();
            return None;
        }
        let piece = Piece {
            cursor: sync.cursor,
            parent: open.parent,
            position,
        };
        Some(droppable(async move {
            Done::SyncStepped(sync::step(tools, route, source, open.known, piece).await)
        }))
    }

    async fn plan_begin(&mut self, sync: Synchronization) -> Option<Work> {
        let launch = match self.launch().await {
            Ok(launch) => launch,
            Err(e) => {
                self.fault(ProblemKind::LaunchUnknown, e.note()).await;
                self.retry_later();
                return None;
            }
        };
        let rel = self.rel.as_ref()?;
        let (tools, route, disks) = (self.host.tools(), self.route(rel), rel.settings.disks.clone());
        let (hypervisor, store, vm) = (
            self.host.ports.hypervisor.clone(),
            self.host.ports.store.clone(),
            self.id,
        );
        let reversed = sync.kind == SyncKind::Reverse && rel.home.is_some();
        Some(droppable(async move {
            let begun = async {
                let source = hypervisor.source(&launch, &disks).await?;
                // Without it everything is compared, which is only slower.
                let own = if reversed {
                    store.divergence(vm).await.ok()
                } else {
                    None
                };
                sync::begin(&tools, &route, source, &sync, own.as_ref()).await
            };
            Done::SyncBegun(begun.await)
        }))
    }

    pub(crate) async fn sync_begun(&mut self, result: Result<Begun, CopyError>) {
        match result {
            Ok(Begun::Open {
                source,
                known,
                parent,
                anew,
            }) => {
                self.primary.source = Some(source);
                self.primary.sync = Some(Open { known, parent });
                self.note(|rel| {
                    let sync = rel.primary_mut()?.sync.as_mut()?;
                    if anew {
                        sync.cursor = (0, 0);
                    }
                    sync.tracking = true;
                    Some(())
                })
                .await;
            }
            Ok(Begun::Closed { source, at }) => {
                self.primary.source = Some(source);
                self.primary.base = Some(Base::at(at));
                self.close_sync(at).await;
            }
            Ok(Begun::Lost) => self.compare_from_the_beginning().await,
            Err(e) => self.sync_failed(&e).await,
        }
    }

    /// Nothing that was compared counts any more. Not gone on with until that is recorded.
    async fn compare_from_the_beginning(&mut self) {
        let Ok(mut change) = self.change() else { return };
        if let Some(sync) = change.primary_mut().and_then(|p| p.sync.as_mut()) {
            (sync.cursor, sync.tracking) = ((0, 0), false);
        }
        self.primary.forget();
        match self.commit(change).await {
            Ok(()) => self.primary.next_at = Instant::now(),
            Err(_) => self.retry_later(),
        }
    }

    pub(crate) async fn sync_stepped(&mut self, result: Result<sync::Step, CopyError>) {
        let step = match result {
            Ok(step) => step,
            Err(e) => return self.sync_failed(&e).await,
        };
        let (done, total) = sync::progress(step.source.disks(), step.cursor);
        self.primary.source = Some(step.source);
        self.primary.sync = Some(Open {
            known: step.known,
            parent: step.parent,
        });
        let now = self.host.ports.clock.now();
        let stepped = self.tally(|rel| {
            if step.bytes > 0 {
                rel.last_replication = Some(now);
                rel.counters.bytes += step.bytes;
            }
            let sync = rel.primary_mut()?.sync.as_mut()?;
            sync.cursor = step.cursor;
            sync.sent += step.bytes;
            Some((sync.job, sync.sent))
        });
        let Some((job, sent)) = stepped.flatten() else {
            return;
        };
        if let Some(job) = job {
            let detail = format!("compared and sent; {sent} bytes differed so far");
            self.host.jobs.progress(job, done, total, &detail);
        }
        self.cured();
        self.write_noted().await;
    }

    /// The closing cycle is on the replica: both copies are equal, and ordinary cycles follow.
    pub(crate) async fn close_sync(&mut self, at: Position) {
        let Some((job, kind)) = self.synchronization().map(|s| (s.job, s.kind)) else {
            return;
        };
        let Ok(mut change) = self.change() else { return };
        change.drop_sync();
        // One of them fits the state that the synchronization was begun in; in 3 neither has to.
        if change.step(Step::ResyncFinished).is_err() {
            let _ = change.step(Step::CopyFinished);
        }
        change.problem = None;
        if let Some(primary) = change.primary_mut() {
            primary.acknowledged = at;
        }
        change.end_job(&self.host.jobs, job, JobState::Completed, None);
        change.tell(match kind {
            SyncKind::Reverse => "the old primary's copy is the replica now",
            SyncKind::Seed => "initial copy finished: the seed is equal now",
            SyncKind::Resync => "resynchronization finished",
        });
        if let Err(e) = self.commit(change).await {
            tracing::warn!(vm = %self.id, error = %e.message, "the end of the synchronization is not recorded");
            // It is found closed again at the next attempt.
            self.primary.forget();
            self.retry_later();
        }
    }

    async fn sync_failed(&mut self, e: &CopyError) {
        let again = matches!(
            e,
            CopyError::Link(LinkError::Refused(PeerRefusal::OutOfSequence { .. }))
                | CopyError::Capture(crate::ports::capture::CaptureError::TrackingLost { .. })
                | CopyError::Lost { .. }
        );
        if again {
            // Not a fault: the next attempt asks the replica and the disks where they stand.
            self.primary.forget();
            self.retry_later();
        } else {
            self.copy_failed(e).await;
        }
    }

    /// Whether cycles or a synchronization are to go on in this state.
    pub(crate) fn flows(rel: &Relationship) -> bool {
        rel.mode == Mode::Primary
            && matches!(
                rel.state,
                State::WaitingToCompleteInitialReplication
                    | State::Replicating
                    | State::Critical
                    | State::Resynchronizing
            )
    }

    /// A number that no capture and no log has had.
    pub(crate) fn next_number(&self, parent: Position) -> Position {
        let used = self.rel.as_ref().map_or(parent, |r| r.position);
        used.later(parent).next()
    }

    /// Whether an error says that the replica's side has gone on without this one.
    pub(crate) fn split_by(e: &CopyError) -> Option<bool> {
        match e {
            CopyError::Link(LinkError::Refused(PeerRefusal::FailedOver { .. })) => Some(false),
            CopyError::Link(LinkError::Refused(PeerRefusal::NewerGeneration { .. })) => Some(true),
            _ => None,
        }
    }

    pub(crate) fn resend(&self, pending: copy::Pending) -> Option<Work> {
        let rel = self.rel.as_ref()?;
        let (tools, route) = (self.host.tools(), self.route(rel));
        Some(droppable(async move {
            Done::Cycled(copy::resend(tools, route, pending).await)
        }))
    }
}
