//! What seals an export of an initial copy on media: a key that both hosts know and the medium does not have. The primary
//! draws it, tells it to the replica's host with the offer, and begins the export when that host has recorded it. Both
//! sides keep it in their catalogs for as long as they need it. How files are sealed is the media adapter's.

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{Note, hint};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::action::Refusal;
use crate::actor::{Actor, chain};
use crate::copy;
use crate::operations::link_refusal;
use crate::ports::link::{Content, PeerRefusal, PeerReply};
use crate::ports::media::{MediaError, Seal};
use crate::records::Relationship;

/// Bytes of a key.
pub const KEY: usize = 32;

/// A key that seals one export. It has no `Display`, and `Debug` does not show it. It is written only into the catalog and
/// into the offer that tells it to the peer: 32 bytes as 44 characters of base64.
#[derive(Clone, PartialEq, Eq)]
pub struct ExportKey([u8; KEY]);

impl ExportKey {
    /// Keeps these bytes, which have to come from a source that nobody can foresee.
    #[must_use]
    pub fn new(bytes: [u8; KEY]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the cipher.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY] {
        &self.0
    }
}

impl fmt::Debug for ExportKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExportKey(not shown)")
    }
}

impl Serialize for ExportKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for ExportKey {
    /// What is wrong is said without what was read: it may be most of a key.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wrong = || serde::de::Error::custom("a key of an export is 32 bytes in base64");
        let text = String::deserialize(from).map_err(|_| wrong())?;
        let mut key = [0; KEY];
        // Room for what 44 characters can be; more of them are not decoded.
        let mut bytes = [0; KEY + 1];
        match STANDARD.decode_slice(&text, &mut bytes) {
            Ok(KEY) => {
                key.copy_from_slice(bytes.split_at(KEY).0);
                Ok(Self(key))
            }
            Ok(_) | Err(_) => Err(wrong()),
        }
    }
}

/// The name of an export and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// Which export. It lies on the medium for everybody to read.
    pub export: Uuid,
    /// Its key.
    pub key: ExportKey,
}

/// For serde: what an offer says of the seal, in whose error nothing of it is repeated.
///
/// # Errors
/// It is neither nothing nor a name and a key.
pub(crate) fn told<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Sealing>, D::Error> {
    Option::deserialize(from).map_err(|_| {
        serde::de::Error::custom("what seals an export is a UUID and a key, which is 32 bytes in base64")
    })
}

/// What a replica takes over of an offer: whether its copy comes on media, and what that is sealed with.
///
/// # Errors
/// The copy would come on media that nobody can tell from forged ones.
pub(crate) fn awaited(content: &Content, host: &str) -> Result<(bool, Option<Sealing>), PeerRefusal> {
    match content {
        Content::Media {
            sealing: Some(sealing),
        } => Ok((true, Some(sealing.clone()))),
        Content::Media { sealing: None } => Err(PeerRefusal::Conflict {
            detail: Note::new(
                format!(
                    "{host} imports only exports that are encrypted with a key that the primary told it, and this primary told none"
                ),
                hint::Copies::UpdateOrUseNetwork,
            )
            .into(),
        }),
        Content::Empty | Content::Seed | Content::Extended | Content::Reverse { .. } => Ok((false, None)),
    }
}

/// Whether the peer has recorded the key, by its answer to the offer.
///
/// # Errors
/// It has not: what is exported could not be imported there.
pub(crate) fn acknowledged(peer: &str, reply: &PeerReply, sealing: &Sealing) -> Result<(), Refusal> {
    match reply {
        PeerReply::Status(status) if status.export == Some(sealing.export) => Ok(()),
        PeerReply::Status(_) => Err(Refusal::new(
            ReturnCode::NotSupported,
            format!(
                "{peer} did not take the key of the export: its Lifeboat is of an earlier version, which imports no encrypted exports"
            ),
            hint::Copies::UpdateOrUseNetwork,
        )),
        other => Err(link_refusal(&copy::unexpected(peer, other))),
    }
}

