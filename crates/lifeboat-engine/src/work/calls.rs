//! Answers of another host that are no answer, and refusals made of them.

use crate::contract::Refusal;
use crate::port::link::{LinkError, PeerRefusal, PeerReply};
use crate::port::store::StoreError;
use lifeboat_model::Hint;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;

pub(crate) fn unexpected(peer: &str, reply: &PeerReply) -> LinkError {
    match reply {
        PeerReply::Refused(refusal) => LinkError::Refused(refusal.clone()),
        PeerReply::Hello { .. }
        | PeerReply::Status(_)
        | PeerReply::Offset { .. }
        | PeerReply::Checked { .. }
        | PeerReply::Differ { .. }
        | PeerReply::Differences { .. }
        | PeerReply::Standing(_)
        | PeerReply::DiskData { .. }
        | PeerReply::Accepted => LinkError::Protocol {
            peer: peer.to_owned(),
            detail: "an answer to another question".into(),
        },
    }
}

/// A link's error as the answer to an action.
pub(crate) fn link_refusal(e: &LinkError) -> Refusal {
    let code = match e {
        LinkError::Unreachable { late: true, .. } => ReturnCode::Timeout,
        LinkError::Unreachable { late: false, .. } => ReturnCode::Unavailable,
        LinkError::Untrusted { .. } => ReturnCode::AccessDenied,
        LinkError::Protocol { .. } => ReturnCode::Failed,
        LinkError::Refused(refusal) => match refusal {
            PeerRefusal::NotEnabled { .. }
            | PeerRefusal::NotAuthorized { .. }
            | PeerRefusal::OtherKey { .. } => ReturnCode::AccessDenied,
            PeerRefusal::Conflict { .. } => ReturnCode::InvalidParameter,
            PeerRefusal::NoReplica { .. } => ReturnCode::FileNotFound,
            PeerRefusal::FailedOver { .. }
            | PeerRefusal::NewerGeneration { .. }
            | PeerRefusal::Suspended { .. }
            | PeerRefusal::Running { .. }
            | PeerRefusal::NotNow { .. }
            | PeerRefusal::OutOfSequence { .. } => ReturnCode::InvalidState,
            PeerRefusal::Backlog { .. } => ReturnCode::InUse,
            PeerRefusal::NoSpace { .. } | PeerRefusal::Failed { .. } => ReturnCode::Failed,
        },
    };
    Refusal {
        hint: e.hint(),
        ..Refusal::bare(code, chain(e))
    }
}

/// A refusal from an error of a port, with all of its causes.
pub(crate) fn failed(what: &str, e: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal {
        hint: hint_of(e),
        ..Refusal::bare(ReturnCode::Failed, format!("{what}: {}", chain(e)))
    }
}

/// What can be done about an error, as the first of its causes says that knows.
fn hint_of(e: &(dyn std::error::Error + 'static)) -> Option<Hint> {
    let mut next = Some(e);
    while let Some(e) = next {
        let store = e.downcast_ref::<StoreError>().and_then(StoreError::hint);
        if let Some(hint) = store.or_else(|| e.downcast_ref::<LinkError>().and_then(LinkError::hint)) {
            return Some(hint);
        }
        next = e.source();
    }
    None
}
