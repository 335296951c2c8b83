//! Fingerprints of certificates and keys, and the list of those that are revoked, as text. SHA-256 is computed and files are
//! read elsewhere.

use core::fmt::{self, Debug, Display, Formatter};
use core::str::FromStr;
use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// SHA-256 of a certificate (DER) or of a public key (its SubjectPublicKeyInfo, DER; RFC 5280, 4.1.2.7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// Text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no SHA-256 fingerprint: write 64 hexadecimal digits, with or without colons, as they are shown with a certificate"
)]
pub struct NoFingerprint(String);

impl Fingerprint {
    /// From the digest.
    #[must_use]
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The digest.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Hexadecimal, two digits at a time with colons between them.
impl Display for Fingerprint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let colon = if i == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl Debug for Fingerprint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let wrong = || NoFingerprint(text.chars().take(100).collect());
        let mut digest = [0_u8; 32];
        let mut digits = text.trim().chars().filter(|c| *c != ':');
        for byte in &mut digest {
            let mut next = || digits.next().and_then(|c| c.to_digit(16));
            let (high, low) = (next().ok_or_else(wrong)?, next().ok_or_else(wrong)?);
            *byte = u8::try_from(high << 4 | low).map_err(|_| wrong())?;
        }
        match digits.next() {
            None => Ok(Self(digest)),
            Some(_) => Err(wrong()),
        }
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Fingerprints of certificates and of keys that are not accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked(BTreeSet<Fingerprint>);

/// A line of a revocation list that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub cause: NoFingerprint,
}

impl Revoked {
    /// Reads a list: a fingerprint on a line, and a comment from `#` to the end of a line.
    ///
    /// # Errors
    /// The first line that holds something else. A list of which a part is skipped would let in a
    /// certificate that was meant to be revoked.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let mut all = BTreeSet::new();
        for (i, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if !entry.is_empty() {
                let read = entry.parse().map_err(|cause| BadLine { line: i + 1, cause });
                all.insert(read?);
            }
        }
        Ok(Self(all))
    }

    /// Whether this one is on it.
    #[must_use]
    pub fn holds(&self, fingerprint: &Fingerprint) -> bool {
        self.0.contains(fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_in_the_forms_that_people_write() {
        let plain = "00ff".to_owned() + &"a5".repeat(30);
        let one: Fingerprint = plain.parse().unwrap();
        assert_eq!(one.bytes()[..3], [0, 255, 0xa5]);
        let shown = one.to_string();
        assert!(shown.starts_with("00:FF:A5:A5:") && shown.len() == 95, "{shown}");
        assert_eq!(shown.parse(), Ok(one));
        assert_eq!(format!(" {} ", plain.to_uppercase()).parse(), Ok(one));
        assert_eq!(serde_json::to_string(&one).unwrap(), format!("\"{shown}\""));
        for bad in [
            "",
            "00",
            &plain[1..],
            &format!("{plain}0"),
            &plain.replace('f', "g"),
        ] {
            let error = bad.parse::<Fingerprint>().unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn a_list_has_comments_and_a_bad_line_is_named() {
        let (a, b) = ("ab".repeat(32), "12".repeat(32));
        let text = format!("# stolen on Monday\n\n  {a}  # alpha's old key\r\n{b}");
        let list = Revoked::parse(&text).unwrap();
        assert!(list.holds(&a.parse().unwrap()) && list.holds(&b.parse().unwrap()));
        assert!(!list.holds(&Fingerprint::new([0; 32])));
        assert_eq!(Revoked::parse(" # nothing\n").unwrap(), Revoked::default());
        let bad = Revoked::parse(&format!("{a}\n\n{b} {b}\n")).unwrap_err();
        assert_eq!(bad.line, 3);
        assert!(bad.to_string().starts_with("line 3: "), "{bad}");
    }
}
