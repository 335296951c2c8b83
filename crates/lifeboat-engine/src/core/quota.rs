//! Whether an offer fits what its authorization entry allows. What the entry allows is `host::quota`'s.

use crate::core::Core;
use crate::host::offer::Offer;
use crate::host::quota::{refused, shape};
use crate::port::link::{Content, PeerIdentity, PeerRefusal};
use crate::port::store::Quota as Share;
use crate::port::store::StoreLocation;
use crate::record::Relationship;
use lifeboat_model::quota::Shape;
use lifeboat_model::{AuthorizationEntry, ReplicationSettings};

impl Core {
    /// Whether an offer asks for no more than its entry allows; a new replica gets a place.
    pub(crate) fn within_quota(&self, peer: &PeerIdentity, offer: &Offer) -> Result<(), PeerRefusal> {
        match offer.content {
            Content::Empty | Content::Media { .. } | Content::Extended => {}
            // A VM of this host, demoted by its administrator.
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
        let info = self.last_info();
        let sizes = info.iter().flat_map(|i| &i.disks).map(|d| d.size);
        rel.map_or(Shape::default(), |r| shape(sizes, &r.settings))
    }

    /// Whose replica this is, for who counts them and for the store.
    pub(crate) fn publish_place(&self) {
        let vm = self.id;
        let rel = self.rel.as_ref().filter(|r| r.replica().is_some());
        let Some(Relationship { peer, .. }) = rel else {
            let had = self.host.access(|a| {
                a.places.remove(&vm);
                a.bound.remove(&vm)
            });
            if let Some(store) = had {
                store.images.bound(vm, None);
            }
            return;
        };
        let entry = self.host.access(|a| {
            a.places.insert(vm, peer.clone());
            AuthorizationEntry::find(&a.entries, peer).cloned()
        });
        // One that awaits its offer will be where its primary's replicas are kept.
        let configured = entry.as_ref().map(|e| StoreLocation::new(&e.storage_location));
        let store = self.store().ok();
        let store = store.or_else(|| Some(self.host.ports.stores.at(&configured?)));
        let share = entry.map(|e| Share {
            owner: e.primary,
            bytes: e.quota.bytes,
            disk_bytes: e.quota.disk_bytes,
        });
        if let Some(store) = store {
            store.images.bound(vm, share);
            self.host.access(|a| a.bound.insert(vm, store));
        }
    }
}
