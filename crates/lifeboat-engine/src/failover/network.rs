//! The network of a failed-over VM: what an administrator sets, and a guest that is given its addresses once its agent
//! answers. That happens behind: it never fails or delays a failover, and ends with what the guest runs on.

use crate::contract::refusal::no_relationship;
use crate::contract::{Answer, Refusal};
use crate::core::Core;
use crate::port::hypervisor::{GuestOs, Hypervisor, HypervisorError};
use crate::record::{Addressing, FailoverPhase, Relationship, Side};
use crate::work::message::{Given, Message};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::network::{self};
use lifeboat_model::network::{GuestCommand, NicFailover};
use lifeboat_model::{VmId, hint, words};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often an agent that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// How long a guest may take until its agent answers.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long one command may take; a guest may wait for a DHCP server in it.
const COMMAND: Duration = Duration::from_secs(60);

/// How often the commands are run before their failure counts: cards appear late in a boot.
const ATTEMPTS: u32 = 5;

/// The task that waits for a guest; dropped, it ends.
#[derive(Default)]
pub(crate) struct GuestNetworkTask(Option<JoinHandle<()>>);

impl GuestNetworkTask {
    pub(crate) fn end(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

impl Drop for GuestNetworkTask {
    fn drop(&mut self) {
        self.end();
    }
}

/// Why a guest was not given its addresses.
#[derive(Debug, thiserror::Error)]
enum AddressError {
    #[error("only Linux and Windows guests can be told addresses by their agent")]
    OtherSystem,
    #[error(transparent)]
    Settings(#[from] network::NetworkError),
    #[error(transparent)]
    Agent(#[from] HypervisorError),
    #[error("the commands in the guest ended with {ended}: {output}")]
    Command {
        /// `code N`, or `a signal`.
        ended: String,
        /// What they printed, at most 400 characters.
        output: String,
    },
}

fn commands(os: GuestOs, cards: &[NicFailover]) -> Result<Vec<GuestCommand>, AddressError> {
    let commands = match os {
        GuestOs::Linux => network::linux(cards),
        GuestOs::Windows => network::windows(cards),
        GuestOs::Other => return Err(AddressError::OtherSystem),
    };
    Ok(commands?)
}

/// Waits for the agent and runs the commands; each can be repeated.
async fn give(hypervisor: &dyn Hypervisor, vm: VmId, cards: &[NicFailover]) -> Given {
    let until = Instant::now() + PATIENCE;
    let os = loop {
        let silent = match hypervisor.guest_os(vm).await {
            Ok(os) => break os,
            Err(e) => chain(&e),
        };
        if hypervisor.power(vm).await.is_off() {
            return Given::Off;
        }
        if Instant::now() >= until {
            let minutes = PATIENCE.as_secs() / 60;
            return Given::Failed(format!(
                "the guest's agent did not answer for {minutes} minutes: {silent}"
            ));
        }
        tokio::time::sleep(AGAIN).await;
    };
    let commands = match commands(os, cards) {
        Ok(commands) => commands,
        Err(why) => return Given::Failed(chain(&why)),
    };
    let mut attempt = 1;
    loop {
        match run(hypervisor, vm, &commands).await {
            Ok(()) => return Given::Done,
            Err(_) if hypervisor.power(vm).await.is_off() => return Given::Off,
            Err(why) if attempt >= ATTEMPTS => return Given::Failed(chain(&why)),
            Err(_) => attempt += 1,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn run(hypervisor: &dyn Hypervisor, vm: VmId, commands: &[GuestCommand]) -> Result<(), AddressError> {
    for command in commands {
        let ran = hypervisor.guest_run(vm, command.program, &command.arguments, COMMAND);
        let ended = ran.await?;
        if ended.code != Some(0) {
            let code = ended
                .code
                .map_or_else(|| "a signal".to_owned(), |c| format!("code {c}"));
            let output: String = words::shown(ended.output.trim()).chars().take(400).collect();
            return Err(AddressError::Command { ended: code, output });
        }
    }
    Ok(())
}

impl Relationship {
    /// The guest is to be given its addresses when the VM starts now, if it starts on disks of the store.
    pub(crate) fn expect_addresses(&mut self, on_branch: bool) {
        let due = on_branch && self.network.iter().any(NicFailover::tells);
        self.addressing = if due { Addressing::Due } else { Addressing::None };
    }
}

impl Core {
    /// SetFailoverNetworkAdapterSettings: for the copy of this host, when it is failed over or tested next.
    pub(crate) async fn set_failover_network(&mut self, cards: Vec<NicFailover>) -> Result<Answer, Refusal> {
        let spec = self.spec()?;
        match self.rel.as_ref().map(|r| &r.side) {
            Some(Side::Primary(_) | Side::Replica(_)) => {}
            None | Some(Side::Test { .. } | Side::Alone) => return Err(no_relationship()),
        }
        network::validate(&cards, &spec.nics).map_err(|e| {
            let hint = hint::Look::Cards;
            Refusal::new(ReturnCode::InvalidParameter, e.to_string(), hint)
        })?;
        let mut change = self.change()?;
        change.network = cards;
        change.tell("network settings for a failover changed");
        self.commit(change).await?;
        Ok(Answer::Done)
    }

    /// Whether this record lets a VM run on disks of the store.
    fn guest_may_run(&self) -> bool {
        match self.branch() {
            Some(FailoverPhase::Ready | FailoverPhase::Merging | FailoverPhase::Done) => true,
            Some(
                FailoverPhase::Initiating { .. }
                | FailoverPhase::Reverting
                | FailoverPhase::Committing { .. },
            ) => false,
            None => self.runs_on().is_some(),
        }
    }
}

impl GuestNetworkTask {
    /// Begins to wait for the guest when the record wants it, and stops when it no longer does.
    pub(crate) fn attend_guest(&mut self, core: &Core) {
        let due = core.rel.as_ref().filter(|r| r.addressing == Addressing::Due);
        let Some(rel) = due.filter(|_| core.guest_may_run()) else {
            return self.end();
        };
        if self.0.is_some() {
            return;
        }
        let (cards, agent) = (rel.network.clone(), rel.spec.guest_agent);
        let (hypervisor, vm, own) = (core.hypervisor(), core.id, core.own.clone());
        self.0 = Some(tokio::spawn(async move {
            let given = if agent {
                give(&*hypervisor, vm, &cards).await
            } else {
                Given::Failed("the VM has no guest agent; only cloud-init can take the addresses".into())
            };
            if let Some(own) = own.upgrade() {
                // An actor that is gone finds in its record at the next start what was asked for.
                let _ = own.send(Message::Addressed(given)).await;
            }
        }));
    }

    pub(crate) async fn addressed(&mut self, core: &mut Core, given: Given) {
        self.0 = None;
        if core.rel.as_ref().is_none_or(|r| r.addressing != Addressing::Due) {
            return;
        }
        let (next, told) = match given {
            Given::Done => (
                Addressing::None,
                Some("the guest has its addresses for this network".to_owned()),
            ),
            Given::Off => (Addressing::None, None),
            Given::Failed(why) => {
                let told = format!("the guest was not given its addresses: {why}");
                (Addressing::Failed { why }, Some(told))
            }
        };
        core.note(|rel| rel.addressing = next).await;
        if let Some(told) = told {
            core.event(&told).await;
        }
    }
}
