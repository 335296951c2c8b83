//! Which VM a reference means. A UUID means one VM; a name means the only VM of that name, and is refused with all
//! candidates when there are several. Nothing is asked here: actors publish what a refusal has to say of them.

use crate::contract::Refusal;
use crate::contract::VmRef;
use crate::host::{Handle, Host};
use crate::port::link::PeerIdentity;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{VmId, hint};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an actor is known as from outside, as of its last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nothing is described and nothing is recorded: to every caller there is no such VM.
    Nothing,
    /// A VM of this host without a relationship.
    Local,
    /// A VM with a relationship.
    Related(Mode, State),
}

#[derive(Debug)]
struct Written {
    presence: Presence,
    /// Addresses of the hosts that take part in its replication.
    hosts: Vec<String>,
}

/// An actor's card: written by the actor, read by the code that looks for one.
#[derive(Clone, Debug)]
pub(crate) struct Card(Arc<Mutex<Written>>);

impl Default for Card {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Written {
            presence: Presence::Nothing,
            hosts: Vec::new(),
        })))
    }
}

impl Card {
    fn read(&self) -> Presence {
        self.lock().presence
    }

    fn names(&self, peer: &PeerIdentity) -> bool {
        self.lock().hosts.iter().any(|host| peer.is_host_of(host))
    }

    pub(crate) fn write<'h>(&self, presence: Presence, hosts: impl Iterator<Item = &'h str> + Clone) {
        let hosts = || hosts.clone().filter(|host| !host.is_empty());
        let mut written = self.lock();
        written.presence = presence;
        // Written with every message, and hardly ever another one.
        if !written.hosts.iter().map(String::as_str).eq(hosts()) {
            written.hosts = hosts().map(str::to_owned).collect();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of a refusal: UUID, role, state.
fn candidate(vm: VmId, presence: Presence) -> String {
    match presence {
        Presence::Nothing | Presence::Local => format!("{vm} (a VM of this host, not replicated)"),
        Presence::Related(Mode::None, _) => format!("{vm} (a VM of this host, no longer replicated)"),
        Presence::Related(Mode::TestReplica, _) => format!("{vm} (the VM of a test failover)"),
        Presence::Related(mode @ (Mode::Primary | Mode::Replica | Mode::ExtendedReplica), state) => {
            let role = match mode {
                Mode::Replica => "replica",
                Mode::ExtendedReplica => "extended replica",
                Mode::Primary | Mode::None | Mode::TestReplica => "primary",
            };
            format!("{vm} ({role}, {state})")
        }
    }
}

/// Several VMs have this name.
fn ambiguous(wanted: &str, cards: impl ExactSizeIterator<Item = (VmId, Presence)>) -> Refusal {
    /// Ours: an answer that is read. The list has all of them.
    const NAMED: usize = 20;
    let number = cards.len();
    let mut all: Vec<String> = cards.take(NAMED).map(|(id, card)| candidate(id, card)).collect();
    if number > NAMED {
        all.push(format!("and {} more", number - NAMED));
    }
    Refusal::new(
        ReturnCode::InvalidParameter,
        format!(
            "{number} VMs of this host are named \"{}\": {}",
            shown(wanted),
            all.join(", ")
        ),
        hint::Again::ByUuid,
    )
}

/// A text of a caller, short enough for a message.
fn shown(wanted: &str) -> String {
    wanted.chars().take(80).collect()
}

/// There is no such VM.
pub(crate) fn no_vm(wanted: &str) -> Refusal {
    Refusal::new(
        ReturnCode::FileNotFound,
        format!("no VM \"{}\" on this host", shown(wanted)),
        hint::Look::Vms,
    )
}

impl Handle {
    /// Whether a VM that exists for others has this name.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.name == name && self.card.read() != Presence::Nothing
    }
}

impl Host {
    /// The VM that is meant. A UUID comes first, so that every VM can be reached whatever the names are.
    pub(crate) fn find(&self, vm: &VmRef) -> Result<(VmId, Handle), Refusal> {
        let by_id = match vm {
            VmRef::Id(id) => Some(*id),
            VmRef::Text(text) => text.parse().ok(),
        };
        self.with_actors(|actors| {
            if let Some((id, handle)) = by_id.and_then(|id| actors.get_key_value(&id))
                && handle.card.read() != Presence::Nothing
            {
                return Ok((*id, handle.clone()));
            }
            let VmRef::Text(wanted) = vm else {
                return Err(no_vm(&vm.to_string()));
            };
            let named: Vec<(&VmId, &Handle)> = actors.iter().filter(|(_, h)| h.is_named(wanted)).collect();
            match named.as_slice() {
                [] => Err(no_vm(wanted)),
                [(id, handle)] => Ok((**id, (*handle).clone())),
                several => {
                    let cards = several.iter().map(|(id, handle)| (**id, handle.card.read()));
                    Err(ambiguous(wanted, cards))
                }
            }
        })
    }
}

impl Host {
    /// Whether an authorization entry is about this peer, or a replication of this host names it.
    pub(crate) fn knows(&self, peer: &PeerIdentity) -> bool {
        let entry = |name: &String| self.entry_for(name).is_some();
        peer.names.iter().any(entry) || self.with_actors(|actors| actors.values().any(|h| h.card.names(peer)))
    }

    /// VMs that have a record on this host.
    pub(crate) fn known_to_actors(&self) -> BTreeSet<VmId> {
        let related = |h: &Handle| matches!(h.card.read(), Presence::Related(..));
        self.with_actors(|actors| {
            actors
                .iter()
                .filter(|(_, h)| related(h))
                .map(|(vm, _)| *vm)
                .collect()
        })
    }
}

impl Host {
    /// Lets go of an actor that no task can be talking to. A task that is about to takes its handle from the same table first.
    pub(crate) fn let_go(&self, vm: VmId) -> bool {
        self.with_actors(|actors| {
            let unused = |h: &Handle| {
                h.mailbox.strong_count() == 1 && h.mailbox.capacity() == h.mailbox.max_capacity()
            };
            let unused = actors.get(&vm).is_some_and(unused);
            if unused {
                actors.remove(&vm);
            }
            unused
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn of_very_many_vms_of_one_name_some_are_shown() {
        let vms: Vec<_> = (0..10_000)
            .map(|n| (VmId(Uuid::from_u128(n)), Presence::Local))
            .collect();
        let refusal = ambiguous("web", vms.into_iter());
        assert!(
            refusal
                .message
                .starts_with("10000 VMs of this host are named \"web\": "),
            "{refusal}"
        );
        assert!(refusal.message.ends_with(", and 9980 more"), "{refusal}");
        assert!(refusal.message.len() < 2000, "{refusal}");
    }
}
