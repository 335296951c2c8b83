//! The primary's part of an actor: initial copy, cycles, and what their outcomes mean for the state. What an
//! administrator asks for is in `operations`.

use crate::contract::Refusal;
use crate::core::Core;
use crate::host::question;
use crate::port::capture::{CaptureError, CaptureSource, Tracking};
use crate::port::link::{LinkError, PeerRefusal, PeerReply, PeerRequest, Standing};
use crate::record::{Relationship, Sent};
use crate::source::copy::{Base, Capture, Route, Stands};
use crate::source::images::NoCycle;
use crate::source::{Done, SourcePart, copy};
use crate::work::failure::CopyError;
use crate::work::message::Waiting;
use crate::work::piece::{Work, droppable};
use lifeboat_deltalog::Consistency;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::policy::{FAULT_AFTER_ATTEMPTS, backoff};
use lifeboat_model::{JobState, JobType, Note, Position, ProblemKind};
use tokio::time::Instant;
use tracing::debug;

impl Core {
    pub(crate) fn route(&self, rel: &Relationship) -> Route {
        Route {
            vm: self.id,
            peer: rel.peer.clone(),
            compress: rel.settings.compression,
            start: rel.position.first(),
        }
    }

    /// Takes in what the replica is known to have.
    pub(crate) async fn acknowledge(&mut self, at: Position) {
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

    /// What the next instant is to guarantee.
    pub(crate) fn wanted(&self) -> Consistency {
        if self.closing() {
            Consistency::Planned
        } else {
            self.wanted_of_guest()
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
}

impl SourcePart {
    /// Puts the disks in order after dropped work when no further work will: a guest's writes must not go on being
    /// saved for a capture that no task reads.
    pub(crate) async fn plan_tidy(&mut self, core: &Core) -> Option<Work<Done>> {
        let Ok(launch) = core.launch().await else {
            self.retry_later(core);
            return None;
        };
        let disks = core.rel.as_ref()?.settings.disks.clone();
        let hypervisor = core.hypervisor();
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

    pub(crate) fn tidied(&mut self, core: &Core, result: Result<(), CaptureError>) {
        match result {
            Ok(()) => self.disturbed = false,
            Err(e) => {
                debug!(vm = %core.id, error = %e, "the disks are not in order yet");
                self.retry_later(core);
            }
        }
    }

    /// Whether the VM is off and its last changes are on the replica; then the next look is one interval away.
    pub(crate) async fn nothing_changed(&mut self, core: &mut Core) -> bool {
        let off = core.look().await.is_off();
        let Some(rel) = core.rel.as_ref() else { return true };
        let settled = rel.primary().is_some_and(|p| p.settled);
        if self.source.as_ref().is_some_and(|s| s.live() == off) {
            // Started or stopped since the last cycle.
            self.forget();
        }
        if off
            && settled
            && rel.state == State::Replicating
            && !core.closing()
            && core.synchronization().is_none()
        {
            let interval = rel.settings.interval();
            let looked = core.look_at_images().await;
            if self.take_look(core, looked).await {
                self.next_at = Instant::now() + interval;
                return true;
            }
            return false;
        }
        // What was known of a VM that was off and settled is no longer of interest.
        self.unverified = None;
        false
    }

    pub(crate) async fn plan_settle(&mut self, core: &mut Core) -> Option<Work<Done>> {
        let launch = match core.launch().await {
            Ok(launch) => launch,
            Err(e) => {
                self.no_cycle(core, &e).await;
                return None;
            }
        };
        let rel = core.rel.as_ref()?;
        let (tools, route, disks) = (core.host.tools(), core.route(rel), rel.settings.disks.clone());
        let hypervisor = core.hypervisor();
        let copying = rel.state == State::WaitingToCompleteInitialReplication && !self.copied;
        let jobs = core.host.jobs.clone();
        let export = core.exports();
        let kind = match export {
            Some(_) => JobType::StartExport,
            None => JobType::StartReplication,
        };
        let job = jobs.unfinished(core.id, kind).map(|j| j.id);
        let vm = core.id;
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
                let done = crate::source::media::export(&tools, &route, &*source, &export, &report).await;
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
        core: &mut Core,
        source: Box<dyn CaptureSource>,
        capture: Capture,
    ) -> Option<Work<Done>> {
        let (tools, route) = {
            let rel = core.rel.as_ref()?;
            (core.host.tools(), core.route(rel))
        };
        // A number is used for one capture only, so that bytes of two captures can never meet in one file: the use is
        // durable before the capture is.
        let mut change = core.change().ok()?;
        change.position = capture.next;
        if let Some(primary) = change.primary_mut() {
            primary.sent = Some(Sent::and(primary.sent, capture.record, capture.next));
        }
        if let Err(e) = core.commit(change).await {
            self.source = Some(source);
            self.no_cycle(core, &e).await;
            return None;
        }
        self.due = self.next_at;
        self.captures += 1;
        Some(droppable(async move {
            Done::Cycled(copy::cycle(tools, route, source, capture).await)
        }))
    }

    pub(crate) async fn copied(
        &mut self,
        core: &mut Core,
        result: Result<Box<dyn CaptureSource>, CopyError>,
    ) {
        match result {
            Ok(source) => {
                core.cured();
                if !self.exported(core).await {
                    return;
                }
                self.copied = true;
                self.source = Some(source);
                self.base = None;
            }
            Err(e) if self.export_failed(core, &e).await => {}
            Err(e) => self.copy_failed(core, &e).await,
        }
    }

    pub(crate) async fn settled(
        &mut self,
        core: &mut Core,
        result: Result<(Box<dyn CaptureSource>, Base), CopyError>,
    ) {
        match result {
            Ok((source, base)) => {
                self.source = Some(source);
                self.base = Some(base);
                core.acknowledge(base.parent).await;
            }
            Err(e) => self.copy_failed(core, &e).await,
        }
    }

    /// While this host cannot open the VM's disks nothing is sent, and what the replica would answer is not heard. It may
    /// have gone on without this side.
    pub(crate) async fn not_opened(
        &mut self,
        core: &mut Core,
        e: CaptureError,
        theirs: Option<Box<Standing>>,
    ) {
        if let Some(theirs) = theirs {
            core.evaluate_split(&theirs).await;
        }
        self.copy_failed(core, &e.into()).await;
    }

    /// A cycle could not even begin; who waits for one is told why.
    async fn no_cycle(&mut self, core: &mut Core, e: &Refusal) {
        core.fault(core.launch_problem(), e.note()).await;
        self.answer_cycle(Err(NoCycle::Refused(e)));
        self.retry_later(core);
    }

    pub(crate) fn retry_later(&mut self, core: &Core) {
        let attempts = core
            .rel
            .as_ref()
            .and_then(|r| r.problem.as_ref())
            .map_or(1, |p| p.attempts);
        self.backing_off = Some(Instant::now());
        self.next_at = Instant::now() + backoff(attempts);
    }

    /// A fault that a retry may cure: it becomes the state only when several have not.
    pub(crate) async fn passing_fault(&mut self, core: &mut Core, kind: ProblemKind, note: Note) {
        core.fault(kind, note).await;
        let attempts = core
            .rel
            .as_ref()
            .and_then(|r| r.problem.as_ref())
            .map_or(0, |p| p.attempts);
        if attempts >= FAULT_AFTER_ATTEMPTS {
            core.note_step(Step::Fault).await;
        }
        self.retry_later(core);
    }

    pub(crate) async fn copy_failed(&mut self, core: &mut Core, e: &CopyError) {
        self.forget();
        if !matches!(e, CopyError::Capture(CaptureError::Busy(_))) {
            self.busy = None;
        }
        if let Some(committed) = Core::split_by(e) {
            core.split(committed).await;
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
                self.retry_later(core);
            }
            CopyError::Link(LinkError::Refused(PeerRefusal::Backlog { logs, bytes, .. })) => {
                let (logs, bytes) = (*logs, *bytes);
                self.held_back(Waiting { logs, bytes });
            }
            CopyError::Link(LinkError::Refused(refusal)) => {
                core.fault(refusal.problem(), refusal.note()).await;
                core.count_failure(false).await;
                core.note_step(Step::Fault).await;
                self.retry_later(core);
            }
            CopyError::Link(e) => {
                core.count_failure(true).await;
                self.passing_fault(core, e.problem(), e.note()).await;
            }
            CopyError::Lost { why, arrived } => self.lost(core, why, *arrived).await,
            CopyError::Capture(CaptureError::TrackingLost { disk, reason }) => {
                self.lost(
                    core,
                    &format!("change tracking of disk {disk} is lost: {reason}"),
                    false,
                )
                .await;
            }
            CopyError::Capture(CaptureError::Busy(why)) => self.busy(core, why, e).await,
            CopyError::Capture(_)
            | CopyError::Spool(_)
            | CopyError::Media(_)
            | CopyError::Store(_)
            | CopyError::Encode(_) => {
                core.count_failure(false).await;
                self.passing_fault(core, e.problem(), e.note()).await;
            }
        }
    }

    async fn lost(&mut self, core: &mut Core, why: &str, arrived: bool) {
        if arrived {
            // The cycle that closes the initial copy may have arrived without its answer.
            core.finish_copy().await;
        }
        let text = format!("{why}; resynchronization is required");
        core.fault(ProblemKind::TrackingLost, text).await;
        // During the initial copy nothing is lost: the copy finds out by itself and begins again.
        if core.note_step(Step::TrackingLost).await {
            self.plan_without_changes(core, why).await;
        } else {
            self.retry_later(core);
        }
    }
}

/// The bulk copy of all disks, from where it stopped; or from the beginning where changes since then are not known.
async fn bulk(
    tools: &crate::host::tools::Tools,
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
                other => return Err(crate::work::calls::unexpected(&route.peer, &other).into()),
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
