//! Failover, revert and commit on the replica, as sagas: the intent is durable before its work begins, every step can be
//! repeated, and after a crash the recorded phase says what to go on with. Points are never written to.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use lifeboat_deltalog::Consistency;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::{self, Event as Step};
use lifeboat_model::{
    BranchId, FailedOverReplicationType as Kind, GenerationId, JobState, JobType, NicFailover, PointId,
    Position, ReplicationState as State, VmId, VmSpec,
};
use tokio::time::Instant;

use crate::action::{Answer, PointSelector, PointView, Refusal};
use crate::actor::{Actor, Done, Work, chain, no_relationship, not_now};
use crate::aging::Sealer;
use crate::change::Change;
use crate::defined::define;
use crate::machine::branch_launch;
use crate::network::connected;
use crate::order::{Place, disorder, places};
use crate::paging::{Page, Paging};
use crate::point_guid::point_guid;
use crate::ports::hypervisor::{Hypervisor, HypervisorError, Power, Role};
use crate::ports::scrub::NewestData;
use crate::ports::store::{Point, ReplicaInfo, ReplicaStore, StoreError, StoredLog, Target};
use crate::primary::{IDLE, droppable};
use crate::question::{self, Asking};
use crate::records::{Addressing, Failover, FailoverPhase, TakeOver};
use crate::saga::{Ready, SagaError, StartError};

/// Every instant a replica can be brought up at, by position, the newest first: sealed points, and cycles whose logs are
/// retained.
pub(crate) fn points(info: &ReplicaInfo) -> Vec<PointView> {
    placed_points(info).map(|(_, point)| point).collect()
}

/// The same, each with its position.
fn placed_points(info: &ReplicaInfo) -> impl Iterator<Item = (Position, PointView)> {
    let places = places(info);
    let spoiled = spoiled_places(info, &places);
    let sealed = |p: &Point| PointView {
        id: p.id.to_string(),
        guid: Some(point_guid(p.position)),
        target: Target::Point { id: p.id },
        instant: p.instant,
        consistency: p.consistency,
        size: p.size,
        unusable: crate::scrub::spoils(&info.damage, p.id),
        changed: p.changed,
    };
    let cycle = |l: &StoredLog| PointView {
        id: l.position.to_string(),
        guid: Some(point_guid(l.position)),
        target: Target::Cycle { position: l.position },
        instant: l.instant,
        consistency: l.consistency,
        size: l.size,
        unusable: unusable_cycle(info, &spoiled, l.position),
        changed: None,
    };
    let view = |place: Place<'_>| match (place.point, place.log) {
        (Some(point), _) => Some((point.position, sealed(point))),
        // A cycle needs a sealed point to start from and an unbroken line of logs since.
        (None, Some(log)) => (place.reachable && !log.partial).then(|| (log.position, cycle(log))),
        (None, None) => None,
    };
    let all: Vec<_> = places.into_iter().rev().filter_map(view).collect();
    all.into_iter()
}

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
                "list them again from the beginning",
            )
        };
        points.drain(..from.ok_or_else(gone)?);
    }
    let more = points.len() > paging.limit();
    points.truncate(paging.limit());
    let parts = points.into_iter().map(|(at, point)| (at, Some(point)));
    Ok(Page::of(parts.collect(), more))
}

