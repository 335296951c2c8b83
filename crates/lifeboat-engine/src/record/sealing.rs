//! What is remembered of what seals an export, for as long as it is needed.

use crate::common::export_key::ExportKey;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of an export and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// Which export.
    pub export: Uuid,
    /// Its key.
    pub key: ExportKey,
}
