//! What an image file says of itself, read from its header by this program alone: no other program is asked, because
//! every other program would also act on it. Nothing is decided here and nothing is opened because of what is read; what
//! may be opened is the matter of [`crate::layers`].

use std::io::{self, Read, Seek, SeekFrom};

/// Longest name of a backing file that the format allows, in bytes.
const NAME_MAX: u32 = 1023;

/// Largest header extension that is read, in bytes; the ones looked for are names.
const EXTENSION_MAX: u32 = 4096;

/// Extensions looked at before a header counts as damaged.
const EXTENSIONS_MAX: usize = 32;

/// Incompatible features: a program that does not know one must not open the image.
pub(crate) mod incompatible {
    /// Marked corrupt by a program that noticed.
    pub(crate) const CORRUPT: u64 = 1 << 1;
    /// The data is in another file.
    pub(crate) const DATA_FILE: u64 = 1 << 2;
    /// All that this program knows the meaning of: dirty, corrupt, data file, compression type, extended L2 entries.
    pub(crate) const KNOWN: u64 = 0b1_1111;
}

/// The header of a qcow2 image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Qcow2 {
    pub(crate) version: u32,
    /// Bytes the guest sees.
    pub(crate) size: u64,
    /// What the image names as the file below it.
    pub(crate) backing: Option<Backing>,
    pub(crate) encrypted: bool,
    /// Bits of [`incompatible`]; 0 in version 2.
    pub(crate) incompatible: u64,
}

/// A backing file as an image names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backing {
    pub(crate) name: String,
    /// Its format, when the image says it.
    pub(crate) format: Option<String>,
}

/// Reads a qcow2 header; `None` when the file does not begin like one. A header that cannot be right is an error of kind
/// `InvalidData`.
pub(crate) fn qcow2(file: &mut (impl Read + Seek)) -> io::Result<Option<Qcow2>> {
    let mut fixed = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    Read::take(&mut *file, 104).read_to_end(&mut fixed)?;
    if !fixed.starts_with(b"QFI\xfb") {
        return Ok(None);
    }
    let version = word(&fixed, 4)?;
    let encrypted = word(&fixed, 32)? != 0;
    let (incompatible, header_length) = match version {
        0..=2 => (0, 72),
        _ => (long(&fixed, 72)?, word(&fixed, 100)?),
    };
    let mut image = Qcow2 {
        version,
        size: long(&fixed, 24)?,
        backing: None,
        encrypted,
        incompatible,
    };
    let (at, len) = (long(&fixed, 8)?, word(&fixed, 16)?);
    if version >= 2 && at != 0 && len != 0 {
        if len > NAME_MAX {
            return Err(damaged("the name of its backing file is too long"));
        }
        let name = String::from_utf8(bytes(file, at, len)?);
        let name = name.map_err(|_| damaged("the name of its backing file is not UTF-8"))?;
        let format = backing_format(file, u64::from(header_length))?;
        image.backing = Some(Backing { name, format });
    }
    Ok(Some(image))
}

/// The backing file's format, from the list of extensions that follows the header.
fn backing_format(file: &mut (impl Read + Seek), mut at: u64) -> io::Result<Option<String>> {
    const END: u32 = 0;
    const BACKING_FORMAT: u32 = 0xe279_2aca;
    for _ in 0..EXTENSIONS_MAX {
        let head = bytes(file, at, 8)?;
        let (kind, len) = (word(&head, 0)?, word(&head, 4)?);
        match kind {
            END => return Ok(None),
            BACKING_FORMAT if len <= EXTENSION_MAX => {
                let name = String::from_utf8(bytes(file, at + 8, len)?);
                return name
                    .map(Some)
                    .map_err(|_| damaged("the name of its backing file's format is not UTF-8"));
            }
            _ => at += 8 + u64::from(len).next_multiple_of(8),
        }
    }
    Err(damaged("its header has too many extensions"))
}

