//! Who else on this host could change or read a file, by its owner and its permissions: rules for what this program depends
//! on. Files are looked at by the code that opens them; access lists beyond the permissions are not looked at.

/// Owner and permissions of a file, and the user that asks (effective user ids, permission bits as `chmod` takes them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// User id of the owner.
    pub owner: u32,
    /// Permission bits, as `chmod` takes them; other bits of a mode do not matter.
    pub mode: u32,
    /// This program's user.
    pub us: u32,
}

impl Standing {
    /// Whether it belongs to this program's user or to root, who can change everything anyway.
    #[must_use]
    pub fn is_ours_or_roots(&self) -> bool {
        self.owner == self.us || self.owner == 0
    }

    /// Whether another user than the owner and root may write to it, by its group or because every user may.
    #[must_use]
    pub fn others_write(&self) -> bool {
        self.mode & 0o022 != 0
    }

    /// Whether every user may write to it. In a sticky directory that is less: users cannot replace each other's files.
    #[must_use]
    pub fn every_user_writes(&self) -> bool {
        self.mode & 0o002 != 0
    }

    /// Whether a private key in it is open to more than its owner. As ssh judges keys, one that belongs to another user may be
    /// read by a group, which is how keys are handed to a daemon that is not root; and no key may be read by every user.
    #[must_use]
    pub fn exposes_key(&self) -> bool {
        let closed = if self.owner == self.us { 0o077 } else { 0o027 };
        self.mode & closed != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_for_one_user() {
        let exposed = |owner, mode, us| Standing { owner, mode, us }.exposes_key();
        for mode in [0o600, 0o400, 0o700, 0o100_600] {
            assert!(!exposed(0, mode, 0) && !exposed(990, mode, 990), "{mode:o}");
        }
        for mode in [0o640, 0o620, 0o604, 0o602, 0o644, 0o610, 0o601, 0o777] {
            assert!(exposed(0, mode, 0), "{mode:o}");
        }
        // Of root, for a group that the daemon is in.
        assert!(!exposed(0, 0o640, 990));
        for mode in [0o644, 0o660, 0o602] {
            assert!(exposed(0, mode, 990), "{mode:o}");
        }
    }

    #[test]
    fn directories_are_written_by_one_user() {
        let at = |owner, mode| Standing { owner, mode, us: 990 };
        for mode in [0o700, 0o755, 0o750, 0o1755] {
            assert!(!at(990, mode).others_write(), "{mode:o}");
        }
        for mode in [0o777, 0o1777, 0o770, 0o702, 0o2775] {
            assert!(at(990, mode).others_write(), "{mode:o}");
        }
        assert!(at(990, 0o1777).every_user_writes() && !at(990, 0o775).every_user_writes());
        assert!(at(0, 0o755).is_ours_or_roots() && at(990, 0o755).is_ours_or_roots());
        assert!(!at(1000, 0o755).is_ours_or_roots());
    }
}
