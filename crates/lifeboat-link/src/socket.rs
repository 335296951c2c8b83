//! Options of a TCP connection that both sides set: a peer that vanished must be noticed even when nothing is said.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// Silence before the first probe, and between probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 4;

/// Sets them. Failing to is no reason to refuse a connection: the timeouts above this layer still hold.
pub(crate) fn tune(stream: &TcpStream) {
    let set = || -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
        Ok(())
    };
    if let Err(e) = set() {
        tracing::debug!("socket options: {e}");
    }
}
