//! Which hypervisor runs a VM. A host may have several; the engine looks one up by the VM's description, or by its id where there
//! is none at hand, and holds none by itself. What a hypervisor does is in [`hypervisor`](super::hypervisor).

use super::hypervisor::Hypervisor;
use lifeboat_model::{VmId, VmSpec};
use std::sync::Arc;

/// The hypervisors of a host.
pub trait Hypervisors: Send + Sync {
    /// The one that runs a VM of this description. Waits for nothing.
    fn of(&self, spec: &VmSpec) -> Arc<dyn Hypervisor>;

    /// The one that knows a VM by its id; where none does, the one that would say that the VM is off. Waits for nothing.
    fn of_vm(&self, vm: VmId) -> Arc<dyn Hypervisor>;

    /// All hypervisors, each once.
    fn all(&self) -> Vec<Arc<dyn Hypervisor>>;
}

/// The only hypervisor of a host.
#[derive(Clone)]
pub struct OneHypervisor(pub Arc<dyn Hypervisor>);

impl OneHypervisor {
    /// A host on which this one runs all VMs.
    #[must_use]
    pub fn new(hypervisor: impl Hypervisor + 'static) -> Self {
        Self(Arc::new(hypervisor))
    }
}

impl Hypervisors for OneHypervisor {
    fn of(&self, _spec: &VmSpec) -> Arc<dyn Hypervisor> {
        self.0.clone()
    }

    fn of_vm(&self, _vm: VmId) -> Arc<dyn Hypervisor> {
        self.0.clone()
    }

    fn all(&self) -> Vec<Arc<dyn Hypervisor>> {
        vec![self.0.clone()]
    }
}
