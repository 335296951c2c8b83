//! Who may manage this host over the network. Works on the file of users and needs no daemon; a daemon that runs sees the
//! change at the next login.

use std::io::IsTerminal;

use camino::Utf8PathBuf;
use lifeboat_wbem::cim::Role;
use lifeboat_wbem::users::{self, Certificate, Secret, Users, UsersError};

use super::args::{self, Output, User, UsersFile};
use super::exit::{Exit, Failure};
use super::{run, secret, show};
use crate::config::Config;

/// What to do where there is no file of users.
pub(crate) const NO_USERS: &str = "make it with: lifeboat user add NAME --role administrator";

impl From<UsersError> for Failure {
    fn from(error: UsersError) -> Self {
        let exit = match error {
            UsersError::Missing(_) | UsersError::Unknown(_) => Exit::NotFound,
            UsersError::Io { .. }
            | UsersError::Exposed(_)
            | UsersError::Content { .. }
            | UsersError::Exists(_)
            | UsersError::Name
            | UsersError::Certificate
            | UsersError::Password
            | UsersError::Hash(_) => Exit::Failed,
        };
        let hint = match error {
            UsersError::Missing(_) => NO_USERS,
            UsersError::Unknown(_) => "see: lifeboat user list",
            UsersError::Content { .. } => "set a password again with: lifeboat user password",
            UsersError::Io { .. }
            | UsersError::Exposed(_)
            | UsersError::Exists(_)
            | UsersError::Name
            | UsersError::Certificate
            | UsersError::Password
            | UsersError::Hash(_) => "",
        };
        Self::new(exit, error.to_string(), hint)
    }
}

impl From<args::Role> for Role {
    fn from(role: args::Role) -> Self {
        match role {
            args::Role::Monitor => Self::Monitor,
            args::Role::Tester => Self::Tester,
            args::Role::Operator => Self::Operator,
            args::Role::Administrator => Self::Administrator,
        }
    }
}

/// Carries out `lifeboat user`.
pub(crate) fn run(command: &User, output: Output) -> Result<Exit, Failure> {
    match command {
        User::Add { name, role, file } => {
            let path = path(file)?;
            users::add_user(&path, name, &password()?, role.role.into())?;
            eprintln!("added user {name} to {path}");
        }
        User::AddCertificate {
            certificate,
            role,
            file,
        } => {
            let path = path(file)?;
            let certificate = Certificate::named(certificate, role.role.into())?;
            let label = certificate.label().to_owned();
            users::add_certificate(&path, certificate)?;
            eprintln!("added certificate {label} to {path}");
        }
        User::List { file } => {
            let users = Users::load(&path(file)?)?;
            return match output {
                Output::Table => run::write_out(show::users(&users).as_bytes()),
                Output::Json => run::write_out(format!("{:#}\n", json(&users)).as_bytes()),
            };
        }
        User::Remove { name, file } => {
            let path = path(file)?;
            users::remove(&path, name)?;
            eprintln!("removed {name} from {path}");
        }
    }
    Ok(Exit::Done)
}

fn path(file: &UsersFile) -> Result<Utf8PathBuf, Failure> {
    if let Some(path) = &file.users {
        return Ok(path.clone());
    }
    let config = Config::load(&file.config).map_err(|e| {
        Failure::new(
            Exit::Failed,
            e.to_string(),
            "name the file of users with --users, or the configuration with --config",
        )
    })?;
    Ok(config.management.users)
}

/// Nothing of a password is ever listed.
fn json(users: &Users) -> serde_json::Value {
    let named = users
        .users
        .iter()
        .map(|u| serde_json::json!({"user": u.name, "role": u.role}));
    let shown = users.certificates.iter().map(|c| match &c.fingerprint {
        Some(fingerprint) => serde_json::json!({"fingerprint": fingerprint, "role": c.role}),
        None => serde_json::json!({"certificate": c.name, "role": c.role}),
    });
    named.chain(shown).collect()
}

fn password() -> Result<Secret, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(Secret::new(secret::line()?.as_str().to_owned()));
    }
    let first = secret::asked("Password: ")?;
    let second = secret::asked("Again: ")?;
    if first != second {
        return Err(Failure::new(Exit::Failed, "the two passwords differ", ""));
    }
    Ok(Secret::new(first.as_str().to_owned()))
}
