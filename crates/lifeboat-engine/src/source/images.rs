//! Whether the images of a powered-off VM still are what the replica has: looked at each time that is claimed, never
//! remembered. And what is answered to a caller that asks for a cycle and waits for its result.

use crate::contract::Refusal;
use crate::contract::refusal::no_relationship;
use crate::contract::{Answer, CycleResult};
use crate::core::Core;
use crate::port::capture::CaptureError;
use crate::port::hypervisor::{Hypervisor, ImagesSeen, Launch};
use crate::port::link::LinkError;
use crate::record::Relationship;
use crate::source::SourcePart;
use crate::work::failure::CopyError;
use crate::work::launch::plain;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::{Finding, ProblemKind, Timestamp, VmSpec, hint};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What a look at the images of a powered-off VM came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// They are what the replica has.
    AsSent,
    /// They are not: another process changed them. The next cycle finds out what that means.
    Changed(String),
    /// Nothing says what they were; the next cycle finds out.
    Unknown,
    /// They could not be looked at, and why.
    NotNow(String),
}

/// Since when the images of a powered-off VM could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unverified {
    /// When they were last seen to be what the replica has.
    pub(crate) last: Timestamp,
    /// Why not since.
    pub(crate) why: String,
}

impl Unverified {
    fn text(&self, now: Timestamp) -> String {
        format!(
            "for {} s it could not be verified that the images of the powered-off VM are what the replica has: {}",
            now.since(self.last).as_secs(),
            self.why
        )
    }
}

/// What a view says of a powered-off VM's images, before it has looked.
pub(crate) struct Claim<'a> {
    pub(crate) spec: &'a VmSpec,
    /// When they were last seen to be what the replica has.
    pub(crate) last: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

/// Looks at the images that the description of a powered-off VM names, for a view: quick, and nothing is done about what
/// is seen. `None` when they are what the replica has, or when nothing is claimed of them.
pub(crate) async fn doubt(
    hypervisor: &dyn Hypervisor,
    rel: &Relationship,
    claim: Claim<'_>,
    patience: Duration,
) -> Option<Finding> {
    // In other states a process may have them open at this moment.
    let claimed = matches!(rel.state, State::Replicating | State::SyncedReplicationComplete);
    if !claimed || !rel.primary().is_some_and(|p| p.settled) {
        return None;
    }
    let launch = Launch {
        disks: claim.spec.disks.iter().map(plain).collect(),
        spec: claim.spec.clone(),
        firmware_vars: None,
        seed: Vec::new(),
    };
    let last = claim.last.or(rel.newest_instant).unwrap_or(rel.created);
    let not_verified = |why: String| {
        let text = Unverified { last, why }.text(claim.now);
        Some(Finding::critical(ProblemKind::ImagesNotVerified, text))
    };
    let look = hypervisor.untouched(&launch, &rel.settings.disks);
    match tokio::time::timeout(patience, look).await.map(looked) {
        Ok(Looked::AsSent) => None,
        Ok(Looked::Changed(why)) => {
            let text = format!("{why}; the next cycle looks into it");
            Some(Finding::warning(ProblemKind::ImagesChanged, text))
        }
        Ok(Looked::Unknown) => not_verified("it is not recorded how they were closed".to_owned()),
        Ok(Looked::NotNow(why)) => not_verified(why),
        Err(_) => not_verified("their storage does not answer".to_owned()),
    }
}

fn looked(seen: Result<ImagesSeen, CaptureError>) -> Looked {
    match seen {
        Ok(ImagesSeen::AsClosed) => Looked::AsSent,
        Ok(ImagesSeen::Changed { disk, reason }) => Looked::Changed(format!(
            "disk {disk} of the powered-off VM was changed by others: {reason}"
        )),
        Ok(ImagesSeen::NotRecorded) => Looked::Unknown,
        Err(e) => Looked::NotNow(chain(&e)),
    }
}

impl Core {
    /// Looks at the images of a VM that is off and whose last changes are on the replica.
    pub(crate) async fn look_at_images(&self) -> Looked {
        let Some(rel) = self.rel.as_ref() else {
            return Looked::NotNow("the VM is not replicated".to_owned());
        };
        let launch = match self.launch().await {
            Ok(launch) => launch,
            Err(e) => return Looked::NotNow(e.message),
        };
        let disks = &rel.settings.disks;
        looked(self.hypervisor().untouched(&launch, disks).await)
    }

    /// Whether a prepared VM may be handed over: what was written to its images after the last instant would be lost.
    pub(crate) async fn still_prepared(&self) -> Result<(), Refusal> {
        match self.look_at_images().await {
            Looked::Changed(why) => Err(Refusal::new(
                ReturnCode::InvalidState,
                format!("{why}; the replica does not have that"),
                hint::Planned::RepeatPlanned,
            )),
            // A failover away from storage that does not answer is what a failover is for.
            Looked::AsSent | Looked::Unknown | Looked::NotNow(_) => Ok(()),
        }
    }
}

