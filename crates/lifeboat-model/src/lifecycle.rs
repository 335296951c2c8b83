//! The state machine of a relationship: which operation and which happening leads where, by the documented tables
//! of both sides. A pure function over (mode, state, event); carrying it out is the engine's.
//!
//! ```text
//! primary:  0 ─create→ 1 ─start→ 2 ─copied→ 3 ⇄ 7 (suspend, resume)      3 ⇄ 8 (send error, cured)
//!                      ↑─cancel──┘          3,7,8 ─tracking lost→ 9
//! replica:  0 ─offer→ 2 ─first point→ 3 ⇄ 7        3,7,8 ─failover→ 12 → 5 ─commit→ 6
//!                                     ↑──────────── revert, failover failed ──┘
//! ```
//!
//! The VM of a test failover has mode 3 and state 0: its copy is sent nowhere and receives nothing, and no event applies
//! to it. What the documents of the API leave open, this is the choice; its replica's state does not change either.

use crate::api::{ReplicationMode as Mode, ReplicationState as State};
use crate::hint::{Copies, Failover, Hint, Look, Planned, Replicate};

/// What is asked for or what has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// CreateReplicationRelationship (primary).
    Create,
    /// StartReplication (primary).
    StartCopy,
    /// Initial copy cancelled (primary).
    CancelCopy,
    /// The initial copy and the cycle that closes it are on the replica (primary), or sealed (replica).
    CopyFinished,
    /// RequestReplicationStateChange to 7.
    Suspend,
    /// RequestReplicationStateChange to 3.
    Resume,
    /// A send or receive error that retries have not cured.
    Fault,
    /// Data flows again.
    Cured,
    /// The baseline is in doubt (primary).
    TrackingLost,
    /// The exported copy is complete; cycles begin and wait on the replica for the import (primary).
    ExportFinished,
    /// Everything up to the shutdown is on the replica; the VM is locked off (primary).
    Prepared,
    /// Resynchronize, at a later time (primary). Until then everything goes on as it is: the original stops replicating
    /// at once, which would cost days of protection.
    ScheduleResync,
    /// Resynchronize, now (primary).
    StartResync,
    /// RequestReplicationStateChange to 9: the resynchronization is given up (primary).
    CancelResync,
    /// ModifyReplicationSettings (primary).
    Modify,
    /// The two copies are equal again, and cycles flow (both).
    ResyncFinished,
    /// The primary compares and sends what differs (replica).
    PeerResyncs,
    /// RemoveReplicationRelationship.
    Remove,
    /// InitiateFailover (replica).
    InitiateFailover,
    /// The failover disks are there (replica).
    FailoverReady,
    /// The failover could not be made and was undone; the payload is the state before it (replica).
    FailoverUndone(State),
    /// RevertFailover (replica); the payload is the state before the failover.
    Revert(State),
    /// CommitFailover (replica).
    Commit,
}

/// The event is not allowed in this mode and state: the API's 32775.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not possible while replication is {state} ({}) in mode {mode}", state.number())]
pub struct NotNow {
    /// Role of this side.
    pub mode: Mode,
    /// State of this side.
    pub state: State,
    /// What to do instead.
    pub hint: Hint,
}

/// Where the event leads.
pub fn step(mode: Mode, state: State, event: Event) -> Result<State, NotNow> {
    let next = match mode {
        Mode::None => {
            (state == State::Disabled && event == Event::Create).then_some(State::ReadyForReplication)
        }
        Mode::Primary => primary(state, event),
        Mode::Replica | Mode::ExtendedReplica => replica(state, event),
        Mode::TestReplica => None,
    };
    next.ok_or(NotNow {
        mode,
        state,
        hint: instead(mode, state, event),
    })
}

