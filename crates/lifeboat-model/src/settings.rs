//! Settings of a relationship (`Msvm_ReplicationSettingData`), with their documented limits, and why settings are refused. Who may
//! replicate here is `authorization`'s.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::DiskId;

/// Length of a monitoring window in seconds unless it is set: half a day, as the API has it.
pub const MONITORING_INTERVAL_S: u32 = 43_200;

/// When monitoring windows begin unless that is set, in minutes of the local day: at nine.
pub const MONITORING_START_MIN: u16 = 9 * 60;

/// Settings of one relationship.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationSettings {
    /// The peer, `HOST:PORT`.
    pub peer: String,
    /// Seconds between cycles, 1 to 900. The API knows 30, 300 and 900.
    pub interval_s: u16,
    /// Additional recovery points kept, 0 to 24.
    pub history: u16,
    /// Seconds between kept recovery points, 1 to 86,400. The API's spacing is one hour.
    pub point_spacing_s: u32,
    /// Seconds for which every cycle can be brought back (any-point), 0 to 604,800.
    pub any_point_window_s: u32,
    /// Disks that are replicated. Never empty.
    pub disks: Vec<DiskId>,
    /// Whether deltas are compressed.
    pub compression: bool,
    /// Hours between application-consistent points, 1 to 12; 0: none are made.
    #[serde(default)]
    pub application_h: u8,
    /// When a resynchronization that became necessary may begin by itself, local time; `None`: never.
    #[serde(default)]
    pub auto_resync: Option<DayWindow>,
    /// Limit for what this relationship sends.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// A part of each day in local time; it may go over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DayWindow {
    /// First minute of the day, 0 to 1,439.
    pub from_min: u16,
    /// First minute that is no longer in it, 0 to 1,439; equal to `from_min`: the whole day.
    pub to_min: u16,
}

impl DayWindow {
    fn validate(self) -> Result<(), SettingsError> {
        match [self.from_min, self.to_min].into_iter().find(|m| *m >= 1440) {
            Some(minute) => Err(SettingsError::Minute(minute)),
            None => Ok(()),
        }
    }

    /// Whether a minute of the day lies in it.
    #[must_use]
    pub fn holds(&self, minute: u16) -> bool {
        if self.from_min < self.to_min {
            (self.from_min..self.to_min).contains(&minute)
        } else {
            minute >= self.from_min || minute < self.to_min
        }
    }

    /// Minutes from this minute of the day until it opens the next time, 1 to 1,440.
    #[must_use]
    pub fn opens_in(&self, minute: u16) -> u16 {
        (self.from_min + 1440 - minute % 1440 + 1439) % 1440 + 1
    }
}

/// A limit for sending, with exceptions by the time of day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bandwidth {
    /// Bytes per second, at least 65,536; 0 is unlimited.
    pub bytes_per_s: u64,
    /// At most 16 windows with limits of their own; the first that holds the minute counts.
    pub windows: Vec<BandwidthWindow>,
}

/// A limit for a part of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BandwidthWindow {
    /// The part of the day in which the limit counts.
    pub window: DayWindow,
    /// Bytes per second, at least 65,536; 0 is unlimited.
    pub bytes_per_s: u64,
}

impl Bandwidth {
    /// Checks the limits.
    ///
    /// # Errors
    /// The first limit or window that cannot be meant.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if self.windows.len() > 16 {
            return Err(SettingsError::Windows(self.windows.len()));
        }
        let limits = self.windows.iter().map(|w| w.bytes_per_s);
        for limit in limits.chain([self.bytes_per_s]) {
            if (1..65_536).contains(&limit) {
                return Err(SettingsError::Slow(limit));
            }
        }
        self.windows.iter().try_for_each(|w| w.window.validate())
    }

    /// The limit at a minute of the day; `None` is unlimited.
    #[must_use]
    pub fn at(&self, minute: u16) -> Option<u64> {
        let window = self.windows.iter().find(|w| w.window.holds(minute));
        Some(window.map_or(self.bytes_per_s, |w| w.bytes_per_s)).filter(|l| *l > 0)
    }
}

