//! The enumerations of the management API with their documented numbers (`Msvm_ReplicationRelationship`,
//! `Msvm_ConcreteJob`). Numbers are part of the contract and never change; names follow the WMI pages.

use serde::{Deserialize, Serialize};

macro_rules! api_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u16)]
        pub enum $name { $($(#[$vdoc])* $variant = $number),+ }

        impl $name {
            /// Every value, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The API's number.
            #[must_use]
            pub const fn number(self) -> u16 { self as u16 }

            /// The value with this number.
            #[must_use]
            pub fn from_number(n: u16) -> Option<Self> {
                match n { $($number => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => stringify!($variant)),+ })
            }
        }
    };
}

api_enum! {
    /// `Msvm_ReplicationRelationship.ReplicationState`, 0 to 21.
    ReplicationState {
        /// Not replicated.
        Disabled = 0,
        /// Relationship made, initial copy not started.
        ReadyForReplication = 1,
        /// Initial copy under way (primary), or awaited and received (replica).
        WaitingToCompleteInitialReplication = 2,
        /// Cycles flow.
        Replicating = 3,
        /// Prepared for planned failover; the primary is locked off.
        SyncedReplicationComplete = 4,
        /// Failed over, to be reverted or committed.
        Recovered = 5,
        /// Failover committed.
        Committed = 6,
        /// Paused by a person.
        Suspended = 7,
        /// An error that retries have not cured.
        Critical = 8,
        /// The baseline is in doubt; resynchronization is required.
        WaitingToStartResynchronization = 9,
        /// Both copies are compared, and what differs is sent.
        Resynchronizing = 10,
        /// Resynchronization paused.
        ResynchronizationSuspended = 11,
        /// A failover is being carried out.
        FailoverInProgress = 12,
        /// Failback by an external provider under way.
        FailbackInProgress = 13,
        /// Failback by an external provider done.
        FailbackComplete = 14,
        /// Disk set being updated.
        DiskUpdateInProgress = 15,
        /// Disk set update failed.
        DiskUpdateCritical = 16,
        /// The API's number for a state that is not known; no relationship here has it.
        Unknown = 17,
        /// Repurposing under way.
        RepurposeReplicationInProgress = 18,
        /// Prepared for synchronous replication (collections).
        PreparedForSyncReplication = 19,
        /// Prepared for group reverse replication (collections).
        PreparedForGroupReverseReplication = 20,
        /// Drill of a collection under way.
        FiredrillInProgress = 21,
    }
}

api_enum! {
    /// `Msvm_ComputerSystem.ReplicationMode`.
    ReplicationMode {
        /// Not replicated.
        None = 0,
        /// The VM runs here and is sent elsewhere.
        Primary = 1,
        /// The copy.
        Replica = 2,
        /// A VM made by a test failover.
        TestReplica = 3,
        /// The copy of a copy.
        ExtendedReplica = 4,
    }
}

api_enum! {
    /// `ReplicationHealth`.
    ReplicationHealth {
        /// Not replicated.
        NotApplicable = 0,
        /// Nothing needs anybody.
        Ok = 1,
        /// Needs a look.
        Warning = 2,
        /// Needs a person, or space, or a network, now.
        Critical = 3,
    }
}

api_enum! {
    /// `FailedOverReplicationType` and `LastReplicationType`.
    FailedOverReplicationType {
        /// There was no failover or cycle, or its consistency is not known.
        None = 0,
        /// Crash-consistent point.
        Regular = 1,
        /// Application-consistent point.
        ApplicationConsistent = 2,
        /// Point of a planned failover.
        Planned = 3,
    }
}

api_enum! {
    /// `Msvm_ConcreteJob.JobState`.
    JobState {
        /// Recorded, not started.
        New = 2,
        /// About to run.
        Starting = 3,
        /// It is being carried out.
        Running = 4,
        /// Stopped for a while; no job here has it.
        Suspended = 5,
        /// Being cancelled.
        ShuttingDown = 6,
        /// Ended well.
        Completed = 7,
        /// Ended by request.
        Terminated = 8,
        /// Ended by force.
        Killed = 9,
        /// Ended by an error.
        Exception = 10,
    }
}

