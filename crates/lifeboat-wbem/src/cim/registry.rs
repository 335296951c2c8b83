//! Filters, listener destinations and subscriptions that CIM-XML clients have made, in memory. Which of them may be made and
//! removed, and by which callers, is decided in `subscriptions`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lifeboat_cim::Instance;

use super::subscription::Subscription;

pub(crate) const FILTER: &str = "CIM_IndicationFilter";
pub(crate) const DESTINATION: &str = "CIM_ListenerDestinationCIMXML";
pub(crate) const SUBSCRIPTION: &str = "CIM_IndicationSubscription";

/// Most instances of each of the classes that one user may have at once.
pub const PER_USER: usize = 32;
/// Most instances of each of the classes at once, of all users.
pub const IN_ALL: usize = 128;
/// How long a listener may fail before its subscription is removed.
pub const FAILURE_TIME: Duration = Duration::from_secs(3600);

/// An instance that a client has made.
pub(super) struct Entry {
    pub(super) instance: Instance,
    pub(super) owner: String,
    /// Only of a subscription.
    pub(super) subscription: Option<Arc<Subscription>>,
}

/// All that clients have made.
#[derive(Default)]
pub(crate) struct Registry {
    entries: Mutex<Vec<Entry>>,
}

impl Registry {
    /// All of them, without subscriptions that have ended.
    pub(super) fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|e| e.subscription.as_ref().is_none_or(|s| !s.is_over()));
        entries
    }

    /// The instances of one of the classes, as they are now.
    pub(crate) fn instances(&self, class: &str) -> Vec<Instance> {
        let entries = self.entries();
        let shown = |entry: &Entry| {
            let left = entry.subscription.as_ref().and_then(|s| s.remaining());
            let left = left.map(|d| d.as_secs());
            entry
                .instance
                .clone()
                .with_some("SubscriptionTimeRemaining", left)
        };
        let of_class = entries.iter().filter(|e| e.instance.class == class);
        of_class.map(shown).collect()
    }
}
