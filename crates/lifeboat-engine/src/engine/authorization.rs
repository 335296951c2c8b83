//! The actions that add, remove and list authorization entries. What an entry means is `host::authorization`'s.

use crate::contract::{Answer, Refusal};
use crate::engine::Engine;
use crate::host::authorization::locked;
use crate::host::no_entry;
use crate::work::calls::failed;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{AuthorizationEntry, SettingsError};

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
