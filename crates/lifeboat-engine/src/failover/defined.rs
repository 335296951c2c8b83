//! What the hypervisor is to know of a VM beside its processes: the machine of a replica that has not run here, a machine on the
//! disks of a branch, and a machine of this host that may not be started. It follows from the record alone ([`duty`]), and is
//! made so again after each change of the record and each start of the daemon, until the hypervisor has taken it. That it does
//! not is a problem to be shown; replication and points are not touched by it. Starting VMs is not here.

use crate::contract::Refusal;
use crate::core::Core;
use crate::failover::Done;
use crate::port::hypervisor::{Hypervisor, HypervisorError, Launch, Role};
use crate::record::{FailoverPhase, Relationship, Side};
use crate::work::calls::failed;
use crate::work::launch::connected;
use crate::work::piece::{Work, droppable};
use lifeboat_model::Finding;
use lifeboat_model::ProblemKind;
use lifeboat_model::causes::chain;
use lifeboat_model::policy::backoff;
use lifeboat_model::{BranchId, NicFailover, VmId, VmSpec, lifecycle};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long the hypervisor may take for one order. Nothing else is done for the VM meanwhile.
const ANSWER: Duration = Duration::from_secs(5);

/// How long the replica's storage may take to say where the disks are.
const LOOK: Duration = Duration::from_secs(2);

/// What the hypervisor is to have of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Nothing is to be said: this host has no machine of it, or the VM is between two roles, and what was said stands.
    Nothing,
    /// The host's own machine, as it was described here.
    Free,
    /// The host's own machine, which must not be started: the VM runs, or is about to run, elsewhere.
    Held,
    /// A machine that came from another host, with these disks; with none before a failover.
    Defined(Role, Option<BranchId>),
}

/// What the record asks for. `own`: the VM is described on this host.
pub(crate) fn duty(own: bool, rel: Option<&Relationship>) -> Duty {
    let described = if own { Duty::Free } else { Duty::Nothing };
    let Some(rel) = rel else { return described };
    let home = rel
        .home
        .as_ref()
        .map(|h| Duty::Defined(Role::Primary, Some(h.branch)));
    match &rel.side {
        Side::Test { branch, .. } => Duty::Defined(Role::Test, Some(*branch)),
        Side::Alone => home.unwrap_or(described),
        Side::Primary(_) if !lifecycle::may_start(rel.mode, rel.state) => Duty::Held,
        Side::Primary(_) => home.unwrap_or(described),
        Side::Replica(side) => match side.failover.as_ref().map(|f| (f.phase, f.branch)) {
            None if own => Duty::Held,
            None => Duty::Defined(Role::Replica, None),
            // The VM may run on the branch, which may be half there. What starts it says of what first.
            Some((FailoverPhase::Initiating { .. } | FailoverPhase::Reverting, _)) => Duty::Nothing,
            Some((FailoverPhase::Ready | FailoverPhase::Committing { .. }, branch)) => {
                Duty::Defined(Role::FailedOver, Some(branch))
            }
            Some((FailoverPhase::Merging | FailoverPhase::Done, branch)) => {
                Duty::Defined(Role::Primary, Some(branch))
            }
        },
    }
}

/// What an actor knows of the hypervisor's knowledge. It can be lost: then the hypervisor is told again.
#[derive(Default)]
pub(crate) struct Definition {
    told: Option<Told>,
    /// What was refused is tried again then.
    again: Option<Instant>,
    attempts: u32,
    /// Why the hypervisor did not take it.
    refused: Option<String>,
}

/// What the hypervisor was told: a duty, and the machine as it was then.
#[derive(Debug, PartialEq)]
pub(crate) struct Told {
    duty: Duty,
    machine: Option<(VmSpec, Vec<NicFailover>)>,
}

/// An order to the hypervisor.
enum Order {
    Free,
    Hold,
    Define(Box<Launch>, Role),
}

async fn carry_out(hypervisor: &dyn Hypervisor, vm: VmId, order: &Order) -> Result<(), HypervisorError> {
    match order {
        Order::Free => answered(hypervisor.free(vm)).await,
        Order::Hold => answered(hypervisor.hold(vm)).await,
        Order::Define(launch, role) => define(hypervisor, launch, *role).await,
    }
}

/// The hypervisor's answer, within bounded time.
async fn answered(order: impl Future<Output = Result<(), HypervisorError>>) -> Result<(), HypervisorError> {
    match tokio::time::timeout(ANSWER, order).await {
        Ok(answer) => answer,
        Err(_) => Err(HypervisorError::Monitor(format!(
            "the hypervisor has not answered for {} s",
            ANSWER.as_secs()
        ))),
    }
}

/// Has the hypervisor know a machine.
pub(crate) async fn define(
    hypervisor: &dyn Hypervisor,
    launch: &Launch,
    role: Role,
) -> Result<(), HypervisorError> {
    answered(hypervisor.define(launch, role)).await
}

impl Core {
    pub(crate) fn duty(&self) -> Duty {
        duty(self.local.is_some(), self.rel.as_ref())
    }

