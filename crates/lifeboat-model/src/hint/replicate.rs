//! Hints about relationships: with the peer, and with a third host.

use super::hints;
use crate::words;

hints! {
    /// What to do with the replication of the VM.
    Replicate {
        /// Enable it.
        Enable = "enable-replication",
        /// Enable it again, on the primary.
        EnableAgain = "enable-replication-again",
        /// Remove it first.
        Remove = "remove-replication",
        /// Remove it on the other host first.
        RemoveThere = "remove-replication-there",
        /// Do this on the primary host.
        OnPrimary = "ask-on-primary",
        /// Do this on the replica's host.
        OnReplicaHost = "ask-on-replica-host",
        /// Resume it first.
        Resume = "resume-replication",
        /// Wait until it replicates, or resume it.
        AwaitOrResume = "await-or-resume-replication",
        /// End the error first; with the primary lost, fail over on the replica's host.
        EndError = "end-error-or-fail-over",
        /// Make the other host's VM a replica there first.
        BecomeReplicaThere = "become-replica-there",
        /// Name the host that has, or is to have, the replica.
        NameReplicaHost = "name-replica-host",
        /// Name the same replica's host by its new address; for another host enable replication there.
        NameSameHost = "name-same-host",
        /// Put the VM's description back, or remove the replication.
        DescribeOrRemove {
            /// A file that would do, with its directory.
            #[serde(deserialize_with = "words::text")]
            file: String,
        } = "describe-or-remove",
        /// Put the disks that are gone back into the description, or replicate without them.
        DescribeOrExclude {
            /// The disks that are left; with none the replication can only be removed.
            #[serde(deserialize_with = "words::texts")]
            disks: Vec<String>,
        } = "describe-or-exclude-disks",
        /// Look at the recovery points; when all is well, release them.
        ReleasePoints = "look-and-release-points",
    }
}

hints! {
    /// What to do about a copy, or about two copies that differ.
    Copies {
        /// Start the initial copy.
        StartCopy = "start-initial-copy",
        /// Wait for the initial copy: there is no recovery point before.
        AwaitCopy = "await-initial-copy",
        /// Wait for the initial copy, or cancel its job.
        AwaitOrCancelCopy = "await-or-cancel-copy",
        /// The same, where the job is on the primary host.
        AwaitOrCancelCopyThere = "await-or-cancel-copy-there",
        /// Cancel the copy and use what the replica's host has, or remove that there.
        UseSeedOrRemove = "use-seed-or-remove",
        /// Start from the copy that the replica's host has.
        UseSeed = "use-seed",
        /// Export the initial copy on the primary host.
        Export = "export-copy",
        /// Import the copy that comes on media.
        Import = "import-copy",
        /// Update the other host, or copy over the network.
        UpdateOrUseNetwork = "update-peer-or-use-network",
        /// Resynchronize: the changes since the last instant are not known.
        Resync = "resynchronize",
        /// Compare the copies, on the primary.
        CompareOnPrimary = "compare-on-primary",
        /// Wait for the resynchronization.
        AwaitResync = "await-resync",
        /// Wait for the resynchronization, or cancel it.
        AwaitOrCancelResync = "await-or-cancel-resync",
        /// Wait for the comparison with the primary; if that is gone for good, give up what was received.
        AwaitOrForget = "await-or-forget",
        /// Replicate the VM here again, with this as the seed, or delete it.
        SeedOrDelete {
            /// Directory of a replica that no relationship uses.
            #[serde(deserialize_with = "words::text")]
            dir: String,
        } = "use-as-seed-or-delete",
    }
}

hints! {
    /// What to do with the relationship with a third host.
    Extend {
        /// Extend the replica to a third host.
        Extend = "extend-replication",
        /// Remove the extended relationship first; after a commit this host can also go on as the primary.
        RemoveOrContinue = "remove-extended-or-continue",
        /// Remove the extended relationship first.
        Remove = "remove-extended",
        /// Name one of several outgoing relationships.
        NameOne = "name-relationship",
        /// Remove the extended relationship and extend it again.
        RemoveAndExtend = "remove-and-extend",
        /// Extend it again, on the host that is the replica's now.
        ExtendThere {
            /// That host.
            #[serde(deserialize_with = "words::text")]
            on: String,
            /// The third host.
            #[serde(deserialize_with = "words::text")]
            third: String,
        } = "extend-there",
        /// Start the copy over the network: media and seeds are for the first relationship.
        UseNetwork = "start-extended-by-network",
        /// Wait for the initial copy; or revert the failover.
        AwaitOrRevert = "await-copy-or-revert",
    }
}
