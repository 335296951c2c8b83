//! Jobs: durable records of long operations, their progress, and their removal some time after the end. What a job
//! does is decided elsewhere; this only keeps the books.

use crate::contract::paging::{Page, Paging};
use crate::contract::{JobView, Refusal, What};
use crate::host::Ports;
use crate::host::watch::Changes;
use crate::port::catalog::{Catalog, CatalogError};
use crate::port::{Clock, Entropy};
use crate::record::Job;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{JobId, JobState, JobType, Note, Timestamp, VmId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long after a start of the daemon a wall clock that is wrong may need to be set right: until then no job of before
/// is removed.
const GRACE: Duration = Duration::from_secs(3600);

/// The jobs of a host.
pub(crate) struct Jobs {
    catalog: Arc<dyn Catalog>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Memory holds the newest progress; the catalog holds what must survive.
    all: Mutex<BTreeMap<JobId, Job>>,
    changes: Arc<Changes>,
    retention: Duration,
    /// Since when jobs are known to have ended, by the timer.
    ended: Mutex<BTreeMap<JobId, Instant>>,
    /// Jobs that had ended before this start of the daemon.
    before_start: BTreeSet<JobId>,
}

impl Jobs {
    pub(crate) fn new(ports: &Ports, loaded: Vec<Job>, retention: Duration, changes: Arc<Changes>) -> Self {
        let before_start = loaded
            .iter()
            .filter(|j| j.ended.is_some())
            .map(|j| j.id)
            .collect();
        let all = loaded.into_iter().map(|j| (j.id, j)).collect();
        Self {
            catalog: ports.catalog.clone(),
            clock: ports.clock.clone(),
            entropy: ports.entropy.clone(),
            all: Mutex::new(all),
            changes,
            retention,
            ended: Mutex::default(),
            before_start,
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut BTreeMap<JobId, Job>) -> R) -> R {
        f(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A job that runs from now on; not recorded yet.
    pub(crate) fn draft(&self, vm: VmId, kind: JobType, detail: &str) -> Job {
        let now = self.clock.now();
        Job {
            id: JobId(self.entropy.uuid()),
            vm,
            kind,
            state: JobState::Running,
            percent: 0,
            detail: detail.to_owned(),
            done_bytes: 0,
            total_bytes: 0,
            error: None,
            hint: None,
            code: None,
            created: now,
            started: Some(now),
            ended: None,
            by: crate::common::by::now(),
        }
    }

    /// A job that waits until it may begin; not recorded yet.
    pub(crate) fn waiting(&self, vm: VmId, kind: JobType, detail: &str) -> Job {
        Job {
            state: JobState::New,
            started: None,
            ..self.draft(vm, kind, detail)
        }
    }

    /// The job that waited for this, running from now on, or a new one; not recorded yet.
    pub(crate) fn begin(&self, vm: VmId, kind: JobType, detail: &str) -> Job {
        let waiting = self.unfinished(vm, kind).filter(|j| j.state == JobState::New);
        self.begin_or(waiting.map(|j| j.id), vm, kind, detail)
    }

    /// The job that waited for its time begins; where there is none, a new one does.
    pub(crate) fn begin_or(&self, waiting: Option<JobId>, vm: VmId, kind: JobType, detail: &str) -> Job {
        match waiting.and_then(|job| self.get(job)) {
            Some(job) => Job {
                state: JobState::Running,
                started: Some(self.clock.now()),
                detail: detail.to_owned(),
                ..job
            },
            None => self.draft(vm, kind, detail),
        }
    }

    /// Takes in a job that the caller has made durable.
    pub(crate) fn adopt(&self, job: Job) {
        self.keep(job.clone());
        self.tell(job);
    }

    /// Takes in a job that is not told, because it ends at once.
    pub(crate) fn keep(&self, job: Job) {
        self.with(|all| all.insert(job.id, job));
    }

    fn tell(&self, job: Job) {
        self.changes.tell(|| What::Job(Box::new(job.into())));
    }

    /// Notes progress, in memory only: after a crash the work itself knows how far it is.
    pub(crate) fn progress(&self, id: JobId, done: u64, total: u64, detail: &str) {
        let changed = self.with(|all| {
            let job = all.get_mut(&id).filter(|j| !j.state.is_final())?;
            let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0).min(99);
            job.percent = u8::try_from(percent).unwrap_or(99).max(job.percent);
            (job.done_bytes, job.total_bytes) = (done, total);
            detail.clone_into(&mut job.detail);
            Some(job.clone())
        });
        if let Some(job) = changed {
            self.tell(job);
        }
    }

    /// Notes progress that has no amount, in memory only.
    pub(crate) fn step(&self, id: JobId, percent: u8, detail: &str) {
        let changed = self.with(|all| {
            let job = all.get_mut(&id).filter(|j| !j.state.is_final())?;
            job.percent = job.percent.max(percent.min(99));
            detail.clone_into(&mut job.detail);
            Some(job.clone())
        });
        if let Some(job) = changed {
            self.tell(job);
        }
    }

    /// An unfinished job as it looks when it ends like this; recorded and adopted by the caller.
    pub(crate) fn ended(&self, id: JobId, state: JobState, error: Option<Note>) -> Option<Job> {
        let mut job = self.get(id).filter(|j| !j.state.is_final())?;
        let (text, hint) = error.map(|e| (e.text, e.hint)).unzip();
        (job.state, job.ended) = (state, Some(self.clock.now()));
        (job.error, job.hint) = (text, hint.flatten());
        job.code = (state == JobState::Exception).then_some(ReturnCode::Failed);
        if state == JobState::Completed {
            job.percent = 100;
        }
        Some(job)
    }

    /// The same for a job that ends because something was refused.
    pub(crate) fn refused(&self, id: JobId, code: ReturnCode, why: impl Into<Note>) -> Option<Job> {
        let job = self.ended(id, JobState::Exception, Some(why.into()))?;
        Some(Job {
            code: Some(code),
            ..job
        })
    }

    /// Ends a job that has not ended yet.
    pub(crate) async fn finish(
        &self,
        id: JobId,
        state: JobState,
        error: Option<Note>,
    ) -> Result<(), CatalogError> {
        if let Some(job) = self.ended(id, state, error) {
            self.catalog.put_job(&job).await?;
            self.adopt(job);
        }
        Ok(())
    }

    pub(crate) fn get(&self, id: JobId) -> Option<Job> {
        self.with(|all| all.get(&id).cloned())
    }

    /// The unfinished job of this kind for this VM.
    pub(crate) fn unfinished(&self, vm: VmId, kind: JobType) -> Option<Job> {
        self.with(|all| {
            all.values()
                .find(|j| j.vm == vm && j.kind == kind && !j.state.is_final())
                .cloned()
        })
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<Job> {
        self.with(|all| all.values().cloned().collect())
    }

    /// A page of them, newest first.
    pub(crate) fn page(&self, paging: &Paging) -> Result<Page<JobView>, Refusal> {
        self.with(|all| {
            let (keys, more) = paging.first(all.values().map(|j| Reverse((j.created, j.id))))?;
            let part =
                |key: Reverse<(Timestamp, JobId)>| (key, all.get(&key.0.1).cloned().map(JobView::from));
            Ok(Page::of(keys.into_iter().map(part).collect(), more))
        })
    }

    /// How long each job that has ended is known to have, by the timer.
    fn known_for(&self) -> BTreeMap<JobId, Duration> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let all = self.with(|all| {
            let done = all.values().filter(|j| j.ended.is_some());
            done.map(|j| j.id).collect::<Vec<_>>()
        });
        ended.retain(|id, _| all.contains(id));
        for id in all {
            ended.entry(id).or_insert(now);
        }
        ended.iter().map(|(id, since)| (*id, now - *since)).collect()
    }

    /// Removes jobs that ended longer ago than the retention.
    pub(crate) async fn sweep(&self) -> Result<(), CatalogError> {
        let now = self.clock.now();
        let known = self.known_for();
        let expired = |job: &Job| {
            let ended = job.ended?;
            let here = known.get(&job.id).copied().unwrap_or_default();
            // A job that ended before this start has only a wall clock's word on its age, which may be wrong for a while
            // after a start; and one that ended in the future ended under a clock that was ahead.
            let least = if self.before_start.contains(&job.id) && ended <= now {
                self.retention.min(GRACE)
            } else {
                self.retention
            };
            let by_clock = ended > now || now.since(ended) >= self.retention;
            let counted = !self.before_start.contains(&job.id) || by_clock;
            Some(counted && here >= least)
        };
        let old: Vec<_> = self.with(|all| {
            all.values()
                .filter(|j| expired(j).unwrap_or(false))
                .map(|j| j.id)
                .collect()
        });
        for id in old {
            self.catalog.remove_job(id).await?;
            if let Some(Job { id: job, vm, .. }) = self.with(|all| all.remove(&id)) {
                self.changes.tell(|| What::JobRemoved { job, vm });
            }
        }
        Ok(())
    }
}
