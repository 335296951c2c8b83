//! Changing what was agreed while it is in use: settings of a relationship, of this host, and who may replicate here.
//! Every change is checked, recorded, and then counts at once.

use std::time::Duration;

use lifeboat_model::Note;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::lifecycle::{self, Event as Step};
use lifeboat_model::policy::Retention;
use lifeboat_model::{
    AuthorizationEntry, DiskId, Position, ReplicationMode as Mode, ReplicationSettings,
    ReplicationState as State, SettingsError, VmSpec,
};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::action::{Answer, Refusal};
use crate::actor::{Actor, chain, no_relationship, not_now};
use crate::copy::unexpected;
use crate::engine::no_entry;
use crate::machine::Told;
use crate::operations::link_refusal;
use crate::ports::link::{PeerIdentity, PeerRefusal, PeerReply, PeerRequest, PrimaryReport, ReplicaStatus};
use crate::records::{Relationship, ServerSettings};

impl ServerSettings {
    /// Checks the limits.
    ///
    /// # Errors
    /// The first number that cannot be meant.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if !(3_600..=604_800).contains(&self.monitoring_interval_s) {
            return Err(SettingsError::Range {
                field: "monitoring_interval_s",
                value: self.monitoring_interval_s.into(),
                range: "3600 to 604800 seconds",
            });
        }
        if self.monitoring_start_min >= 1440 {
            return Err(SettingsError::Minute(self.monitoring_start_min));
        }
        self.bandwidth.validate()
    }
}

pub(crate) fn invalid(e: SettingsError) -> Refusal {
    Refusal::bare(ReturnCode::InvalidParameter, e.to_string())
}

/// What a change of settings means for the disks.
struct DiskChange {
    removed: Vec<DiskId>,
    added: Vec<DiskId>,
}

impl DiskChange {
    fn between(old: &[DiskId], new: &[DiskId]) -> Self {
        let not_in = |a: &[DiskId], b: &[DiskId]| a.iter().filter(|d| !b.contains(d)).cloned().collect();
        Self {
            removed: not_in(old, new),
            added: not_in(new, old),
        }
    }

