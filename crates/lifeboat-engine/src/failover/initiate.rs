//! Failover, revert and commit on the replica, as sagas: the intent is durable before its work begins, every step can be
//! repeated, and after a crash the recorded phase says what to go on with. Points are never written to.

use crate::contract::paging::{Page, Paging};
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, PointSelector, PointView, Refusal};
use crate::core::Core;
use crate::core::aging::Sealer;
use crate::core::change::Change;
use crate::core::order::disorder;
use crate::failover::defined::define;
use crate::host::question;
use crate::host::question::Asking;
use crate::port::hypervisor::{Hypervisor, HypervisorError, Power, Role};
use crate::port::store::{ImageStore, ReplicaInfo, StoreError, Target};
use crate::record::{Addressing, Failover, FailoverPhase, TakeOver};
use crate::target::TargetPart;
use crate::target::points::{placed_points, points};
use crate::work::launch::branch_launch;
use crate::work::saga::{Ready, SagaError, StartError};
use lifeboat_deltalog::Consistency;
use lifeboat_model::FailedOverReplicationType as Kind;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{
    BranchId, GenerationId, Hint, JobState, JobType, NicFailover, Note, PointId, Position, ProblemKind, VmId,
    VmSpec, hint,
};
use std::cmp::Ordering;
use std::sync::Arc;

/// A page of them. Where the point that it goes on behind has expired meanwhile, the next older one of its generation is the
/// first; where none of that generation is left, nothing says any more what is older.
pub(crate) fn page_of_points(info: &ReplicaInfo, paging: &Paging) -> Result<Page<PointView>, Refusal> {
    let mut points: Vec<(Position, PointView)> = placed_points(info).collect();
    if let Some(after) = paging.key::<Position>()? {
        let older = |(at, _): &(Position, PointView)| at.compare(after) == Some(Ordering::Less);
        let same = points.iter().position(|(at, _)| *at == after).map(|n| n + 1);
        let from = same.or_else(|| points.iter().position(older));
        let gone = || {
            Refusal::new(
                ReturnCode::InvalidState,
                "the recovery points have become others while they were listed",
                hint::Again::FromBeginning,
            )
        };
        points.drain(..from.ok_or_else(gone)?);
    }
    let more = points.len() > paging.limit();
    points.truncate(paging.limit());
    let parts = points.into_iter().map(|(at, point)| (at, Some(point)));
    Ok(Page::of(parts.collect(), more))
}

/// The point a selector means. What is damaged is not offered, and is refused by its id.
pub(crate) fn choose(info: &ReplicaInfo, selector: &PointSelector) -> Result<PointView, Refusal> {
    let all = points(info);
    let none = |what: String| {
        Err(Refusal::new(
            ReturnCode::InvalidParameter,
            what,
            hint::Look::Points,
        ))
    };
    match selector {
        PointSelector::Latest => match all.iter().find(|p| p.unusable.is_none()) {
            Some(p) => Ok(p.clone()),
            None if !all.is_empty() => Err(spoiled(&all)),
            None => Err(Refusal::new(
                ReturnCode::InvalidState,
                "there is no recovery point",
                hint::Copies::AwaitCopy,
            )),
        },
        PointSelector::At(time) => match all.iter().find(|p| p.instant <= *time && p.unusable.is_none()) {
            Some(p) => Ok(p.clone()),
            None if all.iter().any(|p| p.instant <= *time) => Err(spoiled(&all)),
            None => none("no recovery point at or before that time".into()),
        },
        PointSelector::Id(id) => {
            let wanted = id.to_lowercase();
            if let Some(p) = all.iter().find(|p| is_named(info, p, &wanted)) {
                return whole(p, &all);
            }
            let mut found = all
                .iter()
                .filter(|p| !wanted.is_empty() && p.id.starts_with(&wanted));
            match (found.next(), found.next()) {
                (Some(p), None) => whole(p, &all),
                (Some(_), Some(_)) => none(format!("several recovery points begin with \"{id}\"")),
                (None, _) => none(format!("no recovery point \"{id}\"")),
            }
        }
    }
}