impl Actor {
    /// A key for an export that is begun now.
    pub(crate) fn new_sealing(&self) -> Result<Sealing, Refusal> {
        let entropy = &self.host.ports.entropy;
        let key = entropy.key().map_err(|e| {
            let what = format!("no key can be made for the export: {}", chain(&e));
            Refusal::new(ReturnCode::Failed, what, hint::Again::Later)
        })?;
        Ok(Sealing {
            export: entropy.uuid(),
            key,
        })
    }

    /// What the awaited export is sealed with.
    pub(crate) fn awaited_seal(&self) -> Result<Seal, MediaError> {
        let replica = self.rel.as_ref().and_then(Relationship::replica);
        let sealing = replica.and_then(|r| r.sealing.as_deref().cloned());
        match sealing {
            Some(sealing) => Ok(Seal { vm: self.id, sealing }),
            None => Err(MediaError::NoKey),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealing() -> Sealing {
        Sealing {
            export: Uuid::from_u128(5),
            key: ExportKey::new([0xa5; KEY]),
        }
    }

    #[test]
    fn a_key_is_shown_to_nobody() {
        let shown = format!("{:?} {:#?}", sealing(), sealing()).to_lowercase();
        assert!(shown.contains("not shown"));
        // As hexadecimal, as a number and as base64.
        for part in ["a5", "165", "pawl"] {
            assert!(!shown.contains(part), "{shown}");
        }
        assert!(serde_json::to_string(&sealing()).unwrap().contains("paWl"));
    }

    #[test]
    fn a_key_survives_the_catalog_and_is_32_bytes() {
        let text = serde_json::to_string(&sealing()).unwrap();
        assert_eq!(serde_json::from_str::<Sealing>(&text).unwrap(), sealing());
        let encode = |n: usize| format!("\"{}\"", STANDARD.encode(vec![7; n]));
        assert!(serde_json::from_str::<ExportKey>(&encode(KEY)).is_ok());
        for bad in [
            encode(0),
            encode(KEY - 1),
            encode(KEY + 1),
            encode(KEY + 2),
            encode(1 << 20),
            encode(KEY).replace('=', ""),
            encode(KEY).replace("BwcH", "B cH"),
            encode(KEY).replace("Bwc=", "Bwd="),
            "7".into(),
            "null".into(),
            "[7,7]".into(),
            "{\"key\":\"Bwc=\"}".into(),
        ] {
            let said = serde_json::from_str::<ExportKey>(&bad).unwrap_err().to_string();
            assert!(said.contains("32 bytes in base64"), "{bad:.80}: {said}");
            assert!(!said.contains("Bw") && !said.contains('7'), "{said}");
        }
    }

    #[test]
    fn a_copy_on_media_needs_a_key_and_nothing_else_has_one() {
        let media = |sealing| Content::Media { sealing };
        let some = awaited(&media(Some(sealing())), "beta").unwrap();
        assert_eq!(some, (true, Some(sealing())));
        let refused = awaited(&media(None), "beta").unwrap_err().to_string();
        assert!(refused.contains("update Lifeboat on the primary"), "{refused}");
        for content in [Content::Empty, Content::Seed, Content::Extended] {
            assert_eq!(awaited(&content, "beta").unwrap(), (false, None));
        }
    }

    #[test]
    fn only_a_host_that_names_the_export_has_taken_its_key() {
        let answer = |export: Option<u128>| {
            let mut said = serde_json::json!({
                "reply": "status", "durable": {"generation": Uuid::from_u128(1), "sequence": 1}, "bulk": [],
            });
            if let Some(export) = export {
                said["export"] = serde_json::json!(Uuid::from_u128(export));
            }
            serde_json::from_value::<PeerReply>(said).unwrap()
        };
        assert!(acknowledged("beta", &answer(Some(5)), &sealing()).is_ok());
        for other in [None, Some(6)] {
            let refused = acknowledged("beta", &answer(other), &sealing()).unwrap_err();
            assert!(refused.message.contains("earlier version"), "{refused:?}");
        }
        assert!(acknowledged("beta", &PeerReply::Accepted, &sealing()).is_err());
    }
}
