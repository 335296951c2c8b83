//! Freezing a guest's file systems around an instant, and never leaving them frozen: the intent is on disk before the
//! agent is asked, and a daemon that finds it there thaws.

use std::path::PathBuf;
use std::time::Duration;

use camino::Utf8PathBuf;
use lifeboat_model::VmId;

use crate::agent::{Agent, AgentError};
use crate::files;
use crate::held::Held;

/// How long a guest may take to freeze.
const FREEZE: Duration = Duration::from_secs(10);
/// How long a guest may take to thaw.
const THAW: Duration = Duration::from_secs(10);

/// How long a silent agent is waited for before it is asked again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest's agent as far as freezing is concerned.
#[derive(Clone, Debug)]
pub struct Freezer {
    /// The agent's port.
    pub socket: Utf8PathBuf,
    /// Exists while the guest may be frozen.
    pub mark: PathBuf,
    /// Whose guest it is.
    pub vm: VmId,
    /// Guests that are being thawed behind.
    pub thawing: Held,
}

/// A guest that may be frozen. Dropped without [`Frozen::thaw`], it is thawed behind.
pub(crate) struct Frozen {
    freezer: Freezer,
    agent: Option<Agent>,
}

impl Freezer {
    /// Freezes the guest, or says why it is not frozen; then it is thawed.
    pub(crate) async fn freeze(&self) -> Result<Frozen, String> {
        let text = |e: AgentError| e.to_string();
        let mut agent = Agent::connect(&self.socket).await.map_err(text)?;
        // A guest without an agent must not cost the whole time.
        agent.sync(Duration::from_secs(3)).await.map_err(text)?;
        files::write_durably(&self.mark, b"")
            .map_err(|e| format!("the intent cannot be noted in {}: {e}", self.mark.display()))?;
        let mut frozen = Frozen {
            freezer: self.clone(),
            agent: Some(agent),
        };
        let outcome = match &mut frozen.agent {
            Some(agent) => agent.fsfreeze(FREEZE).await,
            None => Ok(0),
        };
        match outcome {
            Ok(_) => Ok(frozen),
            Err(error) => {
                // An agent that refused answers at once. Any other may be in the middle of freezing, and the
                // caller that waits for the instant does not wait for that to end.
                if matches!(error, AgentError::Command { .. }) {
                    frozen.thaw().await;
                }
                Err(text(error))
            }
        }
    }

    /// Thaws what an earlier capture may have left frozen. A guest that does not answer keeps its mark and is asked
    /// again next time: it may have been restarted, and a capture does it no harm.
    pub(crate) async fn thaw_leftover(&self) {
        if !self.mark.exists() || self.thawing.contains(self.vm) {
            return;
        }
        let mut agent = match Agent::connect(&self.socket).await {
            Ok(agent) => agent,
            Err(error) => {
                tracing::error!(%error, "an interrupted capture may have left the guest frozen");
                return;
            }
        };
        match agent.thaw(THAW).await {
            Ok(count) => {
                tracing::warn!(count, "thawed a guest that an interrupted capture left frozen");
                self.forget();
            }
            Err(error) => {
                tracing::error!(%error, "an interrupted capture may have left the guest frozen; trying again");
                self.thaw_behind(agent);
            }
        }
    }

    /// Thaws the guest as soon as its agent listens, however long that takes: a freeze that was given up may still
    /// happen. Ends with the VM.
    fn thaw_behind(&self, mut agent: Agent) {
        let (Some(hold), Ok(runtime)) = (self.thawing.take(self.vm), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let freezer = self.clone();
        runtime.spawn(async move {
            loop {
                match agent.thaw(PATIENCE).await {
                    Ok(_) => {
                        freezer.forget();
                        break;
                    }
                    Err(AgentError::NotResponding { .. } | AgentError::Timeout { .. }) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a guest that may be frozen cannot be thawed now");
                        break;
                    }
                }
            }
            drop(hold);
        });
    }

    fn forget(&self) {
        if let Err(error) = files::remove(&self.mark) {
            tracing::warn!(%error, "the mark of a freeze stays; the guest will be thawed once more");
        }
    }
}

impl Frozen {
    /// Thaws. False when the guest did not confirm: it may have thawed by itself before the instant.
    pub(crate) async fn thaw(&mut self) -> bool {
        let Some(agent) = self.agent.as_mut() else {
            return true;
        };
        let outcome = agent.thaw(THAW).await;
        match outcome {
            Ok(count) => {
                self.agent = None;
                self.freezer.forget();
                count > 0
            }
            Err(error) => {
                tracing::warn!(%error, "the guest did not confirm that it is thawed; trying again");
                false
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            self.freezer.thaw_behind(agent);
        }
    }
}
