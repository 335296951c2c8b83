//! What can be wrong with a relationship or a host, as kinds: two problems are the same when kind and subject are, whatever the
//! message says. What is told of one in detail is its message's matter, what can be done a [`Hint`]'s.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::api::ReplicationHealth as Health;
use crate::hint::{self, Hint, Note};

/// Declares the kinds, each with its name in documents, records and metrics.
macro_rules! kinds {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $kind:ident = $code:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $code)] $kind,)+
            /// Recorded before problems had kinds, or by a release that knows more of them.
            #[default]
            #[serde(rename = "unspecified", other)]
            Unspecified,
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)+ Self::Unspecified];

            /// Whether it is not known what kind it is.
            #[must_use]
            pub fn is_unspecified(&self) -> bool {
                *self == Self::Unspecified
            }

            /// Its name: lower case, with hyphens. It stays what it is.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    Self::Unspecified => "unspecified",
                    $(Self::$kind => $code,)+
                }
            }
        }
    };
}

kinds! {
    /// What is wrong.
    ProblemKind {
        /// The peer, its host or the network between is away.
        PeerUnreachable = "peer-unreachable",
        /// A certificate of either side is not accepted.
        PeerUntrusted = "peer-untrusted",
        /// The peer answers with another protocol.
        PeerProtocol = "peer-protocol",
        /// The peer is not enabled as a replica server.
        PeerNotEnabled = "peer-not-enabled",
        /// The peer has no authorization entry for this host.
        PeerNotAuthorized = "peer-not-authorized",
        /// The peer has no replica of the VM.
        PeerNoReplica = "peer-no-replica",
        /// The replica is failed over.
        PeerFailedOver = "peer-failed-over",
        /// The replica was committed.
        PeerNewerGeneration = "peer-newer-generation",
        /// The replica is suspended.
        PeerSuspended = "peer-suspended",
        /// The VM runs on the peer.
        PeerRunning = "peer-running",
        /// The peer is in a state in which it cannot do it.
        PeerNotNow = "peer-not-now",
        /// The log does not continue what the peer has.
        PeerOutOfSequence = "peer-out-of-sequence",
        /// The peer has logs to apply before it takes more.
        PeerBacklog = "peer-backlog",
        /// The peer has no room.
        PeerNoSpace = "peer-no-space",
        /// What was sent contradicts what the peer has or allows.
        PeerConflict = "peer-conflict",
        /// The peer knows this host by another key.
        PeerOtherKey = "peer-other-key",
        /// Something failed on the peer.
        PeerFailed = "peer-failed",
        /// Nothing was heard from the peer.
        PeerSilent = "peer-silent",
        /// The peer acknowledges nothing of what was sent.
        NothingAcknowledged = "nothing-acknowledged",
        /// The peer answers, and no change arrives.
        NothingArrives = "nothing-arrives",
        /// Replication is held on the primary.
        HeldOnPrimary = "held-on-primary",
        /// Nothing was sent or received for more than an hour.
        Idle = "idle",
        /// Cycles were missed.
        CyclesMissed = "cycles-missed",
        /// A cycle takes longer than the interval.
        CyclesSlow = "cycles-slow",
        /// The catalog cannot be written or read.
        Catalog = "catalog",
        /// The VM's images or its description cannot be used for a cycle.
        LaunchUnknown = "launch-unknown",
        /// Changes cannot be captured.
        Capture = "capture",
        /// The spool, in which logs wait.
        Spool = "spool",
        /// A medium.
        Media = "media",
        /// A log cannot be written.
        Encode = "encode",
        /// Change tracking was lost.
        TrackingLost = "tracking-lost",
        /// The disks of a VM that is off were not closed in order.
        DisksNotClosed = "disks-not-closed",
        /// Images of a VM that is off were changed.
        ImagesChanged = "images-changed",
        /// It cannot be told whether images of a VM that is off were changed.
        ImagesNotVerified = "images-not-verified",
        /// A task of the program ended by a fault of it.
        ProgramFault = "program-fault",
        /// The replica store, in a way that has no kind of its own.
        Store = "store",
        /// There is no replica in its directory.
        ReplicaMissing = "replica-missing",
        /// No room on this host.
        NoSpace = "no-space",
        /// An authorization entry does not allow as much.
        OverQuota = "over-quota",
        /// A log that was received is damaged or does not fit.
        BadLog = "bad-log",
        /// A file of the replica is damaged.
        Damaged = "damaged",
        /// Files are locked, because the key of their directory is missing.
        Locked = "locked",
        /// Writing failed.
        WriteFailed = "write-failed",
        /// A file was lost.
        FileLost = "file-lost",
        /// A file was set aside.
        FileSetAside = "file-set-aside",
        /// A file was built again.
        FileRebuilt = "file-rebuilt",
        /// Storage does not answer.
        StorageSilent = "storage-silent",
        /// Logs wait to be applied here.
        Backlog = "backlog",
        /// Verifying the files takes longer than it should.
        ScrubSlow = "scrub-slow",
        /// The guest was stopped by its storage or its watchdog.
        GuestStalled = "guest-stalled",
        /// It is not known whether the VM runs.
        PowerNotKnown = "power-not-known",
        /// The hypervisor does not take the VM's machine.
        NotDefined = "not-defined",
        /// Others use the disks for a while, and the next cycle waits for them.
        DisksBusy = "disks-busy",
        /// The VM did not start.
        NotStarted = "not-started",
        /// The VM could not be turned off.
        NotTurnedOff = "not-turned-off",
        /// A failover's disks cannot be deleted.
        FailoverDisksKept = "failover-disks-kept",
        /// A failover cannot be reverted.
        NotReverted = "not-reverted",
        /// A failover cannot be committed.
        NotCommitted = "not-committed",
        /// Committed disks are not merged.
        NotMerged = "not-merged",
        /// A test cannot be removed.
        TestNotRemoved = "test-not-removed",
        /// Replication is not reversed.
        NotReversed = "not-reversed",
        /// Taking over from a prepared primary waits.
        TakingOverWaits = "taking-over-waits",
        /// The clock of this host was set.
        ClockJumped = "clock-jumped",
        /// The clock of the peer was set.
        PeerClockJumped = "peer-clock-jumped",
        /// A certificate ends soon.
        CertificateEnds = "certificate-ends",
        /// A certificate has ended.
        CertificateEnded = "certificate-ended",
        /// A certificate is not valid yet.
        CertificateNotYet = "certificate-not-yet",
        /// What a certificate's file holds now is not used.
        CertificateUnused = "certificate-unused",
        /// The next certificate cannot be used.
        NextCertificateUnusable = "next-certificate-unusable",
        /// This host's own certificate is revoked.
        OwnCertificateRevoked = "own-certificate-revoked",
        /// What the revocation list's file holds now is not used.
        RevocationListUnused = "revocation-list-unused",
        /// A host was shown another key than the one it knows.
        OtherKey = "other-key",
        /// The next key of this host is known to all hosts, or not yet.
        NextKey = "next-key",
        /// This host takes nothing from the primary.
        NotReceiving = "not-receiving",
        /// The VM's description is gone.
        DescriptionGone = "description-gone",
        /// Replicated disks are not in the VM's description.
        DisksGone = "disks-gone",
        /// Recovery points are held.
        PointsHeld = "points-held",
        /// Something that was under way at the start of the daemon is gone on with.
        Resumed = "resumed",
        /// The last application-consistent point came out crash-consistent.
        ApplicationFailed = "application-failed",
        /// The VM would not start on the replica's host.
        Preflight = "preflight",
        /// Abandoned data is kept.
        AbandonedKept = "abandoned-kept",
        /// Replication is in error.
        InError = "in-error",
        /// A resynchronization is required.
        ResyncRequired = "resync-required",
        /// A resynchronization is under way.
        Resynchronizing = "resynchronizing",
        /// A resynchronization is suspended.
        ResyncSuspended = "resync-suspended",
        /// The initial copy is not complete.
        CopyIncomplete = "copy-incomplete",
        /// The initial copy waits to be imported.
        AwaitsImport = "awaits-import",
        /// Replication is suspended.
        Suspended = "suspended",
        /// The VM is prepared for a planned failover.
        Prepared = "prepared",
        /// Failed over and not reversed.
        Unprotected = "unprotected",
        /// The third host gets nothing while its replica is failed over.
        ExtendedWaits = "extended-waits",
        /// A storage location cannot be used.
        LocationUnusable = "location-unusable",
        /// Replicas that no relationship uses.
        Leftovers = "leftovers",
        /// Requests wait for a second person.
        RequestsWait = "requests-wait",
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that was looked at and found to need attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub health: Health,
    /// What it is.
    #[serde(default)]
    pub kind: ProblemKind,
    /// Which of several of the kind: a disk, a file, a host. `None`: there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What was seen, and since when, as a sentence.
    pub text: String,
    /// What can be done.
    #[serde(
        default,
        deserialize_with = "hint::told",
        skip_serializing_if = "Option::is_none"
    )]
    pub hint: Option<Hint>,
}

