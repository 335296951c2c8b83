//! The primary's part of an actor: initial copy, cycles, and what their outcomes mean for the state. What an
//! administrator asks for is in `operations`.

use std::time::Duration;

use lifeboat_deltalog::Consistency;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::policy::{FAULT_AFTER_ATTEMPTS, backoff};
use lifeboat_model::{JobState, JobType, Position, ReplicationState as State, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug;

use crate::action::{CycleResult, Refusal};
use crate::actor::{Actor, Done, Work, chain};
use crate::backlog::Waiting;
use crate::copy::{self, Base, Capture, CopyError, CycleEnd, Delivered, Pending, Route, Stands};
use crate::images::NoCycle;
use crate::images::{Awaiting, Unverified};
use crate::planned::Role;
use crate::ports::capture::{CaptureError, CaptureSource, Tracking};
use crate::ports::link::{LinkError, PeerRefusal, PeerReply, PeerRequest, Standing};
use crate::question;
use crate::records::{Relationship, Sent};

/// How long an actor sleeps when nothing is due.
pub(crate) const IDLE: Duration = Duration::from_secs(3600);

/// What the primary keeps in memory between pieces of work. All of it can be lost.
pub(crate) struct PrimaryState {
    /// The open disks; `None` after anything went wrong.
    pub(crate) source: Option<Box<dyn CaptureSource>>,
    /// From where cycles go on; `None`: to be settled first.
    pub(crate) base: Option<Base>,
    /// A synchronization that is taken up.
    pub(crate) sync: Option<crate::resync::Open>,
    /// A log that waits for the network.
    pending: Option<Pending>,
    /// The bulk copy is complete; the closing cycle is next.
    copied: bool,
    /// Work may have been dropped in the middle of a capture since the disks were last put in order.
    disturbed: bool,
    /// When the next cycle is due.
    pub(crate) next_at: Instant,
    /// Since when an attempt that failed waits for the next one; `None` when nothing failed.
    pub(crate) backing_off: Option<Instant>,
    /// The replica has enough to apply and takes nothing more for now.
    pub(crate) held_back: Option<crate::backlog::HeldBack>,
    /// Others use the disks, and the next cycle waits for them.
    pub(crate) busy: Option<crate::busy::Busy>,
    /// When the current cycle was due.
    due: Instant,
    /// What was scheduled and could not begin is tried again then.
    pub(crate) begin_after: Instant,
    /// The merge of a commit, by the running VM's own process, beside the cycles.
    pub(crate) merging: Option<Aside>,
    /// Replicas that wait for bytes of the disks.
    pub(crate) loans: Vec<crate::lend::Loan>,
    /// A merge that failed is tried again then.
    pub(crate) merge_after: Instant,
    /// When the images of the powered-off VM were last seen to be what the replica has.
    pub(crate) verified: Option<Timestamp>,
    /// Why that could not be seen the last time.
    pub(crate) unverified: Option<Unverified>,
    /// Captures that were begun.
    pub(crate) captures: u64,
    /// Those who wait for the result of a cycle.
    pub(crate) awaiting: Vec<Awaiting>,
}

/// A task beside the work of an actor. It ends with the actor.
pub(crate) struct Aside(pub(crate) JoinHandle<()>);

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Default for PrimaryState {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            source: None,
            base: None,
            sync: None,
            pending: None,
            copied: false,
            disturbed: true,
            next_at: now,
            backing_off: None,
            held_back: None,
            busy: None,
            due: now,
            begin_after: now,
            merging: None,
            loans: Vec::new(),
            merge_after: now,
            verified: None,
            unverified: None,
            captures: 0,
            awaiting: Vec::new(),
        }
    }
}

impl PrimaryState {
    /// Lets go of everything, so that the next piece of work begins by finding order.
    pub(crate) fn forget(&mut self) {
        (self.source, self.base, self.pending, self.copied) = (None, None, None, false);
        self.sync = None;
        self.disturbed = true;
    }
}

impl Actor {
    pub(crate) fn route(&self, rel: &Relationship) -> Route {
        Route {
            vm: self.id,
            peer: rel.peer.clone(),
            compress: rel.settings.compression,
            start: rel.position.first(),
        }
    }

