//! What a VM looks like from outside: the relationship's record, the store's and the hypervisor's word, and the health
//! computed from them at this moment.

use crate::actor::Actor;
use crate::contract::{
    Answer, BacklogView, BulkView, ContactView, PowerNote, Refusal, ReplicationView, SynchronizationView,
    VmTimes, VmView,
};
use crate::core::Core;
use crate::core::age::{idle, lag};
use crate::core::disk_files::{Place, disk_files};
use crate::host::Ports;
use crate::host::at_rest::directory;
use crate::host::observe::{Observer, Stored};
use crate::host::references::no_vm;
use crate::port::environment::AtRest;
use crate::port::hypervisor::{Console, Described, GuestProcess, Hypervisor, PowerState};
use crate::port::store::{BulkProgress, ImageStore, ReplicaInfo};
use crate::record::{Problem, Relationship, Side};
use crate::source::images::Claim;
use crate::source::{images, pending};
use lifeboat_deltalog::Consistency;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::policy::{HealthInput, health};
use lifeboat_model::{Finding, Note, ProblemKind, Reading, Timestamp, VmSpec, hint};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What an actor knows of its VM without asking anybody: what the view is made of, once the rest was seen.
struct Sketch {
    spec: VmSpec,
    rel: Option<Relationship>,
    console: Console,
    hypervisor: Arc<dyn Hypervisor>,
    place: Place,
    /// The store that the disks are in; `None`: in none.
    images: Option<Arc<dyn ImageStore>>,
    findings: Vec<Finding>,
    unauthorized: Option<Note>,
    /// When the images of the powered-off VM were last seen to be what the replica has.
    verified: Option<Timestamp>,
    /// When its description on this host was written.
    described: Option<Described>,
    contact: Option<ContactView>,
    backlog: Option<BacklogView>,
    description_gone: Option<Finding>,
}

/// What was seen of the VM for a view.
struct Glimpse {
    power: PowerState,
    note: Option<PowerNote>,
    process: Option<GuestProcess>,
    /// Bytes that wait to be sent, by the dirty bitmaps of the running VM.
    pending: Option<u64>,
    /// When the power became what it is; `None` before that was seen.
    changed: Option<Timestamp>,
    info: Option<Stored>,
    /// What was found in seeing it.
    findings: Vec<Finding>,
    /// Why the images of the powered-off VM may not be what the replica has.
    doubt: Option<Finding>,
    /// Whether the directory of its data is encrypted.
    at_rest: Option<AtRest>,
    now: Reading,
}

impl Core {
    /// The relationship, with the keys that hold now.
    fn recorded(&self) -> Option<Relationship> {
        let mut rel = self.rel.clone()?;
        rel.keys = self.host.pins.keys(self.id);
        Some(rel)
    }
}

impl Actor {
    /// Shows the VM. Nothing is waited for here: who hangs does not stop the actor.
    pub(crate) fn show(&self, patience: Duration, reply: oneshot::Sender<Result<Answer, Refusal>>) {
        let sketch = match self.sketch() {
            Ok(sketch) => sketch,
            Err(e) => return drop(reply.send(Err(e))),
        };
        // A disk that is known not to answer is not waited for: what was seen last is shown with what is known of it.
        let patience = match self.core.hangs() {
            Some(_) => patience.min(crate::host::observe::GLANCE),
            None => patience,
        };
        let (observer, ports) = (self.core.observer.clone(), self.core.host.ports.clone());
        tokio::spawn(async move {
            let glimpse = glimpse(&observer, &ports, &sketch, patience).await;
            let view = sketch.view(glimpse);
            observer.publish(&view);
            drop(reply.send(Ok(Answer::Vm(Box::new(view)))));
        });
    }

    /// What there is to show of the VM before anybody has looked at it.
    pub(crate) fn show_unseen(&self) {
        let Ok(sketch) = self.sketch() else { return };
        let (power, note) = self.core.observer.shown(None);
        self.core.observer.publish(&sketch.view(Glimpse {
            power,
            note,
            process: None,
            pending: None,
            changed: None,
            info: None,
            findings: Vec::new(),
            doubt: None,
            at_rest: None,
            now: self.core.host.ports.clock.reading(),
        }));
    }

