//! Measurements, run by hand: `cargo test --release -p lifeboat-store -- --ignored --nocapture measure`. They print what
//! the module docs and the benchmarks page claim; none of them passes or fails by time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_deltalog::Encoder;
use lifeboat_engine::ports::store::{ImageStore, LogStore, Target};
use lifeboat_model::{BranchId, DiskFormat, PointId};

use super::world::{Rng, World, body, run_ok};

fn percentiles(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |p: usize| times[(times.len() - 1) * p / 100];
    println!(
        "{what}: p50 {:?}, p99 {:?}, max {:?} ({} runs)",
        at(50),
        at(99),
        at(100),
        times.len()
    );
}

async fn big(seed: u64, size: usize) -> World {
    let tmp = tempfile::tempdir().unwrap();
    let root = camino::Utf8PathBuf::from_path_buf(tmp.path().to_owned()).unwrap();
    let w = World::below(seed, tmp, root, 0, &[("sys", 512)]).await;
    // The model would need the disk's size in memory; here only the sizes count.
    let disks = vec![lifeboat_deltalog::LogDisk {
        id: super::world::disk("sys"),
        size: size as u64,
    }];
    w.store.destroy(w.vm).await.unwrap();
    w.store
        .create(&w.root.clone().into(), w.vm, &disks, w.start)
        .await
        .unwrap();
    w
}

/// A log of `count` writes of `len` bytes, in order or all over the disk, on its own stride so that none overlap.
async fn feed(w: &mut World, size: u64, count: u64, len: u64, random: bool) -> Duration {
    let mut header = w.header();
    header.disks = w.store.info(w.vm).await.unwrap().disks;
    let mut log = Vec::new();
    let mut encoder = Encoder::new(&header, false, &mut log).unwrap();
    let mut data = vec![0; usize::try_from(len).unwrap()];
    let slots = size / len;
    let first = w.rng.below(slots);
    for n in 0..count {
        w.rng.fill(&mut data);
        let slot = if random {
            w.rng.below(slots)
        } else {
            (first + n) % slots
        };
        let _ = encoder.data(0, slot * len, &data, &mut log);
    }
    encoder.finish(&mut log);
    let pieces = log
        .chunks(1 << 20)
        .map(|c| Ok(Bytes::copy_from_slice(c)))
        .collect();
    w.store
        .receive(w.vm, header.position, 0, body(pieces))
        .await
        .unwrap();
    w.durable = header.position;
    let start = Instant::now();
    w.store.apply(w.vm).await.unwrap().unwrap();
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measure_operations() {
    const SIZE: u64 = 1 << 40;
    let mut w = big(1, 1 << 40).await;
    let mib = |bytes: u64, t: Duration| f64::from(u32::try_from(bytes >> 20).unwrap()) / t.as_secs_f64();
    for _ in 0..3 {
        let t = feed(&mut w, 1 << 30, 16 << 10, 4096, true).await;
        println!("apply 4 KiB random within 1 GiB: {:.0} MiB/s", mib(64 << 20, t));
        w.store.seal(w.vm, PointId(w.rng.uuid()), None).await.unwrap();
        let t = feed(&mut w, 1 << 30, 8 << 10, 16384, true).await;
        println!("apply 16 KiB random within 1 GiB: {:.0} MiB/s", mib(128 << 20, t));
        w.store.seal(w.vm, PointId(w.rng.uuid()), None).await.unwrap();
        let t = feed(&mut w, SIZE, 256, 1 << 20, false).await;
        println!("apply 1 MiB sequential: {:.0} MiB/s", mib(256 << 20, t));
        w.store.seal(w.vm, PointId(w.rng.uuid()), None).await.unwrap();
    }
    let (mut seals, mut small) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        small.push(feed(&mut w, SIZE, 100, 16384, true).await);
        let start = Instant::now();
        w.store.seal(w.vm, PointId(w.rng.uuid()), None).await.unwrap();
        seals.push(start.elapsed());
        if w.store.info(w.vm).await.unwrap().points.len() > 24 {
            w.store.expire_oldest(w.vm).await.unwrap();
        }
    }
    percentiles("apply of 100 writes all over 1 TiB", small);
    percentiles("seal", seals);
    let points = w.store.info(w.vm).await.unwrap().points;
    println!("{} points", points.len());
    let (mut branches, mut drops) = (Vec::new(), Vec::new());
    for n in 0..100 {
        let branch = BranchId(w.rng.uuid());
        let id = points[n % points.len()].id;
        let start = Instant::now();
        w.store
            .branch(w.vm, branch, Target::Point { id }, None)
            .await
            .unwrap();
        branches.push(start.elapsed());
        let name = w.file_names(branch).await.into_values().next().unwrap();
        let at = w.rng.below(1 << 20) << 20;
        run_ok("qemu-io", &["-c", &format!("write -q {at} 32M"), &name]);
        let start = Instant::now();
        w.store.drop_branch(w.vm, branch).await.unwrap();
        drops.push(start.elapsed());
    }
    percentiles("branch", branches);
    percentiles("drop_branch after 32 MiB written", drops);
}

