//! The machine around the disks: its description and firmware variables travel with the relationship, and the replica's
//! host says before it matters what would keep the VM from starting there. Disks are not looked at here.

use crate::core::Core;
use crate::port::hypervisor::StateKind;
use crate::port::link::{LinkError, PeerRefusal, PeerReply, PeerRequest};
use crate::port::store::{ImageStore, StoreError};
use crate::record::{Addressing, Relationship};
use crate::source::{Done, SourcePart};
use crate::work::calls::unexpected;
use crate::work::launch::connected;
use crate::work::piece::{Work, droppable};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use lifeboat_model::causes::chain;
use lifeboat_model::{Firmware, Hardware, VmId, VmSpec, network};
use tokio::time::Instant;
use tracing::debug;

/// Cycles between two looks at the firmware's variables, which the guest may change at any time.
const CYCLES: u32 = 10;

/// What the primary remembers of what the replica was told. It can be lost: then the replica is told again.
#[derive(Default)]
pub(crate) struct Told {
    /// Digests of the description with the settings, and of everything.
    last: Option<(blake3::Hash, blake3::Hash)>,
    /// When to look at the variables again; `None`: at once.
    next: Option<Instant>,
}

/// The firmware variables that a replica got last, as they travel; empty when it got none.
pub(crate) async fn firmware_of(images: &dyn ImageStore, vm: VmId) -> Result<String, StoreError> {
    let vars = images.firmware(vm).await?;
    Ok(vars.map(|v| BASE64.encode(v)).unwrap_or_default())
}

/// What of a machine's state travels as its firmware's variables.
fn nvram(state: Vec<(StateKind, Bytes)>) -> Option<Bytes> {
    let nvram = |(kind, bytes)| match kind {
        StateKind::Nvram => Some(bytes),
    };
    state.into_iter().find_map(nvram)
}

/// What the record says of the machine that an administrator should know, in words.
pub(crate) fn notes(rel: &Relationship) -> Vec<String> {
    let start = |p: &String| format!("the VM would not start on the replica: {p}");
    let preflight = rel.preflight.iter().map(start);
    let addresses = match &rel.addressing {
        Addressing::Failed { why } => Some(format!("the guest was not given its addresses: {why}")),
        Addressing::None | Addressing::Due => None,
    };
    preflight.chain(addresses).collect()
}

impl Core {
    /// The machine's firmware variables as they travel; empty when there are none, or when they cannot be read now.
    pub(crate) async fn firmware(&self) -> String {
        let Ok(mut spec) = self.spec().cloned() else {
            return String::new();
        };
        let Hardware::Own(own) = &mut spec.hardware;
        let Firmware::Uefi { vars, .. } = &mut own.firmware else {
            return String::new();
        };
        if let Some((of, branch)) = self.runs_on() {
            let file = async { self.host.images_of(of)?.branch_firmware(of, branch).await };
            match file.await {
                Ok(path) => *vars = Some(path.into()),
                Err(e) => {
                    debug!(vm = %self.id, error = %chain(&e), "firmware variables not found");
                    return String::new();
                }
            }
        }
        match self.hypervisor().machine_state(&spec).await {
            Ok(state) => nvram(state).map(|v| BASE64.encode(v)).unwrap_or_default(),
            Err(e) => {
                debug!(vm = %self.id, error = %chain(&e), "firmware variables not read");
                String::new()
            }
        }
    }

    /// Takes in what would keep the VM from starting on the replica.
    async fn preflight(&mut self, problems: Vec<String>) {
        if self.rel.as_ref().is_none_or(|r| r.preflight == problems) {
            return;
        }
        let text = if problems.is_empty() {
            "the VM would start on the replica".to_owned()
        } else {
            format!("the VM would not start on the replica: {}", problems.join("; "))
        };
        self.note(|rel| rel.preflight = problems).await;
        self.event(&text).await;
    }

