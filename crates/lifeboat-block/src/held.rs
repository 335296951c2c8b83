//! Which VMs something of this daemon is busy with, such as a capture while they are off. In memory only: a daemon that ended is
//! busy with nothing.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_model::VmId;

/// VMs that something of this daemon is busy with. Clones share the marks.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<Mutex<HashSet<VmId>>>);

impl Held {
    /// Marks `vm`, until the result is dropped; nothing when it is marked already.
    pub fn take(&self, vm: VmId) -> Option<Hold> {
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(vm);
        fresh.then(|| Hold {
            held: self.clone(),
            vm,
        })
    }

    /// Whether `vm` is marked.
    #[must_use]
    pub fn contains(&self, vm: VmId) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&vm)
    }
}

/// One VM's mark in [`Held`].
#[derive(Debug)]
pub struct Hold {
    held: Held,
    vm: VmId,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.held.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.vm);
    }
}
