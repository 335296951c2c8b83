//! Tests of the NBD client against `qemu-nbd` and `qemu-storage-daemon`, and against servers that misbehave.
//!
//! What a disk should contain is known from the test's own writing of the image, never from the client.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::nbd::tests::Random;
use crate::nbd::{STATE_DIRTY, STATE_HOLE, STATE_ZERO};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const LIMIT: Duration = Duration::from_secs(10);

/// A server process with its own directory; ends with the test.
struct Server {
    process: Child,
    socket: PathBuf,
    dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(dir: TempDir, program: &str, arguments: &[&str]) -> Self {
        let socket = dir.path().join("nbd.sock");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(dir.path())
            .stdin(Stdio::null());
        let process = command
            .spawn()
            .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
        Self { process, socket, dir }
    }

    /// `qemu-nbd` on an image in `dir`, as export `disk`.
    fn qemu_nbd(dir: TempDir, image: &str, format: &str, more: &[&str]) -> Self {
        let base = ["-k", "nbd.sock", "-x", "disk", "-t", "-e", "8", "-f", format];
        let socket_path = dir.path().join("nbd.sock").display().to_string();
        let mut arguments = base.to_vec();
        // qemu-nbd insists on an absolute path.
        arguments[1] = &socket_path;
        arguments.extend(more);
        arguments.push(image);
        Self::start(dir, "qemu-nbd", &arguments)
    }

    /// Neither server tells when it listens, so connecting is tried until it works.
    async fn connect(&self, contexts: &[&str]) -> NbdClient {
        let deadline = Instant::now() + LIMIT;
        loop {
            match NbdClient::connect_unix(&self.socket, "disk", contexts, LIMIT).await {
                Err(NbdError::Connect { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                outcome => return outcome.expect("the server must come up"),
            }
        }
    }

    fn signal(&self, name: &str) {
        run("kill", &[name, &self.process.id().to_string()], self.dir.path());
    }
}

fn run(program: &str, arguments: &[&str], dir: &Path) {
    let output = Command::new(program).args(arguments).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A sparse raw image `disk.img` with random pieces of random content; returns what it holds.
fn sparse_raw(dir: &Path, size: u64, random: &mut Random) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(size).unwrap()];
    let file = std::fs::File::create_new(dir.join("disk.img")).unwrap();
    file.set_len(size).unwrap();
    for _ in 0..40 {
        let at = random.below(content.len()) & !4095;
        let len = (4096 * (1 + random.below(60))).min(content.len() - at);
        let piece = &mut content[at..at + len];
        piece.fill_with(|| random.next().to_le_bytes()[3]);
        file.write_all_at(piece, at as u64).unwrap();
    }
    content
}

#[tokio::test]
async fn sixteen_reads_in_flight_return_the_image_holes_included() {
    let seed = 0x0d15_ea5e_u64;
    println!("seed {seed:#x}");
    let (dir, mut random) = (temp(), Random(seed));
    let content = Arc::new(sparse_raw(dir.path(), 64 * MIB, &mut random));
    let server = Server::qemu_nbd(dir, "disk.img", "raw", &[]);
    let client = server.connect(&[]).await;
    assert_eq!(client.size(), 64 * MIB);
    let mut readers = JoinSet::new();
    for reader in 0..16 {
        let (client, content) = (client.clone(), Arc::clone(&content));
        let mut random = Random(seed + 1 + reader);
        readers.spawn(async move {
            for round in 0..20 {
                let len = 1 + random.below(3 << 20);
                let at = random.below(content.len() - len);
                let data = client.read(at as u64, u32::try_from(len).unwrap()).await.unwrap();
                assert!(
                    data[..] == content[at..at + len],
                    "reader {reader}, round {round}: {len} bytes at {at}"
                );
            }
        });
    }
    while let Some(outcome) = readers.join_next().await {
        outcome.unwrap();
    }
    client.disconnect().await;
}

#[tokio::test]
async fn a_dirty_bitmap_tells_exactly_what_was_written() {
    let dir = temp();
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "d.qcow2", "256M"],
        dir.path(),
    );
    run(
        "qemu-img",
        &["bitmap", "--add", "-g", "64K", "d.qcow2", "repl-1"],
        dir.path(),
    );
    let writes = [
        "write -q -P 7 1M 4k",
        "write -q -P 8 1114112 4k",
        "write -q -P 9 100M 192k",
        "write -q -P 1 268431360 4k",
    ];
    let arguments: Vec<&str> = writes
        .iter()
        .flat_map(|write| ["-c", *write])
        .chain(["d.qcow2"])
        .collect();
    run(
        "qemu-io",
        &[&["-f", "qcow2"][..], &arguments].concat(),
        dir.path(),
    );
    let server = Server::qemu_nbd(dir, "d.qcow2", "qcow2", &["-r", "-B", "repl-1"]);
    let context = "qemu:dirty-bitmap:repl-1";
    let client = server.connect(&[context, "base:allocation"]).await;
    assert!(client.has_context(context) && client.has_context("base:allocation"));
    assert!(client.is_read_only());

    let dirty: Vec<(u64, u64)> = dirty_of(&client.block_status(context, 0, 256 * MIB).await.unwrap());
    let expected = vec![
        (MIB, 2 << 16),
        (100 * MIB, 3 << 16),
        (256 * MIB - (1 << 16), 1 << 16),
    ];
    assert_eq!(dirty, expected);
    let part = client
        .block_status(context, 100 * MIB + 65536, 65536)
        .await
        .unwrap();
    assert_eq!(
        part,
        [StatusExtent {
            offset: 100 * MIB + 65536,
            len: 65536,
            flags: STATE_DIRTY
        }]
    );
    assert_eq!(
        client.read(100 * MIB, 192 << 10).await.unwrap(),
        vec![9; 192 << 10]
    );
    let allocation = client.block_status("base:allocation", 0, 2 * MIB).await.unwrap();
    assert_eq!(
        allocation[0],
        StatusExtent {
            offset: 0,
            len: MIB,
            flags: STATE_HOLE | STATE_ZERO
        }
    );
    assert_eq!(allocation[1].flags, 0);
}

