//! Encryption of directories by their file system: keys, policies, and whether a directory is encrypted or locked. Ext4 and f2fs
//! have it. Every file below an encrypted directory has a key of its own, which the kernel derives from the master key. Contents
//! are AES-256-XTS, names AES-256-CTS padded to multiples of 32 bytes. Where keys come from, and what is encrypted, is the
//! caller's matter.

use core::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::ioctl;

/// Bytes of a master key.
pub const KEY: usize = ioctl::KEY;

/// Most bytes that are read of a source of a key: hexadecimal digits and what ends a line.
pub const LONGEST: usize = 2 * KEY + 2;

/// A master key. It has no `Display`, `Debug` does not show it, and it is wiped when it is dropped.
pub struct MasterKey(Box<Zeroizing<[u8; KEY]>>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(not shown)")
    }
}

/// Why some bytes are no master key. It has nothing of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another length.
    #[error("a key is 64 bytes, or 128 hexadecimal digits on one line; {0} bytes were read")]
    Length(usize),
    /// More than any key has.
    #[error("a key is 64 bytes, or 128 hexadecimal digits on one line; more than that was read")]
    TooLong,
    /// 128 characters that are not all digits.
    #[error("a key in 128 characters has hexadecimal digits only; character {0} is none")]
    Digit(usize),
    /// 64 hexadecimal digits would be half a key, whichever way they are read.
    #[error("64 hexadecimal digits are 32 bytes, and a key has 64; write 128 digits")]
    Half,
    /// All bytes are the same.
    #[error("all bytes of the key are the same; make one with: head -c 64 /dev/urandom")]
    Same,
}

impl MasterKey {
    /// A key as it is written in a file or by a command: 64 bytes as they are, or 128 hexadecimal digits, which the end of a
    /// line may follow.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let mut key = Box::new(Zeroizing::new([0; KEY]));
        if text.len() == KEY {
            if text.iter().all(u8::is_ascii_hexdigit) {
                return Err(KeyError::Half);
            }
            key.copy_from_slice(text);
        } else {
            let line = text.strip_suffix(b"\n").unwrap_or(text);
            let digits = line.strip_suffix(b"\r").unwrap_or(line);
            match digits.len() {
                n if n == 2 * KEY => {}
                KEY if digits.iter().all(u8::is_ascii_hexdigit) => return Err(KeyError::Half),
                _ if text.len() > LONGEST => return Err(KeyError::TooLong),
                _ => return Err(KeyError::Length(text.len())),
            }
            for (n, (byte, pair)) in key.iter_mut().zip(digits.as_chunks::<2>().0).enumerate() {
                let digit = |at: usize| {
                    char::from(pair[at])
                        .to_digit(16)
                        .ok_or(KeyError::Digit(2 * n + at + 1))
                };
                *byte = u8::try_from(digit(0)? << 4 | digit(1)?).unwrap_or_default();
            }
        }
        if key.iter().all(|b| *b == key[0]) {
            Err(KeyError::Same)
        } else {
            Ok(Self(key))
        }
    }
}

/// By which name the kernel knows a master key: derived from the key, and nothing that opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId([u8; ioctl::IDENTIFIER]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Whether a directory is encrypted, and whether its key is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its file system cannot encrypt, or was made without the feature for it.
    Unsupported(Missing),
    /// Not encrypted.
    Plain,
    /// Encrypted, and its file system has the key.
    Open(KeyId),
    /// Encrypted, and its file system does not have the key: names are unreadable, every file that is asked for by its name
    /// seems not to be there, and nothing can be made.
    Locked(KeyId),
    /// Encrypted by a policy of another version than 2, which Lifeboat never sets. Whether it is locked is not asked.
    Foreign,
}

/// Why a file system does not encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Its kind never does.
    Kind,
    /// It could, and the feature is not switched on in it, or not in the kernel.
    Feature,
}

