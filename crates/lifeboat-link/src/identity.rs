//! Who is at the other end, by the certificates that were shown. Whether they are accepted was decided in the handshake.

use lifeboat_engine::ports::link::PeerIdentity;
use lifeboat_tls::certificate::{dns_names, ip_addresses};
use lifeboat_tls::key_fingerprint;
use rustls_pki_types::CertificateDer;

/// The identity that these certificates prove. The common name does not count: only SANs are what a CA vouches for. An identity
/// without names may not call; without any certificate there is none.
pub(crate) fn identity(shown: &[CertificateDer<'_>]) -> PeerIdentity {
    let cert = shown.first();
    PeerIdentity {
        names: cert.map_or_else(Vec::new, dns_names),
        addresses: cert.map_or_else(Vec::new, ip_addresses),
        key: cert.and_then(key_fingerprint),
    }
}
