//! What authorization entries and settings mean for a replica that is here.

use crate::contract::{Answer, Refusal};
use crate::core::Core;
use crate::host::no_entry;
use crate::record::Relationship;
use crate::target::TargetPart;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::hint;
use lifeboat_model::policy::Retention;
use tracing::warn;

impl TargetPart {
    /// SetAuthorizationEntry: from now on only primaries that this entry covers, or that share its trust group, feed this
    /// replica.
    pub(crate) async fn bind_to_entry(&mut self, core: &mut Core, primary: &str) -> Result<Answer, Refusal> {
        let entry = core.host.entry_named(primary).ok_or_else(|| no_entry(primary))?;
        let mut change = core.change()?;
        let (mode, state) = (change.mode, change.state);
        let Some(replica) = change.replica_mut().filter(|_| state != State::Disabled) else {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                format!("only a replica is bound to an authorization entry; here the VM's role is {mode}"),
                hint::Replicate::OnReplicaHost,
            ));
        };
        replica.allowed = Some(entry.primary.clone());
        change.tell(format!(
            "from now on only primaries of the entry {} feed this replica",
            entry.primary
        ));
        core.commit(change).await?;
        self.access_changed(core).await;
        Ok(Answer::Done)
    }

    /// How long this replica keeps what it has.
    pub(crate) fn retention(&self, core: &Core, rel: &Relationship) -> Retention {
        Retention::new(&rel.settings, core.kept_at_least()).held(self.held(rel))
    }

    /// Who may replicate here was changed: a transfer that relied on what is gone ends now, its next attempt is told why.
    pub(crate) async fn access_changed(&mut self, core: &Core) {
        let Some(sender) = self.sender.clone() else {
            return;
        };
        if let Err(e) = core.may_receive(&sender) {
            self.stop_receiving().await;
            self.sender = None;
            warn!(vm = %core.id, reason = %e, "receiving ended");
            core.event(&format!("receiving ended: {}", chain(&e))).await;
        }
    }
}
