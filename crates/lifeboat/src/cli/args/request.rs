//! Words of `lifeboat request`.

use clap::Subcommand;
use lifeboat_model::RequestId;

/// `lifeboat request`.
#[derive(Debug, Subcommand)]
pub(crate) enum Request {
    /// List requests, oldest first.
    List,
    /// Agree, as the second person, with what another user has asked for: it is carried out now.
    Confirm {
        /// Its id.
        request: RequestId,
    },
    /// End a request without carrying it out. The user who asked for it may do that as well.
    Deny {
        /// Its id.
        request: RequestId,
    },
}
