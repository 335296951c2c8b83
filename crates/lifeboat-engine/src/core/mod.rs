//! What the parts of an actor share: the relationship as it is recorded, and what is noted and asked without knowing which part of
//! the actor wants it. Here is no state of a part and no decision what to do next.

pub(crate) mod age;
pub(crate) mod aging;
pub(crate) mod change;
pub(crate) mod disk_files;
pub(crate) mod keys;
pub(crate) mod order;
pub(crate) mod orphans;
pub(crate) mod point_guid;
pub(crate) mod power;
pub(crate) mod presence;
pub(crate) mod question;
pub(crate) mod quota;
pub(crate) mod references;
pub(crate) mod settings;
pub(crate) mod shared_disks;
pub(crate) mod stores;
pub(crate) mod turn;

use crate::contract::Refusal;
use crate::core::change::Recorded;
use crate::host::Host;
use crate::host::observe::Observer;
use crate::host::references::Card;
use crate::port::hypervisor::{Launch, Power, PowerState};
use crate::record::{FailoverPhase, Side};
use crate::work::calls::failed;
use crate::work::launch::plain;
use crate::work::message::Message;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{BranchId, ReplicationMode, VmId, VmSpec};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What the parts of an actor share: the VM, its relationship as it is recorded, and the ways to the host and to the actor itself.
pub(crate) struct Core {
    pub(crate) id: VmId,
    pub(crate) host: Arc<Host>,
    /// The VM as this host's administrator described it; `None` for a VM that is only a replica.
    pub(crate) local: Option<VmSpec>,
    pub(crate) rel: Recorded,
    /// What others know of it.
    pub(crate) card: Card,
    /// The way into the actor's mailbox, for what its parts start.
    pub(crate) own: mpsc::WeakSender<Message>,
    /// What was last seen of the VM, for callers that look at it from outside.
    pub(crate) observer: Arc<Observer>,
    /// A change of roles was under way when the daemon started.
    pub(crate) resumed: bool,
    /// When work of the replica goes on, as what was recorded last asks for it.
    pub(crate) wake: Option<Wake>,
    /// The store has the replica open.
    pub(crate) opened: bool,
}

/// When the next piece of work of a replica may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// At once: a change was recorded that there may be work for.
    Now,
    /// At once, and what is here may be sealed.
    Seal,
    /// After a pause: a change could not be recorded.
    Later,
}

impl Core {
    /// The VM's description, wherever it comes from.
    pub(crate) fn spec(&self) -> Result<&VmSpec, Refusal> {
        let recorded = self.rel.as_ref();
        let copy = recorded
            .filter(|r| !matches!(r.mode, ReplicationMode::Primary | ReplicationMode::None))
            .map(|r| &r.spec);
        copy.or(self.local.as_ref())
            .or(recorded.filter(|r| r.home.is_some()).map(|r| &r.spec))
            .ok_or_else(|| match self.description_gone() {
                Some(gone) => Refusal {
                    hint: gone.hint,
                    ..Refusal::bare(ReturnCode::InvalidState, gone.text)
                },
                None => crate::host::references::no_vm(&self.id.to_string()),
            })
    }

    /// The VM with the images it has on this host now.
    pub(crate) async fn launch(&self) -> Result<Launch, Refusal> {
        let spec = self.spec()?.clone();
        let Some((of, branch)) = self.runs_on() else {
            return Ok(Launch {
                disks: spec.disks.iter().map(plain).collect(),
                spec,
                firmware_vars: None,
                seed: Vec::new(),
            });
        };
        self.launch_branch(spec, of, branch).await
    }

    /// The VM on the images of a branch.
    pub(crate) async fn launch_branch(
        &self,
        spec: VmSpec,
        of: VmId,
        branch: BranchId,
    ) -> Result<Launch, Refusal> {
        let rel = self.rel.as_ref();
        let cards = rel.map_or(&[][..], |r| &r.network);
        let spec = match rel.map(|r| &r.side) {
            // It was connected when it was made.
            Some(Side::Test { .. }) => spec,
            _ => crate::work::launch::connected(&spec, cards, self.local.as_ref()),
        };
        let launch = async {
            crate::work::launch::branch_launch(&*self.host.images_of(of)?, spec, cards, (of, branch)).await
        };
        launch
            .await
            .map_err(|e| failed("the VM's disks in the replica store are not there", &e))
    }

    /// The branch in the store that the VM's disks are on, and whose replica it belongs to; `None`: the images of its
    /// description.
    pub(crate) fn runs_on(&self) -> Option<(VmId, BranchId)> {
        let rel = self.rel.as_ref()?;
        match &rel.side {
            Side::Replica(r) => r.failover.as_ref().map(|f| (self.id, f.branch)),
            Side::Test { of, branch } => Some((*of, *branch)),
            Side::Primary(_) | Side::Alone => rel.home.as_ref().map(|h| (self.id, h.branch)),
        }
    }

    /// What the VM does, for an action that depends on it: what is not known is a refusal.
    pub(crate) async fn power(&self) -> Result<PowerState, Refusal> {
        match self.look().await {
            Power::NotKnown { why } => Err(crate::host::power::not_known(&why)),
            known @ (Power::Off | Power::Running | Power::Paused | Power::Stalled(_)) => Ok(known.state()),
        }
    }

    /// What the VM does, as far as it can be told.
    pub(crate) async fn look(&self) -> Power {
        crate::host::power::look(&*self.hypervisor(), self.id).await
    }

    pub(crate) fn branch(&self) -> Option<FailoverPhase> {
        self.rel.as_ref()?.failover().map(|f| f.phase)
    }
}