    fn none(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

impl Actor {
    /// ModifyReplicationSettings. The replica is told before the change counts here: what it refuses does not happen. A
    /// daemon that ends between the two leaves the replica with settings that the next change, or the same one again,
    /// brings in line; nothing that is sent depends on them.
    pub(crate) async fn modify(&mut self, mut settings: ReplicationSettings) -> Result<Answer, Refusal> {
        if self.is_extended() {
            return self.modify_third(settings).await;
        }
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::step(rel.mode, rel.state, Step::Modify).map_err(|e| not_now(&e))?;
        let old = rel.settings.clone();
        if settings.disks.is_empty() {
            settings.disks.clone_from(&old.disks);
        }
        // The order of the disks is the replica's business; only which ones they are can be chosen.
        settings.disks = in_order(&old.disks, &settings.disks);
        let spec = self.spec()?.clone();
        settings
            .validate(spec.disks.iter().map(|d| &d.id))
            .map_err(invalid)?;
        let change = DiskChange::between(&old.disks, &settings.disks);
        self.disks_may_change(rel.state, &change)?;
        if settings.peer != old.peer {
            let acknowledged = rel.primary().map_or(rel.position, |p| p.acknowledged);
            self.same_replica(acknowledged, &settings.peer).await?;
        }
        // Whatever comes of it here, the replica is told again what counts.
        self.told = Told::default();
        let problems = self.update_replica(&spec, &settings).await?;
        if settings.peer != old.peer || !change.none() {
            // What is under way was begun with the old ones.
            self.interrupt().await;
        }
        let mut changed = self.change()?;
        changed.peer.clone_from(&settings.peer);
        (changed.settings, changed.spec, changed.preflight) = (settings, spec, problems);
        changed.tell(format!("settings changed{}", told(&change)));
        self.commit(changed).await?;
        self.release(&change.removed).await;
        if let Some(rel) = self.rel.as_ref() {
            self.host.throttle.set(self.id, &rel.settings.bandwidth);
        }
        self.primary.next_at = Instant::now();
        if change.added.is_empty() {
            return Ok(Answer::Done);
        }
        // An added disk has nothing on the replica: what differs there is all of it.
        self.begin_resync().await
    }

    fn disks_may_change(&self, state: State, change: &DiskChange) -> Result<(), Refusal> {
        if change.none() {
            return Ok(());
        }
        let settled = matches!(state, State::Replicating | State::Suspended | State::Critical);
        if settled && self.synchronization().is_none() {
            return Ok(());
        }
        let message = format!(
            "disks cannot change while replication is {state} ({})",
            state.number()
        );
        Err(Refusal::new(
            ReturnCode::InvalidState,
            message,
            hint::Replicate::AwaitOrResume,
        ))
    }

    /// Refuses an address that leads back here: this actor could not answer itself.
    pub(crate) async fn not_myself(&self, peer: &str) -> Result<(), Refusal> {
        let answer = self.host.ports.link.call(peer, PeerRequest::Hello).await;
        match answer.map_err(|e| link_refusal(&e))? {
            PeerReply::Hello { host, .. } if host != self.host.config.name => Ok(()),
            PeerReply::Hello { .. } => Err(Refusal::new(
                ReturnCode::InvalidParameter,
                format!("{peer} is this host itself"),
                hint::Replicate::NameReplicaHost,
            )),
            other => Err(link_refusal(&unexpected(peer, &other))),
        }
    }

    /// Whether the host at this address has the replica that was at `acknowledged`, and not an older copy of it.
    pub(crate) async fn same_replica(
        &self,
        acknowledged: Position,
        peer: &str,
    ) -> Result<ReplicaStatus, Refusal> {
        self.not_myself(peer).await?;
        let request = PeerRequest::Status {
            vm: self.id,
            report: PrimaryReport::Unspecified,
        };
        let answer = self.host.ports.link.call(peer, request).await;
        let status = match answer.map_err(|e| link_refusal(&e))? {
            PeerReply::Status(status) => status,
            other => return Err(link_refusal(&unexpected(peer, &other))),
        };
        if status.durable.at_or_after(acknowledged) == Some(true) {
            return Ok(status);
        }
        let message = format!(
            "{peer} has a copy of this VM at {}, the replica stands at {acknowledged}",
            status.durable
        );
        Err(Refusal::new(
            ReturnCode::InvalidParameter,
            message,
            hint::Replicate::NameSameHost,
        ))
    }

    /// Tells the replica of the machine and its settings; answers with what would keep the VM from starting there.
    pub(crate) async fn update_replica(
        &self,
        spec: &VmSpec,
        settings: &ReplicationSettings,
    ) -> Result<Vec<String>, Refusal> {
        let request = PeerRequest::Update {
            vm: Box::new(spec.clone().into()),
            settings: settings.clone(),
            firmware: self.firmware().await,
        };
        let answer = self.host.ports.link.call(&settings.peer, request).await;
        match answer.map_err(|e| link_refusal(&e))? {
            PeerReply::Checked { problems } => Ok(problems),
            other => Err(link_refusal(&unexpected(&settings.peer, &other))),
        }
    }

    /// Ends the records of changes of disks that are no longer replicated. What stays behind when it fails costs the guest
    /// a little memory, and is removed when the disk is replicated again.
    async fn release(&mut self, disks: &[DiskId]) {
        if disks.is_empty() {
            return;
        }
        self.interrupt().await;
        let released = async {
            let launch = self.launch().await.map_err(|e| e.to_string())?;
            let hypervisor = &self.host.ports.hypervisor;
            let source = hypervisor
                .source(&launch, disks)
                .await
                .map_err(|e| e.to_string())?;
            let stopped = match source.recover().await {
                Ok(_) => source.stop_tracking().await,
                Err(e) => Err(e),
            };
            let closed = source.close().await;
            stopped.and(closed).map_err(|e| e.to_string())
        };
        if let Err(e) = released.await {
            info!(vm = %self.id, error = e, "change tracking not removed from a disk that is no longer replicated");
        }
    }

    /// SetAuthorizationEntry: from now on only primaries that this entry covers, or that share its trust group, feed this
    /// replica.
    pub(crate) async fn bind_to_entry(&mut self, primary: &str) -> Result<Answer, Refusal> {
        let entry = self.host.entry_named(primary).ok_or_else(|| no_entry(primary))?;
        let mut change = self.change()?;
        let (mode, state) = (change.mode, change.state);
        let Some(replica) = change.replica_mut().filter(|_| state != State::Disabled) else {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                format!("only a replica is fed by somebody; here the VM's role is {mode}"),
                hint::Replicate::OnReplicaHost,
            ));
        };
        replica.allowed = Some(entry.primary.clone());
        change.tell(format!(
            "from now on only primaries of the entry {} feed this replica",
            entry.primary
        ));
        self.commit(change).await?;
        self.access_changed().await;
        Ok(Answer::Done)
    }

    /// Key of the authorization entry that this replica is bound to.
    pub(crate) fn bound_to(&self) -> Option<&str> {
        self.rel.as_ref()?.replica()?.allowed.as_deref()
    }

    /// How long the points of this replica are kept whatever its primary asks for.
    pub(crate) fn kept_at_least(&self) -> Duration {
        let primary = self.rel.as_ref().map_or("", |r| r.peer.as_str());
        self.host.kept_at_least(primary, self.bound_to())
    }

    /// How long this replica keeps what it has.
    pub(crate) fn retention(&self, rel: &Relationship) -> Retention {
        Retention::new(&rel.settings, self.kept_at_least()).held(self.held(rel))
    }

    /// The entry that lets this peer feed this VM: the most exact one of this host, and none but that which the replica is
    /// bound to and those of its trust group.
    pub(crate) fn lets_in(&self, peer: &PeerIdentity) -> Result<AuthorizationEntry, PeerRefusal> {
        let entry = self.host.authorize(peer)?;
        let Some(key) = self.bound_to() else {
            return Ok(entry);
        };
        let bound = self.host.entry_named(key);
        match bound.filter(|b| b.trust_group == entry.trust_group || peer.names.iter().any(|n| b.covers(n))) {
            Some(_) => Ok(entry),
            None => Err(PeerRefusal::NotAuthorized {
                host: self.host.config.name.clone(),
                names: peer.names.clone(),
            }),
        }
    }

