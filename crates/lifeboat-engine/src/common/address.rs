//! Addresses of hosts as texts, `HOST:PORT`. Whether one leads anywhere is not known here.

/// The name in `HOST:PORT`.
pub(crate) fn host_of(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(host, _)| host)
}
