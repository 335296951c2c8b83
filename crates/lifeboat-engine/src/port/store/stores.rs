//! Which store a replica is in. A host may have several; a replica is made in the one of its storage location and stays there,
//! wherever new ones are made later. The engine looks a store up by the configured location of a new replica or the recorded place
//! of an existing one, and holds none by itself.

use super::{ImageStore, LogStore, StoreLocation};
use std::sync::Arc;

/// A store of replicas: images, and the log store that they were given.
#[derive(Clone)]
pub struct Store {
    /// Images, and what concerns images and logs.
    pub images: Arc<dyn ImageStore>,
    /// The logs that are applied to these images.
    pub logs: Arc<dyn LogStore>,
}

impl Store {
    /// A store that keeps images and logs itself.
    #[must_use]
    pub fn of_both<S: ImageStore + LogStore + 'static>(both: Arc<S>) -> Self {
        Self {
            images: both.clone(),
            logs: both,
        }
    }
}

/// The stores of a host.
pub trait Stores: Send + Sync {
    /// The store that keeps replicas at a storage location, or the replica at that place. Every location has one: what no other
    /// store was configured for belongs to the store of files, which refuses what is no directory. Waits for nothing.
    fn at(&self, location: &StoreLocation) -> Store;

    /// All stores, each once.
    fn all(&self) -> Vec<Store>;
}

/// The only store of a host.
#[derive(Clone)]
pub struct OneStore(pub Store);

impl OneStore {
    /// A host whose replicas are all in this store.
    #[must_use]
    pub fn new<S: ImageStore + LogStore + 'static>(store: S) -> Self {
        Self(Store::of_both(Arc::new(store)))
    }
}

impl Stores for OneStore {
    fn at(&self, _location: &StoreLocation) -> Store {
        self.0.clone()
    }

    fn all(&self) -> Vec<Store> {
        vec![self.0.clone()]
    }
}
