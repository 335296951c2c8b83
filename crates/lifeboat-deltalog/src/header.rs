//! The header: whose log this is, where it leads from and to, and which disks it speaks of.

use lifeboat_model::{DiskId, GenerationId, Position, Timestamp, VmId};
use uuid::Uuid;

use crate::error::{Fault, HeaderError};
use crate::format::{
    CRC_LEN, Fields, HEADER_DISK, HEADER_FIXED, MAGIC, MAX_DISK_SIZE, MAX_DISKS, PREFIX_LEN, SECTOR, VERSION,
};

/// What a log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// The changes from one instant to another.
    Delta,
    /// A segment of an initial copy; applied to the base, never kept.
    Bulk,
    /// A resync fragment: content that differs. Kept and applied like a delta, but the disks are then at no instant
    /// until the delta that closes the resynchronization.
    Sync,
}

/// What the guest knew of the instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Nothing: like a power cut.
    Crash,
    /// Its agent froze the file systems.
    Application,
    /// It was shut down or paused for a planned failover.
    Planned,
}

/// A disk the log speaks of.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogDisk {
    /// Its name within the VM.
    pub id: DiskId,
    /// Bytes, a multiple of 512, not zero, at most [`MAX_DISK_SIZE`].
    pub size: u64,
}

impl LogDisk {
    /// Checks the size.
    ///
    /// # Errors
    /// No log can hold a disk of this size.
    pub fn validate(&self) -> Result<(), HeaderError> {
        if self.size == 0 || !self.size.is_multiple_of(SECTOR) || self.size > MAX_DISK_SIZE {
            return Err(HeaderError::DiskSize {
                id: self.id.clone(),
                size: self.size,
            });
        }
        Ok(())
    }
}

/// The header of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose disks.
    pub vm: VmId,
    /// What for.
    pub kind: LogKind,
    /// The position that a copy holds once the log is applied.
    pub position: Position,
    /// The position that a copy must hold for a delta to be applied. Within one generation it is before `position`.
    pub parent: Position,
    /// The instant the content belongs to.
    pub instant: Timestamp,
    /// What the guest knew of it.
    pub consistency: Consistency,
    /// 1 to [`MAX_DISKS`] disks, no id twice. Frames name them by index.
    pub disks: Vec<LogDisk>,
}

impl Header {
    /// Checks the rules that the types cannot hold.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn validate(&self) -> Result<(), HeaderError> {
        if self.disks.is_empty() || self.disks.len() > MAX_DISKS {
            return Err(HeaderError::DiskCount(self.disks.len()));
        }
        for (n, disk) in self.disks.iter().enumerate() {
            disk.validate()?;
            if self.disks.iter().take(n).any(|d| d.id == disk.id) {
                return Err(HeaderError::DiskTwice(disk.id.clone()));
            }
        }
        let Self { position, parent, .. } = *self;
        let backwards = parent.at_or_after(position) == Some(true);
        match self.kind {
            LogKind::Delta | LogKind::Sync if backwards => Err(HeaderError::NotForward { parent, position }),
            LogKind::Delta | LogKind::Bulk | LogKind::Sync => Ok(()),
        }
    }

    /// Bytes from the start of the log to the first frame.
    fn encoded_len(&self) -> usize {
        HEADER_FIXED + HEADER_DISK * self.disks.len() + CRC_LEN
    }

    /// Appends prefix and header.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), HeaderError> {
        self.validate()?;
        let start = out.len();
        let len = u32::try_from(self.encoded_len()).expect("64 disks fit into 1636 bytes");
        let disks = u16::try_from(self.disks.len()).expect("at most 64 disks");
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(self.vm.0.as_bytes());
        for position in [&self.position, &self.parent] {
            out.extend_from_slice(position.generation().0.as_bytes());
            out.extend_from_slice(&position.sequence().to_le_bytes());
        }
        out.extend_from_slice(&self.instant.0.to_le_bytes());
        out.push(match self.kind {
            LogKind::Delta => 1,
            LogKind::Bulk => 2,
            LogKind::Sync => 3,
        });
        out.push(match self.consistency {
            Consistency::Crash => 1,
            Consistency::Application => 2,
            Consistency::Planned => 3,
        });
        out.extend_from_slice(&disks.to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        for disk in &self.disks {
            let name = disk.id.as_str().as_bytes();
            let mut field = [0; 16];
            for (to, from) in field.iter_mut().zip(name) {
                *to = *from;
            }
            out.extend_from_slice(&field);
            out.extend_from_slice(&disk.size.to_le_bytes());
        }
        let crc = crc32c::crc32c(out.get(start..).unwrap_or_default());
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(())
    }

    /// Reads what [`Header::encode`] wrote; `bytes` is exactly as long as the prefix says.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let (body, crc) = bytes.split_last_chunk::<CRC_LEN>().ok_or(Fault::HeaderChecksum)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(Fault::HeaderChecksum);
        }
        let mut fields = Fields(body.get(PREFIX_LEN..).unwrap_or_default());
        let header = Self::fields(&mut fields)?;
        if !fields.0.is_empty() {
            return Err(Fault::HeaderField("disk count"));
        }
        header.validate()?;
        Ok(header)
    }

    fn fields(f: &mut Fields<'_>) -> Result<Self, Fault> {
        let short = || Fault::HeaderField("disk count");
        let vm = VmId(Uuid::from_bytes(f.bytes().ok_or_else(short)?));
        let position = read_position(f).ok_or_else(short)?;
        let parent = read_position(f).ok_or_else(short)?;
        let instant = Timestamp(f.u64().ok_or_else(short)?);
        let kind = match f.u8().ok_or_else(short)? {
            1 => LogKind::Delta,
            2 => LogKind::Bulk,
            3 => LogKind::Sync,
            _ => return Err(Fault::HeaderField("kind")),
        };
        let consistency = match f.u8().ok_or_else(short)? {
            1 => Consistency::Crash,
            2 => Consistency::Application,
            3 => Consistency::Planned,
            _ => return Err(Fault::HeaderField("consistency")),
        };
        let count = usize::from(f.u16().ok_or_else(short)?);
        if f.u32().ok_or_else(short)? != 0 {
            return Err(Fault::HeaderField("flags"));
        }
        if count > MAX_DISKS {
            return Err(HeaderError::DiskCount(count).into());
        }
        let mut disks = Vec::with_capacity(count);
        for _ in 0..count {
            let name: [u8; 16] = f.bytes().ok_or_else(short)?;
            let id = disk_id(&name).ok_or(Fault::HeaderField("disk id"))?;
            disks.push(LogDisk {
                id,
                size: f.u64().ok_or_else(short)?,
            });
        }
        Ok(Self {
            vm,
            kind,
            position,
            parent,
            instant,
            consistency,
            disks,
        })
    }
}

fn read_position(f: &mut Fields<'_>) -> Option<Position> {
    let generation = GenerationId(Uuid::from_bytes(f.bytes()?));
    Some(Position::from_parts(generation, f.u64()?))
}

/// The name up to the first NUL; after it only NULs, so that one name has one spelling.
fn disk_id(field: &[u8; 16]) -> Option<DiskId> {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    let (name, padding) = field.split_at(end);
    if padding.iter().any(|&b| b != 0) {
        return None;
    }
    DiskId::new(std::str::from_utf8(name).ok()?).ok()
}