/// Whether a point has this name: its id, its GUID, or the id that its instant had as a cycle before it was sealed.
fn is_named(info: &ReplicaInfo, point: &PointView, wanted: &str) -> bool {
    let guid = wanted.parse().ok();
    point.id == wanted
        || guid.is_some() && point.guid == guid
        || position_of(info, point.target).is_some_and(|at| at.to_string() == wanted)
}

/// What a user who chose a point like this has to know: a time says little when the instants are not in order.
pub(crate) fn disorder_note(info: &ReplicaInfo, selector: &PointSelector) -> Option<String> {
    match selector {
        PointSelector::At(_) => disorder(&points(info)),
        PointSelector::Latest | PointSelector::Id(_) => None,
    }
}

/// The point, unless its data is, or may be, wrong.
pub(crate) fn whole(point: &PointView, all: &[PointView]) -> Result<PointView, Refusal> {
    let Some(why) = &point.unusable else {
        return Ok(point.clone());
    };
    // The next older one, or else the oldest of those that are newer; the list has the newest first.
    let good = |p: &&PointView| p.unusable.is_none();
    let mut older = all.iter().skip_while(|p| p.id != point.id);
    let hint = match older.find(good).or_else(|| all.iter().rfind(good)) {
        Some(p) => Hint::from(hint::Failover::UsePoint { point: p.id.clone() }),
        None => hint::Copies::CompareOnPrimary.into(),
    };
    let message = format!("recovery point {} cannot be used: {why}", point.id);
    Err(Refusal::new(ReturnCode::InvalidState, message, hint))
}

/// Every point that was meant is damaged.
pub(crate) fn spoiled(all: &[PointView]) -> Refusal {
    let why = all.iter().find_map(|p| p.unusable.as_deref()).unwrap_or_default();
    Refusal::new(
        ReturnCode::InvalidState,
        format!("no recovery point there can be used: {why}"),
        hint::Look::Points,
    )
}

/// The position a target stands for.
pub(crate) fn position_of(info: &ReplicaInfo, target: Target) -> Option<Position> {
    match target {
        Target::Point { id } => info.points.iter().find(|p| p.id == id).map(|p| p.position),
        Target::Cycle { position } => Some(position),
        Target::Abandoned => info.abandoned.as_ref().map(|a| a.since),
    }
}

pub(crate) fn kind(consistency: Consistency) -> Kind {
    match consistency {
        Consistency::Crash => Kind::Regular,
        Consistency::Application => Kind::ApplicationConsistent,
        Consistency::Planned => Kind::Planned,
    }
}

/// Makes the branch and starts the VM on it. Repeatable from any point.
pub(crate) async fn initiate(
    images: Result<Arc<dyn ImageStore>, StoreError>,
    hypervisor: Arc<dyn Hypervisor>,
    vm: VmId,
    (spec, cards): (VmSpec, Vec<NicFailover>),
    failover: Failover,
    (start, sealer): (bool, Sealer),
) -> Result<Ready, SagaError> {
    let images = images?;
    let made = async {
        let max_images = hypervisor.max_images();
        branch(
            &*images,
            vm,
            (failover.branch, failover.target),
            &sealer,
            max_images,
        )
        .await?;
        // It is not reported as ready before its files were looked at.
        images.verify_branch(vm, failover.branch).await
    };
    made.await.map_err(|e| match e {
        StoreError::NoSpace(_) => SagaError::NoRoom(e),
        e => SagaError::Store(e),
    })?;
    if !start {
        return Ok(None);
    }
    let launch = branch_launch(&*images, spec, &cards, (vm, failover.branch)).await?;
    let started = async {
        match hypervisor.power(vm).await {
            Power::Off => {}
            Power::Running | Power::Paused | Power::Stalled(_) => return Ok(()),
            Power::NotKnown { why } => return Err(HypervisorError::NotKnown(why)),
        }
        define(&*hypervisor, &launch, Role::FailedOver).await?;
        hypervisor.preflight(&launch).await?;
        hypervisor.start(&launch).await
    };
    Ok(started.await.err().map(StartError::Hypervisor))
}

