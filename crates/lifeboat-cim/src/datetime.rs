//! CIM's datetime: one type for instants and for intervals, with the 25-character text of DSP0004 and the ISO 8601 forms
//! that WS-Management clients write. No clock and no zones by name.
//!
//! Read leniently, written in one form each: instants always in UTC with six digits of microseconds. Asterisks, with which
//! DSP0004 marks digits that are not known, are read as zeros in the microseconds (WMI writes them there) and refused
//! elsewhere. A date of all zeros makes a time of day, which is an interval (`MonitoringStartTime` is written so).

use std::fmt;
use std::str::FromStr;

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// First day that an interval cannot reach: it has eight digits.
const MAX_DAYS: u64 = 100_000_000;
/// 0001-01-01 00:00:00 UTC.
const FIRST: i64 = -62_135_596_800_000_000;
/// 9999-12-31 23:59:59.999999 UTC.
const LAST: i64 = 253_402_300_799_999_999;

/// An instant or an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DateTime {
    /// Microseconds since 1970-01-01 UTC, years 0001 to 9999.
    Instant(i64),
    /// Microseconds, less than 10^8 days.
    Interval(u64),
}

/// Why a text is no datetime; the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DateTimeError {
    /// Neither form.
    #[error("neither a CIM datetime (yyyymmddhhmmss.mmmmmm+utc or ddddddddhhmmss.mmmmmm:000) nor ISO 8601")]
    Form,
    /// Digits that are not known.
    #[error("asterisks are accepted in the microseconds only")]
    Asterisks,
    /// A month 13, a February 30, an hour 24, a year outside of 1 to 9999.
    #[error("no such date, time or length")]
    Range,
}

impl DateTime {
    /// An instant, moved into the years that can be written.
    #[must_use]
    pub fn instant(micros: i64) -> Self {
        Self::Instant(micros.clamp(FIRST, LAST))
    }

    /// An interval, cut to what can be written.
    #[must_use]
    pub fn interval(micros: u64) -> Self {
        Self::Interval(micros.min(MAX_DAYS * DAY - 1))
    }

    /// Reads CIM's 25 characters, an ISO 8601 instant or an ISO 8601 duration. White space around it does not matter.
    ///
    /// # Errors
    /// Other texts; dates that do not exist; asterisks outside of the microseconds.
    pub fn parse(text: &str) -> Result<Self, DateTimeError> {
        let text = text.trim();
        let bytes = text.as_bytes();
        match bytes {
            [b'P' | b'-', ..] => duration(text),
            _ if bytes.len() == 25 && bytes[14] == b'.' => cim(bytes),
            _ => iso(bytes),
        }
    }

    /// ISO 8601: `2024-03-01T10:00:00Z`, with a fraction only if there is one, or `P1DT2H`.
    #[must_use]
    pub fn to_iso(self) -> String {
        match self {
            Self::Instant(micros) => {
                let c = Civil::of(micros);
                let fraction = fraction(c.micros);
                format!(
                    "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}Z",
                    c.year, c.month, c.day, c.hour, c.minute, c.second
                )
            }
            Self::Interval(micros) => iso_duration(micros),
        }
    }
}

/// CIM's 25 characters.
impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Instant(micros) => {
                let c = Civil::of(micros);
                write!(
                    f,
                    "{:04}{:02}{:02}{:02}{:02}{:02}.{:06}+000",
                    c.year, c.month, c.day, c.hour, c.minute, c.second, c.micros
                )
            }
            Self::Interval(micros) => {
                let micros = micros.min(MAX_DAYS * DAY - 1);
                let (days, hours) = (micros / DAY, micros % DAY / HOUR);
                let (minutes, seconds) = (micros % HOUR / MINUTE, micros % MINUTE / SECOND);
                write!(
                    f,
                    "{days:08}{hours:02}{minutes:02}{seconds:02}.{:06}:000",
                    micros % SECOND
                )
            }
        }
    }
}

impl FromStr for DateTime {
    type Err = DateTimeError;

    fn from_str(text: &str) -> Result<Self, DateTimeError> {
        Self::parse(text)
    }
}

/// A date and time of day in the proleptic Gregorian calendar, UTC.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: u64,
    minute: u64,
    second: u64,
    micros: u64,
}

impl Civil {
    fn of(micros: i64) -> Self {
        let micros = micros.clamp(FIRST, LAST);
        let day = i64::try_from(DAY).unwrap_or(i64::MAX);
        let (days, rest) = (micros.div_euclid(day), micros.rem_euclid(day).unsigned_abs());
        let (year, month, day) = civil_from_days(days);
        Self {
            year,
            month,
            day,
            hour: rest / HOUR,
            minute: rest % HOUR / MINUTE,
            second: rest % MINUTE / SECOND,
            micros: rest % SECOND,
        }
    }

