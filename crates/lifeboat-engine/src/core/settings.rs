//! Whether settings may be changed while they are in use, and what the other side is told of it.

use crate::contract::Refusal;
use crate::core::Core;
use crate::host::settings::DiskChange;
use crate::port::link::{PeerIdentity, PeerRefusal, PeerReply, PeerRequest, PrimaryReport, ReplicaStatus};
use crate::work::calls::{link_refusal, unexpected};
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{AuthorizationEntry, Note, Position, ReplicationSettings, VmSpec, hint};
use std::time::Duration;

impl Core {
    pub(crate) fn disks_may_change(&self, state: State, change: &DiskChange) -> Result<(), Refusal> {
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

    /// Key of the authorization entry that this replica is bound to.
    pub(crate) fn bound_to(&self) -> Option<&str> {
        self.rel.as_ref()?.replica()?.allowed.as_deref()
    }

    /// How long the points of this replica are kept whatever its primary asks for.
    pub(crate) fn kept_at_least(&self) -> Duration {
        let primary = self.rel.as_ref().map_or("", |r| r.peer.as_str());
        self.host.kept_at_least(primary, self.bound_to())
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
}
