//! Amounts and times as people write and read them. Now and the time zone come in as arguments.

mod limits;

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Zoned};
use lifeboat_model::Timestamp;

pub(crate) use limits::{
    AutoResync, LimitWindow, Rate, Size, backend, bandwidth, clock_time, minute, network, window,
};

/// Reads `30s`, `5m`, `1h30m`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a time span: write 30s, 5m, 1h30m or 7d");
    let (mut total, mut rest) = (0u64, text);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let factor = match tail.chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number
            .checked_mul(factor)
            .and_then(|s| total.checked_add(s))
            .ok_or_else(wrong)?;
        rest = &tail[1..];
    }
    Ok(Duration::from_secs(total))
}

/// Like [`duration`], as a number of seconds that fits.
pub(crate) fn seconds<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    T::try_from(duration(text)?.as_secs()).map_err(|_| format!("\"{text}\" is too long"))
}

/// `850ms`, `12s`, `4m07s`, `3h05m`, `2d04h`: two places are enough to decide on.
pub(crate) fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 => format!("{}ms", d.as_millis()),
        1..10 => format!("{s}.{}s", d.subsec_millis() / 100),
        10..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `512 B`, `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // In tenths, rounded, in integers: 64-bit sizes do not fit a float exactly.
    let (mut tenths, mut unit) = ((u128::from(bytes) * 10 + 512) / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths = (tenths + 512) / 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// An instant in a time zone, by RFC 3339, to the second.
pub(crate) fn instant(at: Timestamp, zone: &TimeZone) -> String {
    let at = i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    match at {
        Some(at) => at
            .to_zoned(zone.clone())
            .strftime("%Y-%m-%d %H:%M:%S%:z")
            .to_string(),
        None => "out of range".into(),
    }
}

/// Reads a time in the past: `10:42` (the latest that has been), `10:42:07`, `today 10:42`, `yesterday 10:42`, `-5m`,
/// `2026-11-22 10:42` in the local zone, or RFC 3339. A time without a fraction means the whole of its second, because
/// that is how lists show instants.
pub(crate) fn past(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Some(back) = text.strip_prefix('-') {
        let back = SignedDuration::try_from(duration(back)?).map_err(|e| e.to_string())?;
        return stamp(now.timestamp().checked_sub(back).map_err(|e| e.to_string())?);
    }
    let at = match text.parse::<jiff::Timestamp>() {
        Ok(at) => at,
        Err(_) => local(text, now, Side::Past)?,
    };
    let rest = if text.contains('.') { 0 } else { 999 };
    stamp(
        at.checked_add(SignedDuration::from_millis(rest))
            .map_err(|e| e.to_string())?,
    )
}

/// Reads a time to come: `22:00` (the next that will be), `today 22:00`, `tomorrow 6:30`, `+30m`, `2026-11-22 22:00` in the
/// local zone, or RFC 3339. Whether it has passed already is for the caller.
pub(crate) fn future(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Some(ahead) = text.strip_prefix('+') {
        let ahead = SignedDuration::try_from(duration(ahead)?).map_err(|e| e.to_string())?;
        return stamp(now.timestamp().checked_add(ahead).map_err(|e| e.to_string())?);
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => stamp(at),
        Err(_) => stamp(local(text, now, Side::Future)?),
    }
}

/// On which side of now a time is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Past,
    Future,
}

fn stamp(at: jiff::Timestamp) -> Result<Timestamp, String> {
    let ms = u64::try_from(at.as_millisecond());
    ms.map(Timestamp).map_err(|_| "that is before 1970".into())
}

fn local(text: &str, now: &Zoned, side: Side) -> Result<jiff::Timestamp, String> {
    let wrong = || match side {
        Side::Past => format!(
            "\"{text}\" is not a time: write 10:42, 10:42:07, \"yesterday 10:42\", -5m or 2026-11-22T10:42:07+01:00"
        ),
        Side::Future => format!(
            "\"{text}\" is not a time: write 22:00, \"tomorrow 6:30\", +30m or 2026-11-22T22:00:00+01:00"
        ),
    };
    let today = now.date();
    let other = |side| match side {
        Side::Past => today.yesterday().map_err(|e| e.to_string()),
        Side::Future => today.tomorrow().map_err(|e| e.to_string()),
    };
    if let Some((day, time)) = text.split_once(' ') {
        let day = match (day, side) {
            ("today", _) => Some(today),
            ("yesterday", Side::Past) | ("tomorrow", Side::Future) => Some(other(side)?),
            _ => None,
        };
        if let Some(day) = day {
            return resolve(
                clock(time.trim()).ok_or_else(wrong)?.on_date(day),
                now.time_zone(),
            );
        }
    }
    if let Some(time) = clock(text) {
        let at = resolve(time.on_date(today), now.time_zone());
        return match at {
            Ok(at) if (at > now.timestamp()) == (side == Side::Past) => {
                resolve(time.on_date(other(side)?), now.time_zone())
            }
            here => here,
        };
    }
    resolve(text.parse().map_err(|_| wrong())?, now.time_zone())
}

trait OnDate {
    fn on_date(self, day: Date) -> DateTime;
}

impl OnDate for Time {
    fn on_date(self, day: Date) -> DateTime {
        day.to_datetime(self)
    }
}

fn clock(text: &str) -> Option<Time> {
    // Hours with or without a leading zero, always with a colon: "1042" could be a year.
    let padded = if text.find(':')? == 1 {
        format!("0{text}")
    } else {
        text.to_owned()
    };
    let plain = padded
        .bytes()
        .all(|b| b.is_ascii_digit() || b == b':' || b == b'.');
    if plain { padded.parse().ok() } else { None }
}

/// Twice a year a clock shows a time twice, or never: then there is no guessing.
fn resolve(at: DateTime, zone: &TimeZone) -> Result<jiff::Timestamp, String> {
    let zoned = zone.to_ambiguous_zoned(at);
    match zoned.offset() {
        AmbiguousOffset::Unambiguous { .. } => zoned
            .unambiguous()
            .map(|z| z.timestamp())
            .map_err(|e| e.to_string()),
        AmbiguousOffset::Gap { .. } => Err(format!("the clock never showed {at}: it was put forward then")),
        AmbiguousOffset::Fold { before, after } => Err(format!(
            "the clock showed {at} twice: write {at}{before:#} or {at}{after:#}",
            before = Hm(before),
            after = Hm(after)
        )),
    }
}

/// An offset as `+01:00`.
struct Hm(jiff::tz::Offset);

impl std::fmt::Display for Hm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = self.0.seconds();
        let sign = if s < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", s.abs() / 3600, s.abs() % 3600 / 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("0s", 0),
            ("30s", 30),
            ("5m", 300),
            ("1h30m", 5400),
            ("7d", 604_800),
            ("1m1m", 120),
        ] {
            assert_eq!(duration(text).unwrap().as_secs(), want, "{text}");
        }
        for bad in [
            "",
            "30",
            "s",
            "5 m",
            "-5m",
            "1.5h",
            "1w",
            "99999999999999999999s",
            "9999999999999999d",
            "5m3",
            "5ü",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds::<u16>("15m"), Ok(900));
        assert!(seconds::<u16>("1d").unwrap_err().contains("too long"));
    }

    #[test]
    fn spans_and_sizes() {
        for (ms, want) in [
            (0, "0ms"),
            (850, "850ms"),
            (1_000, "1.0s"),
            (9_960, "9.9s"),
            (12_400, "12s"),
            (247_000, "4m07s"),
            (11_100_000, "3h05m"),
            (187_200_000, "2d04h"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), want);
        }
        for (bytes, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), want);
        }
    }

    /// 2026-11-22 10:45:30 in a zone one hour east.
    fn now() -> Zoned {
        "2026-11-22T10:45:30+01:00[+01:00]".parse().unwrap()
    }

    fn at(text: &str, now: &Zoned) -> String {
        let stamp = past(text, now).unwrap_or_else(|e| panic!("{text}: {e}"));
        jiff::Timestamp::from_millisecond(stamp.0.try_into().unwrap())
            .unwrap()
            .to_string()
    }

    #[test]
    fn times_in_the_past() {
        for (text, want) in [
            ("10:42", "2026-11-22T09:42:00.999Z"),
            ("10:42:07", "2026-11-22T09:42:07.999Z"),
            ("10:42:07.250", "2026-11-22T09:42:07.25Z"),
            ("9:05", "2026-11-22T08:05:00.999Z"),
            ("23:50", "2026-11-21T22:50:00.999Z"),
            ("today 23:50", "2026-11-22T22:50:00.999Z"),
            ("yesterday 10:42", "2026-11-21T09:42:00.999Z"),
            ("-5m", "2026-11-22T09:40:30Z"),
            ("-1h30m", "2026-11-22T08:15:30Z"),
            ("2026-11-20 08:00", "2026-11-20T07:00:00.999Z"),
            ("2026-11-20T08:00:01", "2026-11-20T07:00:01.999Z"),
            ("2026-11-22T10:42:07Z", "2026-11-22T10:42:07.999Z"),
            ("2026-11-22T10:42:07.5+02:00", "2026-11-22T08:42:07.5Z"),
            ("2026-11-22 10:42:07+01:00", "2026-11-22T09:42:07.999Z"),
        ] {
            assert_eq!(at(text, &now()), want, "{text}");
        }
        for bad in [
            "",
            "1042",
            "25:00",
            "10:60",
            "tomorrow 10:42",
            "10",
            "-5",
            "--5m",
            "1950-01-01T00:00:00Z",
            "noon",
            "10:42 Uhr",
        ] {
            assert!(past(bad, &now()).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_to_come() {
        let at = |text| {
            let stamp = future(text, &now()).unwrap_or_else(|e| panic!("{text}: {e}"));
            let ms = stamp.0.try_into().unwrap();
            jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
        };
        for (text, want) in [
            ("22:00", "2026-11-22T21:00:00Z"),
            ("10:42", "2026-11-23T09:42:00Z"),
            ("today 22:00", "2026-11-22T21:00:00Z"),
            ("tomorrow 6:30", "2026-11-23T05:30:00Z"),
            ("+30m", "2026-11-22T10:15:30Z"),
            ("2026-11-25 08:00", "2026-11-25T07:00:00Z"),
            ("2026-11-22T22:00:00Z", "2026-11-22T22:00:00Z"),
        ] {
            assert_eq!(at(text), want, "{text}");
        }
        for bad in ["", "tonight", "yesterday 10:42", "-5m", "+5", "25:00"] {
            let e = future(bad, &now()).unwrap_err();
            assert!(
                e.contains("tomorrow 6:30") || e.contains("time span"),
                "{bad}: {e}"
            );
        }
    }

    #[test]
    fn what_a_list_shows_can_be_given_back() {
        let zone = now().time_zone().clone();
        let shown = instant(Timestamp(1_795_340_527_350), &zone);
        assert_eq!(shown, "2026-11-22 10:42:07+01:00");
        assert!(past(&shown, &now()).unwrap() >= Timestamp(1_795_340_527_350));
    }

    #[test]
    fn hours_that_are_there_twice_or_not_at_all_are_not_guessed() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let autumn = "2026-10-25T12:00:00Z"
            .parse::<jiff::Timestamp>()
            .unwrap()
            .to_zoned(zone.clone());
        let twice = past("2:30", &autumn).unwrap_err();
        assert!(
            twice.contains("2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00"),
            "{twice}"
        );
        assert_eq!(
            at("2026-10-25T02:30:00+02:00", &autumn),
            "2026-10-25T00:30:00.999Z"
        );
        let spring = "2026-03-29T12:00:00Z"
            .parse::<jiff::Timestamp>()
            .unwrap()
            .to_zoned(zone);
        assert!(past("2:30", &spring).unwrap_err().contains("never showed"));
    }
}
