//! Why work of a primary failed. What follows from it is decided where the work is concluded.

use crate::port::capture::CaptureError;
use crate::port::link::LinkError;
use crate::port::media::MediaError;
use crate::port::spool::SpoolError;
use crate::port::store::StoreError;
use lifeboat_deltalog::EncodeError;
use lifeboat_model::causes::chain;
use lifeboat_model::{Hint, Note, ProblemKind};

/// Why a piece of work ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Capture(#[from] CaptureError),
    #[error("{0}")]
    Spool(#[from] SpoolError),
    #[error("{0}")]
    Media(#[from] MediaError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the delta log cannot hold this: {0}")]
    Encode(#[from] EncodeError),
    #[error("{why}")]
    Lost {
        why: String,
        /// The replica has at least one instant of this generation.
        arrived: bool,
    },
}

impl CopyError {
    /// What is wrong with a relationship because of it.
    pub(crate) fn problem(&self) -> ProblemKind {
        match self {
            Self::Link(e) => e.problem(),
            Self::Store(e) => e.problem(),
            Self::Capture(_) => ProblemKind::Capture,
            Self::Spool(_) => ProblemKind::Spool,
            Self::Media(_) => ProblemKind::Media,
            Self::Encode(_) => ProblemKind::Encode,
            Self::Lost { .. } => ProblemKind::TrackingLost,
        }
    }

    /// What can be done about it.
    pub(crate) fn hint(&self) -> Option<Hint> {
        match self {
            Self::Link(e) => e.hint(),
            Self::Store(e) => e.hint(),
            Self::Capture(_) | Self::Spool(_) | Self::Media(_) | Self::Encode(_) | Self::Lost { .. } => None,
        }
    }

    /// What is told of it, with its causes.
    pub(crate) fn note(&self) -> Note {
        Note {
            text: chain(self),
            hint: self.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_model::causes::chain;

    #[test]
    fn an_error_does_not_say_its_cause_twice() {
        let gone = || CaptureError::Preflight("the VM has no disk r".into());
        let text = gone().to_string();
        assert_eq!(chain(&CopyError::Capture(gone())).matches(&text).count(), 1);
    }
}
