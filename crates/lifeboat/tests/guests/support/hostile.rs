//! A peer with a good certificate and an entry on the replica's host, that says whatever a test wants. It shares no code with
//! the product: its documents are written by hand and sent by TLS and HTTP of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use super::Host;

/// How long an answer may take. The daemon answers peers within its own limits, all of them shorter.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Hostile {
    tls: Arc<ClientConfig>,
    port: u16,
}

impl Hostile {
    /// Speaks with the certificate of `host` to the daemon behind a port of this machine.
    pub fn with_certificate_of(host: &Host, port: u16) -> Self {
        let tls = host.dir.join("tls");
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(tls.join("ca.crt")).unwrap())
            .unwrap();
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(tls.join("host.crt"))
            .unwrap()
            .collect();
        let key = PrivateKeyDer::from_pem_file(tls.join("host.key")).unwrap();
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.unwrap(), key)
            .unwrap();
        Self {
            tls: Arc::new(config),
            port,
        }
    }

    /// Sends a control document; what came back.
    pub fn call(&self, document: &Value) -> Value {
        let body = document.to_string();
        let head = format!(
            "POST /lifeboat/1/control HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let session = ClientConnection::new(self.tls.clone(), name).unwrap();
        let mut stream = StreamOwned::new(session, socket);
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut said = Vec::new();
        // A connection that is closed without TLS's goodbye ends the answer too.
        let end = stream.read_to_end(&mut said);
        let text = String::from_utf8_lossy(&said);
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {end:?} {text}"));
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {head}\n{body}"))
    }
}
