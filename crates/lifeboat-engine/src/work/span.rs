//! A time span in words.

use std::time::Duration;

/// A time span for people, coarse enough not to change with every look.
pub(crate) fn span(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}