/// The positions that lie behind damage, with what is damaged: a spoiled point, or a damaged log, and every cycle that would
/// be replayed onto it. Each place follows from the one before, so one pass is enough.
fn spoiled_places(info: &ReplicaInfo, places: &[Place<'_>]) -> HashMap<Position, String> {
    let mut spoiled = HashMap::new();
    if info.damage.is_empty() {
        return spoiled;
    }
    for place in places {
        let hurt = |at: Position| info.damage.iter().find(|d| d.log == Some(at));
        let why = match (place.point, hurt(place.position)) {
            (Some(point), _) => crate::scrub::spoils(&info.damage, point.id),
            (None, Some(hurt)) => Some(format!("{} is damaged: {}", hurt.file, hurt.what)),
            (None, None) => place.log.and_then(|l| spoiled.get(&l.parent)).cloned(),
        };
        if let Some(why) = why {
            spoiled.insert(place.position, why);
        }
    }
    spoiled
}

/// Why a cycle cannot be brought up: what it would be replayed onto, or a log on the way, is damaged.
fn unusable_cycle(
    info: &ReplicaInfo,
    spoiled: &HashMap<Position, String>,
    position: Position,
) -> Option<String> {
    // What the head shows is known exactly, whatever it was made from.
    if position == info.applied && info.damage.iter().all(|d| d.newest == NewestData::Good) {
        return None;
    }
    spoiled.get(&position).cloned()
}

/// The point a selector means. What is damaged is not offered, and is refused by its id.
pub(crate) fn choose(info: &ReplicaInfo, selector: &PointSelector) -> Result<PointView, Refusal> {
    let all = points(info);
    let none = |what: String| {
        Err(Refusal::new(
            ReturnCode::InvalidParameter,
            what,
            "list them with: lifeboat points",
        ))
    };
    match selector {
        PointSelector::Latest => match all.iter().find(|p| p.unusable.is_none()) {
            Some(p) => Ok(p.clone()),
            None if !all.is_empty() => Err(spoiled(&all)),
            None => Err(Refusal::new(
                ReturnCode::InvalidState,
                "there is no recovery point",
                "wait for the initial copy",
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

/// What somebody has to know who chose like this: a time says little when the instants are not in order.
pub(crate) fn told_of_disorder(info: &ReplicaInfo, selector: &PointSelector) -> Option<String> {
    match selector {
        PointSelector::At(_) => disorder(&points(info)),
        PointSelector::Latest | PointSelector::Id(_) => None,
    }
}

/// The point, unless its data is, or may be, wrong.
fn whole(point: &PointView, all: &[PointView]) -> Result<PointView, Refusal> {
    let Some(why) = &point.unusable else {
        return Ok(point.clone());
    };
    // The next older one, or else the oldest of those that are newer; the list has the newest first.
    let good = |p: &&PointView| p.unusable.is_none();
    let mut older = all.iter().skip_while(|p| p.id != point.id);
    let hint = match older.find(good).or_else(|| all.iter().rfind(good)) {
        Some(p) => format!("the next good one is {}", p.id),
        None => "no recovery point is good: compare the copies on the primary (lifeboat replication resync)"
            .into(),
    };
    let message = format!("recovery point {} cannot be used: {why}", point.id);
    Err(Refusal::new(ReturnCode::InvalidState, message, hint))
}

/// Every point that was meant is damaged.
fn spoiled(all: &[PointView]) -> Refusal {
    let why = all.iter().find_map(|p| p.unusable.as_deref()).unwrap_or_default();
    Refusal::new(
        ReturnCode::InvalidState,
        format!("no recovery point there can be used: {why}"),
        "see which can: lifeboat points",
    )
}

/// The position a target stands for.
fn position_of(info: &ReplicaInfo, target: Target) -> Option<Position> {
    match target {
        Target::Point { id } => info.points.iter().find(|p| p.id == id).map(|p| p.position),
        Target::Cycle { position } => Some(position),
        Target::Abandoned => info.abandoned.as_ref().map(|a| a.since),
    }
}

fn kind(consistency: Consistency) -> Kind {
    match consistency {
        Consistency::Crash => Kind::Regular,
        Consistency::Application => Kind::ApplicationConsistent,
        Consistency::Planned => Kind::Planned,
    }
}

/// Makes the branch and starts the VM on it. Repeatable from any point.
async fn initiate(
    store: Arc<dyn ReplicaStore>,
    hypervisor: Arc<dyn Hypervisor>,
    vm: VmId,
    (spec, cards): (VmSpec, Vec<NicFailover>),
    failover: Failover,
    (start, sealer): (bool, Sealer),
) -> Result<Ready, SagaError> {
    let made = async {
        let max_images = hypervisor.max_images();
        branch(
            &*store,
            vm,
            (failover.branch, failover.target),
            &sealer,
            max_images,
        )
        .await?;
        // Nobody is told that it is ready before its files were looked at.
        store.verify_branch(vm, failover.branch).await
    };
    made.await.map_err(|e| match e {
        StoreError::NoSpace(_) => SagaError::NoRoom(e),
        e => SagaError::Store(e),
    })?;
    if !start {
        return Ok(None);
    }
    let launch = branch_launch(&*store, spec, &cards, (vm, failover.branch)).await?;
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
    store: &dyn ReplicaStore,
    vm: VmId,
    (branch, mut target): (BranchId, Target),
    sealer: &Sealer,
    max_images: Option<usize>,
) -> Result<Vec<(lifeboat_model::DiskId, crate::ports::hypervisor::DiskImage)>, StoreError> {
    if let Target::Cycle { position } = target {
        let mut info = store.info(vm).await?;
        if info.durable == position {
            // The newest data: bring the head up to it and seal, which costs nothing and spares the replay.
            while info.applied != position {
                match store.apply_through(vm, position).await {
                    Ok(Some(_)) => info = store.info(vm).await?,
                    // The logs are replayed into the branch, which may use more of the reserve.
                    Ok(None) => break,
                    Err(e) if e.lacks_room() => break,
                    Err(e) => return Err(e),
                }
            }
            if info.applied == position {
                match sealer.seal(store, vm, PointId(branch.0)).await {
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
    store.branch(vm, branch, target, max_images).await
}

/// Merges what lies below a committed branch into its base, by the VM's own process when it runs.
pub(crate) async fn merge(
    store: Arc<dyn ReplicaStore>,
    hypervisor: Arc<dyn Hypervisor>,
    vm: VmId,
    branch: BranchId,
    bytes_per_s: u64,
) -> Result<(), SagaError> {
    let layers = store.promoted_layers(vm, branch).await?;
    if layers.is_empty() {
        return Ok(());
    }
    match hypervisor.power(vm).await {
        Power::Off => return Ok(store.merge_promoted(vm, branch).await?),
        Power::Running | Power::Paused | Power::Stalled(_) => {}
        // Below a running VM only its own process may merge, and a VM that is off has none.
        Power::NotKnown { why } => return Err(SagaError::PowerNotKnown { why }),
    }
    hypervisor.merge_live(vm, &layers, bytes_per_s).await?;
    Ok(store.merged_live(vm, branch).await?)
}

/// On whose word a failover is begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consent {
    /// The prepared primary's.
    pub(crate) take_over: Option<TakeOver>,
    /// A person's, although the primary's VM may run.
    pub(crate) forced: bool,
    /// Nobody's: what was seen of a primary that could not be reached.
    pub(crate) unreached: Option<String>,
}

impl Actor {
    pub(crate) async fn list_points(&mut self, paging: &Paging) -> Result<Answer, Refusal> {
        page_of_points(&self.replica_info().await?, paging).map(Answer::Points)
    }

    fn failover(&self) -> Option<&Failover> {
        self.rel.as_ref()?.failover()
    }

    /// The end of the job of the failover, as a part of a change.
    fn end_phase(&self, change: &mut Change, state: JobState, why: Option<String>) {
        let job = self.failover().map(|f| f.job);
        change.end_job(&self.host.jobs, job, state, why);
    }

    /// The failover that can be reverted or committed now. An `Err` that is `Ok`: exactly this is being done already.
    fn undecided(&self, wish: JobType) -> Result<Failover, Box<Result<Answer, Refusal>>> {
        let failover = self.failover().ok_or_else(|| Box::new(Err(no_relationship())))?;
        let (done, what) = match failover.phase {
            FailoverPhase::Ready => return Ok(failover.clone()),
            FailoverPhase::Reverting => (JobType::RevertFailover, "being reverted"),
            FailoverPhase::Committing { .. } => (JobType::CommitFailover, "being committed"),
            FailoverPhase::Initiating { .. } => (JobType::Failover, "being carried out"),
            FailoverPhase::Merging | FailoverPhase::Done => (JobType::CommitFailover, "committed"),
        };
        let job = self.host.jobs.get(failover.job);
        if done == wish
            && let Some(job) = job.filter(|j| !j.state.is_final())
        {
            return Err(Box::new(Ok(Answer::Job(job))));
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
            "see: lifeboat job list",
        ))))
    }

    pub(crate) async fn initiate_failover(
        &mut self,
        point: &PointSelector,
        start: bool,
        force: bool,
    ) -> Result<Answer, Refusal> {
        let rel = self.rel.clone().ok_or_else(no_relationship)?;
        // The state decides before the points are looked at, so that its way out is what the administrator reads.
        lifecycle::step(rel.mode, rel.state, Step::InitiateFailover).map_err(|e| not_now(&e))?;
        choose(&self.replica_info().await?, point)?;
        let unreached = match force {
            true => None,
            false => {
                let primary = self.ask_standing(rel.callback.as_deref());
                let (word, further) = tokio::join!(primary, self.ask_further(Asking::First));
                let unreached = question::may_bring_up(&word)?;
                further?;
                unreached
            }
        };
        self.interrupt().await;
        self.replica.stop_receiving().await;
        // Again, because a log may have become durable until now.
        let info = self.replica_info().await?;
        let chosen = choose(&info, point)?;
        let note = told_of_disorder(&info, point);
        let told = unreached.clone();
        let answer = self
            .begin_failover(
                chosen,
                start,
                Consent {
                    take_over: None,
                    // Disks alone are no second copy: whoever starts the VM on them later answers for that.
                    forced: force && start,
                    unreached,
                },
            )
            .await?;
        if let Some(seen) = told {
            self.event(&format!(
                "the failover goes on without the primary's word: {seen}"
            ))
            .await;
        }
        self.tell_disorder(note, answer).await
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
        Ok(self.host.jobs.get(job.id).map_or(answer, Answer::Job))
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

    /// Records a failover to a point and begins it.
    pub(crate) async fn begin_failover(
        &mut self,
        chosen: PointView,
        start: bool,
        consent: Consent,
    ) -> Result<Answer, Refusal> {
        self.interrupt().await;
        self.replica.stop_receiving().await;
        let at = position_of(&self.replica_info().await?, chosen.target);
        self.check_point(&chosen).await?;
        let mut change = self.change()?;
        let before = change.state;
        change.step(Step::InitiateFailover)?;
        let job = self
            .host
            .jobs
            .draft(self.id, JobType::Failover, "making the failover disks");
        change.set_failover(Some(Failover {
            branch: BranchId(self.host.ports.entropy.uuid()),
            target: chosen.target,
            instant: chosen.instant,
            consistency: chosen.consistency,
            kind: kind(chosen.consistency),
            phase: FailoverPhase::Initiating { start },
            job: job.id,
            before,
            at,
            forced: consent.forced,
            unreached: consent.unreached,
            take_over: consent.take_over,
            reverse: None,
        }));
        if start {
            self.guest.end();
            change.expect_addresses(true);
        }
        change.tell(format!("failover to point {} started", chosen.id));
        self.begin(change, job).await
    }

    pub(crate) async fn revert_failover(&mut self, force: bool) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        let state_before = self.failover().map_or(State::Replicating, |f| f.before);
        lifecycle::step(change.mode, change.state, Step::Revert(state_before)).map_err(|e| not_now(&e))?;
        let failover = match self.undecided(JobType::RevertFailover) {
            Ok(failover) => failover,
            Err(answer) => return *answer,
        };
        if !force && self.runs().await? {
            let hint = "stop it (lifeboat vm stop), or revert with --force, which turns it off";
            return Err(Refusal::new(
                ReturnCode::InUse,
                "the VM is running on the failover disks",
                hint,
            ));
        }
        if !force && let Some(text) = self.unusable_point().await {
            let hint = "the failover disks may be the last good copy: commit them, or revert all the same with --force";
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
            // Whoever was to be taken over from is not any more.
            take_over: None,
            ..failover
        }));
        change.tell("failover is being reverted");
        self.begin(change, job).await
    }

    pub(crate) async fn commit_failover(&mut self) -> Result<Answer, Refusal> {
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::step(rel.mode, rel.state, Step::Commit).map_err(|e| not_now(&e))?;
        let failover = match self.undecided(JobType::CommitFailover) {
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

    pub(crate) async fn plan_failover(&mut self, phase: FailoverPhase) -> Option<Work> {
        let mut failover = self.failover()?.clone();
        if Instant::now() < self.replica.next_at {
            return None;
        }
        if phase == FailoverPhase::Ready && failover.take_over.is_some() {
            if !self.commit_taking_over().await {
                self.replica_retry();
                return None;
            }
            failover = self.failover()?.clone();
        }
        let phase = failover.phase;
        let committed = matches!(phase, FailoverPhase::Merging | FailoverPhase::Done);
        if committed && (failover.reverse.is_some() || failover.take_over.is_some()) {
            return self.plan_after_commit(&failover).await;
        }
        let (store, hypervisor, vm) = (
            self.host.ports.store.clone(),
            self.host.ports.hypervisor.clone(),
            self.id,
        );
        let rel = self.rel.as_ref()?;
        let machine = (
            connected(&rel.spec, &rel.network, self.local.as_ref()),
            rel.network.clone(),
        );
        let whole = |future| {
            Some(Work {
                future,
                droppable: false,
            })
        };
        let sealer = self.sealer();
        match phase {
            FailoverPhase::Initiating { start } => {
                self.forget_definition();
                whole(Box::pin(async move {
                    Done::FailedOver(
                        initiate(store, hypervisor, vm, machine, failover, (start, sealer)).await,
                    )
                }))
            }
            FailoverPhase::Reverting => whole(Box::pin(async move {
                let reverted = async {
                    hypervisor.turn_off(vm).await?;
                    Ok(store.drop_branch(vm, failover.branch).await?)
                };
                Done::Reverted(reverted.await)
            })),
            // The points go with it, and what stands on them first.
            FailoverPhase::Committing { .. } if self.test().is_some() => self.plan_test_end(),
            FailoverPhase::Committing { .. } => whole(Box::pin(async move {
                let committed = store.promote(vm, failover.branch).await;
                Done::Committed(committed.map_err(SagaError::Store))
            })),
            FailoverPhase::Merging => {
                let limit = self.host.config.merge_bytes_per_s;
                Some(droppable(async move {
                    Done::Merged(merge(store, hypervisor, vm, failover.branch, limit).await)
                }))
            }
            FailoverPhase::Ready | FailoverPhase::Done => {
                self.replica.next_at = Instant::now() + IDLE;
                None
            }
        }
    }

    pub(crate) async fn failed_over(&mut self, result: Result<Ready, SagaError>) {
        let Ok(mut change) = self.change() else { return };
        match result {
            Ok(not_started) => {
                change.set_failover_phase(FailoverPhase::Ready);
                // The state machine allows this from FailoverInProgress, and an Initiating phase exists in no other.
                let _ = change.step(Step::FailoverReady);
                let text = not_started.map(|e| {
                    format!(
                        "the failover disks are ready, but the VM did not start: {}",
                        chain(&e)
                    )
                });
                let end = match &text {
                    None => JobState::Completed,
                    Some(_) => JobState::Exception,
                };
                change.tell(text.as_deref().unwrap_or("failed over"));
                self.end_phase(&mut change, end, text);
                self.conclude_work(change).await;
            }
            Err(e) => {
                let Some(failover) = self.failover().cloned() else {
                    return;
                };
                // An earlier attempt may have come as far as starting the VM.
                if let Err(e) = self.host.ports.hypervisor.turn_off(self.id).await {
                    self.fault(&format!("the VM cannot be turned off: {}", chain(&e)))
                        .await;
                    self.replica_retry();
                    return;
                }
                if let Err(e) = self.host.ports.store.drop_branch(self.id, failover.branch).await {
                    // Not undone while its disks are there: nobody would ever delete them.
                    self.fault(&format!(
                        "unfinished failover disks cannot be deleted: {}",
                        chain(&e)
                    ))
                    .await;
                    self.replica_retry();
                    return;
                }
                change.set_failover(None);
                let _ = change.step(Step::FailoverUndone(failover.before));
                let why = chain(&e);
                change.tell(format!("failover was not possible and is undone: {why}"));
                self.end_phase(&mut change, JobState::Exception, Some(why));
                if self.conclude_work(change).await {
                    self.replica.dirty = true;
                }
            }
        }
    }

    pub(crate) async fn reverted(&mut self, result: Result<(), SagaError>) {
        let Ok(mut change) = self.change() else { return };
        match result {
            Ok(()) => {
                let state = change.failover().map_or(State::Replicating, |f| f.before);
                change.set_failover(None);
                let _ = change.step(Step::Revert(state));
                (change.problem, change.addressing) = (None, Addressing::None);
                self.end_phase(&mut change, JobState::Completed, None);
                if self.conclude_work(change).await {
                    let text = match self.unusable_point().await {
                        Some(unusable) => format!("failover reverted; {unusable}"),
                        None => "failover reverted; every recovery point is as it was".to_owned(),
                    };
                    self.event(&text).await;
                    self.replica.dirty = true;
                }
            }
            Err(e) => {
                // The VM may not run on a branch that is half gone: the phase stays and the work is repeated.
                self.fault(&format!("the failover cannot be reverted yet: {}", chain(&e)))
                    .await;
                self.replica_retry();
            }
        }
    }

    pub(crate) async fn committed(&mut self, result: Result<(), SagaError>) {
        let Ok(mut change) = self.change() else { return };
        match result {
            Ok(()) => {
                if let Some(FailoverPhase::Committing { generation }) = self.branch() {
                    change.position = Position::start(generation);
                    change.problem = None;
                }
                change.set_failover_phase(FailoverPhase::Merging);
                let _ = change.step(Step::Commit);
                change.tell("failover committed");
                self.end_phase(&mut change, JobState::Completed, None);
                self.conclude_work(change).await;
            }
            Err(e) => {
                self.fault(&format!("the failover cannot be committed yet: {}", chain(&e)))
                    .await;
                self.replica_retry();
            }
        }
    }

    pub(crate) async fn merged(&mut self, result: Result<(), SagaError>) {
        let Ok(mut change) = self.change() else { return };
        match result {
            Ok(()) => {
                change.set_failover_phase(FailoverPhase::Done);
                if let Some(home) = change.home.as_mut() {
                    home.merged = true;
                }
                change.problem = None;
                change.tell("the committed disks are merged");
                self.end_phase(&mut change, JobState::Completed, None);
                self.conclude_work(change).await;
            }
            Err(e) => {
                self.fault(&format!("merging the committed disks waits: {}", chain(&e)))
                    .await;
                self.replica_retry();
                self.retry_later();
            }
        }
    }
}
