//! The capabilities that the daemon keeps when root starts it, and gives up all others: it cannot get them back, nor can
//! anything that it starts. What a guest's process may do is the QEMU adapter's business, and less.
//!
//! Why the daemon is root at all, and no helper is: what it has to do with rights is most of what it does. It opens images
//! of other users, makes users of guests, watches for other writers of images (which the kernel lets only root do), and finds
//! processes of all users. A helper that does this for every caller would be as powerful, with a protocol on top.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What it needs them for is in docs/security.md.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE);

/// Gives up everything else. Only for a process with one thread: the kernel has capabilities for each.
///
/// # Errors
/// When the kernel refuses. Nothing has to be given up by who is not root.
pub(crate) fn give_up() -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !KEPT.contains(capability) => remove_capability_from_bounding_set(capability)?,
            Ok(_) => {}
            // This kernel knows no more.
            Err(Errno::INVAL) => break,
            Err(e) => return Err(e.into()),
        }
    }
    // Less than that where systemd or a container left less.
    let held = capabilities(None)?.permitted & KEPT;
    set_capabilities(
        None,
        CapabilitySets {
            effective: held,
            permitted: held,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}
