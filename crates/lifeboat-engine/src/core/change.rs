//! One durable change: how an actor's relationship, its jobs and its events change. A decision is drafted on a copy,
//! written in one transaction, and only then what memory has; when the write fails nothing has happened, and no caller has to
//! take anything back. What was merely observed is noted in memory at once and written as soon as it can be. What a change
//! means is decided elsewhere.

use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, Refusal};
use crate::core::{Core, Wake};
use crate::host::Host;
use crate::host::jobs::Jobs;
use crate::host::stores::ReplicaPlaces;
use crate::host::watch::Changes;
use crate::port::catalog::CatalogError;
use crate::port::link::PeerRefusal;
use crate::record::{Event, Job, Problem, Relationship};
use crate::work::calls::failed;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{JobId, JobState, Note, ProblemKind, ReplicationState, Timestamp, VmId, hint};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use tracing::{info, warn};

/// What the catalog has of the relationship that is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnDisk {
    /// Exactly what memory has.
    Same,
    /// Less: counts and observations go with the next change.
    Behind,
    /// Not known, because a write failed; it is tried again.
    Unwritten,
}

/// The relationship of an actor's VM. It is read like an `Option<Relationship>`, and changes by [`Core::commit`],
/// [`Core::note`] and [`Core::tally`] alone.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(super) vm: VmId,
    rel: Option<Relationship>,
    /// The VM is here also without a relationship.
    pub(super) described: bool,
    /// Told where the VM's data is, whenever the record says so.
    places: Arc<ReplicaPlaces>,
    /// Told what becomes of the relationship.
    pub(super) changes: Arc<Changes>,
    /// Counts the changes, so that a draft that was overtaken by another one is never written.
    version: u64,
    on_disk: OnDisk,
}

impl Deref for Recorded {
    type Target = Option<Relationship>;

    fn deref(&self) -> &Self::Target {
        &self.rel
    }
}

impl Recorded {
    /// As it was loaded.
    pub(crate) fn loaded(vm: VmId, rel: Option<Relationship>, described: bool, host: &Host) -> Self {
        Self {
            vm,
            rel,
            described,
            places: host.replicas.clone(),
            changes: host.changes.clone(),
            version: 0,
            on_disk: OnDisk::Same,
        }
    }

    /// Tells the host where the VM's data is.
    pub(crate) fn tell_place(&self) {
        self.places.recorded(self.vm, self.rel.as_ref());
    }

    /// Whether a write failed that has to be tried again.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.on_disk == OnDisk::Unwritten
    }

    fn tally<R>(&mut self, counted: impl FnOnce(&mut Relationship) -> R) -> Option<R> {
        let rel = self.rel.as_mut()?;
        let from = rel.state;
        let told = counted(rel);
        tell_state(rel, from);
        self.version += 1;
        if self.on_disk == OnDisk::Same {
            self.on_disk = OnDisk::Behind;
        }
        Some(told)
    }

    fn swap(&mut self, next: Option<Relationship>, on_disk: OnDisk) {
        if let (Some(old), Some(new)) = (&self.rel, &next) {
            tell_state(new, old.state);
        }
        self.rel = next;
        self.tell_place();
        self.on_disk = on_disk;
        self.version += 1;
    }
}

fn tell_state(rel: &Relationship, from: ReplicationState) {
    if rel.state != from {
        info!(vm = %rel.vm, %from, to = %rel.state, "replication state");
    }
}

/// A change that has not been made: the relationship as it is to be, with the jobs and events that are written with it.
#[must_use = "a change that is not committed does not happen"]
pub(crate) struct Change {
    next: Relationship,
    jobs: Vec<Job>,
    events: Vec<Note>,
    version: u64,
}

impl Deref for Change {
    type Target = Relationship;

    fn deref(&self) -> &Self::Target {
        &self.next
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.next
    }
}

impl Change {
    /// A job that begins, or one as it ends; `None`: there is none.
    pub(crate) fn with_job(&mut self, job: impl Into<Option<Job>>) {
        self.jobs.extend(job.into());
    }

    /// The end of a job that has not ended.
    pub(crate) fn end_job(&mut self, jobs: &Jobs, job: Option<JobId>, state: JobState, why: Option<Note>) {
        self.with_job(job.and_then(|job| jobs.ended(job, state, why)));
    }

    /// An event that tells of it.
    pub(crate) fn tell(&mut self, message: impl Into<Note>) {
        self.events.push(message.into());
    }
}

