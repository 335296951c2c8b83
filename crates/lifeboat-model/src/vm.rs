//! What a virtual machine is: the description an administrator writes as one TOML file and a replica receives.
//! It says nothing about whether or where the machine runs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::{DiskId, VmId};
use crate::words;

mod flat;

/// A virtual machine. Written and read flat: the keys of `hardware` stand beside the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "flat::VmSpec", into = "flat::VmSpec")]
pub struct VmSpec {
    /// Name, unique on its host: 1 to 64 characters, no `/`, no control characters, not starting with `-` or `.`.
    pub name: String,
    /// Identity, the same on every host.
    pub uuid: VmId,
    /// Memory in MiB, 16 to 16 Mi.
    pub memory_mib: u32,
    /// Virtual CPUs, 1 to 512.
    pub cpus: u16,
    /// Disks, in the order the guest sees them.
    pub disks: Vec<DiskSpec>,
    /// Network cards.
    pub nics: Vec<NicSpec>,
    /// Whether the guest has a QEMU guest agent channel.
    pub guest_agent: bool,
    /// All else that its hypervisor has to know.
    pub hardware: Hardware,
}

/// What only one kind of hypervisor knows of a machine. Each place that needs it says what the answer is for each kind: match it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// A QEMU process that Lifeboat starts.
    Own(OwnHardware),
}

/// The machine of a QEMU process that Lifeboat starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnHardware {
    /// QEMU machine type, for example `q35` or `pc`.
    pub machine: String,
    /// QEMU CPU model, for example `host` or `qemu64`.
    pub cpu: String,
    /// What starts the guest: a BIOS unless said otherwise.
    pub firmware: Firmware,
    /// One iothread per disk. Refused before QEMU 9, where it kills QEMU during capture.
    pub iothreads: bool,
}

/// What starts the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Firmware {
    /// SeaBIOS, which comes with QEMU; no file is named.
    #[default]
    Bios,
    /// UEFI: read-only code and the VM's own variable store.
    Uefi {
        /// Firmware code image (raw pflash): an absolute path, or the name of one that this host's firmware descriptors list.
        code: String,
        /// Path of this VM's variable store (raw pflash), read and written by the guest. `None` for a replica, whose store
        /// lies beside its disks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vars: Option<String>,
    },
}

/// A disk image's format. Never probed, always said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// qcow2, with or without a backing file.
    Qcow2,
    /// The guest's bytes as they are: a file, with or without holes, or a block device.
    Raw,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Name within the VM.
    pub id: DiskId,
    /// Absolute path of the image on this host. Empty for a replica, whose images are the replica store's.
    pub path: String,
    /// Format of the image.
    pub format: DiskFormat,
    /// Bus the guest sees.
    #[serde(default)]
    pub bus: DiskBus,
    /// What is accepted of the image beyond the ordinary.
    #[serde(default, skip_serializing_if = "DiskAllow::is_nothing")]
    pub allow: DiskAllow,
}

/// What an administrator accepts of a disk's image, because it would be refused otherwise. It concerns this host alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskAllow {
    /// Absolute directories, beside the one the image is in, whose files the image may name as its backing files.
    #[serde(default)]
    pub backing_in: Vec<String>,
    /// A raw disk may begin with the header of an image format: the guest itself wrote it there.
    #[serde(default)]
    pub raw_header: bool,
}

impl DiskAllow {
    /// Whether nothing beyond the ordinary is accepted.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// virtio-blk.
    #[default]
    Virtio,
    /// virtio-scsi.
    Scsi,
    /// IDE (`pc` machines only).
    Ide,
}

/// One network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicSpec {
    /// MAC address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// What it is connected to on this host.
    #[serde(default)]
    pub backend: NicBackend,
}

/// The host side of a network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum NicBackend {
    /// Not connected.
    #[default]
    None,
    /// QEMU's user-mode network, without access to the host.
    User,
    /// An existing tap device.
    Tap {
        /// Interface name.
        ifname: String,
    },
    /// A tap device of its own, made when the VM is started, as a port of an existing bridge. It goes with the VM's process.
    Bridge {
        /// Interface name of the bridge.
        name: String,
    },
}

