//! The key of an encrypted directory, taken away from its file system while a program works there, as a person or
//! another program would. The call is made by Python, so that this crate has no unsafe code.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::volume::run;

/// `FS_IOC_REMOVE_ENCRYPTION_KEY` with a key identifier; prints the status flags that the kernel answers with.
const REMOVE: &str = r#"
import fcntl, os, struct, sys
argument = bytearray(64)
struct.pack_into("<II32s", argument, 0, 2, 0, bytes.fromhex(sys.argv[2]))
directory = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(directory, 0xC0406618, argument)
print(struct.unpack_from("<I", argument, 40)[0])
"#;

/// Takes the key of this identifier (hexadecimal) away from the file system that `dir` is on. Whether files stay readable
/// because they are open.
///
/// # Errors
/// Without Python 3, or when the file system does not have the key.
pub fn take_away(dir: &Path, identifier: &str) -> Result<bool> {
    let said = run(Command::new("python3")
        .args(["-c", REMOVE])
        .arg(dir)
        .arg(identifier))?;
    let flags: u32 = said.trim().parse().context(said)?;
    Ok(flags & 1 != 0)
}
