//! TLS as every port and every caller of a host uses it, and the certificates it is made with: read, checked, read again when
//! they change, made by a small authority, and described. Whom a certificate belongs to, and what its owner may do, is decided
//! elsewhere; so is what is spoken on a connection.
//!
//! - `files` reads certificate, key and CA ([`CertificateFiles`]) and refuses a key that others can read.
//! - `config` makes configurations of rustls of them, for each [`Purpose`]; `credentials` holds those in use.
//! - `verify` has rustls's verifiers ask the revocation list (`revocation`), for both sides of a handshake;
//!   `clock` is the wall clock that ends connections.
//! - `handshake` puts errors of a handshake into words; `certificate` and `fingerprint` say what a certificate is.
//! - `authority` makes certificates, `ca_key` keeps the authority's key, `new_files` writes both.
//!
//! Invariants: no session is ever resumed; a certificate on the list is accepted by no side; files that do not fit together
//! change nothing.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

pub mod authority;
mod ca_key;
pub mod certificate;
mod clock;
mod config;
mod credentials;
mod error;
mod files;
mod fingerprint;
pub mod handshake;
pub mod new_files;
mod passphrase;
mod revocation;
mod verify;

pub use authority::{Authority, CA_KEY};
pub use certificate::{CertInfo, Validity};
pub use clock::{CLOCK_LOOK, now, until};
pub use config::{Purpose, called, calling, provider};
pub use credentials::{Credentials, Holder, Loaded};
pub use error::CertError;
pub use files::{CA_CERT, CertificateFiles, CredentialsError, certificate_chain};
pub use fingerprint::{certificate_fingerprint, fingerprints, key_fingerprint, spki_fingerprint};
pub use handshake::TlsFault;
pub use passphrase::{Ask, PASSPHRASE_MIN, Passphrase};
pub use revocation::{RevocationError, RevocationList, revoke};
