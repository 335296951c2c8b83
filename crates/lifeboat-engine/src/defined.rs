//! What the hypervisor is to know of a VM beside its processes: the machine of a replica that has not run here, a machine on the
//! disks of a branch, and a machine of this host that may not be started. It follows from the record alone ([`duty`]), and is
//! made so again after each change of the record and each start of the daemon, until the hypervisor has taken it. That it does
//! not is a problem to be shown; replication and points are not touched by it. Starting VMs is not here.

use std::time::Duration;

use lifeboat_model::policy::{Finding, backoff};
use lifeboat_model::{BranchId, NicFailover, VmId, VmSpec, lifecycle};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::action::Refusal;
use crate::actor::{Actor, Done, Work, chain, failed};
use crate::network::connected;
use crate::ports::hypervisor::{Hypervisor, HypervisorError, Launch, Role};
use crate::primary::droppable;
use crate::records::{FailoverPhase, Relationship, Side};

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

impl Actor {
    pub(crate) fn duty(&self) -> Duty {
        duty(self.local.is_some(), self.rel.as_ref())
    }

    /// Whether the hypervisor was told of just this.
    fn is_told(&self, duty: Duty) -> bool {
        let told = self.definition.told.as_ref().filter(|t| t.duty == duty);
        match (told.map(|t| &t.machine), self.rel.as_ref()) {
            (Some(Some((spec, cards))), Some(rel)) => *spec == rel.spec && *cards == rel.network,
            (Some(None), _) => true,
            (Some(Some(_)), None) | (None, _) => false,
        }
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

    /// Tells the hypervisor what it does not know yet.
    pub(crate) async fn plan_definition(&mut self) -> Option<Work> {
        let duty = self.duty();
        if duty == Duty::Nothing || self.is_told(duty) {
            self.definition.again = None;
            return None;
        }
        if self.definition.again.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        let order = match tokio::time::timeout(LOOK, self.order(duty)).await {
            Ok(order) => order.map_err(|e| e.message),
            Err(_) => Err("the replica's storage does not say where the disks are".to_owned()),
        };
        match order {
            Ok(order) => {
                let (told, order) = order?;
                let (hypervisor, vm) = (self.host.ports.hypervisor.clone(), self.id);
                Some(droppable(async move {
                    let done = carry_out(&*hypervisor, vm, &order).await;
                    Done::Defined(done.map(|()| told))
                }))
            }
            Err(why) => {
                self.not_defined(why).await;
                None
            }
        }
    }

    pub(crate) async fn defined(&mut self, result: Result<Told, HypervisorError>) {
        match result {
            Ok(told) => self.now_defined(told).await,
            Err(e) => self.not_defined(chain(&e)).await,
        }
    }

    async fn now_defined(&mut self, told: Told) {
        (
            self.definition.told,
            self.definition.again,
            self.definition.attempts,
        ) = (Some(told), None, 0);
        if self.definition.refused.take().is_some() {
            info!(vm = %self.id, "the hypervisor has taken the VM's definition");
            self.event("the hypervisor has taken the VM's definition").await;
        }
    }

    /// Tried again for ever, like everything that a person may put in order meanwhile; said once.
    async fn not_defined(&mut self, why: String) {
        let attempts = self.definition.attempts.saturating_add(1);
        (self.definition.told, self.definition.attempts) = (None, attempts);
        self.definition.again = Some(Instant::now() + backoff(attempts));
        if self.definition.refused.as_ref() != Some(&why) {
            warn!(vm = %self.id, why, "the hypervisor does not take the VM's definition");
            self.event(&refusal_text(&why)).await;
            self.definition.refused = Some(why);
        }
    }

    /// Something else than this tells the hypervisor of the VM now: what it knows is found out by saying it again.
    pub(crate) fn forget_definition(&mut self) {
        self.definition.told = None;
    }

    /// When the hypervisor is to be told again.
    pub(crate) fn definition_at(&self) -> Option<Instant> {
        self.definition.again
    }

    /// Before a VM is started here: the hypervisor has to know what of, and that it may.
    pub(crate) async fn define_now(&mut self) -> Result<(), Refusal> {
        let duty = self.duty();
        if self.is_told(duty) {
            return Ok(());
        }
        let Some((told, order)) = self.order(duty).await? else {
            return Ok(());
        };
        let done = carry_out(&*self.host.ports.hypervisor, self.id, &order).await;
        done.map_err(|e| failed("the VM cannot be started here", &e))?;
        self.now_defined(told).await;
        Ok(())
    }

    /// Takes back what the hypervisor was told of a VM that came from elsewhere; its relationship ends next.
    pub(crate) async fn undefine(&mut self) -> Result<(), Refusal> {
        let elsewhere = self.rel.as_ref().is_some_and(|rel| match &rel.side {
            Side::Replica(_) | Side::Test { .. } => true,
            Side::Primary(_) | Side::Alone => false,
        });
        // What the host has by itself is freed, once nothing is recorded of it.
        if !elsewhere || self.local.is_some() {
            return Ok(());
        }
        let done = undefine(&*self.host.ports.hypervisor, self.id).await;
        self.definition = Definition::default();
        done.map_err(|e| failed("the hypervisor does not let go of the replica's machine", &e))
    }

    /// What an administrator should know of it.
    pub(crate) fn definition_finding(&self) -> Option<Finding> {
        let why = self.definition.refused.as_ref()?;
        Some(Finding::warning(refusal_text(why)))
    }
}

/// Takes a machine back.
pub(crate) async fn undefine(hypervisor: &dyn Hypervisor, vm: VmId) -> Result<(), HypervisorError> {
    answered(hypervisor.undefine(vm)).await
}

fn refusal_text(why: &str) -> String {
    format!("this host's hypervisor does not take the VM's definition: {why}; it is tried again")
}
