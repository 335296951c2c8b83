//! TLS as both sides use it: 1.3 only, certificates required on both sides, one CA. Errors of the handshake in words.
//!
//! Sessions are never resumed: a resumed session would skip the check whether a certificate has expired since.

use std::error::Error;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::Timestamp;
use lifeboat_model::certificates::utc;
use lifeboat_model::guard::Standing;
use lifeboat_trust::{RevocationError, RevocationList, asking_clients, asking_servers};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

/// Where this host's certificate is and whom it trusts. The files are read again when they change ([`crate::Credentials`]).
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Certificate of this host, PEM; intermediate certificates may follow it.
    pub cert: Utf8PathBuf,
    /// Its private key, PEM, for its owner alone; one that is another user's may be read by a group.
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
    /// Others on this host can read or change the key.
    #[error(
        "{path}: others than its owner may read or change this key; take that away with: chmod 600 {path}"
    )]
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
    /// The revocation list cannot be used.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
}

/// The only application protocol spoken.
const ALPN: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What the files hold.
pub(crate) struct Material {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl Material {
    /// Makes sense of the content of certificate, key and CA file, in this order.
    pub(crate) fn parse(config: &LinkConfig, [cert, key, ca]: &[Vec<u8>; 3]) -> Result<Self, LinkSetupError> {
        let chain = certificates(&config.cert, cert)?;
        refuse_exposed(&config.key)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| content(&config.key, "private key", &e))?;
        let authorities = certificates(&config.ca, ca)?;
        let mut roots = RootCertStore::empty();
        for ca in &authorities {
            roots
                .add(ca.clone())
                .map_err(|e| content(&config.ca, "CA certificate", &e))?;
        }
        Ok(Self {
            chain,
            authorities,
            key,
            roots: Arc::new(roots),
        })
    }
}

impl LinkConfig {
    /// The content of certificate, key and CA file, in this order.
    pub(crate) fn read(&self) -> Result<[Vec<u8>; 3], LinkSetupError> {
        Ok([read(&self.cert)?, read(&self.key)?, read(&self.ca)?])
    }

    fn mismatch(&self, e: &dyn std::fmt::Display) -> LinkSetupError {
        LinkSetupError::Mismatch {
            cert: self.cert.clone(),
            key: self.key.clone(),
            detail: e.to_string(),
        }
    }

    /// For the calling side.
    pub(crate) fn client(
        &self,
        material: &Material,
        list: &Arc<RevocationList>,
    ) -> Result<Arc<ClientConfig>, LinkSetupError> {
        let verifier = WebPkiServerVerifier::builder_with_provider(material.roots.clone(), provider())
            .build()
            .map_err(|e| content(&self.ca, "CA certificate", &e))?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| self.mismatch(&e))?
            .dangerous()
            .with_custom_certificate_verifier(asking_servers(verifier, list.clone()))
            .with_client_auth_cert(material.chain.clone(), material.key.clone_key())
            .map_err(|e| self.mismatch(&e))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// For the called side.
    pub(crate) fn server(
        &self,
        material: Material,
        list: &Arc<RevocationList>,
    ) -> Result<Arc<ServerConfig>, LinkSetupError> {
        let Material {
            chain, key, roots, ..
        } = material;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|e| content(&self.ca, "CA certificate", &e))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| self.mismatch(&e))?
            .with_client_cert_verifier(asking_clients(verifier, list.clone()))
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

fn certificates(path: &Utf8Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, LinkSetupError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| content(path, "certificate", &e))?;
    if all.is_empty() {
        return Err(content(path, "certificate", &"it holds none in PEM form"));
    }
    Ok(all)
}

fn refuse_exposed(path: &Utf8Path) -> Result<(), LinkSetupError> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).map_err(|source| LinkSetupError::Read {
        path: path.into(),
        source,
    })?;
    let standing = Standing {
        owner: meta.uid(),
        mode: meta.mode(),
        us: rustix::process::geteuid().as_raw(),
    };
    if standing.exposes_key() {
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

/// A certificate, or its key, is on the list of this host.
pub(crate) const REVOKED_HERE: &str = "its certificate, or the key of it, is on the revocation list here; issue a new one with a \
                                       new key, or take it off the list";

/// How a new certificate is made.
const ISSUE: &str = "lifeboat cert issue --ca DIR --host NAME --out NEWDIR";

/// We do not accept their certificate.
pub(crate) fn theirs(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => format!(
            "its certificate has expired, and the clock here says {}; if that is right, issue a new one ({ISSUE}) and put it in \
             place there, no restart is needed",
            utc(crate::credentials::now())
        ),
        CertificateError::ExpiredContext { not_after, time } => format!(
            "its certificate has expired: it ended on {}, and the clock here says {}; if that is right, issue a new one \
             ({ISSUE}) and put it in place there, no restart is needed",
            at(*not_after),
            at(*time)
        ),
        CertificateError::NotValidYet => format!(
            "its certificate is not valid yet, and the clock here says {}; check the clocks of both hosts",
            utc(crate::credentials::now())
        ),
        CertificateError::NotValidYetContext { not_before, time } => format!(
            "its certificate is not valid before {}, and the clock here says {}; check the clocks of both hosts",
            at(*not_before),
            at(*time)
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "its certificate was not issued by the CA trusted here; issue one by that CA ({ISSUE}), or append its CA to the ca \
             file here"
        ),
        CertificateError::Revoked => REVOKED_HERE.into(),
        CertificateError::NotValidForName => "its certificate is for another name".into(),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "its certificate is not for {} but for {}; call it by that name, or issue one with both ({ISSUE})",
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
        A::CertificateExpired => ours(expired(own_cert)),
        // The second comes from a CA of the same name with another key.
        A::UnknownCA | A::DecryptError => ours(format!(
            "it was not issued by the CA trusted there; issue one by that CA ({ISSUE}) and put it in place here, or append our CA \
             to the ca file there"
        )),
        A::CertificateRequired => ours("none was shown".into()),
        A::CertificateRevoked => ours(format!(
            "it, or its key, is on the revocation list there; issue a new one with a new key ({ISSUE}) and put both in place here, \
             or take it off the list there"
        )),
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied => {
            ours(format!("{alert:?}"))
        }
        other => Some(TlsFault::Protocol(format!(
            "TLS: it answered with the alert {other:?}"
        ))),
    }
}

/// The other side says that our certificate has expired, which its clock says: both dates, and the way out.
fn expired(own_cert: &Utf8Path) -> String {
    let now = crate::credentials::now();
    let end = crate::certs::describe(own_cert).ok().map(|c| c.not_after);
    match end {
        Some(end) if end > now => format!(
            "it says that ours has expired, but ours is valid until {} and the clock here says {}; check the clocks of both hosts",
            utc(end),
            utc(now)
        ),
        Some(end) => format!(
            "ours has expired: it ended on {}, and the clock here says {}; if that is right, issue a new one ({ISSUE}) and put it \
             and its key in place, no restart is needed",
            utc(end),
            utc(now)
        ),
        None => format!(
            "ours has expired; issue a new one ({ISSUE}) and put it and its key in place, no restart is needed"
        ),
    }
}

fn at(time: UnixTime) -> String {
    utc(Timestamp(time.as_secs().saturating_mul(1000)))
}