    fn sketch(&self) -> Result<Sketch, Refusal> {
        let place = self.core.place();
        Ok(Sketch {
            spec: self
                .core
                .known_spec()
                .ok_or_else(|| no_vm(&self.core.id.to_string()))?
                .clone(),
            rel: self.core.recorded(),
            console: self.core.hypervisor().console(self.core.id),
            hypervisor: self.core.hypervisor(),
            place,
            images: match place {
                Place::Stored(of, _) => self.core.host.images_of(of).ok(),
                Place::Described => None,
            },
            findings: self
                .core
                .rel
                .as_ref()
                .map(|r| self.findings(r))
                .unwrap_or_default(),
            unauthorized: self.core.unauthorized(),
            verified: self.source.verified,
            described: self.core.host.written(self.core.id),
            contact: self
                .core
                .rel
                .as_ref()
                .and_then(|r| self.contact.contact_view(&self.core, r)),
            backlog: self.core.rel.as_ref().and_then(|r| self.backlog_view(r)),
            description_gone: self.core.description_gone(),
        })
    }
}

/// Looks at the VM, and shows what was seen before where that takes too long.
async fn glimpse(observer: &Arc<Observer>, ports: &Ports, sketch: &Sketch, patience: Duration) -> Glimpse {
    let power = pending::with_power(observer, &sketch.hypervisor, sketch.rel.as_ref(), patience);
    let info = async {
        match sketch.place {
            Place::Stored(of, _) => observer.info(sketch.images.as_ref(), of, patience).await,
            Place::Described => None,
        }
    };
    let process = async {
        let process = sketch.hypervisor.process(sketch.spec.uuid);
        tokio::time::timeout(patience, process).await.ok().flatten()
    };
    let dir = sketch.rel.as_ref().and_then(directory);
    let at_rest = crate::host::at_rest::of(&*ports.environment, dir, patience);
    let ((power, pending), info, process, at_rest) = tokio::join!(power, info, process, at_rest);
    let (power, note) = observer.shown(power.as_ref());
    let claim = Claim {
        spec: &sketch.spec,
        last: sketch.verified,
        now: ports.clock.now(),
    };
    let doubt = match (&sketch.rel, sketch.place, power) {
        (Some(rel), Place::Described, PowerState::Off) => {
            images::doubt(&*sketch.hypervisor, rel, claim, patience).await
        }
        (Some(_) | None, _, _) => None,
    };
    Glimpse {
        power,
        note,
        process,
        pending,
        changed: observer.changed(process),
        info,
        findings: observer.findings(),
        doubt,
        at_rest,
        now: ports.clock.reading(),
    }
}

impl Sketch {
    fn view(self, glimpse: Glimpse) -> VmView {
        let replication = match self.rel.as_ref() {
            Some(rel) if matches!(rel.side, Side::Alone) => None,
            Some(rel) => Some(self.replication_view(rel, &glimpse)),
            None => None,
        };
        let times = self.times(&glimpse);
        let stored = glimpse.info.as_deref().and_then(|i| i.as_ref().ok());
        VmView {
            disk_files: disk_files(self.place, &self.spec, stored),
            power: glimpse.power,
            power_note: glimpse.note,
            process: glimpse.process.map(Into::into),
            times,
            console: self.console.into(),
            replication,
            spec: self.spec,
            description_gone: self.description_gone,
        }
    }

    fn times(&self, glimpse: &Glimpse) -> VmTimes {
        let replica = self.rel.as_ref().map(|r| r.created);
        let described = self.described;
        VmTimes {
            known: described.map(|d| d.created).or(replica),
            configured: described.map(|d| d.changed).or(replica),
            power: glimpse.changed,
        }
    }

