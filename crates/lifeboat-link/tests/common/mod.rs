//! Two hosts on the loopback: certificates made here with rcgen and not with the code under test, a handler that
//! keeps what it was asked, a server on a port of its own.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "test support: each file uses its part"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use camino::Utf8PathBuf;
use futures_util::future::BoxFuture;
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::link::{
    CopiedDisk, DurableLog, LogAddress, LogReceipt, PeerHandler, PeerIdentity, PeerRefusal, PeerReply,
    PeerRequest,
};
use lifeboat_link::{Limits, Timing, serve_within};
use lifeboat_model::{DiskId, GenerationId, Position, Timestamp, VmId};
use lifeboat_tls::CertificateFiles;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A CA and the certificates of its hosts.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    made: AtomicUsize,
}

impl Site {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // All CAs of the tests have one name: only the key tells them apart.
        params.distinguished_name.push(DnType::CommonName, "test CA");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let dir = tempfile::tempdir().unwrap();
        Self {
            dir,
            issuer: Issuer::new(params, key),
            ca_pem,
            made: AtomicUsize::new(0),
        }
    }

    pub(crate) fn host(&self, names: &[&str]) -> CertificateFiles {
        self.host_until(names, OffsetDateTime::now_utc() + DAY)
    }

    pub(crate) fn host_until(&self, names: &[&str], not_after: OffsetDateTime) -> CertificateFiles {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "common.example.org");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.not_before = not_after - 400 * DAY;
        params.not_after = not_after;
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let write = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = Utf8PathBuf::from_path_buf(self.dir.path().join(format!("{n}-{name}"))).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        CertificateFiles {
            cert: write("cert", &cert.pem()),
            key: write("key", &key.serialize_pem()),
            ca: write("ca", &self.ca_pem),
        }
    }
}

pub(crate) type Receive =
    Box<dyn Fn(LogAddress, ByteStream) -> BoxFuture<'static, Result<LogReceipt, PeerRefusal>> + Send + Sync>;

/// A handler that keeps who asked what.
pub(crate) struct Handler {
    pub(crate) calls: Mutex<Vec<(PeerIdentity, PeerRequest)>>,
    pub(crate) logs: AtomicUsize,
    pub(crate) reply: Box<dyn Fn() -> PeerReply + Send + Sync>,
    pub(crate) receive: Receive,
    /// A name that is not known.
    pub(crate) stranger: &'static str,
}

impl Default for Handler {
    fn default() -> Self {
        Self {
            calls: Mutex::default(),
            logs: AtomicUsize::new(0),
            reply: Box::new(hello),
            receive: Box::new(|_, body| Box::pin(async { read_all(body).await.map(receipt) })),
            stranger: "eve",
        }
    }
}

impl Handler {
    pub(crate) fn receiving<F>(
        receive: impl Fn(LogAddress, ByteStream) -> F + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        F: Future<Output = Result<LogReceipt, PeerRefusal>> + Send + 'static,
    {
        let receive: Receive = Box::new(move |address, body| Box::pin(receive(address, body)));
        Arc::new(Self {
            receive,
            ..Self::default()
        })
    }

    pub(crate) fn untouched(&self) -> bool {
        self.calls.lock().unwrap().is_empty() && self.logs.load(Ordering::SeqCst) == 0
    }
}

#[async_trait]
impl PeerHandler for Handler {
    fn knows(&self, peer: &PeerIdentity) -> bool {
        peer.names.iter().all(|name| name != self.stranger)
    }

    async fn call(&self, peer: &PeerIdentity, request: PeerRequest) -> PeerReply {
        self.calls.lock().unwrap().push((peer.clone(), request));
        (self.reply)()
    }

