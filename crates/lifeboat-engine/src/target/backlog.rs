//! Logs that are durable on a replica and wait to be applied. They are bounded, so that a failover to the newest instant
//! never waits for more than one apply, and the bound holds the sender back instead of losing anything: what was acknowledged
//! stays, what was not is offered again. Both sides show it.

use crate::host::Host;
use crate::port::link::PeerRefusal;
use crate::port::store::{ReplicaInfo, StoredLog};
use crate::work::message::{Bound, Waiting, unapplied};
use lifeboat_deltalog::Consistency;
use lifeboat_model::policy::{BACKLOG_BYTES, BACKLOG_LOGS};
use lifeboat_model::{Position, VmId};
use std::cmp::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long a sender is kept waiting before it is refused: an apply usually makes room meanwhile. Shorter than a peer's
/// patience with a transfer that does not move.
pub(crate) const HOLD: Duration = Duration::from_secs(10);

/// How often room is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// When a log that was held back is offered again.
pub(crate) const OFFER_AGAIN: Duration = Duration::from_secs(1);

/// With shorter intervals than this, logs are collected and applied together.
const COLLECT_BELOW: Duration = Duration::from_secs(5);

/// How long they are collected. A failover applies what was collected at once, which takes about as long as one of them.
const COLLECT: Duration = Duration::from_secs(4);

/// The logs that wait, with when they arrived while this daemon runs. It follows what the store says.
#[derive(Debug, Default)]
pub(crate) struct Queue(Vec<Arrived>);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    position: Position,
    bytes: u64,
    at: Instant,
}

impl Queue {
    /// A log became durable.
    pub(crate) fn arrived(&mut self, position: Position, bytes: u64) {
        if self.0.iter().all(|a| a.position != position) {
            let at = Instant::now();
            self.0.push(Arrived { position, bytes, at });
        }
    }

    /// What the store has still to apply. A log that is not in this look may have arrived since; it is in the next one.
    pub(crate) fn look(&mut self, info: &ReplicaInfo) {
        let waits = unapplied(info).map(|log| {
            let known = self.0.iter().find(|a| a.position == log.position).copied();
            known.unwrap_or_else(|| Arrived {
                position: log.position,
                bytes: log.size,
                at: Instant::now(),
            })
        });
        let mut found: Vec<Arrived> = waits.collect();
        let later = |a: &&Arrived| a.position.compare(info.durable) == Some(Ordering::Greater);
        found.extend(self.0.iter().filter(later));
        self.0 = found;
    }

    /// When the oldest of them arrived; `None`: none waits.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.0.first().map(|a| a.at)
    }

    pub(crate) fn waiting(&self) -> Waiting {
        Waiting {
            logs: u32::try_from(self.0.len()).unwrap_or(u32::MAX),
            bytes: self.0.iter().map(|a| a.bytes).fold(0, u64::saturating_add),
        }
    }
}

/// The end of the run of logs that can be applied as one: up to where a point may have to be sealed, or the policy's bound.
/// `seals` says whether a point is due once the replica stands at a log.
pub(crate) fn run_end(info: &ReplicaInfo, seals: impl Fn(&StoredLog) -> bool) -> Option<Position> {
    let (mut end, mut at) = (None, info.applied);
    let mut taken = Waiting::default();
    for log in unapplied(info) {
        let over = taken.bytes.saturating_add(log.size) > BACKLOG_BYTES;
        let many = usize::try_from(taken.logs).is_ok_and(|n| n >= BACKLOG_LOGS);
        // Before the disks stop being one instant, the last whole one may have to be sealed.
        let parts = end.is_some() && log.partial && info.logs.iter().any(|l| l.position == at && !l.partial);
        if taken.logs > 0 && (over || many || parts) {
            break;
        }
        (end, at) = (Some(log.position), log.position);
        (taken.logs, taken.bytes) = (taken.logs + 1, taken.bytes.saturating_add(log.size));
        let closes = !log.partial && info.logs.iter().any(|l| l.partial && l.position == log.parent);
        if !log.partial && (closes || log.consistency == Consistency::Application || seals(log)) {
            break;
        }
    }
    end
}

