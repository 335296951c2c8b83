//! Whether bytes are a whole delta log, without keeping what is in it. For a receiver that stores or forwards the bytes as
//! they came.

use crate::decode::Decoder;
use crate::error::{DecodeError, Part};
use crate::format::MAX_FRAME_DATA;
use crate::{Header, Item, Summary};

/// Checks a log as its bytes pass. Everything a [`Decoder`] checks is checked.
#[derive(Default)]
pub struct Verifier {
    decoder: Decoder,
    header: Option<Header>,
    summary: Option<Summary>,
}

impl Verifier {
    /// A verifier that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, any number.
    ///
    /// # Errors
    /// They cannot belong to a valid log. Every later call says the same.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        // In steps, so that a log held in memory whole is not copied whole.
        for step in bytes.chunks(MAX_FRAME_DATA) {
            self.decoder.push(step);
            while let Some(item) = self.decoder.next()? {
                match item {
                    Item::Header(header) => self.header = Some(header),
                    Item::Frame(_) => {}
                    Item::End(summary) => self.summary = Some(summary),
                }
            }
        }
        Ok(())
    }

    /// The header, once enough has come.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// No more bytes will come: was it a whole log?
    ///
    /// # Errors
    /// It was not.
    pub fn finish(self) -> Result<(Header, Summary), DecodeError> {
        self.decoder.finish()?;
        // A decoder that finished has handed out both; the error is for the reader of this line.
        self.header.zip(self.summary).ok_or(DecodeError::Truncated {
            at: 0,
            part: Part::Header,
        })
    }
}

/// Checks a log that is in memory.
///
/// # Errors
/// It is not a whole log.
pub fn verify(log: &[u8]) -> Result<(Header, Summary), DecodeError> {
    let mut verifier = Verifier::new();
    verifier.push(log)?;
    verifier.finish()
}
