//! Beginning the actor of a VM. It is here, because only this room knows what an actor is; any code that has the host may
//! ask for one.

use std::sync::Arc;

use lifeboat_model::{VmId, VmSpec};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::actor::Actor;
use crate::host::observe::Observer;
use crate::host::{Handle, Host};
use crate::record::Relationship;

impl Host {
    /// Starts the actor of a VM, unless another task did just now.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        vm: VmId,
        name: String,
        local: Option<VmSpec>,
        rel: Option<Relationship>,
    ) -> Handle {
        let (mailbox, inbox) = mpsc::channel(64);
        let observer = Observer::new(vm, &self.ports, self.changes.clone());
        let own = (mailbox.downgrade(), inbox);
        let actor = Actor::new(vm, self.clone(), local, rel, own, observer.clone());
        let ended = CancellationToken::new();
        let handle = Handle {
            name,
            card: actor.core.card.clone(),
            mailbox,
            observer,
            ended: ended.clone(),
        };
        let there = self.with_actors(|actors| {
            let there = actors.get(&vm).filter(|h| !h.mailbox.is_closed()).cloned();
            if there.is_none() {
                actor.core.rel.tell_place();
                actor.show_unseen();
                actor.core.publish();
                actors.insert(vm, handle.clone());
                actor.core.rel.tell_arrival();
            }
            there
        });
        if let Some(there) = there {
            return there;
        }
        let task = tokio::spawn(async move {
            let _ended = ended.drop_guard();
            actor.run().await;
        });
        self.with_tasks(|t| {
            t.retain(|t| !t.is_finished());
            t.push(task);
        });
        handle
    }
}