/// How long logs of a relationship are collected before they are applied.
pub(crate) fn collects(interval: Duration) -> Duration {
    if interval < COLLECT_BELOW {
        COLLECT
    } else {
        Duration::ZERO
    }
}

impl Host {
    /// Waits until a further log may be taken in; refuses when that takes too long. One that is here already is no further one.
    pub(crate) async fn room_in_backlog(
        &self,
        vm: VmId,
        position: Position,
        bound: Bound,
    ) -> Result<(), PeerRefusal> {
        if bound == Bound::Room {
            return Ok(());
        }
        let began = Instant::now();
        let images = self.images_of(vm).map_err(|e| self.peer_refusal(e))?;
        loop {
            // Of a disk that does not answer the last look is enough: what is taken in waits for it anyway.
            let look = tokio::time::timeout(LOOK * 4, images.info(vm)).await;
            let info = match look {
                Ok(info) => info.map_err(|e| self.peer_refusal(e))?,
                Err(_) => match images.last_info(vm) {
                    Some(info) => info,
                    None => return Ok(()),
                },
            };
            let waiting = Waiting::of(&info);
            if !waiting.full() || info.logs.iter().any(|l| l.position == position) {
                return Ok(());
            }
            if began.elapsed() >= HOLD {
                return Err(PeerRefusal::Backlog {
                    host: self.config.name.clone(),
                    logs: waiting.logs,
                    bytes: waiting.bytes,
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_model::{GenerationId, Timestamp};
    use uuid::Uuid;

    fn at(sequence: u64) -> Position {
        Position::from_parts(GenerationId(Uuid::from_u128(7)), sequence)
    }

    fn log(n: u64) -> StoredLog {
        StoredLog {
            position: at(n),
            parent: at(n - 1),
            instant: Timestamp(n * 1000),
            consistency: Consistency::Crash,
            size: 1000,
            partial: false,
        }
    }

    /// A replica that stands at 2 and has these logs.
    fn info(logs: Vec<StoredLog>) -> ReplicaInfo {
        ReplicaInfo {
            durable: logs.last().map_or(at(2), |l| l.position),
            applied: at(2),
            place: crate::port::store::StoreLocation::new("/r"),
            disks: Vec::new(),
            bulk: Vec::new(),
            points: Vec::new(),
            branches: Vec::new(),
            abandoned: None,
            files: Vec::new(),
            faults: Vec::new(),
            damage: Vec::new(),
            unsealed: Default::default(),
            logs,
        }
    }

    fn end(logs: Vec<StoredLog>, seals: impl Fn(&StoredLog) -> bool) -> Option<u64> {
        run_end(&info(logs), seals).map(|p| p.sequence())
    }

    #[test]
    fn a_run_ends_where_a_point_may_be_sealed() {
        let never = |_: &StoredLog| false;
        let all: Vec<_> = (1..=6).map(log).collect();
        assert_eq!(end(vec![log(1), log(2)], never), None);
        assert_eq!(end(all.clone(), never), Some(6));
        assert_eq!(end(all.clone(), |l| l.position.sequence() == 4), Some(4));
        let mut application = all.clone();
        application[4].consistency = Consistency::Application;
        assert_eq!(end(application, never), Some(5));
        let mut sync = all.clone();
        (sync[3].partial, sync[4].partial) = (true, true);
        assert_eq!(
            end(sync.clone(), never),
            Some(3),
            "before the disks stop being one"
        );
        sync.drain(..3);
        let begun = ReplicaInfo {
            applied: at(3),
            ..info(sync)
        };
        assert_eq!(
            run_end(&begun, never).map(|p| p.sequence()),
            Some(6),
            "the delta that closes it"
        );
    }

    #[test]
    fn a_run_is_bounded_and_never_empty() {
        let mut many: Vec<_> = (3..=40).map(log).collect();
        let bound = u64::try_from(BACKLOG_LOGS).unwrap();
        assert_eq!(end(many.clone(), |_| false), Some(2 + bound));
        many[0].size = BACKLOG_BYTES * 5;
        assert_eq!(end(many.clone(), |_| false), Some(3), "a large one alone");
        let waiting = Waiting::of(&info(many));
        assert_eq!(waiting.logs, 38);
        assert!(waiting.full());
        assert!(!Waiting::default().full());
    }
}