impl SourcePart {
    /// Takes in a look. Whether the replica still has everything.
    pub(crate) async fn take_look(&mut self, core: &mut Core, looked: Looked) -> bool {
        let now = core.host.ports.clock.now();
        match looked {
            Looked::AsSent => {
                if self.unverified.take().is_some() {
                    core.event("the images of the powered-off VM can be looked at again; they are what the replica has")
                        .await;
                }
                self.verified = Some(now);
                self.answer_cycle(Ok(&CycleResult::Unchanged { verified: now }));
                true
            }
            Looked::Changed(why) => {
                core.event(&why).await;
                self.unsettle(core).await;
                false
            }
            Looked::Unknown => {
                self.unsettle(core).await;
                false
            }
            Looked::NotNow(why) => {
                let known = self.verified.or(core.rel.as_ref().and_then(|r| r.newest_instant));
                let unverified = Unverified {
                    last: known.unwrap_or(now),
                    why,
                };
                let text = unverified.text(now);
                if self.unverified.is_none() {
                    core.event(&text).await;
                }
                self.unverified = Some(unverified);
                self.answer_cycle(Err(NoCycle::Unverified(&text)));
                true
            }
        }
    }

    /// The replica may lack something after all.
    async fn unsettle(&mut self, core: &mut Core) {
        self.unverified = None;
        core.note(|rel| {
            if let Some(primary) = rel.primary_mut() {
                primary.settled = false;
            }
        })
        .await;
    }

    /// ReplicateNow: a cycle now, and its result as the answer. A cycle that is under way began before this was asked and
    /// does not count.
    pub(crate) fn replicate_now(&mut self, core: &Core, reply: oneshot::Sender<Result<Answer, Refusal>>) {
        let refused = match core.rel.as_ref() {
            None => Some(no_relationship()),
            Some(rel)
                if rel.mode != Mode::Primary
                    || !matches!(rel.state, State::Replicating | State::Critical) =>
            {
                let message = format!(
                    "no cycle while replication is {} ({}) in mode {}",
                    rel.state,
                    rel.state.number(),
                    rel.mode
                );
                Some(Refusal::new(
                    ReturnCode::InvalidState,
                    message,
                    hint::Look::Status,
                ))
            }
            Some(_) => None,
        };
        if let Some(refusal) = refused {
            return drop(reply.send(Err(refusal)));
        }
        self.awaiting.push(Awaiting {
            after: self.captures,
            reply,
        });
        self.next_at = Instant::now();
    }

    /// Answers those who wait for a cycle of a host that is no primary any more.
    pub(crate) fn dismiss_awaiting(&mut self, core: &Core) {
        if core.rel.as_ref().is_none_or(|r| r.mode != Mode::Primary) {
            self.answer_cycle(Err(NoCycle::NotPrimary));
        }
    }

    /// Tells those who wait for a cycle how it ended. One that arrived answers those who asked before it was taken; what
    /// keeps cycles from arriving answers every caller.
    pub(crate) fn answer_cycle(&mut self, result: Result<&CycleResult, NoCycle<'_>>) {
        let captures = self.captures;
        let waiting = std::mem::take(&mut self.awaiting);
        for one in waiting {
            let answer = match result {
                Ok(CycleResult::Sent { .. }) if one.after >= captures => {
                    self.awaiting.push(one);
                    continue;
                }
                Ok(result) => Ok(Answer::Cycle(result.clone())),
                // It is tried again by itself: that is more than what could be done about the cause.
                Err(ref why) => Err(Refusal::new(
                    ReturnCode::Failed,
                    format!("the cycle failed: {why}"),
                    hint::Again::ByItself,
                )),
            };
            drop(one.reply.send(answer));
        }
    }
}

/// Why a cycle that a caller waits for did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCycle<'a> {
    /// The link, with the log on this host.
    #[error("{}", chain(*.0))]
    Link(&'a LinkError),
    /// The disks, the link or the replica.
    #[error("{}", chain(*.0))]
    Copy(&'a CopyError),
    /// It could not begin.
    #[error("{0}")]
    Refused(&'a Refusal),
    /// The images of the powered-off VM cannot be looked at.
    #[error("{0}")]
    Unverified(&'a str),
    /// Nothing is sent in this state.
    #[error("replication is {0} ({n})", n = .0.number())]
    Rests(State),
    /// The relationship ends.
    #[error("replication is being removed")]
    Removed,
    /// The roles changed.
    #[error("this host is not the VM's primary any more")]
    NotPrimary,
}

/// A caller that waits for a cycle.
pub(crate) struct Awaiting {
    /// Captures that had begun when it was asked for.
    after: u64,
    reply: oneshot::Sender<Result<Answer, Refusal>>,
}
