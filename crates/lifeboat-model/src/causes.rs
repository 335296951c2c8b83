//! An error and what caused it, as one line for people. Some errors repeat their cause in their own words, some only keep
//! it; either way it is said once.

use std::error::Error;

/// The error and its causes, separated by colons. What is said already is not said again.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Broken {
        #[error("{path}: {source}")]
        Repeats {
            path: &'static str,
            source: std::fmt::Error,
        },
        #[error("cannot write")]
        Keeps { source: std::fmt::Error },
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = std::fmt::Error.to_string();
        let (path, source) = ("/r", std::fmt::Error);
        assert_eq!(chain(&Broken::Repeats { path, source }), format!("/r: {cause}"));
        assert_eq!(chain(&Broken::Keeps { source }), format!("cannot write: {cause}"));
    }
}
