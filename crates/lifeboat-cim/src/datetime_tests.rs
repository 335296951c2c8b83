//! Datetimes against the calendar of somebody else (the expected numbers come from Python's datetime) and against themselves.

use proptest::prelude::*;

use super::{DateTime, DateTimeError};

const SECOND: i64 = 1_000_000;

#[test]
fn instants_are_read_in_both_forms() {
    for (text, seconds, micros) in [
        ("20240301100000.000000+000", 1_709_287_200, 0),
        ("20240301100000.123456+060", 1_709_283_600, 123_456),
        ("20240301100000.000001-300", 1_709_305_200, 1),
        ("20240301100000.******+000", 1_709_287_200, 0),
        ("20240301100000.12****+000", 1_709_287_200, 120_000),
        ("19691231235959.999999+000", -1, 999_999),
        ("00010101000000.000000+000", -62_135_596_800, 0),
        ("99991231235959.999999+000", 253_402_300_799, 999_999),
        ("2024-03-01T10:00:00Z", 1_709_287_200, 0),
        (" 2024-03-01T10:00:00\n", 1_709_287_200, 0),
        ("2024-02-29T23:59:59.5Z", 1_709_251_199, 500_000),
        ("2024-03-01T10:00:00.1234567+01:30", 1_709_281_800, 123_456),
        ("2000-02-29t00:00:00-00:30", 951_784_200, 0),
    ] {
        assert_eq!(
            DateTime::parse(text),
            Ok(DateTime::Instant(seconds * SECOND + micros)),
            "{text}"
        );
    }
}

#[test]
fn intervals_are_read_in_both_forms() {
    const HOUR: u64 = 3_600_000_000;
    for (text, micros) in [
        ("00000000183000.000000:000", 18 * HOUR + HOUR / 2),
        ("00000001020304.000005:000", 26 * HOUR + 184_000_005),
        ("99999999235959.999999:000", 100_000_000 * 24 * HOUR - 1),
        // A time of day written as an instant without a date.
        ("00000000090000.000000+000", 9 * HOUR),
        ("00000000003000.000000+060", 23 * HOUR + HOUR / 2),
        ("00000000233000.000000-060", HOUR / 2),
        ("P1DT2H", 26 * HOUR),
        ("PT18H30M", 18 * HOUR + HOUR / 2),
        ("PT0S", 0),
        ("P2W", 14 * 24 * HOUR),
        ("PT0.25S", 250_000),
        ("P1DT0H0M1.0000019S", 24 * HOUR + 1_000_001),
    ] {
        assert_eq!(DateTime::parse(text), Ok(DateTime::Interval(micros)), "{text}");
    }
}

#[test]
fn what_is_no_datetime_is_refused() {
    use DateTimeError::{Asterisks, Form, Range};
    for (text, error) in [
        ("", Form),
        ("now", Form),
        ("20240301100000.000000+00", Form),
        ("20240301100000.000000 000", Form),
        ("20240301100000.000000:060", Form),
        ("2024030110000x.000000+000", Form),
        ("2024-03-01", Form),
        ("2024-03-01T10:00", Form),
        ("2024-03-01T10:00:00+1", Form),
        ("2024-03-01T10:00:00.Z", Form),
        ("2024-03-01T10:00:00 MEZ", Form),
        ("ä024-03-01T10:00:00Z", Form),
        ("**************.000000+000", Asterisks),
        ("202403**100000.000000+000", Asterisks),
        ("********183000.000000:000", Asterisks),
        ("20240230100000.000000+000", Range),
        ("20231301100000.000000+000", Range),
        ("20240301240000.000000+000", Range),
        ("2023-02-29T10:00:00Z", Range),
        ("1900-02-29T10:00:00Z", Range),
        ("2024-03-01T10:60:00Z", Range),
        ("2024-03-01T10:00:00+15:00", Range),
        ("0001-01-01T00:00:00+01:00", Range),
        ("9999-12-31T23:59:59-01:00", Range),
        ("P", Form),
        ("PT", Form),
        ("P1", Form),
        ("P1Y", Form),
        ("P1DT", Form),
        ("P1H", Form),
        ("PT1M1H", Form),
        ("PT1.5H", Form),
        ("-PT1S", Range),
        ("P100000000D", Range),
        ("P99999999999999999999D", Form),
        ("PT18446744073709551615S", Range),
    ] {
        assert_eq!(DateTime::parse(text), Err(error), "{text}");
    }
}

#[test]
fn iso_is_as_short_as_it_can_be() {
    for (text, iso) in [
        ("20240301100000.000000+000", "2024-03-01T10:00:00Z"),
        ("20240301100000.120000-060", "2024-03-01T11:00:00.12Z"),
        ("00000000183000.000000:000", "PT18H30M"),
        ("00000001000000.000000:000", "P1D"),
        ("00000001000000.500000:000", "P1DT0.5S"),
        ("00000000000000.000000:000", "PT0S"),
    ] {
        assert_eq!(DateTime::parse(text).unwrap().to_iso(), iso);
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(instant in -62_135_596_800_000_000_i64..=253_402_300_799_999_999, interval in 0..8_640_000_000_000_000_000_u64) {
        for value in [DateTime::Instant(instant), DateTime::Interval(interval)] {
            let cim = value.to_string();
            prop_assert_eq!(cim.len(), 25);
            prop_assert_eq!(DateTime::parse(&cim), Ok(value));
            prop_assert_eq!(DateTime::parse(&value.to_iso()), Ok(value));
        }
    }

    #[test]
    fn nothing_panics(text in "[0-9PTHMSDWZ:.+*ä-]{0,30}", any: i64, interval: u64) {
        let _ = DateTime::parse(&text);
        prop_assert_eq!(DateTime::instant(any).to_string().len(), 25);
        prop_assert_eq!(DateTime::interval(interval).to_string().len(), 25);
        prop_assert_eq!(DateTime::Interval(interval).to_string().len(), 25);
    }
}
