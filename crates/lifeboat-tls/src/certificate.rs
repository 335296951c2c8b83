//! What a certificate says: names, addresses, until when it is valid. Whether that is believed, a handshake decides.

use std::net::IpAddr;

use camino::Utf8Path;
use lifeboat_model::{Fingerprint, Timestamp};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::error::{CertError, io};
use crate::fingerprint::{certificate_fingerprint, key_fingerprint};

/// From when until when something is valid, by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertInfo {
    /// Subject, as text.
    pub subject: String,
    /// Issuer, as text.
    pub issuer: String,
    /// DNS names, lower case: what peers know the host by.
    pub names: Vec<String>,
    /// IP addresses it may be reached by.
    pub addresses: Vec<IpAddr>,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// SHA-256 of its public key. It stays the same while a certificate is renewed with its key; peers remember it.
    pub key_fingerprint: Fingerprint,
    /// Whether it is a CA's.
    pub is_ca: bool,
}

/// Reads the first certificate in a PEM file.
///
/// # Errors
/// The file cannot be read, or holds none.
pub fn describe(path: &Utf8Path) -> Result<CertInfo, CertError> {
    let content = |detail: String| CertError::Content {
        path: path.into(),
        detail,
    };
    let der = CertificateDer::from_pem_slice(&read(path)?)
        .map_err(|e| content(format!("no certificate in it: {e}")))?;
    let (_, cert) =
        X509Certificate::from_der(&der).map_err(|e| content(format!("no X.509 certificate: {e}")))?;
    let validity = of(cert.validity());
    Ok(CertInfo {
        subject: cert.subject().to_string(),
        issuer: cert.issuer().to_string(),
        names: dns_names(&der),
        addresses: addresses(&cert),
        not_before: validity.not_before,
        not_after: validity.not_after,
        fingerprint: certificate_fingerprint(&der),
        key_fingerprint: key_fingerprint(&der)
            .ok_or_else(|| content("its public key cannot be read".into()))?,
        is_ca: cert.is_ca(),
    })
}

/// The DNS names among a certificate's SANs, lower case. A wildcard is no host's name and is left out.
#[must_use]
pub fn dns_names(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, cert)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let Ok(Some(sans)) = cert.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |san: &GeneralName<'_>| {
        let GeneralName::DNSName(name) = san else {
            return None;
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        matches!(ServerName::try_from(name.as_str()), Ok(ServerName::DnsName(_))).then_some(name)
    };
    sans.value.general_names.iter().filter_map(name).collect()
}

/// The addresses among a certificate's SANs.
#[must_use]
pub fn ip_addresses(der: &CertificateDer<'_>) -> Vec<IpAddr> {
    X509Certificate::from_der(der).map_or_else(|_| Vec::new(), |(_, cert)| addresses(&cert))
}

/// From when until when a certificate is valid; `None` when it cannot be read.
#[must_use]
pub fn validity(der: &CertificateDer<'_>) -> Option<Validity> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    Some(of(cert.validity()))
}

fn of(validity: &x509_parser::certificate::Validity) -> Validity {
    Validity {
        not_before: timestamp(validity.not_before.timestamp()),
        not_after: timestamp(validity.not_after.timestamp()),
    }
}

/// Until when all of these are valid; for ever when there is none that can be read.
#[must_use]
pub fn valid_until(chain: &[CertificateDer<'_>]) -> Timestamp {
    let ends = chain.iter().filter_map(validity).map(|v| v.not_after);
    ends.min().unwrap_or(Timestamp(u64::MAX))
}

/// The DNS names among a certificate's SANs and its common names, lower case and otherwise as they stand there: what an
/// administrator may enter it under. None when it cannot be read.
#[must_use]
pub fn entered_names(der: &CertificateDer<'_>) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok((_, cert)) = X509Certificate::from_der(der) {
        if let Ok(Some(sans)) = cert.subject_alternative_name() {
            let dns_name = |san: &GeneralName<'_>| {
                let GeneralName::DNSName(name) = san else {
                    return None;
                };
                Some(name.to_ascii_lowercase())
            };
            names.extend(sans.value.general_names.iter().filter_map(dns_name));
        }
        let common = cert.subject().iter_common_name();
        names.extend(common.filter_map(|n| n.as_str().ok()).map(str::to_lowercase));
    }
    names
}

fn addresses(cert: &X509Certificate<'_>) -> Vec<IpAddr> {
    let Ok(Some(sans)) = cert.subject_alternative_name() else {
        return Vec::new();
    };
    let address = |san: &GeneralName<'_>| {
        let GeneralName::IPAddress(bytes) = san else {
            return None;
        };
        let v6 = |_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
        <[u8; 4]>::try_from(*bytes).map(IpAddr::from).or_else(v6).ok()
    };
    sans.value.general_names.iter().filter_map(address).collect()
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

pub(crate) fn read(path: &Utf8Path) -> Result<Vec<u8>, CertError> {
    std::fs::read(path).map_err(io(path))
}
