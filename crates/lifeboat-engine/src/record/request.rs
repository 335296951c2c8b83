//! Requests that wait for a second person, as they are recorded.

use super::Record;
use crate::common::by::By;
use crate::contract::Action;
use lifeboat_model::{Reading, RequestId, Timestamp, VmId};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// An action that waits for a second person, or that one has confirmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Its name.
    pub id: RequestId,
    /// Who asks.
    pub by: By,
    /// What for; a VM in it is named by its UUID.
    #[serde(deserialize_with = "action")]
    pub action: Action,
    /// The VM it is about; `None`: the host.
    pub vm: Option<VmId>,
    /// What it would do, in words.
    pub what: String,
    /// When it was asked for.
    pub asked: Timestamp,
    /// When it ends if it is not confirmed.
    pub until: Timestamp,
    /// The clocks when it was asked for.
    pub read: Reading,
    /// How far it has come.
    pub state: RequestState,
}

/// How far a request has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum RequestState {
    /// It waits for a second person.
    Waits,
    /// It is being carried out.
    Confirmed {
        /// Who confirmed it.
        second: Box<By>,
    },
    /// It was confirmed, and the daemon ended before it was known whether it was carried out. It is not begun again.
    NotKnown {
        /// Who confirmed it.
        second: Box<By>,
    },
}

/// An action, also as a release wrote it in which the removal of an extended replication was one of its own.
fn action<'d, D: Deserializer<'d>>(from: D) -> Result<Action, D::Error> {
    let mut written = Value::deserialize(from)?;
    if let Some(fields) = written.as_object_mut()
        && fields.get("action").is_some_and(|name| name == "remove-extended")
    {
        fields.insert("action".into(), "remove-replication".into());
        fields.insert("relationship".into(), "extended".into());
    }
    Action::deserialize(written).map_err(D::Error::custom)
}

impl Record for Request {
    const REQUIRED: &'static [&'static str] = &[];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_removal_of_an_extended_replication_is_read_as_it_was_written_before() {
        #[derive(Deserialize)]
        struct Recorded {
            #[serde(deserialize_with = "action")]
            action: Action,
        }
        let written = r#"{"action":{"action":"remove-extended","vm":"web"}}"#;
        let read: Recorded = serde_json::from_str(written).unwrap();
        let now = r#"{"action":"remove-replication","vm":"web","relationship":"extended"}"#;
        assert_eq!(read.action, serde_json::from_str(now).unwrap());
    }
}
