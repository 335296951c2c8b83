//! Words of `lifeboat user`.

use camino::Utf8PathBuf;
use clap::{Args, Subcommand, ValueEnum};

/// `lifeboat user`.
#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Add a user; the password is asked for twice, or read as one line when standard input is no terminal.
    Add {
        /// Letters, digits and . _ - @.
        name: String,
        #[command(flatten)]
        role: RoleArg,
        #[command(flatten)]
        file: UsersFile,
    },
    /// Let the owner of a client certificate in.
    AddCertificate {
        /// SHA-256 fingerprint, as `lifeboat cert show` prints it, or a DNS name or common name in the certificate.
        certificate: String,
        #[command(flatten)]
        role: RoleArg,
        #[command(flatten)]
        file: UsersFile,
    },
    /// List users and certificates.
    List {
        #[command(flatten)]
        file: UsersFile,
    },
    /// Remove a user or a certificate. Enumerations they have begun end within a minute.
    Remove {
        /// Name or fingerprint, as it was added.
        name: String,
        #[command(flatten)]
        file: UsersFile,
    },
}

/// `--role`.
#[derive(Debug, Args)]
pub(crate) struct RoleArg {
    /// monitor reads; tester also runs test failovers; operator also fails over, reverts and does all else that loses no
    /// point and no data; administrator also commits, removes and configures.
    #[arg(long, hide_possible_values = true, value_name = "ROLE")]
    pub(crate) role: Role,
}

/// Where the file is.
#[derive(Debug, Args)]
pub(crate) struct UsersFile {
    /// File of users; otherwise the one that the configuration names.
    #[arg(long, value_name = "PATH")]
    pub(crate) users: Option<Utf8PathBuf>,
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/lifeboat/lifeboat.toml")]
    pub(crate) config: Utf8PathBuf,
}

/// Roles that a user of the management API can have, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Was `viewer` before there were four.
    #[value(alias = "viewer")]
    Monitor,
    Tester,
    Operator,
    Administrator,
}
