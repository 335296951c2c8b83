//! How a virtual machine is written: one table of keys, whatever they describe. Description files, the catalog, peers and REST
//! read and write it so. What the keys mean, the types beside it say.

use serde::{Deserialize, Serialize};

use super::{DiskSpec, Firmware, Hardware, NicSpec, OwnHardware};
use crate::ids::VmId;

/// The keys, in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VmSpec {
    name: String,
    uuid: VmId,
    memory_mib: u32,
    cpus: u16,
    #[serde(default = "default_machine")]
    machine: String,
    #[serde(default = "default_cpu")]
    cpu: String,
    #[serde(default)]
    firmware: Firmware,
    #[serde(rename = "disk", default)]
    disks: Vec<DiskSpec>,
    #[serde(rename = "nic", default)]
    nics: Vec<NicSpec>,
    #[serde(default = "yes")]
    guest_agent: bool,
    #[serde(default)]
    iothreads: bool,
}

fn default_machine() -> String {
    "q35".into()
}
fn default_cpu() -> String {
    "max".into()
}
fn yes() -> bool {
    true
}

impl From<VmSpec> for super::VmSpec {
    fn from(flat: VmSpec) -> Self {
        Self {
            name: flat.name,
            uuid: flat.uuid,
            memory_mib: flat.memory_mib,
            cpus: flat.cpus,
            disks: flat.disks,
            nics: flat.nics,
            guest_agent: flat.guest_agent,
            hardware: Hardware::Own(OwnHardware {
                machine: flat.machine,
                cpu: flat.cpu,
                firmware: flat.firmware,
                iothreads: flat.iothreads,
            }),
        }
    }
}

impl From<super::VmSpec> for VmSpec {
    fn from(spec: super::VmSpec) -> Self {
        let Hardware::Own(own) = spec.hardware;
        Self {
            name: spec.name,
            uuid: spec.uuid,
            memory_mib: spec.memory_mib,
            cpus: spec.cpus,
            machine: own.machine,
            cpu: own.cpu,
            firmware: own.firmware,
            disks: spec.disks,
            nics: spec.nics,
            guest_agent: spec.guest_agent,
            iothreads: own.iothreads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::VmSpec;

    const WRITTEN: &str = r#"{"name":"web","uuid":"6f3b2f2e-3a63-4a0e-9a53-0d9f5f6f0001","memory_mib":256,"cpus":1,"machine":"pc","cpu":"host","firmware":{"type":"uefi","code":"/c.fd","vars":"/v.fd"},"disk":[{"id":"sys","path":"/d/sys.qcow2","format":"qcow2","bus":"virtio"}],"nic":[{"mac":"52:54:00:12:34:56","backend":{"type":"user"}}],"guest_agent":false,"iothreads":true}"#;

    #[test]
    fn a_machine_is_written_as_releases_before_wrote_it() {
        let spec: VmSpec = serde_json::from_str(WRITTEN).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), WRITTEN);
    }

    #[test]
    fn a_key_that_is_not_known_is_named_with_those_that_are() {
        let more = WRITTEN.replace(r#""iothreads""#, r#""iothread""#);
        let error = serde_json::from_str::<VmSpec>(&more).unwrap_err().to_string();
        for part in ["unknown field `iothread`", "`machine`", "`iothreads`"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("hardware"), "{error}");
        let none = serde_json::from_str::<VmSpec>("7").unwrap_err().to_string();
        assert!(none.contains("expected struct VmSpec"), "{none}");
        let few = serde_json::from_str::<VmSpec>("{}").unwrap_err().to_string();
        assert!(few.contains("missing field `name`"), "{few}");
    }
}
