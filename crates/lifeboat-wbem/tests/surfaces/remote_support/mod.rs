//! For tests of the servers: a simulated host behind real ports with real certificates, and a client that writes bytes and
//! reads bytes. It knows HTTP's framing and nothing else, so that nothing of the product checks itself.

#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::reach::Destinations;
use lifeboat_sim::World;
use lifeboat_sim::harness::{PRIMARY, four_eyes};
use lifeboat_tls::{CertificateFiles, RevocationList};
use lifeboat_wbem::cim::{HostFacts, ObjectManager, Role};
use lifeboat_wbem::users::{Certificate, Secret, add_certificate, add_user};
use lifeboat_wbem::{Limits, Remote, RemoteConfig, Transport};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::cim_views::world::Counting;
use crate::facts::facts;

/// A certificate with its key.
pub(crate) struct Identity {
    pub(crate) cert: CertificateDer<'static>,
    pub(crate) key: Vec<u8>,
}

impl Identity {
    fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        (vec![self.cert.clone()], key)
    }
}

/// An authority of the test's own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) cert: CertificateDer<'static>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of a test");
        let cert = params.self_signed(&key).unwrap();
        let (der, pem) = (cert.der().clone(), cert.pem());
        Self {
            issuer: Issuer::new(params, key),
            cert: der,
            pem,
        }
    }

    pub(crate) fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub(crate) fn client(&self, name: &str) -> Identity {
        let (cert, key) = self.issue(name, ExtendedKeyUsagePurpose::ClientAuth);
        Identity {
            cert: cert.der().clone(),
            key: key.serialize_der(),
        }
    }
}

/// A host that is served, with users `viewer` (a monitor), `tester`, `operator` and `admin` (password: `secret of NAME`) and an
/// entry for the certificate `mgmt.example.org`, an operator's.
pub(crate) struct Host {
    pub(crate) world: World,
    /// What the engine is asked by whoever calls.
    pub(crate) counting: Arc<Counting>,
    pub(crate) authority: Authority,
    pub(crate) wsman: SocketAddr,
    pub(crate) cimxml: SocketAddr,
    pub users: Utf8PathBuf,
    /// The revocation list, empty at first.
    pub(crate) revoked: Utf8PathBuf,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

pub(crate) async fn host() -> Host {
    host_within(Limits::default(), true).await
}

/// One on which what cannot be undone waits for a second person.
pub(crate) async fn host_of_four_eyes() -> Host {
    host_of(Limits::default(), true, true).await
}

fn add_users(users: &Utf8Path) {
    for (name, role) in [
        ("viewer", Role::Monitor),
        ("tester", Role::Tester),
        ("operator", Role::Operator),
        ("admin", Role::Administrator),
    ] {
        add_user(users, name, &Secret::new(format!("secret of {name}")), role).unwrap();
    }
}

pub(crate) async fn host_within(limits: Limits, tls: bool) -> Host {
    host_of(limits, tls, false).await
}

async fn host_of(limits: Limits, tls: bool, four_eyes: bool) -> Host {
    serve(limits, tls, world(four_eyes).await, PRIMARY).await
}

/// Serves this host of a world that has got somewhere.
pub(crate) async fn host_in(world: World, host: usize) -> Host {
    serve(Limits::default(), true, world, host).await
}

async fn serve(limits: Limits, tls: bool, world: World, host: usize) -> Host {
    let dir = tempfile::tempdir().unwrap();
    let at = Utf8Path::from_path(dir.path()).unwrap();
    let authority = Authority::new();
    let (cert, key) = authority.issue("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let files = CertificateFiles {
        cert: at.join("host.crt"),
        key: at.join("host.key"),
        ca: at.join("ca.crt"),
    };
    for (path, text) in [
        (&files.cert, cert.pem()),
        (&files.key, key.serialize_pem()),
        (&files.ca, authority.pem.clone()),
    ] {
        std::fs::write(path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, mode).unwrap();
    }
    let users = at.join("users.toml");
    add_users(&users);
    let entry = Certificate::named("mgmt.example.org", Role::Operator).unwrap();
    add_certificate(&users, entry).unwrap();
    let revoked = at.join("revoked");
    std::fs::write(&revoked, "").unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = RemoteConfig {
        wsman: Some(any),
        cimxml: Some(any),
        users: users.clone(),
        transport: if tls {
            Transport::Tls(files)
        } else {
            Transport::Plain
        },
        destinations: Destinations::default().and_loopback(),
        revoked: RevocationList::load(&revoked).unwrap(),
        limits,
    };
    let remote = Remote::bind(&config).await.unwrap();
    let counting = Counting::new(world.engine(host).unwrap());
    let facts = HostFacts {
        version: "1.2.3".into(),
        ..facts(&world, host)
    };
    let stop = CancellationToken::new();
    let (wsman, cimxml) = (remote.wsman_address().unwrap(), remote.cimxml_address().unwrap());
    let manager = ObjectManager::new(counting.clone(), facts, world.clock(host));
    let task = tokio::spawn(remote.serve(manager, stop.clone()));
    Host {
        world,
        counting,
        authority,
        wsman,
        cimxml,
        users,
        revoked,
        stop,
        task,
        _dir: dir,
    }
}

async fn world(second_person: bool) -> World {
    let world = World::new(4).await;
    if second_person {
        four_eyes(&world, &[PRIMARY]).await;
    }
    world
}

impl Host {
    /// A connection without a client certificate.
    pub(crate) async fn connect(&self, to: SocketAddr) -> Connection {
        self.connect_as(to, None).await.unwrap()
    }