/// Opens a directory to ask about it. A file that cannot be opened for want of its key is no directory either.
pub(crate) fn open(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

/// Whether an existing directory is encrypted, and whether its key is there. Asks the kernel.
///
/// # Errors
/// The directory cannot be opened, or the file system fails.
pub fn standing(dir: &Path) -> io::Result<Standing> {
    let dir = open(dir)?;
    let (version, identifier) = match ioctl::policy(&dir) {
        Ok(policy) => policy,
        Err(Errno::NODATA) => return Ok(Standing::Plain),
        // Overlays answer with INVAL, network file systems with one or the other of these.
        Err(Errno::NOTTY | Errno::NOSYS | Errno::INVAL) => return Ok(Standing::Unsupported(Missing::Kind)),
        Err(Errno::OPNOTSUPP) => return Ok(Standing::Unsupported(Missing::Feature)),
        Err(e) => return Err(e.into()),
    };
    if version != ioctl::POLICY_V2 {
        return Ok(Standing::Foreign);
    }
    let id = KeyId(identifier);
    Ok(if ioctl::has_key(&dir, identifier)? {
        Standing::Open(id)
    } else {
        Standing::Locked(id)
    })
}

/// Gives the key to the file system that `dir` is on, which keeps it until it is unmounted or another program takes the key away;
/// the end of this process does not. Adding it again changes nothing.
///
/// # Errors
/// The directory cannot be opened, or the file system cannot encrypt.
pub fn add_key(dir: &Path, key: &MasterKey) -> io::Result<KeyId> {
    Ok(KeyId(ioctl::add_key(open(dir)?, &key.0)?))
}

/// Has everything that is made in an empty directory encrypted with the key of this identifier. Durable when it returns.
/// Repeatable.
///
/// # Errors
/// `ENOTEMPTY`: the directory is not empty. `EPERM`: it is the root directory of a file system. `EEXIST`: it has another key.
pub fn encrypt(dir: &Path, id: KeyId) -> io::Result<()> {
    let dir = open(dir)?;
    ioctl::set_policy(&dir, id.0)?;
    Ok(rustix::fs::fsync(&dir)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|b| format!("{b:02X}").into_bytes())
            .collect()
    }

    #[test]
    fn a_key_is_bytes_or_digits() {
        let raw: [u8; KEY] = core::array::from_fn(|n| u8::try_from(n * 3).unwrap());
        let read = |text: &[u8]| MasterKey::parse(text).map(|k| **k.0);
        assert_eq!(read(&raw), Ok(raw));
        for end in ["", "\n", "\r\n"] {
            assert_eq!(read(&[&hex(&raw)[..], end.as_bytes()].concat()), Ok(raw));
        }
        assert_eq!(read(&hex(&raw).to_ascii_lowercase()), Ok(raw));
        // A raw key may have any bytes, those of an end of line too.
        let mut odd = raw;
        odd[63] = b'\n';
        assert_eq!(read(&odd), Ok(odd));
    }

    #[test]
    fn what_is_no_key_is_refused_without_showing_it() {
        let raw: [u8; KEY] = core::array::from_fn(|n| u8::try_from(n * 3).unwrap());
        let digits = hex(&raw);
        let mut wrong = digits.clone();
        wrong[70] = b'g';
        let cases: [(Vec<u8>, KeyError); 9] = [
            (Vec::new(), KeyError::Length(0)),
            (raw[..63].to_vec(), KeyError::Length(63)),
            ([&raw[..], b"\n"].concat(), KeyError::Length(65)),
            (digits[..127].to_vec(), KeyError::Length(127)),
            ([&digits[..], b" \n"].concat(), KeyError::Length(130)),
            (vec![1; 4096], KeyError::TooLong),
            (wrong, KeyError::Digit(71)),
            (digits[..64].to_vec(), KeyError::Half),
            ([&digits[..64], b"\n"].concat(), KeyError::Half),
        ];
        for (text, error) in cases {
            assert_eq!(MasterKey::parse(&text).unwrap_err(), error);
        }
        assert_eq!(MasterKey::parse(&[7; KEY]).unwrap_err(), KeyError::Same);
        assert_eq!(MasterKey::parse(&[b'0'; 2 * KEY]).unwrap_err(), KeyError::Same);
    }

    #[test]
    fn a_key_does_not_print() {
        let raw: [u8; KEY] = core::array::from_fn(|n| 65 + u8::try_from(n % 26).unwrap());
        let shown = format!(
            "{:?} {:#?}",
            MasterKey::parse(&raw).unwrap(),
            Some(MasterKey::parse(&raw))
        );
        assert!(shown.contains("not shown"), "{shown}");
        assert!(
            !shown.contains("ABC") && !shown.contains("65") && !shown.contains("41"),
            "{shown}"
        );
    }
}