fn primary(state: State, event: Event) -> Option<State> {
    use State as S;
    let established = established(state);
    match event {
        Event::StartCopy => {
            (state == S::ReadyForReplication).then_some(S::WaitingToCompleteInitialReplication)
        }
        Event::CancelCopy => matches!(
            state,
            S::ReadyForReplication | S::WaitingToCompleteInitialReplication
        )
        .then_some(S::ReadyForReplication),
        Event::TrackingLost => (established
            || matches!(state, S::Resynchronizing | S::ResynchronizationSuspended))
        .then_some(S::WaitingToStartResynchronization),
        Event::ExportFinished => (state == S::WaitingToCompleteInitialReplication).then_some(S::Replicating),
        Event::Prepared => (state == S::Replicating).then_some(S::SyncedReplicationComplete),
        Event::ScheduleResync => {
            (established || state == S::WaitingToStartResynchronization).then_some(state)
        }
        Event::Modify => (established
            || matches!(
                state,
                S::ReadyForReplication
                    | S::WaitingToCompleteInitialReplication
                    | S::WaitingToStartResynchronization
                    | S::Resynchronizing
                    | S::ResynchronizationSuspended
            ))
        .then_some(state),
        Event::StartResync => (established
            || matches!(
                state,
                S::WaitingToStartResynchronization | S::Resynchronizing | S::ResynchronizationSuspended
            ))
        .then_some(S::Resynchronizing),
        Event::CancelResync => matches!(state, S::Resynchronizing | S::ResynchronizationSuspended)
            .then_some(S::WaitingToStartResynchronization),
        Event::ResyncFinished => (state == S::Resynchronizing).then_some(S::Replicating),
        Event::Suspend if state == S::Resynchronizing => Some(S::ResynchronizationSuspended),
        Event::Suspend if state == S::ResynchronizationSuspended => Some(state),
        Event::Resume if state == S::ResynchronizationSuspended => Some(S::Resynchronizing),
        Event::Resume if state == S::SyncedReplicationComplete => Some(S::Replicating),
        Event::Resume if state == S::Resynchronizing => Some(state),
        Event::CopyFinished | Event::Suspend | Event::Resume | Event::Fault | Event::Cured => {
            flow(state, event)
        }
        Event::Remove => (state != S::Disabled).then_some(S::Disabled),
        Event::Create
        | Event::PeerResyncs
        | Event::InitiateFailover
        | Event::FailoverReady
        | Event::FailoverUndone(_)
        | Event::Revert(_)
        | Event::Commit => None,
    }
}

/// What is the same on both sides: the flow of data, and its pauses and faults.
fn flow(state: State, event: Event) -> Option<State> {
    use State as S;
    let established = established(state);
    match event {
        Event::CopyFinished => (state == S::WaitingToCompleteInitialReplication).then_some(S::Replicating),
        // A paused relationship stays paused; an erring one may be paused too, so that its noise can be stopped.
        Event::Suspend => established.then_some(S::Suspended),
        Event::Resume => established.then_some(S::Replicating),
        Event::Fault if matches!(state, S::Replicating | S::Critical) => Some(S::Critical),
        Event::Cured if matches!(state, S::Replicating | S::Critical) => Some(S::Replicating),
        // A copy goes on by itself when the fault is gone; the health says that it does not move.
        Event::Fault | Event::Cured => {
            matches!(state, S::WaitingToCompleteInitialReplication | S::Resynchronizing).then_some(state)
        }
        Event::Create
        | Event::StartCopy
        | Event::CancelCopy
        | Event::TrackingLost
        | Event::ExportFinished
        | Event::Prepared
        | Event::ScheduleResync
        | Event::StartResync
        | Event::CancelResync
        | Event::Modify
        | Event::ResyncFinished
        | Event::PeerResyncs
        | Event::Remove
        | Event::InitiateFailover
        | Event::FailoverReady
        | Event::FailoverUndone(_)
        | Event::Revert(_)
        | Event::Commit => None,
    }
}

fn established(state: State) -> bool {
    matches!(state, State::Replicating | State::Suspended | State::Critical)
}

fn replica(state: State, event: Event) -> Option<State> {
    use State as S;
    let established = established(state);
    match event {
        Event::CopyFinished | Event::Suspend | Event::Resume | Event::Fault | Event::Cured => {
            flow(state, event)
        }
        Event::InitiateFailover => {
            (established || state == S::Resynchronizing).then_some(S::FailoverInProgress)
        }
        Event::FailoverReady => (state == S::FailoverInProgress).then_some(S::Recovered),
        Event::FailoverUndone(before) => (state == S::FailoverInProgress).then_some(before),
        Event::Revert(before) => (state == S::Recovered).then_some(before),
        Event::Commit => (state == S::Recovered).then_some(S::Committed),
        Event::Remove => {
            (!matches!(state, S::Disabled | S::FailoverInProgress | S::Recovered)).then_some(S::Disabled)
        }
        Event::PeerResyncs => (established && state != S::Suspended || state == S::Resynchronizing)
            .then_some(S::Resynchronizing),
        Event::ResyncFinished => (state == S::Resynchronizing).then_some(S::Replicating),
        Event::Create
        | Event::StartCopy
        | Event::CancelCopy
        | Event::TrackingLost
        | Event::ExportFinished
        | Event::Prepared
        | Event::ScheduleResync
        | Event::StartResync
        | Event::CancelResync
        | Event::Modify => None,
    }
}

