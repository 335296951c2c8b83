//! What the primaries of an authorization entry may take on this host: how many replicas, how large, and which share of the
//! disks the store lets them have. What the numbers mean is the model's.

use crate::host::Host;
use crate::port::link::PeerRefusal;
use lifeboat_model::quota::{OverQuota, Shape};
use lifeboat_model::{AuthorizationEntry, Note, ReplicationSettings, VmId, hint};

pub(crate) fn refused(why: &OverQuota) -> PeerRefusal {
    PeerRefusal::Conflict {
        detail: Note::new(why.to_string(), hint::Trust::RaiseQuotaThere).into(),
    }
}

/// What of a replica counts.
pub(crate) fn shape(sizes: impl Iterator<Item = u64>, settings: &ReplicationSettings) -> Shape {
    Shape {
        disk_bytes: sizes.max().unwrap_or(0),
        points: settings.history,
    }
}

impl Host {
    /// A place for a replica of this primary is taken, or was already.
    pub(crate) fn take_place(
        &self,
        vm: VmId,
        primary: &str,
        entry: &AuthorizationEntry,
    ) -> Result<(), OverQuota> {
        self.access(|a| {
            if !a.places.contains_key(&vm) {
                let same = |p: &&String| {
                    AuthorizationEntry::find(&a.entries, p).is_some_and(|e| e.same_primary(&entry.primary))
                };
                entry.quota.one_more(a.places.values().filter(same).count())?;
            }
            a.places.insert(vm, primary.to_owned());
            Ok(())
        })
    }
}