impl JobState {
    /// Whether the job has ended, well or not.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Terminated | Self::Killed | Self::Exception
        )
    }
}

api_enum! {
    /// `Msvm_ConcreteJob.JobType`, the numbers of the replication service.
    JobType {
        /// ModifyServiceSettings and the authorization entries.
        ServerSettings = 90,
        /// CreateReplicationRelationship.
        CreateRelationship = 91,
        /// ModifyReplicationSettings.
        ModifySettings = 92,
        /// RemoveReplicationRelationship.
        RemoveRelationship = 93,
        /// StartReplication over the network.
        StartReplication = 94,
        /// ImportInitialReplica.
        ImportCopy = 95,
        /// RequestReplicationStateChange.
        StateChange = 96,
        /// InitiateFailover.
        Failover = 97,
        /// RevertFailover.
        RevertFailover = 98,
        /// CommitFailover.
        CommitFailover = 99,
        /// Preparing a planned failover, and the whole of it when one command asked for it.
        PlannedFailover = 100,
        /// Cancelling a planned failover.
        CancelPlanned = 101,
        /// TestReplicaSystem.
        TestFailover = 102,
        /// Removing the test VM.
        RemoveTest = 103,
        /// ReverseReplicationRelationship.
        Reverse = 104,
        /// Sending a delta.
        SendDelta = 105,
        /// Receiving a delta.
        ReceiveDelta = 106,
        /// Resynchronize of a primary.
        Resynchronize = 107,
        /// Stopping the initial copy.
        StopInitialReplication = 109,
        /// Giving a resynchronization up.
        StopResync = 110,
        /// Verifying a replica's files (`Consistency Checker`).
        Scrub = 113,
        /// TestReplicationConnection.
        TestConnection = 115,
        /// Sending the initial copy.
        SendInitial = 116,
        /// StartReplication from a copy that is on the replica's host.
        StartSeeded = 117,
        /// StartReplication to a directory.
        StartExport = 118,
        /// Resynchronize of an extended relationship.
        ResyncExtended = 121,
        /// ChangeReplicationModeToPrimary.
        ModeToPrimary = 123,
    }
}

/// Return codes of the replication methods; 0 is success and 4096 "job started".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u32)]
pub enum ReturnCode {
    /// Carried out when the call returns.
    Completed = 0,
    /// A job carries on.
    JobStarted = 4096,
    /// Any failure that none of the other codes fits.
    Failed = 32768,
    /// Not allowed.
    AccessDenied = 32769,
    /// Not supported.
    NotSupported = 32770,
    /// Whether it can be done, or was done, is not known.
    Unknown = 32771,
    /// Timed out.
    Timeout = 32772,
    /// Bad parameter.
    InvalidParameter = 32773,
    /// In use.
    InUse = 32774,
    /// Not allowed in the current state.
    InvalidState = 32775,
    /// Wrong type.
    IncorrectType = 32776,
    /// Not available.
    Unavailable = 32777,
    /// Out of memory.
    OutOfMemory = 32778,
    /// File not found.
    FileNotFound = 32779,
}

impl ReturnCode {
    /// The API's number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_api() {
        assert_eq!(ReplicationState::ALL.len(), 22);
        for (n, s) in (0u16..).zip(ReplicationState::ALL) {
            assert_eq!(s.number(), n);
            assert_eq!(ReplicationState::from_number(n), Some(*s));
        }
        assert_eq!(ReplicationState::Recovered.number(), 5);
        assert_eq!(JobType::RevertFailover.number(), 98);
        assert_eq!(JobState::from_number(11), None);
        assert_eq!(ReturnCode::InvalidState.number(), 32775);
    }
}