    /// What would keep this replica's VM from starting here, connected as its settings say.
    pub(crate) async fn problems(&self) -> Vec<String> {
        match self.rel.as_ref() {
            Some(rel) => {
                let machine = connected(&rel.spec, &rel.network, self.local.as_ref());
                let seed = network::no_cloud(&rel.network, "").is_ok_and(|seed| !seed.is_empty());
                let mut problems = self.hypervisor().missing(&machine).await;
                problems.extend(machine.too_many_devices(seed));
                problems
            }
            None => Vec::new(),
        }
    }

    /// The VM has another name now, which must be its own on this host.
    pub(crate) fn rename(&self, name: &str) -> Result<(), PeerRefusal> {
        self.host.with_actors(|actors| {
            if actors.iter().any(|(vm, h)| *vm != self.id && h.is_named(name)) {
                let host = &self.host.config.name;
                return Err(PeerRefusal::Conflict {
                    detail: format!("{host} has another VM named \"{name}\"").into(),
                });
            }
            if let Some(own) = actors.get_mut(&self.id) {
                name.clone_into(&mut own.name);
            }
            Ok(())
        })
    }
}

impl SourcePart {
    /// Tells the replica of the machine and the settings if they are not what it was told last.
    pub(crate) async fn plan_update(&mut self, core: &Core) -> Option<Work<Done>> {
        let spec = core.spec().ok()?.clone();
        let rel = core.rel.as_ref()?;
        let (settings, peer) = (rel.settings.clone(), rel.peer.clone());
        let fine = rel.preflight.is_empty();
        let described = serde_json::to_vec(&(&spec, &settings)).ok()?;
        let described = blake3::hash(&described);
        let due = self.told.next.is_none_or(|at| Instant::now() >= at);
        if !due && self.told.last.is_none_or(|(before, _)| before == described) {
            return None;
        }
        let firmware = core.firmware().await;
        let all = blake3::hash(&[described.as_bytes(), firmware.as_bytes()].concat());
        let told = (described, all);
        // What the replica lacked it may have got, and would not say so by itself.
        if self.told.last == Some(told) && fine {
            self.look_again_after(core, CYCLES);
            return None;
        }
        let link = core.host.ports.link.clone();
        Some(droppable(async move {
            let request = PeerRequest::Update {
                vm: Box::new(spec.clone().into()),
                settings,
                firmware,
            };
            let answer = match link.call(&peer, request).await {
                Ok(PeerReply::Checked { problems }) => Ok(problems),
                Ok(other) => Err(unexpected(&peer, &other)),
                Err(e) => Err(e),
            };
            Done::Checked(Checked { told, spec, answer })
        }))
    }

    fn look_again_after(&mut self, core: &Core, cycles: u32) {
        let interval = core.rel.as_ref().map(|r| r.settings.interval());
        self.told.next = interval.map(|i| Instant::now() + i * cycles);
    }

    pub(crate) async fn checked(&mut self, core: &mut Core, done: Checked) {
        let problems = match done.answer {
            Ok(problems) => problems,
            Err(LinkError::Refused(PeerRefusal::Conflict { detail })) => {
                self.told.last = None;
                self.look_again_after(core, 1);
                return core
                    .preflight(vec![format!("it does not take what changed: {detail}")])
                    .await;
            }
            Err(e) => {
                // The error is ignored: its cause also keeps cycles from arriving, and that is reported.
                debug!(vm = %core.id, error = %chain(&e), "the replica was not told of the machine");
                self.told.last = None;
                return self.look_again_after(core, 1);
            }
        };
        self.told.last = Some(done.told);
        self.look_again_after(core, CYCLES);
        core.note(|rel| rel.spec = done.spec).await;
        core.preflight(problems).await;
    }
}

/// What the replica said to a machine.
pub(crate) struct Checked {
    told: (blake3::Hash, blake3::Hash),
    spec: VmSpec,
    answer: Result<Vec<String>, LinkError>,
}
