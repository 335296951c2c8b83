//! The store of a replica, for work that has nothing to do without one.

use crate::core::Core;
use crate::port::store::Store;
use crate::target::TargetPart;
use crate::work::piece::IDLE;
use tokio::time::Instant;

impl TargetPart {
    /// The store that the replica is in. One that awaits its first offer is in none, and has nothing to do for a while.
    pub(crate) fn store_or_rest(&mut self, core: &Core) -> Option<Store> {
        let store = core.store().ok();
        if store.is_none() {
            self.next_at = Instant::now() + IDLE;
        }
        store
    }
}
