//! Which images are captured, and as what: the same word at every entrance, chains as one disk, devices as raw disks.

use camino::Utf8PathBuf;
use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::{CaptureError, Tracking};
use lifeboat_engine::ports::hypervisor::{
    DiskImage, Hypervisor, HypervisorError, ImagesSeen, Launch, LaunchDisk,
};
use lifeboat_model::DiskFormat::{Qcow2, Raw};
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{DiskFormat, DiskId};

use crate::testing::{AtOnce, DISK, Host, MIB, Model, Replica, at, tool};

const CRASH: Consistency = Consistency::Crash;

fn utf8(host: &Host, name: &str) -> Utf8PathBuf {
    Utf8PathBuf::from_path_buf(host.path(name)).unwrap()
}

/// Makes an image with these further arguments of `qemu-img create`.
fn create(host: &Host, name: &str, arguments: &[&str]) -> Utf8PathBuf {
    let path = utf8(host, name);
    let mut all = vec!["create", "-q", "-f", "qcow2"];
    all.extend_from_slice(arguments);
    let size = DISK.to_string();
    all.extend([path.as_str(), size.as_str()]);
    tool("qemu-img", &all);
    path
}

fn disk(id: &str, path: Utf8PathBuf, format: DiskFormat) -> LaunchDisk {
    LaunchDisk {
        id: DiskId::new(id).unwrap(),
        bus: DiskBus::Virtio,
        image: DiskImage::Plain { path, format },
    }
}

fn of_one(host: &mut Host, path: Utf8PathBuf, format: DiskFormat) -> Launch {
    host.launch(vec![disk("a", path, format)])
}

/// Overwrites bytes of a file.
fn patch(path: &Utf8PathBuf, at: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
}

/// Images that cannot be replicated rightly, and the way out that is named.
fn refused(host: &Host) -> Vec<(Utf8PathBuf, DiskFormat, &'static str)> {
    std::fs::create_dir(host.path("images")).unwrap();
    let far = create(host, "far", &[]);
    let corrupt = create(host, "corrupt", &[]);
    patch(&corrupt, 72, &[0, 0, 0, 0, 0, 0, 0, 2]);
    let future = create(host, "future", &[]);
    patch(&future, 72, &[0, 0, 0, 0, 0, 0, 1, 0]);
    let data = format!("data_file={},data_file_raw=on", utf8(host, "data"));
    let secret = [
        "--object",
        "secret,id=s,data=x",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s",
    ];
    let guess = create(host, "guess", &["-F", "qcow2", "-b", far.as_str()]);
    forget_format(&guess);
    let circle = create(host, "circle", &["-u", "-F", "qcow2", "-b", "circle"]);
    let network = create(host, "net", &["-u", "-F", "raw", "-b", "nbd://127.0.0.1/x"]);
    let vmdk = utf8(host, "vmdk");
    std::fs::write(&vmdk, [&b"KDMV"[..], &[0; 508]].concat()).unwrap();
    vec![
        (
            create(host, "old", &["-o", "compat=0.10"]),
            Qcow2,
            "qemu-img amend -f qcow2 -o compat=1.1",
        ),
        (
            create(host, "split", &["-o", &data]),
            Qcow2,
            "name that file as a raw disk",
        ),
        (create(host, "wrong", &[]), Raw, "write format = \"qcow2\""),
        (vmdk, Raw, "qemu-img convert -f vmdk"),
        (create(host, "secret", &secret), Qcow2, "encrypted by QEMU"),
        (corrupt, Qcow2, "qemu-img check -r all"),
        (future, Qcow2, "bits 0x100"),
        (
            create(host, "images/above", &["-F", "qcow2", "-b", far.as_str()]),
            Qcow2,
            "backing_in = [\"",
        ),
        (guess, Qcow2, "qemu-img rebase -u -F FORMAT"),
        (circle, Qcow2, "lead in a circle"),
        (network, Qcow2, "no file of this host"),
    ]
}

/// Takes the name of the backing file's format out of a header, as old programs never wrote one.
fn forget_format(path: &Utf8PathBuf) {
    let bytes = std::fs::read(path).unwrap();
    let at = bytes
        .windows(4)
        .position(|w| w == [0xe2, 0x79, 0x2a, 0xca])
        .unwrap();
    patch(path, at as u64, &[0x01, 0x02, 0x03, 0x04]);
}

