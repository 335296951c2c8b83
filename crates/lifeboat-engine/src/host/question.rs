//! The question to the other side of a relationship: does this VM run there? It has three outcomes, runs, off and not
//! known, and a failure to get an answer is one of two things: the other side could not be connected to, which is what a
//! lost site looks like, or it was reached and did not say. Only the first lets a failover go on without `--force`; both
//! are shown with what was seen and when.
//!
//! Of three hosts the outer two do not know each other. Who is asked answers for itself and for the hosts that it knows and
//! the asking one does not; and a VM that is off, but about to be started by what is under way, is not off. A host that brings a
//! VM up records that first and asks then, or is asked after it is recorded, because an actor does one thing after the other:
//! of two hosts that do so at once at least one sees the other.

use crate::contract::Refusal;
use crate::host::Ports;
use crate::port::hypervisor::Power;
use crate::port::link::{NoAnswer, PeerLink, PeerPower, PeerReply, PeerRequest, PlannedStep, Standing};
use crate::record::PlannedPhase;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{ReplicationMode, ReplicationState, Timestamp, VmId, hint};
use std::fmt;
use std::time::Duration;

/// How long an answer is waited for. The other side owes one within 4 seconds, and the caller here waits for both.
pub(crate) const WORD: Duration = Duration::from_millis(4800);

/// How long a host that is asked waits for the answers of others while the asking one waits for its own.
const ABOVE: Duration = Duration::from_millis(2500);

/// How long this host takes to look before it says that it does not know.
const LOOK: Duration = Duration::from_secs(2);

/// What was seen of the other side, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    peer: String,
    at: Timestamp,
    what: String,
}

/// The outcome of the question.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    /// It answered.
    Answered(Standing, Seen),
    /// It was reached and gave no answer: it refused, failed, or took too long.
    Unanswered(Seen),
    /// No connection could be made.
    Unreachable(Seen),
    /// It is not known where the other side takes calls.
    NoAddress,
}

/// Time of day of an instant, for a message.
pub(crate) fn time_of_day(at: Timestamp) -> String {
    let s = at.0 / 1000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", s / 3600, s / 60 % 60, s % 60)
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (at {})", self.peer, self.what, time_of_day(self.at))
    }
}

impl Word {
    /// Whether that host has neither a record of the VM nor a process.
    pub(crate) fn has_nothing(&self) -> bool {
        let nothing = |s: &Standing| s.mode == ReplicationMode::None && s.does() == PeerPower::Off;
        matches!(self, Self::Answered(standing, _) if nothing(standing))
    }

    /// What of it counts for a host that asked this one.
    fn does(self) -> PeerPower {
        let not_known = |why: String| PeerPower::NotKnown { why };
        match self {
            Self::Answered(standing, seen) => match (standing.does(), standing.state) {
                (PeerPower::Off, _) if standing.planned.is_some() => {
                    not_known(format!("a planned failover is under way on {}", seen.peer))
                }
                (PeerPower::Off, ReplicationState::FailoverInProgress) => {
                    not_known(format!("it is being brought up on {}", seen.peer))
                }
                (power, _) => power,
            },
            Self::Unanswered(seen) => not_known(seen.to_string()),
            Self::Unreachable(_) | Self::NoAddress => PeerPower::Off,
        }
    }

    /// What the other side said, when it said something.
    pub(crate) fn standing(self) -> Option<Standing> {
        match self {
            Self::Answered(standing, _) => Some(standing),
            Self::Unanswered(_) | Self::Unreachable(_) | Self::NoAddress => None,
        }
    }
}

/// Whether a VM may be brought up here without a person's word that the other side's does not run; with what was seen where
/// that other side is merely out of reach.
pub(crate) fn may_bring_up(word: &Word) -> Result<Option<String>, Refusal> {
    match word {
        Word::Answered(standing, seen) => match standing.does() {
            PeerPower::Off => Ok(None),
            PeerPower::Runs => Err(Refusal::new(
                ReturnCode::InvalidState,
                format!("the VM is running on its primary, which answers at {}", seen.peer),
                hint::Planned::PlanOrForce,
            )),
            PeerPower::NotKnown { why } => Err(Refusal::new(
                ReturnCode::Unknown,
                format!("the primary {seen}: it cannot tell whether the VM runs there: {why}"),
                hint::Planned::ForceWhenOff,
            )),
        },
        Word::Unanswered(seen) => Err(Refusal::new(
            ReturnCode::Unknown,
            format!("whether the VM runs on its primary is not known: {seen}"),
            hint::Planned::ForceWhenOff,
        )),
        Word::Unreachable(seen) => Ok(Some(format!("{seen}; its VM may still run"))),
        Word::NoAddress => Ok(Some(
            "the primary takes no calls and could not be asked; its VM may still run".to_owned(),
        )),
    }
}