    async fn receive(
        &self,
        _: &PeerIdentity,
        address: LogAddress,
        body: ByteStream,
    ) -> Result<LogReceipt, PeerRefusal> {
        self.logs.fetch_add(1, Ordering::SeqCst);
        (self.receive)(address, body).await
    }
}

/// Bytes of a body and a sum of them that depends on their order.
pub(crate) async fn read_all(mut body: ByteStream) -> Result<(u64, u64), PeerRefusal> {
    use futures_util::StreamExt;
    let mut sum = Sum::default();
    while let Some(chunk) = body.next().await {
        sum.add(&chunk.map_err(|e| failed(&e.to_string()))?);
    }
    Ok((sum.bytes, sum.value))
}

/// FNV-1a over 8-byte words; bytes that are left over count one by one.
#[derive(Default)]
pub(crate) struct Sum {
    pub(crate) bytes: u64,
    pub(crate) value: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        for byte in data {
            self.value = (self.value ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

pub(crate) fn hello() -> PeerReply {
    PeerReply::Hello {
        host: "b".into(),
        version: "1".into(),
    }
}

pub(crate) fn failed(detail: &str) -> PeerRefusal {
    PeerRefusal::Failed {
        host: "b".into(),
        detail: detail.into(),
    }
}

/// A receipt that carries what was read: bytes, and the sum in the place of the instant.
pub(crate) fn receipt((bytes, sum): (u64, u64)) -> LogReceipt {
    LogReceipt::Delta(DurableLog {
        durable: position(),
        instant: Timestamp(sum),
        bytes,
        partial: false,
    })
}

pub(crate) fn bulk_receipt() -> LogReceipt {
    LogReceipt::Bulk(CopiedDisk {
        disk: DiskId::new("sys").unwrap(),
        done: 5,
    })
}

pub(crate) fn position() -> Position {
    Position::from_parts(GenerationId(Uuid::from_u128(1)), 2)
}

pub(crate) fn delta() -> LogAddress {
    LogAddress::Delta {
        vm: VmId(Uuid::from_u128(3)),
        position: position(),
        offset: 4,
    }
}

/// A body of these chunks.
pub(crate) fn body(chunks: Vec<std::io::Result<Bytes>>) -> ByteStream {
    Box::pin(futures_util::stream::iter(chunks))
}

/// `count` times the same chunk, without holding them.
pub(crate) fn long_body(count: usize, chunk: Bytes) -> ByteStream {
    Box::pin(futures_util::stream::iter(
        (0..count).map(move |_| Ok(chunk.clone())),
    ))
}

/// A running server. Dropping it stops it, but does not wait.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    /// `localhost:PORT`.
    pub(crate) fn peer(&self) -> String {
        format!("localhost:{}", self.address.port())
    }
}

pub(crate) async fn start(config: &CertificateFiles, handler: Arc<Handler>) -> Running {
    start_within(Limits::default(), config, handler, "127.0.0.1:0").await
}

pub(crate) async fn start_within(
    limits: Limits,
    config: &CertificateFiles,
    handler: Arc<Handler>,
    at: &str,
) -> Running {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (config, token) = (config.clone(), stop.clone());
    let task = tokio::spawn(async move {
        serve_within(limits, listener, &config, handler, token)
            .await
            .unwrap();
    });
    Running { address, stop, task }
}

/// Impatience for tests in which nothing is meant to last.
pub(crate) fn quick() -> Timing {
    Timing {
        stall: Duration::from_millis(400),
        ..Timing::default()
    }
}

fn tls_material(
    config: &CertificateFiles,
) -> (
    Vec<rustls_pki_types::CertificateDer<'static>>,
    rustls_pki_types::PrivateKeyDer<'static>,
    rustls::RootCertStore,
) {
    let certs = |path: &Utf8PathBuf| {
        rustls_pki_types::CertificateDer::pem_file_iter(path)
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(certs(&config.ca));
    (
        certs(&config.cert),
        rustls_pki_types::PrivateKeyDer::from_pem_file(&config.key).unwrap(),
        roots,
    )
}

pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// The address that tests call from, and another one of this host.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A connection from this address.
pub(crate) async fn connect_from(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// A TLS connection to say anything over; without `config`, without a certificate.
pub(crate) async fn raw_client(
    at: SocketAddr,
    trust: &CertificateFiles,
    shown: Option<&CertificateFiles>,
    alpn: &[&str],
) -> std::io::Result<Box<dyn Wire>> {
    let (_, _, roots) = tls_material(trust);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            let (chain, key, _) = tls_material(shown);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    let tcp = connect_from(HERE, at).await?;
    let name = "localhost".try_into().unwrap();
    Ok(Box::new(
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await?,
    ))
}

/// The TLS side of a peer that then misbehaves.
pub(crate) async fn raw_server(config: &CertificateFiles) -> (TcpListener, tokio_rustls::TlsAcceptor) {
    let (chain, key, _) = tls_material(config);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        tokio_rustls::TlsAcceptor::from(Arc::new(config)),
    )
}
