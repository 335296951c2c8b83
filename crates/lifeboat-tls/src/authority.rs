//! A small CA of one's own, for sites that have none. Anyone's certificates will do for the
//! link as long as they carry DNS names, come from one CA and allow use as client and server.

use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ca_key;
use crate::certificate::{CertInfo, describe, read};
use crate::error::CertError;
use crate::files::{CA_CERT, CertificateFiles};
use crate::new_files::{copy_ca, make_dir, refuse_existing, replace, write_new};
use crate::passphrase::{Ask, Passphrase};

/// Name of the CA's key in its directory. It is needed only to issue and may be kept off-line.
pub const CA_KEY: &str = "ca.key";

/// How long a CA is valid.
const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks of two hosts may differ by this much.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);
/// Shortest and longest validity of a host's certificate.
const VALIDITY: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(10 * 365 * 86_400);

/// Makes a CA named `name` in `dir`, which is made too if needed. With a passphrase its key is encrypted.
///
/// # Errors
/// There is one, or it cannot be written.
pub fn init_ca(dir: &Utf8Path, name: &str, passphrase: Option<&Passphrase>) -> Result<CertInfo, CertError> {
    make_dir(dir)?;
    let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
    refuse_existing(&[&cert_path, &key_path])?;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let key_pem = ca_key::to_pem(&key_path, &key, passphrase)?;
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + CA_VALIDITY;
    let cert = params.self_signed(&key)?;
    write_new(&key_path, &key_pem, 0o600)?;
    write_new(&cert_path, &cert.pem(), 0o644)?;
    describe(&cert_path)
}

