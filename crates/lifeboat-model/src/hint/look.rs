//! Hints to look somewhere: a list, a state, a log or a disk. What to do then is the reader's.

use super::hints;

hints! {
    /// Where to look.
    Look {
        /// At the VMs of this host.
        Vms = "list-vms",
        /// At the VM.
        Vm = "show-vm",
        /// At the network cards of the VM, with their MAC addresses.
        Cards = "show-cards",
        /// At the screen of the VM.
        Console = "open-console",
        /// At the jobs of this host.
        Jobs = "list-jobs",
        /// At the jobs of the other host.
        JobsThere = "list-jobs-there",
        /// At the events of this host: storage or a process of it hangs, if trying again does not help.
        Events = "try-again-or-list-events",
        /// At the replication of the VM.
        Status = "show-replication",
        /// At the recovery points of the VM.
        Points = "list-points",
        /// At the authorization entries of this host.
        Authorization = "list-authorization",
        /// At the requests that wait for a second person.
        Requests = "list-requests",
        /// At the log of the daemon, and then try again.
        Log = "read-log",
        /// At the storage of the daemon's own directory, and then try again.
        StateDirectory = "check-state-directory",
        /// At the storage of the VM's disks, which does not answer.
        VmStorage = "check-vm-storage",
        /// At the disk of the path that the message names; the same can be asked for again once it answers.
        Disk = "check-disk",
        /// At the file systems of the storage locations: one may not be mounted.
        Mounts = "check-mounts",
        /// At the document of the REST interface.
        Document = "read-api-document",
    }
}
