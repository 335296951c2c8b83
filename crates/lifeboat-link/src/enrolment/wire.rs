//! One question and one answer, each a JSON document after its length (4 bytes, big-endian), over TLS 1.3.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The application protocol, so that neither side takes another one for it.
pub(super) const ALPN: &[u8] = b"lifeboat-enrolment/1";

/// Largest document in bytes. A request or a chain of P-256 has less than 2 KiB; one of an authority that was not made by
/// Lifeboat may be larger.
const LARGEST: usize = 64 << 10;

/// What a new host says.
#[derive(Serialize, Deserialize)]
pub(super) struct Question {
    /// The secret of the code.
    pub(super) secret: String,
    /// Request for a certificate (PKCS#10), PEM. Its key counts, and nothing else of it.
    pub(super) request: String,
}

/// What it is answered.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(super) enum Answer {
    /// The key is certified for the names of the invitation.
    Issued {
        /// The host's certificate, PEM.
        certificate: String,
        /// The authority's, PEM.
        authority: String,
    },
    /// Not, and why.
    Refused {
        /// In words.
        why: String,
    },
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why)
}

/// Reads a document.
pub(super) async fn read<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<T> {
    let length = usize::try_from(from.read_u32().await?).unwrap_or(usize::MAX);
    if length > LARGEST {
        return Err(invalid(format!("a document of {length} bytes")));
    }
    let mut document = vec![0; length];
    from.read_exact(&mut document).await?;
    serde_json::from_slice(&document).map_err(invalid)
}

/// Writes a document.
pub(super) async fn write<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    document: &T,
) -> std::io::Result<()> {
    let text = serde_json::to_vec(document).map_err(invalid)?;
    let length = u32::try_from(text.len()).map_err(invalid)?;
    to.write_u32(length).await?;
    to.write_all(&text).await?;
    to.flush().await
}
