//! Who may replicate to this host: entries are added and removed here. A host name is one name in whatever case it is
//! written, and with or without the dot at its end, so that there is one entry for it.

use std::time::Duration;

use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::{AuthorizationEntry, SettingsError};
use tracing::warn;

use crate::action::{Answer, Refusal};
use crate::actor::failed;
use crate::engine::{Engine, Host, no_entry};

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

fn locked(e: SettingsError) -> Refusal {
    Refusal::new(ReturnCode::AccessDenied, e.to_string(), hint::Look::Authorization)
}

impl Host {
    /// How long the points of a replica of this primary are kept whatever it asks for. The longest time of all entries that
    /// speak of it: an entry that is more exact does not take from what another one promises.
    pub(crate) fn kept_at_least(&self, primary: &str, bound_to: Option<&str>) -> Duration {
        self.access(|a| crate::taking::kept_at_least(&a.entries, primary, bound_to))
    }
}

impl Engine {
    /// AddAuthorizationEntry.
    pub(crate) async fn add_authorization(&self, entry: AuthorizationEntry) -> Result<Answer, Refusal> {
        let invalid = |e: SettingsError| Refusal::bare(ReturnCode::InvalidParameter, e.to_string());
        let entry = entry.normalized();
        entry.validate().map_err(invalid)?;
        if let Some(before) = self.host.entry_named(&entry.primary) {
            entry
                .may_replace(&before, self.host.ports.clock.now())
                .map_err(locked)?;
        }
        let fits = self
            .host
            .ports
            .environment
            .prepare_location(&entry.storage_location)
            .await;
        fits.map_err(|e| Refusal::bare(ReturnCode::InvalidParameter, e.to_string()))?;
        let catalog = &self.host.ports.catalog;
        catalog
            .put_entry(&entry)
            .await
            .map_err(|e| failed("not recorded", &e))?;
        self.forget_entries(&entry.primary, Some(&entry.primary)).await?;
        let what = format!("authorization of {} recorded", entry.primary);
        self.host.access(|a| a.entries.push(entry));
        self.access_changed(&what).await;
        Ok(Answer::Done)
    }

    /// RemoveAuthorizationEntry.
    pub(crate) async fn remove_authorization(&self, primary: &str) -> Result<Answer, Refusal> {
        if let Some(entry) = self.host.entry_named(primary) {
            entry.locked(self.host.ports.clock.now()).map_err(locked)?;
        }
        if !self.forget_entries(primary, None).await? {
            return Err(no_entry(primary));
        }
        self.access_changed(&format!("authorization of {primary} removed"))
            .await;
        Ok(Answer::Done)
    }

    /// Removes every entry of this name from the catalog, except the one written just so, and from memory. Whether there
    /// was one.
    async fn forget_entries(&self, primary: &str, except: Option<&str>) -> Result<bool, Refusal> {
        let catalog = &self.host.ports.catalog;
        // Entries of old may be written in any case; memory has only one of them.
        let stored = catalog.load().await.map_err(|e| failed("not read", &e))?.entries;
        let mut found = false;
        for entry in stored.iter().filter(|e| e.same_primary(primary)) {
            if except != Some(entry.primary.as_str()) {
                let removed = catalog.remove_entry(&entry.primary).await;
                found |= removed.map_err(|e| failed("not recorded", &e))?;
            }
        }
        self.host
            .access(|a| a.entries.retain(|e| !e.same_primary(primary)));
        Ok(found)
    }
}
