//! Records that nothing else can reach: VMs whose description is gone, tests whose replica is gone, relationships whose
//! other side is gone or whose files are, records and files of former versions and former hosts. Each is shown, can be
//! named by its UUID, and can be removed; no file of a VM's data is deleted here.

use std::collections::BTreeSet;
use std::sync::{PoisonError, Weak};
use std::time::Duration;

use camino::Utf8Path;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::policy::Finding;
use lifeboat_model::shell::{argument, quoted};
use lifeboat_model::{JobState, ReplicationMode as Mode, ReplicationState as State, VmId, VmSpec};
use tokio::time::Instant;
use tracing::warn;

use crate::action::{Answer, Refusal};
use crate::actor::{Actor, chain, failed, no_relationship, plain};
use crate::engine::Host;
use crate::ports::hypervisor::{Launch, PowerState};
use crate::records::{FailoverPhase, Relationship, ReplicaSide, Side};
use crate::replica::ReplicaState;

/// Time between two looks at the storage locations.
const LOOK: Duration = Duration::from_secs(600);
/// How long a look at one location may take: its storage may hang.
const PATIENCE: Duration = Duration::from_secs(10);

impl Actor {
    /// The VM as it is described, else as it is recorded: for showing it, and for ending its relationship.
    pub(crate) fn known_spec(&self) -> Option<&VmSpec> {
        self.spec().ok().or(self.rel.as_ref().map(|rel| &rel.spec))
    }

    /// Where the description of this VM should be and what follows from its absence; `None` while it is there or not
    /// needed.
    pub(crate) fn description_gone(&self) -> Option<String> {
        let rel = self.rel.as_ref()?;
        let needed = matches!(rel.mode, Mode::Primary) && rel.home.is_none();
        if !needed || self.local.is_some() {
            return None;
        }
        let dir = match self.host.config.vm_dir.as_str() {
            "" => "the VM directory",
            dir => dir,
        };
        let name = &rel.spec.name;
        Some(format!(
            "the VM's description is gone: no file in {dir} has uuid = \"{}\"; put it back, for example as {dir}/{name}.toml, and \
             restart the daemon, or end the replication: lifeboat replication remove {}",
            self.id,
            argument(name)
        ))
    }

    /// Which replicated disks the VM's description does not have any more, and the command that takes that over; `None`
    /// when it has all.
    fn disks_gone(&self, rel: &Relationship) -> Option<String> {
        let local = self.local.as_ref().filter(|_| rel.mode == Mode::Primary)?;
        let (left, gone): (Vec<_>, Vec<_>) = rel.settings.disks.iter().partition(|d| local.disk(d).is_some());
        if gone.is_empty() {
            return None;
        }
        let names = |ids: &[&lifeboat_model::DiskId], before: &str, between: &str| {
            let all: Vec<String> = ids.iter().map(|id| format!("{before}{id}")).collect();
            all.join(between)
        };
        let way_out = match left.as_slice() {
            [] => format!("lifeboat replication remove {}", argument(&local.name)),
            left => format!(
                "lifeboat replication set {} {}",
                quoted(&local.name),
                names(left, "--disk ", " ")
            ),
        };
        Some(format!(
            "the VM's description has no disk {} any more, which is replicated: put it back and restart the daemon, or replicate \
             without it: {way_out}",
            names(&gone, "", ", ")
        ))
    }

