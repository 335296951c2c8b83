//! Which hosts a relationship needs, and what it says of itself to keep contact.

use crate::core::Core;

impl Core {
    /// Addresses of the hosts that this VM's replication needs.
    pub(crate) fn needed_peers(&self) -> Vec<String> {
        let Some(rel) = self.rel.as_ref() else {
            return Vec::new();
        };
        let further = crate::record::access::third_hosts(Some(rel));
        rel.other_end().into_iter().chain(further).cloned().collect()
    }
}