fn on_raw(base: &camino::Utf8Path, layer: &camino::Utf8Path) -> [crate::chain::Image; 2] {
    let image = |file: &camino::Utf8Path, format| crate::chain::Image {
        file: file.to_owned(),
        format,
        ours: true,
    };
    [image(base, DiskFormat::Raw), image(layer, DiskFormat::Qcow2)]
}

fn create_with(path: &camino::Utf8Path, cluster: usize) {
    crate::layer::create_with(path, 256 << 20, "base.raw".into(), DiskFormat::Raw, cluster).unwrap();
}

/// 4 KiB random writes into a fresh layer on data: this crate's writer by cluster size, and QEMU's with sub-clusters.
#[test]
#[ignore = "a measurement"]
fn measure_writers() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = camino::Utf8PathBuf::from_path_buf(tmp.path().to_owned()).unwrap();
    let base = dir.join("base.raw");
    let mut rng = Rng(3);
    let mut data = vec![0; 256 << 20];
    rng.fill(&mut data);
    std::fs::write(&base, &data).unwrap();
    for grain in [4_u64 << 10, 16 << 10] {
        let slots = (256 << 20) / grain;
        let writes: Vec<u64> = (0..4000).map(|_| rng.below(slots) * grain).collect();
        for cluster in [4_usize << 10, 16 << 10, 64 << 10] {
            let path = dir.join(format!("l{cluster}.qcow2"));
            create_with(&path, cluster);
            let chain = on_raw(&base, &path);
            let start = Instant::now();
            let mut writer = crate::layer::Writer::open(&dir, &chain, 256 << 20).unwrap();
            for at in &writes {
                let bytes = data[..usize::try_from(grain).unwrap()].to_vec();
                let body = lifeboat_deltalog::FrameBody::Data(bytes);
                writer
                    .write(lifeboat_deltalog::Frame {
                        disk: 0,
                        offset: *at,
                        body,
                    })
                    .unwrap();
            }
            writer.finish().unwrap();
            report(
                &format!("imago {} KiB clusters", cluster >> 10),
                grain,
                start.elapsed(),
                &path,
            );
        }
        let path = dir.join("q.qcow2");
        let options = "extended_l2=on,cluster_size=128k";
        run_ok(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                options,
                "-F",
                "raw",
                "-b",
                "base.raw",
                path.as_str(),
                "256M",
            ],
        );
        let script: String = writes
            .iter()
            .map(|at| format!("aio_write -q -P 7 {at} {grain}\n"))
            .collect();
        let script = script + "aio_flush\nflush\nquit\n";
        let start = Instant::now();
        let mut child = std::process::Command::new("qemu-io")
            .args(["-t", "writeback", path.as_str()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        report("QEMU 128 KiB with sub-clusters", grain, start.elapsed(), &path);
    }
}

fn report(what: &str, grain: u64, time: Duration, path: &camino::Utf8Path) {
    let rate = 4000.0 / time.as_secs_f64();
    let size = crate::files::usage(path) >> 20;
    println!(
        "{} KiB writes, {what}: {rate:.0}/s, layer {size} MiB",
        grain >> 10
    );
}
