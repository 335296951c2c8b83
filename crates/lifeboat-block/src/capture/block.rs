//! The monitor of a process that has a VM's disks open, and what its answers mean for a capture.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lifeboat_engine::ports::capture::CaptureError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::tracking::Bitmap;
use crate::fdset::{self, Lent};
use crate::nbd::NbdError;
use crate::qmp::{Monitor, QmpError};

/// A monitor as the capture uses it.
#[derive(Debug)]
pub struct Commands {
    monitor: Arc<dyn Monitor>,
}

/// A node of the block graph.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Its name; empty of one that has none.
    #[serde(rename = "node-name", default)]
    pub name: String,
    /// Name of QEMU's block driver, such as `qcow2` or `throttle`.
    #[serde(rename = "drv")]
    pub driver: String,
    /// Its dirty bitmaps.
    #[serde(rename = "dirty-bitmaps", default)]
    pub bitmaps: Vec<Bitmap>,
    /// What it shows.
    pub image: Image,
}

/// What a node shows.
#[derive(Clone, Debug, Deserialize)]
pub struct Image {
    /// Size of the disk that the image shows, in bytes; the file itself may be smaller.
    #[serde(rename = "virtual-size")]
    pub size: u64,
}

impl Commands {
    /// Commands to this monitor.
    #[must_use]
    pub fn new(monitor: Arc<dyn Monitor>) -> Self {
        Self { monitor }
    }

    /// Runs a command; `what` says in plain words what it is for.
    pub(crate) async fn run(
        &self,
        what: &str,
        command: &str,
        arguments: Value,
    ) -> Result<Value, CaptureError> {
        self.monitor
            .execute(command, arguments)
            .await
            .map_err(|e| failed(what, e))
    }

    /// Hands over a file that the process then opens by the name in the answer.
    pub(crate) async fn lend(&self, what: &str, file: File) -> Result<Lent, CaptureError> {
        let lent = fdset::lend(&*self.monitor, None, file).await;
        lent.map_err(|e| failed(what, e))
    }

    /// Takes the file back once it is open.
    pub(crate) async fn take_back(&self, what: &str, lent: &Lent) -> Result<(), CaptureError> {
        let taken = fdset::take_back(&*self.monitor, lent).await;
        taken.map_err(|e| failed(what, e))
    }

    /// Hands over a socket under a name that the next command uses up.
    pub(crate) async fn give(&self, what: &str, name: &str, socket: OwnedFd) -> Result<(), CaptureError> {
        let name = json!({"fdname": name});
        let given = self.monitor.execute_with_file("getfd", name, socket).await;
        given.map(drop).map_err(|e| failed(what, e))
    }

    /// Runs a command that is refused when there is nothing to do, which is as good.
    pub(crate) async fn settle(
        &self,
        what: &str,
        command: &str,
        arguments: Value,
    ) -> Result<(), CaptureError> {
        match self.monitor.execute(command, arguments).await {
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
    ///
    /// # Errors
    /// [`CaptureError::Gone`] or [`CaptureError::Block`].
    pub async fn nodes(&self) -> Result<Vec<Node>, CaptureError> {
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

/// A monitor's failure as a capture sees it; `what` says in plain words what the command was for.
#[must_use]
pub fn failed(what: &str, error: QmpError) -> CaptureError {
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
    if matches!(error, NbdError::Connect { .. }) {
        return CaptureError::Gone;
    }
    CaptureError::Block {
        what: what.to_owned(),
        detail: error.to_string(),
    }
}
