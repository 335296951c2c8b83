//! Certificate, key and CA as files: what they hold, and that no other user can read the key. What is made of them is `config`'s.

use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::guard::Standing;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Name of the CA's certificate in its directory, and of its copy beside each host's certificate.
pub const CA_CERT: &str = "ca.crt";
/// Name of a host's certificate in its directory.
const HOST_CERT: &str = "host.crt";
/// Name of a host's key in its directory.
const HOST_KEY: &str = "host.key";

/// Where certificates are, PEM. The files are read again when they change ([`crate::Credentials`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Certificate of this host; intermediate certificates may follow it.
    pub cert: Utf8PathBuf,
    /// Its private key, for its owner alone; one that is another user's may be read by a group.
    pub key: Utf8PathBuf,
    /// Certificate of the CA whose certificates are trusted. Several may stand in the file while CAs are changed.
    pub ca: Utf8PathBuf,
}

/// Why certificates cannot be used. The administrator's to repair.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
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
    /// Certificate and key do not belong together, or cannot be used for TLS as it is spoken here.
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

/// The content of certificate, key and CA file, in this order.
pub(crate) type Contents = [Vec<u8>; 3];

impl CertificateFiles {
    /// Where they are in a host's directory.
    #[must_use]
    pub fn below(dir: &Utf8Path) -> Self {
        Self {
            cert: dir.join(HOST_CERT),
            key: dir.join(HOST_KEY),
            ca: dir.join(CA_CERT),
        }
    }

    pub(crate) fn read(&self) -> Result<Contents, CredentialsError> {
        Ok([read(&self.cert)?, read(&self.key)?, read(&self.ca)?])
    }

    pub(crate) fn mismatch(&self, e: &dyn Display) -> CredentialsError {
        CredentialsError::Mismatch {
            cert: self.cert.clone(),
            key: self.key.clone(),
            detail: e.to_string(),
        }
    }

    pub(crate) fn no_ca(&self, e: &dyn Display) -> CredentialsError {
        content(&self.ca, "CA certificate", e)
    }
}

/// What the files hold.
pub(crate) struct Material {
    /// Of this host; its own certificate is the first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    pub(crate) roots: Arc<RootCertStore>,
}

impl Material {
    /// Makes sense of what was read.
    pub(crate) fn parse(
        files: &CertificateFiles,
        [cert, key, ca]: &Contents,
    ) -> Result<Self, CredentialsError> {
        let chain = certificates(&files.cert, cert)?;
        refuse_exposed(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| content(&files.key, "private key", &e))?;
        let authorities = certificates(&files.ca, ca)?;
        let mut roots = RootCertStore::empty();
        for ca in &authorities {
            roots.add(ca.clone()).map_err(|e| files.no_ca(&e))?;
        }
        Ok(Self {
            chain,
            key,
            authorities,
            roots: Arc::new(roots),
        })
    }
}

/// The certificates in a PEM file, DER; at least one.
///
/// # Errors
/// The file cannot be read or holds none.
pub fn certificate_chain(path: &Utf8Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    certificates(path, &read(path)?)
}

fn content(path: &Utf8Path, what: &'static str, e: &dyn Display) -> CredentialsError {
    CredentialsError::Content {
        path: path.into(),
        what,
        detail: e.to_string(),
    }
}

fn read(path: &Utf8Path) -> Result<Vec<u8>, CredentialsError> {
    std::fs::read(path).map_err(|source| CredentialsError::Read {
        path: path.into(),
        source,
    })
}

fn certificates(path: &Utf8Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| content(path, "certificate", &e))?;
    if all.is_empty() {
        return Err(content(path, "certificate", &"it holds none in PEM form"));
    }
    Ok(all)
}

fn refuse_exposed(path: &Utf8Path) -> Result<(), CredentialsError> {
    let meta = std::fs::metadata(path).map_err(|source| CredentialsError::Read {
        path: path.into(),
        source,
    })?;
    let standing = Standing {
        owner: meta.uid(),
        mode: meta.mode(),
        us: rustix::process::geteuid().as_raw(),
    };
    if standing.exposes_key() {
        return Err(CredentialsError::KeyExposed { path: path.into() });
    }
    Ok(())
}
