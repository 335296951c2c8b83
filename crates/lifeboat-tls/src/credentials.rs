//! The certificates in use: read again when their files change, and until when they and those of peers are valid. What a
//! handshake makes of them is `config`'s; warnings about them are the engine's.
//!
//! Files are replaced one after the other, so what they hold in between may not fit together. Then what was read before
//! goes on being used and the reason is kept, and the files are looked at again at the next connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_model::reread::{Look, Reread};
use lifeboat_model::{Fingerprint, Timestamp};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;

use crate::certificate::{Validity, valid_until, validity};
use crate::config::{Purpose, client, server};
use crate::files::{CertificateFiles, Contents, CredentialsError, Material};
use crate::fingerprint::{fingerprints, key_fingerprint};
use crate::revocation::RevocationList;

/// Peers whose certificates are remembered.
const PEERS_MAX: usize = 1024;

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This host's own, from the configured file.
    Host,
    /// Of an authority trusted here, from the configured file.
    Authority,
    /// Of a peer: how it was called, or a name in its certificate.
    Peer(String),
}

/// What a connection is made with.
pub struct Loaded {
    /// For the calling side.
    pub client: Arc<ClientConfig>,
    /// For the called side.
    pub server: Arc<ServerConfig>,
    /// Until when this host's own certificate and its chain are valid.
    pub own_until: Timestamp,
    /// `None` when it cannot be read.
    own: Option<Validity>,
    authorities: Vec<Validity>,
    /// Of this host's own certificate.
    own_fingerprints: Vec<Fingerprint>,
    own_key: Option<Fingerprint>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

struct State {
    files: Reread<Contents, Loaded>,
    /// Certificates of peers.
    peers: BTreeMap<String, Validity>,
}

/// The certificates of this host for one purpose. One for the whole daemon.
pub struct Credentials {
    purpose: Purpose,
    files: CertificateFiles,
    revoked: Arc<RevocationList>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("purpose", &self.purpose)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn make(
    purpose: Purpose,
    files: &CertificateFiles,
    list: &Arc<RevocationList>,
    read: &Contents,
) -> Result<Loaded, CredentialsError> {
    let material = Material::parse(files, read)?;
    let own = material.chain.first();
    Ok(Loaded {
        own_until: valid_until(&material.chain),
        own: own.and_then(validity),
        authorities: material.authorities.iter().filter_map(validity).collect(),
        own_fingerprints: own.map_or_else(Vec::new, |own| fingerprints(std::slice::from_ref(own))),
        own_key: own.and_then(key_fingerprint),
        client: client(purpose, files, &material, list)?,
        server: server(purpose, files, material, list)?,
    })
}

impl Credentials {
    /// Reads the files. Certificates on the list are accepted neither from callers nor from whom this host calls.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn load(
        purpose: Purpose,
        files: &CertificateFiles,
        revoked: Arc<RevocationList>,
    ) -> Result<Arc<Self>, CredentialsError> {
        let read = files.read()?;
        let loaded = make(purpose, files, &revoked, &read)?;
        Ok(Arc::new(Self {
            purpose,
            files: files.clone(),
            revoked,
            state: Mutex::new(State {
                files: Reread::new(read, loaded),
                peers: BTreeMap::new(),
            }),
        }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Everything in it is replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in use, after a look at the files. A look reads them: their times may be the same for two contents.
    pub async fn current(self: &Arc<Self>) -> Arc<Loaded> {
        let this = self.clone();
        // A panic there would be a fault of this program; what was read before is still there.
        let _ = tokio::task::spawn_blocking(move || this.refresh()).await;
        self.state().files.in_use()
    }

    /// What is in use, as of the last look.
    #[must_use]
    pub fn in_use(&self) -> Arc<Loaded> {
        self.state().files.in_use()
    }

    /// Looks at the files, the revocation list among them, and takes over what they hold if it has changed and can be used.
    pub fn refresh(&self) {
        self.revoked.refresh();
        let read = self.files.read();
        let look = self
            .state()
            .files
            .look(read, |read| make(self.purpose, &self.files, &self.revoked, read));
        let of = match self.purpose {
            Purpose::Peers => "",
            Purpose::Management => " for management",
        };
        match look {
            Look::Same => {}
            Look::Changed => tracing::info!(cert = %self.files.cert, "changed certificates{of} are in use"),
            Look::Unusable(why) => tracing::warn!(
                "the certificate files{of} changed and cannot be used, what was read before goes on being used: {why}"
            ),
        }
    }

    /// Remembers the certificate that a peer has shown.
    pub fn shown(&self, peer: &str, chain: &[CertificateDer<'_>]) {
        let Some(shown) = chain.first().and_then(validity) else {
            return;
        };
        let peers = &mut self.state().peers;
        if peers.len() < PEERS_MAX || peers.contains_key(peer) {
            peers.insert(peer.to_owned(), shown);
        }
    }

    /// Every certificate that connections depend on.
    #[must_use]
    pub fn seen(&self) -> Vec<(Holder, Validity)> {
        let state = self.state();
        let loaded = state.files.in_use();
        let authorities = loaded.authorities.iter().map(|v| (Holder::Authority, *v));
        let peers = state
            .peers
            .iter()
            .map(|(name, v)| (Holder::Peer(name.clone()), *v));
        let forever = Validity {
            not_before: Timestamp(0),
            not_after: Timestamp(u64::MAX),
        };
        std::iter::once((Holder::Host, loaded.own.unwrap_or(forever)))
            .chain(authorities)
            .chain(peers)
            .collect()
    }

    /// From when until when this host's own certificate is valid; `None` when that cannot be read from it.
    #[must_use]
    pub fn own_validity(&self) -> Option<Validity> {
        self.in_use().own
    }

    /// Why what the files hold now is not used; `None` while it is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.state().files.problem()
    }

    /// Whether this host's own certificate is on its list, which then is on that of other hosts as well.
    #[must_use]
    pub fn own_revoked(&self) -> Option<Fingerprint> {
        self.revoked.first_of(&self.in_use().own_fingerprints)
    }

    /// SHA-256 of this host's public key; `None` when its certificate cannot be read.
    #[must_use]
    pub fn own_key(&self) -> Option<Fingerprint> {
        self.in_use().own_key
    }

    /// The list of certificates that are not accepted.
    #[must_use]
    pub fn revoked(&self) -> &Arc<RevocationList> {
        &self.revoked
    }

    /// Where the files are.
    #[must_use]
    pub fn files(&self) -> &CertificateFiles {
        &self.files
    }
}