/// The replica's word for a primary that has nothing to send.
pub(crate) async fn told(link: &dyn PeerLink, peer: &str, vm: VmId) -> Option<Box<Standing>> {
    match link.ask(peer, PeerRequest::Standing { vm }, WORD).await {
        Ok(PeerReply::Standing(standing)) => Some(Box::new(standing)),
        Ok(_) | Err(_) => None,
    }
}

/// Whether the other side is asked before a VM is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// The other side is asked before anything is done.
    First,
    /// A person took it upon himself.
    Forced,
}

impl Asking {
    /// The question is asked unless a person said that it shall not matter.
    pub(crate) fn unless(forced: bool) -> Self {
        if forced { Self::Forced } else { Self::First }
    }
}

/// The refusal to start a primary's VM while its replica was reached and did not say whether it is failed over.
pub(crate) fn replica_unsure(seen: &Seen) -> Refusal {
    Refusal::new(
        ReturnCode::Unknown,
        format!("whether the VM was brought up on its replica is not known: {seen}"),
        hint::Guest::StartWhenOff,
    )
}

/// The refusal to start a primary's VM whose replica, or a host that has its copy from there, may run it. What the replica's own
/// state says is weighed elsewhere.
pub(crate) fn replica_knows(theirs: &Standing, seen: &Seen) -> Result<(), Refusal> {
    let gone_on = matches!(
        theirs.state,
        ReplicationState::FailoverInProgress | ReplicationState::Recovered | ReplicationState::Committed
    );
    let why = match theirs.does() {
        _ if gone_on || theirs.mode == ReplicationMode::Primary => return Ok(()),
        PeerPower::Off => return Ok(()),
        PeerPower::Runs => "it runs there, or on a host that has its copy from there".to_owned(),
        PeerPower::NotKnown { why } => format!("it cannot tell whether it runs: {why}"),
    };
    Err(Refusal::new(
        ReturnCode::InvalidState,
        format!("the VM may have been brought up: {seen}: {why}"),
        hint::Guest::StartWhenOff,
    ))
}

/// Whether a VM may be started while another host has a copy that was brought up or not.
pub(crate) fn may_start_beside(word: &Word) -> Result<(), Refusal> {
    let (seen, why) = match word {
        Word::Unreachable(_) | Word::NoAddress => return Ok(()),
        Word::Unanswered(seen) => (seen, "whether it runs there is not known".to_owned()),
        Word::Answered(standing, seen) => match (standing.does(), standing.state) {
            (PeerPower::Runs, _) => (seen, "it runs there".to_owned()),
            (PeerPower::NotKnown { why }, _) => (seen, format!("it cannot tell: {why}")),
            (PeerPower::Off, ReplicationState::FailoverInProgress) => {
                (seen, "it is being brought up there".to_owned())
            }
            (PeerPower::Off, _) => return Ok(()),
        },
    };
    Err(Refusal::new(
        ReturnCode::InvalidState,
        format!("another host has a copy of this VM: {seen}: {why}"),
        hint::Planned::RevertThereOrForce,
    ))
}

/// As it is remembered here, and as the other host is told.
impl From<PlannedPhase> for PlannedStep {
    fn from(phase: PlannedPhase) -> Self {
        match phase {
            PlannedPhase::Stopping => Self::Stopping,
            PlannedPhase::Closing => Self::Closing,
            PlannedPhase::Prepared => Self::Prepared,
            PlannedPhase::HandingOver => Self::HandingOver,
        }
    }
}

/// The answer to the question, of a VM with this record. Without one it may run all the same, and the caller wants to know
/// just that.
pub(crate) fn with_power(standing: Option<Standing>, power: PeerPower) -> PeerReply {
    let standing = standing.unwrap_or(Standing {
        mode: ReplicationMode::None,
        state: ReplicationState::Disabled,
        position: crate::record::NOWHERE,
        running: true,
        power: None,
        newest_instant: None,
        planned: None,
    });
    PeerReply::Standing(Standing {
        // A host that knows two answers only must not take what is not known for off.
        running: power != PeerPower::Off,
        power: Some(power),
        ..standing
    })
}