/// A CA that is ready to issue.
pub struct Authority {
    ca: Ca,
    dir: Utf8PathBuf,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// The CA in a directory; `ask` says the passphrase of its key, if that is encrypted.
    ///
    /// # Errors
    /// There is none, it has expired, or its key cannot be read.
    pub fn open(dir: &Utf8Path, ask: Ask<'_>) -> Result<Self, CertError> {
        let ca = load_ca(dir, ask)?;
        Ok(Self { ca, dir: dir.into() })
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &[u8] {
        &self.ca.pem
    }

    /// Encrypts its key with another passphrase, or with its first one; `None`: it is written plain. The file is replaced whole. What
    /// a plain key has left on the disk before, this does not reach.
    ///
    /// # Errors
    /// The passphrase is too short, or the file cannot be replaced.
    pub fn change_passphrase(&self, passphrase: Option<&Passphrase>) -> Result<Utf8PathBuf, CertError> {
        let path = self.dir.join(CA_KEY);
        let pem = ca_key::to_pem(&path, self.ca.issuer.key(), passphrase)?;
        replace(&self.dir, &path, &pem)?;
        Ok(path)
    }

    /// Certifies a key for a host. The certificate never outlives the CA.
    ///
    /// # Errors
    /// The names cannot be certified.
    pub fn certify(
        &self,
        host_names: &[String],
        key: &impl PublicKeyData,
        usages: &[ExtendedKeyUsagePurpose],
        validity: Duration,
    ) -> Result<rcgen::Certificate, CertError> {
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(host_names.first().map_or("", String::as_str));
        params.subject_alt_names = subject_names(host_names)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - CLOCK_SLACK;
        params.not_after = (now + validity).min(self.ca.not_after);
        Ok(params.signed_by(key, &self.ca.issuer)?)
    }

    /// Issues a certificate for a host and writes it, its key and a copy of the CA's certificate to `out_dir`. `host_names` are DNS
    /// names and addresses, at least one DNS name. It never outlives the CA.
    ///
    /// # Errors
    /// The names or the time cannot be certified, or a file is there already.
    pub fn issue(
        &self,
        host_names: &[String],
        out_dir: &Utf8Path,
        validity: Duration,
    ) -> Result<CertificateFiles, CertError> {
        check_names(host_names, validity)?;
        make_dir(out_dir)?;
        let files = CertificateFiles::below(out_dir);
        refuse_existing(&[&files.cert, &files.key])?;
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let cert = self.certify(host_names, &key, &HOST_USAGES, validity)?;
        copy_ca(&self.ca.pem, &files.ca)?;
        write_new(&files.key, &key.serialize_pem(), 0o600)?;
        write_new(&files.cert, &cert.pem(), 0o644)?;
        Ok(files)
    }
}

/// What a host's certificate is for.
pub const HOST_USAGES: [ExtendedKeyUsagePurpose; 2] = [
    ExtendedKeyUsagePurpose::ServerAuth,
    ExtendedKeyUsagePurpose::ClientAuth,
];

/// Whether a certificate can be made for these names and this time: 1 hour to 10 years.
///
/// # Errors
/// It cannot.
pub fn check_names(host_names: &[String], validity: Duration) -> Result<(), CertError> {
    subject_names(host_names)?;
    if VALIDITY.contains(&validity) {
        Ok(())
    } else {
        Err(CertError::Validity)
    }
}

/// Issues a certificate by the CA in `ca_dir`, whose key is not encrypted: see [`Authority::issue`].
///
/// # Errors
/// As [`Authority::open`] and [`Authority::issue`].
pub fn issue(
    ca_dir: &Utf8Path,
    host_names: &[String],
    out_dir: &Utf8Path,
    validity: Duration,
) -> Result<CertificateFiles, CertError> {
    check_names(host_names, validity)?;
    let never_asked = |_: &Utf8Path| Err(std::io::ErrorKind::Unsupported.into());
    Authority::open(ca_dir, &never_asked)?.issue(host_names, out_dir, validity)
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
    pem: Vec<u8>,
}

fn load_ca(dir: &Utf8Path, ask: Ask<'_>) -> Result<Ca, CertError> {
    let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
    let missing = |e: CertError| {
        let gone =
            matches!(&e, CertError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
        if gone { CertError::NoCa(dir.into()) } else { e }
    };
    let info = describe(&cert_path).map_err(missing)?;
    let content = |path: &Utf8Path, e: &dyn std::fmt::Display| CertError::Content {
        path: path.into(),
        detail: e.to_string(),
    };
    let key_pem = String::from_utf8(read(&key_path).map_err(missing)?).map_err(|e| content(&key_path, &e))?;
    let key_pem = Passphrase::new(key_pem);
    let key = ca_key::from_pem(&key_path, &key_pem, ask)?;
    let pem = read(&cert_path)?;
    let text = std::str::from_utf8(&pem).map_err(|e| content(&cert_path, &e))?;
    refuse_strange_key(&cert_path, &key_path, &key)?;
    let issuer = Issuer::from_ca_cert_pem(text, key).map_err(|e| content(&cert_path, &e))?;
    let seconds = i64::try_from(info.not_after.0 / 1000).unwrap_or(i64::MAX);
    let not_after = OffsetDateTime::from_unix_timestamp(seconds).map_err(|e| content(&cert_path, &e))?;
    if not_after <= OffsetDateTime::now_utc() {
        return Err(CertError::CaExpired(dir.into()));
    }
    Ok(Ca {
        issuer,
        not_after,
        pem,
    })
}

/// A key of another CA would sign certificates that no host accepts.
fn refuse_strange_key(cert_path: &Utf8Path, key_path: &Utf8Path, key: &KeyPair) -> Result<(), CertError> {
    let content = |detail: String| CertError::Content {
        path: cert_path.into(),
        detail,
    };
    let der = CertificateDer::from_pem_slice(&read(cert_path)?).map_err(|e| content(e.to_string()))?;
    let (_, cert) = X509Certificate::from_der(&der).map_err(|e| content(e.to_string()))?;
    if cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw() {
        Ok(())
    } else {
        Err(content(format!("{key_path} is not its key")))
    }
}

fn subject_names(host_names: &[String]) -> Result<Vec<SanType>, CertError> {
    let one = |name: &String| match ServerName::try_from(name.as_str()) {
        Ok(ServerName::DnsName(dns)) => {
            let lower = dns.as_ref().to_ascii_lowercase();
            lower.try_into().map(SanType::DnsName).map_err(CertError::Crypto)
        }
        Ok(ServerName::IpAddress(ip)) => Ok(SanType::IpAddress(ip.into())),
        _ => Err(CertError::Name(name.chars().take(100).collect())),
    };
    let names: Vec<SanType> = host_names.iter().map(one).collect::<Result<_, _>>()?;
    if names.iter().any(|n| matches!(n, SanType::DnsName(_))) {
        Ok(names)
    } else {
        Err(CertError::NoDnsName)
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    // X.520 ends a common name at 64 characters; it is shown to people and compared nowhere.
    dn.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    dn
}
