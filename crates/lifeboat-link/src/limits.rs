//! What callers may use up, and for how long. Whose connection is kept when there are too many, `lifeboat_admission` decides.

use std::time::Duration;

use lifeboat_admission::{Cap, Places};
use lifeboat_tls::CLOCK_LOOK;

/// How long a connection may go on after a certificate it was made with has ended: what is under way by then may come to
/// its end. No request begins after the certificate's end.
pub const GRACE: Duration = Duration::from_secs(600);

/// Bounds on what callers may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. A peer has one for each log it sends; a host that is not known here has a question, and few places
    /// to ask it.
    pub places: Places,
    /// Until a TLS handshake is done.
    pub handshake: Duration,
    /// For all that a host may ask that is not known here, from the end of the handshake.
    pub strangers: Duration,
    /// Until the header of the next request of a known host is there. Idle connections are closed after it.
    pub header: Duration,
    /// Until a control document is there.
    pub document: Duration,
    /// Without a byte of a log that is being received.
    pub silence: Duration,
    /// Between signs of life while a log is being made durable.
    pub heartbeat: Duration,
    /// For requests under way when the daemon stops.
    pub grace: Duration,
    /// For requests under way when a certificate of their connection ends.
    pub expiry_grace: Duration,
    /// Between looks at whether the certificates that a connection was made with are still those in use.
    pub look: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            places: Places {
                silent: Cap {
                    total: 1024,
                    each: 128,
                },
                handshaking: Cap { total: 256, each: 64 },
                strangers: Cap { total: 128, each: 8 },
                known: Cap {
                    total: 1024,
                    each: 512,
                },
            },
            handshake: Duration::from_secs(10),
            strangers: Duration::from_secs(10),
            header: Duration::from_secs(90),
            document: Duration::from_secs(30),
            silence: Duration::from_secs(120),
            heartbeat: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            expiry_grace: GRACE,
            look: CLOCK_LOOK,
        }
    }
}
