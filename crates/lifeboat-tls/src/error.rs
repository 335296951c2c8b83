//! Why a certificate was not made, written or described. Why those of a daemon cannot be used is `files`'s.

use camino::{Utf8Path, Utf8PathBuf};

use crate::passphrase::PASSPHRASE_MIN;

/// Why no certificate was made or read. Nothing was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file is there already.
    #[error("{0} exists already and is not overwritten; move it away first, or name another directory")]
    Exists(Utf8PathBuf),
    /// There is no CA in the directory.
    #[error("there is no CA in {0}")]
    NoCa(Utf8PathBuf),
    /// A name no certificate can be made for.
    #[error("\"{0}\" is neither a host name nor an IP address (wildcards are not allowed)")]
    Name(String),
    /// No host name among the names.
    #[error("name at least one DNS name: a host is known to its peers by it, not by an address")]
    NoDnsName,
    /// A validity out of range.
    #[error("a certificate is valid for 1 hour to 10 years")]
    Validity,
    /// The CA itself has expired.
    #[error("the CA in {0} has expired; make a new one and issue all certificates again")]
    CaExpired(Utf8PathBuf),
    /// A file holds something else.
    #[error("{path}: {detail}")]
    Content {
        /// The file.
        path: Utf8PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A file or directory cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: Utf8PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A passphrase that can be guessed.
    #[error("a passphrase has {PASSPHRASE_MIN} characters at least")]
    PassphraseShort,
    /// Not the passphrase of the key.
    #[error("{0}: the passphrase is wrong, or the file is damaged")]
    PassphraseWrong(Utf8PathBuf),
    /// The key is encrypted and no passphrase was given.
    #[error(
        "{path} is encrypted, and its passphrase cannot be read: {source}; name a file with it: --passphrase-file FILE"
    )]
    NoPassphrase {
        /// The key.
        path: Utf8PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The cryptographic library failed.
    #[error("no certificate could be made: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// For errors of the file at `path`.
pub(crate) fn io(path: &Utf8Path) -> impl Fn(std::io::Error) -> CertError + '_ {
    move |source| CertError::Io {
        path: path.into(),
        source,
    }
}