/// Makes a branch from a target; the newest data is sealed first.
pub(crate) async fn branch(
    images: &dyn ImageStore,
    vm: VmId,
    (branch, mut target): (BranchId, Target),
    sealer: &Sealer,
    max_images: Option<usize>,
) -> Result<Vec<(lifeboat_model::DiskId, crate::port::hypervisor::DiskImage)>, StoreError> {
    if let Target::Cycle { position } = target {
        let mut info = images.info(vm).await?;
        if info.durable == position {
            // The newest data: bring the head up to it and seal, which costs nothing and spares the replay.
            while info.applied != position {
                match images.apply_through(vm, position).await {
                    Ok(Some(_)) => info = images.info(vm).await?,
                    // The logs are replayed into the branch, which may use more of the reserve.
                    Ok(None) => break,
                    Err(e) if e.lacks_room() => break,
                    Err(e) => return Err(e),
                }
            }
            if info.applied == position {
                match sealer.seal(images, vm, PointId(branch.0)).await {
                    Ok(point) => target = Target::Point { id: point.id },
                    // The chain is as long as it may be: the logs are replayed into the branch.
                    Err(StoreError::Conflict(_)) => {}
                    Err(e) => return Err(e),
                }
            }
        } else if let Some(point) = info.points.iter().find(|p| p.position == position) {
            // Sealed by an earlier attempt of this very failover.
            target = Target::Point { id: point.id };
        }
    }
    images.branch(vm, branch, target, max_images).await
}

/// Merges what lies below a committed branch into its base, by the VM's own process when it runs.
pub(crate) async fn merge(
    images: Result<Arc<dyn ImageStore>, StoreError>,
    hypervisor: Arc<dyn Hypervisor>,
    vm: VmId,
    branch: BranchId,
    bytes_per_s: u64,
) -> Result<(), SagaError> {
    let images = images?;
    let layers = images.promoted_layers(vm, branch).await?;
    if layers.is_empty() {
        return Ok(());
    }
    match hypervisor.power(vm).await {
        Power::Off => return Ok(images.merge_promoted(vm, branch).await?),
        Power::Running | Power::Paused | Power::Stalled(_) => {}
        // Below a running VM only its own process may merge, and a VM that is off has none.
        Power::NotKnown { why } => return Err(SagaError::PowerNotKnown { why }),
    }
    hypervisor.merge_live(vm, &layers, bytes_per_s).await?;
    Ok(images.merged_live(vm, branch).await?)
}

/// On whose word a failover is begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consent {
    /// The prepared primary's.
    pub(crate) take_over: Option<TakeOver>,
    /// A person's, although the primary's VM may run.
    pub(crate) forced: bool,
    /// Without a person's consent: what was seen of a primary that could not be reached.
    pub(crate) unreached: Option<String>,
}

impl Core {
    pub(crate) async fn list_points(&mut self, paging: &Paging) -> Result<Answer, Refusal> {
        page_of_points(&self.replica_info().await?, paging).map(Answer::Points)
    }

    pub(crate) fn failover(&self) -> Option<&Failover> {
        self.rel.as_ref()?.failover()
    }

    /// The end of the job of the failover, as a part of a change.
    pub(crate) fn end_phase(&self, change: &mut Change, state: JobState, why: Option<Note>) {
        let job = self.failover().map(|f| f.job);
        change.end_job(&self.host.jobs, job, state, why);
    }

