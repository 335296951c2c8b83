//! Who may replicate to this host: entries are added and removed here. A host name is one name in whatever case it is
//! written, and with or without the dot at its end, so that there is one entry for it.

use crate::contract::Refusal;
use crate::host::Host;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{AuthorizationEntry, SettingsError, hint};
use std::time::Duration;
use tracing::warn;

/// Entries of one name merged: those that are kept, and those that others stand for.
pub(crate) fn merged(
    entries: Vec<AuthorizationEntry>,
) -> (
    Vec<AuthorizationEntry>,
    Vec<(AuthorizationEntry, AuthorizationEntry)>,
) {
    let mut kept: Vec<AuthorizationEntry> = Vec::new();
    let mut gone = Vec::new();
    for entry in entries {
        match kept.iter_mut().find(|k| k.same_primary(&entry.primary)) {
            // The later one was the one in force.
            Some(before) => gone.push((std::mem::replace(before, entry.clone()), entry)),
            None => kept.push(entry),
        }
    }
    (kept, gone)
}

/// Says which entries are no longer in force because others have the same name.
pub(crate) async fn report_merged(host: &Host, merged: &[(AuthorizationEntry, AuthorizationEntry)]) {
    for (gone, kept) in merged {
        let message = format!(
            "the authorization entries {} (location {}) and {} (location {}) are of one host name: the second is in force, and \
             adding it again removes the first",
            gone.primary, gone.storage_location, kept.primary, kept.storage_location
        );
        warn!("{message}");
        host.event(&message).await;
    }
}

pub(crate) fn locked(e: SettingsError) -> Refusal {
    Refusal::new(ReturnCode::AccessDenied, e.to_string(), hint::Look::Authorization)
}

impl Host {
    /// How long the points of a replica of this primary are kept whatever it asks for. The longest time of all entries that
    /// speak of it: an entry that is more exact does not take from what another one promises.
    pub(crate) fn kept_at_least(&self, primary: &str, bound_to: Option<&str>) -> Duration {
        self.access(|a| crate::host::taking::kept_at_least(&a.entries, primary, bound_to))
    }
}