impl Finding {
    /// Something with this effect on the health.
    #[must_use]
    pub fn new(health: Health, kind: ProblemKind, note: impl Into<Note>) -> Self {
        let Note { text, hint } = note.into();
        Self {
            health,
            kind,
            subject: None,
            text,
            hint,
        }
    }

    /// Needs attention; data still arrives.
    #[must_use]
    pub fn warning(kind: ProblemKind, note: impl Into<Note>) -> Self {
        Self::new(Health::Warning, kind, note)
    }

    /// Data is in danger, or does not arrive.
    #[must_use]
    pub fn critical(kind: ProblemKind, note: impl Into<Note>) -> Self {
        Self::new(Health::Critical, kind, note)
    }

    /// The same of one of several.
    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> Self {
        Self {
            subject: Some(subject.into()),
            ..self
        }
    }

    /// The same with another effect on the health.
    #[must_use]
    pub fn only(self, health: Health) -> Self {
        Self { health, ..self }
    }

    /// Whether both speak of the same thing, however they say it.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        (self.kind, &self.subject) == (other.kind, &other.subject)
    }

    /// What is told of it.
    #[must_use]
    pub fn note(&self) -> Note {
        Note {
            text: self.text.clone(),
            hint: self.hint.clone(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_written_by_their_names_and_read_again() {
        for kind in ProblemKind::ALL {
            let name = kind.as_str();
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
            assert_eq!(serde_json::from_value::<ProblemKind>(name.into()).unwrap(), *kind);
            let plain = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(name.chars().all(plain), "{name}");
        }
        let later = serde_json::from_value::<ProblemKind>("made-up-later".into()).unwrap();
        assert_eq!(later, ProblemKind::Unspecified);
    }

    #[test]
    fn the_same_is_what_has_the_same_kind_and_subject() {
        let one = Finding::warning(ProblemKind::Damaged, "a is damaged").about("a");
        assert!(one.same(&Finding::critical(ProblemKind::Damaged, "a cannot be repaired").about("a")));
        assert!(!one.same(&Finding::warning(ProblemKind::Damaged, "a is damaged").about("b")));
        assert!(!one.same(&Finding::warning(ProblemKind::Locked, "a is damaged").about("a")));
    }
}
