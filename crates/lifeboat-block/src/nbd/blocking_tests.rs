//! Tests of the blocking client against `qemu-nbd`, and against servers that misbehave. What the image holds is known from the
//! test's own writing of it.

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::nbd::{STATE_HOLE, STATE_ZERO};

const LIMIT: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

struct Server {
    process: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// A raw image of 3 GiB, more than one question about its status may span, with 1 MiB of data at 7 MiB and one byte
    /// at its end. Exported without a name.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        let file = std::fs::File::create_new(&image).unwrap();
        file.set_len(3 << 30).unwrap();
        file.write_all_at(&vec![5; 1 << 20], 7 * MIB).unwrap();
        file.write_all_at(&[9], (3 << 30) - 1).unwrap();
        let socket = dir.path().join("nbd.sock");
        let process = Command::new("qemu-nbd")
            .args(["-r", "-f", "raw", "-k"])
            .args([&socket, &image])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            process,
            socket,
            _dir: dir,
        }
    }

    /// The server does not tell when it listens, so connecting is tried until it works.
    fn connect(&self) -> BlockingClient {
        let until = Instant::now() + LIMIT;
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => return BlockingClient::connect(stream, "", &["base:allocation"]).unwrap(),
                Err(error) if Instant::now() > until => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

#[test]
fn a_disk_is_read_and_its_holes_are_known() {
    let server = Server::start();
    let mut client = server.connect();
    let size = client.size();
    assert_eq!(size, 3 << 30);
    let around = client.read(7 * MIB - 512, (1 << 20) + 1024).unwrap();
    let mut expected = vec![5; (1 << 20) + 1024];
    expected[..512].fill(0);
    expected[(1 << 20) + 512..].fill(0);
    assert!(around == expected);
    assert_eq!(client.read(size - 3, 3).unwrap(), [0, 0, 9]);
    let status = client.block_status("base:allocation", 0, size).unwrap();
    let data: Vec<_> = status
        .iter()
        .filter(|e| e.flags & STATE_ZERO == 0)
        .map(|e| (e.offset, e.len))
        .collect();
    assert_eq!(data[0], (7 * MIB, MIB));
    assert_eq!(data.len(), 2);
    assert_eq!(data[1].0 + data[1].1, size);
    assert_eq!(status[0].flags, STATE_HOLE | STATE_ZERO);
    let mut at = 0;
    for extent in &status {
        assert_eq!(extent.offset, at, "without gaps");
        at += extent.len;
    }
    assert_eq!(at, size);
}

#[test]
fn what_cannot_be_asked_is_named_and_harms_nobody() {
    let server = Server::start();
    let mut client = server.connect();
    let beyond = client.read(client.size() - 1, 2).unwrap_err();
    assert!(beyond.to_string().contains("ends at 3221225472"), "{beyond}");
    let long = client.read(0, 33 << 20).unwrap_err();
    assert!(matches!(long, NbdError::Invalid { .. }), "{long:?}");
    let unknown = client.block_status("qemu:dirty-bitmap:x", 0, 512).unwrap_err();
    assert!(matches!(unknown, NbdError::NoContext { .. }), "{unknown:?}");
    assert_eq!(client.read(7 * MIB, 1).unwrap(), [5]);
}

/// What a client gets from a server that opens an export of 1 MiB and answers the first request with `answer`, and what the
/// next request gets.
fn misbehaving(answer: &'static [u8]) -> [Result<Vec<u8>, NbdError>; 2] {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || {
        let mut start = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
        let export = b"\0\0\0\0\0\0\0\x10\0\0\0\x01";
        for (option, kind, data) in [(8_u32, 1_u32, &[][..]), (7, 3, export), (7, 1, &[])] {
            start.extend(0x3_e889_0455_65a9_u64.to_be_bytes());
            let numbers = [option, kind, u32::try_from(data.len()).unwrap()];
            start.extend(numbers.iter().flat_map(|n| n.to_be_bytes()));
            start.extend(data);
        }
        theirs.write_all(&start).unwrap();
        // Client flags, two options, one request.
        let mut heard = vec![0; 4 + 16 + (16 + 4 + 4) + 28];
        theirs.read_exact(&mut heard).unwrap();
        theirs.write_all(answer).unwrap();
    });
    ours.set_read_timeout(Some(LIMIT)).unwrap();
    let mut client = BlockingClient::connect(ours, "", &[]).unwrap();
    let outcomes = [client.read(0, 4096), client.read(0, 4096)];
    drop(client);
    server.join().unwrap();
    outcomes
}

#[test]
fn a_server_that_misbehaves_is_asked_nothing_more() {
    let [wrong_cookie, then] =
        misbehaving(b"\x66\x8e\x33\xef\0\x01\0\x02\0\0\0\0\0\0\0\x63\0\0\0\x0c\0\0\0\0\0\0\0\0\0\0\x10\0");
    let error = wrong_cookie.unwrap_err();
    assert!(
        matches!(&error, NbdError::Protocol(what) if what.contains("not in flight")),
        "{error:?}"
    );
    let error = then.unwrap_err();
    assert!(
        matches!(&error, NbdError::Closed { reason } if reason.contains("not in flight")),
        "{error:?}"
    );
    let [half_a_hole, then] = misbehaving(b"\x66\x8e\x33\xef\0\x01\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x0c\0\0");
    for outcome in [half_a_hole, then] {
        assert!(matches!(outcome, Err(NbdError::Closed { .. })), "{outcome:?}");
    }
    // Refused with a reason: the connection itself is as good as before, until the server hangs up.
    let [refused, then] =
        misbehaving(b"\x66\x8e\x33\xef\0\x01\x80\x01\0\0\0\0\0\0\0\x01\0\0\0\x08\0\0\0\x05\0\x02no");
    let error = refused.unwrap_err();
    assert!(
        matches!(&error, NbdError::Server { errno: 5, message, .. } if message == "no"),
        "{error:?}"
    );
    assert!(matches!(then, Err(NbdError::Closed { reason }) if reason.contains("failed")));
}
