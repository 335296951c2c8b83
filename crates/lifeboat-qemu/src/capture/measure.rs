//! Measurements, run by hand: `cargo nextest run -p lifeboat-qemu --run-ignored only --no-capture measure`.
//! They print; they judge nothing.

use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use futures_util::StreamExt;
use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::hypervisor::{DiskImage, Hypervisor, LaunchDisk};
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{DiskFormat, DiskId};
use serde_json::json;

use crate::testing::{AtOnce, Host, MIB, Random, at, tool};

fn disk(host: &Host, id: &str, bytes: u64) -> LaunchDisk {
    let path = host.path(&format!("{id}.qcow2"));
    let path = Utf8PathBuf::from_path_buf(path).unwrap();
    tool(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", path.as_str(), &bytes.to_string()],
    );
    LaunchDisk {
        id: DiskId::new(id).unwrap(),
        bus: DiskBus::Virtio,
        image: DiskImage::Plain {
            path,
            format: DiskFormat::Qcow2,
        },
    }
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |i: usize| times[i.min(times.len() - 1)].as_secs_f64() * 1e3;
    format!(
        "p50 {:.2} ms, p90 {:.2} ms, max {:.2} ms",
        ms(times.len() / 2),
        ms(times.len() * 9 / 10),
        ms(times.len() - 1)
    )
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_cycles() {
    for size in [256 * MIB, 64 << 30] {
        let mut host = Host::new();
        let disks = vec![disk(&host, "a", size), disk(&host, "b", size)];
        let launch = host.launch(disks);
        host.qemu.start(&launch).await.unwrap();
        let guest = host.guest(&launch).await;
        let source = host.source(&launch).await;
        source.recover().await.unwrap();
        source.start_tracking(at(0)).await.unwrap();
        let (mut cycles, mut instants, mut maps) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..50_u64 {
            for write in 0..16 {
                let offset = (round * 16 + write) * 65536;
                guest.io("a", &format!("write {offset} 4096")).await;
            }
            let begun = Instant::now();
            let instant = source
                .instant(at(round), at(round + 1), Consistency::Crash)
                .await
                .unwrap();
            instants.push(begun.elapsed());
            let mapping = Instant::now();
            for number in 0..2 {
                for e in instant.view.changed(number).await.unwrap() {
                    instant
                        .view
                        .read(number, e.offset, u32::try_from(e.len).unwrap())
                        .await
                        .unwrap();
                }
            }
            maps.push(mapping.elapsed());
            instant.view.close().await.unwrap();
            source.acknowledge(at(round)).await.unwrap();
            cycles.push(begun.elapsed());
        }
        println!("two disks of {} MiB, 16 changed blocks of 4 KiB", size / MIB);
        println!("  instant() until the view is open: {}", percentiles(instants));
        println!("  map and read: {}", percentiles(maps));
        println!("  whole cycle: {}", percentiles(cycles));
        source.close().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_granularity() {
    let size = 256_u64 << 30;
    for granularity in [0, 4096, 16384, 65536] {
        let mut host = Host::new();
        let disks = vec![disk(&host, "a", size)];
        let launch = host.launch(disks);
        host.qemu.start(&launch).await.unwrap();
        let vm = launch.spec.uuid;
        let record = crate::process::PidRecord::load(host.qemu.paths(vm).pid().as_std_path()).unwrap();
        let resident = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", record.pid)).unwrap();
            let line = status
                .lines()
                .find(|l| l.starts_with("VmRSS"))
                .unwrap()
                .to_owned();
            line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap()
        };
        let guest = host.guest(&launch).await;
        guest.io("a", "write 0 64M").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = resident();
        let mut added = Duration::ZERO;
        if granularity > 0 {
            let begun = Instant::now();
            let monitor =
                lifeboat_block::qmp::Qmp::connect(host.qemu.paths(vm).capture(), Duration::from_secs(5))
                    .await
                    .unwrap();
            let add = json!({"node": "disk-a", "name": "x", "persistent": true, "granularity": granularity});
            monitor.execute("block-dirty-bitmap-add", add).await.unwrap();
            added = begun.elapsed();
        }
        let mut random = Random(7);
        let begun = Instant::now();
        for _ in 0..2000 {
            let offset = random.below(16384) * 4096;
            guest.io("a", &format!("write {offset} 4096")).await;
        }
        let per_write = begun.elapsed() / 2000;
        let after = resident();
        drop(guest);
        let begun = Instant::now();
        host.qemu.turn_off(vm).await.unwrap();
        println!(
            "256 GiB, granularity {granularity}: {} KiB more memory, added in {added:?}, {per_write:?} per write through \
             the monitor, clean stop {:?}",
            after - before,
            begun.elapsed()
        );
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_bulk_read() {
    let bytes = 1024 * MIB;
    let mut host = Host::new();
    let disks = vec![disk(&host, "a", bytes)];
    let launch = host.launch(disks);
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    for piece in 0..16 {
        guest
            .io("a", &format!("write -P {} {}M 64M", piece + 1, piece * 64))
            .await;
    }
    let source = host.source(&launch).await;
    source.recover().await.unwrap();
    let view = source.current().await.unwrap();
    let socket = host.qemu.paths(launch.spec.uuid).nbd();
    let uri = format!("nbd+unix:///a?socket={socket}");
    let rate = |begun: Instant| bytes as f64 / MIB as f64 / begun.elapsed().as_secs_f64();
    let file = host.path("copy.raw");
    for round in 0..3 {
        for flight in [1, 8, 16] {
            let begun = Instant::now();
            let reads = (0..bytes / MIB).map(|i| view.read(0, i * MIB, 1 << 20));
            let mut all = futures_util::stream::iter(reads).buffer_unordered(flight);
            let mut read = 0;
            while let Some(data) = all.next().await {
                read += data.unwrap().len() as u64;
            }
            assert_eq!(read, bytes);
            println!(
                "round {round}: {flight} reads in flight: {:.0} MiB/s",
                rate(begun)
            );
        }
        for target in ["null:", file.to_str().unwrap()] {
            let begun = Instant::now();
            tool("nbdcopy", &[&uri, target]);
            let what = if target == "null:" { target } else { "a file" };
            println!("round {round}: nbdcopy to {what}: {:.0} MiB/s", rate(begun));
        }
    }
    view.close().await.unwrap();
    source.close().await.unwrap();
}

/// A thin raw disk of 16 GiB with 4 MiB of data, read as a first copy reads it: by what the tracking overlay says is
/// allocated, and by what the raw file itself says.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_a_thin_raw_disk() {
    const SIZE: u64 = 16 << 30;
    let mut host = Host::new();
    let path = host.path("thin.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 4 << 20], 9 << 30).unwrap();
    let launch = host.launch(vec![LaunchDisk {
        id: DiskId::new("a").unwrap(),
        bus: DiskBus::Virtio,
        image: DiskImage::Plain {
            path: Utf8PathBuf::from_path_buf(path).unwrap(),
            format: DiskFormat::Raw,
        },
    }]);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.recover().await.unwrap();
    let view = source.current().await.unwrap();
    let socket = host.qemu.paths(launch.spec.uuid).nbd();
    let overlay = lifeboat_block::nbd::NbdClient::connect_unix(
        socket.as_std_path(),
        "a",
        &[lifeboat_block::capture::ALLOCATION],
        Duration::from_secs(5),
    )
    .await
    .unwrap();
    for by_file in [true, false] {
        let begun = Instant::now();
        let mut read = 0;
        for at in (0..SIZE).step_by(64 << 20) {
            let data: Vec<(u64, u64)> = if by_file {
                let map = view.allocation(0, at, 64 << 20).await.unwrap();
                map.into_iter()
                    .filter(|e| !e.zero)
                    .map(|e| (e.offset, e.len))
                    .collect()
            } else {
                let map = overlay
                    .block_status(lifeboat_block::capture::ALLOCATION, at, 64 << 20)
                    .await
                    .unwrap();
                let data = map
                    .into_iter()
                    .filter(|e| e.flags & lifeboat_block::nbd::STATE_ZERO == 0);
                data.map(|e| (e.offset, e.len)).collect()
            };
            for (offset, len) in data {
                let ends = (offset..offset + len).step_by(1 << 20);
                let reads =
                    ends.map(|o| view.read(0, o, u32::try_from((offset + len - o).min(1 << 20)).unwrap()));
                let mut all = futures_util::stream::iter(reads).buffered(4);
                while let Some(bytes) = all.next().await {
                    read += bytes.unwrap().len() as u64;
                }
            }
        }
        println!(
            "by the file {by_file}: {} MiB read in {:?}",
            read / MIB,
            begun.elapsed()
        );
    }
    view.close().await.unwrap();
    source.close().await.unwrap();
}
