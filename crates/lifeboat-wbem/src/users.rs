//! Which users and certificates may log in over the network, and with which roles: the file of users, how it is read and how
//! it is changed. Whether a caller is the user it names is decided in `login`.

mod watch;

use crate::cim::Role;
use argon2::password_hash::{PasswordHash, PasswordHasher, SaltString};
use argon2::{Algorithm, Argon2, Params, PasswordVerifier, Version};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
pub(crate) use watch::WatchedUsers;

/// Longest name of a user in bytes.
pub const MAX_NAME: usize = 64;
/// Shortest and longest password in bytes.
pub const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=1024;
/// Largest file of users that is read.
const MAX_FILE: u64 = 4 << 20;
/// Most memory, in KiB, that a hash in the file may ask for: each login costs that much.
const MAX_HASH_KIB: u32 = 256 << 10;
/// Most passes over that memory that a hash in the file may ask for.
const MAX_HASH_PASSES: u32 = 16;

/// A password or a hash, which must never be shown: it has neither `Debug` nor `Display`, and cannot be compared.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps this text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Why users cannot be read or changed; the file is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// There is no file.
    #[error("{0}: there is no such file")]
    Missing(Utf8PathBuf),
    /// It cannot be read or written.
    #[error("cannot {what}: {cause}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the operating system answered.
        cause: std::io::Error,
    },
    /// Users other than its owner and group may read or change it.
    #[error("{0}: users other than its owner and group can read or change it; mend that with: chmod 600 {0}")]
    Exposed(Utf8PathBuf),
    /// It is not TOML, or not a file of users.
    #[error("{path}: {detail}")]
    Content {
        /// The file.
        path: Utf8PathBuf,
        /// What is wrong, without any secret.
        detail: String,
    },
    /// There is a user or certificate of this name already.
    #[error("there is a {0} already; remove it first")]
    Exists(String),
    /// There is no user and no certificate of this name.
    #[error("there is no user and no certificate \"{0}\"")]
    Unknown(String),
    /// A name that no user can have.
    #[error("a user's name has 1 to {MAX_NAME} letters, digits or . _ - @")]
    Name,
    /// A certificate named in a way that cannot match any.
    #[error(
        "name a certificate by its SHA-256 fingerprint (64 hexadecimal digits) or by one DNS name or common name"
    )]
    Certificate,
    /// A password too short or too long.
    #[error("a password has {} to {} bytes", PASSWORD_BYTES.start(), PASSWORD_BYTES.end())]
    Password,
    /// The hash function failed.
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
}

/// A user with a password.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Name, compared exactly.
    pub name: String,
    /// Argon2id, as a PHC string.
    pub password: Secret,
    /// What the user may do.
    pub role: Role,
}

/// A client certificate: named by its fingerprint or by a name in it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// SHA-256 of the certificate, lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// A DNS name or the common name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What its owner may do.
    pub role: Role,
}

impl Certificate {
    /// By fingerprint when `text` is one (with or without colons), else by name.
    pub fn named(text: &str, role: Role) -> Result<Self, UsersError> {
        if let Some(fingerprint) = fingerprint(text) {
            return Ok(Self {
                fingerprint: Some(fingerprint),
                name: None,
                role,
            });
        }
        let legal = (1..=253).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c == ':');
        if legal {
            Ok(Self {
                fingerprint: None,
                name: Some(text.to_owned()),
                role,
            })
        } else {
            Err(UsersError::Certificate)
        }
    }

    /// What it is called in lists and logs.
    #[must_use]
    pub fn label(&self) -> &str {
        let name = self.name.as_deref();
        name.or(self.fingerprint.as_deref()).unwrap_or_default()
    }
}

/// The file's content.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// Users with passwords.
    #[serde(default, rename = "user", skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// Client certificates.
    #[serde(default, rename = "certificate", skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
}

impl Users {
    /// Reads and checks a file.
    pub fn load(path: &Utf8Path) -> Result<Self, UsersError> {
        let io = |source: std::io::Error| {
            if source.kind() == std::io::ErrorKind::NotFound {
                UsersError::Missing(path.into())
            } else {
                io_error(format!("read {path}"))(source)
            }
        };
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if meta.permissions().mode() & 0o027 != 0 {
            return Err(UsersError::Exposed(path.into()));
        }
        let content = |detail: String| UsersError::Content {
            path: path.into(),
            detail,
        };
        if meta.len() > MAX_FILE {
            return Err(content(format!("larger than {MAX_FILE} bytes")));
        }
        let text = std::io::read_to_string(file).map_err(io)?;
        Self::parse(&text).map_err(content)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut users: Self = toml::from_str(text).map_err(|e| {
            let before = text.get(..e.span().map_or(0, |s| s.start)).unwrap_or_default();
            // Without the parser's excerpt, which would show the line, and with it the hash.
            format!("line {}: {}", before.matches('\n').count() + 1, e.message())
        })?;
        for (n, user) in users.users.iter().enumerate() {
            if !is_name(&user.name) {
                return Err(format!("user {}: {}", n + 1, UsersError::Name));
            }
            if users.users.iter().filter(|u| u.name == user.name).count() > 1 {
                return Err(format!("there are two users \"{}\"", user.name));
            }
            checked_hash(user.password.expose())
                .map_err(|e| format!("password of \"{}\": {e}", user.name))?;
        }
        for (n, certificate) in users.certificates.iter_mut().enumerate() {
            let text = match (&certificate.fingerprint, &certificate.name) {
                (Some(text), None) if fingerprint(text).is_some() => text,
                (None, Some(text)) => text,
                _ => return Err(format!("certificate {}: {}", n + 1, UsersError::Certificate)),
            };
            let named = Certificate::named(text, certificate.role);
            *certificate = named.map_err(|e| format!("certificate {}: {e}", n + 1))?;
        }
        Ok(users)
    }

