//! What a VM looks like from outside: the relationship's record, the store's and the hypervisor's word, and the health
//! computed from them at this moment.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_deltalog::Consistency;
use lifeboat_model::policy::{Finding, HealthInput, health};
use lifeboat_model::{Reading, Recency, ReplicationState as State, Timestamp, VmSpec};
use tokio::sync::oneshot;

use crate::action::{
    Answer, BacklogView, BulkView, ContactView, PowerNote, Refusal, ReplicationView, VmTimes, VmView,
};
use crate::actor::Actor;
use crate::disk_files::{Place, disk_files};
use crate::engine::Ports;
use crate::images::{self, Claim};
use crate::observe::{Observer, Stored};
use crate::pending;
use crate::ports::environment::AtRest;
use crate::ports::hypervisor::{Console, Described, GuestProcess, PowerState};
use crate::ports::store::{BulkProgress, ReplicaInfo};
use crate::records::{Relationship, Side};
use crate::references::no_vm;

/// What an actor knows of its VM without asking anybody: what the view is made of, once the rest was seen.
struct Sketch {
    spec: VmSpec,
    rel: Option<Relationship>,
    console: Console,
    place: Place,
    findings: Vec<Finding>,
    unauthorized: Option<String>,
    /// When the images of the powered-off VM were last seen to be what the replica has.
    verified: Option<Timestamp>,
    /// When its description on this host was written.
    described: Option<Described>,
    contact: Option<ContactView>,
    backlog: Option<BacklogView>,
    description_gone: Option<String>,
}

/// What was seen of the VM for a view.
struct Glimpse {
    power: PowerState,
    note: Option<PowerNote>,
    process: Option<GuestProcess>,
    /// Bytes that wait to be sent, by the change records of the running VM.
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

impl Actor {
    /// Shows the VM. Nothing is waited for here: who hangs does not stop the actor.
    pub(crate) fn show(&self, patience: Duration, reply: oneshot::Sender<Result<Answer, Refusal>>) {
        let sketch = match self.sketch() {
            Ok(sketch) => sketch,
            Err(e) => return drop(reply.send(Err(e))),
        };
        // A disk that is known not to answer is not waited for: what was seen last is shown with what is known of it.
        let patience = match self.hangs() {
            Some(_) => patience.min(crate::observe::GLANCE),
            None => patience,
        };
        let (observer, ports) = (self.observer.clone(), self.host.ports.clone());
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
        let (power, note) = self.observer.shown(None);
        self.observer.publish(&sketch.view(Glimpse {
            power,
            note,
            process: None,
            pending: None,
            changed: None,
            info: None,
            findings: Vec::new(),
            doubt: None,
            at_rest: None,
            now: self.host.ports.clock.reading(),
        }));
    }

