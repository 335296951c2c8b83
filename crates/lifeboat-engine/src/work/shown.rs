//! How what is remembered, or what a port has seen, is shown: one conversion for each type, from the records and the ports to the
//! views of the contract. What is gathered for a view is `views`'; nothing is decided here.

use crate::contract as view;
use crate::contract::{
    FailoverStage, HoldReason, PlannedStage, RequestStage, SplitStage, SynchronizationReason, TestStage,
};
use crate::port::environment::{AtRest, Certificate};
use crate::port::hypervisor::{Console, GuestProcess};
use crate::port::store::Abandoned;
use crate::record;
use crate::record::{FailoverPhase, PlannedPhase, SyncKind, TestPhase};
use lifeboat_model::DiskId;

impl From<record::Job> for view::JobView {
    fn from(job: record::Job) -> Self {
        Self {
            id: job.id,
            vm: job.vm,
            kind: job.kind,
            state: job.state,
            percent: job.percent,
            detail: job.detail,
            done_bytes: job.done_bytes,
            total_bytes: job.total_bytes,
            error: job.error,
            hint: job.hint,
            code: job.code,
            created: job.created,
            started: job.started,
            ended: job.ended,
            by: job.by,
        }
    }
}

/// A job is the answer to what began it.
impl From<record::Job> for view::Answer {
    fn from(job: record::Job) -> Self {
        Self::Job(job.into())
    }
}

impl From<record::Event> for view::EventView {
    fn from(event: record::Event) -> Self {
        let record::Event {
            at,
            vm,
            message,
            hint,
            by,
        } = event;
        Self {
            at,
            vm,
            message,
            hint,
            by,
        }
    }
}

impl From<record::Request> for view::RequestView {
    fn from(request: record::Request) -> Self {
        Self {
            id: request.id,
            by: request.by,
            action: request.action,
            vm: request.vm,
            what: request.what,
            asked: request.asked,
            until: request.until,
            state: request.state.into(),
        }
    }
}

impl From<record::RequestState> for RequestStage {
    fn from(state: record::RequestState) -> Self {
        match state {
            record::RequestState::Waits => Self::Waits,
            record::RequestState::Confirmed { second } => Self::Confirmed { second },
            record::RequestState::NotKnown { second } => Self::NotKnown { second },
        }
    }
}

impl From<&record::ServerSettings> for view::ServerSettings {
    fn from(settings: &record::ServerSettings) -> Self {
        Self {
            enabled: settings.enabled,
            monitoring_interval_s: settings.monitoring_interval_s,
            monitoring_start_min: settings.monitoring_start_min,
            bandwidth: settings.bandwidth.clone(),
        }
    }
}

/// The reverse conversion: what a caller sets is remembered.
impl From<view::ServerSettings> for record::ServerSettings {
    fn from(settings: view::ServerSettings) -> Self {
        Self {
            enabled: settings.enabled,
            monitoring_interval_s: settings.monitoring_interval_s,
            monitoring_start_min: settings.monitoring_start_min,
            bandwidth: settings.bandwidth,
        }
    }
}

impl From<record::Counters> for view::CountersView {
    fn from(counters: record::Counters) -> Self {
        Self {
            since: counters.since,
            total_latency_ms: counters.total_latency_ms,
            network_failures: counters.network_failures,
            application_failures: counters.application_failures,
            cycles: counters.cycles,
            failures: counters.failures,
            missed: counters.missed,
            bytes: counters.bytes,
            largest: counters.largest,
            last_latency_ms: counters.last_latency_ms,
            max_latency_ms: counters.max_latency_ms,
        }
    }
}

/// Which key was told to the other host is this host's business.
impl From<&record::KnownKey> for view::KnownKeyView {
    fn from(known: &record::KnownKey) -> Self {
        Self {
            names: known.names.clone(),
            addresses: known.addresses.clone(),
            key: known.key,
            since: known.since,
            next: known.next,
        }
    }
}

impl From<&record::Hold> for view::HoldView {
    fn from(hold: &record::Hold) -> Self {
        Self {
            since: hold.since,
            reasons: hold.reasons.iter().map(HoldReason::from).collect(),
        }
    }
}

impl From<&record::Reason> for HoldReason {
    fn from(reason: &record::Reason) -> Self {
        match *reason {
            record::Reason::Asked => Self::Asked,
            record::Reason::LessHistory { before, now } => Self::LessHistory {
                before: before.into(),
                now: now.into(),
            },
            record::Reason::Burst { random, usual } => Self::Burst { random, usual },
        }
    }
}