impl Relationship {
    /// A step of the state machine.
    pub(crate) fn step(&mut self, step: Step) -> Result<(), Refusal> {
        self.state = lifecycle::step(self.mode, self.state, step).map_err(|e| not_now(&e))?;
        Ok(())
    }

    /// Notes that something is wrong; true when it was not known.
    fn has_problem(&mut self, kind: ProblemKind, note: Note, now: Timestamp) -> bool {
        let (problem, new) = Problem::again(self.problem.take(), kind, note, now);
        self.problem = Some(problem);
        new
    }
}

impl Core {
    /// A draft on what is there.
    pub(crate) fn change(&self) -> Result<Change, Refusal> {
        let rel = self.rel.clone().ok_or_else(no_relationship)?;
        Ok(self.draft(rel))
    }

    /// A draft of a relationship, whether there is one or not.
    pub(crate) fn draft(&self, next: Relationship) -> Change {
        Change {
            next,
            jobs: Vec::new(),
            events: Vec::new(),
            version: self.rel.version,
        }
    }

    /// Makes a change: durable first, then in memory. An error: nothing has happened, here or after a restart.
    pub(crate) async fn commit(&mut self, change: Change) -> Result<(), Refusal> {
        debug_assert_eq!(change.version, self.rel.version, "a draft was overtaken");
        if change.version != self.rel.version {
            let what = "the relationship changed while this was being done";
            return Err(Refusal::new(ReturnCode::Failed, what, hint::Again::Later));
        }
        let Change {
            next, jobs, events, ..
        } = change;
        let nothing = jobs.is_empty() && events.is_empty() && self.rel.on_disk == OnDisk::Same;
        if nothing && self.rel.as_ref() == Some(&next) {
            return Ok(());
        }
        if let Err(e) = self.put(&next, &jobs, &events).await {
            self.take_back(jobs).await;
            return Err(failed("the catalog cannot be written", &e));
        }
        self.swap(Some(next));
        for job in jobs {
            self.host.jobs.adopt(job);
        }
        Ok(())
    }

    /// Makes a change with the job that carries it out, which begins at once.
    pub(crate) async fn begin(&mut self, mut change: Change, job: Job) -> Result<Answer, Refusal> {
        change.with_job(job.clone());
        self.commit(change).await?;
        self.wake = Some(Wake::Now);
        Ok(Answer::from(job))
    }

    /// Makes a change that says what work came to. False: it could not be recorded, so nothing has happened; the work,
    /// which can be repeated, is done again.
    pub(crate) async fn conclude_work(&mut self, change: Change) -> bool {
        if let Err(e) = self.commit(change).await {
            self.fault(ProblemKind::Catalog, e.note()).await;
            self.wake = Some(Wake::Later);
            return false;
        }
        self.wake = Some(Wake::Now);
        true
    }

    /// A change that could not be made, as the answer to a peer.
    pub(crate) fn catalog_refusal(&self, refusal: Refusal) -> PeerRefusal {
        PeerRefusal::Failed {
            host: self.host.config.name.clone(),
            detail: refusal.message,
        }
    }

    /// Ends the relationship in the catalog and in memory.
    pub(crate) async fn erase(&mut self) -> Result<(), Refusal> {
        let erased = self.host.ports.catalog.remove_relationship(self.id, 0).await;
        erased.map_err(|e| failed("the catalog cannot be written", &e))?;
        self.swap(None);
        Ok(())
    }

    /// What the catalog has is what memory has from now on, and who watches is told.
    fn swap(&mut self, next: Option<Relationship>) {
        let before = self.before();
        self.rel.swap(next, OnDisk::Same);
        self.tell_turn(before);
    }

    /// Notes what was observed, which no failed write can undo: in memory at once, and written; tried again until it is.
    pub(crate) async fn note<R>(&mut self, noted: impl FnOnce(&mut Relationship) -> R) -> Option<R> {
        let (before, on_disk) = (self.rel.clone(), self.rel.on_disk);
        let told = self.tally(noted)?;
        if *self.rel == before {
            self.rel.on_disk = on_disk;
        } else {
            self.write_noted().await;
        }
        Some(told)
    }

    /// Notes a step of the state machine that was observed; false: it leads nowhere from this state.
    pub(crate) async fn note_step(&mut self, step: Step) -> bool {
        self.note(|rel| rel.step(step).is_ok()).await == Some(true)
    }