/// What is wrong with settings; always the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A number out of range.
    #[error("{field} = {value} is out of range: {range}")]
    Range {
        /// The field.
        field: &'static str,
        /// What was given.
        value: u64,
        /// What may be given.
        range: &'static str,
    },
    /// No disk.
    #[error("no disk is included: name at least one")]
    NoDisk,
    /// A disk the VM does not have, or one named twice.
    #[error("disk \"{0}\" is not a disk of this VM, or is named twice")]
    Disk(DiskId),
    /// A peer that is not `HOST:PORT`.
    #[error("peer \"{0}\": write HOST:PORT")]
    Peer(String),
    /// A primary's name that is neither a host name nor `*.domain` nor `*`.
    #[error("primary \"{0}\": write a host name, *.domain, or *")]
    Primary(String),
    /// A time of day that does not exist.
    #[error("minute {0} of the day: use 0 to 1439")]
    Minute(u16),
    /// A limit too low to be useful, which would look like a fault.
    #[error("a limit of {0} bytes per second: use at least 65536, or 0 for none")]
    Slow(u64),
    /// Too many windows.
    #[error("{0} bandwidth windows: use at most 16")]
    Windows(usize),
    /// A trust group without a name, or with one that cannot be shown.
    #[error("trust group \"{0}\": write 1 to 253 characters")]
    TrustGroup(String),
    /// A lock on an entry that keeps nothing.
    #[error("there is nothing to lock: name the time for which points are kept, too")]
    LockedNothing,
    /// A quota that allows nothing, or more than can be.
    #[error("a quota allows 1 to 100000 VMs, 0 to 24 recovery points, and at least 1 byte")]
    Quota,
    /// An entry that is locked for another so many hours.
    #[error(
        "the entry is locked for another {0} h: it cannot be removed, its lock and the time for which it keeps points can only be made longer"
    )]
    Locked(u64),
    /// A storage location that is not absolute.
    #[error("storage location \"{0}\": write an absolute path without ..")]
    Location(String),
}

/// Checks the form of a peer's address, `HOST:PORT`.
///
/// # Errors
/// It has another one.
pub fn check_peer(peer: &str) -> Result<(), SettingsError> {
    let parts = peer
        .rsplit_once(':')
        .filter(|(h, p)| is_host(h) && p.parse::<u16>().is_ok_and(|p| p > 0));
    parts
        .map(|_| ())
        .ok_or_else(|| SettingsError::Peer(peer.chars().take(200).collect()))
}

/// Whether a text can be a host's name or address: what can be seen, and no path.
fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

impl ReplicationSettings {
    /// Most recovery points that can be kept additionally (`Msvm_ReplicationSettingData.RecoveryHistory`).
    pub const MOST_HISTORY: u16 = 24;

    /// Checks the limits; `vm_disks` are the disks the VM has.
    pub fn validate<'a>(&self, vm_disks: impl IntoIterator<Item = &'a DiskId>) -> Result<(), SettingsError> {
        range("interval_s", self.interval_s.into(), 1, 900, "1 to 900 seconds")?;
        range(
            "history",
            self.history.into(),
            0,
            Self::MOST_HISTORY.into(),
            "0 to 24 points",
        )?;
        range(
            "point_spacing_s",
            self.point_spacing_s.into(),
            1,
            86_400,
            "1 to 86400 seconds",
        )?;
        range(
            "any_point_window_s",
            self.any_point_window_s.into(),
            0,
            604_800,
            "0 to 604800 seconds",
        )?;
        range("application_h", self.application_h.into(), 0, 12, "0 to 12 hours")?;
        if let Some(window) = self.auto_resync {
            window.validate()?;
        }
        self.bandwidth.validate()?;
        if self.disks.is_empty() {
            return Err(SettingsError::NoDisk);
        }
        let mut left: Vec<_> = vm_disks.into_iter().collect();
        for d in &self.disks {
            let at = left
                .iter()
                .position(|x| *x == d)
                .ok_or_else(|| SettingsError::Disk(d.clone()))?;
            left.swap_remove(at);
        }
        check_peer(&self.peer)
    }

    /// Time between cycles.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_s.into())
    }
}

