//! What lies on a medium. Who writes and reads it, `media` knows.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_engine::ports::media::{Manifest, Part};
use uuid::Uuid;

/// A directory on a medium.
#[derive(Clone, Debug, Default)]
pub struct Medium {
    /// Which export it was made for.
    pub begun: Option<Uuid>,
    /// Segment files: what they say, and the digest that shows who wrote them.
    pub files: BTreeMap<Part, Sealed>,
    /// The manifest, when the export is complete, and its digest.
    pub manifest: Option<(Manifest, String)>,
}

/// A file that was made with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its content.
    pub content: Bytes,
    /// Made of the key and all the file is.
    pub digest: String,
}
