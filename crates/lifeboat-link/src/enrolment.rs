//! A certificate for a new host, without anybody carrying a key: the machine with the authority's key invites, the new host makes
//! its key itself and has it certified. What ties the two is a code that a person carries: by it the new host knows the
//! authority before it says anything, and the authority knows whom it has invited.
//!
//! - `code` is that code as text.
//! - `invite` waits for the one host ([`Invitation`]); `enrol` is the host ([`enrol`]).
//! - `wire` is what passes between them, over TLS 1.3.
//!
//! Deliberately absent: names in the request that would count. The invitation has them.

mod code;
mod enrol;
mod invite;
mod wire;

pub use code::{Code, CodeError};
pub use enrol::enrol;
pub use invite::{Enrolled, Invitation, WRONG_MAX};

use lifeboat_tls::CertError;

/// The name by which the inviting side is certified, for as long as it waits. No host can have it: the domain does not exist (RFC
/// 6761).
const SERVER_NAME: &str = "enrolment.lifeboat.invalid";

/// Why a host was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The code was not copied right, or is none.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// A certificate or a file.
    #[error(transparent)]
    Certificate(#[from] CertError),
    /// The other side cannot be reached, or the connection broke.
    #[error("{address}: {detail}")]
    Unreachable {
        /// As it was called, or listened at.
        address: String,
        /// The error of the connection, or what the other side sent instead of an answer.
        detail: String,
    },
    /// The certificate of the host that answers is not from the authority of the code.
    #[error(
        "{address} does not show the authority that the code is from: {detail}. Nothing was sent to it; look at who answers there"
    )]
    OtherAuthority {
        /// As it was called.
        address: String,
        /// What is wrong.
        detail: String,
    },
    /// The inviting side says no.
    #[error("{0}")]
    Refused(String),
    /// Its answer is of no use.
    #[error("unexpected answer from {address}: {detail}")]
    Answer {
        /// As it was called.
        address: String,
        /// What is wrong.
        detail: String,
    },
    /// Too many wrong codes.
    #[error(
        "the invitation is over: {WRONG_MAX} wrong codes were tried, the last one from {from}; make a new one"
    )]
    TooManyWrong {
        /// Where the last one came from.
        from: String,
    },
    /// No host used the code before the invitation's time was over.
    #[error("the invitation is over: it was not used in time")]
    Expired,
}
