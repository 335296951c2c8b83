//! Ends of pauses after failed attempts: a host is back that may be the other side, or an administrator says so. What waits goes on
//! at once.

use crate::actor::Actor;
use crate::common::address::host_of;
use crate::contract::refusal::no_relationship;
use crate::contract::{Answer, Refusal};
use crate::host::presence::LEAST;
use crate::work::message::Returned;
use core::net::IpAddr;
use lifeboat_model::ReplicationState as State;
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

    /// An administrator has mended what attempts failed by: what waits for the next one does not wait longer. When nothing waits
    /// it is done as well: it may have been tried, or asked for, a moment before.
    pub(crate) async fn retry_now(&mut self) -> Result<Answer, Refusal> {
        let rel = self.core.rel.as_ref().filter(|rel| rel.state != State::Disabled);
        let outgoing = rel.ok_or_else(no_relationship)?.outgoing();
        let third = outgoing.iter().any(|one| one.problem.is_some());
        let now = Instant::now();
        let source = self.source.backing_off.take().is_some();
        if source {
            self.source.next_at = now;
        }
        let target = self.target.backing_off.is_some();
        if target {
            self.target.begin_now();
        }
        self.source.begin_after = self.source.begin_after.min(now);
        self.source.merge_after = self.source.merge_after.min(now);
        self.forward.wake();
        if source || target || third {
            self.core
                .event("what had failed is tried again now, as was asked for")
                .await;
        }
        Ok(Answer::Done)
    }
}
