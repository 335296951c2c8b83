//! Carries indications to whoever listens elsewhere: one connection for each message, one message at a time for each
//! subscription, in order, with an end to every wait and to every answer. What a message says is its [`Courier`]'s matter.
//!
//! A listener is a stranger whom an operator has named: it is one of the hosts that an administrator has listed, when it is
//! named and each time it is connected to ([`Destinations`]); certificates are checked against the authority whose client
//! certificates are accepted here; redirects are not followed. One that fails costs its own subscription's indications and
//! nobody else's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use lifeboat_model::reach::{Destinations, NotAdmitted, bare_host};
use lifeboat_tls::Credentials;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cim::indications::{Indication, Indications, Subscription};
use crate::cim::subscriptions::FAILURE_TIME;

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Largest head of an answer, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Longest URL, in bytes.
const MAX_URL: usize = 2048;
/// A subscription that nothing happens to is looked after this often.
const IDLE: Duration = Duration::from_secs(3600);
/// How long subscribers may take to hear that this host stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long and how often a delivery is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For one attempt, from the connection to the last byte of the answer.
    pub(crate) attempt: Duration,
    /// Attempts after the first.
    pub(crate) retries: u16,
    /// Before the first of them; each waits twice as long as the one before.
    pub(crate) pause: Duration,
    /// A listener that has failed for so long is given up.
    pub(crate) failure: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        use crate::cim::classes::indications::{RETRIES, RETRY_AFTER};
        Self {
            attempt: Duration::from_secs(10),
            retries: RETRIES,
            pause: Duration::from_secs(RETRY_AFTER.into()),
            failure: FAILURE_TIME,
        }
    }
}

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    /// The URL cannot be one of a listener; whoever subscribed is to blame.
    #[error("{0}")]
    Url(String),
    /// It is not one of those that an administrator has listed, or never can be.
    #[error("{host}: {why}")]
    NotAdmitted {
        /// As it was named.
        host: String,
        /// Why.
        why: NotAdmitted,
    },
    /// No connection, or one that broke.
    #[error("the listener cannot be reached: {0}")]
    Io(#[from] std::io::Error),
    /// No HTTP.
    #[error("the listener speaks no HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// Too slow.
    #[error("the listener has not answered in {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// Too much.
    #[error("the answer of the listener is longer than {MAX_ANSWER} bytes")]
    TooLong,
    /// It does not want it. Redirects end here too.
    #[error("the listener has answered with HTTP status {0}")]
    Status(StatusCode),
    /// It has answered something that does not say that it has taken the message.
    #[error("{0}")]
    Refused(String),
}

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    tls: bool,
    host: String,
    port: u16,
    target: String,
}

impl Destination {
    /// Reads a URL.
    pub(crate) fn parse(url: &str) -> Result<Self, DeliveryError> {
        let wrong = |why: &str| DeliveryError::Url(format!("{why}: use https://HOST:PORT/PATH"));
        if url.len() > MAX_URL {
            return Err(wrong("the URL is too long"));
        }
        let uri: Uri = url.parse().map_err(|_| wrong("this is no URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("the URL names no protocol that is spoken here")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("the URL names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a URL with a user's name is not taken"));
        }
        let host = bare_host(authority.host()).to_owned();
        if host.is_empty() {
            return Err(wrong("the URL names no host"));
        }
        let target = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Self {
            tls,
            host,
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            target,
        })
    }

