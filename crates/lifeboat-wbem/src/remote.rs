//! The ports of WS-Management and CIM-XML: what is bound where, with which certificates and users, and until when it is served.
//! What a request means is not known here.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use camino::Utf8PathBuf;
use lifeboat_model::reach::Destinations;
use lifeboat_tls::{CertificateFiles, Credentials, CredentialsError, Purpose, RevocationList};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cim::ObjectManager;
use crate::cim::indications::Indications;
use crate::delivery::{Client, Deliveries, Patience};
use crate::enumerations::Enumerations;
use crate::http::{Limits, Protocol, Server};
use crate::listeners::Listeners;
use crate::login::Login;
use crate::wsman::eventing::Eventing;
use crate::{cimxml, users, wsman};

/// What protects the connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TLS with these files: the authorities are those whose client certificates are looked at.
    Tls(CertificateFiles),
    /// Nothing: passwords are sent as they are. On loopback only.
    Plain,
}

/// Where WS-Management and CIM-XML are served, to which users, and within which bounds.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// Address of WS-Management; `None`: not served.
    pub wsman: Option<SocketAddr>,
    /// Address of CIM-XML; `None`: not served.
    pub cimxml: Option<SocketAddr>,
    /// The file of users.
    pub users: Utf8PathBuf,
    /// What protects the connections.
    pub transport: Transport,
    /// Hosts that indications may be sent to; an empty list: none.
    pub destinations: Destinations,
    /// Certificates that are not accepted, neither of clients nor of listeners.
    pub revoked: Arc<RevocationList>,
    /// Bounds on what callers may use up, for each of the two protocols.
    pub limits: Limits,
}

/// Why a configuration cannot be served. No port is bound then.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The file of users cannot be used.
    #[error(transparent)]
    Users(#[from] users::UsersError),
    /// The files of `Transport::Tls` cannot be used.
    #[error(transparent)]
    Tls(#[from] CredentialsError),
    /// A port cannot be taken.
    #[error("cannot listen for {what} on {address}: {cause}")]
    Bind {
        /// The protocol.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system answered.
        cause: std::io::Error,
    },
    /// An address that other hosts can reach, without TLS.
    #[error("{0} is not a loopback address: without TLS passwords would cross the network readable")]
    Exposed(SocketAddr),
}

/// Bound ports, not yet served.
pub struct Remote {
    wsman: Option<TcpListener>,
    cimxml: Option<TcpListener>,
    login: Arc<Login>,
    certificates: Option<Arc<Credentials>>,
    destinations: Destinations,
    limits: Limits,
}

impl Remote {
    /// Reads users and certificates and takes the ports; callers wait until [`Remote::serve`].
    pub async fn bind(config: &RemoteConfig) -> Result<Self, RemoteError> {
        let login = Arc::new(Login::open(&config.users)?);
        let certificates = match &config.transport {
            Transport::Tls(files) => Some(Credentials::load(
                Purpose::Management,
                files,
                config.revoked.clone(),
            )?),
            Transport::Plain => None,
        };
        let listen = async |what, address: Option<SocketAddr>| match address {
            None => Ok(None),
            Some(address) if certificates.is_none() && !address.ip().is_loopback() => {
                Err(RemoteError::Exposed(address))
            }
            Some(address) => match TcpListener::bind(address).await {
                Ok(listener) => Ok(Some(listener)),
                Err(cause) => Err(RemoteError::Bind { what, address, cause }),
            },
        };
        Ok(Self {
            wsman: listen("WS-Management", config.wsman).await?,
            cimxml: listen("CIM-XML", config.cimxml).await?,
            login,
            certificates,
            destinations: config.destinations.clone(),
            limits: config.limits,
        })
    }

    /// The certificates in use; `None` without TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<Arc<Credentials>> {
        self.certificates.clone()
    }

    /// Where WS-Management is served.
    #[must_use]
    pub fn wsman_address(&self) -> Option<SocketAddr> {
        self.wsman.as_ref()?.local_addr().ok()
    }

    /// Where CIM-XML is served.
    #[must_use]
    pub fn cimxml_address(&self) -> Option<SocketAddr> {
        self.cimxml.as_ref()?.local_addr().ok()
    }

    /// Serves until `stop`, then lets requests under way end within a grace time.
    pub async fn serve(self, manager: Arc<ObjectManager>, stop: CancellationToken) {
        let enumerations = Enumerations::new();
        let indications = Indications::new(manager.clone());
        let client = Client::new(self.certificates.clone(), self.destinations, Patience::default());
        let deliveries = Deliveries::new(client, indications.clone());
        let eventing = Eventing::new(indications.clone(), deliveries.clone());
        let listeners = Listeners::new(indications.clone(), deliveries.clone());
        let wsman = wsman::Wsman::new(manager.clone(), enumerations.clone(), eventing);
        let cimxml = cimxml::CimXml::new(manager, enumerations.clone(), listeners);
        let (login, certificates, limits) = (self.login, self.certificates, self.limits);
        let wsman = Server::new(wsman, login.clone(), certificates.clone(), limits);
        let cimxml = Server::new(cimxml, login, certificates, limits);
        let serving = async {
            tokio::join!(
                run(self.wsman, wsman, stop.clone()),
                run(self.cimxml, cimxml, stop.clone())
            )
        };
        tokio::select! {
            _ = serving => {}
            never = enumerations.expire() => match never {},
            never = watch(indications) => match never {},
        }
        deliveries.end().await;
    }
}

/// Serves a protocol where it has a port.
async fn run<P: Protocol>(listener: Option<TcpListener>, server: Arc<Server<P>>, stop: CancellationToken) {
    if let Some(listener) = listener {
        server.run(listener, stop).await;
    }
}

/// Watches for subscribers, for ever: requests are still answered when the engine, and with it the watch, has ended.
async fn watch(indications: Arc<Indications>) -> Infallible {
    indications.run().await;
    std::future::pending().await
}
