//! Sealed files: what an export on a medium consists of. A person who carries a medium can read, change, cut, swap and replace
//! what is on it; without the key they learn sizes, and whatever they change is found before any of it is handed out. No
//! file is opened here, and whose key it is the engine knows.
//!
//! ```text
//! 8 B   "LBSEAL02"
//! 16 B  UUID of the export
//! 32 B  salt, random for each writing of a file
//! then  chunks: 64 KiB of content (the last one 0 to 64 KiB), encrypted, and 16 B tag
//! ```
//!
//! Each file has a key of its own: HKDF-SHA256 (RFC 5869) of the export's key with the salt, for what the file is: export, VM,
//! manifest or segment, disk and segment number. So a file opens as nothing else, and a piece that is written again after an
//! interruption, with whatever the disk holds then, shares no key with the first writing. Chunks are sealed with
//! AES-256-GCM; the nonce is 7 zero bytes, the chunk's number (32 bits, big-endian), and 1 for the last chunk, otherwise 0 (the
//! STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, 2015). So none can be left out, doubled, moved or
//! cut off at the end. The same description of the file is the chunk's associated data.

use std::io::{self, Read};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt as Extract};
use lifeboat_engine::ports::media::{Part, Seal};
use uuid::Uuid;

/// Bytes of content in a chunk. Twice that is what is in memory of a file.
pub(crate) const CHUNK: usize = 64 << 10;
/// Bytes of a chunk's tag.
pub(crate) const TAG: usize = 16;
/// Bytes before the first chunk.
pub(crate) const HEADER: usize = 8 + 16 + SALT;

const MAGIC: [u8; 8] = *b"LBSEAL02";
const SALT: usize = 32;
/// Bytes of what describes a file.
const ABOUT: usize = 8 + 16 + 16 + 1 + 2 + 8;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Manifest,
    Segment(Part),
}

/// Why nothing more of a file is believed.
#[derive(Debug)]
pub(crate) enum SealError {
    /// It cannot be read.
    Io(io::Error),
    /// It is not what was sealed.
    Forged(&'static str),
}

/// What is in front of the chunks, believed only as far as the chunks open with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The export it says to be of.
    pub(crate) export: Uuid,
    salt: [u8; SALT],
}

impl Header {
    /// For a file that is about to be written.
    pub(crate) fn new(export: Uuid) -> io::Result<Self> {
        let mut salt = [0; SALT];
        let filled = aws_lc_rs::rand::fill(&mut salt);
        filled.map_err(|Unspecified| io::Error::other("there is no source of random numbers"))?;
        Ok(Self { export, salt })
    }

    /// The salt in hexadecimal.
    pub(crate) fn salt(&self) -> String {
        self.salt.iter().map(|b| format!("{b:02x}")).collect()
    }

    pub(crate) fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        put(&mut bytes, &[&MAGIC, self.export.as_bytes(), &self.salt]);
        bytes
    }

    /// Reads it from the beginning of a file.
    pub(crate) fn read(from: &mut impl Read) -> Result<Self, SealError> {
        let bytes = read_up_to(from, HEADER).map_err(SealError::Io)?;
        let parts = bytes.split_first_chunk::<8>();
        let parts = parts.and_then(|(magic, rest)| Some((magic, rest.split_first_chunk::<16>()?)));
        let Some((magic, (export, salt))) = parts else {
            return Err(SealError::Forged("it is too short"));
        };
        match <[u8; SALT]>::try_from(salt) {
            _ if *magic != MAGIC => Err(SealError::Forged("it is no sealed file of an export")),
            Ok(salt) => Ok(Self {
                export: Uuid::from_bytes(*export),
                salt,
            }),
            Err(_) => Err(SealError::Forged("it is too short")),
        }
    }
}

/// Puts parts behind one another.
fn put(to: &mut [u8], parts: &[&[u8]]) {
    let mut bytes = parts.iter().flat_map(|p| p.iter());
    for (to, from) in to.iter_mut().zip(&mut bytes) {
        *to = *from;
    }
}

fn about(seal: &Seal, what: What) -> [u8; ABOUT] {
    let (kind, Part { disk, number }) = match what {
        What::Manifest => (0, Part { disk: 0, number: 0 }),
        What::Segment(part) => (1, part),
    };
    let mut about = [0; ABOUT];
    put(
        &mut about,
        &[
            &MAGIC,
            seal.sealing.export.as_bytes(),
            seal.vm.0.as_bytes(),
            &[kind],
            &disk.to_le_bytes(),
            &number.to_le_bytes(),
        ],
    );
    about
}

