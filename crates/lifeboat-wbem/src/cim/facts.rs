//! What instances are made of: the host, a VM with its recovery points, a job, as the engine answers for them at this
//! moment, and which of them a walk visits. Which class is made of what is in [`super::classes`]. Nothing here outlives
//! the walks that use it. Neither files nor clocks are read here: what the engine does not say is given.

use super::ObjectManager;
use super::recovery::{Recovery, recoveries};
use super::registry::{DESTINATION, FILTER, SUBSCRIPTION};
use lifeboat_cim::{CimError, Instance, Status};
use lifeboat_engine::action::{JobView, PointView, Refusal, ServerView, VmView};
use lifeboat_engine::paging::{Page, Paging};
use lifeboat_engine::query::Query;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{AuthorizationEntry, JobId, ReplicationMode, Timestamp, VmId};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The hardware this host runs on, as far as clients ask for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Logical processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Model of the processors; empty when it is not known.
    pub processor: String,
}

/// What the host's own classes are made of.
pub(crate) struct HostParts {
    /// The time of this host.
    pub(crate) now: Timestamp,
    /// What the engine answers about it; `None` where no wanted class shows it.
    pub(crate) server: Option<ServerParts>,
    /// Filters, destinations and subscriptions that clients have made.
    pub(crate) filters: Vec<Instance>,
    pub(crate) destinations: Vec<Instance>,
    pub(crate) subscriptions: Vec<Instance>,
}

/// What the classes are made of that show the host as a replica server.
pub(crate) struct ServerParts {
    /// Its settings.
    pub(crate) view: ServerView,
    /// Authorization entries: which primaries may replicate to it.
    pub(crate) entries: Vec<AuthorizationEntry>,
    /// Minutes by which its time of day is ahead of UTC now, 0 to 1,439.
    pub(crate) ahead_min: u16,
}

/// What a VM's classes are made of.
pub(crate) struct VmParts {
    /// The VM.
    pub(crate) view: Arc<VmView>,
    /// Points and cycles that can be brought back, newest first; `None` until [`Walk::add_points`].
    points: Option<Arc<Vec<Recovery>>>,
    /// [`VmParts::points`] includes those that are not listed.
    unlisted: bool,
}

impl VmParts {
    /// A VM whose points have not been asked for.
    pub(crate) fn new(view: Arc<VmView>) -> Self {
        Self {
            view,
            points: None,
            unlisted: false,
        }
    }

    /// Recovery points, newest first: those that are listed, or all when a name is looked for.
    pub(crate) fn points(&self) -> impl Iterator<Item = &PointView> {
        self.chain().map(|(point, _)| point)
    }

    /// The same, each with the next older one of the list.
    pub(crate) fn chain(&self) -> impl Iterator<Item = (&PointView, Option<&PointView>)> {
        let all = self.points.as_ref().map_or(&[][..], |p| p.as_slice());
        let wanted = all.iter().enumerate().filter(|(_, r)| r.listed || self.unlisted);
        wanted.map(|(n, recovery)| {
            let older = all.iter().skip(n + 1).find(|r| r.listed);
            (&recovery.point, older.map(|r| &r.point))
        })
    }
}

/// What a job's classes are made of.
pub(crate) struct JobParts {
    /// The job.
    pub(crate) job: JobView,
    /// Whether its VM is on this host; false where no wanted class names the VM.
    pub(crate) vm_exists: bool,
    /// The time of this host.
    pub(crate) now: Timestamp,
}

/// One of the things that a walk visits.
pub(crate) enum Parts {
    /// The host.
    Host(HostParts),
    /// A VM.
    Vm(VmParts),
    /// A job.
    Job(JobParts),
}

/// What the wanted classes are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set, to which each class adds what it is made of"
)]
pub(crate) struct Needs {
    /// Whether the host is visited.
    pub(crate) host: bool,
    /// Whether the engine is asked about the host.
    pub(crate) server: bool,
    /// Whether VMs are visited.
    pub(crate) vm: bool,
    /// Whether VMs are visited with their recovery points.
    pub(crate) points: bool,
    /// Whether jobs are visited.
    pub(crate) job: bool,
    /// Whether jobs are visited, and the engine is asked whether their VMs exist.
    pub(crate) job_vm: bool,
}