impl From<record::History> for view::HistoryView {
    fn from(history: record::History) -> Self {
        let record::History {
            points,
            spacing_s,
            window_s,
        } = history;
        Self {
            points,
            spacing_s,
            window_s,
        }
    }
}

impl From<&record::Failover> for view::FailoverView {
    fn from(failover: &record::Failover) -> Self {
        let stage = match failover.phase {
            FailoverPhase::Initiating { .. } => FailoverStage::Starting,
            FailoverPhase::Ready if failover.take_over.is_some() => FailoverStage::TakingOver,
            FailoverPhase::Ready => FailoverStage::Undecided,
            FailoverPhase::Reverting => FailoverStage::Reverting,
            FailoverPhase::Committing { .. } => FailoverStage::Committing,
            FailoverPhase::Merging => FailoverStage::Merging,
            FailoverPhase::Done => FailoverStage::Committed,
        };
        Self {
            stage,
            point: failover.target,
            position: failover.at,
            instant: failover.instant,
            consistency: failover.consistency,
            kind: failover.kind,
            unreached: failover.unreached.clone(),
            reverses_to: failover.reverse.as_ref().map(|r| r.settings.peer.clone()),
            job: failover.job,
        }
    }
}

impl From<&record::Test> for view::TestView {
    fn from(test: &record::Test) -> Self {
        let stage = match test.phase {
            TestPhase::Making { .. } => TestStage::Making,
            TestPhase::Ready => TestStage::Ready,
            TestPhase::Ending => TestStage::Ending,
        };
        Self {
            stage,
            vm: test.vm,
            point: test.target,
            instant: test.instant,
            job: test.job,
        }
    }
}

impl From<&record::Planned> for view::PlannedView {
    fn from(planned: &record::Planned) -> Self {
        let stage = match planned.phase {
            PlannedPhase::Stopping => PlannedStage::ShuttingDown,
            PlannedPhase::Closing => PlannedStage::SendingChanges,
            PlannedPhase::Prepared if planned.hand_over => PlannedStage::AskingReplica,
            PlannedPhase::Prepared => PlannedStage::Prepared,
            PlannedPhase::HandingOver => PlannedStage::HandingOver,
        };
        Self {
            stage,
            start: planned.start,
            job: planned.job,
        }
    }
}

impl From<&record::Split> for view::SplitView {
    fn from(split: &record::Split) -> Self {
        let stage = if split.committed {
            SplitStage::Committed
        } else {
            SplitStage::FailedOver
        };
        Self {
            stage,
            since: split.since,
            theirs: split.theirs.clone(),
        }
    }
}

impl view::SynchronizationView {
    /// The disks are those of the relationship, in the order of its settings.
    pub(crate) fn new(sync: &record::Synchronization, disks: &[DiskId]) -> Self {
        let (disk, offset) = sync.cursor;
        let disk = disks.get(usize::from(disk)).cloned();
        Self {
            reason: match sync.kind {
                SyncKind::Resync => SynchronizationReason::Resync,
                SyncKind::Seed => SynchronizationReason::Seed,
                SyncKind::Reverse => SynchronizationReason::Reverse,
            },
            at: disk.map(|disk| view::DiskPlace { disk, offset }),
            sent: sync.sent,
            job: sync.job,
        }
    }
}

impl From<Abandoned> for view::AbandonedView {
    fn from(Abandoned { since, at }: Abandoned) -> Self {
        Self { since, at }
    }
}

impl From<Console> for view::ConsoleView {
    fn from(Console { socket, log }: Console) -> Self {
        Self { socket, log }
    }
}

impl From<GuestProcess> for view::ProcessView {
    fn from(GuestProcess { pid, age_ms }: GuestProcess) -> Self {
        Self { pid, age_ms }
    }
}

impl From<AtRest> for view::AtRestView {
    fn from(seen: AtRest) -> Self {
        match seen {
            AtRest::NotEncrypted => Self::NotEncrypted,
            AtRest::Encrypted { key } => Self::Encrypted { key },
            AtRest::Locked { key } => Self::Locked { key },
            AtRest::NotKnown { why } => Self::NotKnown { why },
        }
    }
}

impl From<Certificate> for view::CertificateView {
    fn from(certificate: Certificate) -> Self {
        let Certificate {
            usage,
            place,
            not_before,
            not_after,
            problem,
        } = certificate;
        Self {
            usage,
            place,
            not_before,
            not_after,
            problem,
        }
    }
}