    pub(crate) async fn plan_primary(&mut self) -> Option<Work> {
        // A log that waits for the network has the disks open.
        if self.primary.pending.is_none()
            && let Some(work) = self.plan_loan().await
        {
            return Some(work);
        }
        let rel = self.rel.as_ref()?;
        let due = Instant::now() >= self.primary.next_at;
        let active = Self::flows(rel);
        let side = rel.primary()?;
        let more = side.planned.is_some() || side.start || rel.home.as_ref().is_some_and(|h| !h.merged);
        if !active && !self.primary.awaiting.is_empty() {
            let state = rel.state;
            self.answer_cycle(Err(NoCycle::Rests(state)));
        }
        if !active && !more && !self.primary.disturbed {
            self.primary.next_at = Instant::now() + IDLE;
            return None;
        }
        if !due {
            return None;
        }
        match self.plan_role().await {
            Role::Works(work) => return Some(work),
            Role::Waits => return None,
            Role::Flows => {}
        }
        if !active {
            if !self.primary.disturbed {
                self.primary.next_at = Instant::now() + IDLE;
                return None;
            }
            return self.plan_tidy().await;
        }
        if let Some(work) = self.plan_update().await {
            return Some(work);
        }
        if let Some(pending) = self.primary.pending.take() {
            return self.resend(pending);
        }
        if self.nothing_changed().await {
            return None;
        }
        if self.synchronization().is_some() {
            return self.plan_sync().await;
        }
        match (self.primary.source.take(), self.primary.base) {
            (Some(source), Some(base)) => {
                let capture = Capture {
                    record: base.record,
                    parent: base.parent,
                    next: self.next_number(base.parent),
                    wanted: self.wanted(),
                };
                self.plan_capture(source, capture).await
            }
            (source, _) => {
                // Closing an idle source in order stores what it tracks; a powered-off VM must also be free to start.
                if let Some(source) = source
                    && !source.live()
                    && let Err(e) = source.close().await
                {
                    debug!(vm = %self.id, error = %e, "source not closed");
                }
                self.plan_settle().await
            }
        }
    }

    /// Puts the disks in order after dropped work when no further work will: a guest's writes must not go on being
    /// saved for a capture that nobody reads.
    async fn plan_tidy(&mut self) -> Option<Work> {
        let Ok(launch) = self.launch().await else {
            self.retry_later();
            return None;
        };
        let disks = self.rel.as_ref()?.settings.disks.clone();
        let hypervisor = self.host.ports.hypervisor.clone();
        Some(droppable(async move {
            let tidy = async {
                let source = hypervisor.source(&launch, &disks).await?;
                let recovered = source.recover().await.map(|_| ());
                let closed = source.close().await;
                recovered.and(closed)
            };
            Done::Tidied(tidy.await)
        }))
    }

    pub(crate) fn tidied(&mut self, result: Result<(), CaptureError>) {
        match result {
            Ok(()) => self.primary.disturbed = false,
            Err(e) => {
                debug!(vm = %self.id, error = %e, "the disks are not in order yet");
                self.retry_later();
            }
        }
    }

    /// Whether the VM is off and its last changes are on the replica; then the next look is one interval away.
    async fn nothing_changed(&mut self) -> bool {
        let off = self.look().await.is_off();
        let Some(rel) = self.rel.as_ref() else { return true };
        let settled = rel.primary().is_some_and(|p| p.settled);
        if self.primary.source.as_ref().is_some_and(|s| s.live() == off) {
            // Started or stopped since the last cycle.
            self.primary.forget();
        }
        if off
            && settled
            && rel.state == State::Replicating
            && !self.closing()
            && self.synchronization().is_none()
        {
            let interval = rel.settings.interval();
            let looked = self.look_at_images().await;
            if self.take_look(looked).await {
                self.primary.next_at = Instant::now() + interval;
                return true;
            }
            return false;
        }
        // What was known of a VM that was off and settled is no longer of interest.
        self.primary.unverified = None;
        false
    }

