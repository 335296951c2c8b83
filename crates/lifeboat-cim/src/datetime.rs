//! CIM's datetime: one type for instants and for intervals, with the 25-character text of DSP0004 and the ISO 8601 forms
//! that WS-Management clients write. No clock and no zones by name.

/// An instant or an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DateTime {
    /// Microseconds since 1970-01-01 UTC, years 0001 to 9999.
    Instant(i64),
    /// Microseconds, less than 10^8 days.
    Interval(u64),
}