/// What this host says of a VM. The host that asks may have no other host to ask, so the VM of `others`, by where they
/// take calls, counts too.
pub(crate) async fn own_power(ports: &Ports, vm: VmId, others: Vec<String>) -> PeerPower {
    let hypervisor = ports.hypervisors.of_vm(vm);
    let look = crate::host::power::look(&*hypervisor, vm);
    let own = match tokio::time::timeout(LOOK, look).await {
        Ok(Power::Off) => PeerPower::Off,
        Ok(Power::Running | Power::Paused | Power::Stalled(_)) => PeerPower::Runs,
        Ok(Power::NotKnown { why }) => PeerPower::NotKnown { why },
        Err(_) => PeerPower::NotKnown {
            why: format!("its process did not answer within {} s", LOOK.as_secs()),
        },
    };
    if own != PeerPower::Off {
        return own;
    }
    let words = others.iter().map(|peer| ask(ports, vm, peer, ABOVE));
    let words = futures_util::future::join_all(words).await;
    let mut all: Vec<PeerPower> = words.into_iter().map(Word::does).collect();
    all.sort_by_key(|power| match power {
        PeerPower::Runs => 0,
        PeerPower::NotKnown { .. } => 1,
        PeerPower::Off => 2,
    });
    all.into_iter().next().unwrap_or(PeerPower::Off)
}

/// Asks the host that takes calls at `peer`.
pub(crate) async fn ask(ports: &Ports, vm: VmId, peer: &str, patience: Duration) -> Word {
    let asked = ports.link.ask(peer, PeerRequest::Standing { vm }, patience).await;
    let seen = |what: String| Seen {
        peer: peer.to_owned(),
        at: ports.clock.now(),
        what,
    };
    match asked {
        Ok(PeerReply::Standing(standing)) => Word::Answered(standing, seen("answered".into())),
        Ok(_) => Word::Unanswered(seen("gave another answer than was asked for".into())),
        Err(NoAnswer::Unanswered { detail }) => Word::Unanswered(seen(format!("did not say: {detail}"))),
        Err(NoAnswer::Unreachable { detail }) => {
            Word::Unreachable(seen(format!("could not be reached: {detail}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_model::{GenerationId, Position};
    use uuid::Uuid;

    use super::*;
    use crate::port::link::PeerIdentity;

    fn seen(what: &str) -> Seen {
        Seen {
            peer: "alpha:8700".into(),
            at: Timestamp(1_700_000_000_000),
            what: what.into(),
        }
    }

    fn says(power: Option<PeerPower>, running: bool) -> Word {
        let standing = Standing {
            mode: ReplicationMode::Primary,
            state: ReplicationState::Replicating,
            position: Position::start(GenerationId(Uuid::nil())),
            running,
            power,
            newest_instant: None,
            planned: None,
        };
        Word::Answered(standing, seen("answered"))
    }

    #[test]
    fn only_off_and_out_of_reach_let_a_second_host_bring_the_vm_up() {
        let not_known = PeerPower::NotKnown {
            why: "QEMU is stopped".into(),
        };
        for (word, outcome) in [
            (says(Some(PeerPower::Off), false), Ok(None)),
            (says(Some(PeerPower::Runs), true), Err(ReturnCode::InvalidState)),
            (says(Some(not_known), true), Err(ReturnCode::Unknown)),
            // From a host that knows two answers only.
            (says(None, false), Ok(None)),
            (says(None, true), Err(ReturnCode::InvalidState)),
            (
                Word::Unanswered(seen("did not say: no entry")),
                Err(ReturnCode::Unknown),
            ),
            (
                Word::Unreachable(seen("could not be reached: connection refused")),
                Ok(Some(
                    "alpha:8700 could not be reached: connection refused (at 22:13:20 UTC); its VM may still run",
                )),
            ),
        ] {
            let decided = may_bring_up(&word).map_err(|e| e.code);
            assert_eq!(decided, outcome.map(|t| t.map(ToOwned::to_owned)), "{word:?}");
        }
    }

    #[test]
    fn a_peer_is_known_by_the_name_or_the_address_it_was_given() {
        let peer = PeerIdentity {
            names: vec!["beta.example.org".into(), "beta".into()],
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            key: None,
        };
        for its in [
            "beta:8700",
            "BETA.example.org.:8700",
            "10.0.0.2:8700",
            "[fd00:0::2]:8700",
        ] {
            assert!(peer.is_host_of(its), "{its}");
        }
        for another in [
            "alpha:8700",
            "10.0.0.20:8700",
            "[fd00::3]:8700",
            "example.org:8700",
            "",
        ] {
            assert!(!peer.is_host_of(another), "{another}");
        }
        let wild = PeerIdentity {
            names: vec!["*.example.org".into()],
            addresses: Vec::new(),
            key: None,
        };
        assert!(wild.is_host_of("Beta.example.org:8700"));
        for another in [
            "example.org:8700",
            "a.b.example.org:8700",
            "org",
            "*.example.com:1",
        ] {
            assert!(!wild.is_host_of(another), "{another}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_seen_and_when() {
        let refused = may_bring_up(&Word::Unanswered(seen("did not say: no entry"))).unwrap_err();
        assert!(
            refused
                .message
                .contains("alpha:8700 did not say: no entry (at 22:13:20 UTC)")
        );
        assert_eq!(refused.hint, Some(hint::Planned::ForceWhenOff.into()));
    }
}