#[tokio::test]
async fn every_entrance_refuses_the_same_images() {
    let mut host = Host::new();
    let ids = [DiskId::new("a").unwrap()];
    let mut running = host.vm(&[Qcow2]);
    host.qemu.start(&running).await.unwrap();
    for (path, format, way_out) in refused(&host) {
        let bad = of_one(&mut host, path.clone(), format);
        let checked = match host.qemu.preflight(&bad).await {
            Err(HypervisorError::Preflight(why)) => why,
            other => panic!("{path}: {other:?}"),
        };
        assert!(
            checked.contains(way_out) && checked.contains(path.as_str()),
            "{checked}"
        );
        assert_eq!(host.qemu.start(&bad).await.unwrap_err().to_string(), checked);
        let Err(off) = host.qemu.source(&bad, &ids).await else {
            panic!("{path} was opened")
        };
        assert!(matches!(off, CaptureError::Preflight(_)), "{off:?}");
        assert_eq!(off.to_string(), checked);
        // A VM that runs already, whose image has become such a one.
        running.disks[0].image = DiskImage::Plain { path, format };
        let Err(on) = host.qemu.source(&running, &ids).await else {
            panic!("opened while running")
        };
        assert_eq!(on.to_string(), checked);
    }
    host.qemu.turn_off(running.spec.uuid).await.unwrap();
}

#[tokio::test]
async fn what_a_guest_writes_to_its_raw_disk_is_no_image() {
    let mut host = Host::new();
    let launch = host.vm(&[Raw]);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    source.close().await.unwrap();
    // The first four bytes of a qcow2 image, written by the guest itself.
    let magic = utf8(&host, "magic");
    std::fs::write(&magic, [&b"QFI\xfb"[..], &[0; 508]].concat()).unwrap();
    let guest = host.guest(&launch).await;
    guest.io("a", &format!("write -s {magic} 0 512")).await;
    drop(guest);
    let source = host.source(&launch).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
    source.close().await.unwrap();
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    let source = host.source(&launch).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
    source.close().await.unwrap();
    // The same file for a VM that never had it is suspicious, until it is said to be intended.
    let mut other = host.launch(launch.disks.clone());
    assert!(host.qemu.preflight(&other).await.is_err());
    other.spec.disks[0].allow.raw_header = true;
    host.qemu.preflight(&other).await.unwrap();
}

/// A qcow2 image over another one over a raw one, with something of each to be seen.
fn chain(host: &Host, model: &mut Model) -> (Launch, [Utf8PathBuf; 2]) {
    let base = utf8(host, "base.raw");
    tool(
        "qemu-img",
        &["create", "-q", "-f", "raw", base.as_str(), &DISK.to_string()],
    );
    let write = |path: &Utf8PathBuf, format: &str, command: &str| {
        tool("qemu-io", &["-f", format, "-c", command, path.as_str()]);
    };
    write(&base, "raw", "write -P 1 0 4M");
    model.fill("a", 0, 4 * MIB, 1);
    let middle = create(host, "middle", &["-F", "raw", "-b", "base.raw"]);
    write(&middle, "qcow2", "write -P 2 1M 1M");
    write(&middle, "qcow2", "write -z 3M 64k");
    model.fill("a", MIB, MIB, 2);
    model.fill("a", 3 * MIB, 65536, 0);
    let top = create(
        host,
        "top",
        &["-o", "lazy_refcounts=on", "-F", "qcow2", "-b", "middle"],
    );
    write(&top, "qcow2", "write -P 3 1536k 64k");
    model.fill("a", 1536 << 10, 65536, 3);
    let launch = Launch {
        disks: vec![disk("a", top, Qcow2)],
        firmware_vars: None,
        seed: Vec::new(),
        spec: host.spec_of(&["a"]),
    };
    (launch, [base, middle])
}