fn dirty_of(extents: &[StatusExtent]) -> Vec<(u64, u64)> {
    extents
        .iter()
        .filter(|extent| extent.flags & STATE_DIRTY != 0)
        .map(|extent| (extent.offset, extent.len))
        .collect()
}

#[tokio::test]
async fn a_tebibyte_with_three_written_places_is_mapped_and_read() {
    let dir = temp();
    let size = 1024 * GIB;
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "d.qcow2", "1T"],
        dir.path(),
    );
    run(
        "qemu-img",
        &["bitmap", "--add", "-g", "64K", "d.qcow2", "repl-1"],
        dir.path(),
    );
    let places = [0, 512 * GIB, size - 65536];
    for (number, place) in places.iter().enumerate() {
        let write = format!("write -q -P {} {place} 64k", number + 1);
        run("qemu-io", &["-f", "qcow2", "-c", &write, "d.qcow2"], dir.path());
    }
    let server = Server::qemu_nbd(dir, "d.qcow2", "qcow2", &["-r", "-B", "repl-1"]);
    let context = "qemu:dirty-bitmap:repl-1";
    let client = server.connect(&[context, "base:allocation"]).await;
    let started = Instant::now();
    let extents = client.block_status(context, 0, size).await.unwrap();
    println!("dirty map of 1 TiB: {:?}", started.elapsed());
    assert_eq!(dirty_of(&extents), places.map(|place| (place, 65536)));
    assert_eq!(extents.iter().map(|extent| extent.len).sum::<u64>(), size);
    let allocation = client.block_status("base:allocation", 0, size).await.unwrap();
    let allocated: Vec<u64> = allocation
        .iter()
        .filter(|e| e.flags & STATE_HOLE == 0)
        .map(|e| e.offset)
        .collect();
    assert_eq!(allocated, places);
    for (number, place) in places.into_iter().enumerate() {
        let expected = u8::try_from(number + 1).unwrap();
        assert_eq!(client.read(place, 65536).await.unwrap(), vec![expected; 65536]);
    }
    assert_eq!(client.read(700 * GIB, 32 << 20).await.unwrap(), vec![0; 32 << 20]);
}

