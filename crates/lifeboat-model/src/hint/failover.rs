//! Hints about failovers, tests and planned failovers, and about the recovery points that they start from.

use super::hints;
use crate::words;

hints! {
    /// What to do about a failover.
    Failover {
        /// Start one.
        Start = "start-failover",
        /// Commit it.
        Commit = "commit-failover",
        /// Revert or commit it.
        RevertOrCommit = "revert-or-commit",
        /// Nothing: it is committed, which cannot be undone.
        Committed = "failover-is-committed",
        /// Wait for its end: a failover can be reverted afterwards.
        AwaitEnd = "await-end-and-revert",
        /// Use another recovery point.
        UsePoint {
            /// Its id.
            #[serde(deserialize_with = "words::text")]
            point: String,
        } = "use-point",
        /// Use a sealed point, or wait for the end of the resynchronization.
        UseSealedPoint = "use-sealed-point-or-wait",
        /// Free some room, or use a sealed point, which takes next to none.
        FreeRoom = "free-room-or-use-sealed-point",
        /// Choose points by their ids, not by their times.
        ChooseById = "choose-points-by-id",
        /// Put the file back, or replicate the VM again: no point can be used.
        RestoreFile = "restore-file-or-replicate-again",
        /// Put the file back, or revert and choose another point.
        RestoreFileOrRevert = "restore-file-or-revert",
        /// Stop the VM, or revert and allow that it is turned off.
        StopOrForce = "stop-or-force-revert",
        /// Commit the failover disks, which may be the last good copy, or revert by force.
        CommitOrForce = "commit-or-force-revert",
        /// Fail over and commit, so that the VM has its own images again; then remove the replication.
        KeepImages = "commit-then-remove",
        /// End the test first.
        EndTest = "end-test",
        /// End the test of another VM first.
        EndTestOf {
            /// Name of the replica that is tested.
            #[serde(deserialize_with = "words::text")]
            replica: String,
        } = "end-test-of",
        /// The VM that was asked about is the test: end it by the name of its replica.
        EndTestByReplica = "end-test-by-replica",
        /// Start a test.
        StartTest = "start-test",
        /// Give the VM that has the name of the test another one.
        RenameOtherVm = "rename-other-vm",
    }
}

hints! {
    /// What to do about a planned failover, or about a VM that may run on the other host.
    Planned {
        /// Move the VM by a planned failover; or bring up a second copy by force.
        PlanOrForce = "plan-or-force",
        /// Look at the other host; ask again by force when it is certain that the VM does not run there.
        ForceWhenOff = "force-when-off-there",
        /// Revert or stop it on the other host; or ask again by force when it is certain that it does not run there.
        RevertThereOrForce = "revert-there-or-force",
        /// Go on on the replica's host, or cancel the planned failover.
        GoOnOrCancelPlanned = "go-on-or-cancel-planned",
        /// Cancel the planned failover first.
        CancelPlanned = "cancel-planned",
        /// Cancel it by force, when it is certain that the VM does not run on the other host.
        ForceCancelPlanned = "force-cancel-planned",
        /// Cancel it, let the change be replicated, and begin again.
        RepeatPlanned = "repeat-planned",
        /// Resynchronize, and begin the planned failover again; or start the VM here.
        ResyncAndRepeatPlanned = "resync-and-repeat-planned",
        /// Ask for the whole planned failover here, instead of its preparation.
        WholePlanned = "ask-for-whole-planned",
        /// Start the planned failover on the primary host.
        PlanOnPrimary = "plan-on-primary",
        /// Start the planned failover on the replica's host.
        PlanOnReplicaHost = "plan-on-replica-host",
        /// The same; or allow the primary to start VMs there; or move the VM without starting it.
        PlanThereOrAllow = "plan-there-or-allow-start",
        /// Name the address of the old primary.
        NamePeer = "name-reverse-peer",
        /// Revert the failover on the replica's host, give this copy to it there, or separate the two for good.
        DecideSplit = "decide-split",
    }
}
