//! Changes of roles that were under way when the daemon ended. The recorded phase is what is gone on with, as always; here is
//! what people are told of it: by an event at the start, and by the status as long as it lasts. What was asked of the other
//! host is recorded before it is asked, so that an answer that never came can be told from a change that is under way.

use crate::core::Core;
use crate::port::link::{PeerReply, PeerRequest, PlannedStep, Standing};
use crate::record::{Failover, FailoverPhase, PlannedPhase, Relationship, Side, SyncKind};
use crate::target::TargetPart;
use crate::work::message::{Message, Over};
use crate::work::piece::BackgroundTask;
use lifeboat_model::ReplicationHealth as Health;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::{Finding, ProblemKind};
use std::time::Duration;

/// How often the primary is asked how far it is.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What the record says is under way, and what it goes on with.
pub(crate) fn under_way(rel: &Relationship) -> Option<String> {
    let (what, step) = match &rel.side {
        Side::Primary(side) => match (&side.planned, &side.sync) {
            (Some(planned), _) => ("a planned failover", planned_step(planned.phase)?.to_owned()),
            (None, Some(sync)) if sync.kind == SyncKind::Reverse => (
                "the reversal of the replication",
                format!("finding out what {} lacks", rel.peer),
            ),
            (None, _) if side.start => ("a change of roles", "starting the VM here".to_owned()),
            (None, _) => return None,
        },
        Side::Replica(side) => match &side.failover {
            Some(failover) => failover_step(failover)?,
            None if side.dir.is_none() => (
                "the reversal of the replication",
                "waiting for the offer of the new primary".to_owned(),
            ),
            None if side.asked => ("a planned failover", format!("asking {} how far it is", rel.peer)),
            None => return None,
        },
        Side::Test { .. } | Side::Alone => return None,
    };
    Some(format!(
        "{what} was under way when this host's daemon ended; it goes on with {step}"
    ))
}

/// What a planned failover does in a phase; `None`: it waits for a person.
pub(crate) fn planned_step(phase: PlannedPhase) -> Option<&'static str> {
    match phase {
        PlannedPhase::Stopping => Some("shutting the VM down"),
        PlannedPhase::Closing => Some("sending the last changes"),
        PlannedPhase::HandingOver => Some("handing over to the replica"),
        PlannedPhase::Prepared => None,
    }
}

fn failover_step(failover: &Failover) -> Option<(&'static str, String)> {
    let planned = match failover.take_over {
        Some(_) => "a planned failover",
        None => "a failover",
    };
    Some(match (failover.phase, &failover.reverse) {
        (FailoverPhase::Initiating { .. }, _) => (planned, "making the failover disks".to_owned()),
        (FailoverPhase::Ready, _) => {
            failover.take_over?;
            (
                planned,
                "asking the primary whether it is still prepared".to_owned(),
            )
        }
        (FailoverPhase::Reverting, _) => ("a revert", "throwing the failover disks away".to_owned()),
        (FailoverPhase::Committing { .. }, _) => {
            ("a commit", "making the failover disks the VM's".to_owned())
        }
        (FailoverPhase::Merging | FailoverPhase::Done, Some(reverse)) => (
            "the reversal of the replication",
            format!("asking {} to become the replica", reverse.settings.peer),
        ),
        (FailoverPhase::Merging, None) => ("a commit", "merging the disks".to_owned()),
        (FailoverPhase::Done, None) => return None,
    })
}

impl Core {
    /// After a start of the daemon: tells what is gone on with.
    pub(crate) async fn tell_resumed(&mut self) {
        let found = self.rel.as_ref().and_then(under_way);
        if let Some(text) = &found {
            self.event(text).await;
        }
        self.resumed = found.is_some();
    }

    /// What was under way at the start and still is.
    pub(crate) fn resumed_finding(&self, rel: &Relationship) -> Option<Finding> {
        let text = under_way(rel).filter(|_| self.resumed)?;
        Some(Finding::new(Health::Ok, ProblemKind::Resumed, text))
    }

    /// Notes durably that the primary is asked for a planned failover, or that this is over.
    pub(crate) async fn note_asked(&mut self, asked: bool) -> Result<(), crate::contract::Refusal> {
        let mut change = self.change()?;
        if let Some(side) = change.replica_mut() {
            side.asked = asked;
        }
        self.commit(change).await
    }

    /// Nothing is asked of the primary any more.
    pub(crate) async fn asked_over(&mut self, over: Over) {
        if self.note_asked(false).await.is_err() {
            // It is asked again after the next start.
            return;
        }
        match over {
            Over::Carried => {}
            Over::Prepared => {
                self.event(
                    "the planned failover that was asked for here is prepared on the primary and was not handed over; go on there",
                )
                .await;
            }
            Over::Missing => {
                self.event(
                    "the planned failover that was asked for here was not recorded on the primary, or was given up there; give \
                     the command again",
                )
                .await;
            }
        }
    }
}

impl TargetPart {
    /// Goes on following a planned failover that was asked of the primary before this daemon started.
    pub(crate) fn follow_resumed(&mut self, core: &Core) {
        let Some(rel) = core.rel.as_ref() else { return };
        let asked = rel.replica().is_some_and(|r| r.asked && r.failover.is_none());
        let Some(primary) = rel.callback.clone().filter(|_| asked) else {
            return;
        };
        let (host, vm, own) = (core.host.clone(), core.id, core.own.clone());
        let task = core.host.works.spawn(async move {
            let over = loop {
                tokio::time::sleep(ASK_AGAIN).await;
                let asked = host.ports.link.call(&primary, PeerRequest::Standing { vm }).await;
                if let Ok(PeerReply::Standing(theirs)) = asked
                    && let Some(over) = outcome(&theirs)
                {
                    break over;
                }
            };
            if let Some(own) = own.upgrade() {
                // An actor that is gone asks again after its next start.
                let _ = own.send(Message::AskedOver(over)).await;
            }
        });
        self.following = Some(BackgroundTask(task));
    }
}

/// What the primary's word says; `None` while it is under way there.
fn outcome(theirs: &Standing) -> Option<Over> {
    if theirs.mode != Mode::Primary {
        return Some(Over::Carried);
    }
    match theirs.planned {
        None => Some(Over::Missing),
        Some(PlannedStep::Prepared) => Some(Over::Prepared),
        Some(PlannedStep::Stopping | PlannedStep::Closing | PlannedStep::HandingOver) => None,
    }
}