    fn replication_view(&self, rel: &Relationship, glimpse: &Glimpse) -> ReplicationView {
        let (power, now) = (glimpse.power, glimpse.now);
        // A test VM's disks are another replica's.
        let own = rel.replica().is_some() || rel.home.is_some();
        let seen = glimpse.info.as_deref().filter(|_| own);
        let settled =
            rel.primary().is_some_and(|p| p.settled) && power == PowerState::Off && glimpse.doubt.is_none();
        let idle = idle(&rel.recency, rel.last_replication, now);
        let mut findings = self.findings.clone();
        findings.extend_from_slice(&glimpse.findings);
        findings.extend(glimpse.doubt.clone());
        findings.extend(crate::target::storage::findings(seen));
        let info = seen.and_then(|s| s.as_ref().ok());
        let abandoned = info.and_then(|i| i.abandoned.clone());
        let (health, mut health_notes) = health(&HealthInput {
            mode: rel.mode,
            state: rel.state,
            problem: rel.problem.as_ref().map(Problem::found),
            idle,
            cycles: rel.counters.cycles,
            missed: rel.counters.missed,
            latency: rel.latency(),
            settled,
            application_failed: rel.primary().is_some_and(|p| p.application_failed),
            machine: &crate::source::machine::notes(rel),
            abandoned: abandoned.is_some(),
            unauthorized: self.unauthorized.clone(),
            findings: &findings,
        });
        health_notes.extend(awaits_import(rel));
        let copying = rel.state == State::WaitingToCompleteInitialReplication;
        let bulk = info.filter(|_| copying).map(bulk_view).unwrap_or_default();
        let mut outgoing = crate::source::outgoing::views(rel, info, now).into_iter();
        let extended = outgoing.next().map(Box::new);
        let lag_ms = lag(&rel.recency, rel.newest_instant, now).map(|ms| if settled { 0 } else { ms });
        ReplicationView {
            mode: rel.mode,
            state: rel.state,
            health,
            health_notes,
            peer: rel.peer.clone(),
            settings: rel.settings.clone(),
            position: rel.position,
            newest_instant: rel.newest_instant,
            last_replication: rel.last_replication,
            last_application: last_application(rel, info),
            lag_ms,
            pending_bytes: pending::of_primary(rel, settled, glimpse.pending),
            problem: rel.problem.clone(),
            bulk,
            failover: rel.failover().map(Into::into),
            test: rel.replica().and_then(|r| Some(r.test.as_ref()?.into())),
            last_test: rel.replica().and_then(|r| r.last_test),
            sync: synchronization(rel),
            planned: rel.primary().and_then(|p| Some(p.planned.as_ref()?.into())),
            split: rel.primary().and_then(|p| Some(p.split.as_ref()?.into())),
            scheduled: rel.primary().and_then(|p| p.scheduled),
            abandoned: abandoned.map(Into::into),
            preflight: rel.preflight.clone(),
            network: rel.network.clone(),
            counters: rel.counters.into(),
            extended,
            further: outgoing.collect(),
            allowed: rel.replica().and_then(|r| r.allowed.clone()),
            contact: self.contact.clone(),
            backlog: self.backlog.clone(),
            hold: rel.replica().and_then(|r| Some(r.keeping.hold.as_ref()?.into())),
            changes: rel.replica().map(|r| r.keeping.rate.into()),
            dir: directory(rel),
            at_rest: glimpse.at_rest.clone().map(Into::into),
            keys: rel.keys.iter().map(Into::into).collect(),
        }
    }
}

/// What is shown of a synchronization.
fn synchronization(rel: &Relationship) -> Option<SynchronizationView> {
    let sync = rel.primary()?.sync.as_ref()?;
    Some(SynchronizationView::new(sync, &rel.settings.disks))
}

/// The newest application-consistent instant: a primary noted it, a copy has it in a log or a point.
fn last_application(rel: &Relationship, info: Option<&ReplicaInfo>) -> Option<Timestamp> {
    if let Some(side) = rel.primary() {
        return side.application.filter(|_| !side.application_failed);
    }
    let newest_first = crate::core::order::places(info?).into_iter().rev();
    let whole = |place: crate::core::order::Place<'_>| match (place.point, place.log) {
        (Some(point), _) => Some((point.consistency, point.instant)),
        (None, log) => log.filter(|l| !l.partial).map(|l| (l.consistency, l.instant)),
    };
    let mut application = newest_first.filter_map(whole);
    application
        .find(|(c, _)| *c == Consistency::Application)
        .map(|(_, instant)| instant)
}

fn awaits_import(rel: &Relationship) -> Option<Finding> {
    let waits = rel
        .replica()
        .is_some_and(|r| r.awaits_import && r.import.is_none());
    let text = "the initial copy comes on media and waits to be imported";
    waits.then(|| Finding::warning(ProblemKind::AwaitsImport, Note::new(text, hint::Copies::Import)))
}

/// Progress of the initial copy, which the replica's files know; the primary shows it by its job.
fn bulk_view(info: &ReplicaInfo) -> Vec<BulkView> {
    let size = |b: &BulkProgress| info.disks.iter().find(|d| d.id == b.disk).map_or(0, |d| d.size);
    let view = |b: &BulkProgress| BulkView {
        disk: b.disk.clone(),
        done: b.done,
        size: size(b),
    };
    info.bulk.iter().map(view).collect()
}