pub(crate) fn range(
    field: &'static str,
    value: u64,
    min: u64,
    max: u64,
    range: &'static str,
) -> Result<(), SettingsError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(SettingsError::Range { field, value, range })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil = fn(&mut ReplicationSettings);

    #[test]
    fn a_window_of_the_day_may_go_over_midnight() {
        let night = DayWindow {
            from_min: 22 * 60,
            to_min: 6 * 60,
        };
        for minute in 0..1440 {
            let want = !(6 * 60..22 * 60).contains(&minute);
            assert_eq!(night.holds(minute), want, "{minute}");
            // From the minute before it opens on, the next opening is found by counting.
            let counted = (1..=1440).find(|n| (minute + n) % 1440 == night.from_min);
            assert_eq!(Some(night.opens_in(minute)), counted, "{minute}");
        }
        let always = DayWindow {
            from_min: 77,
            to_min: 77,
        };
        assert!((0..1440).all(|m| always.holds(m)));
        assert_eq!((always.opens_in(77), always.opens_in(76)), (1440, 1));
        assert!(
            DayWindow {
                to_min: 1440,
                ..always
            }
            .validate()
            .is_err()
        );
    }

    #[test]
    fn the_first_window_that_holds_the_minute_limits_the_bandwidth() {
        let window = |from_min, to_min, bytes_per_s| BandwidthWindow {
            window: DayWindow { from_min, to_min },
            bytes_per_s,
        };
        let b = Bandwidth {
            bytes_per_s: 1_000_000,
            windows: vec![window(60, 120, 0), window(100, 200, 70_000)],
        };
        b.validate().unwrap();
        for (minute, want) in [
            (0, Some(1_000_000)),
            (60, None),
            (119, None),
            (120, Some(70_000)),
            (200, Some(1_000_000)),
        ] {
            assert_eq!(b.at(minute), want, "{minute}");
        }
        assert_eq!(Bandwidth::default().at(5), None);
        let bad = [
            Bandwidth {
                bytes_per_s: 65_535,
                ..b.clone()
            },
            Bandwidth {
                windows: vec![window(0, 1, 1)],
                ..b.clone()
            },
            Bandwidth {
                windows: vec![window(0, 1440, 0)],
                ..b.clone()
            },
            Bandwidth {
                windows: vec![window(0, 1, 0); 17],
                ..b.clone()
            },
        ];
        for b in bad {
            assert!(b.validate().is_err(), "{b:?}");
        }
    }

    #[test]
    fn settings_keep_their_limits() {
        let disk = DiskId::new("sys").unwrap();
        let good = ReplicationSettings {
            peer: "b.example.org:8443".into(),
            interval_s: 30,
            history: 24,
            point_spacing_s: 3600,
            any_point_window_s: 3600,
            disks: vec![disk.clone()],
            compression: true,
            application_h: 0,
            auto_resync: None,
            bandwidth: Bandwidth::default(),
        };
        good.validate([&disk]).unwrap();
        let table: [(Spoil, &str); _] = [
            (|s| s.interval_s = 0, "interval_s"),
            (|s| s.interval_s = 901, "interval_s"),
            (|s| s.history = 25, "history"),
            (|s| s.application_h = 13, "application_h"),
            (|s| s.any_point_window_s = 604_801, "any_point_window_s"),
            (
                |s| {
                    s.auto_resync = Some(DayWindow {
                        from_min: 1440,
                        to_min: 0,
                    });
                },
                "minute 1440",
            ),
            (|s| s.bandwidth.bytes_per_s = 1, "65536"),
            (|s| s.point_spacing_s = 0, "point_spacing_s"),
            (|s| s.disks.clear(), "no disk"),
            (|s| s.disks.push(s.disks[0].clone()), "twice"),
            (|s| s.peer = "b".into(), "HOST:PORT"),
            (|s| s.peer = "b:0".into(), "HOST:PORT"),
        ];
        for (spoil, word) in table {
            let mut s = good.clone();
            spoil(&mut s);
            let e = s.validate([&disk]).unwrap_err().to_string();
            assert!(e.contains(word), "{e} should contain {word}");
        }
    }
}