    /// What of this actor's records nothing else explains.
    pub(crate) fn orphan_findings(&self, rel: &Relationship) -> Vec<Finding> {
        self.description_gone()
            .into_iter()
            .chain(self.disks_gone(rel))
            .map(Finding::critical)
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

    /// Ends a relationship on this side by its record alone, whatever state it is in: nobody is asked, no file is needed,
    /// none is deleted. Only a VM that runs on the files in question stops it.
    pub(crate) async fn forget(&mut self) -> Result<Answer, Refusal> {
        let rel = self.rel.clone().ok_or_else(no_relationship)?;
        match &rel.side {
            Side::Alone => Err(no_relationship()),
            Side::Primary(_) => {
                self.remove_primary().await?;
                self.event("replication removed").await;
                Ok(Answer::Done)
            }
            Side::Test { of, branch } => {
                self.no_replica_of_test(*of).await?;
                self.off_for_removal().await?;
                // A branch of a replica that is gone is gone with it.
                if let Err(e) = self.host.ports.store.drop_branch(*of, *branch).await {
                    warn!(vm = %self.id, error = %chain(&e), "the test's disks are not thrown away");
                }
                self.drop_record("the test VM's record was removed").await
            }
            Side::Replica(side) => self.forget_replica(&rel, side).await,
        }
    }

    async fn forget_replica(&mut self, rel: &Relationship, side: &ReplicaSide) -> Result<Answer, Refusal> {
        if let Some(FailoverPhase::Merging | FailoverPhase::Done) = side.failover.as_ref().map(|f| f.phase) {
            // The VM lives here by now: that is more than a record.
            return Box::pin(self.remove()).await;
        }
        self.off_for_removal().await?;
        if side.own && self.local.is_some() && side.dir.is_some() {
            self.images_whole(rel.state).await?;
        }
        if let Some(test) = &side.test {
            self.host.dismiss(test.vm).await;
            let off = self.host.ports.hypervisor.turn_off(test.vm).await;
            off.map_err(|e| failed("the test VM is not off", &e))?;
            let hypervisor = &*self.host.ports.hypervisor;
            if let Err(e) = crate::defined::undefine(hypervisor, test.vm).await {
                warn!(vm = %test.vm, error = %chain(&e), "the hypervisor keeps the test VM's machine");
            }
            let removed = self.host.ports.catalog.remove_relationship(test.vm, 0).await;
            removed.map_err(|e| failed("the catalog cannot be written", &e))?;
        }
        self.interrupt().await;
        self.replica.stop_receiving().await;
        if side.dir.is_none()
            && let Some(home) = rel.home.clone()
        {
            self.live_alone(home).await?;
            self.event("replication removed").await;
            return Ok(Answer::Done);
        }
        let what = match side.dir.as_deref() {
            None => "replication removed by its record; this host had no files of it".to_owned(),
            Some(dir) => format!(
                "replication removed by its record; all files are kept in {dir}, delete them with: rm -r {}",
                quoted(dir)
            ),
        };
        self.host.ports.store.close(self.id).await;
        self.drop_record(&what).await
    }

    /// A VM that runs on the files must be off before nothing knows of them any more.
    async fn off_for_removal(&self) -> Result<(), Refusal> {
        match self.power().await? {
            PowerState::Off => Ok(()),
            PowerState::Unknown => Err(Refusal::new(
                ReturnCode::InUse,
                "it is not known whether the VM runs here on the files of this replica",
                "see: lifeboat vm show",
            )),
            PowerState::Running | PowerState::Paused | PowerState::Stalled => Err(Refusal::new(
                ReturnCode::InUse,
                "the VM runs here on the files of this replica",
                "turn it off first: lifeboat vm stop --force",
            )),
        }
    }

    /// Whether the VM's own images, which a replica stands on, are as the VM left them. They are until the first point is
    /// there, because only expiring points are merged into them; after that until what they held is dropped. A replica
    /// without files stands on nothing.
    async fn images_whole(&self, state: State) -> Result<(), Refusal> {
        if state == State::WaitingToCompleteInitialReplication {
            return Ok(());
        }
        match self.host.ports.store.info(self.id).await {
            Ok(info) if info.abandoned.is_none() => Err(Refusal::new(
                ReturnCode::InvalidState,
                "this replica stands on the VM's own images on this host, and was merged into them",
                to_own_images(state),
            )),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// A test is ended by its replica, as long as that knows of it.
    async fn no_replica_of_test(&self, of: VmId) -> Result<(), Refusal> {
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
                format!(
                    "end the test: lifeboat failover stop-test {}",
                    argument(&replica.spec.name)
                ),
            )),
        }
    }

    async fn drop_record(&mut self, what: &str) -> Result<Answer, Refusal> {
        if let Err(e) = self.undefine().await {
            // By the record alone: what the hypervisor keeps has disks that nothing writes to.
            warn!(vm = %self.id, error = %e, "the hypervisor keeps the machine of a record that is removed");
        }
        self.erase().await?;
        self.replica = ReplicaState::default();
        self.primary.next_at = Instant::now();
        for job in self.host.jobs.list() {
            if job.vm == self.id && !job.state.is_final() {
                self.end_job(job.id, JobState::Terminated, "replication was removed")
                    .await;
            }
        }
        warn!(vm = %self.id, "{what}");
        self.event(what).await;
        Ok(Answer::Done)
    }
}

