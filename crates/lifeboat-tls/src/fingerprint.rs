//! Fingerprints of certificates and of public keys: SHA-256, as `lifeboat cert show` prints them. What a list of them means is
//! [`revocation`](crate::revocation)'s.

use lifeboat_model::Fingerprint;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

fn sha256(bytes: &[u8]) -> Fingerprint {
    let mut digest = [0; 32];
    let made = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.copy_from_slice(made.as_ref());
    Fingerprint::new(digest)
}

/// Of a certificate.
#[must_use]
pub fn certificate_fingerprint(der: &CertificateDer<'_>) -> Fingerprint {
    sha256(der)
}

/// Of a certificate's public key: it stays the same while a certificate is renewed with its key. `None` when the certificate
/// cannot be read.
#[must_use]
pub fn key_fingerprint(der: &CertificateDer<'_>) -> Option<Fingerprint> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    Some(sha256(cert.public_key().raw))
}

/// Of a public key as it stands in a certificate (SubjectPublicKeyInfo, DER).
#[must_use]
pub fn spki_fingerprint(der: &[u8]) -> Fingerprint {
    sha256(der)
}

/// By which a list may name a certificate: itself, and its key.
#[must_use]
pub fn fingerprints(chain: &[CertificateDer<'_>]) -> Vec<Fingerprint> {
    let both = |der| [Some(certificate_fingerprint(der)), key_fingerprint(der)];
    chain.iter().flat_map(both).flatten().collect()
}
