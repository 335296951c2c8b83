//! What can be done about a refusal or a problem, as values. A surface puts them into its own words: a command to type, a button,
//! a method to call. No words of any surface are here. Reasons are not either: what is wrong is said by a message, and which kind
//! of thing it is by a [`ProblemKind`](crate::ProblemKind).
//!
//! Hints cross to other hosts and lie in records. A code that was published is not given another meaning; one that is not known
//! here, because a newer release wrote it, is left out.

mod again;
mod failover;
mod guest;
mod look;
mod replicate;
mod trust;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

pub use again::Again;
pub use failover::{Failover, Planned};
pub use guest::Guest;
pub use look::Look;
pub use replicate::{Copies, Extend, Replicate};
pub use trust::Trust;

/// Declares a group of hints, each with the code by which documents and programs know it.
macro_rules! hints {
    ($(#[$about:meta])* $group:ident {
        $($(#[$doc:meta])* $hint:ident $({ $($(#[$told:meta])* $field:ident: $type:ty),+ $(,)? })? = $code:literal,)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "code")]
        pub enum $group {
            $($(#[$doc])* #[serde(rename = $code)] $hint $({ $($(#[$told])* $field: $type),+ })?,)+
        }

        impl $group {
            /// All codes of the group.
            pub const CODES: &[&str] = &[$($code),+];

            /// The code of this one, in lower case with hyphens.
            #[must_use]
            pub fn code(&self) -> &'static str {
                match self {
                    $(Self::$hint { .. } => $code,)+
                }
            }
        }

        impl From<$group> for crate::hint::Hint {
            fn from(hint: $group) -> Self {
                Self::$group(hint)
            }
        }
    };
}
use hints;

/// What can be done. Written as an object with the field `code`, and with what is needed besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Hint {
    /// Something tells more.
    Look(Look),
    /// The same again, in another way, by another person or later.
    Again(Again),
    /// To the guest, or its process.
    Guest(Guest),
    /// To the replication of the VM.
    Replicate(Replicate),
    /// To the copies of the VM.
    Copies(Copies),
    /// To the relationship with a third host.
    Extend(Extend),
    /// A failover or a test.
    Failover(Failover),
    /// A planned failover, or what keeps two hosts from running the VM.
    Planned(Planned),
    /// To certificates, keys and authorization, here or there.
    Trust(Trust),
}

impl Hint {
    /// The code of this one.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Look(hint) => hint.code(),
            Self::Again(hint) => hint.code(),
            Self::Guest(hint) => hint.code(),
            Self::Replicate(hint) => hint.code(),
            Self::Copies(hint) => hint.code(),
            Self::Extend(hint) => hint.code(),
            Self::Failover(hint) => hint.code(),
            Self::Planned(hint) => hint.code(),
            Self::Trust(hint) => hint.code(),
        }
    }

    /// Every code there is, each once.
    pub fn codes() -> impl Iterator<Item = &'static str> {
        [
            Look::CODES,
            Again::CODES,
            Guest::CODES,
            Replicate::CODES,
            Copies::CODES,
            Extend::CODES,
            Failover::CODES,
            Planned::CODES,
            Trust::CODES,
        ]
        .into_iter()
        .flatten()
        .copied()
    }
}

/// For serde: a hint of another host, of a record or of a daemon, or none. What is no hint that is known here is none.
///
/// # Errors
/// What is there is no value at all.
pub fn told<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Hint>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Told {
        Known(Hint),
        Other(IgnoredAny),
    }
    Ok(match Option::<Told>::deserialize(from)? {
        Some(Told::Known(hint)) => Some(hint),
        Some(Told::Other(_)) | None => None,
    })
}

/// What is told of something that happened: a sentence about it, and what can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What happened, without what to do.
    pub text: String,
    /// What can be done; `None`: there is nothing.
    pub hint: Option<Hint>,
}

impl Note {
    /// A sentence with what can be done.
    #[must_use]
    pub fn new(text: impl Into<String>, hint: impl Into<Hint>) -> Self {
        Self {
            text: text.into(),
            hint: Some(hint.into()),
        }
    }

    /// The same with another sentence around its own.
    #[must_use]
    pub fn within(self, around: impl FnOnce(&str) -> String) -> Self {
        Self {
            text: around(&self.text),
            hint: self.hint,
        }
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for Note {
    fn from(text: String) -> Self {
        Self { text, hint: None }
    }
}

impl From<&str> for Note {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&String> for Note {
    fn from(text: &String) -> Self {
        text.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Record {
        #[serde(default, deserialize_with = "told")]
        hint: Option<Hint>,
    }

    fn read(text: &str) -> Option<Hint> {
        serde_json::from_str::<Record>(text).unwrap().hint
    }

    #[test]
    fn codes_are_unique_and_in_lower_case_with_hyphens() {
        let all: Vec<&str> = Hint::codes().collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for code in all {
            let plain = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(code.chars().all(plain) && !code.starts_with('-'), "{code}");
        }
    }

    #[test]
    fn a_hint_is_written_as_its_code_with_what_it_needs() {
        let plain = Hint::from(Look::Vms);
        let written = serde_json::to_value(&plain).unwrap();
        assert_eq!(written, serde_json::json!({ "code": "list-vms" }));
        let named = Hint::from(Failover::UsePoint { point: "4f".into() });
        let written = serde_json::to_value(&named).unwrap();
        assert_eq!(written, serde_json::json!({ "code": "use-point", "point": "4f" }));
        assert_eq!(serde_json::from_value::<Hint>(written).unwrap(), named);
        assert_eq!(named.code(), "use-point");
    }

    #[test]
    fn what_is_no_known_hint_is_none() {
        for text in [
            "{}",
            r#"{"hint": null}"#,
            r#"{"hint": ""}"#,
            r#"{"hint": "try again"}"#,
            r#"{"hint": {"code": "made-up-later", "with": 1}}"#,
            r#"{"hint": {"code": "use-point"}}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(
            read(r#"{"hint": {"code": "try-again"}}"#),
            Some(Again::Later.into())
        );
    }

    #[test]
    fn what_another_host_says_in_a_hint_moves_no_terminal() {
        let said = read(r#"{"hint": {"code": "use-point", "point": "a\u001b[2Jb"}}"#);
        let want = Failover::UsePoint {
            point: "a [2Jb".into(),
        };
        assert_eq!(said, Some(want.into()));
    }
}
