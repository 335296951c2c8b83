//! Which store and which hypervisor a VM is looked up in. Where a replica is, its record says; this module keeps that for all VMs
//! of the host, because the VM of a test stands on the replica of another one, and logs arrive beside the actor. What a store or a
//! hypervisor is asked for is decided elsewhere.

use crate::host::Host;
use crate::host::at_rest::directory;
use crate::port::store::{ImageStore, ReplicaInfo, Store, StoreError, StoreLocation};
use crate::record::Relationship;
use lifeboat_model::VmId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

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