/// The name of the image format that a file begins like; `None` for anything else, which is what raw disks hold. Formats
/// that guests put on whole disks as a matter of course (LUKS, file systems, partition tables) are not looked for.
pub(crate) fn container(file: &mut (impl Read + Seek)) -> io::Result<Option<&'static str>> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    Read::take(&mut *file, 512).read_to_end(&mut head)?;
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    let table: [(usize, &[u8], &str); 10] = [
        (0, b"QFI\xfb", "qcow2"),
        (0, b"QED\0", "qed"),
        (0, b"KDMV", "vmdk"),
        (0, b"COWD", "vmdk"),
        (0, b"# Disk DescriptorFile", "vmdk"),
        (64, b"\x7f\x10\xda\xbe", "vdi"),
        (0, b"vhdxfile", "vhdx"),
        (0, b"conectix", "vpc"),
        (0, b"WithoutFreeSpace", "parallels"),
        (0, b"WithouFreSpacExt", "parallels"),
    ];
    let found = table.iter().find(|(offset, magic, _)| at(*offset, magic));
    Ok(found.map(|(_, _, name)| *name))
}

fn bytes(file: &mut (impl Read + Seek), at: u64, len: u32) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    Read::take(&mut *file, u64::from(len)).read_to_end(&mut out)?;
    if out.len() as u64 != u64::from(len) {
        return Err(damaged("its header is cut off"));
    }
    Ok(out)
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    four.map(u32::from_be_bytes)
        .ok_or_else(|| damaged("its header is cut off"))
}

fn long(bytes: &[u8], at: usize) -> io::Result<u64> {
    Ok(u64::from(word(bytes, at)?) << 32 | u64::from(word(bytes, at + 4)?))
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A version 3 header with a backing file, as the specification lays it out.
    fn header() -> Vec<u8> {
        let mut h = vec![0; 4096];
        h[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        h[8..16].copy_from_slice(&1024_u64.to_be_bytes());
        h[16..20].copy_from_slice(&8_u32.to_be_bytes());
        h[24..32].copy_from_slice(&(5_u64 << 20).to_be_bytes());
        h[72..80].copy_from_slice(&incompatible::DATA_FILE.to_be_bytes());
        h[100..104].copy_from_slice(&104_u32.to_be_bytes());
        // An extension of 5 bytes that is not looked for, padded to 8, and then the format.
        h[104..112].copy_from_slice(b"\x01\x02\x03\x04\0\0\0\x05");
        h[120..128].copy_from_slice(b"\xe2\x79\x2a\xca\0\0\0\x03");
        h[128..131].copy_from_slice(b"raw");
        h[1024..1032].copy_from_slice(b"base.raw");
        h
    }

    #[test]
    fn a_header_is_read_and_a_damaged_one_refused() {
        let image = qcow2(&mut Cursor::new(header())).unwrap().unwrap();
        let backing = Backing {
            name: "base.raw".into(),
            format: Some("raw".into()),
        };
        assert_eq!(
            (image.version, image.size, image.backing),
            (3, 5 << 20, Some(backing))
        );
        assert_eq!(image.incompatible, incompatible::DATA_FILE);
        assert_eq!(qcow2(&mut Cursor::new(vec![0; 4096])).unwrap(), None);
        let spoils: [fn(&mut Vec<u8>); 4] = [
            |h| h.truncate(90),
            |h| h.truncate(1026),
            |h| h[16..20].copy_from_slice(&4096_u32.to_be_bytes()),
            |h| h[1024] = 0xff,
        ];
        for (n, spoil) in spoils.iter().enumerate() {
            let mut h = header();
            spoil(&mut h);
            let error = qcow2(&mut Cursor::new(h)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{n}");
        }
    }

    #[test]
    fn image_formats_are_told_from_what_guests_write() {
        let begins = |bytes: &[u8]| {
            let mut disk = bytes.to_vec();
            disk.resize(1024, 0);
            container(&mut Cursor::new(disk)).unwrap()
        };
        let mut vdi = [0; 68];
        vdi[64..].copy_from_slice(b"\x7f\x10\xda\xbe");
        assert_eq!(begins(&vdi), Some("vdi"));
        assert_eq!(begins(b"QFI\xfb\0\0\0\x03"), Some("qcow2"));
        assert_eq!(begins(b"KDMV"), Some("vmdk"));
        for own in [&b"LUKS\xba\xbe"[..], b"XFSB", b"", b"\xeb\x63\x90GRUB"] {
            assert_eq!(begins(own), None);
        }
    }
}
