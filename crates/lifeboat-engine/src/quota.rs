//! What the primaries of an authorization entry may take on this host: how many replicas, how large, and which share of the
//! disks the store lets them have. What the numbers mean is the model's.

use lifeboat_model::quota::{OverQuota, Shape};
use lifeboat_model::{AuthorizationEntry, ReplicationSettings, VmId};
use lifeboat_model::{Note, hint};

use crate::actor::Actor;
use crate::engine::Host;
use crate::ports::link::{Content, PeerIdentity, PeerRefusal};
use crate::ports::store::Quota as Share;
use crate::records::Relationship;
use crate::reverse::GivenWay;

fn refused(why: &OverQuota) -> PeerRefusal {
    PeerRefusal::Conflict {
        detail: Note::new(why.to_string(), hint::Trust::RaiseQuotaThere).into(),
    }
}

/// What of a replica counts.
fn shape(sizes: impl Iterator<Item = u64>, settings: &ReplicationSettings) -> Shape {
    Shape {
        disk_bytes: sizes.max().unwrap_or(0),
        points: settings.history,
    }
}

impl Host {
    /// A place for a replica of this primary is taken, or was already.
    fn take_place(&self, vm: VmId, primary: &str, entry: &AuthorizationEntry) -> Result<(), OverQuota> {
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

impl Actor {
    /// Whether an offer asks for no more than its entry allows; a new replica gets a place.
    pub(crate) fn within_quota(&self, peer: &PeerIdentity, offer: &GivenWay) -> Result<(), PeerRefusal> {
        match offer.content {
            Content::Empty | Content::Media { .. } | Content::Extended => {}
            // A VM of this host that gives way by the word of its administrator.
            Content::Seed | Content::Reverse { .. } => return Ok(()),
        }
        // Who is not let in is told so by who asks for that.
        let Ok(entry) = self.lets_in(peer) else {
            return Ok(());
        };
        let asked = shape(offer.disks.iter().map(|d| d.size), &offer.settings);
        let fits = entry.quota.fits(asked, self.shape());
        fits.map_err(|e| refused(&e))?;
        let primary = peer.names.first().map_or("", String::as_str);
        let taken = self.host.take_place(self.id, primary, &entry);
        taken.map_err(|e| refused(&e))
    }

    /// The same for new settings.
    pub(crate) fn settings_within_quota(
        &self,
        peer: &PeerIdentity,
        settings: &ReplicationSettings,
    ) -> Result<(), PeerRefusal> {
        let entry = self.lets_in(peer)?;
        let asked = Shape {
            points: settings.history,
            ..self.shape()
        };
        let fits = entry.quota.fits(asked, self.shape());
        fits.map_err(|e| refused(&e))
    }

    /// What this replica is like.
    fn shape(&self) -> Shape {
        let rel = self.rel.as_ref().filter(|r| r.replica().is_some());
        let info = self.host.ports.store.last_info(self.id);
        let sizes = info.iter().flat_map(|i| &i.disks).map(|d| d.size);
        rel.map_or(Shape::default(), |r| shape(sizes, &r.settings))
    }

    /// Whose replica this is, for who counts them and for the store.
    pub(crate) fn publish_place(&self) {
        let (vm, store) = (self.id, &self.host.ports.store);
        let rel = self.rel.as_ref().filter(|r| r.replica().is_some());
        let Some(Relationship { peer, .. }) = rel else {
            let had = self.host.access(|a| a.places.remove(&vm).is_some());
            if had {
                store.bound(vm, None);
            }
            return;
        };
        let entry = self.host.access(|a| {
            a.places.insert(vm, peer.clone());
            AuthorizationEntry::find(&a.entries, peer).cloned()
        });
        let share = entry.map(|e| Share {
            owner: e.primary,
            bytes: e.quota.bytes,
            disk_bytes: e.quota.disk_bytes,
        });
        store.bound(vm, share);
    }
}
