//! The monitor of a process that has a VM's disks open, and what its answers mean for a capture.

use std::fs::File;
use std::os::fd::OwnedFd;
#[cfg(test)]
use std::sync::atomic::{AtomicI64, Ordering};

use lifeboat_block::nbd::NbdError;
use lifeboat_block::qmp::{Qmp, QmpError};
use lifeboat_engine::ports::capture::CaptureError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::tracking::Bitmap;
use crate::handed::{self, Lent};

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
        self.spend()?;
        self.qmp.execute(command, arguments).await
    }

    /// Counts commands where a test wants the daemon to die before one of them.
    fn spend(&self) -> Result<(), QmpError> {
        #[cfg(test)]
        if self.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
            (n >= 0).then(|| (n - 1).max(0))
        }) == Ok(0)
        {
            return Err(QmpError::Closed);
        }
        Ok(())
    }

    /// Hands over a file that the process then opens by the name in the answer.
    pub(crate) async fn lend(&self, what: &str, file: File) -> Result<Lent, CaptureError> {
        let lent = async {
            self.spend()?;
            handed::lend(&self.qmp, None, file).await
        };
        lent.await.map_err(|e| failed(what, e))
    }

    /// Takes the file back once it is open.
    pub(crate) async fn take_back(&self, what: &str, lent: &Lent) -> Result<(), CaptureError> {
        let taken = async {
            self.spend()?;
            handed::take_back(&self.qmp, lent).await
        };
        taken.await.map_err(|e| failed(what, e))
    }

    /// Hands over a socket under a name that the next command uses up.
    pub(crate) async fn give(&self, what: &str, name: &str, socket: OwnedFd) -> Result<(), CaptureError> {
        let given = async {
            self.spend()?;
            self.qmp
                .execute_with_file("getfd", json!({"fdname": name}), socket)
                .await
        };
        given.await.map(drop).map_err(|e| failed(what, e))
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
