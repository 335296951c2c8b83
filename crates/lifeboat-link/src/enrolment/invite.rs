//! The inviting side: it waits for one host, for a time, and certifies its key for the names of the invitation. Wrong codes are
//! counted, from all addresses together, and end it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_admission::{Cap, Door, Ending, Place, Places, Stage, shake_hands};
use lifeboat_tls::authority::{HOST_USAGES, check_names};
use lifeboat_tls::{
    Authority, CA_CERT, CertError, called, certificate_fingerprint, key_fingerprint, provider,
};
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, KeyPair};
use rustls::ServerConfig;
use rustls::version::TLS13;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::wire::{self, ALPN, Answer, Question};
use super::{Code, EnrolmentError, SERVER_NAME};

/// Wrong codes that end an invitation.
pub const WRONG_MAX: u32 = 5;

/// For all that a caller does.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at once: one is meant.
const PLACES: Places = Places {
    silent: Cap { total: 64, each: 8 },
    handshaking: Cap { total: 32, each: 8 },
    strangers: Cap { total: 32, each: 8 },
    known: Cap { total: 1, each: 1 },
};

/// A host that was certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Where it called from.
    pub from: SocketAddr,
    /// SHA-256 of its certificate.
    pub fingerprint: lifeboat_model::Fingerprint,
    /// SHA-256 of its key.
    pub key_fingerprint: lifeboat_model::Fingerprint,
    /// Why the answer may not have arrived; `None`: it was sent.
    pub unsent: Option<String>,
}

/// What one caller came to.
enum Outcome {
    Wrong(SocketAddr),
    Enrolled(Enrolled),
}

/// What all callers share.
struct Book {
    authority: Authority,
    names: Vec<String>,
    validity: Duration,
    code: Code,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wrong: u32,
    used: bool,
}

/// An invitation that is open.
pub struct Invitation {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    book: Arc<Book>,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation").finish_non_exhaustive()
    }
}

impl Invitation {
    /// Takes the port, and makes a code. The certificate of the host will be valid for `validity`.
    ///
    /// # Errors
    /// The names cannot be certified, or the port is not free.
    pub async fn open(
        authority: Authority,
        names: Vec<String>,
        validity: Duration,
        listen: SocketAddr,
    ) -> Result<Self, EnrolmentError> {
        check_names(&names, validity)?;
        let ca = CertificateDer::from_pem_slice(authority.pem()).map_err(|e| unusable(&e))?;
        let tls = own_side(&authority, ca.clone())?;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|e| EnrolmentError::Unreachable {
                address: listen.to_string(),
                detail: format!("cannot listen: {e}"),
            })?;
        let book = Book {
            code: Code::new(&ca)?,
            authority,
            names,
            validity,
            state: Mutex::default(),
        };
        Ok(Self {
            listener,
            tls,
            book: Arc::new(book),
        })
    }

    /// The code, which the new host's administrator has to get on a channel that is not overheard.
    #[must_use]
    pub fn code(&self) -> &Code {
        &self.book.code
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket cannot be asked.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits for the host, at most this long. `wrong` is called for each wrong code with how many attempts are left.
    ///
    /// # Errors
    /// The time is over, or too many wrong codes were tried.
    pub async fn wait(
        self,
        at_most: Duration,
        mut wrong: impl FnMut(SocketAddr, u32),
    ) -> Result<Enrolled, EnrolmentError> {
        let (outcomes, mut came) = mpsc::channel(16);
        let door = Door::new("enrolment", PLACES);
        // It ends when no invitation waits for it any more.
        let ending = Ending::new(CancellationToken::new(), PATIENCE);
        let handle = |stream, place| {
            let (tls, book, outcomes) = (self.tls.clone(), self.book.clone(), outcomes.clone());
            async move {
                if let Some(outcome) = caller(stream, place, tls, &book).await {
                    // When the invitation is over, the receiver is dropped.
                    let _ = outcomes.send(outcome).await;
                }
            }
        };
        let ended = async {
            let mut tried = 0;
            while let Some(outcome) = came.recv().await {
                match outcome {
                    Outcome::Enrolled(enrolled) => return Ok(enrolled),
                    Outcome::Wrong(from) => {
                        tried += 1;
                        wrong(from, WRONG_MAX.saturating_sub(tried));
                        if tried >= WRONG_MAX {
                            let from = from.to_string();
                            return Err(EnrolmentError::TooManyWrong { from });
                        }
                    }
                }
            }
            Err(EnrolmentError::Expired)
        };
        tokio::select! {
            ended = ended => ended,
            () = door.serve(self.listener, Stage::Silent, ending, handle) => Err(EnrolmentError::Expired),
            () = tokio::time::sleep(at_most) => Err(EnrolmentError::Expired),
        }
    }
}

