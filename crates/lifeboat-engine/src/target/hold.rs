//! A hold on a replica's history: while there is one, no point expires, until an administrator here has looked. It begins when
//! the primary asks for less history than before, when changes arrive that look like the work of ransomware, or when
//! a caller asks for it. What expires otherwise is policy's; for how long a host keeps points in any case, its
//! authorization entries say.

use crate::contract::refusal::no_relationship;
use crate::contract::{Answer, ChangesView, Refusal};
use crate::core::Core;
use crate::port::store::{Point, ReplicaInfo};
use crate::record::{History, Hold, Reason, Relationship};
use crate::target::TargetPart;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::change::Burst;
use lifeboat_model::policy::Held;
use lifeboat_model::{ChangeRate, Changed, Finding, Note, Position, ProblemKind, hint};
use std::time::Duration;
use tokio::time::Instant;

impl Hold {
    pub(crate) fn text(&self, rel: &Relationship) -> String {
        let reasons: Vec<String> = self.reasons.iter().map(|r| r.text(&rel.peer)).collect();
        format!("no recovery point expires: {}", reasons.join("; "))
    }
}

impl From<ChangeRate> for ChangesView {
    fn from(rate: ChangeRate) -> Self {
        Self {
            hour: rate.hour,
            usual: rate.usual,
        }
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
            // A head that is built again begins at nothing, and is not counted twice.
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

impl TargetPart {
    /// What is due to expire is looked for after the interval.
    fn expire_later(&mut self) {
        (self.expire, self.expired_at) = (false, Instant::now());
    }

    /// What is due to expire is looked for at once.
    fn expire_soon(&mut self) {
        (self.expire, self.next_at) = (true, Instant::now());
    }
}

impl Core {
    /// What the hold means for the health.
    pub(crate) fn hold_findings(&self, rel: &Relationship) -> Vec<Finding> {
        let hold = rel.replica().and_then(|r| r.keeping.hold.as_ref());
        let found = |h: &Hold| {
            let note = Note::new(h.text(rel), hint::Replicate::ReleasePoints);
            Finding::warning(ProblemKind::PointsHeld, note)
        };
        hold.map(found).into_iter().collect()
    }

    /// The history of a replica whose primary asks for this: more where its copy was there before the relationship, and has
    /// points of its own.
    fn found(&self, asked: History) -> History {
        let Some(rel) = self.rel.as_ref() else {
            return asked;
        };
        let own = rel.replica().is_some_and(|side| side.own);
        let info = self.last_info().filter(|_| own);
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
}

impl TargetPart {
    /// The hold, for what is to expire.
    pub(crate) fn held(&self, rel: &Relationship) -> Option<Held> {
        let hold = rel.replica()?.keeping.hold.as_ref()?;
        let since = hold.arrived.zip(self.aging.last());
        Some(Held {
            since: since.map(|(then, now)| now.since(then)).unwrap_or_default(),
            window: Duration::from_secs(hold.window_s.into()),
        })
    }

    /// Compares what the primary asks for with what was agreed, wherever the settings come from. Where what follows from it
    /// cannot be written down, nothing expires.
    pub(crate) async fn agree_before_expiry(&mut self, core: &mut Core) {
        if !self.settings_agreed(core).await {
            self.expire_later();
        }
    }

    async fn settings_agreed(&mut self, core: &mut Core) -> bool {
        let Some(rel) = core.rel.as_ref().filter(|r| has_history(r)) else {
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
                known.contains(&reason) || self.hold(core, reason).await
            }
            Some(_) => core.agree(now).await,
            None => core.agree(core.found(now)).await,
        }
    }

    /// Counts what was applied, and holds when it is a burst.
    pub(crate) async fn changes_applied(&mut self, core: &mut Core, info: &ReplicaInfo) {
        let (grown, counted) = Counted::grown(self.counted, info);
        self.counted = Some(counted);
        let Some(at) = self.aging.last() else {
            return;
        };
        let disks = info.disks.iter().fold(0u64, |sum, d| sum.saturating_add(d.size));
        let counted = core.tally(|rel| {
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
                self.hold(core, Reason::Burst { random, usual }).await;
            }
            Some(_) | None if next_hour => core.write_noted().await,
            Some(_) | None => {}
        }
    }

    /// Begins a hold, or adds a reason to it. False when it cannot be written down.
    async fn hold(&mut self, core: &mut Core, reason: Reason) -> bool {
        let (now, arrived) = (core.host.ports.clock.now(), self.aging.last());
        let Ok(mut change) = core.change() else {
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
        core.commit(change).await.is_ok()
    }

    /// An administrator wants every point to stay.
    pub(crate) async fn hold_points(&mut self, core: &mut Core) -> Result<Answer, Refusal> {
        let rel = core.rel.as_ref().ok_or_else(no_relationship)?;
        if !has_history(rel) {
            return Err(no_history());
        }
        let reasons = rel
            .replica()
            .and_then(|r| r.keeping.hold.as_ref())
            .map(|h| &h.reasons);
        if reasons.is_some_and(|r| r.contains(&Reason::Asked)) || self.hold(core, Reason::Asked).await {
            return Ok(Answer::Done);
        }
        Err(Refusal::new(
            ReturnCode::Failed,
            "the catalog cannot be written: the hold is not in effect",
            hint::Look::Log,
        ))
    }

    /// An administrator has looked: points expire again, by what the primary asks for now.
    pub(crate) async fn release_points(&mut self, core: &mut Core) -> Result<Answer, Refusal> {
        let mut change = core.change()?;
        let now = History::from(&change.settings);
        let keeping = change.replica_mut().map(|side| &mut side.keeping);
        let Some(keeping) = keeping.filter(|k| k.hold.is_some()) else {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "nothing is held here: points expire as they are due",
                hint::Replicate::OnReplicaHost,
            ));
        };
        keeping.hold = None;
        keeping.agreed = Some(now);
        keeping.rate.accept();
        change.tell("recovery points expire again");
        core.commit(change).await?;
        self.expire_soon();
        Ok(Answer::Done)
    }
}

fn no_history() -> Refusal {
    Refusal::new(
        ReturnCode::InvalidState,
        "this host has no recovery points of this VM",
        hint::Replicate::OnReplicaHost,
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