#[tokio::test]
async fn writes_zeroes_and_flush_reach_the_image_while_reads_go_on() {
    let (dir, mut random) = (temp(), Random(0xf00d_u64));
    let mut content = sparse_raw(dir.path(), 32 * MIB, &mut random);
    let server = Server::qemu_nbd(dir, "disk.img", "raw", &[]);
    let client = server.connect(&[]).await;
    let mut work = JoinSet::new();
    for writer in 0..16_u8 {
        let at = u64::from(writer) * MIB;
        let range = usize::try_from(at).unwrap()..usize::try_from(at + MIB).unwrap();
        content[range].fill(writer + 1);
        let writing = client.clone();
        work.spawn(async move { writing.write(at, vec![writer + 1; 1 << 20].into()).await.unwrap() });
        let reading = client.clone();
        work.spawn(async move { drop(reading.read(16 * MIB, 8 << 20).await.unwrap()) });
    }
    while let Some(outcome) = work.join_next().await {
        outcome.unwrap();
    }
    client.write_zeroes(5 * MIB, 2 * MIB, true).await.unwrap();
    client.write_zeroes(20 * MIB, 3 * MIB, false).await.unwrap();
    let zeroed = [(5, 7), (20, 23)].map(|(from, to)| from << 20..to << 20);
    zeroed
        .into_iter()
        .for_each(|range: std::ops::Range<usize>| content[range].fill(0));
    client.flush().await.unwrap();
    client.disconnect().await;
    assert!(std::fs::read(server.dir.path().join("disk.img")).unwrap() == content);
}

#[tokio::test]
async fn mistakes_of_the_caller_are_named_and_harm_nobody() {
    let dir = temp();
    sparse_raw(dir.path(), MIB, &mut Random(3));
    let server = Server::qemu_nbd(dir, "disk.img", "raw", &["-r"]);
    let client = server
        .connect(&["qemu:dirty-bitmap:nowhere", "base:allocation"])
        .await;
    assert!(!client.has_context("qemu:dirty-bitmap:nowhere"));
    let said = client
        .block_status("qemu:dirty-bitmap:nowhere", 0, 4096)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("no context \"qemu:dirty-bitmap:nowhere\""),
        "{said}"
    );
    let said = client.read(MIB - 10, 11).await.unwrap_err().to_string();
    assert_eq!(
        said,
        "the read of 11 bytes at 1048566 cannot be sent: the export ends at 1048576"
    );
    assert!(matches!(
        client.read(u64::MAX, 1).await,
        Err(NbdError::Invalid { .. })
    ));
    let said = client
        .write(0, Bytes::from_static(b"x"))
        .await
        .unwrap_err()
        .to_string();
    assert!(said.contains("read-only"), "{said}");
    assert!(matches!(
        client.write_zeroes(0, 512, false).await,
        Err(NbdError::Invalid { .. })
    ));
    assert_eq!(client.read(MIB, 0).await.unwrap().len(), 0);
    assert_eq!(client.read(0, 4096).await.unwrap().len(), 4096);
    let said = NbdClient::connect_unix(&server.socket, "nothing", &[], LIMIT)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("\"nothing\"") && said.contains("no such export"),
        "{said}"
    );
    let missing = server.dir.path().join("none.sock");
    let outcome = NbdClient::connect_unix(&missing, "disk", &[], LIMIT).await;
    assert!(matches!(outcome, Err(NbdError::Connect { .. })));
}