/// What changes the role of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// ReverseReplicationRelationship on the side that was failed over and committed; `whole` when the other side's copy
    /// is the last instant of a planned failover, so that no initial copy is needed.
    Reverse {
        /// The other side's copy is a whole instant.
        whole: bool,
    },
    /// The other side of that: an old primary becomes the replica.
    GiveWay {
        /// This copy is a whole instant.
        whole: bool,
    },
    /// RequestReplicationStateChange to 2, by a person.
    BecomeReplica,
    /// ChangeReplicationModeToPrimary: the extended relationship becomes the only one.
    ContinueAlone,
}

/// Where a change of roles leads.
pub fn turn(mode: Mode, state: State, turn: Turn) -> Result<(Mode, State), NotNow> {
    use State as S;
    let next = match (mode, turn) {
        (Mode::Replica, Turn::Reverse { whole }) => (state == S::Committed).then_some((
            Mode::Primary,
            if whole {
                S::Replicating
            } else {
                S::WaitingToCompleteInitialReplication
            },
        )),
        (Mode::Primary | Mode::None, Turn::GiveWay { whole }) => Some((
            Mode::Replica,
            if whole {
                S::Replicating
            } else {
                S::WaitingToCompleteInitialReplication
            },
        )),
        // Made a replica by hand before; it awaits what now comes.
        (Mode::Replica, Turn::GiveWay { .. }) => (state == S::WaitingToCompleteInitialReplication)
            .then_some((Mode::Replica, S::WaitingToCompleteInitialReplication)),
        (Mode::None, Turn::BecomeReplica) => Some((Mode::Replica, S::WaitingToCompleteInitialReplication)),
        (Mode::Primary, Turn::BecomeReplica) => matches!(
            state,
            S::ReadyForReplication
                | S::Replicating
                | S::Suspended
                | S::Critical
                | S::WaitingToStartResynchronization
        )
        .then_some((Mode::Replica, S::WaitingToCompleteInitialReplication)),
        (Mode::Replica, Turn::ContinueAlone) => {
            (state == S::Committed).then_some((Mode::Primary, S::WaitingToCompleteInitialReplication))
        }
        _ => None,
    };
    next.ok_or(NotNow {
        mode,
        state,
        hint: match turn {
            Turn::Reverse { .. } | Turn::ContinueAlone if state == S::Recovered => Failover::Commit.into(),
            Turn::Reverse { .. } | Turn::ContinueAlone => Failover::Start.into(),
            Turn::GiveWay { .. } | Turn::BecomeReplica => Look::Status.into(),
        },
    })
}

/// Which points a test failover may be made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TestPoints {
    /// Every listed one.
    All,
    /// Sealed ones only.
    Sealed,
}

/// Whether a test failover may be started (TestReplicaSystem). The documents leave most states open. A test has a
/// branch of its own and touches no point, so nothing forbids it wherever there are points: in 7 and 8, where an administrator
/// wants to know what the replica is worth before deciding; in 5, beside the failover, to try another point before
/// committing; in 10 from sealed points, which a resynchronization here leaves valid, while cycles may be resync fragments.
/// In 2 there is no point, in 6 the points are gone, and in 12 the failover comes first.
pub fn may_test(mode: Mode, state: State) -> Result<TestPoints, NotNow> {
    use State as S;
    let replica = matches!(mode, Mode::Replica | Mode::ExtendedReplica);
    if replica && matches!(state, S::Replicating | S::Recovered | S::Suspended | S::Critical) {
        return Ok(TestPoints::All);
    }
    if replica && state == S::Resynchronizing {
        return Ok(TestPoints::Sealed);
    }
    Err(NotNow {
        mode,
        state,
        hint: match (mode, state) {
            (Mode::Primary, _) => Replicate::OnReplicaHost.into(),
            (Mode::None, _) => Replicate::Enable.into(),
            (Mode::TestReplica, _) => Failover::EndTestByReplica.into(),
            (_, S::WaitingToCompleteInitialReplication) => Copies::AwaitCopy.into(),
            (_, S::FailoverInProgress) => Look::Jobs.into(),
            (_, S::Committed) => Failover::Committed.into(),
            _ => Look::Status.into(),
        },
    })
}

