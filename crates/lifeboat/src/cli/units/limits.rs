//! Limits of bandwidth, windows of the day and networks as people write and read them. What may be asked for is the
//! model's; here is only how it is written.

use std::fmt::Write;
use std::str::FromStr;

use lifeboat_model::{Bandwidth, BandwidthWindow, DayWindow, NicBackend};

use super::size;

/// Bytes per second; 0 is unlimited. Written `10MiB/s`, `100Mbit/s`, `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) u64);

/// Bytes; `None` is no limit. Written `500GiB`, `2TB`, `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) Option<u64>);

/// Units of amounts: name, bytes.
const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A number and its unit.
fn amount(text: &str) -> Option<(u64, &str)> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

/// Bytes of an amount; nought is more likely a slip: no limit is asked for by its word.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = amount(text)?;
    let (_, factor) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*factor).filter(|bytes| *bytes > 0)
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            text => bytes(text)
                .map(|bytes| Self(Some(bytes)))
                .ok_or_else(|| format!("\"{text}\" is not a size: write 500GiB, 2TiB, or none")),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const BITS: [(&str, u64); 3] = [("Kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)];
        if text == "none" {
            return Ok(Self(0));
        }
        let wrong = || format!("\"{text}\" is not a rate: write 10MiB/s, 100Mbit/s, or none");
        let plain = text.strip_suffix("/s").unwrap_or(text);
        let bits = amount(plain).and_then(|(number, unit)| {
            let (_, factor) = BITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
            number.checked_mul(*factor).filter(|bits| *bits > 0)
        });
        let rate = bytes(plain).or(bits.map(|bits| bits / 8));
        rate.map(Self).ok_or_else(wrong)
    }
}

/// A limit for a part of the day, `22:00-06:00=none`; or `none`, which stands for having no such limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitWindow(pub(crate) Option<BandwidthWindow>);

impl FromStr for LimitWindow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let (when, rate) = text
            .split_once('=')
            .ok_or_else(|| format!("\"{text}\" is not a limit: write 08:00-18:00=10MiB/s"))?;
        Ok(Self(Some(BandwidthWindow {
            window: day_window(when)?,
            bytes_per_s: rate.parse::<Rate>()?.0,
        })))
    }
}

/// When something may begin by itself: `any`, `off`, `22:00-06:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AutoResync(pub(crate) Option<DayWindow>);

impl FromStr for AutoResync {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self(Some(WHOLE_DAY))),
            "off" => Ok(Self(None)),
            other => day_window(other).map(|w| Self(Some(w))),
        }
    }
}

const WHOLE_DAY: DayWindow = DayWindow {
    from_min: 0,
    to_min: 0,
};

fn day_window(text: &str) -> Result<DayWindow, String> {
    let ends = text.split_once('-');
    let (from, to) = ends.ok_or_else(|| format!("\"{text}\" is not a part of the day: write 22:00-06:00"))?;
    Ok(DayWindow {
        from_min: minute(from)?,
        // 24:00 is how people write the end of a day.
        to_min: if to == "24:00" { 0 } else { minute(to)? },
    })
}

/// Reads `6:30` as a minute of the day.
pub(crate) fn minute(text: &str) -> Result<u16, String> {
    let wrong = || format!("\"{text}\" is not a time of day: write 06:30");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str, end: u16| {
        let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let n = text.parse::<u16>().ok().filter(|_| digits);
        n.filter(|n| *n < end).ok_or_else(wrong)
    };
    if minute.len() != 2 {
        return Err(wrong());
    }
    Ok(number(hour, 24)? * 60 + number(minute, 60)?)
}

