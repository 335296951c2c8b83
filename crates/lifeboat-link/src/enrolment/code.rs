//! The code of an invitation: by which authority it was made, and a secret. Text that a person can read out, and that says by
//! itself whether it was copied right.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use rustls_pki_types::CertificateDer;

/// Bytes of the SHA-256 of the authority's certificate: to find another certificate for them takes 2^160 attempts.
const AUTHORITY: usize = 20;
/// Bytes of the secret, of which few can be tried.
const SECRET: usize = 12;
/// Bytes that say whether the rest was copied right. They are no protection: anyone can compute them.
const CHECK: usize = 3;
/// Written in groups of this many characters.
const GROUP: usize = 4;

/// A code.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    authority: [u8; AUTHORITY],
    secret: [u8; SECRET],
}

/// Why text is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Not of this length, or of other characters.
    #[error("this is no code of an invitation: it has {} letters and digits, as they were printed with the invitation", (AUTHORITY + SECRET + CHECK) * 8 / 5)]
    Form,
    /// Some characters are others.
    #[error("the code was not copied right: at least one character differs")]
    Copied,
    /// No code can be made.
    #[error("there is no randomness for a code")]
    Random,
}

/// Crockford's base 32: it has no letters that look like digits, and reads such letters as the digits they look like.
fn base32() -> Option<Encoding> {
    let mut form = Specification::new();
    form.symbols.push_str("0123456789ABCDEFGHJKMNPQRSTVWXYZ");
    form.translate.from.push_str("abcdefghjkmnpqrstvwxyzoOiIlL");
    form.translate.to.push_str("ABCDEFGHJKMNPQRSTVWXYZ001111");
    form.ignore.push_str("- \t\r\n");
    form.encoding().ok()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.iter().for_each(|p| context.update(p));
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut part = [0; N];
    part.iter_mut().zip(bytes).for_each(|(p, b)| *p = *b);
    part
}

impl Code {
    /// A new code for an invitation by the authority with this certificate.
    pub(crate) fn new(authority: &CertificateDer<'_>) -> Result<Self, CodeError> {
        let mut secret = [0; SECRET];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| CodeError::Random)?;
        Ok(Self {
            authority: first(&sha256(&[authority])),
            secret,
        })
    }

    fn check(&self) -> [u8; CHECK] {
        first(&sha256(&[b"lifeboat enrolment 1", &self.authority, &self.secret]))
    }

    /// Whether this is the certificate of the authority.
    pub(crate) fn is_by(&self, certificate: &CertificateDer<'_>) -> bool {
        first::<AUTHORITY>(&sha256(&[certificate])) == self.authority
    }

    /// The secret, in hexadecimal.
    pub(crate) fn secret(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.secret)
    }

    /// Whether this is the secret; how long that takes says nothing of it.
    pub(crate) fn has_secret(&self, secret: &str) -> bool {
        let own = self.secret();
        aws_lc_rs::constant_time::verify_slices_are_equal(own.as_bytes(), secret.as_bytes()).is_ok()
    }
}

impl Display for Code {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bytes = [&self.authority[..], &self.secret, &self.check()].concat();
        let text = base32().ok_or(fmt::Error)?.encode(&bytes);
        for (at, c) in text.chars().enumerate() {
            if at > 0 && at % GROUP == 0 {
                f.write_str("-")?;
            }
            write!(f, "{c}")?;
        }
        Ok(())
    }
}

/// Leaves the secret out, so that no log shows it by accident.
impl fmt::Debug for Code {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").finish_non_exhaustive()
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let bytes = base32().and_then(|b| b.decode(text.as_bytes()).ok());
        let bytes = bytes
            .filter(|b| b.len() == AUTHORITY + SECRET + CHECK)
            .ok_or(CodeError::Form)?;
        let code = Self {
            authority: first(&bytes),
            secret: first(&bytes[AUTHORITY..]),
        };
        if code.check() == bytes[AUTHORITY + SECRET..] {
            Ok(code)
        } else {
            Err(CodeError::Copied)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_write_it_and_a_slip_is_noticed() {
        let ca = CertificateDer::from(vec![1, 2, 3]);
        let code = Code::new(&ca).unwrap();
        let text = code.to_string();
        assert_eq!((text.len(), text.matches('-').count()), (56 + 13, 13), "{text}");
        assert!(!format!("{code:?}").contains(&code.secret()));
        assert_eq!(text.parse(), Ok(code.clone()));
        let sloppy = text
            .to_lowercase()
            .replace('-', " ")
            .replace('0', "o")
            .replace('1', "l");
        assert_eq!(sloppy.parse(), Ok(code.clone()));
        assert!(code.is_by(&ca) && !code.is_by(&CertificateDer::from(vec![1, 2, 4])));
        assert!(code.has_secret(&code.secret()));
        assert!(!code.has_secret("") && !code.has_secret(&Code::new(&ca).unwrap().secret()));
        for at in (0..text.len()).filter(|at| text.as_bytes()[*at] != b'-') {
            let other = if text.as_bytes()[at] == b'7' { "8" } else { "7" };
            let slip = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(slip.parse::<Code>(), Err(CodeError::Copied), "{slip}");
        }
        for bad in ["", "7", &text[1..], &format!("{text}7"), &text.replace('-', "u")] {
            assert_eq!(bad.parse::<Code>(), Err(CodeError::Form), "{bad}");
        }
    }
}
