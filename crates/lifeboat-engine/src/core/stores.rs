//! The store and the hypervisor of an actor's VM, and what is asked of them by its record. Where each replica of the host is,
//! `host::stores` keeps.

use crate::core::Core;
use crate::host::offer::Offer;
use crate::port::hypervisor::Hypervisor;
use crate::port::link::PeerRefusal;
use crate::port::store::StoreLocation;
use crate::port::store::{ImageStore, ReplicaInfo, Store, StoreError, Target};
use std::sync::Arc;

impl Core {
    /// The store that this VM's replica or promoted disks are in.
    ///
    /// # Errors
    /// `NoReplica`: the record names none.
    pub(crate) fn store(&self) -> Result<Store, StoreError> {
        self.host.store_of(self.id)
    }

    /// The images in that store.
    ///
    /// # Errors
    /// `NoReplica`, as [`Self::store`].
    pub(crate) fn images(&self) -> Result<Arc<dyn ImageStore>, StoreError> {
        self.host.images_of(self.id)
    }

    /// The images, for an answer to a peer.
    pub(crate) fn peer_images(&self) -> Result<Arc<dyn ImageStore>, PeerRefusal> {
        self.images().map_err(|e| self.host.peer_refusal(e))
    }

    /// Makes the replica of an offer at the configured location. One that is recorded stays where it is: it is not made a second
    /// time when the location was changed since.
    pub(crate) async fn make_replica(
        &self,
        recorded: Option<StoreLocation>,
        location: &StoreLocation,
        offer: &Offer,
    ) -> Result<ReplicaInfo, StoreError> {
        let images = self.host.ports.stores.at(location).images;
        if recorded.is_none_or(|place| place == images.place(location, self.id)) {
            images
                .create(location, self.id, &offer.disks, offer.start)
                .await?;
            return images.info(self.id).await;
        }
        let info = self.store_info().await?;
        if info.disks == offer.disks {
            Ok(info)
        } else {
            let why = format!("the replica in {} has other disks", info.place);
            Err(StoreError::Conflict(why))
        }
    }

    /// Deletes this VM's replica, if there is one.
    pub(crate) async fn destroy_replica(&self) -> Result<(), StoreError> {
        match self.images() {
            Ok(images) => images.destroy(self.id).await,
            Err(_) => Ok(()),
        }
    }

    /// What the store says of this VM's replica. Waits as long as its disk does.
    pub(crate) async fn store_info(&self) -> Result<ReplicaInfo, StoreError> {
        self.host.info_of(self.id).await
    }

    /// What the store said last of this VM's replica. Waits for nothing.
    pub(crate) fn last_info(&self) -> Option<ReplicaInfo> {
        self.images().ok()?.last_info(self.id)
    }

    /// Looks at the files of a recovery point of this VM's replica.
    pub(crate) async fn verify_target(&self, target: Target) -> Result<(), StoreError> {
        self.images()?.verify_target(self.id, target).await
    }

    /// The hypervisor that runs this VM.
    pub(crate) fn hypervisor(&self) -> Arc<dyn Hypervisor> {
        let hypervisors = &self.host.ports.hypervisors;
        match self.known_spec() {
            Some(spec) => hypervisors.of(spec),
            None => hypervisors.of_vm(self.id),
        }
    }
}