#[tokio::test]
async fn an_error_of_the_disk_fails_its_request_only() {
    let dir = temp();
    let content = sparse_raw(dir.path(), MIB, &mut Random(9));
    // A failed *write*: QEMU answers that. When reading the image fails, it drops the connection instead.
    let disk = r#"{"driver":"blkdebug","node-name":"d","image":{"driver":"file","filename":"disk.img"},
        "inject-error":[{"event":"none","iotype":"write","sector":128,"errno":28,"once":false}]}"#;
    let arguments = [
        "--blockdev",
        disk,
        "--nbd-server",
        "addr.type=unix,addr.path=nbd.sock",
        "--export",
        "type=nbd,id=e,node-name=d,name=disk,writable=on",
    ];
    let server = Server::start(dir, "qemu-storage-daemon", &arguments);
    let client = server.connect(&[]).await;
    let data = Bytes::from_static(&[1; 4096]);
    let (bad, good, read) = tokio::join!(
        client.write(64 << 10, data.clone()),
        client.write(128 << 10, data),
        client.read(512 << 10, 65536)
    );
    good.unwrap();
    assert_eq!(read.unwrap(), content[512 << 10..(512 << 10) + 65536]);
    let error = bad.unwrap_err();
    assert!(matches!(error, NbdError::Server { errno: 28, .. }), "{error:?}");
    let said = error.to_string();
    let expected = "the NBD server failed the write of 4096 bytes at 65536: no space left (errno 28)";
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(
        client.read(64 << 10, 4096).await.unwrap(),
        content[64 << 10..68 << 10]
    );
}

#[tokio::test]
async fn everyone_waiting_learns_that_the_server_was_killed() {
    let dir = temp();
    sparse_raw(dir.path(), 16 * MIB, &mut Random(4));
    let mut server = Server::qemu_nbd(dir, "disk.img", "raw", &[]);
    let client = server.connect(&["base:allocation"]).await;
    // A stopped process accepts the requests but answers none.
    server.signal("-STOP");
    let mut waiting = JoinSet::new();
    for reader in 0..100 {
        let client = client.clone();
        waiting.spawn(async move {
            match reader % 3 {
                0 => client.write(0, vec![1; 1 << 20].into()).await,
                1 => client.block_status("base:allocation", 0, MIB).await.map(drop),
                _ => client.read(0, 1 << 20).await.map(drop),
            }
        });
    }
    tokio::task::yield_now().await;
    assert!(
        waiting.try_join_next().is_none(),
        "a stopped server cannot answer"
    );
    server.process.kill().unwrap();
    while let Some(outcome) = waiting.join_next().await {
        let error = outcome.unwrap().unwrap_err();
        assert!(matches!(error, NbdError::Closed { .. }), "{error:?}");
    }
    assert!(matches!(client.read(0, 512).await, Err(NbdError::Closed { .. })));
}

#[tokio::test]
async fn requests_given_up_do_not_confuse_those_that_follow() {
    let dir = temp();
    let content = sparse_raw(dir.path(), 16 * MIB, &mut Random(5));
    let server = Server::qemu_nbd(dir, "disk.img", "raw", &[]);
    let client = server.connect(&[]).await;
    server.signal("-STOP");
    let mut given_up = JoinSet::new();
    for place in 0..100 {
        let client = client.clone();
        given_up.spawn(async move { drop(client.read(place * 4096, 1 << 20).await) });
    }
    tokio::task::yield_now().await;
    given_up.shutdown().await;
    server.signal("-CONT");
    for place in 0..100_usize {
        let at = place * 150_000;
        let data = client.read(at as u64, 150_000).await.unwrap();
        assert!(data[..] == content[at..at + 150_000]);
    }
}

