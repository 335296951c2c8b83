//! The ioctls of file system encryption, with the layouts of `linux/fscrypt.h`, and of tap devices (`linux/if_tun.h`). All unsafe
//! code of the project is here. What the calls mean is said by `encryption` and `tap`.

use std::os::fd::AsFd;

use rustix::io::Result;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

/// Bytes of a master key: what AES-256-XTS takes, and the most that the kernel takes (`FSCRYPT_MAX_KEY_SIZE`).
pub(crate) const KEY: usize = 64;
/// Bytes by which the kernel names a master key (`FSCRYPT_KEY_IDENTIFIER_SIZE`).
pub(crate) const IDENTIFIER: usize = 16;

/// The group of all calls here.
const GROUP: u8 = b'f';
/// `FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER`.
const BY_IDENTIFIER: u32 = 2;
/// `FSCRYPT_POLICY_V2`.
pub(crate) const POLICY_V2: u8 = 2;
/// `FSCRYPT_MODE_AES_256_XTS`, for contents.
const AES_256_XTS: u8 = 1;
/// `FSCRYPT_MODE_AES_256_CTS`, for names.
const AES_256_CTS: u8 = 4;
/// `FSCRYPT_POLICY_FLAGS_PAD_32`: names are padded to multiples of 32 bytes.
const PAD_32: u8 = 3;

/// `struct fscrypt_policy_v2`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct PolicyV2 {
    version: u8,
    contents_mode: u8,
    names_mode: u8,
    flags: u8,
    log2_data_unit_size: u8,
    reserved: [u8; 3],
    identifier: [u8; IDENTIFIER],
}

/// `struct fscrypt_get_policy_ex_arg`; its union is as large as the policy of version 2.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct GetPolicy {
    size: u64,
    policy: [u8; 24],
}

/// `struct fscrypt_key_specifier`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct KeySpecifier {
    kind: u32,
    reserved: u32,
    name: [u8; 32],
}

/// `struct fscrypt_add_key_arg` with the key that follows it.
#[repr(C)]
struct AddKey {
    specifier: KeySpecifier,
    raw_size: u32,
    key_id: u32,
    /// `flags` and reserved bytes, all zero: a key in the clear.
    rest: [u32; 8],
    raw: [u8; KEY],
}

/// `struct fscrypt_get_key_status_arg`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct KeyStatus {
    specifier: KeySpecifier,
    reserved: [u32; 6],
    status: u32,
    flags: u32,
    users: u32,
    out_reserved: [u32; 13],
}

/// The fixed part of `AddKey`: the number of the call has its size, not that of the key.
const ADD_KEY_HEADER: usize = size_of::<AddKey>() - KEY;

// The kernel reads and writes these sizes; a layout that differs must not compile.
const _: () = assert!(size_of::<PolicyV2>() == 24);
const _: () = assert!(size_of::<GetPolicy>() == 32);
const _: () = assert!(size_of::<KeySpecifier>() == 40);
const _: () = assert!(ADD_KEY_HEADER == 80);
const _: () = assert!(size_of::<KeyStatus>() == 128);

/// `FS_IOC_SET_ENCRYPTION_POLICY`; its number has the size of a policy of version 1, whatever is given.
const SET_POLICY: Opcode = opcode::read::<[u8; 12]>(GROUP, 19);
/// `FS_IOC_GET_ENCRYPTION_POLICY_EX`.
const GET_POLICY: Opcode = opcode::read_write::<[u8; 9]>(GROUP, 22);
/// `FS_IOC_ADD_ENCRYPTION_KEY`.
const ADD_KEY: Opcode = opcode::read_write::<[u8; ADD_KEY_HEADER]>(GROUP, 23);
/// `FS_IOC_GET_ENCRYPTION_KEY_STATUS`.
const KEY_STATUS: Opcode = opcode::read_write::<KeyStatus>(GROUP, 26);

fn by_identifier(identifier: [u8; IDENTIFIER]) -> KeySpecifier {
    let mut specifier = KeySpecifier {
        kind: BY_IDENTIFIER,
        ..KeySpecifier::default()
    };
    specifier.name[..IDENTIFIER].copy_from_slice(&identifier);
    specifier
}