    fn sketch(&self) -> Result<Sketch, Refusal> {
        Ok(Sketch {
            spec: self
                .known_spec()
                .ok_or_else(|| no_vm(&self.id.to_string()))?
                .clone(),
            rel: self.recorded(),
            console: self.host.ports.hypervisor.console(self.id),
            place: self.place(),
            findings: self.rel.as_ref().map(|r| self.findings(r)).unwrap_or_default(),
            unauthorized: self.unauthorized(),
            verified: self.primary.verified,
            described: self.host.written(self.id),
            contact: self.rel.as_ref().and_then(|r| self.contact_view(r)),
            backlog: self.rel.as_ref().and_then(|r| self.backlog_view(r)),
            description_gone: self.description_gone(),
        })
    }
}

impl Actor {
    /// The relationship, with the keys that hold now.
    fn recorded(&self) -> Option<Relationship> {
        let mut rel = self.rel.clone()?;
        rel.keys = self.host.pins.keys(self.id);
        Some(rel)
    }
}

/// Looks at the VM, and shows what was seen before where that takes too long.
async fn glimpse(observer: &Arc<Observer>, ports: &Ports, sketch: &Sketch, patience: Duration) -> Glimpse {
    let power = pending::with_power(observer, &ports.hypervisor, sketch.rel.as_ref(), patience);
    let info = async {
        match sketch.place {
            Place::Stored(of, _) => observer.info(&ports.store, of, patience).await,
            Place::Described => None,
        }
    };
    let process = async {
        let process = ports.hypervisor.process(sketch.spec.uuid);
        tokio::time::timeout(patience, process).await.ok().flatten()
    };
    let dir = sketch.rel.as_ref().and_then(directory);
    let at_rest = crate::at_rest::of(&*ports.environment, dir, patience);
    let ((power, pending), info, process, at_rest) = tokio::join!(power, info, process, at_rest);
    let (power, note) = observer.shown(power.as_ref());
    let claim = Claim {
        spec: &sketch.spec,
        last: sketch.verified,
        now: ports.clock.now(),
    };
    let doubt = match (&sketch.rel, sketch.place, power) {
        (Some(rel), Place::Described, PowerState::Off) => {
            images::doubt(&*ports.hypervisor, rel, claim, patience).await
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
        findings: observer.findings(&sketch.spec.name),
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
            process: glimpse.process,
            times,
            console: self.console,
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
        findings.extend(crate::storage::findings(seen));
        let info = seen.and_then(|s| s.as_ref().ok());
        let abandoned = info.and_then(|i| i.abandoned.clone());
        let (health, mut health_notes) = health(&HealthInput {
            mode: rel.mode,
            state: rel.state,
            problem: rel.problem.as_ref().map(|p| (p.attempts, p.message.as_str())),
            idle,
            cycles: rel.counters.cycles,
            missed: rel.counters.missed,
            latency: rel.latency(),
            settled,
            application_failed: rel.primary().is_some_and(|p| p.application_failed),
            machine: &crate::machine::notes(rel),
            abandoned: abandoned.is_some(),
            unauthorized: self.unauthorized.as_deref(),
            findings: &findings,
        });
        health_notes.extend(awaits_import(rel));
        let bulk = if rel.state == State::WaitingToCompleteInitialReplication {
            info.map(bulk_view).unwrap_or_default()
        } else {
            Vec::new()
        };
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
            failover: rel.failover().cloned(),
            test: rel.replica().and_then(|r| r.test.clone()),
            last_test: rel.replica().and_then(|r| r.last_test),
            sync: rel.primary().and_then(|p| p.sync.clone()),
            planned: rel.primary().and_then(|p| p.planned.clone()),
            split: rel.primary().and_then(|p| p.split.clone()),
            scheduled: rel.primary().and_then(|p| p.scheduled),
            abandoned,
            preflight: rel.preflight.clone(),
            network: rel.network.clone(),
            counters: rel.counters,
            extended: crate::extended::view(rel, info, now),
            allowed: rel.replica().and_then(|r| r.allowed.clone()),
            contact: self.contact.clone(),
            backlog: self.backlog.clone(),
            hold: rel.replica().and_then(|r| Some(r.keeping.hold.as_ref()?.into())),
            changes: rel.replica().map(|r| r.keeping.rate.into()),
            dir: directory(rel),
            at_rest: glimpse.at_rest.clone(),
            keys: rel.keys.clone(),
        }
    }
}

/// The newest application-consistent instant: a primary noted it, a copy has it in a log or a point.
fn last_application(rel: &Relationship, info: Option<&ReplicaInfo>) -> Option<Timestamp> {
    if let Some(side) = rel.primary() {
        return side.application.filter(|_| !side.application_failed);
    }
    let newest_first = crate::order::places(info?).into_iter().rev();
    let whole = |place: crate::order::Place<'_>| match (place.point, place.log) {
        (Some(point), _) => Some((point.consistency, point.instant)),
        (None, log) => log.filter(|l| !l.partial).map(|l| (l.consistency, l.instant)),
    };
    let mut application = newest_first.filter_map(whole);
    application
        .find(|(c, _)| *c == Consistency::Application)
        .map(|(_, instant)| instant)
}

/// Time since anything was sent or received. Records of old have only the wall clock's word on it.
pub(crate) fn idle(recency: &Recency, last: Option<Timestamp>, now: Reading) -> Option<Duration> {
    recency.idle(now).or_else(|| last.map(|t| now.wall.since(t)))
}

/// How far the newest data on the replica is behind, in milliseconds; likewise.
pub(crate) fn lag(recency: &Recency, newest: Option<Timestamp>, now: Reading) -> Option<u64> {
    let instant = newest?;
    let lag = recency.lag(now).unwrap_or_else(|| now.wall.since(instant));
    Some(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX))
}

/// Where this host keeps the VM's data in the replica store.
pub(crate) fn directory(rel: &Relationship) -> Option<String> {
    let replica = rel.replica().and_then(|r| r.dir.clone());
    replica.or_else(|| rel.home.as_ref().map(|home| home.dir.clone()))
}

fn awaits_import(rel: &Relationship) -> Option<String> {
    let waits = rel
        .replica()
        .is_some_and(|r| r.awaits_import && r.import.is_none());
    let text = "the initial copy comes on media and waits to be imported: lifeboat replication import";
    waits.then(|| text.to_owned())
}

/// Progress of the initial copy, which the replica's files know; the primary shows it by its job.
fn bulk_view(info: &ReplicaInfo) -> Vec<BulkView> {
    let size = |b: &BulkProgress| info.disks.iter().find(|d| d.id == b.disk).map_or(0, |d| d.size);
    let view = |b: &BulkProgress| BulkView {
        progress: b.clone(),
        size: size(b),
    };
    info.bulk.iter().map(view).collect()
}