    /// A user by exact name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|u| u.name == name)
    }
}

/// Changes the file, or makes it: it is read, changed and replaced in one step, under a lock against other processes that do
/// the same.
pub fn edit(
    path: &Utf8Path,
    change: impl FnOnce(&mut Users) -> Result<(), UsersError>,
) -> Result<(), UsersError> {
    let named = path.parent().filter(|p| !p.as_str().is_empty());
    let parent = named.unwrap_or(Utf8Path::new("."));
    let dir = File::open(parent).map_err(io_error(format!("open {parent}")))?;
    // Held until `dir` is dropped.
    dir.lock().map_err(io_error(format!("lock {parent}")))?;
    let mut users = match Users::load(path) {
        Ok(users) => users,
        Err(UsersError::Missing(_)) => Users::default(),
        Err(e) => return Err(e),
    };
    change(&mut users)?;
    replace(path, &dir, &users)
}

/// Adds a user.
pub fn add_user(path: &Utf8Path, name: &str, password: &Secret, role: Role) -> Result<(), UsersError> {
    if !is_name(name) {
        return Err(UsersError::Name);
    }
    if !PASSWORD_BYTES.contains(&password.expose().len()) {
        return Err(UsersError::Password);
    }
    let user = User {
        name: name.to_owned(),
        password: hash(password)?,
        role,
    };
    edit(path, |users| match users.user(name) {
        Some(_) => Err(UsersError::Exists(format!("user \"{name}\""))),
        None => {
            users.users.push(user);
            Ok(())
        }
    })
}

/// Adds a certificate.
pub fn add_certificate(path: &Utf8Path, certificate: Certificate) -> Result<(), UsersError> {
    edit(path, |users| {
        let same = |c: &&Certificate| c.label().eq_ignore_ascii_case(certificate.label());
        if let Some(there) = users.certificates.iter().find(same) {
            return Err(UsersError::Exists(format!("certificate \"{}\"", there.label())));
        }
        users.certificates.push(certificate);
        Ok(())
    })
}

/// Removes a user or a certificate.
pub fn remove(path: &Utf8Path, name: &str) -> Result<(), UsersError> {
    let wanted = fingerprint(name).unwrap_or_else(|| name.to_owned());
    edit(path, |users| {
        let before = users.users.len() + users.certificates.len();
        users.users.retain(|u| u.name != name);
        users
            .certificates
            .retain(|c| !c.label().eq_ignore_ascii_case(&wanted));
        if before == users.users.len() + users.certificates.len() {
            Err(UsersError::Unknown(name.chars().take(100).collect()))
        } else {
            Ok(())
        }
    })
}

/// Hashes a password with a new salt.
pub(crate) fn hash(password: &Secret) -> Result<Secret, UsersError> {
    let failed = |e: &dyn std::fmt::Display| UsersError::Hash(e.to_string());
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|e| failed(&e))?;
    let salt = SaltString::encode_b64(&salt).map_err(|e| failed(&e))?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default());
    let hash = argon.hash_password(password.expose().as_bytes(), &salt);
    Ok(Secret(hash.map_err(|e| failed(&e))?.to_string()))
}

/// Whether the password is the one that was hashed. Costs tens of milliseconds and megabytes on purpose.
pub(crate) fn verify(hash: &Secret, password: &Secret) -> bool {
    let parsed = PasswordHash::new(hash.expose());
    parsed.is_ok_and(|h| {
        Argon2::default()
            .verify_password(password.expose().as_bytes(), &h)
            .is_ok()
    })
}

fn checked_hash(text: &str) -> Result<(), String> {
    let wrong = || "is no argon2id hash".to_owned();
    let hash = PasswordHash::new(text).map_err(|_| wrong())?;
    if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() {
        return Err(wrong());
    }
    let params = Params::try_from(&hash).map_err(|_| wrong())?;
    if params.m_cost() <= MAX_HASH_KIB && params.t_cost() <= MAX_HASH_PASSES {
        Ok(())
    } else {
        Err(format!(
            "asks for more than {MAX_HASH_KIB} KiB or {MAX_HASH_PASSES} passes for each login"
        ))
    }
}

fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_alphanumeric() || "._-@".contains(c);
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(legal)
}

/// 64 hexadecimal digits, with or without colons, as lower-case digits.
fn fingerprint(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let hex = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| digits.to_ascii_lowercase())
}

fn io_error(what: String) -> impl FnOnce(std::io::Error) -> UsersError {
    move |cause| UsersError::Io { what, cause }
}

const HEAD: &str =
    "# Who may manage this host over the network. Written by the command line, which keeps no comments.\n\n";

/// Replaces the file atomically. The new file has the owner and group of the old one: the daemon must be able to read what root
/// has written.
fn replace(path: &Utf8Path, dir: &File, users: &Users) -> Result<(), UsersError> {
    let text = toml::to_string(users).map_err(|e| UsersError::Content {
        path: path.into(),
        detail: e.to_string(),
    })?;
    let new = Utf8PathBuf::from(format!("{path}.new"));
    let write = || -> std::io::Result<()> {
        // Left behind by a crash; no other process writes it while the directory is locked.
        if new.symlink_metadata().is_ok() {
            std::fs::remove_file(&new)?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        if let (Ok(old), now) = (std::fs::metadata(path), file.metadata()?)
            && (old.uid(), old.gid()) != (now.uid(), now.gid())
        {
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.write_all(format!("{HEAD}{text}").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        dir.sync_all()
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&new);
        io_error(format!("write {path}"))(source)
    })
}

#[cfg(test)]
mod tests;
