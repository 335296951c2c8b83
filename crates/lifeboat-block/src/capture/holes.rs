//! Which parts of a raw disk were ever written. Its tracking overlay maps every cluster, so nothing above the file itself
//! knows, and QEMU does not export the file while it may grow. So the file system is asked, for just the file that the
//! process has open: another one may lie at its path by now.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use lifeboat_engine::ports::capture::Extent;
use lifeboat_engine::ports::hypervisor::DiskImage;
use lifeboat_model::DiskFormat;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The raw file of `image` as process `holder` has it open; nothing for other images, for devices, which do not know, and
/// when that cannot be found out: then everything counts as data.
#[must_use]
pub fn file_of(image: &DiskImage, holder: i32) -> Option<File> {
    let DiskImage::Plain {
        path,
        format: DiskFormat::Raw,
    } = image
    else {
        return None;
    };
    let file = File::open(path).ok()?;
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let descriptors = fs::read_dir(format!("/proc/{holder}/fd")).ok()?;
    let mut open = descriptors
        .flatten()
        .filter_map(|fd| fs::metadata(fd.path()).ok());
    open.any(|m| (m.dev(), m.ino()) == (meta.dev(), meta.ino()))
        .then_some(file)
}

/// Adjacent extents that cover a range. What lies beyond the end of the file is a hole.
pub(super) fn map(file: &File, offset: u64, len: u64) -> io::Result<Vec<Extent>> {
    let end = offset.saturating_add(len);
    let seek = |to: SeekFrom| match rustix::fs::seek(file, to) {
        Ok(at) => Ok(at.min(end)),
        // No data from here to the end of the file.
        Err(Errno::NXIO) => Ok(end),
        Err(e) => Err(io::Error::from(e)),
    };
    let mut extents = Vec::new();
    let mut at = offset;
    while at < end {
        let data = seek(SeekFrom::Data(at))?;
        if data > at {
            extents.push(Extent {
                offset: at,
                len: data - at,
                zero: true,
            });
        }
        if data >= end {
            break;
        }
        let hole = seek(SeekFrom::Hole(data))?;
        // A file system that contradicts itself holds data, whatever it says.
        at = if hole > data { hole } else { end };
        extents.push(Extent {
            offset: data,
            len: at - data,
            zero: false,
        });
    }
    Ok(extents)
}