    async fn plan_settle(&mut self) -> Option<Work> {
        let launch = match self.launch().await {
            Ok(launch) => launch,
            Err(e) => {
                self.no_cycle(&e).await;
                return None;
            }
        };
        let rel = self.rel.as_ref()?;
        let (tools, route, disks) = (self.host.tools(), self.route(rel), rel.settings.disks.clone());
        let hypervisor = self.host.ports.hypervisor.clone();
        let copying = rel.state == State::WaitingToCompleteInitialReplication && !self.primary.copied;
        let jobs = self.host.jobs.clone();
        let export = self.exports();
        let kind = match export {
            Some(_) => JobType::StartExport,
            None => JobType::StartReplication,
        };
        let job = jobs.unfinished(self.id, kind).map(|j| j.id);
        let vm = self.id;
        let (sent, last) = (rel.primary()?.sent, rel.position);
        Some(droppable(async move {
            let source = match hypervisor.source(&launch, &disks).await {
                Ok(source) => source,
                Err(e) => return Done::NotOpened(e, question::told(&*tools.link, &route.peer, vm).await),
            };
            let report = |done: u64, total: u64| {
                if let Some(job) = job {
                    jobs.progress(job, done, total, "initial copy");
                }
            };
            if let Some(export) = export.filter(|_| copying) {
                let done = crate::media::export(&tools, &route, &*source, &export, &report).await;
                Done::Copied(done.map(|()| source))
            } else if copying {
                Done::Copied(bulk(&tools, &route, &*source, &report).await.map(|()| source))
            } else {
                let settled = async {
                    let status = copy::status(&*tools.link, &route).await?;
                    let stands = Stands {
                        durable: status.durable,
                        partial: status.partial,
                        sent,
                        last,
                    };
                    copy::settle(&*source, &stands).await
                };
                Done::Settled(settled.await.map(|at| (source, at)))
            }
        }))
    }

    pub(crate) async fn plan_capture(
        &mut self,
        source: Box<dyn CaptureSource>,
        capture: Capture,
    ) -> Option<Work> {
        let (tools, route) = {
            let rel = self.rel.as_ref()?;
            (self.host.tools(), self.route(rel))
        };
        // A number is used for one capture only, so that bytes of two captures can never meet in one file: the use is
        // durable before the capture is.
        let mut change = self.change().ok()?;
        change.position = capture.next;
        if let Some(primary) = change.primary_mut() {
            primary.sent = Some(Sent::and(primary.sent, capture.record, capture.next));
        }
        if let Err(e) = self.commit(change).await {
            self.primary.source = Some(source);
            self.no_cycle(&e).await;
            return None;
        }
        self.primary.due = self.primary.next_at;
        self.primary.captures += 1;
        Some(droppable(async move {
            Done::Cycled(copy::cycle(tools, route, source, capture).await)
        }))
    }

    pub(crate) async fn copied(&mut self, result: Result<Box<dyn CaptureSource>, CopyError>) {
        match result {
            Ok(source) => {
                self.cured();
                if !self.exported().await {
                    return;
                }
                self.primary.copied = true;
                self.primary.source = Some(source);
                self.primary.base = None;
            }
            Err(e) if self.export_failed(&e).await => {}
            Err(e) => self.copy_failed(&e).await,
        }
    }

    pub(crate) async fn settled(&mut self, result: Result<(Box<dyn CaptureSource>, Base), CopyError>) {
        match result {
            Ok((source, base)) => {
                self.primary.source = Some(source);
                self.primary.base = Some(base);
                self.acknowledge(base.parent).await;
            }
            Err(e) => self.copy_failed(&e).await,
        }
    }

    /// While this host cannot open the VM's disks nothing is sent, and what the replica would answer is not heard. It may
    /// have gone on without this side.
    pub(crate) async fn not_opened(&mut self, e: CaptureError, theirs: Option<Box<Standing>>) {
        if let Some(theirs) = theirs {
            self.weigh(&theirs).await;
        }
        self.copy_failed(&e.into()).await;
    }

    /// Takes in what the replica is known to have.
    async fn acknowledge(&mut self, at: Position) {
        if self.rel.as_ref().and_then(Relationship::primary).is_none() {
            return;
        }
        self.tally(|rel| rel.primary_mut().map(|p| p.acknowledged = at));
        self.write_noted().await;
        // The closing cycle may have arrived just before the daemon was ended.
        if !at.is_start() && self.synchronization().is_none() {
            self.finish_copy().await;
        }
    }

    pub(crate) async fn cycled(&mut self, end: CycleEnd) {
        match end {
            CycleEnd::Delivered(delivered) => self.delivered(delivered).await,
            CycleEnd::Waiting(pending, e) => {
                self.primary.pending = Some(pending);
                self.answer_cycle(Err(NoCycle::Link(&e)));
                self.count_failure(true).await;
                self.passing_fault(&chain(&e)).await;
            }
            CycleEnd::HeldBack(pending, waiting) => {
                self.primary.pending = Some(pending);
                self.held_back(waiting);
            }
            CycleEnd::Failed(e) => self.copy_failed(&e).await,
        }
    }

