//! What a source and its views use together, and the monitor commands that change a VM's graph and records. In which order they are
//! given, `source` knows.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use camino::Utf8PathBuf;
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_engine::ports::capture::{CaptureError, Tracking};
use lifeboat_model::policy::change_granularity;
use lifeboat_model::{DiskId, Position};
use serde_json::{Value, json};

use super::block::{Commands, Node};
use super::freeze::{Freezer, Frozen};
use super::space::Space;
use super::tracking::{self, Bitmap, Tracked};
use super::{Holder, Losses};
use crate::fdset;
use crate::graph;
use crate::qmp::Monitor;

const FLEECE: &str = "fleece-";
const FILTER: &str = "cbw-";
const SNAPSHOT: &str = "snap-";
/// Node of a disk's size and without content, for the bitmap of everything that the disk's records hold.
pub(crate) const UNION: &str = "union-";

/// Under which a guest's process is given the socket that its disks are read at.
const NBD_SOCKET: &str = "nbd";

/// Seconds after which a write of the guest no longer waits for its old data to be saved; the instant is given up
/// instead.
const SAVE_TIMEOUT: u32 = 10;

/// The process that has a VM's disks open, and what a capture has to know of it.
#[derive(Debug)]
pub struct Opened {
    /// A monitor that only this source uses as long as it exists.
    pub monitor: Arc<dyn Monitor>,
    /// Whose process it is. A guest's is given open files; the stand-in opens and makes them itself, because it has no command
    /// to take one.
    pub holder: Holder,
    /// Where its disks are read.
    pub nbd: Utf8PathBuf,
    /// For what a guest overwrites.
    pub space: Space,
    /// Only with a guest that has an agent.
    pub freezer: Option<Freezer>,
    /// What makes dirty bitmaps worthless.
    pub losses: Box<dyn Losses>,
}

/// What a source and its views use together.
#[derive(Debug)]
pub struct Shared {
    pub(crate) monitor: Commands,
    pub(crate) disks: Vec<LogDisk>,
    /// Per disk: whether its records survive a clean stop.
    pub(crate) persistent: Vec<bool>,
    /// Per disk: the raw file below its dirty bitmap, which alone knows of holes.
    pub(crate) data: Vec<Option<File>>,
    pub(crate) losses: Box<dyn Losses>,
    pub(crate) nbd: Utf8PathBuf,
    pub(crate) holder: Holder,
    pub(crate) space: Space,
    pub(crate) freezer: Option<Freezer>,
}

impl Shared {
    /// Looks at the wanted disks of a process, each with the raw file that knows of its holes, if there is one.
    ///
    /// # Errors
    /// [`CaptureError::Preflight`] when the process does not have one of them; [`CaptureError::Gone`] or
    /// [`CaptureError::Block`] when it does not answer.
    pub async fn open(opened: Opened, wanted: Vec<(DiskId, Option<File>)>) -> Result<Self, CaptureError> {
        let monitor = Commands::new(opened.monitor);
        let nodes = monitor.nodes().await?;
        let mut disks = Vec::new();
        let mut persistent = Vec::new();
        let mut data = Vec::new();
        for (id, file) in wanted {
            let name = graph::disk_node(&id);
            let node = nodes.iter().find(|n| n.name == name);
            let node = node.ok_or_else(|| {
                CaptureError::Preflight(format!("disk {id} was not there when the VM was started"))
            })?;
            let size = node.image.size;
            disks.push(LogDisk { id, size });
            persistent.push(node.driver == "qcow2");
            data.push(file);
        }
        Ok(Self {
            monitor,
            disks,
            persistent,
            data,
            losses: opened.losses,
            nbd: opened.nbd,
            holder: opened.holder,
            space: opened.space,
            freezer: opened.freezer,
        })
    }

    /// Puts the graph back to its resting state: no exports, no filters, no files. Works from what is there, so it
    /// ends a view and cleans up after a crash alike.
    pub(crate) async fn clear(&self) -> Result<(), CaptureError> {
        let what = "ending the capture";
        // Closes all exports and waits for them; refused when no server runs.
        self.monitor.settle(what, "nbd-server-stop", Value::Null).await?;
        let nodes = self.monitor.nodes().await?;
        let named = |prefix: &str| -> Vec<String> {
            let names = nodes.iter().filter_map(|n| n.name.strip_prefix(prefix));
            names.map(str::to_owned).collect()
        };
        self.delete(what, SNAPSHOT, &named(SNAPSHOT)).await?;
        self.delete(what, UNION, &named(UNION)).await?;
        let filtered = named(FILTER);
        if !filtered.is_empty() {
            self.reopen(what, &filtered, "disk-").await?;
        }
        self.delete(what, FILTER, &filtered).await?;
        self.delete(what, FLEECE, &named(FLEECE)).await?;
        self.space.clear()
    }

    async fn delete(&self, what: &str, prefix: &str, disks: &[String]) -> Result<(), CaptureError> {
        for disk in disks {
            let node = json!({"node-name": format!("{prefix}{disk}")});
            self.monitor.run(what, "blockdev-del", node).await?;
        }
        Ok(())
    }

