//! Where a primary says that it takes calls itself: this host connects there when roles change, so it is not believed
//! without its certificate. That a name leads to an address where another host can be is looked at by the link.

use crate::common::address::host_of;
use crate::port::link::PeerIdentity;
use lifeboat_model::reach::Never;
use lifeboat_model::reach::{self};

/// Why a callback address is not believed, for the peer's administrator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallbackAddressError {
    /// No other host can be there.
    #[error("{host} is {never}")]
    Never {
        /// The host of the address.
        host: String,
        /// What kind of address it is.
        never: Never,
    },
    /// The host has not shown that it is its own.
    #[error(
        "{host} is neither a name nor an address of the certificate that was shown; advertise one that is, or have a certificate issued with it"
    )]
    NotOfCertificate {
        /// The host of the address.
        host: String,
    },
}

/// Checks `HOST:PORT` as a peer has given it: the host is a name or an address of the certificate that it has shown. A host
/// says where itself is, and no other host does.
///
/// # Errors
/// It is not.
pub(crate) fn check(from: &str, peer: &PeerIdentity) -> Result<(), CallbackAddressError> {
    let host = reach::bare_host(host_of(from));
    let address = host.parse().ok();
    match address.and_then(reach::never) {
        // In a certificate it says that the authority knows of several hosts on one machine.
        None | Some(Never::Loopback) => {}
        Some(never) => {
            let host = host.to_owned();
            return Err(CallbackAddressError::Never { host, never });
        }
    }
    if peer.is_host_of(from) {
        return Ok(());
    }
    let host = host.to_owned();
    Err(CallbackAddressError::NotOfCertificate { host })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_says_where_itself_is() {
        let peer = PeerIdentity {
            names: vec!["alpha.example.org".into(), "alpha".into()],
            addresses: ["10.0.0.1", "fd00::1", "127.0.0.1", "169.254.1.1", "fe80::1"]
                .map(|a| a.parse().unwrap())
                .into(),
            key: None,
        };
        for from in [
            "alpha.example.org:8443",
            "ALPHA:1",
            "alpha.example.org.:8443",
            "10.0.0.1:8443",
            "[fd00::1]:8443",
            "[fd00:0::1]:8443",
            "127.0.0.1:8443",
        ] {
            assert_eq!(check(from, &peer), Ok(()), "{from}");
        }
        for from in [
            "beta.example.org:8443",
            "alpha.example.org.evil.example:8443",
            "10.0.0.2:22",
            "[::ffff:10.0.0.2]:22",
            "localhost:5432",
            "127.0.0.2:80",
            "[::1]:80",
            "2130706433:80",
            "0x7f.1:80",
            "0.0.0.0:80",
            "224.0.0.1:80",
            // Not even with a certificate.
            "169.254.1.1:80",
            "[fe80::1]:80",
            "169.254.169.254:80",
        ] {
            assert!(check(from, &peer).is_err(), "{from}");
        }
    }
}
