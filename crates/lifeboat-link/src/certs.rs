//! A small CA of one's own, for sites that have none, and what a certificate says. Anyone's certificates will do for the
//! link as long as they carry DNS names, come from one CA and allow use as client and server.

use std::fs::{File, Permissions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::link::PeerIdentity;
use lifeboat_model::{Fingerprint, Timestamp};
use lifeboat_trust::{certificate_fingerprint, key_fingerprint};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::ca_key::{self, Ask, PASSPHRASE_MIN, Passphrase};

/// Name of the CA's certificate in its directory, and of its copy beside each host's certificate.
pub const CA_CERT: &str = "ca.crt";
/// Name of the CA's key in its directory. It is needed only to issue and may be kept off-line.
pub const CA_KEY: &str = "ca.key";
/// Name of a host's certificate in its directory.
pub const HOST_CERT: &str = "host.crt";
/// Name of a host's key in its directory.
pub const HOST_KEY: &str = "host.key";

/// How long a CA is valid.
const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks of two hosts may differ by this much.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);
/// Shortest and longest validity of a host's certificate.
const VALIDITY: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(10 * 365 * 86_400);

/// Why no certificate was made or read. Nothing was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file is there already.
    #[error("{0} exists already and is not overwritten; move it away first, or name another directory")]
    Exists(Utf8PathBuf),
    /// There is no CA in the directory.
    #[error("there is no CA in {0}; make one with: lifeboat cert init")]
    NoCa(Utf8PathBuf),
    /// A name no certificate can be made for.
    #[error("\"{0}\" is neither a host name nor an IP address (wildcards are not allowed)")]
    Name(String),
    /// No host name among the names.
    #[error("name at least one DNS name: a host is known to its peers by it, not by an address")]
    NoDnsName,
    /// A validity out of range.
    #[error("a certificate is valid for 1 hour to 10 years")]
    Validity,
    /// The CA itself has expired.
    #[error("the CA in {0} has expired; make a new one and issue all certificates anew")]
    CaExpired(Utf8PathBuf),
    /// A file holds something else.
    #[error("{path}: {detail}")]
    Content {
        /// The file.
        path: Utf8PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A file or directory cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: Utf8PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A passphrase that can be guessed.
    #[error("a passphrase has {PASSPHRASE_MIN} characters at least")]
    PassphraseShort,
    /// Not the passphrase of the key.
    #[error("{0}: the passphrase is wrong, or the file is damaged")]
    PassphraseWrong(Utf8PathBuf),
    /// Nobody said it.
    #[error(
        "{path} is encrypted, and its passphrase cannot be read: {source}; name a file with it: --passphrase-file FILE"
    )]
    NoPassphrase {
        /// The key.
        path: Utf8PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The cryptographic library failed.
    #[error("no certificate could be made: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// Files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFiles {
    /// The certificate.
    pub cert: Utf8PathBuf,
    /// Its key, readable by its owner only.
    pub key: Utf8PathBuf,
    /// The certificate of the CA.
    pub ca: Utf8PathBuf,
}

impl CertFiles {
    /// Where they are in a host's directory.
    pub(crate) fn below(dir: &Utf8Path) -> Self {
        Self {
            cert: dir.join(HOST_CERT),
            key: dir.join(HOST_KEY),
            ca: dir.join(CA_CERT),
        }
    }
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

/// Makes a CA named `name` in `dir`, which is made too if needed. With a passphrase its key is encrypted.
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
    pub fn open(dir: &Utf8Path, ask: Ask<'_>) -> Result<Self, CertError> {
        let ca = load_ca(dir, ask)?;
        Ok(Self { ca, dir: dir.into() })
    }

    /// Its certificate, PEM.
    pub(crate) fn pem(&self) -> &[u8] {
        &self.ca.pem
    }

    /// Encrypts its key with another passphrase, or with its first one; `None`: it is written plain. The file is replaced whole. What
    /// a plain key has left on the disk before, this does not reach.
    pub fn change_passphrase(&self, passphrase: Option<&Passphrase>) -> Result<Utf8PathBuf, CertError> {
        let path = self.dir.join(CA_KEY);
        let pem = ca_key::to_pem(&path, self.ca.issuer.key(), passphrase)?;
        let replaced = || {
            beside(&self.dir, &pem, 0o600)?
                .persist(&path)
                .map_err(|e| e.error)?;
            File::open(&self.dir)?.sync_all()
        };
        replaced().map_err(io(&path))?;
        Ok(path)
    }

