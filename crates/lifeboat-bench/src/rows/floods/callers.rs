//! Those who call: a client that means it, and connections that do not. What the server is made of is not used here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Until the client tries again.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is flooded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Peers,
    Wsman,
    CimXml,
}

impl Port {
    pub(super) const ALL: [Self; 3] = [Self::Peers, Self::Wsman, Self::CimXml];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Wsman => "WS-Management",
            Self::CimXml => "CIM-XML",
        }
    }
}

pub(super) struct Callers {
    ports: [u16; 3],
    /// Of a peer with an entry, of a host without one, and without a certificate.
    alpha: TlsConnector,
    eve: TlsConnector,
    anonymous: TlsConnector,
    authorization: String,
}

impl Callers {
    /// Directories with `ca.crt`, `host.crt` and `host.key`.
    pub(super) fn new(alpha: &Path, eve: &Path, ports: [u16; 3], user: (&str, &str)) -> Result<Self> {
        let both = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", user.0, user.1));
        Ok(Self {
            ports,
            alpha: connector(alpha, true)?,
            eve: connector(eve, true)?,
            anonymous: connector(alpha, false)?,
            authorization: format!("Basic {both}"),
        })
    }

    async fn socket(&self, port: Port, from: Ipv4Addr) -> Result<TcpStream> {
        let [peers, wsman, cimxml] = self.ports;
        let port = match port {
            Port::Peers => peers,
            Port::Wsman => wsman,
            Port::CimXml => cimxml,
        };
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket
            .connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn tls(&self, port: Port, from: Ipv4Addr, with: &TlsConnector) -> Result<TlsStream<TcpStream>> {
        let stream = self.socket(port, from).await?;
        Ok(with.connect(ServerName::try_from("127.0.0.1")?, stream).await?)
    }

    /// One authenticated question over a connection of its own.
    pub(super) async fn answered(&self, port: Port, from: Ipv4Addr) -> Result<()> {
        let with = match port {
            Port::Peers => &self.alpha,
            Port::Wsman | Port::CimXml => &self.anonymous,
        };
        let (line, body) = match port {
            Port::Peers => ("POST /lifeboat/1/control", r#"{"request":"hello"}"#),
            Port::Wsman => ("POST /wsman", IDENTIFY),
            Port::CimXml => ("OPTIONS /cimom", ""),
        };
        let request = format!(
            "{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {}\r\nContent-Type: application/soap+xml;charset=UTF-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.authorization,
            body.len()
        );
        let asking = async {
            let mut stream = self.tls(port, from, with).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            ensure!(
                answer.starts_with(b"HTTP/1.1 200"),
                "answered: {}",
                String::from_utf8_lossy(&answer)
            );
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(answered) => answered,
            Err(_) => bail!("no answer in {PATIENCE:?}"),
        }
    }

    /// A connection that says nothing until it is closed.
    pub(super) async fn half_open(&self, port: Port, from: Ipv4Addr, made: &AtomicUsize) {
        let Ok(mut stream) = self.socket(port, from).await else {
            return;
        };
        made.fetch_add(1, Ordering::Relaxed);
        let _ = stream.read(&mut [0]).await;
    }

    /// A connection that stops in the middle of a head until it is closed.
    pub(super) async fn slow(&self, port: Port, from: Ipv4Addr, made: &AtomicUsize) {
        let with = match port {
            Port::Peers => &self.eve,
            Port::Wsman | Port::CimXml => &self.anonymous,
        };
        let Ok(mut stream) = self.tls(port, from, with).await else {
            return;
        };
        made.fetch_add(1, Ordering::Relaxed);
        if stream
            .write_all(b"POST /wsman HTTP/1.1\r\nX-Slow: ")
            .await
            .is_ok()
        {
            let _ = stream.read(&mut [0; 64]).await;
        }
    }
}

const IDENTIFY: &str = "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:i=\"http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd\"><s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>";

fn connector(dir: &Path, shown: bool) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.crt"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = if shown {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(dir.join("host.crt"))?.collect();
        let key = PrivateKeyDer::from_pem_file(dir.join("host.key"))?;
        let config = builder.with_client_auth_cert(chain?, key);
        config.context("the certificate cannot be shown")?
    } else {
        builder.with_no_client_auth()
    };
    // Each connection is an unidentified caller's first.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
