//! A virtual machine as another host may know it: what the guest sees, and nothing of the host it is on. It is what travels
//! between hosts. What belongs to a host is left out when it is made and again when it is read: whatever a peer says, no path
//! of the peer's host is ever in it.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::vm::{DiskAllow, Firmware, Hardware, OwnHardware, VmSpec, VmSpecError};

/// A description without paths: firmware by the name of its code image alone, disks without their images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "VmSpec", into = "VmSpec")]
pub struct Machine(VmSpec);

impl From<VmSpec> for Machine {
    fn from(mut spec: VmSpec) -> Self {
        match &mut spec.hardware {
            Hardware::Own(own) => forget_paths(own),
        }
        for disk in &mut spec.disks {
            disk.path.clear();
            disk.allow = DiskAllow::default();
        }
        Self(spec)
    }
}

/// Leaves of the firmware the name of its code image.
fn forget_paths(own: &mut OwnHardware) {
    if let Firmware::Uefi { code, vars } = &mut own.firmware {
        if let Some((_, name)) = code.rsplit_once('/') {
            *code = name.to_owned();
        }
        *vars = None;
    }
}

impl From<Machine> for VmSpec {
    fn from(machine: Machine) -> Self {
        machine.0
    }
}

impl Deref for Machine {
    type Target = VmSpec;

    fn deref(&self) -> &VmSpec {
        &self.0
    }
}

impl Machine {
    /// Checks what the type alone cannot. There are no paths to check.
    pub fn validate(&self) -> Result<(), VmSpecError> {
        self.0.validate_machine()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn described(firmware: Value, path: &str) -> Value {
        json!({
            "name": "a", "uuid": "11111111-1111-4111-8111-111111111111", "memory_mib": 64, "cpus": 1,
            "firmware": firmware,
            "disk": [{"id": "sys", "path": path, "format": "raw", "allow": {"backing_in": ["/etc"], "raw_header": true}}],
        })
    }

    #[test]
    fn nothing_of_a_host_is_read_from_a_peer() {
        let codes = [
            ("/usr/share/OVMF/CODE.fd", "CODE.fd"),
            ("CODE.fd", "CODE.fd"),
            ("../../etc/CODE.fd", "CODE.fd"),
            ("/etc/shadow/", ""),
            ("/", ""),
        ];
        for (code, name) in codes {
            for vars in [json!("/etc/shadow"), json!("../x"), Value::Null] {
                let firmware = json!({"type": "uefi", "code": code, "vars": vars});
                let machine: Machine = serde_json::from_value(described(firmware, "/etc/shadow")).unwrap();
                let expected = Firmware::Uefi {
                    code: name.into(),
                    vars: None,
                };
                let Hardware::Own(own) = &machine.hardware;
                assert_eq!(own.firmware, expected);
                assert_eq!(machine.disks[0].path, "");
                assert!(machine.disks[0].allow.is_nothing());
                assert_eq!(machine.validate().is_ok(), !name.is_empty(), "{code}");
                VmSpec::from(machine.clone()).validate().unwrap_err();
                let sent = serde_json::to_string(&machine).unwrap();
                assert!(!sent.contains('/'), "{sent}");
                assert_eq!(serde_json::from_str::<Machine>(&sent).unwrap(), machine);
            }
        }
    }
}