/// Whether the VM of this side may be started.
#[must_use]
pub fn may_start(mode: Mode, state: State) -> bool {
    match mode {
        Mode::None | Mode::TestReplica => true,
        Mode::Primary => state != State::SyncedReplicationComplete,
        Mode::Replica | Mode::ExtendedReplica => {
            matches!(state, State::Recovered | State::Committed | State::Disabled)
        }
    }
}

fn instead(mode: Mode, state: State, event: Event) -> Hint {
    use State as S;
    let on_replica = matches!(event, Event::InitiateFailover | Event::Revert(_) | Event::Commit);
    match (mode, state) {
        (Mode::None, _) => Replicate::Enable.into(),
        (Mode::TestReplica, _) => Failover::EndTestByReplica.into(),
        (_, S::Disabled) => Replicate::EnableAgain.into(),
        (Mode::Primary, _) if on_replica => Replicate::OnReplicaHost.into(),
        (Mode::Primary, _) if event == Event::Create => Replicate::Remove.into(),
        (Mode::Primary, S::ReadyForReplication) => Copies::StartCopy.into(),
        (Mode::Primary, S::WaitingToCompleteInitialReplication) => Copies::AwaitOrCancelCopy.into(),
        (Mode::Primary, S::WaitingToStartResynchronization) => Copies::Resync.into(),
        (Mode::Primary, S::Resynchronizing | S::ResynchronizationSuspended) => {
            Copies::AwaitOrCancelResync.into()
        }
        (Mode::Primary, S::SyncedReplicationComplete) => Planned::GoOnOrCancelPlanned.into(),
        (Mode::Primary, S::Critical) if event == Event::Prepared => Replicate::EndError.into(),
        (Mode::Primary, S::Suspended) if event == Event::Prepared => Replicate::Resume.into(),
        (Mode::Primary, _) => Look::Status.into(),
        (_, S::WaitingToCompleteInitialReplication) if on_replica => Copies::AwaitCopy.into(),
        (_, S::WaitingToCompleteInitialReplication) => Copies::AwaitOrCancelCopyThere.into(),
        (_, S::FailoverInProgress) => Look::Jobs.into(),
        (_, S::Recovered) => Failover::RevertOrCommit.into(),
        (_, S::Committed) => Failover::Committed.into(),
        _ if of_primary(event) => Replicate::OnPrimary.into(),
        _ if matches!(event, Event::Revert(_) | Event::Commit) => Failover::Start.into(),
        _ => Look::Status.into(),
    }
}

