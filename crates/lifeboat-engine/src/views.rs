//! What a VM looks like from outside: the relationship's record, the store's and the hypervisor's word, and the health
//! computed from them at this moment.

use lifeboat_deltalog::Consistency;
use lifeboat_model::policy::{HealthInput, health};
use lifeboat_model::{ReplicationState as State, Timestamp};

use crate::action::{BulkView, Refusal, ReplicationView, VmView};
use crate::actor::Actor;
use crate::ports::hypervisor::PowerState;
use crate::ports::store::{BulkProgress, ReplicaInfo};
use crate::records::{Relationship, Side};

impl Actor {
    pub(crate) async fn view(&self) -> Result<VmView, Refusal> {
        let spec = self.spec()?.clone();
        let power = self.look().await.state();
        let replication = match &self.rel {
            Some(rel) if matches!(rel.side, Side::Alone) => None,
            Some(rel) => Some(self.replication_view(rel, power).await),
            None => None,
        };
        let disk_files = self.disk_files(&spec).await;
        Ok(VmView {
            spec,
            power,
            console: self.host.ports.hypervisor.console(self.id),
            disk_files,
            replication,
        })
    }

    async fn replication_view(&self, rel: &Relationship, power: PowerState) -> ReplicationView {
        let now = self.host.ports.clock.now();
        let settled = rel.primary().is_some_and(|p| p.settled);
        let idle = rel.last_replication.map(|t| now.since(t));
        let replica = rel.replica().is_some() || rel.home.is_some();
        let seen = match replica {
            true => Some(self.host.ports.store.info(self.id).await),
            false => None,
        };
        let mut findings = self.findings(rel);
        findings.extend(crate::storage::findings(seen.as_ref()));
        let info = seen.and_then(Result::ok);
        let abandoned = info.as_ref().and_then(|i| i.abandoned.clone());
        let unauthorized = self.unauthorized();
        let (health, mut health_notes) = health(&HealthInput {
            mode: rel.mode,
            state: rel.state,
            problem: rel.problem.as_ref().map(|p| (p.attempts, p.message.as_str())),
            idle,
            cycles: rel.counters.cycles,
            missed: rel.counters.missed,
            latency: rel.latency(),
            settled: settled && power == PowerState::Off,
            application_failed: rel.primary().is_some_and(|p| p.application_failed),
            machine: &crate::machine::notes(rel),
            abandoned: abandoned.is_some(),
            unauthorized: unauthorized.as_deref(),
            findings: &findings,
        });
        health_notes.extend(awaits_import(rel));
        let bulk = if rel.state == State::WaitingToCompleteInitialReplication {
            info.as_ref().map(bulk_view).unwrap_or_default()
        } else {
            Vec::new()
        };
        let lag_ms = rel
            .newest_instant
            .map(|t| match settled && power == PowerState::Off {
                true => 0,
                false => u64::try_from(now.since(t).as_millis()).unwrap_or(u64::MAX),
            });
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
            last_application: last_application(rel, info.as_ref()),
            lag_ms,
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
            extended: crate::extended::view(rel, now),
            allowed: rel.replica().and_then(|r| r.allowed.clone()),
        }
    }
}

/// The newest application-consistent instant: a primary noted it, a copy has it in a log or a point.
fn last_application(rel: &Relationship, info: Option<&ReplicaInfo>) -> Option<Timestamp> {
    if let Some(side) = rel.primary() {
        return side.application.filter(|_| !side.application_failed);
    }
    let info = info?;
    let points = info.points.iter().map(|p| (p.consistency, p.instant));
    let whole = info.logs.iter().filter(|l| !l.partial);
    let all = points.chain(whole.map(|l| (l.consistency, l.instant)));
    let application = all.filter(|(c, _)| *c == Consistency::Application);
    application.map(|(_, instant)| instant).max()
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
