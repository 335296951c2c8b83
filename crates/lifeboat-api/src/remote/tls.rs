//! TLS for clients of the management protocols: 1.2 and 1.3, because old clients are what these protocols are spoken for; a
//! client certificate is asked for and may be missing. What a certificate's owner may do is not decided here.
//!
//! Sessions are never resumed: a resumed session would skip the check whether a certificate has expired since.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::guard::Standing;
use lifeboat_trust::{RevocationList, asking_clients, asking_servers};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Files of the certificates, PEM. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This host's certificate; intermediate certificates may follow it.
    pub cert: Utf8PathBuf,
    /// Its key, for its owner alone; one that is another user's may be read by a group.
    pub key: Utf8PathBuf,
    /// Authorities whose client certificates are looked at.
    pub client_ca: Utf8PathBuf,
}

/// Why certificates cannot be used. The administrator's to repair.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file cannot be read.
    #[error("{path}: {cause}; make certificates with: lifeboat cert init, lifeboat cert issue")]
    Read {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        cause: std::io::Error,
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
    #[error("{0}: others than its owner may read or change this key; take that away with: chmod 600 {0}")]
    KeyExposed(Utf8PathBuf),
}

impl TlsFiles {
    /// The content of certificate, key and CA file, in this order.
    pub(crate) fn read(&self) -> Result<[Vec<u8>; 3], TlsSetupError> {
        Ok([read(&self.cert)?, read(&self.key)?, read(&self.client_ca)?])
    }

    /// The certificates of the first file.
    pub(crate) fn chain(
        &self,
        [cert, _, _]: &[Vec<u8>; 3],
    ) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
        certificates(&self.cert, cert)
    }

    /// For the ports, from the content of the files.
    pub(crate) fn server(
        &self,
        contents: &[Vec<u8>; 3],
        list: &Arc<RevocationList>,
    ) -> Result<Arc<ServerConfig>, TlsSetupError> {
        let chain = self.chain(contents)?;
        let [_, key, ca] = contents;
        let meta = std::fs::metadata(&self.key).map_err(|cause| TlsSetupError::Read {
            path: self.key.clone(),
            cause,
        })?;
        let standing = Standing {
            owner: meta.uid(),
            mode: meta.mode(),
            us: rustix::process::geteuid().as_raw(),
        };
        if standing.exposes_key() {
            return Err(TlsSetupError::KeyExposed(self.key.clone()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| content(&self.key, "private key", &e))?;
        let roots = self.roots(ca)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|e| content(&self.client_ca, "CA certificate", &e))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .and_then(|b| {
                let verifier = asking_clients(verifier, list.clone());
                b.with_client_cert_verifier(verifier).with_single_cert(chain, key)
            })
            .map_err(|e| content(&self.cert, "certificate for the key", &e))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For connections to listeners: their certificates must come from the authorities of our clients' certificates.
    pub(crate) fn client(
        &self,
        [_, _, ca]: &[Vec<u8>; 3],
        list: &Arc<RevocationList>,
    ) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(self.roots(ca)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|e| content(&self.client_ca, "CA certificate", &e))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|e| content(&self.client_ca, "CA certificate", &e))?
            .dangerous()
            .with_custom_certificate_verifier(asking_servers(verifier, list.clone()))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn roots(&self, ca: &[u8]) -> Result<RootCertStore, TlsSetupError> {
        let mut roots = RootCertStore::empty();
        for ca in certificates(&self.client_ca, ca)? {
            roots
                .add(ca)
                .map_err(|e| content(&self.client_ca, "CA certificate", &e))?;
        }
        Ok(roots)
    }
}

/// A certificate that a client has shown and that one of the authorities has issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// SHA-256, lower-case hexadecimal.
    pub(crate) fingerprint: String,
    /// DNS names and the common name, lower case.
    pub(crate) names: Vec<String>,
}

impl ClientCertificate {
    /// What it says. A certificate that cannot be read has no names, only a fingerprint.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        let fingerprint = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let mut names = Vec::new();
        if let Ok((_, cert)) = X509Certificate::from_der(der) {
            if let Ok(Some(sans)) = cert.subject_alternative_name() {
                names.extend(sans.value.general_names.iter().filter_map(|san| match san {
                    GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                    _ => None,
                }));
            }
            let common = cert.subject().iter_common_name();
            names.extend(common.filter_map(|n| n.as_str().ok()).map(str::to_lowercase));
        }
        Self { fingerprint, names }
    }

    /// What the log calls its owner.
    pub(crate) fn label(&self) -> &str {
        self.names.first().unwrap_or(&self.fingerprint)
    }
}

/// The certificates in a PEM file, DER.
///
/// # Errors
/// The file cannot be read or holds none.
pub fn certificate_chain(path: &Utf8Path) -> Result<Vec<Vec<u8>>, TlsSetupError> {
    Ok(certificates(path, &read(path)?)?
        .iter()
        .map(|c| c.to_vec())
        .collect())
}

fn content(path: &Utf8Path, what: &'static str, e: &dyn std::fmt::Display) -> TlsSetupError {
    TlsSetupError::Content {
        path: path.into(),
        what,
        detail: e.to_string(),
    }
}

fn read(path: &Utf8Path) -> Result<Vec<u8>, TlsSetupError> {
    std::fs::read(path).map_err(|cause| TlsSetupError::Read {
        path: path.into(),
        cause,
    })
}

fn certificates(path: &Utf8Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| content(path, "certificate", &e))?;
    match all.is_empty() {
        true => Err(content(path, "certificate", &"it holds none in PEM form")),
        false => Ok(all),
    }
}
