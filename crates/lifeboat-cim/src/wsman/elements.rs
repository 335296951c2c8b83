//! Values that elements hold, in the header as in the body: numbers, durations, and how much or how long.

use std::time::Duration;

use lifeboat_xml::Element;

use super::fault::{Fault, FaultKind};
use super::{Expires, MAX_ITEMS};
use crate::datetime::DateTime;

/// A whole number that is not negative; what is too large becomes the largest.
pub(super) fn number(element: &Element) -> Result<usize, Fault> {
    let text = element.text();
    let digits = text.trim().strip_prefix('+').unwrap_or(text.trim());
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        Ok(digits.parse().unwrap_or(usize::MAX))
    } else {
        let message = format!("{} is not a whole number", element.name);
        Err(Fault::new(FaultKind::SchemaValidation, message))
    }
}

/// An xs:duration.
pub(super) fn duration(name: &str, text: &str) -> Result<Duration, Fault> {
    match DateTime::parse(text.trim()) {
        Ok(DateTime::Interval(micros)) => Ok(Duration::from_micros(micros)),
        _ => {
            let message = format!("{name} is not a duration such as PT60S");
            Err(Fault::new(FaultKind::SchemaValidation, message))
        }
    }
}

/// At least 1, which is also what nothing means.
pub(super) fn max_elements(element: Option<&Element>) -> Result<usize, Fault> {
    match element.map(number).transpose()? {
        None => Ok(1),
        Some(0) => Err(Fault::new(
            FaultKind::SchemaValidation,
            "MaxElements must be at least 1",
        )),
        Some(n) => Ok(n.min(MAX_ITEMS)),
    }
}

/// A duration or an instant.
pub(super) fn expires(element: Option<&Element>, wrong: FaultKind) -> Result<Option<Expires>, Fault> {
    let Some(element) = element else {
        return Ok(None);
    };
    match DateTime::parse(element.text().trim()) {
        Ok(DateTime::Interval(micros)) => Ok(Some(Expires::In(Duration::from_micros(micros)))),
        Ok(DateTime::Instant(micros)) => Ok(Some(Expires::At(micros))),
        Err(e) => Err(Fault::new(wrong, format!("Expires: {e}"))),
    }
}
