//! Freezing a guest's file systems around an instant, and never leaving them frozen: the intent is on disk before the
//! agent is asked, and whoever finds it there thaws.

use std::path::PathBuf;
use std::time::Duration;

use camino::Utf8PathBuf;

use crate::files;
use crate::qmp::{Agent, AgentError};

/// How long a guest may take to freeze.
const FREEZE: Duration = Duration::from_secs(10);
/// How long a guest may take to thaw.
const THAW: Duration = Duration::from_secs(10);

/// A guest's agent as far as freezing is concerned.
#[derive(Clone, Debug)]
pub(crate) struct Freezer {
    pub(crate) socket: Utf8PathBuf,
    /// Exists while the guest may be frozen.
    pub(crate) mark: PathBuf,
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
                frozen.thaw().await;
                Err(text(error))
            }
        }
    }

    /// Thaws what an earlier capture may have left frozen. A guest that does not answer keeps its mark and is asked
    /// again next time: it may have been restarted, and a capture does it no harm.
    pub(crate) async fn thaw_leftover(&self) {
        if !self.mark.exists() {
            return;
        }
        let thaw = async {
            let mut agent = Agent::connect(&self.socket).await?;
            agent.thaw(THAW).await
        };
        match thaw.await {
            Ok(count) => {
                tracing::warn!(count, "thawed a guest that an interrupted capture left frozen");
                self.forget();
            }
            Err(error) => tracing::error!(%error, "an interrupted capture may have left the guest frozen"),
        }
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
        if let (Some(mut agent), Ok(runtime)) = (self.agent.take(), tokio::runtime::Handle::try_current()) {
            let freezer = self.freezer.clone();
            runtime.spawn(async move {
                if agent.thaw(THAW).await.is_ok() {
                    freezer.forget();
                }
            });
        }
    }
}