    /// What the next instant is to guarantee.
    pub(crate) fn wanted(&self) -> Consistency {
        if self.closing() {
            Consistency::Planned
        } else {
            self.wanted_of_guest()
        }
    }

    async fn delivered(&mut self, done: Delivered) {
        let now = self.host.ports.clock.reading();
        let sent = CycleResult::Sent {
            bytes: done.bytes,
            instant: done.taken.wall,
            position: done.position,
        };
        if !done.source.live() {
            self.primary.verified = Some(done.taken.wall);
        }
        let live = done.source.live();
        self.roll_statistics().await;
        let (due, was) = (self.primary.due, self.rel.as_ref().map(|r| r.state));
        let interval = self.tally(|rel| {
            let age = now.about_since(done.taken);
            rel.last_replication = Some(now.wall);
            rel.newest_instant = Some(done.taken.wall);
            rel.recency.instant(now, age);
            rel.counters.arrived(done.bytes, age);
            let interval = rel.settings.interval();
            if matches!(rel.state, State::Replicating | State::Critical) {
                rel.counters.late(due.elapsed(), interval);
            }
            if let Some(primary) = rel.primary_mut() {
                primary.settled = !live;
            }
            interval
        });
        if let Some(interval) = interval {
            // Fixed rate, without a burst of cycles after a long one.
            self.primary.next_at = if was == Some(State::WaitingToCompleteInitialReplication) {
                Instant::now() + interval
            } else if due.elapsed() > interval {
                Instant::now()
            } else {
                due + interval
            };
        }
        (self.primary.backing_off, self.primary.held_back) = (None, None);
        self.primary.busy = None;
        self.moved();
        self.cured();
        self.rejoined();
        self.application_taken(&done).await;
        self.primary.base = Some(Base::at(done.position));
        if live {
            self.primary.source = Some(done.source);
        } else {
            self.primary.forget();
            if let Err(e) = done.source.close().await {
                self.fault(&format!(
                    "the powered-off VM's disks were not closed in order: {e}"
                ))
                .await;
            }
        }
        self.close_sync(done.position).await;
        self.acknowledge(done.position).await;
        if !live && done.wanted == Consistency::Planned {
            self.prepared().await;
        }
        self.answer_cycle(Ok(&sent));
        if !self.primary.awaiting.is_empty() {
            // Asked for while this cycle was under way.
            self.primary.next_at = Instant::now();
        }
    }

    async fn finish_copy(&mut self) {
        let Ok(mut change) = self.change() else { return };
        if change.step(Step::CopyFinished).is_err() {
            return;
        }
        let job = self.host.jobs.unfinished(self.id, JobType::StartReplication);
        change.end_job(&self.host.jobs, job.map(|j| j.id), JobState::Completed, None);
        change.tell("initial copy finished");
        if let Err(e) = self.commit(change).await {
            // The next cycle records it.
            tracing::warn!(vm = %self.id, error = %e.message, "end of the initial copy not recorded");
        }
    }

    /// A cycle could not even begin; who waits for one is told why.
    async fn no_cycle(&mut self, e: &Refusal) {
        self.fault(&e.to_string()).await;
        self.answer_cycle(Err(NoCycle::Refused(e)));
        self.retry_later();
    }

    pub(crate) fn retry_later(&mut self) {
        let attempts = self
            .rel
            .as_ref()
            .and_then(|r| r.problem.as_ref())
            .map_or(1, |p| p.attempts);
        self.primary.backing_off = Some(Instant::now());
        self.primary.next_at = Instant::now() + backoff(attempts);
    }

    /// A fault that a retry may cure: it becomes the state only when several have not.
    pub(crate) async fn passing_fault(&mut self, message: &str) {
        self.fault(message).await;
        let attempts = self
            .rel
            .as_ref()
            .and_then(|r| r.problem.as_ref())
            .map_or(0, |p| p.attempts);
        if attempts >= FAULT_AFTER_ATTEMPTS {
            self.note_step(Step::Fault).await;
        }
        self.retry_later();
    }

