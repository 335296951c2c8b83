//! The monitor of a process that has a VM's disks open, and what its answers mean for a capture.

#[cfg(test)]
use std::sync::atomic::{AtomicI64, Ordering};

use lifeboat_engine::ports::capture::CaptureError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::tracking::Bitmap;
use crate::nbd::NbdError;
use crate::qmp::{Qmp, QmpError};

/// A monitor as the capture uses it.
#[derive(Debug)]
pub(crate) struct Monitor {
    qmp: Qmp,
    /// Commands left before the daemon is taken to have died; negative: unlimited.
    #[cfg(test)]
    pub(crate) budget: AtomicI64,
}

/// A node of the block graph.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Node {
    #[serde(rename = "node-name", default)]
    pub(crate) name: String,
    #[serde(rename = "drv")]
    pub(crate) driver: String,
    #[serde(rename = "dirty-bitmaps", default)]
    pub(crate) bitmaps: Vec<Bitmap>,
    pub(crate) image: Image,
}

/// What a node shows.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Image {
    /// Bytes.
    #[serde(rename = "virtual-size")]
    pub(crate) size: u64,
}

impl Monitor {
    pub(crate) fn new(qmp: Qmp) -> Self {
        Self {
            qmp,
            #[cfg(test)]
            budget: AtomicI64::new(-1),
        }
    }

    /// Runs a command; `what` says in plain words what it is for.
    pub(crate) async fn run(
        &self,
        what: &str,
        command: &str,
        arguments: Value,
    ) -> Result<Value, CaptureError> {
        self.raw(command, arguments).await.map_err(|e| failed(what, e))
    }

    async fn raw(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        #[cfg(test)]
        if self.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
            (n >= 0).then(|| (n - 1).max(0))
        }) == Ok(0)
        {
            return Err(QmpError::Closed);
        }
        self.qmp.execute(command, arguments).await
    }

    /// Runs a command that is refused when there is nothing to do, which is as good.
    pub(crate) async fn settle(
        &self,
        what: &str,
        command: &str,
        arguments: Value,
    ) -> Result<(), CaptureError> {
        match self.raw(command, arguments).await {
            Ok(_) | Err(QmpError::Command { .. }) => Ok(()),
            Err(error) => Err(failed(what, error)),
        }
    }

    /// All actions or none.
    pub(crate) async fn transaction(&self, what: &str, actions: Vec<Value>) -> Result<(), CaptureError> {
        if actions.is_empty() {
            return Ok(());
        }
        self.run(what, "transaction", json!({"actions": actions})).await?;
        Ok(())
    }

    /// All nodes with a name.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, CaptureError> {
        let what = "looking at the disks";
        let nodes = self
            .run(what, "query-named-block-nodes", json!({"flat": true}))
            .await?;
        serde_json::from_value(nodes).map_err(|e| CaptureError::Block {
            what: what.to_owned(),
            detail: format!("the answer cannot be understood: {e}"),
        })
    }
}

/// A monitor's failure as a capture sees it.
pub(crate) fn failed(what: &str, error: QmpError) -> CaptureError {
    match error {
        QmpError::Closed | QmpError::Connect { .. } => CaptureError::Gone,
        QmpError::Command { desc, .. } => CaptureError::Block {
            what: what.to_owned(),
            detail: desc,
        },
        QmpError::Busy { .. }
        | QmpError::Timeout { .. }
        | QmpError::Lagged { .. }
        | QmpError::Protocol(_) => CaptureError::Block {
            what: what.to_owned(),
            detail: error.to_string(),
        },
    }
}

/// A failure to read as a capture sees it.
pub(crate) fn unread(what: &str, error: &NbdError) -> CaptureError {
    match error {
        NbdError::Connect { .. } => CaptureError::Gone,
        other => CaptureError::Block {
            what: what.to_owned(),
            detail: other.to_string(),
        },
    }
}