/// The cipher of one file, which goes chunk by chunk.
struct Cipher {
    key: LessSafeKey,
    about: [u8; ABOUT],
    next: Option<u32>,
}

impl Cipher {
    fn new(seal: &Seal, what: What, header: &Header) -> Result<Self, Unspecified> {
        let about = about(seal, what);
        let extracted = Extract::new(HKDF_SHA256, &header.salt).extract(seal.sealing.key.expose());
        let info: [&[u8]; 1] = [&about];
        let key = UnboundKey::from(extracted.expand(&info, &AES_256_GCM)?);
        Ok(Self {
            key: LessSafeKey::new(key),
            about,
            next: Some(0),
        })
    }

    /// The nonce of the next chunk. A number is never used twice.
    fn nonce(&mut self, last: bool) -> Result<Nonce, Unspecified> {
        let number = self.next.ok_or(Unspecified)?;
        self.next = number.checked_add(1);
        let mut nonce = [0; NONCE_LEN];
        put(&mut nonce, &[&[0; 7], &number.to_be_bytes(), &[u8::from(last)]]);
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    fn seal(&mut self, chunk: &mut Vec<u8>, last: bool) -> Result<(), Unspecified> {
        let nonce = self.nonce(last)?;
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(&self.about), chunk)
    }

    /// Leaves the content in the chunk.
    fn open(&mut self, chunk: &mut Vec<u8>, last: bool) -> Result<(), Unspecified> {
        let nonce = self.nonce(last)?;
        let content = self
            .key
            .open_in_place(nonce, Aad::from(&self.about), chunk)?
            .len();
        chunk.truncate(content);
        Ok(())
    }
}

/// Turns content into the chunks of a file, whose header is written by the caller.
pub(crate) struct Sealer {
    cipher: Cipher,
    chunk: Vec<u8>,
}

fn unsealed(_: Unspecified) -> io::Error {
    io::Error::other("it cannot be encrypted")
}

impl Sealer {
    pub(crate) fn new(seal: &Seal, what: What, header: &Header) -> io::Result<Self> {
        Ok(Self {
            cipher: Cipher::new(seal, what, header).map_err(unsealed)?,
            chunk: Vec::with_capacity(CHUNK + TAG),
        })
    }

    /// Takes content, and hands out each chunk that is full once there is more to come.
    pub(crate) fn push<E: From<io::Error>>(
        &mut self,
        mut content: &[u8],
        mut out: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !content.is_empty() {
            if self.chunk.len() == CHUNK {
                self.hand_out(false, &mut out)?;
            }
            let (now, later) = content.split_at(content.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            content = later;
        }
        Ok(())
    }

    /// Hands out the last chunk.
    pub(crate) fn finish<E: From<io::Error>>(
        mut self,
        mut out: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.hand_out(true, &mut out)
    }

    fn hand_out<E: From<io::Error>>(
        &mut self,
        last: bool,
        out: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.cipher.seal(&mut self.chunk, last).map_err(unsealed)?;
        out(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }
}

/// Reads the chunks of a file. What it hands out is authentic, and is at its place.
pub(crate) struct Opener<R> {
    cipher: Cipher,
    from: R,
    /// The chunk to open next, read ahead to know which one is the last; `None` behind that.
    ahead: Option<Vec<u8>>,
}

impl<R: Read> Opener<R> {
    /// `from` has been read up to the end of the header.
    pub(crate) fn new(seal: &Seal, what: What, header: &Header, mut from: R) -> Result<Self, SealError> {
        let cipher = Cipher::new(seal, what, header);
        let cipher = cipher.map_err(|e| SealError::Io(unsealed(e)))?;
        let ahead = read_up_to(&mut from, CHUNK + TAG).map_err(SealError::Io)?;
        Ok(Self {
            cipher,
            from,
            ahead: Some(ahead),
        })
    }

    /// The next content, at most [`CHUNK`]; `None` behind the last chunk.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, SealError> {
        let Some(mut chunk) = self.ahead.take() else {
            return Ok(None);
        };
        let after = read_up_to(&mut self.from, CHUNK + TAG).map_err(SealError::Io)?;
        let last = after.is_empty();
        match self.cipher.open(&mut chunk, last) {
            Ok(()) => self.ahead = (!last).then_some(after),
            Err(Unspecified) => {
                let what = "it is not what was exported with the key of this replication: it was changed, cut or replaced on the way";
                return Err(SealError::Forged(what));
            }
        }
        Ok(Some(chunk))
    }
}

/// Reads until so many bytes are there or the file ends.
fn read_up_to(from: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut read = Vec::with_capacity(bytes);
    from.by_ref().take(bytes as u64).read_to_end(&mut read)?;
    Ok(read)
}
