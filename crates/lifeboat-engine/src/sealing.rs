//! What seals an export of an initial copy on media: a key that both hosts know and the medium does not have. The primary
//! draws it, tells it to the replica's host with the offer, and begins the export when that host has recorded it. Both
//! sides keep it in their catalogs for as long as they need it. How files are sealed is the media adapter's.

use lifeboat_model::api::ReturnCode;

use crate::action::Refusal;
use crate::actor::{Actor, chain};
use crate::copy;
use crate::operations::link_refusal;
use crate::ports::link::{Content, PeerRefusal, PeerReply};
use crate::ports::media::{MediaError, Seal};
use crate::records::{self, Relationship};

pub use crate::export_key::{ExportKey, KEY};
pub use crate::ports::media::Sealing;

/// As it is remembered, and as it is told.
impl From<Sealing> for records::Sealing {
    fn from(Sealing { export, key }: Sealing) -> Self {
        Self { export, key }
    }
}

/// As it is told, and as it is used.
impl From<records::Sealing> for Sealing {
    fn from(records::Sealing { export, key }: records::Sealing) -> Self {
        Self { export, key }
    }
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
            detail: format!(
                "{host} imports only exports that are encrypted with a key that the primary told it, and this primary told none; update Lifeboat on the primary, or copy over the network"
            ),
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
            "update Lifeboat there, or copy over the network: lifeboat replication start VM",
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
            Refusal::new(ReturnCode::Failed, what, "try again")
        })?;
        Ok(Sealing {
            export: entropy.uuid(),
            key,
        })
    }

    /// What the awaited export is sealed with.
    pub(crate) fn awaited_seal(&self) -> Result<Seal, MediaError> {
        let replica = self.rel.as_ref().and_then(Relationship::replica);
        let sealing = replica.and_then(|r| r.sealing.as_deref().cloned().map(Sealing::from));
        match sealing {
            Some(sealing) => Ok(Seal { vm: self.id, sealing }),
            None => Err(MediaError::NoKey),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn sealing() -> Sealing {
        Sealing {
            export: Uuid::from_u128(5),
            key: ExportKey::new([0xa5; KEY]),
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