/// Gives a master key to the file system of `on`; by which identifier the kernel knows it.
pub(crate) fn add_key(on: impl AsFd, key: &[u8; KEY]) -> Result<[u8; IDENTIFIER]> {
    let mut argument = zeroize::Zeroizing::new(AddKey {
        specifier: KeySpecifier {
            kind: BY_IDENTIFIER,
            ..KeySpecifier::default()
        },
        raw_size: 64,
        key_id: 0,
        rest: [0; 8],
        raw: [0; KEY],
    });
    // Not before it is where it stays: a move would leave a copy behind.
    argument.raw.copy_from_slice(key);
    // SAFETY: the number is that of FS_IOC_ADD_ENCRYPTION_KEY. The kernel reads the fixed part and the `raw_size` bytes after it,
    // which are all of `raw`, and writes the identifier into the fixed part. Every bit pattern is a value of each field, and
    // the argument outlives the call.
    unsafe { ioctl(on, Updater::<ADD_KEY, AddKey>::new(&mut argument)) }?;
    let mut identifier = [0; IDENTIFIER];
    identifier.copy_from_slice(&argument.specifier.name[..IDENTIFIER]);
    Ok(identifier)
}

impl zeroize::Zeroize for AddKey {
    fn zeroize(&mut self) {
        self.raw.zeroize();
    }
}

/// Has a directory, which is empty, encrypted from now on with the key of this identifier.
pub(crate) fn set_policy(on: impl AsFd, identifier: [u8; IDENTIFIER]) -> Result<()> {
    let policy = PolicyV2 {
        version: POLICY_V2,
        contents_mode: AES_256_XTS,
        names_mode: AES_256_CTS,
        flags: PAD_32,
        identifier,
        ..PolicyV2::default()
    };
    // SAFETY: the number is that of FS_IOC_SET_ENCRYPTION_POLICY. The kernel reads as many bytes as the version in the first one
    // says, which for version 2 is the whole of the structure (asserted above), and writes nothing.
    unsafe { ioctl(on, Setter::<SET_POLICY, PolicyV2>::new(policy)) }
}

/// The policy of a directory: its version, and its key's identifier where it is of version 2.
pub(crate) fn policy(on: impl AsFd) -> Result<(u8, [u8; IDENTIFIER])> {
    let mut argument = GetPolicy {
        size: 24,
        ..GetPolicy::default()
    };
    // SAFETY: the number is that of FS_IOC_GET_ENCRYPTION_POLICY_EX. The kernel reads `size` and writes at most that many bytes
    // behind it, which is the size of `policy`. Every bit pattern is a value of each field, and the argument outlives the call.
    unsafe { ioctl(on, Updater::<GET_POLICY, GetPolicy>::new(&mut argument)) }?;
    let mut identifier = [0; IDENTIFIER];
    identifier.copy_from_slice(&argument.policy[8..]);
    Ok((argument.policy[0], identifier))
}

/// Whether the file system of `on` has the key of this identifier for whatever is opened next
/// (`FSCRYPT_KEY_STATUS_PRESENT`). One that was taken away while files are open counts as not there.
pub(crate) fn has_key(on: impl AsFd, identifier: [u8; IDENTIFIER]) -> Result<bool> {
    const PRESENT: u32 = 2;
    let mut argument = KeyStatus {
        specifier: by_identifier(identifier),
        ..KeyStatus::default()
    };
    // SAFETY: the number is that of FS_IOC_GET_ENCRYPTION_KEY_STATUS. The kernel reads and writes just this structure (its size is
    // asserted above and part of the number). Every bit pattern is a value of each field, and the argument outlives the call.
    unsafe { ioctl(on, Updater::<KEY_STATUS, KeyStatus>::new(&mut argument)) }?;
    Ok(argument.status == PRESENT)
}

/// Bytes of a network device's name with the zero that ends it (`IFNAMSIZ`).
pub(crate) const INTERFACE_NAME: usize = 16;

/// `struct ifreq` as far as it is used here.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; INTERFACE_NAME],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

/// `TUNSETIFF`; its number has the size of an int, whatever is given.
const SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);

/// Attaches an open `/dev/net/tun` to the tap device of this name, and says what the kernel calls it.
pub(crate) fn attach_tap(on: impl AsFd, name: [u8; INTERFACE_NAME]) -> Result<[u8; INTERFACE_NAME]> {
    /// `IFF_TAP`, `IFF_NO_PI` and `IFF_VNET_HDR`.
    const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;
    let mut argument = InterfaceRequest {
        name,
        flags: FLAGS,
        rest: [0; 22],
    };
    // SAFETY: the number is that of TUNSETIFF. The kernel reads and writes one `struct ifreq`, whose size is asserted above. Every bit
    // pattern is a value of each field, and the argument outlives the call.
    unsafe { ioctl(on, Updater::<SET_INTERFACE, InterfaceRequest>::new(&mut argument)) }?;
    Ok(argument.name)
}
