//! Whether a record can be reached by anything else: a VM whose description is gone, a test whose replica is gone, a
//! relationship whose other side is gone.

use crate::contract::Refusal;
use crate::contract::refusal::no_relationship;
use crate::core::Core;
use crate::host::orphans::to_own_images;
use crate::port::hypervisor::{Launch, PowerState};
use crate::record::Relationship;
use crate::work::calls::failed;
use crate::work::launch::plain;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{Finding, Note, ProblemKind, VmId, VmSpec, hint};

impl Core {
    /// The VM as it is described, else as it is recorded: for showing it, and for ending its relationship.
    pub(crate) fn known_spec(&self) -> Option<&VmSpec> {
        self.spec().ok().or(self.rel.as_ref().map(|rel| &rel.spec))
    }

    /// What is wrong when what this VM is started on cannot be said. One thing that is wrong is told once.
    pub(crate) fn launch_problem(&self) -> ProblemKind {
        if self.description_gone().is_some() {
            ProblemKind::DescriptionGone
        } else {
            ProblemKind::LaunchUnknown
        }
    }

    /// Where the description of this VM should be and what follows from its absence; `None` while it is there or not
    /// needed.
    pub(crate) fn description_gone(&self) -> Option<Finding> {
        let rel = self.rel.as_ref()?;
        let needed = matches!(rel.mode, Mode::Primary) && rel.home.is_none();
        if !needed || self.local.is_some() {
            return None;
        }
        let dir = match self.host.config.vm_dir.as_str() {
            "" => "the VM directory",
            dir => dir,
        };
        let text = format!(
            "the VM's description is gone: no file in {dir} has uuid = \"{}\"",
            self.id
        );
        let file = format!("{dir}/{}.toml", rel.spec.name);
        let note = Note::new(text, hint::Replicate::DescribeOrRemove { file });
        Some(Finding::critical(ProblemKind::DescriptionGone, note))
    }

    /// Which replicated disks the VM's description does not have any more; `None` when it has all.
    fn disks_gone(&self, rel: &Relationship) -> Option<Finding> {
        let local = self.local.as_ref().filter(|_| rel.mode == Mode::Primary)?;
        let (left, gone): (Vec<_>, Vec<_>) = rel.settings.disks.iter().partition(|d| local.disk(d).is_some());
        if gone.is_empty() {
            return None;
        }
        let names = |ids: Vec<&lifeboat_model::DiskId>| -> Vec<String> {
            ids.into_iter().map(ToString::to_string).collect()
        };
        let text = format!(
            "the VM's description has no disk {} any more, which is replicated",
            names(gone).join(", ")
        );
        let disks = names(left);
        let note = Note::new(text, hint::Replicate::DescribeOrExclude { disks });
        Some(Finding::critical(ProblemKind::DisksGone, note))
    }

    /// What of this actor's records nothing else explains.
    pub(crate) fn orphan_findings(&self, rel: &Relationship) -> Vec<Finding> {
        self.description_gone()
            .into_iter()
            .chain(self.disks_gone(rel))
            .collect()
    }

    /// The VM's disks as they are recorded, when it has no description any more.
    pub(crate) async fn recorded_launch(&self) -> Result<Launch, Refusal> {
        if self.spec().is_ok() {
            return self.launch().await;
        }
        let spec = self.known_spec().ok_or_else(no_relationship)?.clone();
        Ok(Launch {
            disks: spec.disks.iter().map(plain).collect(),
            spec,
            firmware_vars: None,
            seed: Vec::new(),
        })
    }

    /// A VM that runs on the files must be off before nothing knows of them any more.
    pub(crate) async fn off_for_removal(&self) -> Result<(), Refusal> {
        match self.power().await? {
            PowerState::Off => Ok(()),
            PowerState::Unknown => Err(Refusal::new(
                ReturnCode::InUse,
                "it is not known whether the VM runs here on the files of this replica",
                hint::Look::Vm,
            )),
            PowerState::Running | PowerState::Paused | PowerState::Stalled => Err(Refusal::new(
                ReturnCode::InUse,
                "the VM runs here on the files of this replica",
                hint::Guest::TurnOff,
            )),
        }
    }

    /// Whether the VM's own images, which a replica stands on, are as the VM left them. They are until the first point is
    /// there, because only expiring points are merged into them; after that until what they held is dropped. A replica
    /// without files stands on nothing.
    pub(crate) async fn images_whole(&self, state: State) -> Result<(), Refusal> {
        if state == State::WaitingToCompleteInitialReplication {
            return Ok(());
        }
        match self.store_info().await {
            Ok(info) if info.abandoned.is_none() => Err(Refusal::new(
                ReturnCode::InvalidState,
                "this replica stands on the VM's own images on this host, and was merged into them",
                to_own_images(state),
            )),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// A test is ended by its replica, as long as that knows of it.
    pub(crate) async fn no_replica_of_test(&self, of: VmId) -> Result<(), Refusal> {
        let image = self.host.ports.catalog.load().await;
        let image = image.map_err(|e| failed("the catalog cannot be read", &e))?;
        let replica = image.relationships.iter().find(|r| r.vm == of && r.index == 0);
        let knows = |r: &&Relationship| {
            let test = r.replica().and_then(|side| side.test.as_ref());
            test.is_some_and(|t| t.vm == self.id)
        };
        match replica.filter(knows) {
            None => Ok(()),
            Some(replica) => Err(Refusal::new(
                ReturnCode::InvalidState,
                format!("this is the VM of a test of \"{}\" ({of})", replica.spec.name),
                hint::Failover::EndTestOf {
                    replica: replica.spec.name.clone(),
                },
            )),
        }
    }
}
