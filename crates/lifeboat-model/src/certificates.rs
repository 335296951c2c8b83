//! When the end of a certificate is worth a word, and which. Pure: the time of day and the dates are arguments.

use serde::{Deserialize, Serialize};

use crate::hint::{Note, Trust};
use crate::problem::{Finding, ProblemKind};
use crate::time::Timestamp;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateUse {
    /// This host's own, shown to peers.
    Host,
    /// Of an authority whose hosts are trusted.
    Authority,
    /// Shown to clients of the management protocols.
    Management,
    /// A peer's, as it has shown it.
    Peer,
}

/// Days before the end at which an administrator is warned, the earliest first.
pub const WARN_DAYS: [u64; 3] = [30, 14, 7];

const DAY_MS: u64 = 86_400_000;

/// Whether a certificate is valid at an instant, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Validity {
    /// It ends later than the first warning.
    Fine,
    /// It ends within this many days, one of [`WARN_DAYS`].
    Ends {
        /// The threshold that was passed last.
        within_days: u64,
    },
    /// It is not valid yet: most likely a clock is wrong.
    NotYet,
    /// It is over.
    Ended,
}

/// What a certificate that is valid from `not_before` until `not_after` is at `now`.
#[must_use]
pub fn validity(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Validity {
    if now.0 > not_after.0 {
        return Validity::Ended;
    }
    if now.0 < not_before.0 {
        return Validity::NotYet;
    }
    let left = not_after.0 - now.0;
    let passed = WARN_DAYS.into_iter().filter(|days| left <= days * DAY_MS).min();
    passed.map_or(Validity::Fine, |within_days| Validity::Ends { within_days })
}

/// An instant as people read it, in UTC to the minute: `2026-12-01 10:00 UTC`.
#[must_use]
pub fn utc(at: Timestamp) -> String {
    let minutes = at.0 / 60_000;
    let (hour, minute) = (minutes / 60 % 24, minutes % 60);
    // Days are counted from 0000-03-01, so that a leap day ends a year; eras of 400 years are all alike.
    let days = at.0 / DAY_MS + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// A certificate, to be put into words: whose it is, and the way to a new one.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// What it is for.
    pub usage: CertificateUse,
    /// Its file, or the peer that has shown it.
    pub place: &'a str,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
}

impl Described<'_> {
    fn subject(&self) -> String {
        let place = self.place;
        match self.usage {
            CertificateUse::Host => format!("this host's certificate ({place})"),
            CertificateUse::Authority => format!("the authority's certificate ({place})"),
            CertificateUse::Management => format!("the certificate for management ({place})"),
            CertificateUse::Peer => format!("the certificate of {place}"),
        }
    }

    fn renew(&self) -> Trust {
        let place = self.place.to_owned();
        match self.usage {
            CertificateUse::Host | CertificateUse::Management => Trust::Renew { place },
            CertificateUse::Authority => Trust::RenewAuthority { place },
            CertificateUse::Peer => Trust::RenewThere,
        }
    }

    /// What an administrator should know of it at `now`; `None` when nothing. Until the end the text depends on the dates
    /// and the threshold alone, so that each threshold has one text; afterwards it names the clock as well.
    #[must_use]
    pub fn finding(&self, now: Timestamp) -> Option<Finding> {
        let subject = self.subject();
        let found = match validity(self.not_before, self.not_after, now) {
            Validity::Fine => return None,
            Validity::Ends { within_days } => {
                let text = format!(
                    "{subject} ends on {}, in {within_days} days or less, and connections end with it",
                    utc(self.not_after)
                );
                Finding::warning(ProblemKind::CertificateEnds, Note::new(text, self.renew()))
                    .about(format!("{}, {within_days} days", self.place))
            }
            Validity::NotYet => {
                let text = format!(
                    "{subject} is valid from {} on, and the clock of this host says {}",
                    utc(self.not_before),
                    utc(now)
                );
                Finding::critical(ProblemKind::CertificateNotYet, Note::new(text, Trust::SetClock))
                    .about(self.place)
            }
            Validity::Ended => {
                let text = format!(
                    "{subject} ended on {}, and the clock of this host says {}",
                    utc(self.not_after),
                    utc(now)
                );
                Finding::critical(ProblemKind::CertificateEnded, Note::new(text, self.renew()))
                    .about(self.place)
            }
        };
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = DAY_MS;

    #[test]
    fn warnings_come_30_14_and_7_days_before_the_end() {
        let end = Timestamp(100 * DAY);
        let at = |ms: u64| validity(Timestamp(DAY), end, Timestamp(ms));
        for (ms, want) in [
            (0, Validity::NotYet),
            (DAY, Validity::Fine),
            (70 * DAY - 1, Validity::Fine),
            (70 * DAY, Validity::Ends { within_days: 30 }),
            (86 * DAY - 1, Validity::Ends { within_days: 30 }),
            (86 * DAY, Validity::Ends { within_days: 14 }),
            (93 * DAY, Validity::Ends { within_days: 7 }),
            (100 * DAY, Validity::Ends { within_days: 7 }),
            (100 * DAY + 1, Validity::Ended),
        ] {
            assert_eq!(at(ms), want, "{ms}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, want) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_795_340_527, "2026-11-22 09:42 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc(Timestamp(seconds * 1000)), want);
        }
    }

    #[test]
    fn a_finding_names_the_file_the_dates_and_the_way_out() {
        let own = Described {
            usage: CertificateUse::Host,
            place: "/etc/lifeboat/tls/host.crt",
            not_before: Timestamp(1_795_340_527_000),
            not_after: Timestamp(1_795_340_527_000 + 90 * DAY),
        };
        let at = |days: u64| own.finding(Timestamp(own.not_before.0 + days * DAY));
        assert_eq!(at(59), None);
        let soon = at(77).unwrap();
        assert_eq!(soon.health, crate::api::ReplicationHealth::Warning);
        for part in ["/etc/lifeboat/tls/host.crt", "2027-02-20", "14 days"] {
            assert!(soon.text.contains(part), "{}", soon.text);
        }
        let place = own.place.to_owned();
        assert_eq!(soon.hint, Some(Trust::Renew { place }.into()));
        assert_eq!(at(78), at(82), "one text for each threshold");
        let over = at(100).unwrap();
        assert_eq!(over.health, crate::api::ReplicationHealth::Critical);
        for part in ["ended on 2027-02-20", "says 2027-03-02"] {
            assert!(over.text.contains(part), "{}", over.text);
        }
        assert_eq!(over.hint, soon.hint);
        let early = own.finding(Timestamp(0)).unwrap();
        for part in ["valid from 2026-11-22", "says 1970-01-01"] {
            assert!(early.text.contains(part), "{}", early.text);
        }
        assert_eq!(early.hint, Some(Trust::SetClock.into()));
    }
}