    /// The failover that can be reverted or committed now. Otherwise what to answer instead: the job, when exactly this is
    /// being done already, or a refusal.
    fn awaiting_decision(&self, asked: JobType) -> Result<Failover, Box<Result<Answer, Refusal>>> {
        let failover = self.failover().ok_or_else(|| Box::new(Err(no_relationship())))?;
        let (done, what) = match failover.phase {
            FailoverPhase::Ready => return Ok(failover.clone()),
            FailoverPhase::Reverting => (JobType::RevertFailover, "being reverted"),
            FailoverPhase::Committing { .. } => (JobType::CommitFailover, "being committed"),
            FailoverPhase::Initiating { .. } => (JobType::Failover, "being carried out"),
            FailoverPhase::Merging | FailoverPhase::Done => (JobType::CommitFailover, "committed"),
        };
        let job = self.host.jobs.get(failover.job);
        if done == asked
            && let Some(job) = job.filter(|j| !j.state.is_final())
        {
            return Err(Box::new(Ok(Answer::from(job))));
        }
        let code = match failover.phase {
            FailoverPhase::Ready | FailoverPhase::Merging | FailoverPhase::Done => ReturnCode::InvalidState,
            FailoverPhase::Reverting
            | FailoverPhase::Committing { .. }
            | FailoverPhase::Initiating { .. } => ReturnCode::InUse,
        };
        Err(Box::new(Err(Refusal::new(
            code,
            format!("the failover is {what}"),
            hint::Look::Jobs,
        ))))
    }

    /// Says with a job that a time was named while the instants are not in order.
    pub(crate) async fn tell_disorder(
        &mut self,
        note: Option<String>,
        answer: Answer,
    ) -> Result<Answer, Refusal> {
        let (Some(note), Answer::Job(job)) = (note, &answer) else {
            return Ok(answer);
        };
        self.host
            .jobs
            .step(job.id, job.percent, &format!("{}; {note}", job.detail));
        self.event(&note).await;
        Ok(self.host.jobs.get(job.id).map_or(answer, Answer::from))
    }

    /// The same for a VM that is started on failover disks some time after they were made.
    pub(crate) async fn may_start_branch(&self, asking: Asking) -> Result<(), Refusal> {
        let Some(rel) = self.rel.as_ref() else {
            return Ok(());
        };
        match rel.failover() {
            Some(f) if !f.forced && asking == Asking::First => {
                let seen = question::may_bring_up(&self.ask_standing(rel.callback.as_deref()).await)?;
                self.ask_further(asking).await?;
                if let Some(seen) = seen {
                    self.event(&format!("the VM is started without the primary's word: {seen}"))
                        .await;
                }
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) async fn revert_failover(&mut self, force: bool) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        let state_before = self.failover().map_or(State::Replicating, |f| f.before);
        lifecycle::step(change.mode, change.state, Step::Revert(state_before)).map_err(|e| not_now(&e))?;
        let failover = match self.awaiting_decision(JobType::RevertFailover) {
            Ok(failover) => failover,
            Err(answer) => return *answer,
        };
        if !force && self.runs().await? {
            let hint = hint::Failover::StopOrForce;
            return Err(Refusal::new(
                ReturnCode::InUse,
                "the VM is running on the failover disks",
                hint,
            ));
        }
        if !force && let Some(text) = self.unusable_point().await {
            let hint = hint::Failover::CommitOrForce;
            return Err(Refusal::new(ReturnCode::Failed, text, hint));
        }
        let job = self.host.jobs.draft(
            self.id,
            JobType::RevertFailover,
            "throwing the failover disks away",
        );
        change.set_failover(Some(Failover {
            phase: FailoverPhase::Reverting,
            job: job.id,
            // There is no primary to take over from any more.
            take_over: None,
            ..failover
        }));
        change.tell("failover is being reverted");
        self.begin(change, job).await
    }

    pub(crate) async fn commit_failover(&mut self) -> Result<Answer, Refusal> {
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::step(rel.mode, rel.state, Step::Commit).map_err(|e| not_now(&e))?;
        let failover = match self.awaiting_decision(JobType::CommitFailover) {
            Ok(failover) => failover,
            Err(answer) => return *answer,
        };
        self.check_branch(failover.branch).await?;
        let job = self
            .host
            .jobs
            .draft(self.id, JobType::CommitFailover, "committing the failover");
        let generation = GenerationId(self.host.ports.entropy.uuid());
        let mut change = self.change()?;
        change.set_failover(Some(Failover {
            phase: FailoverPhase::Committing { generation },
            job: job.id,
            ..failover
        }));
        change.tell("failover is being committed");
        self.begin(change, job).await
    }
}

impl TargetPart {
    pub(crate) async fn failed_over(&mut self, core: &mut Core, result: Result<Ready, SagaError>) {
        let Ok(mut change) = core.change() else { return };
        match result {
            Ok(not_started) => {
                change.set_failover_phase(FailoverPhase::Ready);
                // The state machine allows this from FailoverInProgress, and an Initiating phase exists in no other.
                let _ = change.step(Step::FailoverReady);
                let text = not_started.map(|e| {
                    e.note()
                        .within(|e| format!("the failover disks are ready, but the VM did not start: {e}"))
                });
                let end = match &text {
                    None => JobState::Completed,
                    Some(_) => JobState::Exception,
                };
                change.tell(text.clone().unwrap_or_else(|| "failed over".into()));
                core.end_phase(&mut change, end, text);
                core.conclude_work(change).await;
            }
            Err(e) => {
                let Some(failover) = core.failover().cloned() else {
                    return;
                };
                // An earlier attempt may have come as far as starting the VM.
                if let Err(e) = core.hypervisor().turn_off(core.id).await {
                    let text = format!("the VM cannot be turned off: {}", chain(&e));
                    core.fault(ProblemKind::NotTurnedOff, text).await;
                    self.replica_retry();
                    return;
                }
                let dropped = async { core.images()?.drop_branch(core.id, failover.branch).await };
                if let Err(e) = dropped.await {
                    // Not undone while its disks are there: nothing would ever delete them.
                    let text = format!("unfinished failover disks cannot be deleted: {}", chain(&e));
                    core.fault(ProblemKind::FailoverDisksKept, text).await;
                    self.replica_retry();
                    return;
                }
                change.set_failover(None);
                let _ = change.step(Step::FailoverUndone(failover.before));
                let why = e.note();
                let told = why.clone();
                change.tell(told.within(|why| format!("failover was not possible and is undone: {why}")));
                core.end_phase(&mut change, JobState::Exception, Some(why));
                if core.conclude_work(change).await {
                    self.dirty = true;
                }
            }
        }
    }