/// What is wrong with a VM description; always the writer's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmSpecError {
    /// Bad name.
    #[error(
        "name \"{0}\": use 1 to 64 characters that can be seen, without / and not starting with - or .; a UUID is no name"
    )]
    Name(String),
    /// A number out of range.
    #[error("{field} = {value} is out of range: {range}")]
    Range {
        /// The field.
        field: &'static str,
        /// What was written.
        value: u64,
        /// What may be written.
        range: &'static str,
    },
    /// Too few or too many disks.
    #[error("{0} disks: a VM has 1 to 24")]
    DiskCount(usize),
    /// Two disks with one id.
    #[error("disk id \"{0}\" appears twice")]
    DiskTwice(DiskId),
    /// Two disks on one file.
    #[error("disk \"{0}\": its path is used by another disk of this VM")]
    PathTwice(DiskId),
    /// A path that is not absolute.
    #[error("{what}: path \"{path}\" must be absolute")]
    RelativePath {
        /// Which path.
        what: String,
        /// What was written.
        path: String,
    },
    /// A UEFI machine without a place for its variables.
    #[error("firmware: name the file of this VM's variables: vars = \"/…\"")]
    NoVars,
    /// A MAC address that is none.
    #[error("nic mac \"{0}\": write six hexadecimal bytes with colons, first byte even (unicast)")]
    Mac(String),
    /// A word that would change the QEMU command line.
    #[error("{field} = \"{value}\": use letters, digits and . _ + - only")]
    Word {
        /// The field.
        field: &'static str,
        /// What was written.
        value: String,
    },
}

impl VmSpec {
    /// Checks what the type alone cannot, in the description of a VM of this host.
    pub fn validate(&self) -> Result<(), VmSpecError> {
        self.validate_machine()?;
        match &self.hardware {
            Hardware::Own(own) => own.validate_files()?,
        }
        let mut paths = BTreeSet::new();
        for d in &self.disks {
            absolute(&format!("disk \"{}\"", d.id), &d.path)?;
            for dir in &d.allow.backing_in {
                absolute(&format!("disk \"{}\", allow.backing_in", d.id), dir)?;
            }
            if !paths.insert(&d.path) {
                return Err(VmSpecError::PathTwice(d.id.clone()));
            }
        }
        Ok(())
    }

    /// Checks what does not concern the files on this host.
    pub fn validate_machine(&self) -> Result<(), VmSpecError> {
        let n = &self.name;
        if n.is_empty()
            || n.chars().count() > 64
            || n.starts_with(['-', '.'])
            || n.contains('/')
            || n.chars().any(|c| words::is_obeyed(c) || words::is_unseen(c))
            || n.parse::<uuid::Uuid>().is_ok()
        {
            return Err(VmSpecError::Name(n.chars().take(80).collect()));
        }
        range(
            "memory_mib",
            u64::from(self.memory_mib),
            16,
            16 << 20,
            "16 to 16777216 MiB",
        )?;
        range("cpus", u64::from(self.cpus), 1, 512, "1 to 512")?;
        match &self.hardware {
            Hardware::Own(own) => own.validate()?,
        }
        self.validate_disks()?;
        range("network cards", self.nics.len() as u64, 0, 16, "up to 16")?;
        self.nics.iter().try_for_each(validate_nic)
    }

    fn validate_disks(&self) -> Result<(), VmSpecError> {
        if !(1..=24).contains(&self.disks.len()) {
            return Err(VmSpecError::DiskCount(self.disks.len()));
        }
        let mut ids = BTreeSet::new();
        match self.disks.iter().find(|d| !ids.insert(&d.id)) {
            Some(twice) => Err(VmSpecError::DiskTwice(twice.id.clone())),
            None => Ok(()),
        }
    }

    /// The disk with this id.
    #[must_use]
    pub fn disk(&self, id: &DiskId) -> Option<&DiskSpec> {
        self.disks.iter().find(|d| d.id == *id)
    }
}

impl OwnHardware {
    /// Checks what does not concern the files on this host.
    fn validate(&self) -> Result<(), VmSpecError> {
        word("machine", &self.machine)?;
        word("cpu", &self.cpu)?;
        match &self.firmware {
            Firmware::Uefi { code, .. } if !code.starts_with('/') => word("firmware code", code),
            Firmware::Uefi { .. } | Firmware::Bios => Ok(()),
        }
    }

    /// Checks the files on this host.
    fn validate_files(&self) -> Result<(), VmSpecError> {
        match &self.firmware {
            Firmware::Uefi { vars, .. } => {
                absolute("firmware vars", vars.as_deref().ok_or(VmSpecError::NoVars)?)
            }
            Firmware::Bios => Ok(()),
        }
    }
}

