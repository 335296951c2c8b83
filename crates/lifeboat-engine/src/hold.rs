//! A hold on a replica's history: while there is one, no point expires, until somebody on this host has looked. It begins when
//! the primary asks for less history than before, when changes arrive that look like the work of ransomware, or when
//! somebody asks for it. What expires otherwise is policy's; for how long a host keeps points in any case, its
//! authorization entries say.

use std::time::Duration;

use lifeboat_model::api::ReturnCode;
use lifeboat_model::change::Burst;
use lifeboat_model::policy::{Finding, Held};
use lifeboat_model::shell::argument;
use lifeboat_model::{
    ChangeRate, Changed, Position, ReplicationMode as Mode, ReplicationSettings, ReplicationState as State,
};
use tokio::time::Instant;

use crate::action::{Answer, ChangesView, Refusal};
use crate::actor::{Actor, no_relationship};
use crate::ports::store::{Point, ReplicaInfo};
use crate::records::{History, Hold, Reason, Relationship};
use crate::replica::ReplicaState;

impl From<ChangeRate> for ChangesView {
    fn from(rate: ChangeRate) -> Self {
        Self {
            hour: rate.hour,
            usual: rate.usual,
        }
    }
}

impl From<&ReplicationSettings> for History {
    fn from(settings: &ReplicationSettings) -> Self {
        Self {
            points: settings.history,
            spacing_s: settings.point_spacing_s,
            window_s: settings.any_point_window_s,
        }
    }
}

impl History {
    /// How far back the points reach, in seconds.
    fn reach(self) -> u64 {
        u64::from(self.points) * u64::from(self.spacing_s)
    }

    /// Whether it gives up something of the other.
    fn is_less_than(self, other: Self) -> bool {
        self.points < other.points || self.reach() < other.reach() || self.window_s < other.window_s
    }
}

impl std::fmt::Display for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            points,
            spacing_s,
            window_s,
        } = self;
        write!(
            f,
            "{points} points {spacing_s} s apart and every instant of {window_s} s"
        )
    }
}

impl Reason {
    fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    fn text(&self, primary: &str) -> String {
        match self {
            Self::Asked => "somebody asked for that".to_owned(),
            Self::LessHistory { before, now } => {
                format!("{primary} asks for less history: {now}, instead of {before}")
            }
            Self::Burst { random, usual } => format!(
                "{} MiB that cannot be compressed arrived within an hour, {} MiB in the worst hour before: an encrypting program in \
                 the guest looks like this, and so does a large copy of compressed data",
                random >> 20,
                usual >> 20
            ),
        }
    }
}

impl Hold {
    fn text(&self, rel: &Relationship) -> String {
        let reasons: Vec<String> = self.reasons.iter().map(|r| r.text(&rel.peer)).collect();
        let it = argument(&rel.spec.name);
        format!(
            "no recovery point expires: {}. Look at them (lifeboat points {it}, failover start {it} --test); when all is well: \
             lifeboat replication release-points {it}",
            reasons.join("; ")
        )
    }
}

/// How much of the changes since the newest point was counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    newest: Option<Position>,
    upto: Changed,
}

impl Counted {
    /// What was applied since the last look, and what is counted then. What was there when the daemon started counts for
    /// nothing: when it came is not known.
    fn grown(before: Option<Self>, info: &ReplicaInfo) -> (Changed, Self) {
        let (newest, unsealed) = (info.points.last(), info.unsealed);
        let position = newest.map(|p| p.position);
        let (grown, upto) = match before {
            None => (Changed::default(), unsealed),
            // A head that is built again begins anew, and is not counted twice.
            Some(was) if was.newest == position => (
                unsealed.since(was.upto),
                if unsealed.touched() < was.upto.touched() {
                    was.upto
                } else {
                    unsealed
                },
            ),
            Some(was) => {
                let sealed = newest.and_then(|p| p.changed).unwrap_or_default();
                (sealed.since(was.upto).and(unsealed), unsealed)
            }
        };
        (
            grown,
            Self {
                newest: position,
                upto,
            },
        )
    }
}