/// How a VM whose own images a replica stands on gets them back.
pub(crate) fn to_own_images(state: State) -> &'static str {
    if state == State::WaitingToCompleteInitialReplication {
        // There may never be a point to fail over to.
        "wait for the comparison with its primary; if that is gone for good, give up what was received, and the VM has its own \
         images again: lifeboat replication remove --force"
    } else {
        "make it the VM first (lifeboat failover start --no-start, lifeboat failover commit); then the replication can be removed"
    }
}

/// Removes records that no actor stands for: extended relationships were records of their own once.
pub(crate) async fn drop_strays(host: &Host, relationships: &[Relationship]) {
    for rel in relationships.iter().filter(|r| r.index != 0) {
        let message = format!(
            "a record of VM {} (\"{}\", number {}, peer {}) belongs to no relationship and was removed; no file was touched",
            rel.vm, rel.spec.name, rel.index, rel.peer
        );
        match host.ports.catalog.remove_relationship(rel.vm, rel.index).await {
            Ok(()) => note(host, &message).await,
            Err(e) => warn!(vm = %rel.vm, error = %e, "a stray record is not removed"),
        }
    }
}

async fn note(host: &Host, message: &str) {
    warn!("{message}");
    host.event(message).await;
}

/// What storage locations say of themselves: one that cannot be used, and files that no relationship stands for.
async fn storage_notes(host: &Host) -> Vec<String> {
    let entries = host.access(|a| a.entries.clone());
    let locations: BTreeSet<String> = entries.into_iter().map(|e| e.storage_location).collect();
    let mut notes = Vec::new();
    for location in locations {
        let look = async {
            if let Err(e) = host.ports.environment.replica_location(&location).await {
                return vec![format!(
                    "replicas cannot be stored: {e} (is its file system mounted? see: lifeboat authorization list)"
                )];
            }
            leftovers(host, &location).await
        };
        let found = tokio::time::timeout(PATIENCE, look).await;
        notes.extend(found.unwrap_or_else(|_| {
            vec![format!(
                "{location} did not answer within {} s: does its storage hang?",
                PATIENCE.as_secs()
            )]
        }));
    }
    notes
}

/// Replicas without a relationship that are named for a location. Ours: a lost catalog leaves thousands, and each is an event.
const LEFTOVERS: usize = 20;

async fn leftovers(host: &Host, location: &str) -> Vec<String> {
    let found = match host.ports.store.found(Utf8Path::new(location)).await {
        Ok(found) => found,
        Err(e) => return vec![format!("replicas in {location} cannot be listed: {}", chain(&e))],
    };
    let known = host.known_to_actors();
    let strangers: Vec<_> = found.into_iter().filter(|(vm, _)| !known.contains(vm)).collect();
    let more = strangers.len().saturating_sub(LEFTOVERS);
    let text = |(vm, dir): (VmId, camino::Utf8PathBuf)| {
        format!(
            "{dir} holds a replica of VM {vm}, and no relationship of this host uses it: replicate that VM here again and it is the \
             seed (lifeboat replication start --seed, on the primary), or delete it with: rm -r {}",
            quoted(dir.as_str())
        )
    };
    let mut notes: Vec<String> = strangers.into_iter().take(LEFTOVERS).map(text).collect();
    if more > 0 {
        notes.push(format!(
            "{location} holds {more} more replicas that no relationship of this host uses; they are named when others are gone"
        ));
    }
    notes
}

/// Looks at the storage locations for as long as the engine lives, and says what is new.
pub(crate) async fn watch(host: Weak<Host>) {
    let mut told: Option<BTreeSet<String>> = None;
    while let Some(host) = host.upgrade() {
        let notes = storage_notes(&host).await;
        if told.is_none() && !notes.is_empty() {
            // A restart is no news.
            let before = host.ports.catalog.events(None, 10_000).await.unwrap_or_default();
            told = Some(before.into_iter().map(|e| e.message).collect());
        }
        for new in notes
            .iter()
            .filter(|n| told.as_ref().is_none_or(|t| !t.contains(*n)))
        {
            note(&host, new).await;
        }
        told = Some(notes.iter().cloned().collect());
        *host.storage_notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
        drop(host);
        tokio::time::sleep(LOOK).await;
    }
}
