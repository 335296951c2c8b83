//! Where replicas are kept, as two ports: a store of logs ([`logs`]) and a store of images that is given them ([`images`]), and the
//! lookup of both by storage location ([`stores`]). The modules of the two traits say where the cut is and who orders what; no
//! logic lives here.

pub mod error;
pub mod images;
pub mod logs;
pub mod stores;
pub mod types;

pub use error::StoreError;
pub use images::ImageStore;
pub use logs::{LogKeeper, LogStore};
pub use stores::{OneStore, Store, Stores};
pub use types::{
    Abandoned, Adoption, BulkProgress, CompareRange, DiskFile, Divergence, Origin, Point, Quota, Ranges,
    Received, ReplicaInfo, StorageDelay, StoreLocation, StoredLog, StoredLogs, Target,
};