fn range(
    field: &'static str,
    value: u64,
    min: u64,
    max: u64,
    range: &'static str,
) -> Result<(), VmSpecError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(VmSpecError::Range { field, value, range })
    }
}

fn absolute(what: &str, path: &str) -> Result<(), VmSpecError> {
    if path.starts_with('/') {
        Ok(())
    } else {
        Err(VmSpecError::RelativePath {
            what: what.into(),
            path: path.chars().take(200).collect(),
        })
    }
}

fn word(field: &'static str, value: &str) -> Result<(), VmSpecError> {
    let fine = !value.is_empty()
        && value.len() <= 64
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c));
    if fine {
        Ok(())
    } else {
        Err(VmSpecError::Word {
            field,
            value: value.chars().take(80).collect(),
        })
    }
}

fn validate_nic(nic: &NicSpec) -> Result<(), VmSpecError> {
    let bytes: Vec<_> = nic
        .mac
        .split(':')
        .map(|b| {
            // The parser alone would take a sign.
            let digits = b.len() == 2 && b.bytes().all(|c| c.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(b, 16).ok()).flatten()
        })
        .collect();
    match bytes.as_slice() {
        [Some(first), rest @ ..] if rest.len() == 5 && rest.iter().all(Option::is_some) && first & 1 == 0 => {
        }
        _ => return Err(VmSpecError::Mac(nic.mac.chars().take(40).collect())),
    }
    nic.backend.validate()
}

impl NicBackend {
    pub(crate) fn validate(&self) -> Result<(), VmSpecError> {
        match self {
            Self::None | Self::User => Ok(()),
            Self::Tap { ifname } => word("nic ifname", ifname),
            Self::Bridge { name } => word("nic bridge name", name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil = fn(&mut VmSpec);

    fn spec() -> VmSpec {
        serde_json::from_value(serde_json::json!({
            "name": "web", "uuid": "6f3b2f2e-3a63-4a0e-9a53-0d9f5f6f0001", "memory_mib": 256, "cpus": 1,
            "disk": [{"id": "sys", "path": "/d/sys.qcow2", "format": "qcow2"}, {"id": "data", "path": "/d/data.raw", "format": "raw"}],
            "nic": [{"mac": "52:54:00:12:34:56", "backend": {"type": "user"}}]
        }))
        .unwrap()
    }

    fn own(spec: &mut VmSpec) -> &mut OwnHardware {
        let Hardware::Own(own) = &mut spec.hardware;
        own
    }

    #[test]
    fn a_plain_description_is_accepted_with_defaults() {
        let s = spec();
        s.validate().unwrap();
        let Hardware::Own(own) = &s.hardware;
        assert_eq!((own.machine.as_str(), own.cpu.as_str()), ("q35", "max"));
        assert_eq!(own.firmware, Firmware::Bios);
        assert!(s.guest_agent && !own.iothreads);
        assert_eq!(s.disks[1].bus, DiskBus::Virtio);
    }

    #[test]
    fn each_mistake_is_named() {
        let table: [(Spoil, &str); _] = [
            (|s| s.name = "../x".into(), "name"),
            (|s| s.memory_mib = 1, "memory_mib"),
            (|s| s.cpus = 0, "cpus"),
            (|s| own(s).machine = "pc,accel=kvm".into(), "machine"),
            (|s| s.disks.clear(), "disks"),
            (|s| s.disks[1].id = s.disks[0].id.clone(), "twice"),
            (|s| s.disks[1].path = s.disks[0].path.clone(), "another disk"),
            (|s| s.disks[0].path = "sys.qcow2".into(), "absolute"),
            (|s| s.nics[0].mac = "01:00:00:00:00:00".into(), "unicast"),
            (
                |s| s.nics[0].backend = NicBackend::Tap { ifname: "a,b".into() },
                "ifname",
            ),
            (
                |s| s.nics[0].backend = NicBackend::Bridge { name: "br 0".into() },
                "bridge",
            ),
        ];
        for (spoil, word) in table {
            let mut s = spec();
            spoil(&mut s);
            let e = s.validate().unwrap_err().to_string();
            assert!(e.contains(word), "{e} should contain {word}");
        }
    }
}
