//! Proves who a caller is: by a password over HTTP Basic, or by a certificate. What one attempt may cost this host is bounded
//! for every caller. What a caller may do is not decided here.
//!
//! A password that was right is remembered for a while by a keyed digest, so that not every request costs a slow hash. A wrong
//! one costs the same whether there is such a user or not, and delays the next attempt ([`backoff`]). Hashes wait in two lanes:
//! callers suspected of guessing may use only half of the hashes that run at once.

mod backoff;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use lifeboat_admission::Origin;
use lifeboat_tls::certificate::entered_names;
use lifeboat_tls::certificate_fingerprint;
use rustls_pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use backoff::{Account, Backoff};

use crate::cim::Caller;
use crate::users::{self, PASSWORD_BYTES, Secret, Users, UsersError, WatchedUsers};

/// Slow hashes that run at once; each takes some 20 MiB.
const AT_ONCE: usize = 2;
/// Of these, for callers at addresses where passwords were wrong of late.
const AT_ONCE_SUSPECTS: usize = 1;
/// Callers that may wait for a hash, in each lane.
const WAITING: usize = 128;
/// Of these, callers at one address: fewer than its connections without credentials, which are not dropped while they wait.
const WAITING_EACH: usize = 64;
/// How long a right password is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Value of `Authorization` by which a client asks to be known by its certificate (DSP0226).
const MUTUAL: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual";

/// A certificate that a client has shown and that one of the authorities has issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// SHA-256, lower-case hexadecimal, as it is entered.
    fingerprint: String,
    /// DNS names and the common name, lower case.
    names: Vec<String>,
}

impl ClientCertificate {
    /// Reads a certificate in DER. One that cannot be parsed has no names, only a fingerprint.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Self {
        let digest = certificate_fingerprint(der);
        Self {
            fingerprint: digest.bytes().iter().map(|b| format!("{b:02x}")).collect(),
            names: entered_names(der),
        }
    }

    /// The first name, or else the fingerprint, for the log.
    fn label(&self) -> &str {
        self.names.first().unwrap_or(&self.fingerprint)
    }
}

/// Why a caller is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No credentials. Many clients send the first request of a connection like this.
    Nothing,
    /// An `Authorization` that is neither Basic nor [`MUTUAL`], or Basic that cannot be decoded.
    Malformed,
    /// No such user, or not their password.
    Wrong {
        /// As it was sent; up to a bound.
        user: String,
    },
    /// A certificate that has no entry in the file of users.
    UnknownCertificate {
        /// [`ClientCertificate::label`] of it.
        certificate: String,
    },
    /// Too many wrong passwords came before. This one was not compared.
    Later {
        /// Time until the next one is compared.
        wait: Duration,
    },
    /// Too many callers wait for a hash already.
    Busy,
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("no credentials"),
            Self::Malformed => f.write_str("credentials that are neither Basic nor a certificate"),
            Self::Wrong { user } => write!(f, "unknown user or wrong password for {user:?}"),
            Self::UnknownCertificate { certificate } => {
                write!(f, "no entry for the certificate of {certificate:?}")
            }
            Self::Later { wait } => write!(
                f,
                "too many wrong passwords before; the next one is looked at in {:.1} s",
                wait.as_secs_f64()
            ),
            Self::Busy => f.write_str("too many logins at once"),
        }
    }
}

#[derive(Default)]
struct Remembered {
    /// The edition of the file of users that the callers are from.
    edition: u64,
    /// At most one for each user, because only right passwords get in.
    callers: HashMap<[u8; 32], (Caller, Instant)>,
}

/// Callers that wait for a hash.
struct Lane {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    each: Arc<Mutex<HashMap<Origin, usize>>>,
}

/// A place in a lane.
struct Waiting {
    each: Arc<Mutex<HashMap<Origin, usize>>>,
    from: Origin,
    _place: OwnedSemaphorePermit,
}