    pub(crate) async fn reverted(&mut self, core: &mut Core, result: Result<(), SagaError>) {
        let Ok(mut change) = core.change() else { return };
        match result {
            Ok(()) => {
                let state = change.failover().map_or(State::Replicating, |f| f.before);
                change.set_failover(None);
                let _ = change.step(Step::Revert(state));
                (change.problem, change.addressing) = (None, Addressing::None);
                core.end_phase(&mut change, JobState::Completed, None);
                if core.conclude_work(change).await {
                    let text = match core.unusable_point().await {
                        Some(unusable) => format!("failover reverted; {unusable}"),
                        None => "failover reverted; every recovery point is as it was".to_owned(),
                    };
                    core.event(&text).await;
                    self.dirty = true;
                }
            }
            Err(e) => {
                // The VM may not run on a branch that is half gone: the phase stays and the work is repeated.
                let note = e
                    .note()
                    .within(|e| format!("the failover cannot be reverted yet: {e}"));
                core.fault(e.problem(ProblemKind::NotReverted), note).await;
                self.replica_retry();
            }
        }
    }

    pub(crate) async fn committed(&mut self, core: &mut Core, result: Result<(), SagaError>) {
        let Ok(mut change) = core.change() else { return };
        match result {
            Ok(()) => {
                if let Some(FailoverPhase::Committing { generation }) = core.branch() {
                    change.position = Position::start(generation);
                    change.problem = None;
                }
                change.set_failover_phase(FailoverPhase::Merging);
                let _ = change.step(Step::Commit);
                change.tell("failover committed");
                core.end_phase(&mut change, JobState::Completed, None);
                core.conclude_work(change).await;
            }
            Err(e) => {
                let note = e
                    .note()
                    .within(|e| format!("the failover cannot be committed yet: {e}"));
                core.fault(e.problem(ProblemKind::NotCommitted), note).await;
                self.replica_retry();
            }
        }
    }
}
