//! The variables of a UEFI machine travel with its disks: what the firmware wrote on A is what it finds on B, and a failover
//! that is reverted leaves no trace in them. There is no operating system: the firmware itself is the guest.

use std::path::Path;
use std::time::Duration;

use crate::support::{Setup, VM, World, run, wait_until};

/// Where Debian's package ovmf has them.
const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

fn digest(path: &Path) -> String {
    let said = run("sha256sum", &[path.to_str().unwrap()]);
    said.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn guest_firmware_variables_travel_with_the_disks() {
    assert!(
        Path::new(CODE).exists(),
        "the UEFI firmware is missing: run scripts/setup.sh"
    );
    let mut world = World::new(&Setup {
        empty_mib: Some(8),
        ..Setup::default()
    });
    let vars = world.a.dir.join("vars.fd");
    run("cp", &[VARS, vars.to_str().unwrap()]);
    let description = world.a.dir.join("vms/story.toml");
    let machine = format!(
        "machine = \"q35\"\nfirmware = {{ type = \"uefi\", code = \"{CODE}\", vars = \"{}\" }}\n",
        vars.display()
    );
    let text = std::fs::read_to_string(&description).unwrap();
    std::fs::write(&description, text.replace("machine = \"pc\"\n", &machine)).unwrap();
    world.start();
    world.replicate(&["--interval", "1s"]);
    let kept = world.replica().join("firmware.fd");
    assert_eq!(digest(&kept), digest(Path::new(VARS)));

    // The firmware runs and keeps what it found out about the machine.
    world.a.ok(&["vm", "start", VM]);
    wait_until("the firmware wrote variables", Duration::from_secs(120), || {
        (digest(&vars) != digest(Path::new(VARS))).then_some(())
    });
    world.a.ok(&["vm", "stop", VM, "--force"]);
    let written = digest(&vars);
    wait_until(
        &format!("B has the variables; log of A:\n{}", world.a.log()),
        Duration::from_secs(60),
        || (digest(&kept) == written).then_some(()),
    );

    world.b.ok(&["failover", "start", VM, "--no-start"]);
    let branch = world.replica().join("branches").join(world.b.branch_of(VM));
    let own = branch.join("firmware.fd");
    assert_eq!(digest(&own), written, "the branch begins with what A had");
    // The machine on B writes to its own copy only: here a mark at the end, where the firmware keeps nothing.
    world.b.ok(&["vm", "start", VM]);
    let pid = world.qemu_pid(&world.b).unwrap();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(
        String::from_utf8_lossy(&line).contains(own.to_str().unwrap()),
        "QEMU on B uses the branch's variables"
    );
    world.b.ok(&["vm", "stop", VM, "--force"]);
    let at = std::fs::metadata(&own).unwrap().len() - 6;
    let of = format!("of={}", own.display());
    let script = "printf MARKED | dd \"$0\" bs=1 seek=$1 conv=notrunc status=none";
    run("sh", &["-c", script, &of, &at.to_string()]);
    world.b.ok(&["failover", "revert", VM]);
    assert!(!branch.exists(), "the failover's copy is gone");
    assert_eq!(digest(&kept), written, "the replica's variables are A's");
    assert_eq!(digest(&vars), written);
    world.b.ok(&["failover", "start", VM, "--no-start"]);
    let branch = world.replica().join("branches").join(world.b.branch_of(VM));
    assert_eq!(digest(&branch.join("firmware.fd")), written, "the mark is gone");
    world.b.ok(&["failover", "revert", VM]);
}