    /// `Host` of a request.
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Sends messages.
pub(crate) struct Client {
    certificates: Option<Arc<Credentials>>,
    destinations: Destinations,
    patience: Patience,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Client {
    /// Without certificates nothing can be sent by https.
    pub(crate) fn new(
        certificates: Option<Arc<Credentials>>,
        destinations: Destinations,
        patience: Patience,
    ) -> Self {
        Self {
            certificates,
            destinations,
            patience,
        }
    }

    /// Where this URL leads to, if anything may be sent there now.
    pub(crate) async fn destination(&self, url: &str) -> Result<Destination, DeliveryError> {
        let destination = Destination::parse(url)?;
        if !destination.tls && !self.destinations.has_loopback() {
            let why = "indications are sent by https only; use https://HOST:PORT/PATH";
            return Err(DeliveryError::Url(why.into()));
        }
        if destination.tls && self.certificates.is_none() {
            let why = "this host has no certificates for https; it serves without TLS itself";
            return Err(DeliveryError::Url(why.into()));
        }
        let limit = self.patience.attempt;
        let resolved = tokio::time::timeout(limit, self.addresses(&destination)).await;
        resolved.unwrap_or(Err(DeliveryError::TimedOut(limit)))?;
        Ok(destination)
    }

    /// The addresses of a listener that may be connected to; never none.
    async fn addresses(&self, to: &Destination) -> Result<Vec<SocketAddr>, DeliveryError> {
        let refused = |why| DeliveryError::NotAdmitted {
            host: to.host.clone(),
            why,
        };
        // Before anybody is asked for the name.
        self.destinations.may_admit(&to.host).map_err(refused)?;
        let resolved = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
        let (mut admitted, mut first) = (Vec::new(), None);
        for address in resolved.into_iter().flatten() {
            match self.destinations.admits(&to.host, address.ip()) {
                // Passwords are not sent to listeners, but what indications say is not for everybody either.
                Ok(()) if !to.tls && !address.ip().is_loopback() => {}
                Ok(()) => admitted.push(address),
                Err(why) => first = first.or(Some(why)),
            }
        }
        match admitted.is_empty() {
            true => Err(refused(first.unwrap_or(NotAdmitted::NotResolved))),
            false => Ok(admitted),
        }
    }

    /// Posts a document; the text of the answer.
    pub(crate) async fn post(
        &self,
        to: &Destination,
        fields: &[(&'static str, &str)],
        body: String,
    ) -> Result<String, DeliveryError> {
        let limit = self.patience.attempt;
        let exchange = tokio::time::timeout(limit, self.exchange(to, fields, body)).await;
        exchange.unwrap_or(Err(DeliveryError::TimedOut(limit)))
    }

    async fn exchange(
        &self,
        to: &Destination,
        fields: &[(&'static str, &str)],
        body: String,
    ) -> Result<String, DeliveryError> {
        let stream = self.connect(to).await?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        let mut request = Request::post(&to.target)
            .header(HOST, to.authority())
            .header(CONNECTION, "close");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| DeliveryError::Url(e.to_string()))?;
        let answering = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            match body {
                _ if !status.is_success() => Err(DeliveryError::Status(status)),
                Ok(body) => Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned()),
                Err(e) if e.is::<LengthLimitError>() => Err(DeliveryError::TooLong),
                Err(e) => Err(std::io::Error::other(e).into()),
            }
        };
        // The connection lives as long as this call: nothing is left behind when its time is over.
        let mut answering = std::pin::pin!(answering);
        tokio::select! {
            answer = answering.as_mut() => answer,
            ended = connection => {
                ended?;
                answering.await
            }
        }
    }

    async fn connect(&self, to: &Destination) -> Result<Box<dyn Stream>, DeliveryError> {
        // What a name leads to is another's to change between two connections: what is judged is what is connected to.
        let stream = TcpStream::connect(self.addresses(to).await?.as_slice()).await?;
        stream.set_nodelay(true)?;
        let Some(certificates) = self.certificates.as_ref().filter(|_| to.tls) else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(to.host.clone());
        let name = name.map_err(|e| DeliveryError::Url(format!("{}: {e}", to.host)))?;
        Ok(Box::new(
            TlsConnector::from(certificates.current().await.client.clone())
                .connect(name, stream)
                .await?,
        ))
    }
}

/// Why a subscription's deliveries have ended without its maker's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The listener has failed for too long.
    Failed,
    /// This host stops.
    Stopping,
}

/// Who makes messages of a subscription's indications and hands them over.
pub(crate) trait Courier: Send + Sync + 'static {
    /// Most indications of one message.
    fn most(&self) -> usize;

    /// A sign of life is wanted this often.
    fn heartbeat(&self) -> Option<Duration>;

    /// Sends these, in one message; none at all is a sign of life.
    fn carry(&self, indications: &[Indication]) -> impl Future<Output = Result<(), DeliveryError>> + Send;

    /// Says that there will be no more.
    fn farewell(&self, why: Over) -> impl Future<Output = ()> + Send;
}

/// All deliveries of a host.
pub(crate) struct Deliveries {
    client: Arc<Client>,
    indications: Arc<Indications>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Deliveries {
    pub(crate) fn new(client: Client, indications: Arc<Indications>) -> Arc<Self> {
        Arc::new(Self {
            client: Arc::new(client),
            indications,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Delivers until the subscription ends.
    pub(crate) fn begin(self: &Arc<Self>, subscription: Arc<Subscription>, courier: impl Courier) {
        let this = self.clone();
        self.tasks.spawn(async move {
            let ended = tokio::select! {
                ended = this.deliver(&subscription, &courier) => ended,
                () = this.stop.cancelled() => Some(Over::Stopping),
            };
            if let Some(why) = ended {
                this.indications.close(&subscription);
                courier.farewell(why).await;
            }
        });
    }

    /// Ends all of them, telling those who want to know.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(FAREWELL, self.tasks.wait()).await.is_err() {
            tracing::info!("not every subscriber has heard that this host stops");
        }
    }

    async fn deliver(&self, subscription: &Subscription, courier: &impl Courier) -> Option<Over> {
        let (id, owner) = (&subscription.id, &subscription.owner);
        let mut failing: Option<Instant> = None;
        loop {
            let beat = courier.heartbeat();
            let until = Instant::now() + beat.unwrap_or(IDLE);
            let indications = subscription.next(courier.most(), until).await?;
            if indications.is_empty() && beat.is_none() {
                continue;
            }
            let began = Instant::now();
            let last = indications.last().map(|i| i.sequence);
            match self.attempts(subscription, courier, &indications).await {
                Ok(()) => {
                    if failing.take().is_some() {
                        let lost = subscription.lost();
                        tracing::info!(subscription = id, owner, lost, "a listener is back");
                    }
                    last.inspect(|l| subscription.confirm(*l));
                }
                Err(error) => {
                    let since = *failing.get_or_insert_with(|| {
                        tracing::warn!(subscription = id, owner, %error, "a listener cannot be told");
                        began
                    });
                    last.inspect(|l| subscription.give_up(*l));
                    if since.elapsed() >= self.client.patience.failure {
                        tracing::warn!(subscription = id, owner, %error, "a listener has failed too long: its subscription is removed");
                        return Some(Over::Failed);
                    }
                }
            }
        }
    }

    async fn attempts(
        &self,
        subscription: &Subscription,
        courier: &impl Courier,
        indications: &[Indication],
    ) -> Result<(), DeliveryError> {
        let mut pause = self.client.patience.pause;
        let mut retries = self.client.patience.retries;
        loop {
            match courier.carry(indications).await {
                Err(error) if retries > 0 && !subscription.is_over() => {
                    tracing::debug!(subscription = subscription.id, %error, "once more");
                    tokio::time::sleep(pause).await;
                    (pause, retries) = (pause * 2, retries - 1);
                }
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests;