    /// The instant this is at `offset` minutes east of Greenwich.
    fn instant(&self, offset: i64) -> Result<DateTime, DateTimeError> {
        let in_year = (1..=9999).contains(&self.year) && (1..=12).contains(&self.month);
        if !in_year || self.day < 1 || self.day > days_in(self.year, self.month) {
            return Err(DateTimeError::Range);
        }
        let time = i64::try_from(self.time()?).map_err(|_| DateTimeError::Range)?;
        let days = days_from_civil(self.year, self.month, self.day);
        let micros = days * 86_400_000_000 + time - offset * 60_000_000;
        if (FIRST..=LAST).contains(&micros) {
            Ok(DateTime::Instant(micros))
        } else {
            Err(DateTimeError::Range)
        }
    }

    /// Microseconds since midnight.
    fn time(&self) -> Result<u64, DateTimeError> {
        if self.hour < 24 && self.minute < 60 && self.second < 60 {
            Ok(self.hour * HOUR + self.minute * MINUTE + self.second * SECOND + self.micros)
        } else {
            Err(DateTimeError::Range)
        }
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. Years are counted from March, so that the leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = (from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

/// A number of digits only; `None` for anything else.
fn digits(bytes: &[u8]) -> Option<u64> {
    let more = |n: u64, b: &u8| match b {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u64::from(b - b'0')),
        _ => None,
    };
    if bytes.is_empty() {
        None
    } else {
        bytes.iter().try_fold(0, more)
    }
}

fn number(bytes: &[u8]) -> Result<u64, DateTimeError> {
    let asterisks = bytes.contains(&b'*') && bytes.iter().all(|b| b.is_ascii_digit() || *b == b'*');
    digits(bytes).ok_or(if asterisks {
        DateTimeError::Asterisks
    } else {
        DateTimeError::Form
    })
}

fn signed(bytes: &[u8]) -> Result<i64, DateTimeError> {
    i64::try_from(number(bytes)?).map_err(|_| DateTimeError::Range)
}

/// Exactly 25 bytes with a point in the middle.
fn cim(bytes: &[u8]) -> Result<DateTime, DateTimeError> {
    let known: Vec<u8> = bytes[15..21]
        .iter()
        .map(|b| if *b == b'*' { b'0' } else { *b })
        .collect();
    let mut civil = Civil {
        year: 0,
        month: 0,
        day: 0,
        hour: number(&bytes[8..10])?,
        minute: number(&bytes[10..12])?,
        second: number(&bytes[12..14])?,
        micros: number(&known)?,
    };
    let offset = number(&bytes[22..25])?;
    let offset = i64::try_from(offset).map_err(|_| DateTimeError::Range)?;
    let offset = match bytes[21] {
        b':' if offset == 0 => {
            let days = number(&bytes[0..8])?;
            return Ok(DateTime::Interval(days * DAY + civil.time()?));
        }
        b'+' => offset,
        b'-' => -offset,
        _ => return Err(DateTimeError::Form),
    };
    if &bytes[0..8] == b"00000000" {
        return time_of_day(&civil, offset);
    }
    civil.year = signed(&bytes[0..4])?;
    civil.month = signed(&bytes[4..6])?;
    civil.day = signed(&bytes[6..8])?;
    civil.instant(offset)
}

/// A time of day, turned to UTC: it stays within the day.
fn time_of_day(civil: &Civil, offset: i64) -> Result<DateTime, DateTimeError> {
    let time = i64::try_from(civil.time()?).map_err(|_| DateTimeError::Range)?;
    let utc = (time - offset * 60_000_000).rem_euclid(86_400_000_000);
    Ok(DateTime::Interval(utc.unsigned_abs()))
}

/// Microseconds of a decimal fraction; further digits are cut.
fn micros_of(fraction: &[u8]) -> Result<u64, DateTimeError> {
    if fraction.is_empty() || fraction.len() > 18 || !fraction.iter().all(u8::is_ascii_digit) {
        return Err(DateTimeError::Form);
    }
    let mut six = [b'0'; 6];
    for (to, from) in six.iter_mut().zip(fraction) {
        *to = *from;
    }
    number(&six)
}

/// `yyyy-mm-ddThh:mm:ss[.f][Z|+hh:mm]`; without a zone it is UTC.
fn iso(bytes: &[u8]) -> Result<DateTime, DateTimeError> {
    let [
        y0,
        y1,
        y2,
        y3,
        b'-',
        m0,
        m1,
        b'-',
        d0,
        d1,
        b'T' | b't' | b' ',
        h0,
        h1,
        b':',
        n0,
        n1,
        b':',
        s0,
        s1,
        rest @ ..,
    ] = bytes
    else {
        return Err(DateTimeError::Form);
    };
    let (fraction, zone) = match rest {
        [b'.', rest @ ..] => {
            let end = rest
                .iter()
                .position(|b| !b.is_ascii_digit())
                .unwrap_or(rest.len());
            (micros_of(&rest[..end])?, &rest[end..])
        }
        _ => (0, rest),
    };
    let civil = Civil {
        year: signed(&[*y0, *y1, *y2, *y3])?,
        month: signed(&[*m0, *m1])?,
        day: signed(&[*d0, *d1])?,
        hour: number(&[*h0, *h1])?,
        minute: number(&[*n0, *n1])?,
        second: number(&[*s0, *s1])?,
        micros: fraction,
    };
    let offset = match zone {
        [] | [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (signed(&[*h0, *h1])?, signed(&[*m0, *m1])?);
            if hours > 14 || minutes > 59 {
                return Err(DateTimeError::Range);
            }
            let minutes = hours * 60 + minutes;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return Err(DateTimeError::Form),
    };
    civil.instant(offset)
}

/// `PnDTnHnMnS`. Years and months have no length; a negative interval does not exist in CIM.
fn duration(text: &str) -> Result<DateTime, DateTimeError> {
    let body = text.strip_prefix('P').ok_or(DateTimeError::Range)?;
    let (date, time) = match body.split_once('T') {
        Some((_, "")) => return Err(DateTimeError::Form),
        Some((date, time)) => (date, time),
        None => (body, ""),
    };
    if date.is_empty() && time.is_empty() {
        return Err(DateTimeError::Form);
    }
    let weeks = [(b'W', 7 * DAY), (b'D', DAY)];
    let hours = [(b'H', HOUR), (b'M', MINUTE), (b'S', SECOND)];
    let total = parts(date.as_bytes(), &weeks)?
        .checked_add(parts(time.as_bytes(), &hours)?)
        .filter(|total| *total < MAX_DAYS * DAY);
    total.map(DateTime::Interval).ok_or(DateTimeError::Range)
}

/// The sum of designated numbers, each designator at most once and in order.
fn parts(mut rest: &[u8], mut units: &[(u8, u64)]) -> Result<u64, DateTimeError> {
    let mut total = 0_u64;
    while !rest.is_empty() {
        let end = rest
            .iter()
            .position(u8::is_ascii_alphabetic)
            .ok_or(DateTimeError::Form)?;
        let at = units
            .iter()
            .position(|(d, _)| *d == rest[end])
            .ok_or(DateTimeError::Form)?;
        let (designator, unit) = units[at];
        let value = match rest[..end].iter().position(|b| *b == b'.') {
            Some(point) if designator == b'S' => number(&rest[..point])?
                .checked_mul(unit)
                .zip(Some(micros_of(&rest[point + 1..end])?))
                .and_then(|(seconds, micros)| seconds.checked_add(micros)),
            _ => number(&rest[..end])?.checked_mul(unit),
        };
        total = value
            .and_then(|v| total.checked_add(v))
            .ok_or(DateTimeError::Range)?;
        (rest, units) = (&rest[end + 1..], &units[at + 1..]);
    }
    Ok(total)
}

/// `.5`, without trailing zeros; nothing for zero.
fn fraction(micros: u64) -> String {
    match micros {
        0 => String::new(),
        _ => format!(".{micros:06}").trim_end_matches('0').to_owned(),
    }
}

fn iso_duration(micros: u64) -> String {
    let seconds = format!("{}{}", micros % MINUTE / SECOND, fraction(micros % SECOND));
    let part = |n: u64, unit: char| match n {
        0 => String::new(),
        n => format!("{n}{unit}"),
    };
    let (days, hours) = (part(micros / DAY, 'D'), part(micros % DAY / HOUR, 'H'));
    let minutes = part(micros % HOUR / MINUTE, 'M');
    let seconds = if seconds == "0" {
        String::new()
    } else {
        format!("{seconds}S")
    };
    match (
        days.is_empty(),
        hours.is_empty() && minutes.is_empty() && seconds.is_empty(),
    ) {
        (true, true) => "PT0S".to_owned(),
        (false, true) => format!("P{days}"),
        (_, false) => format!("P{days}T{hours}{minutes}{seconds}"),
    }
}

#[cfg(test)]
#[path = "datetime_tests.rs"]
mod tests;