/// A server that plays `bytes` for the handshake and `after` once a request came, over an in-memory stream.
async fn misbehaving(after: &'static [u8], close: bool) -> Result<Bytes, NbdError> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(async move {
        let mut start = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
        for (option, kind, data) in [
            (8_u32, 1_u32, &[][..]),
            (7, 3, b"\0\0\0\0\0\0\0\x10\0\0\0\x01"),
            (7, 1, &[]),
        ] {
            start.extend(0x3_e889_0455_65a9_u64.to_be_bytes());
            start.extend(
                [option, kind, u32::try_from(data.len()).unwrap()]
                    .iter()
                    .flat_map(|n| n.to_be_bytes()),
            );
            start.extend(data);
        }
        theirs.write_all(&start).await.unwrap();
        // Client flags, two options, one request.
        let mut heard = vec![0; 4 + 16 + (16 + 4 + 4 + 4) + 28];
        theirs.read_exact(&mut heard).await.unwrap();
        theirs.write_all(after).await.unwrap();
        if !close {
            std::future::pending::<()>().await;
        }
    });
    let client = NbdClient::connect(ours, "disk", &[], LIMIT).await?;
    let outcome = client.read(0, 4096).await;
    server.abort();
    outcome
}

#[tokio::test]
async fn servers_that_misbehave_end_the_connection() {
    let wrong_cookie = b"\x66\x8e\x33\xef\0\x01\0\x02\0\0\0\0\0\0\0\x63\0\0\0\x0c\0\0\0\0\0\0\0\0\0\0\x10\0";
    let error = misbehaving(wrong_cookie, false).await.unwrap_err();
    assert!(
        matches!(&error, NbdError::Protocol(what) if what.contains("not in flight")),
        "{error:?}"
    );
    let half_a_hole = b"\x66\x8e\x33\xef\0\x01\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x0c\0\0";
    let error = misbehaving(half_a_hole, true).await.unwrap_err();
    assert!(matches!(error, NbdError::Closed { .. }), "{error:?}");
    let a_hole = b"\x66\x8e\x33\xef\0\x01\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x0c\0\0\0\0\0\0\0\0\0\0\x10\0";
    assert_eq!(misbehaving(a_hole, false).await.unwrap(), vec![0; 4096]);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let (ours, _theirs) = tokio::io::duplex(4096);
    let outcome = NbdClient::connect(ours, "disk", &[], Duration::from_millis(30)).await;
    assert!(matches!(outcome, Err(NbdError::Timeout { .. })));
}

/// Not a test: `cargo nextest run -p lifeboat-block --run-ignored only throughput --no-capture` shows the rate.
#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn throughput() {
    let dir = temp();
    let mut file = std::fs::File::create_new(dir.path().join("disk.img")).unwrap();
    let piece: Vec<u8> = (0..1_u32 << 20)
        .map(|number| number.to_le_bytes()[1] | 1)
        .collect();
    (0..1024).for_each(|_| file.write_all(&piece).unwrap());
    let server = Server::qemu_nbd(dir, "disk.img", "raw", &[]);
    let client = server.connect(&[]).await;
    for len in [4096_u32, 65536, 1 << 20] {
        let started = Instant::now();
        let total = u64::from(len) * 16 * 128.max(512 * 1024 / u64::from(len));
        let mut work = JoinSet::new();
        for reader in 0..16 {
            let client = client.clone();
            work.spawn(async move {
                let share = (total / 16).min(GIB / 16);
                for at in (0..share).step_by(len as usize) {
                    client.read(reader * (GIB / 16) + at, len).await.unwrap();
                }
                share
            });
        }
        let moved: u64 = work.join_all().await.into_iter().sum();
        let rate = u128::from(moved) * 1000 / started.elapsed().as_micros().max(1);
        println!(
            "{len} bytes a read, 16 in flight: {} MiB/s",
            rate * 1000 / 1_048_576
        );
    }
}
