//! A host is back that may be the other side: what waits for it goes on at once.

use crate::actor::Actor;
use crate::host::presence::LEAST;
use crate::record::access::host_of;
use crate::work::message::Returned;
use core::net::IpAddr;
use tokio::time::Instant;

impl Actor {
    /// A host is back: what waited for it does not wait longer.
    pub(crate) fn returned(&mut self, who: &Returned) {
        let concerned = self.core.needed_peers().iter().any(|peer| match who {
            Returned::Address(address) => address == peer,
            Returned::Names(names) => {
                let host = host_of(peer);
                // A host that is named by its address has a name that is not known here: any may be its.
                let unnamed = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
                unnamed || names.iter().any(|n| n.eq_ignore_ascii_case(host))
            }
        });
        if concerned {
            self.hurry();
        }
    }

    /// The other side gave a sign of life: an attempt that waits for it is made now. Attempts still count, and keep their
    /// distance.
    pub(crate) fn hurry(&mut self) {
        let now = Instant::now();
        if let Some(since) = self.source.backing_off {
            self.source.next_at = self.source.next_at.min(now.max(since + LEAST));
        }
        // On a replica only a change of roles waits for the other host; its own disk does not get better by a call.
        if let (Some(since), true) = (self.target.backing_off, self.core.branch().is_some()) {
            self.target.next_at = self.target.next_at.min(now.max(since + LEAST));
        }
        self.forward.wake();
    }
}
