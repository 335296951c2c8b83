//! The certificates in use: read anew when their files change, and until when they and those of peers are valid. What a
//! handshake makes of them is `tls`'s; that somebody is warned is the engine's.
//!
//! Files are replaced one after the other, so what they hold in between may not fit together. Then what was read before
//! goes on being used and the reason is kept, and the files are looked at again at the next connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lifeboat_model::reread::{Look, Reread};
use lifeboat_model::{Fingerprint, Timestamp};
use lifeboat_trust::{RevocationList, fingerprints, key_fingerprint};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;

use crate::certs;
use crate::tls::{LinkConfig, LinkSetupError, Material};

/// How long a connection may go on after a certificate it was made with has ended: what is under way by then may come to
/// its end. No request begins after the certificate's end.
pub const GRACE: Duration = Duration::from_secs(600);

/// How often the wall clock is looked at while something is to end by it.
pub(crate) const CLOCK_LOOK: Duration = Duration::from_secs(30);

/// Peers whose certificates are remembered.
const PEERS_MAX: usize = 1024;

/// From when until when something is valid, by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
}

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
pub(crate) struct Loaded {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    /// Until when this host's own certificate and its chain are valid.
    pub(crate) own_until: Timestamp,
    own: Validity,
    authorities: Vec<Validity>,
    /// Of this host's own certificate.
    own_fingerprints: Vec<Fingerprint>,
    own_key: Option<Fingerprint>,
}

struct State {
    files: Reread<[Vec<u8>; 3], Loaded>,
    /// Certificates of peers.
    peers: BTreeMap<String, Validity>,
}

/// The certificates of this host for the link. One for the whole daemon.
pub struct Credentials {
    pub(crate) config: LinkConfig,
    pub(crate) revoked: Arc<RevocationList>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The wall clock, which is what certificates are judged by.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Waits until `end` by the wall clock, which may be set meanwhile: a timer alone would not notice.
pub(crate) async fn until(end: Timestamp) {
    while now() <= end {
        let left = end.since(now()).max(Duration::from_millis(20));
        tokio::time::sleep(left.min(CLOCK_LOOK)).await;
    }
}

/// Until when all of these are valid; for ever when there is none that can be read.
pub(crate) fn valid_until(chain: &[CertificateDer<'_>]) -> Timestamp {
    let ends = chain.iter().filter_map(certs::validity).map(|(_, end)| end);
    ends.min().unwrap_or(Timestamp(u64::MAX))
}

fn validity(der: &CertificateDer<'_>) -> Option<Validity> {
    certs::validity(der).map(|(not_before, not_after)| Validity {
        not_before,
        not_after,
    })
}

fn load(
    config: &LinkConfig,
    list: &Arc<RevocationList>,
    read: &[Vec<u8>; 3],
) -> Result<Loaded, LinkSetupError> {
    let material = Material::parse(config, read)?;
    let forever = Validity {
        not_before: Timestamp(0),
        not_after: Timestamp(u64::MAX),
    };
    Ok(Loaded {
        own_until: valid_until(&material.chain),
        own: material.chain.first().and_then(validity).unwrap_or(forever),
        authorities: material.authorities.iter().filter_map(validity).collect(),
        own_fingerprints: material
            .chain
            .first()
            .map_or_else(Vec::new, |own| fingerprints(std::slice::from_ref(own))),
        own_key: material.chain.first().and_then(key_fingerprint),
        client: config.client(&material, list)?,
        server: config.server(material, list)?,
    })
}

impl Credentials {
    /// Reads the files. No certificate is revoked.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn load(config: &LinkConfig) -> Result<Arc<Self>, LinkSetupError> {
        Self::load_with(config, RevocationList::none())
    }

    /// Reads the files. Certificates on the list are accepted neither from callers nor from whom this host calls.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn load_with(config: &LinkConfig, revoked: Arc<RevocationList>) -> Result<Arc<Self>, LinkSetupError> {
        let read = config.read()?;
        let loaded = load(config, &revoked, &read)?;
        Ok(Arc::new(Self {
            config: config.clone(),
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
    pub(crate) async fn current(self: &Arc<Self>) -> Arc<Loaded> {
        let this = self.clone();
        // A panic there would be a fault of this program; what was read before is still there.
        let _ = tokio::task::spawn_blocking(move || this.refresh()).await;
        self.state().files.in_use()
    }

    /// What is in use, as of the last look.
    pub(crate) fn in_use(&self) -> Arc<Loaded> {
        self.state().files.in_use()
    }

    /// Looks at the files, the revocation list among them, and takes over what they hold if it has changed and can be used.
    pub fn refresh(&self) {
        self.revoked.refresh();
        let read = self.config.read();
        let look = self
            .state()
            .files
            .look(read, |read| load(&self.config, &self.revoked, read));
        match look {
            Look::Same => {}
            Look::Changed => tracing::info!(cert = %self.config.cert, "changed certificates are in use"),
            Look::Unusable(why) => tracing::warn!(
                "the certificate files changed and cannot be used, what was read before goes on being used: {why}"
            ),
        }
    }

    /// Remembers the certificate that a peer has shown.
    pub(crate) fn shown(&self, peer: &str, chain: &[CertificateDer<'_>]) {
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
        std::iter::once((Holder::Host, loaded.own))
            .chain(authorities)
            .chain(peers)
            .collect()
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
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }
}
