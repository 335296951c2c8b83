//! The key of an export: 32 bytes that are never shown. It travels to the peer and is kept in the catalog, written alike in
//! both; what it seals is the media adapter's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a key.
pub const KEY: usize = 32;

/// A key that seals one export. It has no `Display`, and `Debug` does not show it. It is written only into the catalog and
/// into the offer that tells it to the peer: 32 bytes as 44 characters of base64.
#[derive(Clone, PartialEq, Eq)]
pub struct ExportKey([u8; KEY]);

impl ExportKey {
    /// Keeps these bytes, which have to come from an unpredictable source.
    #[must_use]
    pub fn new(bytes: [u8; KEY]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the cipher.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY] {
        &self.0
    }
}

impl fmt::Debug for ExportKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExportKey(not shown)")
    }
}

impl Serialize for ExportKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for ExportKey {
    /// What is wrong is said without what was read: it may be most of a key.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wrong = || serde::de::Error::custom("a key of an export is 32 bytes in base64");
        let text = String::deserialize(from).map_err(|_| wrong())?;
        let mut key = [0; KEY];
        // Room for what 44 characters can be; more of them are not decoded.
        let mut bytes = [0; KEY + 1];
        match STANDARD.decode_slice(&text, &mut bytes) {
            Ok(KEY) => {
                key.copy_from_slice(bytes.split_at(KEY).0);
                Ok(Self(key))
            }
            Ok(_) | Err(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ExportKey {
        ExportKey::new([0xa5; KEY])
    }

    #[test]
    fn a_key_is_never_shown() {
        let shown = format!("{:?} {:#?}", key(), key()).to_lowercase();
        assert!(shown.contains("not shown"));
        // As hexadecimal, as a number and as base64.
        for part in ["a5", "165", "pawl"] {
            assert!(!shown.contains(part), "{shown}");
        }
        assert!(serde_json::to_string(&key()).unwrap().contains("paWl"));
    }

    #[test]
    fn a_key_survives_the_catalog_and_is_32_bytes() {
        let text = serde_json::to_string(&key()).unwrap();
        assert_eq!(serde_json::from_str::<ExportKey>(&text).unwrap(), key());
        let encode = |n: usize| format!("\"{}\"", STANDARD.encode(vec![7; n]));
        assert!(serde_json::from_str::<ExportKey>(&encode(KEY)).is_ok());
        for bad in [
            encode(0),
            encode(KEY - 1),
            encode(KEY + 1),
            encode(KEY + 2),
            encode(1 << 20),
            encode(KEY).replace('=', ""),
            encode(KEY).replace("BwcH", "B cH"),
            encode(KEY).replace("Bwc=", "Bwd="),
            "7".into(),
            "null".into(),
            "[7,7]".into(),
            "{\"key\":\"Bwc=\"}".into(),
        ] {
            let said = serde_json::from_str::<ExportKey>(&bad).unwrap_err().to_string();
            assert!(said.contains("32 bytes in base64"), "{bad:.80}: {said}");
            assert!(!said.contains("Bw") && !said.contains('7'), "{said}");
        }
    }
}
