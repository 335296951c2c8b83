//! Which store and which hypervisor a VM is looked up in. Where a replica is, its record says; this module keeps that for all VMs
//! of the host, because the VM of a test stands on the replica of another one, and logs arrive beside the actor. What a store or a
//! hypervisor is asked for is decided elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_model::VmId;
use tokio::time::Instant;

use crate::actor::Actor;
use crate::engine::Host;
use crate::ports::hypervisor::Hypervisor;
use crate::ports::link::PeerRefusal;
use crate::ports::store::{ImageStore, ReplicaInfo, Store, StoreError, StoreLocation, Target};
use crate::primary::IDLE;
use crate::records::Relationship;
use crate::reverse::GivenWay;
use crate::views::directory;

/// Where the replicas and promoted disks of this host are, as recorded.
#[derive(Debug, Default)]
pub(crate) struct ReplicaPlaces(Mutex<HashMap<VmId, StoreLocation>>);

impl ReplicaPlaces {
    /// The record of a VM is this one from now on.
    pub(crate) fn recorded(&self, vm: VmId, rel: Option<&Relationship>) {
        let place = rel.and_then(directory).map(StoreLocation::new);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match place {
            Some(place) => all.insert(vm, place),
            None => all.remove(&vm),
        };
    }

    /// Where the VM's data is; `None`: it has none in a store.
    pub(crate) fn of(&self, vm: VmId) -> Option<StoreLocation> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&vm).cloned()
    }
}

impl Host {
    /// The store that a VM's replica or promoted disks are in.
    ///
    /// # Errors
    /// `NoReplica`: the record names none, so no store has one.
    pub(crate) fn store_of(&self, vm: VmId) -> Result<Store, StoreError> {
        let place = self.replicas.of(vm).ok_or(StoreError::NoReplica(vm))?;
        Ok(self.ports.stores.at(&place))
    }

    /// The images in that store.
    ///
    /// # Errors
    /// `NoReplica`, as [`Host::store_of`].
    pub(crate) fn images_of(&self, vm: VmId) -> Result<Arc<dyn ImageStore>, StoreError> {
        Ok(self.store_of(vm)?.images)
    }

    /// What a VM's store says of its replica.
    pub(crate) async fn info_of(&self, vm: VmId) -> Result<ReplicaInfo, StoreError> {
        self.images_of(vm)?.info(vm).await
    }
}

/// Lets go of a VM's replica, if it is in a store.
pub(crate) async fn close(images: Option<Arc<dyn ImageStore>>, vm: VmId) {
    if let Some(images) = images {
        images.close(vm).await;
    }
}

impl Actor {
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
    /// `NoReplica`, as [`Actor::store`].
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
        offer: &GivenWay,
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

    /// The store that the replica is in. One that awaits its first offer is in none, and has nothing to do for a while.
    pub(crate) fn store_or_rest(&mut self) -> Option<Store> {
        let store = self.store().ok();
        if store.is_none() {
            self.replica.next_at = Instant::now() + IDLE;
        }
        store
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