    /// Certifies a key for a host. It never outlives the CA.
    pub(crate) fn certify(
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
    pub fn issue(
        &self,
        host_names: &[String],
        out_dir: &Utf8Path,
        validity: Duration,
    ) -> Result<CertFiles, CertError> {
        check_names(host_names, validity)?;
        make_dir(out_dir)?;
        let files = CertFiles::below(out_dir);
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
pub(crate) const HOST_USAGES: [ExtendedKeyUsagePurpose; 2] = [
    ExtendedKeyUsagePurpose::ServerAuth,
    ExtendedKeyUsagePurpose::ClientAuth,
];

/// Whether a certificate can be made for these names and this time.
pub(crate) fn check_names(host_names: &[String], validity: Duration) -> Result<(), CertError> {
    subject_names(host_names)?;
    match VALIDITY.contains(&validity) {
        true => Ok(()),
        false => Err(CertError::Validity),
    }
}

/// Issues a certificate by the CA in `ca_dir`, whose key is not encrypted: see [`Authority::issue`].
pub fn issue(
    ca_dir: &Utf8Path,
    host_names: &[String],
    out_dir: &Utf8Path,
    validity: Duration,
) -> Result<CertFiles, CertError> {
    check_names(host_names, validity)?;
    let nobody = |_: &Utf8Path| Err(std::io::ErrorKind::Unsupported.into());
    Authority::open(ca_dir, &nobody)?.issue(host_names, out_dir, validity)
}

/// Reads the first certificate in a PEM file.
pub fn describe(path: &Utf8Path) -> Result<CertInfo, CertError> {
    let content = |detail: String| CertError::Content {
        path: path.into(),
        detail,
    };
    let der = CertificateDer::from_pem_slice(&read(path)?)
        .map_err(|e| content(format!("no certificate in it: {e}")))?;
    let (_, cert) =
        X509Certificate::from_der(&der).map_err(|e| content(format!("no X.509 certificate: {e}")))?;
    let validity = cert.validity();
    Ok(CertInfo {
        subject: cert.subject().to_string(),
        issuer: cert.issuer().to_string(),
        names: dns_names(&der),
        addresses: addresses(&cert),
        not_before: timestamp(validity.not_before.timestamp()),
        not_after: timestamp(validity.not_after.timestamp()),
        fingerprint: certificate_fingerprint(&der),
        key_fingerprint: key_fingerprint(&der)
            .ok_or_else(|| content("its public key cannot be read".into()))?,
        is_ca: cert.is_ca(),
    })
}

/// The DNS names among a certificate's SANs, lower case. A wildcard is no host's name and is left out.
pub(crate) fn dns_names(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, cert)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let Ok(Some(sans)) = cert.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |san: &GeneralName<'_>| match san {
        GeneralName::DNSName(name) => {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            matches!(ServerName::try_from(name.as_str()), Ok(ServerName::DnsName(_))).then_some(name)
        }
        _ => None,
    };
    sans.value.general_names.iter().filter_map(name).collect()
}

/// The addresses among a certificate's SANs.
pub(crate) fn ip_addresses(der: &CertificateDer<'_>) -> Vec<IpAddr> {
    X509Certificate::from_der(der).map_or_else(|_| Vec::new(), |(_, cert)| addresses(&cert))
}

/// Who has shown these. The common name does not count: only SANs are what a CA vouches for. Without names it is nobody that
/// may call; without any certificate, nobody at all.
pub(crate) fn identity(shown: &[CertificateDer<'_>]) -> PeerIdentity {
    let cert = shown.first();
    PeerIdentity {
        names: cert.map_or_else(Vec::new, dns_names),
        addresses: cert.map_or_else(Vec::new, ip_addresses),
        key: cert.and_then(key_fingerprint),
    }
}

/// From when until when a certificate is valid; `None` when it cannot be read.
pub(crate) fn validity(der: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let validity = cert.validity();
    Some((
        timestamp(validity.not_before.timestamp()),
        timestamp(validity.not_after.timestamp()),
    ))
}

fn addresses(cert: &X509Certificate<'_>) -> Vec<IpAddr> {
    let Ok(Some(sans)) = cert.subject_alternative_name() else {
        return Vec::new();
    };
    let address = |san: &GeneralName<'_>| match san {
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
            .ok(),
        _ => None,
    };
    sans.value.general_names.iter().filter_map(address).collect()
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
    pem: Vec<u8>,
}

fn load_ca(dir: &Utf8Path, ask: Ask<'_>) -> Result<Ca, CertError> {
    let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
    let missing = |e| match e {
        CertError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            CertError::NoCa(dir.into())
        }
        other => other,
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

/// A key of another CA would sign certificates that nobody accepts.
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
    // X.520 ends a common name at 64 characters; nobody here reads it but people.
    dn.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    dn
}

fn io(path: &Utf8Path) -> impl Fn(std::io::Error) -> CertError + '_ {
    move |source| CertError::Io {
        path: path.into(),
        source,
    }
}

fn read(path: &Utf8Path) -> Result<Vec<u8>, CertError> {
    std::fs::read(path).map_err(io(path))
}

pub(crate) fn make_dir(dir: &Utf8Path) -> Result<(), CertError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io(dir))
}

pub(crate) fn refuse_existing(paths: &[&Utf8Path]) -> Result<(), CertError> {
    match paths.iter().find(|p| p.symlink_metadata().is_ok()) {
        Some(path) => Err(CertError::Exists((*path).into())),
        None => Ok(()),
    }
}

/// The copy may be there from an earlier certificate, but not one of another CA.
pub(crate) fn copy_ca(pem: &[u8], to: &Utf8Path) -> Result<(), CertError> {
    match std::fs::read(to) {
        Ok(there) if there == pem => Ok(()),
        Ok(_) => Err(CertError::Exists(to.into())),
        Err(_) => write_new(to, &String::from_utf8_lossy(pem), 0o644),
    }
}

/// A durable file that has no name to stay yet.
fn beside(dir: &Utf8Path, text: &str, mode: u32) -> std::io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode))
        .prefix(".lifeboat-")
        .tempfile_in(dir)?;
    // The mask of the process is not asked.
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Writes a file that is not there yet, whole and durable or not at all: its name appears with all of it.
pub(crate) fn write_new(path: &Utf8Path, text: &str, mode: u32) -> Result<(), CertError> {
    let parent = path
        .parent()
        .filter(|p| !p.as_str().is_empty())
        .unwrap_or(Utf8Path::new("."));
    let made = || {
        beside(parent, text, mode)?
            .persist_noclobber(path)
            .map_err(|e| e.error)?;
        File::open(parent)?.sync_all()
    };
    made().map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => CertError::Exists(path.into()),
        _ => io(path)(e),
    })
}
