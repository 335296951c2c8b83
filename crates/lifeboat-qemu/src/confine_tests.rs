//! A guest's process beside the rest of the host: who it is, what stays behind of it, and hosts where it cannot be apart.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::hypervisor::{Hypervisor, Power};
use lifeboat_model::{DiskFormat, NicBackend, NicSpec};

use crate::testing::{AtOnce, Host, at};

fn user_of(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn guests_run_as_the_daemon_s_user_where_they_are_told_to() {
    let mut host = Host::with(|c| c.guest_users = None);
    std::fs::set_permissions(host.dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let launch = host.vm(&[DiskFormat::Qcow2, DiskFormat::Raw]);
    let vm = launch.spec.uuid;
    host.qemu.start(&launch).await.unwrap();
    let process = host.qemu.process(vm).await.unwrap().unwrap();
    assert_eq!(
        user_of(process.pid()),
        rustix::process::geteuid().as_raw().to_string()
    );
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    let instant = source.instant(at(1), at(2), Consistency::Crash).await.unwrap();
    instant.view.close().await.unwrap();
    source.close().await.unwrap();
    host.qemu.turn_off(vm).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_guests_cannot_pass_is_named_before_anything_is_started() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2]);
    let above = host.dir.path().to_owned();
    std::fs::set_permissions(&above, std::fs::Permissions::from_mode(0o700)).unwrap();
    let refused = host.qemu.start(&launch).await.unwrap_err().to_string();
    let way_out = format!("chmod o+x {}", above.display());
    assert!(
        refused.contains(&way_out) && refused.contains("guest_users"),
        "{refused}"
    );
    assert_eq!(
        host.qemu.missing(&launch.spec).await.len(),
        1,
        "a replica's host says so beforehand"
    );
    assert_eq!(host.qemu.power(launch.spec.uuid).await, Power::Off);
    std::fs::set_permissions(&above, std::fs::Permissions::from_mode(0o711)).unwrap();
    host.qemu.start(&launch).await.unwrap();
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
}

#[tokio::test]
async fn what_lies_in_the_state_directory_is_closed_to_guests() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2]);
    let state = host.path("state");
    std::fs::create_dir(&state).unwrap();
    let (file, dir) = (state.join("catalog.sqlite"), state.join("old"));
    std::fs::write(&file, "secret").unwrap();
    std::fs::create_dir(&dir).unwrap();
    for (path, mode) in [(&file, 0o664), (&dir, 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    host.qemu.start(&launch).await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    // A group that an administrator lets in stays in.
    assert_eq!((mode(&file), mode(&dir)), (0o660, 0o750));
    assert_eq!((mode(&state), mode(&state.join("running"))), (0o710, 0o710));
    assert_eq!(std::fs::metadata(&state).unwrap().gid(), 1_900_000_000);
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
}

/// Its directory is all that a guest's user has. What it leaves there harms nobody, its VM's next start included.
#[tokio::test]
async fn what_a_guest_s_user_left_behind_is_cleared_and_not_followed() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    let own = host.path("state").join("running").join(vm.to_string());
    let (other, pid) = (host.path("other"), own.join("pid"));
    std::fs::write(&other, "another's").unwrap();
    for left in ["directory", "link"] {
        host.qemu.start(&launch).await.unwrap();
        host.qemu.turn_off(vm).await.unwrap();
        match left {
            "directory" => std::fs::create_dir_all(pid.join("full")).unwrap(),
            _ => std::os::unix::fs::symlink(&other, &pid).unwrap(),
        }
    }
    host.qemu.start(&launch).await.unwrap();
    assert!(std::fs::symlink_metadata(&pid).unwrap().is_file());
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "another's");
    assert_eq!(
        std::fs::metadata(&other).unwrap().uid(),
        0,
        "it did not become the guest's"
    );
    host.qemu.turn_off(vm).await.unwrap();
}