/// Whether a relationship is a replica with history that could be lost: any but a first copy that is not complete.
fn has_history(rel: &Relationship) -> bool {
    let first = rel.state == State::WaitingToCompleteInitialReplication;
    matches!(rel.mode, Mode::Replica | Mode::ExtendedReplica)
        && rel
            .replica()
            .is_some_and(|r| r.dir.is_some() && (r.own || !first))
}

impl ReplicaState {
    /// What is due to expire is looked for after the interval.
    fn expire_later(&mut self) {
        (self.expire, self.expired_at) = (false, Instant::now());
    }

    /// What is due to expire is looked for at once.
    fn expire_soon(&mut self) {
        (self.expire, self.next_at) = (true, Instant::now());
    }
}

impl Actor {
    /// The hold, for what is to expire.
    pub(crate) fn held(&self, rel: &Relationship) -> Option<Held> {
        let hold = rel.replica()?.keeping.hold.as_ref()?;
        let since = hold.arrived.zip(self.replica.aging.last());
        Some(Held {
            since: since.map(|(then, now)| now.since(then)).unwrap_or_default(),
            window: Duration::from_secs(hold.window_s.into()),
        })
    }

    /// What the hold means for the health.
    pub(crate) fn hold_findings(&self, rel: &Relationship) -> Vec<Finding> {
        let hold = rel.replica().and_then(|r| r.keeping.hold.as_ref());
        hold.map(|h| Finding::warning(h.text(rel))).into_iter().collect()
    }

    /// Compares what the primary asks for with what was agreed, wherever the settings come from. Where what follows from it
    /// cannot be written down, nothing expires.
    pub(crate) async fn agree_before_expiry(&mut self) {
        if !self.settings_agreed().await {
            self.replica.expire_later();
        }
    }

    async fn settings_agreed(&mut self) -> bool {
        let Some(rel) = self.rel.as_ref().filter(|r| has_history(r)) else {
            return true;
        };
        let now = History::from(&rel.settings);
        let Some(side) = rel.replica() else {
            return true;
        };
        match side.keeping.agreed {
            Some(before) if before == now => true,
            Some(before) if now.is_less_than(before) => {
                let known = side.keeping.hold.as_ref().map_or(&[][..], |h| &h.reasons);
                let reason = Reason::LessHistory { before, now };
                known.contains(&reason) || self.hold(reason).await
            }
            Some(_) => self.agree(now).await,
            None => self.agree(self.found(now)).await,
        }
    }

    /// The history of a replica whose primary asks for this: more where its copy was there before the relationship, and has
    /// points of its own.
    fn found(&self, asked: History) -> History {
        let Some(rel) = self.rel.as_ref() else {
            return asked;
        };
        let own = rel.replica().is_some_and(|side| side.own);
        let info = self.host.ports.store.last_info(self.id).filter(|_| own);
        let older = info.map_or(0, |info| {
            let of_old = |p: &&Point| !p.position.same_generation(rel.position);
            info.points.iter().filter(of_old).count()
        });
        History {
            points: u16::try_from(older).unwrap_or(u16::MAX).max(asked.points),
            ..asked
        }
    }

    async fn agree(&mut self, to: History) -> bool {
        let Ok(mut change) = self.change() else {
            return false;
        };
        if let Some(side) = change.replica_mut() {
            side.keeping.agreed = Some(to);
        }
        self.commit(change).await.is_ok()
    }

    /// Counts what was applied, and holds when it is a burst.
    pub(crate) async fn changes_applied(&mut self, info: &ReplicaInfo) {
        let (grown, counted) = Counted::grown(self.replica.counted, info);
        self.replica.counted = Some(counted);
        let Some(at) = self.replica.aging.last() else {
            return;
        };
        let disks = info.disks.iter().fold(0u64, |sum, d| sum.saturating_add(d.size));
        let counted = self.tally(|rel| {
            let side = Some(rel).filter(|r| has_history(r))?.replica_mut()?;
            let hour = side.keeping.rate.began_ms;
            let burst = side.keeping.rate.add(at, grown, disks);
            let is_burst = |r: &Reason| matches!(r, Reason::Burst { .. });
            let known = side.keeping.hold.iter().flat_map(|h| &h.reasons).any(is_burst);
            Some((burst, known, side.keeping.rate.began_ms != hour))
        });
        let Some((burst, known, next_hour)) = counted.flatten() else {
            return;
        };
        match burst {
            Some(Burst { hour, usual }) if !known => {
                let random = hour.random;
                // Tried again with the next log when it cannot be written down.
                self.hold(Reason::Burst { random, usual }).await;
            }
            Some(_) | None if next_hour => self.write_noted().await,
            Some(_) | None => {}
        }
    }