    /// A connection that shows a certificate; a handshake that the server refuses may show only at the first read.
    pub(crate) async fn connect_as(
        &self,
        to: SocketAddr,
        client: Option<&Identity>,
    ) -> std::io::Result<Connection> {
        self.connect_from(HERE, to, client).await
    }

    /// The same from another address of this host.
    pub(crate) async fn connect_from(
        &self,
        from: Ipv4Addr,
        to: SocketAddr,
        client: Option<&Identity>,
    ) -> std::io::Result<Connection> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.cert.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            Some(identity) => {
                let (chain, key) = identity.chain();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let stream = socket(from, to).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        Ok(Connection::new(Box::new(tls)))
    }

    /// A connection without TLS.
    pub(crate) async fn connect_plainly(&self, to: SocketAddr) -> Connection {
        Connection::new(Box::new(TcpStream::connect(to).await.unwrap()))
    }

    /// Stops the servers; they must end by themselves.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .unwrap()
            .unwrap();
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The address that tests call from, and another one of this host.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A TCP connection from this address.
pub(crate) async fn socket(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// A connection that is kept.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) chunks: usize,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, v)| v.as_str())
    }

    /// The text of the first element with this name, whatever its prefix is.
    pub(crate) fn element(&self, name: &str) -> Option<&str> {
        element(&self.body, name)
    }
}

/// The text between the first tag of this local name and its end.
pub(crate) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = xml;
    loop {
        let open = rest.find('<')?;
        rest = &rest[open + 1..];
        let tag = &rest[..rest.find('>')?];
        let written = tag.split([' ', '/', '\n']).next().unwrap();
        if written.rsplit(':').next() == Some(name) && !tag.starts_with('/') {
            if tag.ends_with('/') {
                return Some("");
            }
            let body = &rest[tag.len() + 1..];
            return body.find(&format!("</{written}>")).map(|end| &body[..end]);
        }
    }
}

impl Connection {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The same to a server that may have closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: &str) {
        let _ = self.stream.write_all(bytes.as_bytes()).await;
        let _ = self.stream.flush().await;
    }

    /// Whether the server has closed the connection, with or without something before.
    pub(crate) async fn closed(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            }
        }
    }

    /// Reads one more piece; false at the end.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        let n = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.unread.extend_from_slice(&buffer[..n]);
        n > 0
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|w| w == end) {
                let rest = self.unread.split_off(at + end.len());
                let mut found = std::mem::replace(&mut self.unread, rest);
                found.truncate(at);
                return Some(found);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.unread.len() < n {
            if !self.more().await {
                return None;
            }
        }
        let rest = self.unread.split_off(n);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    /// The next answer; `None` when the connection ends before it is complete.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        loop {
            let head = String::from_utf8(self.until(b"\r\n\r\n").await?).unwrap();
            let mut lines = head.split("\r\n");
            let status: u16 = lines.next()?.split(' ').nth(1)?.parse().unwrap();
            if status == 100 {
                continue;
            }
            let split = |line: &str| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_owned(), value.trim().to_owned())
            };
            let mut answer = Answer {
                status,
                headers: lines.map(split).collect(),
                body: String::new(),
                chunks: 0,
            };
            let mut body = Vec::new();
            if answer.header("transfer-encoding") == Some("chunked") {
                loop {
                    let size = String::from_utf8(self.until(b"\r\n").await?).unwrap();
                    let size = usize::from_str_radix(size.trim(), 16).unwrap();
                    body.extend(self.exactly(size).await?);
                    self.exactly(2).await?;
                    if size == 0 {
                        break;
                    }
                    answer.chunks += 1;
                }
            } else {
                let length = answer.header("content-length").unwrap().parse().unwrap();
                body = self.exactly(length).await?;
            }
            answer.body = String::from_utf8(body).unwrap();
            return Some(answer);
        }
    }

    /// Posts a document and reads the answer.
    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        self.send(post(path, fields, body)).await;
        self.answer().await.unwrap()
    }
}

/// A POST with its length.
pub(crate) fn post(path: &str, fields: &[(&str, &str)], body: &str) -> String {
    let mut text = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text + body
}

/// `Authorization` of one of the host's users.
pub(crate) fn basic(user: &str) -> String {
    basic_with(user, &format!("secret of {user}"))
}

pub(crate) fn basic_with(user: &str, password: &str) -> String {
    use base64::Engine;
    let text = format!("{user}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}
