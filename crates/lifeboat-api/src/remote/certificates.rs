//! The certificates of the management protocols that are in use: read anew when their files change, and until when they are
//! valid. Files are replaced one after the other; while they do not fit together, what was read before goes on being used.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lifeboat_model::Timestamp;
use lifeboat_model::reread::{Look, Reread};
use lifeboat_trust::RevocationList;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tls::{TlsFiles, TlsSetupError};

/// How often the wall clock is looked at while a connection is to end by it.
const CLOCK_LOOK: Duration = Duration::from_secs(30);

/// What a connection is made with.
pub(crate) struct Loaded {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    /// The file's certificates; the host's own is the first.
    chain: Vec<CertificateDer<'static>>,
    /// Until when all of the chain is valid.
    pub(crate) own_until: Timestamp,
}

/// Certificates for clients of the management protocols.
pub struct ManagementCertificates {
    files: TlsFiles,
    pub(crate) revoked: Arc<RevocationList>,
    state: Mutex<Reread<[Vec<u8>; 3], Loaded>>,
}

impl std::fmt::Debug for ManagementCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManagementCertificates")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// From when until when a certificate is valid.
fn validity(der: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let at = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let validity = cert.validity();
    Some((
        at(validity.not_before.timestamp()),
        at(validity.not_after.timestamp()),
    ))
}

/// Until when all of these are valid; for ever when there is none that can be read.
pub(crate) fn valid_until(chain: &[CertificateDer<'_>]) -> Timestamp {
    let ends = chain.iter().filter_map(validity).map(|(_, end)| end);
    ends.min().unwrap_or(Timestamp(u64::MAX))
}

/// Waits until `end` by the wall clock, which may be set meanwhile.
pub(crate) async fn until(end: Timestamp) {
    while now() <= end {
        let left = end.since(now()).max(Duration::from_millis(20));
        tokio::time::sleep(left.min(CLOCK_LOOK)).await;
    }
}

fn load(files: &TlsFiles, list: &Arc<RevocationList>, read: &[Vec<u8>; 3]) -> Result<Loaded, TlsSetupError> {
    let chain = files.chain(read)?;
    Ok(Loaded {
        server: files.server(read, list)?,
        client: files.client(read, list)?,
        own_until: valid_until(&chain),
        chain,
    })
}

impl ManagementCertificates {
    /// Reads the files.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn load(files: &TlsFiles, revoked: Arc<RevocationList>) -> Result<Arc<Self>, TlsSetupError> {
        let read = files.read()?;
        let loaded = load(files, &revoked, &read)?;
        Ok(Arc::new(Self {
            files: files.clone(),
            revoked,
            state: Mutex::new(Reread::new(read, loaded)),
        }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Reread<[Vec<u8>; 3], Loaded>> {
        // Everything in it is replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in use, after a look at the files.
    pub(crate) async fn current(self: &Arc<Self>) -> Arc<Loaded> {
        let this = self.clone();
        // A panic there would be a fault of this program; what was read before is still there.
        let _ = tokio::task::spawn_blocking(move || this.refresh()).await;
        self.state().in_use()
    }

    /// Looks at the files, the revocation list among them, and takes over what they hold if it has changed and can be used.
    pub fn refresh(&self) {
        self.revoked.refresh();
        let read = self.files.read();
        let look = self
            .state()
            .look(read, |read| load(&self.files, &self.revoked, read));
        match look {
            Look::Same => {}
            Look::Changed => {
                tracing::info!(cert = %self.files.cert, "changed certificates for management are in use")
            }
            Look::Unusable(why) => tracing::warn!(
                "the certificate files for management changed and cannot be used, what was read before goes on being used: {why}"
            ),
        }
    }

    /// From when until when the certificate shown to clients is valid; `None` when that cannot be read from it.
    #[must_use]
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        self.state().in_use().chain.first().and_then(validity)
    }

    /// Why what the files hold now is not used; `None` while it is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.state().problem()
    }

    /// Where the files are.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }
}
