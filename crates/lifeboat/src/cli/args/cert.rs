//! Words of `lifeboat cert`.

use std::net::SocketAddr;

use camino::Utf8PathBuf;
use clap::{Args, Subcommand};

use crate::cli::units;

/// `lifeboat cert`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cert {
    /// Make a new authority. Keep its key off the hosts.
    Init {
        /// New directory for it.
        dir: Utf8PathBuf,
        /// Name of the authority.
        #[arg(long)]
        name: String,
        /// Encrypt its key with a passphrase, which is asked for twice, or read as one line when standard input is no terminal.
        #[arg(long)]
        encrypt: bool,
        /// Encrypt its key with the passphrase in the first line of this file.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<Utf8PathBuf>,
    },
    /// Give the key of an authority a passphrase, or another one.
    Passphrase {
        /// Directory of the authority.
        dir: Utf8PathBuf,
        /// File with the passphrase that it has now; otherwise it is asked for.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<Utf8PathBuf>,
        /// File with the new one; otherwise it is asked for.
        #[arg(long, value_name = "FILE", conflicts_with = "remove")]
        new_passphrase_file: Option<Utf8PathBuf>,
        /// Write the key without encryption.
        #[arg(long)]
        remove: bool,
    },
    /// Make key and certificate for a host.
    Issue {
        #[command(flatten)]
        authority: AuthorityDir,
        /// Name or address peers reach the host by; repeat for more. The first one is what authorization entries name.
        #[arg(long = "host", value_name = "NAME", required = true)]
        hosts: Vec<String>,
        /// Directory for the files.
        #[arg(long, value_name = "DIR")]
        out: Utf8PathBuf,
    },
    /// Wait for a new host that is to get a certificate, and print the code for it. The host makes its key itself.
    Invite {
        /// Names and addresses peers reach the host by. The first one is what authorization entries name.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        authority: AuthorityDir,
        /// Where to wait for the host.
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8444")]
        listen: SocketAddr,
        /// How long: 1m to 7d.
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::seconds::<u32>)]
        valid: u32,
    },
    /// Make a key for this host and have it certified by the authority that has invited it.
    Enroll {
        /// Where the invitation waits.
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// The code that lifeboat cert invite has printed.
        code: String,
        /// Directory for the files.
        #[arg(long, value_name = "DIR")]
        out: Utf8PathBuf,
    },
    /// Put a certificate on the revocation list of this host: it is accepted no more, and open connections of its owner end.
    Revoke {
        /// PEM file, whose key is revoked, or a SHA-256 fingerprint of a certificate or a key.
        #[arg(value_name = "FILE|FINGERPRINT")]
        what: String,
        /// Revoke the certificate alone: another one of the same key stays good.
        #[arg(long)]
        only_certificate: bool,
        /// The list; otherwise the one that the configuration names.
        #[arg(long, value_name = "FILE")]
        list: Option<Utf8PathBuf>,
        /// Configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/lifeboat/lifeboat.toml")]
        config: Utf8PathBuf,
    },
    /// Show whose a certificate is and until when.
    Show {
        /// PEM file.
        file: Utf8PathBuf,
    },
}

/// The authority that certifies.
#[derive(Debug, Args)]
pub(crate) struct AuthorityDir {
    /// Directory of the authority.
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: Utf8PathBuf,
    /// File with the passphrase of its key, if that is encrypted; otherwise it is asked for.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<Utf8PathBuf>,
}
