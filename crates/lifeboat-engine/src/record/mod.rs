//! What the engine remembers: relationships with their intents, jobs, events, requests, settings. These are the documents of the
//! catalog and of nothing else: what surfaces show is [`crate::action`]'s, what hosts say to each other is
//! [`crate::ports::link`]'s. Field names are part of the format.
//!
//! A field that is added has its default in one place: the `Default` of its record, which is what a document has that does not
//! say the field, and what the maker of a record gets that does not either. A change that a version before could not read
//! rightly needs a new [`Record::VERSION`], and a reader then has to take both. Version 1 is not written: its documents
//! are those of the versions that wrote none, and can be read by them.

pub(crate) mod access;
mod condition;
mod event;
mod job;
mod keeping;
mod outgoing;
mod primary;
mod relationship;
mod replica;
mod request;
mod sealing;
mod settings;

pub use crate::common::problem::Problem;
pub use condition::Counters;
pub use event::Event;
pub use job::Job;
pub use keeping::{History, Hold, Keeping, Reason};
use lifeboat_model::{Bandwidth, GenerationId, Position, ReplicationSettings};
pub use outgoing::{Comparison, Outgoing, OutgoingRelationship};
pub use primary::{Planned, PlannedPhase, PrimarySide, Sent, Split, SyncKind, Synchronization, Transfer};
pub use relationship::{Addressing, Home, KnownKey, Relationship, Side};
pub use replica::{Failover, FailoverPhase, Import, ReplicaSide, Reverse, TakeOver, Test, TestPhase};
pub use request::{Request, RequestState};
pub use sealing::Sealing;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
pub use settings::ServerSettings;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The position of a copy that has none: nothing continues it.
pub(crate) const NOWHERE: Position = Position::start(GenerationId(Uuid::nil()));

/// A document of the catalog.
pub trait Record: Serialize + DeserializeOwned {
    /// The newest version that is known, from 1.
    const VERSION: u32 = 1;
    /// Fields that every document has, where the type itself has a default for all of them.
    const REQUIRED: &'static [&'static str];

    /// The version that this record is written in: the oldest that says all of it, so that a release before can go on with what
    /// it would have written itself.
    fn version(&self) -> u32 {
        Self::VERSION
    }
}

/// Why a document is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A newer Lifeboat wrote it: what it says and what that means is not known here.
    #[error("it has version {found}, this Lifeboat knows up to {known}; start the newer version again")]
    TooNew {
        /// The document's version.
        found: u64,
        /// The newest that is known here.
        known: u32,
    },
    /// It lacks what every document has.
    #[error("missing field `{0}`")]
    Lacks(&'static str),
    /// It is no such document.
    #[error("{0}")]
    Malformed(String),
}

/// A document with its version.
#[derive(Serialize)]
struct Versioned<'r, T> {
    #[serde(skip_serializing_if = "is_first")]
    version: u32,
    #[serde(flatten)]
    record: &'r T,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_first(version: &u32) -> bool {
    *version == 1
}

/// What is read of a document before anything else.
#[derive(Deserialize)]
struct Header {
    #[serde(default = "first")]
    version: u64,
    #[serde(flatten)]
    fields: BTreeMap<String, IgnoredAny>,
}

fn first() -> u64 {
    1
}

/// Writes a record as a document.
///
/// # Errors
/// `Malformed`: it cannot be written as JSON.
pub fn write<T: Record>(record: &T) -> Result<String, RecordError> {
    let version = record.version();
    serde_json::to_string(&Versioned { version, record }).map_err(|e| RecordError::Malformed(e.to_string()))
}

/// Reads a document. One without a version is of version 1. One of a newer version than is known here is not looked into.
///
/// # Errors
/// It is newer, lacks a field, or is no such document.
pub fn read<T: Record>(document: &str) -> Result<T, RecordError> {
    let malformed = |e: serde_json::Error| RecordError::Malformed(e.to_string());
    let header: Header = serde_json::from_str(document).map_err(malformed)?;
    if header.version > u64::from(T::VERSION) {
        return Err(RecordError::TooNew {
            found: header.version,
            known: T::VERSION,
        });
    }
    if let Some(lacks) = T::REQUIRED.iter().find(|f| !header.fields.contains_key(**f)) {
        return Err(RecordError::Lacks(lacks));
    }
    serde_json::from_str(document).map_err(malformed)
}