    /// The order that a duty comes to, and what will be known then.
    async fn order(&self, duty: Duty) -> Result<Option<(Told, Order)>, Refusal> {
        let (role, branch) = match duty {
            Duty::Nothing => return Ok(None),
            Duty::Free => return Ok(Some((Told { duty, machine: None }, Order::Free))),
            Duty::Held => return Ok(Some((Told { duty, machine: None }, Order::Hold))),
            Duty::Defined(role, branch) => (role, branch),
        };
        let Some(rel) = self.rel.as_ref() else {
            return Ok(None);
        };
        let launch = match branch {
            Some(_) => self.launch().await?,
            None => Launch {
                spec: connected(&rel.spec, &rel.network, self.local.as_ref()),
                disks: Vec::new(),
                firmware_vars: None,
                seed: Vec::new(),
            },
        };
        let machine = Some((rel.spec.clone(), rel.network.clone()));
        Ok(Some((
            Told { duty, machine },
            Order::Define(Box::new(launch), role),
        )))
    }
}

impl Definition {
    /// Whether the hypervisor was told of just this.
    fn is_told(&self, core: &Core, duty: Duty) -> bool {
        let told = self.told.as_ref().filter(|t| t.duty == duty);
        match (told.map(|t| &t.machine), core.rel.as_ref()) {
            (Some(Some((spec, cards))), Some(rel)) => *spec == rel.spec && *cards == rel.network,
            (Some(None), _) => true,
            (Some(Some(_)), None) | (None, _) => false,
        }
    }

    /// Tells the hypervisor what it does not know yet.
    pub(crate) async fn plan_definition(&mut self, core: &Core) -> Option<Work<Done>> {
        let duty = core.duty();
        if duty == Duty::Nothing || self.is_told(core, duty) {
            self.again = None;
            return None;
        }
        if self.again.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        let order = match tokio::time::timeout(LOOK, core.order(duty)).await {
            Ok(order) => order.map_err(|e| e.message),
            Err(_) => Err("the replica's storage does not say where the disks are".to_owned()),
        };
        match order {
            Ok(order) => {
                let (told, order) = order?;
                let (hypervisor, vm) = (core.hypervisor(), core.id);
                Some(droppable(async move {
                    let done = carry_out(&*hypervisor, vm, &order).await;
                    Done::Defined(done.map(|()| told))
                }))
            }
            Err(why) => {
                self.not_defined(core, why).await;
                None
            }
        }
    }

    pub(crate) async fn defined(&mut self, core: &Core, result: Result<Told, HypervisorError>) {
        match result {
            Ok(told) => self.now_defined(core, told).await,
            Err(e) => self.not_defined(core, chain(&e)).await,
        }
    }

    async fn now_defined(&mut self, core: &Core, told: Told) {
        (self.told, self.again, self.attempts) = (Some(told), None, 0);
        if self.refused.take().is_some() {
            info!(vm = %core.id, "the hypervisor has taken the VM's definition");
            core.event("the hypervisor has taken the VM's definition").await;
        }
    }

    /// Tried again for ever, like everything that a person may put in order meanwhile; said once.
    async fn not_defined(&mut self, core: &Core, why: String) {
        let attempts = self.attempts.saturating_add(1);
        (self.told, self.attempts) = (None, attempts);
        self.again = Some(Instant::now() + backoff(attempts));
        if self.refused.as_ref() != Some(&why) {
            warn!(vm = %core.id, why, "the hypervisor does not take the VM's definition");
            core.event(&refusal_text(&why)).await;
            self.refused = Some(why);
        }
    }

    /// Something else than this tells the hypervisor of the VM now: what it knows is found out by saying it again.
    pub(crate) fn forget_definition(&mut self) {
        self.told = None;
    }

    /// When the hypervisor is to be told again.
    pub(crate) fn definition_at(&self) -> Option<Instant> {
        self.again
    }

    /// Before a VM is started here: the hypervisor has to know what of, and that it may.
    pub(crate) async fn define_now(&mut self, core: &Core) -> Result<(), Refusal> {
        let duty = core.duty();
        if self.is_told(core, duty) {
            return Ok(());
        }
        let Some((told, order)) = core.order(duty).await? else {
            return Ok(());
        };
        let done = carry_out(&*core.hypervisor(), core.id, &order).await;
        done.map_err(|e| failed("the VM cannot be started here", &e))?;
        self.now_defined(core, told).await;
        Ok(())
    }

    /// Takes back what the hypervisor was told of a VM that came from elsewhere; its relationship ends next.
    pub(crate) async fn undefine(&mut self, core: &Core) -> Result<(), Refusal> {
        let elsewhere = core.rel.as_ref().is_some_and(|rel| match &rel.side {
            Side::Replica(_) | Side::Test { .. } => true,
            Side::Primary(_) | Side::Alone => false,
        });
        // What the host has by itself is freed, once nothing is recorded of it.
        if !elsewhere || core.local.is_some() {
            return Ok(());
        }
        let done = undefine(&*core.hypervisor(), core.id).await;
        (*self) = Definition::default();
        done.map_err(|e| failed("the hypervisor does not let go of the replica's machine", &e))
    }

    /// What an administrator should know of it.
    pub(crate) fn definition_finding(&self) -> Option<Finding> {
        let why = self.refused.as_ref()?;
        Some(Finding::warning(ProblemKind::NotDefined, refusal_text(why)))
    }
}

/// Takes a machine back.
pub(crate) async fn undefine(hypervisor: &dyn Hypervisor, vm: VmId) -> Result<(), HypervisorError> {
    answered(hypervisor.undefine(vm)).await
}

fn refusal_text(why: &str) -> String {
    format!("this host's hypervisor does not take the VM's definition: {why}; it is tried again")
}
