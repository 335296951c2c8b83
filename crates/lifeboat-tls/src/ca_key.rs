//! The authority's key as a file: PKCS#8 in PEM, plain or encrypted with a passphrase (RFC 5958, RFC 8018). Where a passphrase
//! comes from, the command line knows; none is kept here.

use camino::Utf8Path;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef, SecretDocument};
use rcgen::KeyPair;
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

use crate::error::CertError;
use crate::passphrase::{Ask, PASSPHRASE_MIN, Passphrase};

/// scrypt as OWASP's Password Storage Cheat Sheet has it for 16 MiB of memory: N = 2^14, r = 8, p = 5. With more memory OpenSSL
/// would not read the key without an option.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);

const PLAIN: &str = "PRIVATE KEY";
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

fn content(path: &Utf8Path, detail: impl ToString) -> CertError {
    CertError::Content {
        path: path.into(),
        detail: detail.to_string(),
    }
}

fn random<const N: usize>(path: &Utf8Path) -> Result<[u8; N], CertError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| content(path, "there is no randomness"))?;
    Ok(bytes)
}

/// The key as it is written to `path`, encrypted where there is a passphrase.
pub(crate) fn to_pem(
    path: &Utf8Path,
    key: &KeyPair,
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<String>, CertError> {
    let Some(passphrase) = passphrase else {
        return Ok(Zeroizing::new(key.serialize_pem()));
    };
    if passphrase.chars().count() < PASSPHRASE_MIN {
        return Err(CertError::PassphraseShort);
    }
    let (log_n, r, p) = SCRYPT;
    let params = scrypt::Params::new(log_n, r, p).map_err(|e| content(path, e))?;
    let scheme = pbes2::Parameters::generate_scrypt_aes256cbc(params, &random::<16>(path)?, random(path)?)
        .map_err(|e| content(path, e))?;
    let der = Zeroizing::new(key.serialize_der());
    let info = PrivateKeyInfoRef::try_from(der.as_slice()).map_err(|e| content(path, e))?;
    let encrypted = info
        .encrypt_with_params(scheme, passphrase.as_bytes())
        .map_err(|e| content(path, e))?;
    encrypted
        .to_pem(ENCRYPTED, LineEnding::LF)
        .map_err(|e| content(path, e))
}

/// Whether a key file is encrypted.
pub(crate) fn is_encrypted(pem: &str) -> bool {
    pem.contains(ENCRYPTED)
}

/// Reads what [`to_pem`] has written, and what OpenSSL writes in the same form.
pub(crate) fn from_pem(path: &Utf8Path, pem: &str, ask: Ask<'_>) -> Result<KeyPair, CertError> {
    if !is_encrypted(pem) {
        return KeyPair::from_pem(pem).map_err(|e| content(path, e));
    }
    let (label, document) = SecretDocument::from_pem(pem).map_err(|e| content(path, e))?;
    if label != ENCRYPTED {
        return Err(content(path, format!("it holds no {PLAIN}")));
    }
    let passphrase = ask(path).map_err(|source| CertError::NoPassphrase {
        path: path.into(),
        source,
    })?;
    let info = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|e| content(path, e))?;
    let plain = info
        .decrypt(passphrase.as_bytes())
        .map_err(|_| CertError::PassphraseWrong(path.into()))?;
    let der = PrivatePkcs8KeyDer::from(plain.as_bytes());
    KeyPair::try_from(&der).map_err(|e| content(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &Utf8Path) -> std::io::Result<Passphrase> {
        panic!("no passphrase has to be asked for")
    }

    fn said(text: &'static str) -> impl Fn(&Utf8Path) -> std::io::Result<Passphrase> {
        move |_| Ok(Passphrase::new(text.to_owned()))
    }

    #[test]
    fn a_key_is_read_with_its_passphrase_alone() {
        let path = Utf8Path::new("ca.key");
        let key = KeyPair::generate().unwrap();
        let plain = to_pem(path, &key, None).unwrap();
        assert_eq!(
            from_pem(path, &plain, &none).unwrap().serialize_der(),
            key.serialize_der()
        );
        let short = Passphrase::new("eleven char".to_owned());
        assert!(matches!(
            to_pem(path, &key, Some(&short)),
            Err(CertError::PassphraseShort)
        ));

        let passphrase = Passphrase::new("correct horse battery".to_owned());
        let encrypted = to_pem(path, &key, Some(&passphrase)).unwrap();
        assert!(encrypted.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
        let der = SecretDocument::from_pem(&encrypted).unwrap().1;
        let plain_der = key.serialize_der();
        assert!(
            !der.as_bytes()
                .windows(32)
                .any(|w| plain_der.windows(32).any(|p| p == w))
        );
        let read = from_pem(path, &encrypted, &said("correct horse battery")).unwrap();
        assert_eq!(read.serialize_der(), key.serialize_der());
        let wrong = from_pem(path, &encrypted, &said("correct horse staple")).unwrap_err();
        assert!(matches!(wrong, CertError::PassphraseWrong(_)), "{wrong}");
        assert!(!wrong.to_string().contains("horse"));
        let no_answer = |_: &Utf8Path| Err(std::io::ErrorKind::UnexpectedEof.into());
        assert!(matches!(
            from_pem(path, &encrypted, &no_answer),
            Err(CertError::NoPassphrase { .. })
        ));
        // Each time with another salt.
        assert_ne!(*encrypted, *to_pem(path, &key, Some(&passphrase)).unwrap());
    }
}