    /// Switches the tops of all `disks` to their nodes called `prefix`ID, at once.
    async fn reopen(&self, what: &str, disks: &[String], prefix: &str) -> Result<(), CaptureError> {
        let tops: Result<Vec<_>, _> = disks
            .iter()
            .map(|id| DiskId::new(id.as_str()).map(|d| graph::top(&d, &format!("{prefix}{id}"))))
            .collect();
        let tops = tops.map_err(|e| CaptureError::Block {
            what: what.to_owned(),
            detail: e.to_string(),
        })?;
        let options = json!({"options": tops});
        self.monitor.run(what, "blockdev-reopen", options).await?;
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        self.disks.iter().map(|d| d.id.to_string()).collect()
    }

    fn bitmaps<'n>(&self, nodes: &'n [Node], disk: &LogDisk) -> &'n [Bitmap] {
        let name = graph::disk_node(&disk.id);
        nodes
            .iter()
            .find(|n| n.name == name)
            .map_or(&[], |n| n.bitmaps.as_slice())
    }

    /// The graph, provided that the disks still have the sizes this source was opened with.
    pub(crate) async fn fitting(&self) -> Result<Vec<Node>, CaptureError> {
        let nodes = self.monitor.nodes().await?;
        for disk in &self.disks {
            let name = graph::disk_node(&disk.id);
            let size = nodes.iter().find(|n| n.name == name).map(|n| n.image.size);
            if let Some(size) = size.filter(|s| *s != disk.size) {
                return Err(CaptureError::Block {
                    what: format!("disk {}", disk.id),
                    detail: format!(
                        "it was resized from {} to {size} bytes; it is opened again with its new size",
                        disk.size
                    ),
                });
            }
        }
        Ok(nodes)
    }

    pub(crate) fn tracked<'a>(&'a self, nodes: &'a [Node]) -> Vec<Tracked<'a>> {
        let tracked = self.disks.iter().map(|disk| Tracked {
            id: &disk.id,
            size: disk.size,
            bitmaps: self.bitmaps(nodes, disk),
            lost: self.losses.lost(&disk.id),
        });
        tracked.collect()
    }

    pub(crate) async fn tracking(&self) -> Result<Tracking, CaptureError> {
        let nodes = self.fitting().await?;
        Ok(tracking::judge(&self.tracked(&nodes)))
    }

    /// Actions that remove all records of ours.
    pub(crate) async fn removals(&self) -> Result<Vec<Value>, CaptureError> {
        let nodes = self.monitor.nodes().await?;
        let all = self.disks.iter().flat_map(|disk| {
            let ours = self.bitmaps(&nodes, disk).iter().filter(|b| b.ours());
            ours.map(|b| bitmap_action("remove", disk, &b.name))
        });
        Ok(all.collect())
    }

    pub(crate) fn additions(&self, position: Position) -> Vec<Value> {
        let add = |(disk, persistent): (&LogDisk, &bool)| {
            json!({"type": "block-dirty-bitmap-add", "data": {
                "node": graph::disk_node(&disk.id), "name": tracking::record(position),
                "persistent": persistent, "granularity": change_granularity(disk.size),
            }})
        };
        self.disks.iter().zip(&self.persistent).map(add).collect()
    }

    /// The disks that have a record of `position`.
    pub(crate) async fn having(&self, position: Position) -> Result<BTreeSet<DiskId>, CaptureError> {
        let nodes = self.monitor.nodes().await?;
        let name = tracking::record(position);
        let having = self
            .disks
            .iter()
            .filter(|d| self.bitmaps(&nodes, d).iter().any(|b| b.name == name));
        Ok(having.map(|d| d.id.clone()).collect())
    }

    pub(crate) fn forget_losses(&self) -> Result<(), CaptureError> {
        self.losses.forget().map_err(|e| CaptureError::Block {
            what: "noting that tracking begins again".to_owned(),
            detail: e.to_string(),
        })
    }

    /// Everything that an instant needs and that counts nothing without one: nothing passes the filters yet.
    pub(crate) async fn prepare(&self) -> Result<(), CaptureError> {
        let what = "preparing the instant";
        self.space.check()?;
        for disk in &self.disks {
            let id = &disk.id;
            let (file, path) = self.space.create(id, disk.size)?;
            let lent = match self.holder {
                Holder::Vm => Some(self.monitor.lend(what, file).await?),
                Holder::StandIn => None,
            };
            let name = lent.map_or_else(|| path.display().to_string(), |lent| lent.name());
            let fleece = json!({
                "driver": "file", "node-name": format!("{FLEECE}{id}"), "filename": name, "discard": "unmap",
                "cache": {"direct": false, "no-flush": true},
            });
            let added = self.monitor.run(what, "blockdev-add", fleece).await;
            // QEMU would keep the file for as long as it runs.
            let taken_back = match lent {
                Some(lent) => self.monitor.take_back(what, &lent).await,
                None => Ok(()),
            };
            added.and(taken_back)?;
        }
        for disk in &self.disks {
            let id = &disk.id;
            let filter = json!({
                "driver": "copy-before-write", "node-name": format!("{FILTER}{id}"),
                "file": graph::disk_node(id), "target": format!("{FLEECE}{id}"),
                "on-cbw-error": "break-snapshot", "cbw-timeout": SAVE_TIMEOUT, "discard": "unmap",
            });
            self.monitor.run(what, "blockdev-add", filter).await?;
        }
        Ok(())
    }

    /// The record of `next` and the instant itself, with the guest frozen around it if that was wanted and possible.
    pub(crate) async fn take(
        &self,
        next: Position,
        wanted: Consistency,
    ) -> Result<Consistency, CaptureError> {
        let what = "taking the instant";
        self.monitor.transaction(what, self.additions(next)).await?;
        let mut frozen = self.frozen(wanted).await;
        let taken = self.reopen(what, &self.names(), FILTER).await;
        let reached = match &mut frozen {
            None if wanted == Consistency::Application => Consistency::Crash,
            None => wanted,
            Some(frozen) => {
                if frozen.thaw().await {
                    Consistency::Application
                } else {
                    Consistency::Crash
                }
            }
        };
        taken.map(|()| reached)
    }

    async fn frozen(&self, wanted: Consistency) -> Option<Frozen> {
        if wanted != Consistency::Application {
            return None;
        }
        let Some(freezer) = &self.freezer else {
            tracing::info!("the guest has no agent: the instant is crash-consistent");
            return None;
        };
        match freezer.freeze().await {
            Ok(frozen) => Some(frozen),
            Err(error) => {
                tracing::warn!(
                    error,
                    "the guest could not be frozen: the instant is crash-consistent"
                );
                None
            }
        }
    }

    /// Shows the instant: nodes, server, one export per disk.
    pub(crate) async fn show(&self, base: Position) -> Result<(), CaptureError> {
        let what = "showing the instant";
        let frozen = self
            .disks
            .iter()
            .map(|d| bitmap_action("disable", d, &tracking::record(base)))
            .collect();
        self.monitor.transaction(what, frozen).await?;
        for disk in &self.disks {
            let id = &disk.id;
            let snapshot = json!({
                "driver": "snapshot-access", "node-name": format!("{SNAPSHOT}{id}"), "file": format!("{FILTER}{id}"),
            });
            self.monitor.run(what, "blockdev-add", snapshot).await?;
        }
        let record = tracking::record(base);
        let copies = self.disks.iter().flat_map(|disk| {
            let snapshot = format!("{SNAPSHOT}{}", disk.id);
            bitmap_copy(disk, &snapshot, &record, &[record.as_str()])
        });
        self.monitor.transaction(what, copies.collect()).await?;
        self.serve(what).await?;
        for disk in &self.disks {
            let id = &disk.id;
            let export = json!({
                "type": "nbd", "id": format!("export-{id}"), "node-name": format!("{SNAPSHOT}{id}"),
                "name": id, "writable": false,
                "bitmaps": [{"node": format!("{SNAPSHOT}{id}"), "name": record}],
            });
            self.monitor.run(what, "block-export-add", export).await?;
        }
        Ok(())
    }

    pub(crate) async fn serve(&self, what: &str) -> Result<(), CaptureError> {
        let address = match self.holder {
            Holder::Vm => {
                let socket = fdset::listen(&self.nbd).map_err(|e| CaptureError::Block {
                    what: format!("making the socket {}", self.nbd),
                    detail: e.to_string(),
                })?;
                self.monitor.give(what, NBD_SOCKET, socket.into()).await?;
                json!({"addr": {"type": "fd", "data": {"str": NBD_SOCKET}}})
            }
            Holder::StandIn => json!({"addr": {"type": "unix", "data": {"path": self.nbd}}}),
        };
        self.monitor.run(what, "nbd-server-start", address).await?;
        Ok(())
    }
}

/// Actions that put what `records` of a disk hold into a new bitmap on another node, which does not record. Only such
/// copies are ever exported: a resize of a disk one of whose bitmaps is exported kills QEMU.
pub(crate) fn bitmap_copy(disk: &LogDisk, node: &str, name: &str, records: &[impl AsRef<str>]) -> [Value; 2] {
    let of_disk =
        |record: &dyn AsRef<str>| json!({"node": graph::disk_node(&disk.id), "name": record.as_ref()});
    let records: Vec<_> = records.iter().map(|r| of_disk(r)).collect();
    [
        json!({"type": "block-dirty-bitmap-add", "data": {
            "node": node, "name": name, "persistent": false, "disabled": true,
            "granularity": change_granularity(disk.size),
        }}),
        json!({"type": "block-dirty-bitmap-merge", "data": {"node": node, "target": name, "bitmaps": records}}),
    ]
}

pub(crate) fn bitmap_action(kind: &str, disk: &LogDisk, name: &str) -> Value {
    json!({
        "type": format!("block-dirty-bitmap-{kind}"),
        "data": {"node": graph::disk_node(&disk.id), "name": name},
    })
}
