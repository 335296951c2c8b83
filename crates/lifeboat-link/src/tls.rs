//! TLS as both sides use it: 1.3 only, certificates required on both sides, one CA. Errors of the handshake in words.
//!
//! Sessions are never resumed: a resumed session would skip the check whether a certificate has expired since.

use std::error::Error;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

/// Where this host's certificate is and whom it trusts. The files are read once.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Certificate of this host, PEM; intermediate certificates may follow it.
    pub cert: Utf8PathBuf,
    /// Its private key, PEM, not readable by everybody.
    pub key: Utf8PathBuf,
    /// Certificate of the CA whose hosts are trusted, PEM. Several may stand in the file while CAs are changed.
    pub ca: Utf8PathBuf,
}

/// Why certificates cannot be used. The administrator's to repair; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum LinkSetupError {
    /// A file cannot be read.
    #[error("{path}: {source}; make certificates with: lifeboat cert init, lifeboat cert issue")]
    Read {
        /// The file.
        path: Utf8PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{path}: no usable {what} in it: {detail}")]
    Content {
        /// The file.
        path: Utf8PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// Everybody on this host can read the key.
    #[error("{path}: every user of this host can read this key; take that away with: chmod 600 {path}")]
    KeyExposed {
        /// The key.
        path: Utf8PathBuf,
    },
    /// Certificate and key do not belong together, or cannot be used for TLS 1.3.
    #[error("{cert} and {key} cannot be used together: {detail}")]
    Mismatch {
        /// The certificate.
        cert: Utf8PathBuf,
        /// The key.
        key: Utf8PathBuf,
        /// What is wrong.
        detail: String,
    },
}

/// The only application protocol spoken.
const ALPN: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl LinkConfig {
    fn load(&self) -> Result<Material, LinkSetupError> {
        let chain = certificates(&self.cert)?;
        refuse_exposed(&self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|e| content(&self.key, "private key", &e))?;
        let mut roots = RootCertStore::empty();
        for ca in certificates(&self.ca)? {
            roots
                .add(ca)
                .map_err(|e| content(&self.ca, "CA certificate", &e))?;
        }
        Ok(Material {
            chain,
            key,
            roots: Arc::new(roots),
        })
    }

    fn mismatch(&self, e: &dyn std::fmt::Display) -> LinkSetupError {
        LinkSetupError::Mismatch {
            cert: self.cert.clone(),
            key: self.key.clone(),
            detail: e.to_string(),
        }
    }

    /// For the calling side.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, LinkSetupError> {
        let Material { chain, key, roots } = self.load()?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| self.mismatch(&e))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| self.mismatch(&e))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// For the called side.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, LinkSetupError> {
        let Material { chain, key, roots } = self.load()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|e| content(&self.ca, "CA certificate", &e))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| self.mismatch(&e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|e| self.mismatch(&e))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn content(path: &Utf8Path, what: &'static str, e: &dyn std::fmt::Display) -> LinkSetupError {
    LinkSetupError::Content {
        path: path.into(),
        what,
        detail: e.to_string(),
    }
}

fn read(path: &Utf8Path) -> Result<Vec<u8>, LinkSetupError> {
    std::fs::read(path).map_err(|source| LinkSetupError::Read {
        path: path.into(),
        source,
    })
}

fn certificates(path: &Utf8Path) -> Result<Vec<CertificateDer<'static>>, LinkSetupError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|e| content(path, "certificate", &e))?;
    if all.is_empty() {
        return Err(content(path, "certificate", &"it holds none in PEM form"));
    }
    Ok(all)
}

fn refuse_exposed(path: &Utf8Path) -> Result<(), LinkSetupError> {
    use std::os::unix::fs::PermissionsExt;
    let meta = std::fs::metadata(path).map_err(|source| LinkSetupError::Read {
        path: path.into(),
        source,
    })?;
    if meta.permissions().mode() & 0o004 != 0 {
        return Err(LinkSetupError::KeyExposed { path: path.into() });
    }
    Ok(())
}

/// What kind of failure of the handshake it was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TlsFault {
    /// A certificate was not accepted, by us or by the other side.
    Untrusted(String),
    /// No TLS as we speak it.
    Protocol(String),
}

/// Looks for a TLS error below `error`. An `io::Error` hides the error it wraps from `source`, hence the digging.
pub(crate) fn find_fault(error: &(dyn Error + 'static), own_cert: &Utf8Path) -> Option<TlsFault> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return explain(tls, own_cert);
        }
        next = match e
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => e.source(),
        };
    }
    None
}

/// `None` for errors that are only a connection that ended.
fn explain(error: &rustls::Error, own_cert: &Utf8Path) -> Option<TlsFault> {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(e) => Some(TlsFault::Untrusted(theirs(e))),
        E::AlertReceived(alert) => alerted(*alert, own_cert),
        E::NoCertificatesPresented => Some(TlsFault::Untrusted("it shows no certificate".into())),
        E::InvalidMessage(_) => Some(TlsFault::Protocol("it does not answer with TLS".into())),
        other => Some(TlsFault::Protocol(format!("TLS: {other}"))),
    }
}

/// We do not accept their certificate.
pub(crate) fn theirs(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "its certificate has expired; issue a new one there".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!(
                "its certificate has expired (it ended on {}); issue a new one there",
                day(*not_after)
            )
        }
        CertificateError::NotValidYet => {
            "its certificate is not valid yet; check the clocks of both hosts".into()
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "its certificate is not valid before {}; check the clocks of both hosts",
            day(*not_before)
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate was not issued by the CA trusted here".into()
        }
        CertificateError::NotValidForName => "its certificate is for another name".into(),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "its certificate is not for {} but for {}",
            expected.to_str(),
            if presented.is_empty() {
                "no name".into()
            } else {
                presented.join(", ")
            }
        ),
        other => format!("its certificate is not accepted: {other}"),
    }
}

/// They do not accept something of ours.
fn alerted(alert: AlertDescription, own_cert: &Utf8Path) -> Option<TlsFault> {
    use AlertDescription as A;
    let ours = |why: String| {
        Some(TlsFault::Untrusted(format!(
            "it refuses our certificate ({own_cert}): {why}"
        )))
    };
    match alert {
        A::CloseNotify => None,
        A::CertificateExpired => ours("ours has expired; issue a new one".into()),
        // The second comes from a CA of the same name with another key.
        A::UnknownCA | A::DecryptError => ours("it was not issued by the CA trusted there".into()),
        A::CertificateRequired => ours("none was shown".into()),
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateUnknown
        | A::AccessDenied => ours(format!("{alert:?}")),
        other => Some(TlsFault::Protocol(format!(
            "TLS: it answered with the alert {other:?}"
        ))),
    }
}

fn day(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok())
        .map_or_else(|| "an impossible day".into(), |t| t.date().to_string())
}
