//! How the key of an export gets to the replica's host and is confirmed there. What is remembered of it is
//! `record::sealing`'s.

use crate::contract::Refusal;
use crate::core::Core;
use crate::port::link::{Content, PeerRefusal, PeerReply};
use crate::port::media::{MediaError, Seal, Sealing};
use crate::record::Relationship;
use crate::work::calls::link_refusal;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::{Note, hint};

/// As it is remembered, and as it is told.
impl From<Sealing> for crate::record::Sealing {
    fn from(Sealing { export, key }: Sealing) -> Self {
        Self { export, key }
    }
}

/// As it is told, and as it is used.
impl From<crate::record::Sealing> for Sealing {
    fn from(crate::record::Sealing { export, key }: crate::record::Sealing) -> Self {
        Self { export, key }
    }
}

/// What a replica takes over of an offer: whether its copy comes on media, and what that is sealed with.
///
/// # Errors
/// The copy would come on media that cannot be told from forged ones.
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
        other => Err(link_refusal(&crate::work::calls::unexpected(peer, other))),
    }
}

impl Core {
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
        let sealing = replica.and_then(|r| r.sealing.as_deref().cloned().map(Sealing::from));
        match sealing {
            Some(sealing) => Ok(Seal { vm: self.id, sealing }),
            None => Err(MediaError::NoKey),
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::common::export_key::{ExportKey, KEY};
    use uuid::Uuid;

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
        let refused = awaited(&media(None), "beta").unwrap_err();
        let PeerRefusal::Conflict { detail } = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!(detail.hint, Some(hint::Copies::UpdateOrUseNetwork.into()));
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