/// Where a walk goes.
pub(crate) enum Leg {
    /// To the host.
    Host,
    /// To one VM.
    Vm(VmId),
    /// To all VMs.
    Vms,
    /// To all VMs that have recovery points, unless something was found before.
    PointsUnlessFound,
    /// To the replica that this test VM belongs to.
    TestOf(VmId),
    /// To one job.
    Job(JobId),
    /// To all jobs, or to those of one VM.
    Jobs(Option<VmId>),
}

/// Answers that overlapping walks share, so that many clients that enumerate at once ask each actor once and not once
/// each. A walk takes no answer to a question that was asked before the walk began.
#[derive(Default)]
pub(crate) struct Shared {
    clock: AtomicU64,
    /// Pages of VMs by the place where they begin.
    vms: Recent<Option<String>, VmPage, 4>,
    /// Recovery points by their VM.
    points: Recent<VmId, Vec<Recovery>, 64>,
}

/// VMs of a page in a walk, chosen so that a walk holds little at once and a host with fewer VMs is asked once.
const VMS: u32 = 100;
/// Jobs of a page in a walk.
const JOBS: u32 = 500;

/// Some VMs, and where the others begin.
struct VmPage {
    vms: Vec<Arc<VmView>>,
    next: Option<String>,
}

/// The last `MOST` questions with their answers: walks at the same place share them, and a walk that lags behind asks again.
/// The bound keeps the answers for all VMs of a large host from being held at once.
struct Recent<K, T, const MOST: usize> {
    slots: Mutex<VecDeque<(K, Arc<Slot<T>>)>>,
}

impl<K, T, const MOST: usize> Default for Recent<K, T, MOST> {
    fn default() -> Self {
        Self {
            slots: Mutex::default(),
        }
    }
}

impl<K: PartialEq, T, const MOST: usize> Recent<K, T, MOST> {
    fn slot(&self, question: K) -> Arc<Slot<T>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let known = slots.iter().position(|(q, _)| *q == question);
        let slot = known.and_then(|n| slots.remove(n)).map(|(_, slot)| slot);
        let slot = slot.unwrap_or_default();
        if slots.len() >= MOST {
            slots.pop_front();
        }
        slots.push_back((question, slot.clone()));
        slot
    }
}

impl Shared {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

/// The last answer to a question, and when it was asked. One walk asks at a time; a walk that waits meanwhile finds an answer,
/// and takes it if the question was asked after that walk began.
struct Slot<T> {
    last: tokio::sync::Mutex<Option<(u64, Arc<T>)>>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            last: tokio::sync::Mutex::new(None),
        }
    }
}

impl<T> Slot<T> {
    async fn get(
        &self,
        shared: &Shared,
        since: u64,
        ask: impl Future<Output = Result<T, CimError>>,
    ) -> Result<Arc<T>, CimError> {
        let mut last = self.last.lock().await;
        if let Some((_, known)) = last.as_ref().filter(|(at, _)| *at > since) {
            return Ok(known.clone());
        }
        let at = shared.tick();
        let new = Arc::new(ask.await?);
        *last = Some((at, new.clone()));
        Ok(new)
    }
}

/// A walk over the host, VMs and jobs, one at a time.
pub(crate) struct Walk {
    shared: Arc<Shared>,
    since: u64,
    needs: Needs,
    /// Recovery points that are not listed are visited too, because one is looked for by its name.
    pub(crate) unlisted: bool,
    /// Where to go, and from which place of a list on.
    legs: VecDeque<(Leg, Option<String>)>,
    listed: VecDeque<Arc<VmView>>,
    jobs: VecDeque<JobView>,
    /// An instance was found; set by the caller of [`Walk::next`], and read for [`Leg::PointsUnlessFound`].
    pub(crate) found: bool,
}