fn unusable(e: &dyn std::fmt::Display) -> CertError {
    CertError::Content {
        path: CA_CERT.into(),
        detail: e.to_string(),
    }
}

/// TLS with a certificate of the authority's, made for this invitation and kept nowhere.
fn own_side(authority: &Authority, ca: CertificateDer<'static>) -> Result<Arc<ServerConfig>, CertError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let names = [SERVER_NAME.to_owned()];
    let usages = [ExtendedKeyUsagePurpose::ServerAuth];
    let own = authority.certify(&names, &key, &usages, Duration::from_secs(7 * 86_400))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|b| {
            b.with_no_client_auth()
                .with_single_cert(vec![own.der().clone(), ca], key)
        })
        .map_err(|e| unusable(&e))?;
    Ok(called(config, ALPN))
}

/// One caller; `None` when it has not said a code.
async fn caller(
    stream: TcpStream,
    place: Arc<Place>,
    tls: Arc<ServerConfig>,
    book: &Book,
) -> Option<Outcome> {
    let from = place.from();
    let config = async { (tls, ()) };
    let (mut tls, ()) = shake_hands(stream, &place, PATIENCE, config).await.ok()?;
    place.advance(Stage::Stranger).ok()?;
    let asked = tokio::time::timeout(PATIENCE, wire::read::<Question>(&mut tls)).await;
    let question = asked.ok()?.ok()?;
    let (answer, mut outcome) = book.decide(&question, from);
    let sending = async {
        wire::write(&mut tls, &answer).await?;
        tls.shutdown().await
    };
    let sent = match tokio::time::timeout(PATIENCE, sending).await {
        Ok(sent) => sent.map_err(|e| e.to_string()),
        Err(_) => Err("the host did not take the answer in time".to_owned()),
    };
    if let (Some(Outcome::Enrolled(enrolled)), Err(why)) = (&mut outcome, sent) {
        enrolled.unsent = Some(why);
    }
    outcome
}

impl Book {
    /// What a question comes to. Each is judged by itself, one after the other, so that a code is used once and wrong ones are
    /// all counted.
    fn decide(&self, question: &Question, from: SocketAddr) -> (Answer, Option<Outcome>) {
        let refused = |why: &str| Answer::Refused { why: why.to_owned() };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.wrong >= WRONG_MAX {
            return (
                refused("the invitation is over: too many wrong codes were tried"),
                None,
            );
        }
        if !self.code.has_secret(&question.secret) {
            state.wrong += 1;
            return (
                refused("the code is not that of this invitation"),
                Some(Outcome::Wrong(from)),
            );
        }
        if state.used {
            return (
                refused("the code was used already; ask for a new invitation"),
                None,
            );
        }
        match self.certify(&question.request) {
            Ok((answer, fingerprint, key_fingerprint)) => {
                state.used = true;
                let enrolled = Enrolled {
                    from,
                    fingerprint,
                    key_fingerprint,
                    unsent: None,
                };
                (answer, Some(Outcome::Enrolled(enrolled)))
            }
            Err(why) => (refused(&why), None),
        }
    }

    /// Certifies the key of a request, which has proved that it has the key by its signature.
    fn certify(
        &self,
        request: &str,
    ) -> Result<(Answer, lifeboat_model::Fingerprint, lifeboat_model::Fingerprint), String> {
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|e| format!("the request for a certificate is not accepted: {e}"))?;
        let key = request.public_key;
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err("the key of the request is not of P-256".to_owned());
        }
        let made = self
            .authority
            .certify(&self.names, &key, &HOST_USAGES, self.validity);
        let made = made.map_err(|e| e.to_string())?;
        let prints = (
            certificate_fingerprint(made.der()),
            key_fingerprint(made.der()).ok_or("the certificate cannot be read")?,
        );
        let answer = Answer::Issued {
            certificate: made.pem(),
            authority: String::from_utf8_lossy(self.authority.pem()).into_owned(),
        };
        Ok((answer, prints.0, prints.1))
    }
}
