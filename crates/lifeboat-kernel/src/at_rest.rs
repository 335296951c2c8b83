//! What a program that keeps files in encrypted directories does about them: it gives the key to a file system before anything
//! is opened there, makes new directories encrypted, and does not work in a locked one. In a locked directory every file seems
//! to be gone, so nothing may be concluded from what is seen there. Whether a directory is locked is asked of the kernel each time.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::encryption::{self, KeyId, MasterKey, Missing, Standing};

/// The key that new directories are encrypted with, or none.
#[derive(Debug, Default)]
pub struct AtRest {
    key: Option<MasterKey>,
    /// Device of the file system that the key was read from, where it is known.
    key_device: Option<u64>,
}

/// Why a directory is not worked in.
#[derive(Debug, thiserror::Error)]
pub enum AtRestError {
    /// Its key is not there.
    #[error(
        "{dir} is encrypted with key {wants}, which its file system does not have, so that nothing in it can be read: have \
         that key in [encryption] of the configuration, and start Lifeboat again"
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The key it is encrypted with.
        wants: KeyId,
    },
    /// There is another key.
    #[error(
        "{dir} is encrypted with key {wants}, and [encryption] of the configuration gives key {have}: give the key that the \
         directory was made with"
    )]
    OtherKey {
        /// The directory.
        dir: PathBuf,
        /// The key it is encrypted with.
        wants: KeyId,
        /// The key there is.
        have: KeyId,
    },
    /// Its file system has no encryption.
    #[error(
        "{dir} cannot be encrypted: only the file systems ext4 and f2fs encrypt directories; name a directory on one of them, or put \
         its file system on an encrypted block device (dm-crypt) and take [encryption] out of the configuration"
    )]
    Kind {
        /// The directory.
        dir: PathBuf,
    },
    /// Its file system has the feature switched off.
    #[error(
        "{dir} cannot be encrypted: encryption is not switched on in its file system. Switch it on with: tune2fs -O encrypt DEVICE \
         (DEVICE is what this shows: df {dir}; f2fs gets it when it is made: mkfs.f2fs -O encrypt). The kernel needs \
         CONFIG_FS_ENCRYPTION"
    )]
    Feature {
        /// The directory.
        dir: PathBuf,
    },
    /// It has files already.
    #[error(
        "{dir} is not encrypted and not empty, and only an empty directory can become encrypted: move what is in it elsewhere, or \
         remove it"
    )]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// It is where a file system is mounted.
    #[error(
        "{dir} is the root directory of a file system, which cannot be encrypted: name a directory below it"
    )]
    Root {
        /// The directory.
        dir: PathBuf,
    },
    /// A policy that this program does not set.
    #[error(
        "{dir} is encrypted by a policy of another version than 2, or by another program: name another directory"
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
    /// The key would lie beside what it encrypts.
    #[error(
        "the key file of [encryption] is on the same file system as {dir}, which it encrypts: a stolen disk holds both. \
         Keep the key on another file system, or name a key_command"
    )]
    KeyBeside {
        /// The directory.
        dir: PathBuf,
    },
    /// Something failed.
    #[error("{dir} cannot be {what}: {source}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What was to be done to it, as a participle.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl AtRestError {
    /// Whether the directory's key is missing, so that nothing can be said of what is in it.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Locked { .. } | Self::OtherKey { .. })
    }
}

fn failed(dir: &Path, what: &'static str) -> impl FnOnce(io::Error) -> AtRestError {
    let dir = dir.to_owned();
    move |source| AtRestError::Io { dir, what, source }
}

/// The nearest directory at or above `path` that can be opened, and whether it is encrypted or locked. Below a locked directory
/// nothing has a name, and what can be opened last is that directory.
///
/// # Errors
/// The kernel fails.
pub fn nearest(path: &Path) -> io::Result<(PathBuf, Standing)> {
    let path = std::path::absolute(path)?;
    let mut last = io::ErrorKind::NotFound.into();
    for at in path.ancestors() {
        match encryption::standing(at) {
            Ok(standing) => return Ok((at.to_owned(), standing)),
            Err(e) => {
                // Without its key a file that has a name cannot be opened, and no directory below it either.
                let hidden = Errno::from_io_error(&e) == Some(Errno::NOKEY);
                if !hidden && !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
                    return Err(e);
                }
                last = e;
            }
        }
    }
    Err(last)
}

/// Refuses when the directory at `path`, or the nearest one above it, is locked. What cannot be asked is not refused: the operation
/// that follows finds out why.
///
/// # Errors
/// [`AtRestError::Locked`].
pub fn readable(path: &Path) -> Result<(), AtRestError> {
    match nearest(path) {
        Ok((dir, Standing::Locked(wants))) => Err(AtRestError::Locked { dir, wants }),
        Ok((_, Standing::Unsupported(_) | Standing::Plain | Standing::Open(_) | Standing::Foreign))
        | Err(_) => Ok(()),
    }
}

impl AtRest {
    /// New directories are not encrypted, and no key is known.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// New directories are encrypted with this key. `key_device` is the device of the file system that it was read from.
    #[must_use]
    pub fn with(key: MasterKey, key_device: Option<u64>) -> Self {
        Self {
            key: Some(key),
            key_device,
        }
    }

