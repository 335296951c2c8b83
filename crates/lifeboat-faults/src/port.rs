//! TCP ports for daemons that are started later. Not for a listener of one's own: that asks the kernel for a free one.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::TcpListener;

/// Below what Linux takes for outgoing connections (from 32768, `net.ipv4.ip_local_port_range`): a port that is free now
/// is not given to a connection before the daemon listens on it, as happens to one that the kernel chose.
const FIRST: u16 = 12_000;
const COUNT: u64 = 20_000;

/// A port of 127.0.0.1 that no process listens on.
///
/// # Errors
/// What the last attempt of a hundred said.
pub fn free() -> io::Result<u16> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..100 {
        // A keyed hash with new keys is a random number, different in each process.
        let offset = RandomState::new().hash_one(()) % COUNT;
        let port = FIRST + u16::try_from(offset).unwrap_or_default();
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(e) => last = e,
        }
    }
    Err(last)
}
