//! Configurations of rustls: which versions, whose certificates, one application protocol. Which certificates there are,
//! `files` knows.
//!
//! Sessions are never resumed: a resumed session would skip the check whether a certificate has expired since.

use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use crate::files::{CertificateFiles, CredentialsError, Material};
use crate::revocation::RevocationList;
use crate::verify::{asking_clients, asking_servers};

/// The application protocol of peers and of management.
const HTTP: &[u8] = b"http/1.1";

/// What connections are for, which says how they are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Host to host: TLS 1.3 alone, certificates on both sides.
    Peers,
    /// Management protocols: 1.2 as well, because old clients are what these protocols are spoken for; a client certificate is
    /// asked for and may be missing, and to listeners none is shown.
    Management,
}

static ONE: &[&SupportedProtocolVersion] = &[&TLS13];
static BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

impl Purpose {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Peers => ONE,
            Self::Management => BOTH,
        }
    }
}

/// The cryptography of all connections.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// For the called side: speaks `protocol` alone and never resumes a session.
#[must_use]
pub fn called(mut config: ServerConfig, protocol: &[u8]) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// For the calling side: speaks `protocol` alone and never resumes a session.
#[must_use]
pub fn calling(mut config: ClientConfig, protocol: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// For the calling side of connections for this purpose.
pub(crate) fn client(
    purpose: Purpose,
    files: &CertificateFiles,
    material: &Material,
    list: &Arc<RevocationList>,
) -> Result<Arc<ClientConfig>, CredentialsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(material.roots.clone(), provider())
        .build()
        .map_err(|e| files.no_ca(&e))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(purpose.versions())
        .map_err(|e| files.mismatch(&e))?
        .dangerous()
        .with_custom_certificate_verifier(asking_servers(verifier, list.clone()));
    let config = match purpose {
        Purpose::Peers => builder
            .with_client_auth_cert(material.chain.clone(), material.key.clone_key())
            .map_err(|e| files.mismatch(&e))?,
        Purpose::Management => builder.with_no_client_auth(),
    };
    Ok(calling(config, HTTP))
}

/// For the called side of connections for this purpose.
pub(crate) fn server(
    purpose: Purpose,
    files: &CertificateFiles,
    material: Material,
    list: &Arc<RevocationList>,
) -> Result<Arc<ServerConfig>, CredentialsError> {
    let Material {
        chain, key, roots, ..
    } = material;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let verifier = match purpose {
        Purpose::Peers => verifier,
        Purpose::Management => verifier.allow_unauthenticated(),
    };
    let verifier = verifier.build().map_err(|e| files.no_ca(&e))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(purpose.versions())
        .map_err(|e| files.mismatch(&e))?
        .with_client_cert_verifier(asking_clients(verifier, list.clone()))
        .with_single_cert(chain, key)
        .map_err(|e| files.mismatch(&e))?;
    Ok(called(config, HTTP))
}
