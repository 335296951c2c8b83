//! Hints about the power of a VM. What each of them does in which state is `power`'s.

use super::hints;

hints! {
    /// What to do with the guest.
    Guest {
        /// Start it.
        Start = "start-vm",
        /// Let it go on where it was stopped.
        Resume = "resume-vm",
        /// Remove what stopped it, then let it go on.
        CureAndResume = "cure-and-resume-vm",
        /// Let it go on, or turn it off.
        ResumeOrTurnOff = "resume-or-turn-off-vm",
        /// Remove what stopped it and let it go on, or turn it off.
        CureAndResumeOrTurnOff = "cure-and-resume-or-turn-off-vm",
        /// Reset it, or turn it off.
        ResetOrTurnOff = "reset-or-turn-off-vm",
        /// Remove what keeps its state from being known, or turn it off.
        CureOrTurnOff = "cure-or-turn-off-vm",
        /// Shut it down.
        ShutDown = "shut-down-vm",
        /// Turn it off.
        TurnOff = "turn-off-vm",
        /// Shut it down in the guest, or ask again and allow that it is turned off.
        ShutDownOrForce = "shut-down-or-force",
        /// Look at the other host; start it here when it is certain that it does not run there.
        StartWhenOff = "start-when-off-there",
        /// Give each of the two disks a file of its own, and restart the daemon.
        SeparateDisks = "separate-disks",
    }
}