/// A log line of QEMU's for each of a cycle's commands would fill the disk within days.
#[tokio::test]
async fn captures_leave_no_file_open_and_say_nothing() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2, DiskFormat::Raw]);
    let vm = launch.spec.uuid;
    host.qemu.start(&launch).await.unwrap();
    let process = host.qemu.process(vm).await.unwrap().unwrap();
    let open = || {
        let mut all: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", process.pid()))
            .unwrap()
            .flatten()
            .filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.display().to_string()))
            // Threads come and go with these.
            .filter(|what| !what.starts_with("anon_inode"))
            .collect();
        all.sort();
        all
    };
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    let mut counts: Vec<Vec<String>> = Vec::new();
    for n in 1..8 {
        let instant = source
            .instant(at(n), at(n + 1), Consistency::Crash)
            .await
            .unwrap();
        instant.view.close().await.unwrap();
        source.recover().await.unwrap();
        source.acknowledge(at(n)).await.unwrap();
        counts.push(open());
    }
    source.close().await.unwrap();
    assert_eq!(counts.first(), counts.last());
    let said = std::fs::read_to_string(host.qemu.paths(vm).log()).unwrap();
    assert_eq!(said, "");
    host.qemu.turn_off(vm).await.unwrap();
    assert!(process.gone(Duration::from_secs(5)).await);
}

const INSIDE: &str = "LIFEBOAT_TEST_NETWORK";

/// Whether this is the test's own network, which `script` has prepared. If not, the test has run itself again there.
fn inside(test: &str, script: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = format!("mount -t sysfs sysfs /sys && {script} && exec \"$@\"");
    let status = std::process::Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("confine_tests::{test}"), "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "what it said is above");
    false
}

/// A card on a bridge: the port is made for each start, has an address that does not change the bridge's, and goes with the
/// guest, also when it is killed.
#[tokio::test]
async fn a_guest_is_connected_to_a_bridge() {
    let script = "ip link add lbbr0 type bridge && ip link set lbbr0 up";
    if !inside("a_guest_is_connected_to_a_bridge", script) {
        return;
    }
    let mut host = Host::new();
    let mut launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    let card = |name: &str, mac: &str| NicSpec {
        mac: mac.into(),
        backend: NicBackend::Bridge { name: name.into() },
    };
    let ports = || {
        let ports = std::fs::read_dir("/sys/class/net/lbbr0/brif").unwrap();
        let mut ports: Vec<_> = ports
            .map(|p| p.unwrap().file_name().into_string().unwrap())
            .collect();
        ports.sort();
        ports
    };
    launch.spec.nics = vec![card("lo", "52:54:00:00:00:01")];
    let refused = host.qemu.start(&launch).await.unwrap_err().to_string();
    assert!(refused.contains("no bridge lo"), "{refused}");
    launch.spec.nics = vec![
        card("lbbr0", "52:54:00:00:00:01"),
        card("lbbr0", "52:54:00:00:00:02"),
    ];
    for _ in 0..2 {
        host.qemu.start(&launch).await.unwrap();
        let process = host.qemu.process(vm).await.unwrap().unwrap();
        assert_ne!(user_of(process.pid()), "0");
        assert_eq!(ports(), ["lbtap0", "lbtap1"]);
        let address = std::fs::read_to_string("/sys/class/net/lbtap1/address").unwrap();
        assert_eq!(address.trim(), "fe:54:00:00:00:02");
        process.kill();
        assert!(process.gone(Duration::from_secs(5)).await);
        assert_eq!(ports(), [""; 0], "a port outlives its guest");
    }
}

/// A tap device that belongs to another user: root may attach to it, and the guest's user may not. In a network of this test's
/// own, in which it runs itself again.
#[tokio::test]
async fn a_guest_without_rights_has_its_tap_device() {
    let script = "ip tuntap add lbtest0 mode tap user 4711";
    if !inside("a_guest_without_rights_has_its_tap_device", script) {
        return;
    }
    let mut host = Host::new();
    let mut launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    let backend = NicBackend::Tap {
        ifname: "lbtest0".into(),
    };
    launch.spec.nics = vec![NicSpec {
        mac: "52:54:00:00:00:01".into(),
        backend,
    }];
    for _ in 0..2 {
        host.qemu.start(&launch).await.unwrap();
        let process = host.qemu.process(vm).await.unwrap().unwrap();
        assert_ne!(user_of(process.pid()), "0");
        let taken = lifeboat_kernel::tap::attach("lbtest0").unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::ResourceBusy, "the guest has it");
        host.qemu.turn_off(vm).await.unwrap();
    }
}