/// Whether only a primary can do this.
fn of_primary(event: Event) -> bool {
    matches!(
        event,
        Event::StartCopy
            | Event::CancelCopy
            | Event::Create
            | Event::TrackingLost
            | Event::ExportFinished
            | Event::Prepared
            | Event::ScheduleResync
            | Event::StartResync
            | Event::CancelResync
            | Event::Modify
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use State as S;

    /// The documented tables, cell by cell: `None` is 32775.
    const PRIMARY: &[(Event, &[(S, S)])] = &[
        (
            Event::StartCopy,
            &[(S::ReadyForReplication, S::WaitingToCompleteInitialReplication)],
        ),
        (
            Event::CopyFinished,
            &[(S::WaitingToCompleteInitialReplication, S::Replicating)],
        ),
        (
            Event::CancelCopy,
            &[
                (S::ReadyForReplication, S::ReadyForReplication),
                (S::WaitingToCompleteInitialReplication, S::ReadyForReplication),
            ],
        ),
        (
            Event::Suspend,
            &[
                (S::Replicating, S::Suspended),
                (S::Suspended, S::Suspended),
                (S::Critical, S::Suspended),
                (S::Resynchronizing, S::ResynchronizationSuspended),
                (S::ResynchronizationSuspended, S::ResynchronizationSuspended),
            ],
        ),
        (
            Event::Resume,
            &[
                (S::Replicating, S::Replicating),
                (S::Suspended, S::Replicating),
                (S::Critical, S::Replicating),
                (S::SyncedReplicationComplete, S::Replicating),
                (S::Resynchronizing, S::Resynchronizing),
                (S::ResynchronizationSuspended, S::Resynchronizing),
            ],
        ),
        (Event::InitiateFailover, &[]),
        (Event::Revert(S::Replicating), &[]),
        (Event::Commit, &[]),
        (Event::Create, &[]),
        (
            Event::Modify,
            &[
                (S::ReadyForReplication, S::ReadyForReplication),
                (
                    S::WaitingToCompleteInitialReplication,
                    S::WaitingToCompleteInitialReplication,
                ),
                (S::Replicating, S::Replicating),
                (S::Suspended, S::Suspended),
                (S::Critical, S::Critical),
                (
                    S::WaitingToStartResynchronization,
                    S::WaitingToStartResynchronization,
                ),
                (S::Resynchronizing, S::Resynchronizing),
                (S::ResynchronizationSuspended, S::ResynchronizationSuspended),
            ],
        ),
        (
            Event::ScheduleResync,
            &[
                (S::Replicating, S::Replicating),
                (S::Suspended, S::Suspended),
                (S::Critical, S::Critical),
                (
                    S::WaitingToStartResynchronization,
                    S::WaitingToStartResynchronization,
                ),
            ],
        ),
    ];
    const REPLICA: &[(Event, &[(S, S)])] = &[
        (Event::StartCopy, &[]),
        (Event::Create, &[]),
        (Event::TrackingLost, &[]),
        (Event::Modify, &[]),
        (Event::ScheduleResync, &[]),
        (
            Event::InitiateFailover,
            &[
                (S::Replicating, S::FailoverInProgress),
                (S::Suspended, S::FailoverInProgress),
                (S::Critical, S::FailoverInProgress),
                (S::Resynchronizing, S::FailoverInProgress),
            ],
        ),
        (Event::Revert(S::Replicating), &[(S::Recovered, S::Replicating)]),
        (Event::Revert(S::Suspended), &[(S::Recovered, S::Suspended)]),
        (Event::Commit, &[(S::Recovered, S::Committed)]),
        (Event::FailoverReady, &[(S::FailoverInProgress, S::Recovered)]),
    ];

    #[test]
    fn transitions_are_those_of_the_tables_and_no_others() {
        for (mode, table) in [
            (Mode::Primary, PRIMARY),
            (Mode::Replica, REPLICA),
            (Mode::ExtendedReplica, REPLICA),
        ] {
            for (event, cells) in table {
                for state in S::ALL {
                    let want = cells.iter().find(|(from, _)| from == state).map(|(_, to)| *to);
                    let got = step(mode, *state, *event);
                    assert_eq!(got.clone().ok(), want, "{mode} {state} {event:?}");
                    if let Err(no) = got {
                        assert!(no.to_string().contains(&state.number().to_string()));
                    }
                }
            }
        }
    }

    #[test]
    fn a_test_needs_points_and_no_failover_under_way() {
        for mode in Mode::ALL {
            for state in S::ALL {
                let want = match (mode, state) {
                    (Mode::Replica | Mode::ExtendedReplica, S::Resynchronizing) => Some(TestPoints::Sealed),
                    (
                        Mode::Replica | Mode::ExtendedReplica,
                        S::Replicating | S::Suspended | S::Critical | S::Recovered,
                    ) => Some(TestPoints::All),
                    _ => None,
                };
                let got = may_test(*mode, *state);
                assert_eq!(got.ok(), want, "{mode} {state}");
            }
        }
    }

    #[test]
    fn a_replica_starts_only_on_a_branch() {
        for state in S::ALL {
            let want = matches!(state, S::Recovered | S::Committed | S::Disabled);
            assert_eq!(may_start(Mode::Replica, *state), want, "{state}");
        }
        assert!(!may_start(Mode::Primary, S::SyncedReplicationComplete));
        assert!(may_start(Mode::Primary, S::Critical));
    }

    #[test]
    fn a_failed_over_replica_cannot_be_removed_by_accident() {
        assert!(step(Mode::Replica, S::Recovered, Event::Remove).is_err());
        assert!(step(Mode::Replica, S::FailoverInProgress, Event::Remove).is_err());
        assert_eq!(step(Mode::Replica, S::Committed, Event::Remove), Ok(S::Disabled));
    }
}
