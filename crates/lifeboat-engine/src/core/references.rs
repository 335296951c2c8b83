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
        let third = crate::record::access::extended(rel).map(|e| e.settings.peer.as_str());
        let hosts = [
            rel.map(|r| r.peer.as_str()),
            rel.and_then(|r| r.callback.as_deref()),
            third,
        ];
        self.card.write(presence, hosts);
    }
}
