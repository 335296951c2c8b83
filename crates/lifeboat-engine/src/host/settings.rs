//! The settings of this host, and which disks a change of settings adds or removes.

use crate::contract::Refusal;
use crate::record::ServerSettings;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{DiskId, SettingsError};

impl ServerSettings {
    /// Checks the limits.
    ///
    /// # Errors
    /// The first number that cannot be meant.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if !(3_600..=604_800).contains(&self.monitoring_interval_s) {
            return Err(SettingsError::Range {
                field: "monitoring_interval_s",
                value: self.monitoring_interval_s.into(),
                range: "3600 to 604800 seconds",
            });
        }
        if self.monitoring_start_min >= 1440 {
            return Err(SettingsError::Minute(self.monitoring_start_min));
        }
        self.bandwidth.validate()
    }
}

pub(crate) fn invalid(e: SettingsError) -> Refusal {
    Refusal::bare(ReturnCode::InvalidParameter, e.to_string())
}

/// What a change of settings means for the disks.
pub(crate) struct DiskChange {
    pub(crate) removed: Vec<DiskId>,
    pub(crate) added: Vec<DiskId>,
}

impl DiskChange {
    pub(crate) fn between(old: &[DiskId], new: &[DiskId]) -> Self {
        let not_in = |a: &[DiskId], b: &[DiskId]| a.iter().filter(|d| !b.contains(d)).cloned().collect();
        Self {
            removed: not_in(old, new),
            added: not_in(new, old),
        }
    }

    pub(crate) fn none(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

/// Those of the wanted disks that are there already, in their order, then the others.
pub(crate) fn in_order(have: &[DiskId], wanted: &[DiskId]) -> Vec<DiskId> {
    let kept = have.iter().filter(|d| wanted.contains(d));
    // A disk named twice stays so, and is refused.
    let mut left: Vec<&DiskId> = wanted.iter().collect();
    let mut all: Vec<DiskId> = Vec::new();
    for disk in kept {
        if let Some(at) = left.iter().position(|d| *d == disk) {
            left.remove(at);
        }
        all.push(disk.clone());
    }
    all.extend(left.into_iter().cloned());
    all
}

pub(crate) fn told(change: &DiskChange) -> String {
    let names = |d: &[DiskId]| d.iter().map(DiskId::as_str).collect::<Vec<_>>().join(", ");
    match (change.removed.as_slice(), change.added.as_slice()) {
        ([], []) => String::new(),
        (removed, []) => format!("; no longer replicated: {}", names(removed)),
        ([], added) => format!("; replicated from now on: {}", names(added)),
        (removed, added) => format!(
            "; no longer replicated: {}; from now on: {}",
            names(removed),
            names(added)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &str) -> Vec<DiskId> {
        names
            .split_whitespace()
            .map(|n| DiskId::new(n).unwrap())
            .collect()
    }

    #[test]
    fn disks_keep_the_order_that_the_replica_knows() {
        for (have, wanted, want) in [
            ("a b c", "c a", "a c"),
            ("a b", "c b a", "a b c"),
            ("a b", "b b", "b b"),
            ("a", "b", "b"),
        ] {
            assert_eq!(in_order(&ids(have), &ids(wanted)), ids(want), "{have} / {wanted}");
        }
        let change = DiskChange::between(&ids("a b"), &ids("b c"));
        assert_eq!((change.removed, change.added), (ids("a"), ids("c")));
        assert!(DiskChange::between(&ids("a b"), &ids("b a")).none());
    }

    #[test]
    fn server_settings_keep_their_limits() {
        let good = ServerSettings::default();
        good.validate().unwrap();
        let bad: [fn(&mut ServerSettings); 4] = [
            |s| s.monitoring_interval_s = 3599,
            |s| s.monitoring_interval_s = 604_801,
            |s| s.monitoring_start_min = 1440,
            |s| s.bandwidth.bytes_per_s = 100,
        ];
        for spoil in bad {
            let mut s = good.clone();
            spoil(&mut s);
            assert!(s.validate().is_err(), "{s:?}");
        }
    }
}