    /// Why this host takes nothing from the primary of its replica any more; `None` while it does.
    pub(crate) fn unauthorized(&self) -> Option<Note> {
        let rel = self.rel.as_ref()?;
        let receives = matches!(rel.mode, Mode::Replica | Mode::ExtendedReplica)
            && matches!(
                rel.state,
                State::WaitingToCompleteInitialReplication
                    | State::Replicating
                    | State::Suspended
                    | State::Critical
                    | State::Resynchronizing
            );
        if !receives {
            return None;
        }
        if !self.host.server().enabled {
            let text = "this host is not enabled as a replica server: nothing is received";
            return Some(Note::new(text, hint::Trust::EnableServer));
        }
        if let Some(key) = self.bound_to() {
            let (bound, entry) = (self.host.entry_named(key), self.host.entry_for(&rel.peer));
            let fits = |b: &AuthorizationEntry| {
                let group = entry.as_ref().is_some_and(|e| e.trust_group == b.trust_group);
                rel.peer.is_empty() || group || b.covers(&rel.peer)
            };
            return match bound {
                Some(bound) if fits(&bound) => None,
                Some(_) => Some(Note::from(format!(
                    "this replica is bound to the authorization entry {key}, which does not cover {}: nothing is received from it",
                    rel.peer
                ))),
                None => {
                    let text = format!(
                        "the authorization entry {key}, which this replica is bound to, is gone: nothing is received"
                    );
                    let primary = key.to_owned();
                    Some(Note::new(text, hint::Trust::Authorize { primary }))
                }
            };
        }
        self.host.entry_for(&rel.peer).is_none().then(|| {
            let primary = rel.peer.clone();
            let text = format!("no authorization entry covers {primary}: nothing is received from it");
            Note::new(text, hint::Trust::Authorize { primary })
        })
    }

    /// Who may replicate here was changed: a transfer that relied on what is gone ends now, its next attempt is told why.
    pub(crate) async fn access_changed(&mut self) {
        let Some(sender) = self.replica.sender.clone() else {
            return;
        };
        if let Err(e) = self.may_receive(&sender) {
            self.replica.stop_receiving().await;
            self.replica.sender = None;
            warn!(vm = %self.id, reason = %e, "receiving ended");
            self.event(&format!("receiving ended: {}", chain(&e))).await;
        }
    }
}

/// Those of the wanted disks that are there already, in their order, then the others.
fn in_order(have: &[DiskId], wanted: &[DiskId]) -> Vec<DiskId> {
    let kept = have.iter().filter(|d| wanted.contains(d));
    // A disk named twice stays so, and is refused.
    let mut left: Vec<&DiskId> = wanted.iter().collect();
    let mut all: Vec<DiskId> = Vec::new();
    for disk in kept {
        if let Some(at) = left.iter().position(|d| *d == disk) {
            left.remove(at);
        }
        all.push(disk.clone());
    }
    all.extend(left.into_iter().cloned());
    all
}

fn told(change: &DiskChange) -> String {
    let names = |d: &[DiskId]| d.iter().map(DiskId::as_str).collect::<Vec<_>>().join(", ");
    match (change.removed.as_slice(), change.added.as_slice()) {
        ([], []) => String::new(),
        (removed, []) => format!("; no longer replicated: {}", names(removed)),
        ([], added) => format!("; replicated from now on: {}", names(added)),
        (removed, added) => format!(
            "; no longer replicated: {}; from now on: {}",
            names(removed),
            names(added)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &str) -> Vec<DiskId> {
        names
            .split_whitespace()
            .map(|n| DiskId::new(n).unwrap())
            .collect()
    }

    #[test]
    fn disks_keep_the_order_that_the_replica_knows() {
        for (have, wanted, want) in [
            ("a b c", "c a", "a c"),
            ("a b", "c b a", "a b c"),
            ("a b", "b b", "b b"),
            ("a", "b", "b"),
        ] {
            assert_eq!(in_order(&ids(have), &ids(wanted)), ids(want), "{have} / {wanted}");
        }
        let change = DiskChange::between(&ids("a b"), &ids("b c"));
        assert_eq!((change.removed, change.added), (ids("a"), ids("c")));
        assert!(DiskChange::between(&ids("a b"), &ids("b a")).none());
    }

    #[test]
    fn server_settings_keep_their_limits() {
        let good = ServerSettings::default();
        good.validate().unwrap();
        let bad: [fn(&mut ServerSettings); 4] = [
            |s| s.monitoring_interval_s = 3599,
            |s| s.monitoring_interval_s = 604_801,
            |s| s.monitoring_start_min = 1440,
            |s| s.bandwidth.bytes_per_s = 100,
        ];
        for spoil in bad {
            let mut s = good.clone();
            spoil(&mut s);
            assert!(s.validate().is_err(), "{s:?}");
        }
    }
}