impl Lane {
    fn new(turns: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(turns)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            each: Arc::default(),
        }
    }

    fn enter(&self, from: Origin) -> Result<Waiting, Denied> {
        let place = self.waiting.clone().try_acquire_owned();
        let place = place.map_err(|_| Denied::Busy)?;
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let own = each.entry(from).or_default();
        if *own >= WAITING_EACH {
            return Err(Denied::Busy);
        }
        *own += 1;
        drop(each);
        Ok(Waiting {
            each: self.each.clone(),
            from,
            _place: place,
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = each.get_mut(&self.from) {
            *own -= 1;
            if *own == 0 {
                each.remove(&self.from);
            }
        }
    }
}

/// What a hash holds until it is done, whether or not its caller still waits.
struct Turn {
    _waiting: Waiting,
    _permits: [OwnedSemaphorePermit; 2],
}

/// The users, and what is remembered of their logins.
pub(crate) struct Login {
    users: WatchedUsers,
    key: [u8; 32],
    remembered: Mutex<Remembered>,
    backoff: Arc<Mutex<Backoff>>,
    began: Instant,
    at_once: Arc<Semaphore>,
    lanes: [Lane; 2],
    /// Hash to compare with when there is no such user and no other user either, so that the comparison takes as long.
    decoy: Secret,
}

impl Login {
    /// Reads the file of users, which must be there.
    pub(crate) fn open(path: &camino::Utf8Path) -> Result<Self, UsersError> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|e| UsersError::Hash(e.to_string()))?;
        Ok(Self {
            users: WatchedUsers::open(path)?,
            key,
            remembered: Mutex::default(),
            backoff: Arc::default(),
            began: Instant::now(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            lanes: [Lane::new(AT_ONCE), Lane::new(AT_ONCE_SUSPECTS)],
            decoy: users::hash(&Secret::new(uuid::Uuid::new_v4().to_string()))?,
        })
    }

    /// The caller who sent this head. A password counts before a certificate: it was sent on purpose.
    pub(crate) async fn check(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
        from: IpAddr,
    ) -> Result<Caller, Denied> {
        let shown = headers.get(AUTHORIZATION).map(|v| v.to_str());
        match (shown, certificate) {
            (None, None) => Err(Denied::Nothing),
            (None, Some(certificate)) => self.by_certificate(certificate),
            (Some(Ok(text)), Some(certificate)) if text.trim().eq_ignore_ascii_case(MUTUAL) => {
                self.by_certificate(certificate)
            }
            (Some(Ok(text)), _) => {
                let (user, password) = basic(text).ok_or(Denied::Malformed)?;
                self.by_password(user, password, from.into()).await
            }
            (Some(Err(_)), _) => Err(Denied::Malformed),
        }
    }

    fn by_certificate(&self, certificate: &ClientCertificate) -> Result<Caller, Denied> {
        let (users, _) = self.users.now();
        let entry = users.certificates.iter().find(|entry| {
            let by_name = |name: &String| certificate.names.contains(&name.to_lowercase());
            entry.fingerprint.as_ref() == Some(&certificate.fingerprint)
                || entry.name.as_ref().is_some_and(by_name)
        });
        let Some(entry) = entry else {
            let certificate = certificate.label().to_owned();
            return Err(Denied::UnknownCertificate { certificate });
        };
        Ok(Caller {
            // A user's name cannot have a space: no user has this name, and with it a share in the certificate's subscriptions.
            name: format!("certificate {}", entry.label()),
            role: entry.role,
            from: None,
        })
    }

    async fn by_password(&self, user: String, password: Secret, from: Origin) -> Result<Caller, Denied> {
        let digest = self.digest(&user, &password);
        if let Some(caller) = self.recall(&digest) {
            return Ok(caller);
        }
        let account = self.account(&user);
        let turn = self.turn(from, &account).await?;
        // A caller before this one in the queue may have proved the same password, or have guessed wrong.
        if let Some(caller) = self.recall(&digest) {
            return Ok(caller);
        }
        self.not_put_off(from, &account)?;
        let (users, edition) = self.users.now();
        let hash = self.hash_to_try(&users, &user);
        let (backoff, now) = (self.backoff.clone(), self.began.elapsed());
        let exists = users.user(&user).is_some();
        let judged = move |right: bool| {
            let mut backoff = backoff.lock().unwrap_or_else(PoisonError::into_inner);
            if right && exists {
                backoff.succeeded(now, from, &account)
            } else {
                backoff.failed(now, from, &account)
            }
        };
        let right = verify(hash, password, judged, turn).await?;
        match users.user(&user) {
            Some(entry) if right => {
                let caller = Caller {
                    name: entry.name.clone(),
                    role: entry.role,
                    from: None,
                };
                self.remember(digest, &caller, edition);
                Ok(caller)
            }
            _ => Err(Denied::Wrong {
                user: user.chars().take(users::MAX_NAME).collect(),
            }),
        }
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_put_off(&self, from: Origin, account: &Account) -> Result<(), Denied> {
        let wait = self.backoff().wait(self.began.elapsed(), from, account);
        wait.map_or(Ok(()), |wait| Err(Denied::Later { wait }))
    }

    /// Waits for its turn to hash.
    async fn turn(&self, from: Origin, account: &Account) -> Result<Turn, Denied> {
        self.not_put_off(from, account)?;
        let suspected = self.backoff().suspects(self.began.elapsed(), from, account);
        let [others, suspects] = &self.lanes;
        let lane = if suspected { suspects } else { others };
        let waiting = lane.enter(from)?;
        let mine = lane.turns.clone().acquire_owned().await;
        let mine = mine.map_err(|_| Denied::Busy)?;
        let any = self.at_once.clone().acquire_owned().await;
        let any = any.map_err(|_| Denied::Busy)?;
        Ok(Turn {
            _waiting: waiting,
            _permits: [mine, any],
        })
    }

    /// The account of a name. A digest, because the caller chooses how long the name is.
    fn account(&self, user: &str) -> Account {
        blake3::keyed_hash(&self.key, user.as_bytes()).into()
    }

    /// The user's hash; without such a user another one, which takes as long, and whose result is not used.
    fn hash_to_try(&self, users: &Arc<Users>, user: &str) -> Secret {
        let entry = users.user(user).or_else(|| users.users.first());
        entry.map_or_else(|| self.decoy.clone(), |e| e.password.clone())
    }

    fn digest(&self, user: &str, password: &Secret) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&u64::try_from(user.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(user.as_bytes());
        hasher.update(password.expose().as_bytes());
        hasher.finalize().into()
    }

    fn recall(&self, digest: &[u8; 32]) -> Option<Caller> {
        let (_, edition) = self.users.now();
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (caller, until) = remembered.callers.get(digest)?;
        (remembered.edition == edition && Instant::now() < *until).then(|| caller.clone())
    }

    fn remember(&self, digest: [u8; 32], caller: &Caller, edition: u64) {
        let now = Instant::now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.edition > edition {
            return;
        }
        if remembered.edition < edition {
            remembered.callers.clear();
            remembered.edition = edition;
        }
        remembered.callers.retain(|_, (_, until)| now < *until);
        remembered
            .callers
            .insert(digest, (caller.clone(), now + REMEMBERED));
    }
}

/// Compares on a thread of its own, which keeps the turn to its end whether or not the caller waits: a caller that hangs up must
/// not make room for its next hash, and its wrong guess must count. `judged` is called before the turn is over. A new thread
/// uses the memory that the thread before it has freed; each thread of the runtime's pool would keep as much as a hash takes.
async fn verify(
    hash: Secret,
    password: Secret,
    judged: impl FnOnce(bool) + Send + 'static,
    turn: Turn,
) -> Result<bool, Denied> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        let right = users::verify(&hash, &password);
        judged(right);
        drop(turn);
        // Sending fails when the caller has hung up.
        let _ = tell.send(right);
    };
    let thread = std::thread::Builder::new().name("login".into()).spawn(work);
    thread.map_err(|_| Denied::Busy)?;
    Ok(told.await.unwrap_or(false))
}

/// User and password of a `Basic` header.
fn basic(header: &str) -> Option<(String, Secret)> {
    let (scheme, encoded) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    let fits = password.len() <= *PASSWORD_BYTES.end();
    fits.then(|| (user.to_owned(), Secret::new(password.to_owned())))
}

#[cfg(test)]
mod tests;
