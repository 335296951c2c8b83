//! Attaching to a tap device or making one, so that another process can be given it open. Only with `CAP_NET_ADMIN` can one attach to a device
//! that belongs to another user.

use std::fs::File;
use std::io;

use crate::ioctl;

/// Attaches to the device called `name`, as QEMU would: frames without packet information, with room for offloads.
///
/// # Errors
/// `InvalidInput` for a name that no device can have, `ResourceBusy` when another process is attached, `InvalidInput` when the device
/// is no tap device, `PermissionDenied` when it belongs to another user. A device that does not exist is made, and is gone
/// with the file: look before.
pub fn attach(name: &str) -> io::Result<File> {
    create(name).map(|(device, _)| device)
}

/// Makes a device, which is gone with the file, and says its name: `%d` in `pattern` becomes the first number that is free.
///
/// # Errors
/// As for [`attach`], and `PermissionDenied` without `CAP_NET_ADMIN`.
pub fn create(pattern: &str) -> io::Result<(File, String)> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    let bytes = pattern.as_bytes();
    // The last of 16 bytes ends the name.
    if bytes.is_empty() || bytes.len() >= ioctl::INTERFACE_NAME || bytes.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no network device can have this name",
        ));
    }
    let mut padded = [0; ioctl::INTERFACE_NAME];
    padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let name = ioctl::attach_tap(&tun, padded)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((tun, String::from_utf8_lossy(name).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_device_can_have_are_refused() {
        for bad in ["", "sixteen-letters!", "a\0b"] {
            assert_eq!(
                attach(bad).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{bad}"
            );
        }
    }
}