impl Walk {
    /// A walk along these legs.
    pub(crate) fn new(manager: &ObjectManager, needs: Needs, legs: impl IntoIterator<Item = Leg>) -> Self {
        let mut weak = manager.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = weak.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Shared::default());
            *weak = Arc::downgrade(&new);
            new
        });
        Self {
            since: shared.tick(),
            shared,
            needs,
            unlisted: false,
            legs: legs.into_iter().map(|leg| (leg, None)).collect(),
            listed: VecDeque::new(),
            jobs: VecDeque::new(),
            found: false,
        }
    }

    /// A walk to everything that is needed.
    pub(crate) fn everywhere(manager: &ObjectManager, needs: Needs) -> Self {
        let legs = [
            (needs.host, Leg::Host),
            (needs.vm || needs.points, Leg::Vms),
            (needs.job || needs.job_vm, Leg::Jobs(None)),
        ];
        let legs = legs.into_iter().filter(|(needed, _)| *needed);
        Self::new(manager, needs, legs.map(|(_, leg)| leg))
    }

    /// The next host, VM or job; a VM or job that is gone meanwhile is left out.
    pub(crate) async fn next(&mut self, manager: &ObjectManager) -> Result<Option<Parts>, CimError> {
        loop {
            if let Some(view) = self.listed.pop_front() {
                let mut parts = VmParts::new(view);
                if self.needs.points {
                    self.add_points(manager, &mut parts).await?;
                }
                return Ok(Some(Parts::Vm(parts)));
            }
            if let Some(job) = self.jobs.pop_front() {
                return self.job(manager, job).await.map(Some);
            }
            let Some((leg, from)) = self.legs.pop_front() else {
                return Ok(None);
            };
            if let Some(host) = self.set_out(manager, leg, from).await? {
                return Ok(Some(host));
            }
        }
    }

    async fn set_out(
        &mut self,
        manager: &ObjectManager,
        leg: Leg,
        from: Option<String>,
    ) -> Result<Option<Parts>, CimError> {
        match &leg {
            Leg::Host => {
                let host = manager.host_parts(self.needs.server).await?;
                return Ok(Some(Parts::Host(host)));
            }
            Leg::Vm(id) => self.listed.extend(manager.show(*id).await?.map(Arc::new)),
            // A search that has begun goes on to its end: a second instance may have the same keys.
            Leg::PointsUnlessFound if self.found && from.is_none() => {}
            Leg::Vms | Leg::PointsUnlessFound | Leg::TestOf(_) => {
                let page = self.vms(manager, from).await?;
                let wanted = page.vms.iter().filter(|v| leg.wants(v));
                self.listed.extend(wanted.cloned());
                self.go_on(leg, page.next.clone());
            }
            Leg::Job(id) => self.jobs.extend(manager.job(*id).await?),
            Leg::Jobs(vm) => {
                if from.is_none() {
                    self.jobs.extend(manager.waiting_jobs().await?);
                }
                let page = manager.jobs(from).await?;
                self.jobs.extend(page.items);
                self.jobs.retain(|j: &JobView| vm.is_none_or(|vm| j.vm == vm));
                self.go_on(leg, page.next);
            }
        }
        Ok(None)
    }

    /// The rest of a list comes before every other leg.
    fn go_on(&mut self, leg: Leg, from: Option<String>) {
        if from.is_some() {
            self.legs.push_front((leg, from));
        }
    }

    async fn vms(&self, manager: &ObjectManager, from: Option<String>) -> Result<Arc<VmPage>, CimError> {
        let slot = self.shared.vms.slot(from.clone());
        slot.get(&self.shared, self.since, manager.vms(from)).await
    }

    /// Asks for the recovery points of a VM that were not asked for yet.
    pub(crate) async fn add_points(
        &self,
        manager: &ObjectManager,
        parts: &mut VmParts,
    ) -> Result<(), CimError> {
        if parts.points.is_some() {
            return Ok(());
        }
        let points = if is_copy(&parts.view) {
            let vm = parts.view.spec.uuid;
            let ask = async { Ok(manager.recovery_points(&parts.view).await) };
            let slot = self.shared.points.slot(vm);
            slot.get(&self.shared, self.since, ask).await?
        } else {
            Arc::default()
        };
        (parts.points, parts.unlisted) = (Some(points), self.unlisted);
        Ok(())
    }

    async fn job(&self, manager: &ObjectManager, job: JobView) -> Result<Parts, CimError> {
        let vm_exists = self.needs.job_vm && manager.show(job.vm).await?.is_some();
        Ok(Parts::Job(JobParts {
            job,
            vm_exists,
            now: manager.now(),
        }))
    }
}

impl Leg {
    /// Whether a walk to some of all VMs visits this one.
    fn wants(&self, view: &VmView) -> bool {
        match self {
            Self::PointsUnlessFound => is_copy(view),
            Self::TestOf(test) => {
                let replication = view.replication.as_ref();
                let own = replication.and_then(|r| r.test.as_ref());
                own.is_some_and(|t| t.vm == *test)
            }
            Self::Host | Self::Vm(_) | Self::Vms | Self::Job(_) | Self::Jobs(_) => true,
        }
    }
}

