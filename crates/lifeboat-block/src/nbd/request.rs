//! What a request to an NBD server is, for both clients: its bytes, what may be asked, and what a status answer adds up to.
//!
//! No I/O; answers are taken apart in [`super::replies`].

use super::StatusExtent;
use super::error::{Asked, NbdError};
use super::handshake::Negotiated;
use super::proto;
use super::replies::Answer;

/// The longest range of one request that carries no data, in bytes; a multiple of every legal block size.
const MAX_RANGE: u64 = 1 << 31;

impl Negotiated {
    /// The id of a context that was asked for and that the server has.
    pub(super) fn context_id(&self, context: &str) -> Option<u32> {
        let known = self.contexts.iter().find(|(_, name)| name == context);
        known.map(|(id, _)| *id)
    }

    /// Refuses what does not fit the export, before it is sent.
    pub(super) fn check(
        &self,
        asked: &Asked,
        offset: u64,
        len: u64,
        carries_data: bool,
    ) -> Result<(), NbdError> {
        let sizes = self.block_sizes;
        let minimum = u64::from(sizes.minimum);
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(invalid(asked, &format!("the export ends at {}", self.size)));
        }
        if carries_data && len > u64::from(sizes.maximum) {
            return Err(invalid(
                asked,
                &format!("one request carries at most {} bytes", sizes.maximum),
            ));
        }
        if !offset.is_multiple_of(minimum) || !len.is_multiple_of(minimum) {
            return Err(invalid(
                asked,
                &format!("the server takes only multiples of {minimum} bytes"),
            ));
        }
        Ok(())
    }
}

/// Adds the parts of a status answer, which begin at `at`, and returns where they end. At least one part, none empty, none
/// beyond the range: the reply machine has checked that.
pub(super) fn append(extents: &mut Vec<StatusExtent>, mut at: u64, parts: Vec<(u32, u32)>) -> u64 {
    for (len, flags) in parts {
        let len = u64::from(len);
        match extents.last_mut() {
            Some(last) if last.flags == flags => last.len += len,
            _ => extents.push(StatusExtent {
                offset: at,
                len,
                flags,
            }),
        }
        at += len;
    }
    at
}

pub(super) fn no_context(context: &str) -> NbdError {
    NbdError::NoContext {
        context: context.to_owned(),
    }
}

pub(super) fn range_len(left: u64) -> u32 {
    u32::try_from(left.min(MAX_RANGE)).unwrap_or(u32::MAX)
}

pub(super) fn invalid(asked: &Asked, reason: &str) -> NbdError {
    NbdError::Invalid {
        asked: asked.clone(),
        reason: reason.to_owned(),
    }
}

pub(super) fn unfitting(asked: &Asked, answer: &Answer) -> NbdError {
    NbdError::Protocol(format!("the {asked} was answered with {answer:?}"))
}

pub(super) fn request_header(flags: u16, kind: u16, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut header = [0; 28];
    let fields = [
        &proto::REQUEST_MAGIC.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &len.to_be_bytes(),
    ];
    for (byte, field) in header.iter_mut().zip(fields.into_iter().flatten()) {
        *byte = *field;
    }
    header
}