/// A process that is given its files open has each of them under a name of its own.
#[tokio::test]
async fn disks_that_stand_on_one_image_show_their_own() {
    let mut host = Host::new();
    let mut model = Model::new(&["a", "b", "c"]);
    let base = Utf8PathBuf::from_path_buf(host.path("base.raw")).unwrap();
    tool(
        "qemu-img",
        &["create", "-q", "-f", "raw", base.as_str(), &DISK.to_string()],
    );
    tool("qemu-io", &["-f", "raw", "-c", "write -P 1 0 4M", base.as_str()]);
    let mut disks = Vec::new();
    for (name, byte) in [("a", 2), ("b", 3)] {
        let image = create(&host, name, &["-F", "raw", "-b", "base.raw"]);
        let write = format!("write -P {byte} 1M 1M");
        tool("qemu-io", &["-f", "qcow2", "-c", &write, image.as_str()]);
        model.fill(name, 0, 4 * MIB, 1);
        model.fill(name, MIB, MIB, byte);
        disks.push(disk(name, image, Qcow2));
    }
    let alone = create(&host, "c", &[]);
    tool(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 4 0 1M", alone.as_str()],
    );
    model.fill("c", 0, MIB, 4);
    disks.push(disk("c", alone, Qcow2));
    let launch = Launch {
        disks,
        firmware_vars: None,
        seed: Vec::new(),
        spec: host.spec_of(&["a", "b", "c"]),
    };
    host.adopt(launch.spec.uuid);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    let whole = source.current().await.unwrap();
    assert_eq!(model.differing(&*whole).await, Vec::<String>::new());
    whole.close().await.unwrap();
    source.close().await.unwrap();
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
}

#[tokio::test]
async fn a_backing_chain_is_captured_as_one_disk() {
    let mut host = Host::new();
    let mut model = Model::new(&["a"]);
    let (launch, below) = chain(&host, &mut model);
    host.adopt(launch.spec.uuid);
    let before = below.clone().map(|p| std::fs::read(p).unwrap());
    for runs in [false, true, false] {
        if runs {
            host.qemu.start(&launch).await.unwrap();
        }
        let source = host.source(&launch).await;
        source.recover().await.unwrap();
        source.stop_tracking().await.unwrap();
        source.start_tracking(at(1)).await.unwrap();
        // What the first copy and a comparison read.
        let whole = source.current().await.unwrap();
        assert_eq!(
            model.differing(&*whole).await,
            Vec::<String>::new(),
            "runs: {runs}"
        );
        let map = whole.allocation(0, 0, DISK).await.unwrap();
        let data: u64 = map.iter().filter(|e| !e.zero).map(|e| e.len).sum();
        assert_eq!(data, 4 * MIB - 65536, "{map:?}");
        whole.close().await.unwrap();
        let mut replica = Replica(model.clone());
        if runs {
            let guest = host.guest(&launch).await;
            guest.write("a", &mut model, 2 * MIB, 8192, 9).await;
        }
        let instant = source.instant(at(1), at(2), CRASH).await.unwrap();
        let changed: u64 = instant.view.changed(0).await.unwrap().iter().map(|e| e.len).sum();
        assert_eq!(
            changed,
            if runs { 8192 } else { 0 },
            "only what was written in the first image"
        );
        replica.apply(&*instant.view).await;
        assert!(replica.0 == model);
        instant.view.close().await.unwrap();
        source.acknowledge(at(1)).await.unwrap();
        source.close().await.unwrap();
        if runs {
            host.qemu.turn_off(launch.spec.uuid).await.unwrap();
        }
    }
    for (path, before) in below.iter().zip(&before) {
        assert!(std::fs::read(path).unwrap() == *before, "{path} was written to");
    }
}

#[tokio::test]
async fn an_image_with_internal_snapshots_is_captured_as_it_is_now() {
    let mut host = Host::new();
    let path = create(&host, "snapped", &[]);
    tool(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 5 0 1M", path.as_str()],
    );
    tool("qemu-img", &["snapshot", "-c", "then", path.as_str()]);
    tool(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 6 512k 1M", path.as_str()],
    );
    let mut model = Model::new(&["a"]);
    model.fill("a", 0, 512 << 10, 5);
    model.fill("a", 512 << 10, MIB, 6);
    let launch = of_one(&mut host, path, Qcow2);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    let whole = source.current().await.unwrap();
    assert_eq!(model.differing(&*whole).await, Vec::<String>::new());
    whole.close().await.unwrap();
    let guest = host.guest(&launch).await;
    guest.write("a", &mut model, 4 * MIB, 4096, 7).await;
    drop(guest);
    let instant = source.instant(at(1), at(2), CRASH).await.unwrap();
    let changed = instant.view.changed(0).await.unwrap();
    assert_eq!(changed.iter().map(|e| e.len).sum::<u64>(), 4096);
    instant.view.close().await.unwrap();
    source.close().await.unwrap();
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
}

