//! Which of a VM's relationships an action is about. What it means for a VM is resolved by the VM's actor.

use lifeboat_model::RelationshipId;
use serde::{Deserialize, Serialize};

/// Which relationship of a VM. Written, it is a text: `extended`, a number, or `HOST:PORT`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "String")]
pub enum RelationshipRef {
    /// The relationship that gives the VM its role on this host; for what only the sending side does, on a replica, the one
    /// outgoing relationship that it has.
    #[default]
    Usual,
    /// The one outgoing relationship of a replica; refused where there are several.
    Outgoing,
    /// The relationship with this number.
    Id(RelationshipId),
    /// The outgoing relationship to this host, by `HOST:PORT` or `HOST`.
    Peer(String),
}

impl RelationshipRef {
    /// Nothing was said. It is not written.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::Usual
    }
}

/// What is read: a text, a number, or, as requests had it before relationships had numbers, whether the outgoing one is meant.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Flag(bool),
    Number(u32),
    Text(String),
}

const USUAL: &str = "usual";
const OUTGOING: &str = "extended";

impl From<Written> for RelationshipRef {
    fn from(written: Written) -> Self {
        match written {
            Written::Flag(false) => Self::Usual,
            Written::Flag(true) => Self::Outgoing,
            Written::Number(number) => Self::Id(RelationshipId::new(number)),
            Written::Text(text) => Self::from(text),
        }
    }
}

impl From<String> for RelationshipRef {
    fn from(text: String) -> Self {
        match text.as_str() {
            "" | USUAL => Self::Usual,
            OUTGOING => Self::Outgoing,
            other => match other.parse() {
                Ok(number) => Self::Id(RelationshipId::new(number)),
                Err(_) => Self::Peer(text),
            },
        }
    }
}

impl From<RelationshipRef> for String {
    fn from(of: RelationshipRef) -> Self {
        match of {
            RelationshipRef::Usual => USUAL.into(),
            RelationshipRef::Outgoing => OUTGOING.into(),
            RelationshipRef::Id(id) => id.to_string(),
            RelationshipRef::Peer(peer) => peer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relationship_is_named_by_a_word_a_number_or_a_host() {
        let peer = |text: &str| RelationshipRef::Peer(text.into());
        let id = |n| RelationshipRef::Id(RelationshipId::new(n));
        for (written, of) in [
            (r#""usual""#, RelationshipRef::Usual),
            (r#""""#, RelationshipRef::Usual),
            ("false", RelationshipRef::Usual),
            (r#""extended""#, RelationshipRef::Outgoing),
            ("true", RelationshipRef::Outgoing),
            (r#""0""#, id(0)),
            ("2", id(2)),
            (r#""c.example.org:8443""#, peer("c.example.org:8443")),
            // No number of a relationship is as large.
            (r#""4294967296""#, peer("4294967296")),
        ] {
            let read: RelationshipRef = serde_json::from_str(written).unwrap();
            assert_eq!(read, of, "{written}");
            let again = serde_json::to_string(&of).unwrap();
            assert_eq!(
                serde_json::from_str::<RelationshipRef>(&again).unwrap(),
                of,
                "{again}"
            );
        }
    }
}