    /// Whether new directories are encrypted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.key.is_some()
    }

    /// Has what is at `path`, and below it, readable: where the nearest directory is encrypted, its file system gets the key.
    /// What that directory is then: never locked.
    ///
    /// # Errors
    /// It wants another key than there is, or a key while there is none and its file system has it not; the key's file lies on
    /// that file system; or the kernel fails.
    pub fn unlock(&self, path: &Path) -> Result<Standing, AtRestError> {
        let (dir, standing) = nearest(path).map_err(failed(path, "looked at"))?;
        let (Standing::Open(wants) | Standing::Locked(wants)) = standing else {
            return Ok(standing);
        };
        let have = match &self.key {
            Some(_) => self.add(&dir)?,
            None if standing == Standing::Open(wants) => return Ok(standing),
            None => return Err(AtRestError::Locked { dir, wants }),
        };
        if have == Some(wants) {
            Ok(Standing::Open(wants))
        } else {
            Err(have.map_or_else(
                || AtRestError::Locked {
                    dir: dir.clone(),
                    wants,
                },
                |have| AtRestError::OtherKey {
                    dir: dir.clone(),
                    wants,
                    have,
                },
            ))
        }
    }

    /// Gives the key to the file system of an existing directory.
    fn add(&self, dir: &Path) -> Result<Option<KeyId>, AtRestError> {
        let Some(key) = &self.key else { return Ok(None) };
        let device = std::fs::metadata(dir).map_err(failed(dir, "looked at"))?.dev();
        if self.key_device == Some(device) {
            return Err(AtRestError::KeyBeside { dir: dir.to_owned() });
        }
        encryption::add_key(dir, key)
            .map(Some)
            .map_err(|e| unsupported(dir, e, "given the key"))
    }

    /// Whether a new directory in `dir`, or in the nearest one above it, can be encrypted. Without a key there is nothing to ask.
    ///
    /// # Errors
    /// Its file system cannot encrypt, has the key's file, or the directory has another key.
    pub fn fits(&self, dir: &Path) -> Result<(), AtRestError> {
        if !self.is_on() {
            return readable(dir);
        }
        self.unlock(dir)?;
        let (there, _) = nearest(dir).map_err(failed(dir, "looked at"))?;
        self.add(&there).map(|_| ())
    }

    /// The same as far as it can be found out without giving a file system the key.
    ///
    /// # Errors
    /// Its file system cannot encrypt, or the directory is locked.
    pub fn could(&self, dir: &Path) -> Result<(), AtRestError> {
        readable(dir)?;
        match nearest(dir) {
            Ok((dir, Standing::Unsupported(Missing::Kind))) if self.is_on() => Err(AtRestError::Kind { dir }),
            Ok((dir, Standing::Unsupported(Missing::Feature))) if self.is_on() => {
                Err(AtRestError::Feature { dir })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Has `dir` there and encrypted with the key: it is made (mode 0700; the directory it is in must be there), or gets its
    /// policy if it is empty. Durable when it returns. A crash in the middle leaves an empty directory without a policy, which
    /// the next call takes. Without a key nothing is done.
    ///
    /// # Errors
    /// It is not empty and not encrypted, has another key, or its file system cannot encrypt.
    pub fn make(&self, dir: &Path) -> Result<(), AtRestError> {
        if !self.is_on() {
            return Ok(());
        }
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                // In a locked directory nothing can be made, and the reason is the better answer.
                readable(dir)?;
                return Err(failed(dir, "made")(e));
            }
        }
        match self.unlock(dir)? {
            Standing::Open(_) => Ok(()),
            Standing::Unsupported(Missing::Kind) => Err(AtRestError::Kind { dir: dir.to_owned() }),
            Standing::Unsupported(Missing::Feature) => Err(AtRestError::Feature { dir: dir.to_owned() }),
            Standing::Foreign => Err(AtRestError::Foreign { dir: dir.to_owned() }),
            Standing::Plain | Standing::Locked(_) => {
                let Some(id) = self.add(dir)? else { return Ok(()) };
                encryption::encrypt(dir, id).map_err(|e| unsupported(dir, e, "encrypted"))?;
                let parent = dir.parent().unwrap_or(dir);
                let synced = encryption::open(parent).and_then(|d| Ok(rustix::fs::fsync(d)?));
                synced.map_err(failed(parent, "made durable"))
            }
        }
    }
}

/// What an error of the kernel says of a directory.
fn unsupported(dir: &Path, error: io::Error, what: &'static str) -> AtRestError {
    let dir = dir.to_owned();
    match Errno::from_io_error(&error) {
        Some(Errno::NOTTY | Errno::NOSYS | Errno::INVAL) => AtRestError::Kind { dir },
        Some(Errno::OPNOTSUPP) => AtRestError::Feature { dir },
        Some(Errno::NOTEMPTY) => AtRestError::NotEmpty { dir },
        Some(Errno::PERM) => AtRestError::Root { dir },
        _ => AtRestError::Io {
            dir,
            what,
            source: error,
        },
    }
}
