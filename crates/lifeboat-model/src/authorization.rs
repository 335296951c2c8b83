//! Who may replicate to this host, and within which bounds (`Msvm_ReplicationAuthorizationSettingData`). What a relationship itself
//! is set to is `settings`'.

use serde::{Deserialize, Serialize};

use crate::quota::Quota;
use crate::settings::{SettingsError, range};
use crate::time::Timestamp;

/// A host name in its one form.
fn host_name(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Who may replicate to this host, and where the copies go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationEntry {
    /// Name of the primary as its certificate says it: exact, `*.domain`, or `*`. The key of the entry.
    pub primary: String,
    /// Directory below which replicas of this primary are stored.
    pub storage_location: String,
    /// Primaries of one group may feed each other's replicas. A primary of its own is a group of its own.
    pub trust_group: String,
    /// Whether a planned failover may start a VM here by the primary's word alone. Otherwise it is started on this host.
    #[serde(default)]
    pub allow_start: bool,
    /// Seconds for which recovery points are kept whatever the primary asks for, up to 31,622,400 (366 days); 0: as it asks.
    #[serde(default)]
    pub keep_at_least_s: u32,
    /// Until then, by this host's clock, the entry can be neither removed nor made to keep points for a shorter time.
    #[serde(default)]
    pub locked_until: Option<Timestamp>,
    /// What its primaries may take here.
    #[serde(default)]
    pub quota: Quota,
}

/// The longest time for which an entry keeps points: a leap year. Ours; the API has no such setting.
const KEEP_AT_MOST_S: u32 = 366 * 86_400;

impl AuthorizationEntry {
    /// Checks the form of name and path.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let name = self.primary.strip_prefix("*.").unwrap_or(&self.primary);
        let label = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        if self.primary != "*" && (name.is_empty() || name.len() > 253 || !name.chars().all(label)) {
            return Err(SettingsError::Primary(self.primary.chars().take(80).collect()));
        }
        let location = &self.storage_location;
        if !location.starts_with('/') || location.split('/').any(|part| part == "..") {
            return Err(SettingsError::Location(location.chars().take(200).collect()));
        }
        let group = &self.trust_group;
        if group.trim().is_empty() || group.len() > 253 || group.chars().any(char::is_control) {
            return Err(SettingsError::TrustGroup(group.chars().take(80).collect()));
        }
        if !self.quota.is_valid() {
            return Err(SettingsError::Quota);
        }
        if self.locked_until.is_some() && self.keep_at_least_s == 0 {
            return Err(SettingsError::LockedNothing);
        }
        let kept = self.keep_at_least_s.into();
        range("keep_at_least_s", kept, 0, KEEP_AT_MOST_S.into(), "0 to 366 days")
    }

    /// Whether this entry may take the place of the one that was there, at this time.
    ///
    /// # Errors
    /// The one that was there is locked, and this one would keep points for a shorter time or be locked for a shorter time.
    pub fn may_replace(&self, before: &Self, now: Timestamp) -> Result<(), SettingsError> {
        let shorter =
            self.keep_at_least_s < before.keep_at_least_s || self.locked_until < before.locked_until;
        match before.locked(now) {
            Err(locked) if shorter => Err(locked),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether it is free to be removed or changed in every way at this time.
    ///
    /// # Errors
    /// It is locked.
    pub fn locked(&self, now: Timestamp) -> Result<(), SettingsError> {
        match self.locked_until.map(|until| until.since(now)) {
            Some(left) if !left.is_zero() => Err(SettingsError::Locked(left.as_secs().div_ceil(3600))),
            _ => Ok(()),
        }
    }

    /// The entry as it is stored: its name in lower case, without a dot at the end.
    #[must_use]
    pub fn normalized(self) -> Self {
        Self {
            primary: host_name(&self.primary),
            ..self
        }
    }

    /// Whether this is the entry with that key: host names do not tell cases apart.
    #[must_use]
    pub fn same_primary(&self, primary: &str) -> bool {
        host_name(&self.primary) == host_name(primary)
    }

    /// Whether the entry speaks of this primary. `*.example.org` covers names below the domain, not the domain.
    #[must_use]
    pub fn covers(&self, primary: &str) -> bool {
        let (entry, primary) = (host_name(&self.primary), host_name(primary));
        match entry.strip_prefix('*') {
            Some("") => true,
            Some(domain) => primary.len() > domain.len() && primary.ends_with(domain),
            None => entry == primary,
        }
    }

    /// The entry for a primary: an exact one before a domain, a longer domain before a shorter.
    #[must_use]
    pub fn find<'a>(entries: &'a [Self], primary: &str) -> Option<&'a Self> {
        let rank = |e: &&Self| (!e.primary.starts_with('*'), e.primary.len());
        entries.iter().filter(|e| e.covers(primary)).max_by_key(rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(primary: &str) -> AuthorizationEntry {
        AuthorizationEntry {
            primary: primary.into(),
            storage_location: "/srv".into(),
            trust_group: "g".into(),
            allow_start: false,
            keep_at_least_s: 0,
            locked_until: None,
            quota: Quota::default(),
        }
    }

    #[test]
    fn the_most_exact_entry_wins() {
        let all = [
            entry("*"),
            entry("*.example.org"),
            entry("*.lab.example.org"),
            entry("a.lab.example.org"),
        ];
        for (primary, want) in [
            ("a.lab.example.org", "a.lab.example.org"),
            ("A.LAB.example.org", "a.lab.example.org"),
            ("b.lab.example.org", "*.lab.example.org"),
            ("x.example.org", "*.example.org"),
            ("example.org", "*"),
            ("badexample.org", "*"),
        ] {
            assert_eq!(
                AuthorizationEntry::find(&all, primary).unwrap().primary,
                want,
                "{primary}"
            );
        }
        assert!(AuthorizationEntry::find(&all[1..], "evil.net").is_none());
    }

    #[test]
    fn a_host_name_is_one_name_in_any_case() {
        for same in ["alpha.test", "ALPHA.test", "Alpha.Test."] {
            assert_eq!(entry(same).normalized(), entry("alpha.test"), "{same}");
            assert!(
                entry("alpha.test").same_primary(same) && entry(same).covers("alpha.TEST"),
                "{same}"
            );
        }
        assert_eq!(entry("*.Lab.Test").normalized().primary, "*.lab.test");
        assert!(!entry("alpha.test").same_primary("alpha.test.org"));
    }

    #[test]
    fn an_entry_cannot_point_out_of_a_directory() {
        for bad in ["srv", "/srv/../etc", "", "../x"] {
            let e = AuthorizationEntry {
                storage_location: bad.into(),
                ..entry("a")
            };
            assert!(e.validate().is_err(), "{bad}");
        }
        for bad in ["", "*.", "a b", "*x", "a/*"] {
            assert!(entry(bad).validate().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_locked_entry_is_lengthened_and_not_shortened() {
        let (day, now) = (86_400, Timestamp(1_000_000));
        let until = |t: u64| Some(Timestamp(t));
        let kept = |keep_at_least_s, locked_until| AuthorizationEntry {
            keep_at_least_s,
            locked_until,
            ..entry("a")
        };
        let locked = kept(7 * day, until(2_000_000));
        assert!(locked.validate().is_ok());
        for longer in [kept(7 * day, until(2_000_000)), kept(8 * day, until(3_000_000))] {
            assert!(longer.may_replace(&locked, now).is_ok(), "{longer:?}");
        }
        for shorter in [
            kept(7 * day - 1, until(2_000_000)),
            kept(9 * day, until(1_999_999)),
            kept(7 * day, None),
            entry("a"),
        ] {
            assert!(shorter.may_replace(&locked, now).is_err(), "{shorter:?}");
            assert!(
                shorter.may_replace(&locked, Timestamp(2_000_000)).is_ok(),
                "the lock is over"
            );
            assert!(
                shorter.may_replace(&kept(7 * day, None), now).is_ok(),
                "it was never locked"
            );
        }
        assert!(
            kept(0, until(2_000_000)).validate().is_err(),
            "there is nothing to lock"
        );
        assert!(kept(KEEP_AT_MOST_S + 1, None).validate().is_err());
    }

    #[test]
    fn a_trust_group_has_a_name() {
        for bad in ["", " ", "a\u{1b}[2J", &"x".repeat(254)] {
            let e = AuthorizationEntry {
                trust_group: bad.into(),
                ..entry("a")
            };
            assert!(e.validate().is_err(), "{bad:?}");
        }
    }
}
