//! Making two copies equal again, as the primary's actor sees it: when a synchronization begins, goes on and ends, and what
//! an administrator asks of it. The comparing and sending is in `sync`.

use crate::core::Core;
use crate::port::link::{LinkError, PeerRefusal};
use crate::record::{Relationship, SyncKind, Synchronization};
use crate::source::copy::{Base, Capture};
use crate::source::sync::{Begun, Known, Piece};
use crate::source::{Done, SourcePart, copy, sync};
use crate::work::failure::CopyError;
use crate::work::piece::{Work, droppable};
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::{JobId, JobState, Note, Position};
use tokio::time::Instant;

/// What a synchronization keeps in memory between pieces of work. It can be lost: what is known is found again, or
/// compared.
pub(crate) struct Open {
    known: Known,
    /// The replica stands here.
    parent: Position,
}

impl Core {
    pub(crate) fn synchronization(&self) -> Option<&Synchronization> {
        self.rel.as_ref()?.primary()?.sync.as_ref()
    }

    /// A new synchronization for the record, with the number that its dirty bitmaps are named after.
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

    pub(crate) async fn end_job(&self, job: JobId, state: JobState, why: impl Into<Note>) {
        let why = (state != JobState::Completed).then(|| why.into());
        if let Err(e) = self.host.jobs.finish(job, state, why).await {
            tracing::warn!(vm = %self.id, error = %e, "the end of a job is not recorded");
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

    pub(crate) fn resend(&self, pending: copy::Pending) -> Option<Work<Done>> {
        let rel = self.rel.as_ref()?;
        let (tools, route) = (self.host.tools(), self.route(rel));
        Some(droppable(async move {
            Done::Cycled(copy::resend(tools, route, pending).await)
        }))
    }
}

impl SourcePart {
    /// The next piece of a synchronization; `None` when nothing can be done now.
    pub(crate) async fn plan_sync(&mut self, core: &mut Core) -> Option<Work<Done>> {
        let sync = core.synchronization()?.clone();
        let (tools, route) = {
            let rel = core.rel.as_ref()?;
            (core.host.tools(), core.route(rel))
        };
        let (source, open) = match (self.source.take(), self.sync.take()) {
            (Some(source), Some(open)) => (source, open),
            _ => return self.plan_begin(core, sync).await,
        };
        if usize::from(sync.cursor.0) >= source.disks().len() {
            let capture = Capture {
                record: sync.start,
                parent: open.parent,
                next: core.next_number(open.parent),
                wanted: core.wanted(),
            };
            return self.plan_capture(core, source, capture).await;
        }
        let position = core.next_number(open.parent);
        let mut change = core.change().ok()?;
        // A number is used for one log only, so that its use is durable before the log is.
        change.position = position;
        if core.commit(change).await.is_err() {
            self.retry_later(core);
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

    async fn plan_begin(&mut self, core: &mut Core, sync: Synchronization) -> Option<Work<Done>> {
        let launch = match core.launch().await {
            Ok(launch) => launch,
            Err(e) => {
                core.fault(core.launch_problem(), e.note()).await;
                self.retry_later(core);
                return None;
            }
        };
        let rel = core.rel.as_ref()?;
        let (tools, route, disks) = (core.host.tools(), core.route(rel), rel.settings.disks.clone());
        let (hypervisor, vm) = (core.hypervisor(), core.id);
        let reversed = sync.kind == SyncKind::Reverse && rel.home.is_some();
        let images = core.images().ok().filter(|_| reversed);
        Some(droppable(async move {
            let begun = async {
                let source = hypervisor.source(&launch, &disks).await?;
                // Without it everything is compared, which is only slower.
                let own = match images {
                    Some(images) => images.divergence(vm).await.ok(),
                    None => None,
                };
                sync::begin(&tools, &route, source, &sync, own.as_ref()).await
            };
            Done::SyncBegun(begun.await)
        }))
    }

    pub(crate) async fn sync_begun(&mut self, core: &mut Core, result: Result<Begun, CopyError>) {
        match result {
            Ok(Begun::Open {
                source,
                known,
                parent,
                restarted,
            }) => {
                self.source = Some(source);
                self.sync = Some(Open { known, parent });
                core.note(|rel| {
                    let sync = rel.primary_mut()?.sync.as_mut()?;
                    if restarted {
                        sync.cursor = (0, 0);
                    }
                    sync.tracking = true;
                    Some(())
                })
                .await;
            }
            Ok(Begun::Closed { source, at }) => {
                self.source = Some(source);
                self.base = Some(Base::at(at));
                self.close_sync(core, at).await;
            }
            Ok(Begun::Lost) => self.compare_from_the_beginning(core).await,
            Err(e) => self.sync_failed(core, &e).await,
        }
    }

    /// Nothing that was compared counts any more. Not gone on with until that is recorded.
    async fn compare_from_the_beginning(&mut self, core: &mut Core) {
        let Ok(mut change) = core.change() else { return };
        if let Some(sync) = change.primary_mut().and_then(|p| p.sync.as_mut()) {
            (sync.cursor, sync.tracking) = ((0, 0), false);
        }
        self.forget();
        match core.commit(change).await {
            Ok(()) => self.next_at = Instant::now(),
            Err(_) => self.retry_later(core),
        }
    }

    pub(crate) async fn sync_stepped(&mut self, core: &mut Core, result: Result<sync::Step, CopyError>) {
        let step = match result {
            Ok(step) => step,
            Err(e) => return self.sync_failed(core, &e).await,
        };
        let (done, total) = sync::progress(step.source.disks(), step.cursor);
        self.source = Some(step.source);
        self.sync = Some(Open {
            known: step.known,
            parent: step.parent,
        });
        let now = core.host.ports.clock.now();
        let stepped = core.tally(|rel| {
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
            core.host.jobs.progress(job, done, total, &detail);
        }
        core.cured();
        core.write_noted().await;
    }

    /// The closing cycle is on the replica: both copies are equal, and ordinary cycles follow.
    pub(crate) async fn close_sync(&mut self, core: &mut Core, at: Position) {
        let Some((job, kind)) = core.synchronization().map(|s| (s.job, s.kind)) else {
            return;
        };
        let Ok(mut change) = core.change() else { return };
        change.drop_sync();
        // One of them fits the state that the synchronization was begun in; in 3 neither has to.
        if change.step(Step::ResyncFinished).is_err() {
            let _ = change.step(Step::CopyFinished);
        }
        change.problem = None;
        if let Some(primary) = change.primary_mut() {
            primary.acknowledged = at;
        }
        change.end_job(&core.host.jobs, job, JobState::Completed, None);
        change.tell(match kind {
            SyncKind::Reverse => "the old primary's copy is the replica now",
            SyncKind::Seed => "initial copy finished: the seed is equal now",
            SyncKind::Resync => "resynchronization finished",
        });
        if let Err(e) = core.commit(change).await {
            tracing::warn!(vm = %core.id, error = %e.message, "the end of the synchronization is not recorded");
            // It is found closed again at the next attempt.
            self.forget();
            self.retry_later(core);
        }
    }

    async fn sync_failed(&mut self, core: &mut Core, e: &CopyError) {
        let again = matches!(
            e,
            CopyError::Link(LinkError::Refused(PeerRefusal::OutOfSequence { .. }))
                | CopyError::Capture(crate::port::capture::CaptureError::TrackingLost { .. })
                | CopyError::Lost { .. }
        );
        if again {
            // Not a fault: the next attempt asks the replica and the disks where they stand.
            self.forget();
            self.retry_later(core);
        } else {
            self.copy_failed(core, e).await;
        }
    }
}