    /// Counts in memory alone; it is written with the next change, and a crash before that may lose it.
    pub(crate) fn tally<R>(&mut self, counted: impl FnOnce(&mut Relationship) -> R) -> Option<R> {
        let before = self.before();
        let told = self.rel.tally(counted);
        self.tell_turn(before);
        told
    }

    /// Writes what was noted; tried again until it succeeds.
    pub(crate) async fn write_noted(&mut self) {
        let was_unwritten = self.rel.is_unwritten();
        if self.rel.is_some() && self.rewrite().await.is_err() && !was_unwritten {
            warn!(vm = %self.id, "the catalog cannot be written; it is tried again");
        }
    }

    /// Writes the relationship as it is in memory.
    pub(crate) async fn rewrite(&mut self) -> Result<(), Refusal> {
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        let written = self.put(rel, &[], &[]).await;
        self.rel.on_disk = match written {
            Ok(()) => OnDisk::Same,
            Err(_) => OnDisk::Unwritten,
        };
        written.map_err(|e| failed("the catalog cannot be written", &e))
    }

    async fn put(&self, rel: &Relationship, jobs: &[Job], events: &[Note]) -> Result<(), CatalogError> {
        let events: Vec<Event> = events.iter().cloned().map(|note| self.event_of(note)).collect();
        self.host.ports.catalog.put(rel, jobs, &events).await
    }

    /// A write that failed may have arrived nevertheless, and what was refused must not happen after a restart.
    async fn take_back(&mut self, jobs: Vec<Job>) {
        let jobs: Vec<Job> = jobs.into_iter().filter_map(|job| self.refused_job(job)).collect();
        let Some(rel) = self.rel.as_ref() else {
            if let Err(e) = self.host.ports.catalog.remove_relationship(self.id, 0).await {
                warn!(vm = %self.id, error = %e, "a refused relationship may be recorded");
            }
            return;
        };
        if let Err(e) = self.put(rel, &jobs, &[]).await {
            warn!(vm = %self.id, error = %e, "a refused change may be recorded; the catalog is written again");
            self.rel.on_disk = OnDisk::Unwritten;
        }
    }

    /// A job of a change that was refused: as it was, or ended when it was to begin.
    fn refused_job(&self, job: Job) -> Option<Job> {
        let jobs = &self.host.jobs;
        if let Some(known) = jobs.get(job.id) {
            return Some(known);
        }
        let id = job.id;
        jobs.keep(job);
        let why = "the catalog could not be written".into();
        let ended = jobs.ended(id, JobState::Exception, Some(why))?;
        jobs.adopt(ended.clone());
        Some(ended)
    }

    /// Notes that something is wrong; a repeated fault counts up.
    pub(crate) async fn fault(&mut self, kind: ProblemKind, message: impl Into<Note>) {
        let (now, note) = (self.host.ports.clock.now(), message.into());
        if self.tally(|rel| rel.has_problem(kind, note.clone(), now)) == Some(true) {
            warn!(vm = %self.id, %kind, problem = note.text, "replication problem");
            self.tell_plan(Some(&note.text));
            self.event(note).await;
            self.write_noted().await;
        }
    }

    /// Notes, in memory, that nothing is wrong any more; tells whether something was.
    pub(crate) fn cured(&mut self) -> bool {
        let Some(rel) = self.rel.as_ref() else {
            return false;
        };
        let was = (rel.problem.is_some(), rel.state);
        let state = lifecycle::step(rel.mode, rel.state, Step::Cured).unwrap_or(rel.state);
        if was == (false, state) {
            return false;
        }
        self.tally(|rel| (rel.problem, rel.state) = (None, state));
        if was.0 {
            info!(vm = %self.id, "replication problem is over");
            self.tell_plan(None);
        }
        true
    }

    fn event_of(&self, note: Note) -> Event {
        Event {
            at: self.host.ports.clock.now(),
            vm: Some(self.id),
            message: note.text,
            hint: note.hint,
            by: crate::common::by::now(),
        }
    }

    /// Records an event by itself: of what is no change of the relationship, or was noted.
    pub(crate) async fn event(&self, message: impl Into<Note>) {
        let event = self.event_of(message.into());
        if let Err(e) = self.host.ports.catalog.add_event(&event).await {
            warn!(vm = %self.id, error = %chain(&e), message = event.message, "event not recorded");
        }
    }
}
