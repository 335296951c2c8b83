//! What an actor writes on its card, by which others find it. Reading cards is `host::references`'s.

use crate::core::Core;
use crate::host::references::Presence;

impl Core {
    /// Whether nothing is left of its VM: an offer of it was refused, or it was removed. Otherwise each offer of an
    /// unknown VM would leave an actor, and its name taken, until the daemon ends.
    pub(crate) fn is_over(&self) -> bool {
        self.is_unknown() && self.host.let_go(self.id)
    }

    pub(crate) fn is_unknown(&self) -> bool {
        self.rel.is_none() && self.local.is_none()
    }

    /// Publishes what this actor is now.
    pub(crate) fn publish(&self) {
        self.publish_place();
        let presence = match (&*self.rel, &self.local) {
            (Some(rel), _) => Presence::Related(rel.mode, rel.state),
            (None, Some(_)) => Presence::Local,
            (None, None) => Presence::Nothing,
        };
        let rel = self.rel.as_ref();
        let other = rel
            .iter()
            .flat_map(|r| [Some(&r.peer), r.callback.as_ref()])
            .flatten();
        let hosts = other
            .chain(crate::record::access::third_hosts(rel))
            .map(String::as_str);
        self.card.write(presence, hosts);
    }
}