    pub(crate) async fn copy_failed(&mut self, e: &CopyError) {
        self.primary.forget();
        if !matches!(e, CopyError::Capture(CaptureError::Busy(_))) {
            self.primary.busy = None;
        }
        if let Some(committed) = Self::split_by(e) {
            self.split(committed).await;
        }
        let passes = matches!(
            e,
            CopyError::Link(LinkError::Refused(PeerRefusal::OutOfSequence { .. }))
        );
        if !passes {
            self.answer_cycle(Err(NoCycle::Copy(e)));
        }
        match e {
            CopyError::Link(LinkError::Refused(PeerRefusal::OutOfSequence { .. })) => {
                // Not a fault: the replica knows better where it stands, and `settle` asks it.
                self.retry_later();
            }
            CopyError::Link(LinkError::Refused(PeerRefusal::Backlog { logs, bytes, .. })) => {
                let (logs, bytes) = (*logs, *bytes);
                self.held_back(Waiting { logs, bytes });
            }
            CopyError::Link(LinkError::Refused(refusal)) => {
                self.fault(&refusal.to_string()).await;
                self.count_failure(false).await;
                self.note_step(Step::Fault).await;
                self.retry_later();
            }
            CopyError::Link(e) => {
                self.count_failure(true).await;
                self.passing_fault(&chain(e)).await;
            }
            CopyError::Lost { why, arrived } => self.lost(why, *arrived).await,
            CopyError::Capture(CaptureError::TrackingLost { disk, reason }) => {
                self.lost(
                    &format!("change tracking of disk {disk} is lost: {reason}"),
                    false,
                )
                .await;
            }
            CopyError::Capture(CaptureError::Busy(why)) => self.busy(why, e).await,
            CopyError::Capture(_)
            | CopyError::Spool(_)
            | CopyError::Media(_)
            | CopyError::Store(_)
            | CopyError::Encode(_) => {
                self.count_failure(false).await;
                self.passing_fault(&chain(e)).await;
            }
        }
    }

    async fn lost(&mut self, why: &str, arrived: bool) {
        if arrived {
            // The cycle that closes the initial copy may have arrived without its answer.
            self.finish_copy().await;
        }
        self.fault(&format!("{why}; resynchronization is required")).await;
        // During the initial copy nothing is lost: the copy finds out by itself and begins again.
        if self.note_step(Step::TrackingLost).await {
            self.plan_without_changes(why).await;
        } else {
            self.retry_later();
        }
    }
}

/// The bulk copy of all disks, from where it stopped; or from the beginning where changes since then are not known.
async fn bulk(
    tools: &copy::Tools,
    route: &Route,
    source: &dyn CaptureSource,
    report: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(), CopyError> {
    let tracking = source.recover().await?;
    let mut status = copy::status(&*tools.link, route).await?;
    if !status.durable.is_start() && status.durable.same_generation(route.start) {
        return Ok(());
    }
    let resumes = match &tracking {
        Tracking::Since(at) => at.first() == Some(&route.start),
        Tracking::None | Tracking::Lost { .. } => false,
    };
    if !resumes {
        // First the replica forgets its progress, then tracking starts: a crash between the two repeats both.
        for disk in 0..source.disks().len() {
            let request = PeerRequest::RestartBulk {
                vm: route.vm,
                disk: u16::try_from(disk).unwrap_or(u16::MAX),
            };
            match tools.link.call(&route.peer, request).await? {
                PeerReply::Status(s) => status = s,
                other => return Err(copy::unexpected(&route.peer, &other).into()),
            }
        }
        source.stop_tracking().await?;
        source.start_tracking(route.start).await?;
    }
    let disks = source.disks();
    let total: u64 = disks.iter().map(|d| d.size).sum();
    let view = source.current().await?;
    let mut before = 0;
    for (index, disk) in disks.iter().enumerate() {
        let from = status
            .bulk
            .iter()
            .find(|b| b.disk == disk.id)
            .map_or(0, |b| b.done);
        report(before + from, total);
        copy::copy_disk(tools, route, &*view, (index, disk), from, &|done| {
            report(before + done, total)
        })
        .await?;
        before += disk.size;
    }
    view.close().await?;
    Ok(())
}

pub(crate) fn droppable(future: impl Future<Output = Done> + Send + 'static) -> Work {
    Work {
        future: Box::pin(future),
        droppable: true,
    }
}