/// Settings that ask for nothing.
fn nothing_set() -> ReplicationSettings {
    ReplicationSettings {
        peer: String::new(),
        interval_s: 300,
        history: 0,
        point_spacing_s: 3600,
        any_point_window_s: 0,
        disks: Vec::new(),
        compression: true,
        application_h: 0,
        auto_resync: None,
        bandwidth: Bandwidth::default(),
    }
}

/// What is absent is an empty text in a record, as it always was.
mod empty_is_none {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text.as_deref().unwrap_or_default())
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Option<String>, D::Error> {
        let text = String::deserialize(from)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of which a second version exists.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Second {
        name: String,
        added: Option<u8>,
    }

    impl Record for Second {
        const VERSION: u32 = 2;
        const REQUIRED: &'static [&'static str] = &["name"];
    }

    fn ada() -> Second {
        Second {
            name: "ada".into(),
            added: None,
        }
    }

    #[test]
    fn a_document_says_its_version_unless_it_is_the_first() {
        let written = write(&ada()).unwrap();
        assert_eq!(written, r#"{"version":2,"name":"ada","added":null}"#);
        assert_eq!(read::<Second>(&written), Ok(ada()));
        // A document of before there were versions.
        assert_eq!(read::<Second>(r#"{"name":"ada"}"#), Ok(ada()));
        assert_eq!(read::<Second>(r#"{"version":1,"name":"ada"}"#), Ok(ada()));
        let server = write(&ServerSettings::default()).unwrap();
        assert!(!server.contains("version"), "{server}");
        assert_eq!(read::<ServerSettings>(&server), Ok(ServerSettings::default()));
    }

    #[test]
    fn a_document_of_a_newer_version_is_refused_whatever_else_it_says() {
        // The name became a number: what is known of version 2 would not even read it.
        let newer = read::<Second>(r#"{"version":3,"name":7,"added":"x"}"#).unwrap_err();
        let (found, known) = (3, 2);
        assert_eq!(newer, RecordError::TooNew { found, known });
        let said = newer.to_string();
        assert!(
            said.contains("version 3") && said.contains("start the newer version again"),
            "{said}"
        );
    }

    #[test]
    fn what_is_no_such_document_is_not_taken_for_one_with_defaults() {
        assert_eq!(read::<Second>("{}"), Err(RecordError::Lacks("name")));
        for wrong in [
            "",
            "7",
            "[]",
            r#"{"version":"x","name":"ada"}"#,
            r#"{"version":-1,"name":"ada"}"#,
            r#"{"name":7}"#,
        ] {
            assert!(
                matches!(read::<Second>(wrong), Err(RecordError::Malformed(_))),
                "{wrong}"
            );
        }
        let whole = serde_json::to_value(Relationship::default()).unwrap();
        assert_eq!(read(&whole.to_string()), Ok(Relationship::default()));
        for field in Relationship::REQUIRED {
            let mut document = whole.clone();
            document.as_object_mut().unwrap().remove(*field).unwrap();
            let lacks = read::<Relationship>(&document.to_string());
            assert_eq!(lacks, Err(RecordError::Lacks(field)));
        }
    }

    /// A document of the first release has what was added since as it is when it does not say otherwise.
    #[test]
    fn what_a_document_does_not_say_is_as_in_a_new_record() {
        let primary: PrimarySide =
            serde_json::from_value(serde_json::json!({ "acknowledged": NOWHERE })).unwrap();
        assert_eq!(primary, PrimarySide::new(NOWHERE));
        let replica: ReplicaSide =
            serde_json::from_value(serde_json::json!({ "dir": "/srv/1", "failover": null })).unwrap();
        assert_eq!(replica, ReplicaSide::new("/srv/1".to_owned()));
    }
}