    /// There was no room: what a hold keeps of logs is given up, points stay.
    pub(crate) async fn hold_lacks_room(&mut self) {
        let given_up = self.note(|rel| {
            let hold = rel.replica_mut().and_then(|s| s.keeping.hold.as_mut());
            let hold = hold.filter(|h| h.window_s > 0);
            hold.map(|h| h.window_s = 0).is_some()
        });
        if given_up.await == Some(true) {
            self.event("there is no room for the logs that are held: they expire, the recovery points stay")
                .await;
        }
    }

    /// Begins a hold, or adds a reason to it. False when it cannot be written down.
    async fn hold(&mut self, reason: Reason) -> bool {
        let (now, arrived) = (self.host.ports.clock.now(), self.replica.aging.last());
        let Ok(mut change) = self.change() else {
            return false;
        };
        let window_s = change.settings.any_point_window_s;
        let told = reason.text(&change.peer);
        let Some(side) = change.replica_mut() else {
            return false;
        };
        let window_s = side.keeping.agreed.map_or(0, |a| a.window_s).max(window_s);
        let hold = side.keeping.hold.get_or_insert_with(|| Hold {
            since: now,
            arrived,
            window_s,
            reasons: Vec::new(),
        });
        let known = hold.reasons.len();
        hold.reasons.retain(|r| !r.same_kind(&reason));
        let told_before = hold.reasons.len() < known;
        hold.reasons.push(reason);
        // A primary that changes its mind each second makes one event.
        if !told_before {
            change.tell(format!("{told}; no recovery point expires from now on"));
        }
        self.commit(change).await.is_ok()
    }

    /// Somebody wants every point to stay.
    pub(crate) async fn hold_points(&mut self) -> Result<Answer, Refusal> {
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        if !has_history(rel) {
            return Err(no_history());
        }
        let reasons = rel
            .replica()
            .and_then(|r| r.keeping.hold.as_ref())
            .map(|h| &h.reasons);
        if reasons.is_some_and(|r| r.contains(&Reason::Asked)) || self.hold(Reason::Asked).await {
            return Ok(Answer::Done);
        }
        Err(Refusal::new(
            ReturnCode::Failed,
            "the catalog cannot be written: the hold is not in effect",
            "see the log of the daemon, and try again",
        ))
    }

    /// Somebody has looked: points expire again, by what the primary asks for now.
    pub(crate) async fn release_points(&mut self) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        let now = History::from(&change.settings);
        let keeping = change.replica_mut().map(|side| &mut side.keeping);
        let Some(keeping) = keeping.filter(|k| k.hold.is_some()) else {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "nothing is held here: points expire as they are due",
                "a hold is on the host that has the replica",
            ));
        };
        keeping.hold = None;
        keeping.agreed = Some(now);
        keeping.rate.accept();
        change.tell("recovery points expire again");
        self.commit(change).await?;
        self.replica.expire_soon();
        Ok(Answer::Done)
    }
}

fn no_history() -> Refusal {
    Refusal::new(
        ReturnCode::InvalidState,
        "this host has no recovery points of this VM",
        "do this on the host that has the replica",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(points: u16, spacing_s: u32, window_s: u32) -> History {
        History {
            points,
            spacing_s,
            window_s,
        }
    }

    #[test]
    fn less_is_fewer_or_closer_points_or_a_shorter_window() {
        let agreed = history(12, 3600, 600);
        for (now, less) in [
            (history(12, 3600, 600), false),
            (history(13, 3600, 700), false),
            (history(24, 1800, 600), false),
            (history(11, 7200, 600), true),
            (history(12, 3599, 600), true),
            (history(24, 1, 600), true),
            (history(12, 3600, 599), true),
            (history(0, 3600, 600), true),
        ] {
            assert_eq!(now.is_less_than(agreed), less, "{now}");
        }
    }
}
