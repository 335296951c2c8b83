//! Sends indications to listeners on other hosts: one connection for each message, one message at a time for each
//! subscription, in order, with a bound on every wait and on the length of every answer. What a message says is up to its
//! [`Subscriber`].
//!
//! A listener is untrusted, although an operator has named it. It must be one of the hosts that an administrator has listed,
//! when it is named and each time it is connected to ([`Destinations`]); its certificate is checked against the authority whose
//! client certificates are accepted here; redirects are not followed. A listener that fails loses the indications of its own
//! subscription; other subscriptions are not delayed.

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
/// A subscription without indications is looked at this often, to see whether it has ended.
const IDLE: Duration = Duration::from_secs(3600);
/// Time for telling all subscribers that this host stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long one attempt at a delivery may take, and when it is repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Longest time of one attempt, from the connection to the last byte of the answer.
    pub(crate) attempt: Duration,
    /// Attempts after the first.
    pub(crate) retries: u16,
    /// Time before the first of them; each further one waits twice as long as the one before.
    pub(crate) pause: Duration,
    /// A subscription whose listener has failed for so long is removed.
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
    /// The URL that the subscriber gave cannot be one of a listener.
    #[error("{0}")]
    Url(String),
    /// The host is not one of those that an administrator has listed, or is one that can never be.
    #[error("{host}: {why}")]
    NotAdmitted {
        /// The host as the URL has it.
        host: String,
        /// Which rule of [`Destinations`] it does not meet.
        why: NotAdmitted,
    },
    /// No connection, or one that broke.
    #[error("the listener cannot be reached: {0}")]
    Io(#[from] std::io::Error),
    /// The answer is no HTTP.
    #[error("the listener speaks no HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// No complete answer within [`Patience::attempt`].
    #[error("the listener has not answered in {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The answer is longer than [`MAX_ANSWER`].
    #[error("the answer of the listener is longer than {MAX_ANSWER} bytes")]
    TooLong,
    /// Another status than success; also a redirect.
    #[error("the listener has answered with HTTP status {0}")]
    Status(StatusCode),
    /// The answer does not say that the listener has taken the message.
    #[error("{0}")]
    Refused(String),
}

/// The URL of a listener, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    tls: bool,
    host: String,
    port: u16,
    target: String,
}

impl Destination {
    /// Parses a URL; whether it may be connected to is not checked.
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
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Posts documents to listeners that may be connected to.
pub(crate) struct Client {
    certificates: Option<Arc<Credentials>>,
    destinations: Destinations,
    patience: Patience,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Client {
    /// A client; without `certificates` it cannot send by https.
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

    /// The destination of a URL, if it may be connected to now.
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

    /// The addresses of a listener that may be connected to; at least one.
    async fn addresses(&self, to: &Destination) -> Result<Vec<SocketAddr>, DeliveryError> {
        let refused = |why| DeliveryError::NotAdmitted {
            host: to.host.clone(),
            why,
        };
        // Before any name server is asked.
        self.destinations.may_admit(&to.host).map_err(refused)?;
        let resolved = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
        let (mut admitted, mut first) = (Vec::new(), None);
        for address in resolved.into_iter().flatten() {
            match self.destinations.admits(&to.host, address.ip()) {
                // Indications say what runs on this host: they are sent without TLS on loopback only.
                Ok(()) if !to.tls && !address.ip().is_loopback() => {}
                Ok(()) => admitted.push(address),
                Err(why) => first = first.or(Some(why)),
            }
        }
        if admitted.is_empty() {
            Err(refused(first.unwrap_or(NotAdmitted::NotResolved)))
        } else {
            Ok(admitted)
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
        // Resolved again for each connection, because the owner of the name can change what it resolves to: the addresses that
        // are checked are the ones that are connected to.
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

/// Why this host has ended a subscription's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The listener has failed for [`Patience::failure`].
    Failed,
    /// This host stops.
    Stopping,
}

/// How a protocol writes the messages of a subscription and sends them to its subscriber.
pub(crate) trait Subscriber: Send + Sync + 'static {
    /// Most indications in one message; at least 1.
    fn most(&self) -> usize;

    /// Time without indications after which the subscriber wants a message without any; `None`: it wants none.
    fn heartbeat(&self) -> Option<Duration>;

    /// Sends these, at most [`Subscriber::most`] of them, in one message; without any it is a heartbeat.
    fn send(&self, indications: &[Indication]) -> impl Future<Output = Result<(), DeliveryError>> + Send;

    /// Tells the subscriber that its subscription has ended.
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
    pub(crate) fn begin(self: &Arc<Self>, subscription: Arc<Subscription>, subscriber: impl Subscriber) {
        let this = self.clone();
        self.tasks.spawn(async move {
            let ended = tokio::select! {
                ended = this.deliver(&subscription, &subscriber) => ended,
                () = this.stop.cancelled() => Some(Over::Stopping),
            };
            if let Some(why) = ended {
                this.indications.close(&subscription);
                subscriber.farewell(why).await;
            }
        });
    }

    /// Ends all deliveries, and tells the subscribers that asked for it.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(FAREWELL, self.tasks.wait()).await.is_err() {
            tracing::info!("not every subscriber has heard that this host stops");
        }
    }

    async fn deliver(&self, subscription: &Subscription, subscriber: &impl Subscriber) -> Option<Over> {
        let (id, owner) = (&subscription.id, &subscription.owner);
        let mut failing: Option<Instant> = None;
        loop {
            let beat = subscriber.heartbeat();
            let until = Instant::now() + beat.unwrap_or(IDLE);
            let indications = subscription.next(subscriber.most(), until).await?;
            if indications.is_empty() && beat.is_none() {
                continue;
            }
            let began = Instant::now();
            let last = indications.last().map(|i| i.sequence);
            match self.attempts(subscription, subscriber, &indications).await {
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
        subscriber: &impl Subscriber,
        indications: &[Indication],
    ) -> Result<(), DeliveryError> {
        let mut pause = self.client.patience.pause;
        let mut retries = self.client.patience.retries;
        loop {
            match subscriber.send(indications).await {
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