/// `06:30`.
pub(crate) fn clock_time(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// `22:00 to 06:00`, `at any time`.
pub(crate) fn window(w: DayWindow) -> String {
    if w.from_min == w.to_min {
        "at any time".into()
    } else {
        format!("{} to {}", clock_time(w.from_min), clock_time(w.to_min))
    }
}

/// `10.0 MiB/s, 22:00 to 06:00 unlimited`.
pub(crate) fn bandwidth(b: &Bandwidth) -> String {
    let rate = |bytes: u64| match bytes {
        0 => "unlimited".to_owned(),
        n => format!("at most {}/s", size(n)),
    };
    let mut text = rate(b.bytes_per_s);
    for w in &b.windows {
        let _ = write!(text, "; {} {}", window(w.window), rate(w.bytes_per_s));
    }
    text
}

/// Reads `none`, `user`, `tap:web0`, `bridge:br0`.
pub(crate) fn network(text: &str) -> Result<NicBackend, String> {
    match text {
        "none" => Ok(NicBackend::None),
        "user" => Ok(NicBackend::User),
        other => match other.split_once(':') {
            Some(("tap", name)) if !name.is_empty() => Ok(NicBackend::Tap { ifname: name.into() }),
            Some(("bridge", name)) if !name.is_empty() => Ok(NicBackend::Bridge { name: name.into() }),
            _ => Err(format!(
                "\"{text}\" is not a network: write none, user, tap:INTERFACE, or bridge:INTERFACE"
            )),
        },
    }
}

/// What a card is connected to.
pub(crate) fn backend(b: &NicBackend) -> String {
    match b {
        NicBackend::None => "nothing".into(),
        NicBackend::User => "the user-mode network".into(),
        NicBackend::Tap { ifname } => format!("tap {ifname}"),
        NicBackend::Bridge { name } => format!("bridge {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("none", None),
            ("512B", Some(512)),
            ("500GiB", Some(500 << 30)),
            ("2 tib", Some(2 << 40)),
            ("3TB", Some(3_000_000_000_000)),
        ] {
            assert_eq!(text.parse(), Ok(Size(want)), "{text}");
        }
        for bad in [
            "",
            "0",
            "0GiB",
            "500",
            "GiB",
            "5G",
            "-1GiB",
            "1.5TiB",
            "99999999TiB",
            "10Mbit",
            "1GiB/s",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates() {
        for (text, want) in [
            ("none", 0),
            ("65536B", 65_536),
            ("10MiB/s", 10 << 20),
            ("10mib", 10 << 20),
            ("1GB/s", 1_000_000_000),
            ("100Mbit/s", 12_500_000),
            ("64 KiB/s", 65_536),
        ] {
            assert_eq!(text.parse(), Ok(Rate(want)), "{text}");
        }
        for bad in [
            "",
            "0",
            "0MiB/s",
            "10",
            "MiB",
            "10M",
            "-1MiB",
            "1.5MiB",
            "99999999999GiB",
            "10MiB/m",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn windows() {
        let night = DayWindow {
            from_min: 1320,
            to_min: 390,
        };
        assert_eq!("22:00-6:30".parse(), Ok(AutoResync(Some(night))));
        assert_eq!("off".parse(), Ok(AutoResync(None)));
        assert_eq!("00:00-24:00".parse::<AutoResync>(), "any".parse());
        assert_eq!("none".parse(), Ok(LimitWindow(None)));
        let limit = BandwidthWindow {
            window: night,
            bytes_per_s: 0,
        };
        assert_eq!("22:00-06:30=none".parse(), Ok(LimitWindow(Some(limit))));
        for bad in [
            "",
            "22:00",
            "22:00-",
            "22-6",
            "24:00-6:00",
            "22:60-6:00",
            "+2:00-6:00",
            "22:0-6:00",
        ] {
            assert!(bad.parse::<AutoResync>().is_err(), "{bad}");
        }
        for bad in ["22:00-06:00", "22:00-06:00=", "=10MiB/s", "22:00-06:00=10"] {
            assert!(bad.parse::<LimitWindow>().is_err(), "{bad}");
        }
        let all = Bandwidth {
            bytes_per_s: 10 << 20,
            windows: vec![limit],
        };
        assert_eq!(bandwidth(&all), "at most 10.0 MiB/s; 22:00 to 06:30 unlimited");
    }

    #[test]
    fn networks() {
        assert_eq!(network("tap:web0").map(|n| backend(&n)), Ok("tap web0".into()));
        assert_eq!(
            network("bridge:br0").map(|n| backend(&n)),
            Ok("bridge br0".into())
        );
        for bad in ["", "tap", "tap:", "bridge", "bridge:", "switch:a"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