fn is_copy(view: &VmView) -> bool {
    let mode = view.replication.as_ref().map(|r| r.mode);
    matches!(
        mode,
        Some(ReplicationMode::Replica | ReplicationMode::ExtendedReplica)
    )
}

/// The error of a read that the engine refused.
pub(crate) fn refused(refusal: Refusal) -> CimError {
    let status = match refusal.code {
        ReturnCode::FileNotFound => Status::NotFound,
        ReturnCode::InvalidParameter | ReturnCode::IncorrectType => Status::InvalidParameter,
        ReturnCode::AccessDenied => Status::AccessDenied,
        ReturnCode::NotSupported => Status::NotSupported,
        ReturnCode::Completed
        | ReturnCode::JobStarted
        | ReturnCode::Failed
        | ReturnCode::Unknown
        | ReturnCode::Timeout
        | ReturnCode::InUse
        | ReturnCode::InvalidState
        | ReturnCode::Unavailable
        | ReturnCode::OutOfMemory => Status::Failed,
    };
    CimError::new(status, refusal.message)
}

impl ObjectManager {
    /// Asks the engine without a caller.
    pub(super) async fn ask<T>(&self, query: Query<T>) -> Result<T, CimError> {
        self.management.query(None, query).await.map_err(refused)
    }

    /// A VM of this host; `None` if there is no such VM.
    pub(crate) async fn show(&self, vm: VmId) -> Result<Option<VmView>, CimError> {
        match self.management.query(None, Query::show_vm(vm)).await {
            Ok(view) => Ok(Some(view)),
            Err(refusal) if refusal.code == ReturnCode::FileNotFound => Ok(None),
            Err(refusal) => Err(refused(refusal)),
        }
    }

    /// A job, or a request that is shown as one; `None` if there is neither, for example because it ended long ago.
    pub(crate) async fn job(&self, job: JobId) -> Result<Option<JobView>, CimError> {
        match self.management.query(None, Query::show_job(job)).await {
            Ok(job) => Ok(Some(job)),
            Err(refusal) if refusal.code == ReturnCode::FileNotFound => self.waiting_job(job).await,
            Err(refusal) => Err(refused(refusal)),
        }
    }

    async fn jobs(&self, after: Option<String>) -> Result<Page<JobView>, CimError> {
        let limit = Some(JOBS);
        self.ask(Query::list_jobs(Paging { limit, after })).await
    }

    async fn vms(&self, after: Option<String>) -> Result<VmPage, CimError> {
        let limit = Some(VMS);
        let page = self.ask(Query::list_vms(Paging { limit, after })).await?;
        Ok(VmPage {
            next: page.next,
            vms: page.items.into_iter().map(Arc::new).collect(),
        })
    }

    /// What the host's classes are made of. Without `server` the engine is asked nothing.
    async fn host_parts(&self, server: bool) -> Result<HostParts, CimError> {
        let server = if server {
            Some(self.server_parts().await?)
        } else {
            None
        };
        Ok(HostParts {
            now: self.now(),
            server,
            filters: self.registry.instances(FILTER),
            destinations: self.registry.instances(DESTINATION),
            subscriptions: self.registry.instances(SUBSCRIPTION),
        })
    }

    async fn server_parts(&self) -> Result<ServerParts, CimError> {
        let view = self.ask(Query::show_server()).await?;
        let entries = Query::list_authorization(Paging::FIRST);
        Ok(ServerParts {
            view,
            entries: self.management.whole(None, entries).await.map_err(refused)?,
            ahead_min: self.ahead_of_utc(),
        })
    }

    /// The points and cycles that a replica can be brought up at. None if the engine refuses, because nothing has arrived yet or
    /// the files cannot be read: the replica's health says so, and the walk over the other VMs must go on.
    async fn recovery_points(&self, view: &VmView) -> Vec<Recovery> {
        let vm = view.spec.uuid;
        let points = Query::list_points(vm, Paging::FIRST);
        match self.management.whole(None, points).await {
            Ok(points) => recoveries(view, points),
            Err(refusal) => {
                tracing::debug!(%vm, error = %refusal, "no recovery points are shown");
                Vec::new()
            }
        }
    }

    /// What the classes of a VM that was seen are made of, points included.
    pub(crate) async fn vm_parts(&self, view: VmView) -> Result<VmParts, CimError> {
        let mut parts = VmParts::new(Arc::new(view));
        let walk = Walk::new(self, Needs::default(), []);
        walk.add_points(self, &mut parts).await?;
        Ok(parts)
    }
}
