//! TLS up to the point at which a caller can be judged. What is wrong with a certificate, and in which words that is logged, the
//! listener knows.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::door::Place;
use crate::table::Stage;

/// Most that is read of a refused caller, in bytes, and for how long.
const LINGER_BYTES: usize = 64 << 10;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Why there is no TLS.
#[derive(Debug)]
pub enum HandshakeError {
    /// It took too long.
    Late,
    /// There are too many others.
    NoPlace,
    /// It failed.
    Failed {
        /// Why; it wraps rustls's error where there is one.
        error: io::Error,
        /// The connection, to [`linger`] on: an alert has been written to it.
        stream: Option<TcpStream>,
    },
}

/// Shakes hands, with a configuration that is asked for when the caller has said hello.
pub async fn shake_hands<T>(
    stream: TcpStream,
    place: &Place,
    patience: Duration,
    config: impl Future<Output = (Arc<ServerConfig>, T)>,
) -> Result<(TlsStream<TcpStream>, T), HandshakeError> {
    let shaking = async {
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = match (&mut hello).await {
            Ok(start) => start,
            Err(error) => {
                let stream = hello.take_io();
                return Err(HandshakeError::Failed { error, stream });
            }
        };
        place
            .advance(Stage::Handshaking)
            .map_err(|_| HandshakeError::NoPlace)?;
        let (config, with) = config.await;
        match start.into_stream(config).into_fallible().await {
            Ok(tls) => Ok((tls, with)),
            Err((error, stream)) => Err(HandshakeError::Failed {
                error,
                stream: Some(stream),
            }),
        }
    };
    tokio::time::timeout(patience, shaking)
        .await
        .unwrap_or(Err(HandshakeError::Late))
}

/// Lets a refused caller read why: closing a socket with unread bytes would throw the alert away.
pub async fn linger(mut stream: TcpStream) {
    let rest = async {
        let _ = stream.shutdown().await;
        let mut scratch = [0; 4096];
        let mut budget = LINGER_BYTES;
        while let Ok(n) = stream.read(&mut scratch).await {
            if n == 0 || n > budget {
                break;
            }
            budget -= n;
        }
    };
    // A caller that neither reads nor closes is not waited for.
    let _ = tokio::time::timeout(LINGER_TIME, rest).await;
}
