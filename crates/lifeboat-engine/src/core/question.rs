//! The question to the other side as an actor asks it, with the hosts of its relationship. What the answers mean is
//! `host::question`'s.

use crate::contract::Refusal;
use crate::core::Core;
use crate::host::question::{Asking, WORD, Word, ask, may_start_beside};
use crate::port::link::{PeerIdentity, PeerRefusal};

impl Core {
    /// The other side's word on this VM.
    pub(crate) async fn ask_standing(&self, peer: Option<&str>) -> Word {
        match peer {
            Some(peer) => ask(&self.host.ports, self.id, peer, WORD).await,
            None => Word::NoAddress,
        }
    }

    /// The question is answered where messages are taken up, because that waits for nothing; it does not come here.
    pub(crate) fn answered_elsewhere(&self) -> PeerRefusal {
        PeerRefusal::Failed {
            host: self.host.config.name.clone(),
            detail: "the question is answered elsewhere".into(),
        }
    }

    /// Whether the other end of this relationship asks: it knows what is under way between the two, and decides by that.
    pub(crate) fn is_other_end(&self, asks: &PeerIdentity) -> bool {
        let Some(rel) = self.rel.as_ref() else {
            return false;
        };
        let primary = asks.names.iter().any(|n| n.eq_ignore_ascii_case(&rel.peer));
        match rel.replica() {
            Some(_) => primary || rel.callback.as_ref().is_some_and(|at| asks.is_host_of(at)),
            None => asks.is_host_of(&rel.peer),
        }
    }

    /// Where the hosts take calls that have a copy of this VM, and that the asking one is not.
    pub(crate) fn others_than(&self, asks: &PeerIdentity) -> Vec<String> {
        let Some(rel) = self.rel.as_ref() else {
            return Vec::new();
        };
        let other_end = rel.other_end().filter(|_| !self.is_other_end(asks));
        let mut all: Vec<String> = other_end.cloned().into_iter().chain(self.further()).collect();
        all.retain(|peer| !asks.is_host_of(peer));
        all
    }

    /// Where third hosts take calls that were given a copy from here.
    fn further(&self) -> Vec<String> {
        let rel = self.rel.as_ref();
        let formerly = rel
            .iter()
            .flat_map(|r| r.formerly.iter().filter(|f| **f != r.peer));
        let forwarded = crate::record::access::third_hosts(rel);
        let mut all: Vec<String> = forwarded.chain(formerly).cloned().collect();
        all.dedup();
        all
    }

    /// Asks the hosts that were given a copy from here, beyond the other end of the relationship. What only cannot be reached
    /// is lost as often as it is brought up. Those that need not be asked again: they have nothing of the VM any more, or a
    /// person answers for them.
    ///
    /// # Errors
    /// The VM runs there, is being brought up there, or one that was reached does not say.
    pub(crate) async fn ask_further(&self, asking: Asking) -> Result<Vec<String>, Refusal> {
        let mut further = self.further();
        if asking == Asking::Forced {
            return Ok(further);
        }
        let words = further.iter().map(|peer| self.ask_standing(Some(peer)));
        let words = futures_util::future::join_all(words).await;
        for word in &words {
            may_start_beside(word)?;
        }
        let mut words = words.iter();
        further.retain(|_| words.next().is_some_and(Word::has_nothing));
        Ok(further)
    }

    /// Hosts that followed this one are not asked any more.
    pub(crate) async fn forget_former(&mut self, gone: &[String]) {
        self.note(|rel| rel.formerly.retain(|peer| !gone.contains(peer)))
            .await;
    }
}