#[tokio::test]
async fn holes_of_raw_disks_are_known_and_data_is_not_taken_for_one() {
    let mut host = Host::new();
    let path = utf8(&host, "thin.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(16 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 9 << 30).unwrap();
    file.sync_all().unwrap();
    let launch = of_one(&mut host, path, Raw);
    for runs in [false, true] {
        if runs {
            host.qemu.start(&launch).await.unwrap();
            let guest = host.guest(&launch).await;
            guest.io("a", "write -P 8 5G 64k").await;
            guest.io("a", "write -z 6G 64k").await;
        }
        let source = host.source(&launch).await;
        source.recover().await.unwrap();
        let view = source.current().await.unwrap();
        let mut data = Vec::new();
        for at in (0..16_u64 << 30).step_by(64 << 20) {
            let map = view.allocation(0, at, 64 << 20).await.unwrap();
            assert_eq!(map.iter().map(|e| e.len).sum::<u64>(), 64 << 20);
            data.extend(map.into_iter().filter(|e| !e.zero).map(|e| (e.offset, e.len)));
        }
        let expected: &[(u64, u64)] = if runs {
            &[(5 << 30, 65536), (9 << 30, 4096)]
        } else {
            &[(9 << 30, 4096)]
        };
        assert_eq!(data, expected, "runs: {runs}");
        assert_eq!(view.read(0, 9 << 30, 4096).await.unwrap(), vec![7; 4096]);
        view.close().await.unwrap();
        source.close().await.unwrap();
    }
}

/// A loop device over a file of this host.
struct Loop(String);

impl Loop {
    /// Nothing when this system makes none, with the reason.
    fn over(file: &Utf8PathBuf) -> Option<Self> {
        let made = std::process::Command::new("losetup")
            .args(["--find", "--show", file.as_str()])
            .output();
        match made {
            Ok(out) if out.status.success() => {
                Some(Self(String::from_utf8(out.stdout).unwrap().trim().to_owned()))
            }
            other => {
                eprintln!(
                    "skipped: losetup makes no device here, which takes root and loop devices: {other:?}"
                );
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .args(["--detach", &self.0])
            .status();
    }
}

#[tokio::test]
async fn a_block_device_is_captured_like_a_raw_disk() {
    let mut host = Host::new();
    let file = utf8(&host, "volume");
    std::fs::write(&file, vec![3; usize::try_from(DISK).unwrap()]).unwrap();
    let Some(device) = Loop::over(&file) else { return };
    let mut model = Model::new(&["a"]);
    model.fill("a", 0, DISK, 3);
    let launch = of_one(&mut host, device.0.clone().into(), Raw);
    let ids = [DiskId::new("a").unwrap()];
    let source = host.source(&launch).await;
    assert_eq!(source.disks()[0].size, DISK);
    source.recover().await.unwrap();
    source.start_tracking(at(1)).await.unwrap();
    let whole = source.current().await.unwrap();
    assert_eq!(model.differing(&*whole).await, Vec::<String>::new());
    whole.close().await.unwrap();
    source.close().await.unwrap();
    // Records survive a start and a stop of the VM.
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    guest.write("a", &mut model, MIB, 8192, 9).await;
    drop(guest);
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    assert_eq!(
        host.qemu.untouched(&launch, &ids).await.unwrap(),
        ImagesSeen::AsClosed
    );
    let source = host.source(&launch).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
    let instant = source.instant(at(1), at(2), CRASH).await.unwrap();
    let changed = instant.view.changed(0).await.unwrap();
    assert_eq!(
        changed.iter().map(|e| (e.offset, e.len)).collect::<Vec<_>>(),
        [(MIB, 8192)]
    );
    assert_eq!(model.differing(&*instant.view).await, Vec::<String>::new());
    instant.view.close().await.unwrap();
    source.acknowledge(at(1)).await.unwrap();
    source.close().await.unwrap();
    assert_eq!(
        host.qemu.untouched(&launch, &ids).await.unwrap(),
        ImagesSeen::AsClosed
    );
    // Somebody else writes to the device.
    let of = format!("of={}", device.0);
    tool(
        "dd",
        &[
            "if=/dev/zero",
            &of,
            "bs=4096",
            "count=1",
            "conv=notrunc,fsync",
            "status=none",
        ],
    );
    let seen = host.qemu.untouched(&launch, &ids).await.unwrap();
    assert!(matches!(seen, ImagesSeen::Changed { .. }), "{seen:?}");
    let source = host.source(&launch).await;
    assert!(matches!(source.recover().await.unwrap(), Tracking::Lost { .. }));
    source.close().await.unwrap();
}
