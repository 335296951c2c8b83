//! The log of a VM's serial console, which the guest fills as fast as it likes: it is kept below a size, the newest part and
//! one before it. QEMU has the file open for appending, so what is moved away is copied and the file then cut to nothing; what
//! the guest writes in between is lost from the log. While the daemon does not run it is not cut.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of the log at which it is moved away. Ours: some thousand lines, enough to see how a guest ended.
pub(crate) const MAX: u64 = 1 << 20;

/// Where the part before the newest is.
fn before(log: &Path) -> PathBuf {
    log.with_extension("log.1")
}

/// Whether the log has grown too long. One that is not there has not.
pub(crate) fn is_full(log: &Path) -> bool {
    fs::metadata(log).is_ok_and(|m| m.len() > MAX)
}

/// Moves the end of the log away and begins an empty one.
pub(crate) fn rotate(log: &Path) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    use std::os::unix::fs::OpenOptionsExt;
    let mut from = OpenOptions::new().read(true).write(true).open(log)?;
    let len = from.metadata()?.len();
    from.seek(SeekFrom::Start(len.saturating_sub(MAX)))?;
    let path = before(log);
    let mut to: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    io::copy(&mut Read::by_ref(&mut from).take(MAX), &mut to)?;
    from.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_guest_that_never_stops_talking_fills_two_files_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        assert!(!is_full(&log), "it is not there yet");
        // As QEMU has it open.
        let mut guest = OpenOptions::new().append(true).create(true).open(&log).unwrap();
        for round in 0..5_u8 {
            for _ in 0..40 {
                guest.write_all(&[b'a' + round; 64 << 10]).unwrap();
            }
            assert!(is_full(&log));
            rotate(&log).unwrap();
            assert_eq!(fs::metadata(&log).unwrap().len(), 0);
            let kept = fs::read(before(&log)).unwrap();
            assert_eq!(kept.len() as u64, MAX);
            assert!(kept.iter().all(|b| *b == b'a' + round), "the newest part");
        }
        guest.write_all(b"still here").unwrap();
        assert_eq!(fs::read(&log).unwrap(), b"still here");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
