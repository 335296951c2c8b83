//! What is remembered of the images of each disk: who has them open, what they were when they were closed, and why their
//! dirty bitmaps are not valid. It is durable, because the daemon may be ended at any moment while a VM runs, and
//! it is compared at every look.
//!
//! A disk's record is written twice for each time a process has its images open:
//!
//! | moment | record | what the next look makes of it |
//! |---|---|---|
//! | before a process opens the images | open, by this run, as they were | the end of that run must have been seen |
//! | after it was seen to end | closed, as they are | equal: nothing happened; else changes are unknown |
//!
//! Three who can see the end: the call that ended the process, which may be given up at any moment; a task that waits for it,
//! which is not; and, when the daemon did not run at that moment, a *witness*: a file that QEMU removes when everything is
//! closed, so that its directory shows when that was. Without one of them changes are unknown, and a comparison follows. A disk without a record was never opened by a version
//! that keeps one; it is taken as it is.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
pub(crate) use lifeboat_block::capture::Holder;
use lifeboat_model::{DiskFormat, DiskId, VmId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::config::QemuConfig;
use crate::files;
use crate::identity::{self, Identity};
use crate::layers::Layer;
use crate::writers::Writers;

/// How long the end of a process that is gone may take to be written down.
const WRITING_DOWN: Duration = Duration::from_secs(5);

/// One time that a process had images open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    id: Uuid,
    holder: Holder,
}

impl Run {
    pub(crate) fn new(holder: Holder) -> Self {
        Self {
            id: Uuid::new_v4(),
            holder,
        }
    }
}

/// The images of a disk as a record covers them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Images {
    /// The one that is written to comes first.
    pub(crate) layers: Vec<Layer>,
    /// Files of the replica store below it. The store merges them while the VM is off and has its own digests of them.
    pub(crate) store: Vec<String>,
}

/// What is remembered of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    disk: DiskId,
    /// The run that has the images open, until its end was seen.
    open: Option<Run>,
    images: Images,
    /// As they were when this was written.
    seen: Vec<Identity>,
    /// Why changes are unknown, until tracking begins again.
    lost: Option<String>,
}

/// What a look at a powered-off VM's images showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// They are as they were closed.
    AsClosed,
    /// This disk's are not.
    Changed(DiskId, String),
    /// Nothing is recorded to compare with.
    NotRecorded,
}

/// The records of all VMs of this host.
#[derive(Debug)]
pub(crate) struct Ledger {
    dir: PathBuf,
    witnesses: Utf8PathBuf,
    pub(crate) writers: Writers,
    /// Who waits for the ends of the processes that have images open.
    ends: Mutex<HashMap<VmId, End>>,
}

/// A task that waits for the end of a process and writes it down.
#[derive(Debug)]
struct End {
    task: AbortHandle,
    /// Closed with the task. A call that waits for it may be dropped, and the next one waits again.
    over: watch::Receiver<()>,
}

impl Ledger {
    /// Records below the directory that survives a reboot.
    pub(crate) fn new(config: &QemuConfig) -> Self {
        Self {
            dir: config.state_dir.join("images").into_std_path_buf(),
            witnesses: config.running(),
            writers: Writers::new(),
            ends: Mutex::default(),
        }
    }

    /// The file that a VM's process removes when it has closed everything.
    pub(crate) fn witness(&self, vm: VmId) -> Utf8PathBuf {
        witness(&self.witnesses, vm)
    }

    fn path(&self, vm: VmId, disk: &DiskId) -> PathBuf {
        self.dir.join(format!("{vm}-{disk}.json"))
    }

    /// A record that cannot be read is no evidence of anything.
    fn load(&self, vm: VmId, disk: &DiskId) -> io::Result<Option<Record>> {
        match fs::read(self.path(vm, disk)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn store(&self, vm: VmId, record: &Record) -> io::Result<()> {
        files::private_dir(&self.dir)?;
        files::write_durably(&self.path(vm, &record.disk), &serde_json::to_vec(record)?)
    }

    /// All records of a VM that can be read.
    fn records(&self, vm: VmId) -> Vec<Record> {
        let prefix = format!("{vm}-");
        let names = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let of_vm = names.filter(|n| {
            let name = n.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&prefix) && name.ends_with(".json")
        });
        of_vm
            .filter_map(|n| serde_json::from_slice(&fs::read(n.path()).ok()?).ok())
            .collect()
    }

    /// A run of a process is about to open these disks. Compares first, and notes what it finds.
    pub(crate) async fn opening(&self, vm: VmId, run: Run, disks: &[(DiskId, Images)]) -> io::Result<()> {
        self.finish(vm).await;
        for (disk, images) in disks {
            let seen = identity::look(&images.layers)?;
            let lost = match self.load(vm, disk) {
                Ok(None) => None,
                Ok(Some(before)) => before
                    .lost
                    .clone()
                    .or_else(|| self.doubt(vm, &before, images, &seen)),
                Err(e) => Some(format!("what was remembered of its images cannot be read: {e}")),
            };
            self.writers.arm(vm, disk, &seen);
            let record = Record {
                disk: disk.clone(),
                open: Some(run),
                images: images.clone(),
                seen,
                lost,
            };
            self.store(vm, &record)?;
        }
        if run.holder == Holder::Vm {
            let witness = self.witness(vm);
            let dir = witness.parent().unwrap_or(&self.witnesses);
            // Also what a guest's process may have put there: the directory belonged to its user.
            files::remove_tree(dir.as_std_path())?;
            files::private_dir(dir.as_std_path())?;
        }
        Ok(())
    }

    /// Why images that no process has open may hold what no dirty bitmap knows of.
    fn doubt(&self, vm: VmId, before: &Record, images: &Images, now: &[Identity]) -> Option<String> {
        if before.images.store != images.store {
            // The store has merged layers, which changes the one above them.
            return None;
        }
        let Some(run) = before.open else {
            return differences(&before.seen, now);
        };
        if before.seen.len() != now.len() {
            return Some("it has other backing files than before".to_owned());
        }
        match (run.holder, before.seen.split_first(), now.split_first()) {
            (Holder::Vm, Some((first, below)), Some((now, now_below))) => {
                if !first.same_file(now) {
                    return first.difference(now);
                }
                differences(below, now_below).or_else(|| self.closed_unseen(vm, now))
            }
            // It writes its bitmaps to what it opens, at the latest when it closes: nothing was opened.
            (Holder::StandIn, _, _) if differences(&before.seen, now).is_none() => None,
            (Holder::StandIn | Holder::Vm, _, _) => {
                Some("it was not seen how its images were closed".to_owned())
            }
        }
    }

    /// Whether the witness says that the guest's own image was closed and not touched since.
    fn closed_unseen(&self, vm: VmId, now: &Identity) -> Option<String> {
        let witness = self.witness(vm);
        let dir = witness.parent().and_then(|dir| fs::metadata(dir).ok());
        let (Some(dir), false) = (dir, witness.exists()) else {
            return Some("the VM's process did not close its images in order".to_owned());
        };
        match now.changed() {
            Some(changed) if changed <= (dir.ctime(), dir.ctime_nsec()) => None,
            Some(_) => Some(format!(
                "{} was changed after the VM's process had ended",
                now.path
            )),
            None => Some(format!(
                "it was not seen how the VM's process closed {}, and a device does not say when it was written to last",
                now.path
            )),
        }
    }

    /// Whatever had the VM's images open has ended, or was ended just now.
    pub(crate) async fn closed(&self, vm: VmId) {
        self.finish(vm).await;
        self.close_runs(vm, None).await;
    }

    /// This run was seen to end.
    async fn run_ended(&self, vm: VmId, run: Run) {
        self.close_runs(vm, Some(run)).await;
    }

    async fn close_runs(&self, vm: VmId, only: Option<Run>) {
        let open = self
            .records(vm)
            .into_iter()
            .filter_map(|r| r.open.map(|run| (r, run)));
        let of_run = open.filter(|(_, run)| only.is_none_or(|only| only == *run));
        let records: Vec<_> = of_run.collect();
        let seen: Vec<_> = records.iter().flat_map(|(r, _)| r.seen.clone()).collect();
        if records.is_empty() {
            return;
        }
        self.writers.disarm(vm, &seen);
        for (record, run) in records {
            let path = self.path(vm, &record.disk);
            // Left open, it is judged by the witness, or leads to a comparison.
            if let Err(error) = self.close(vm, record, run).await {
                tracing::warn!(%error, path = %path.display(), "what the VM's images were when they were closed is not recorded");
            }
        }
    }

    async fn close(&self, vm: VmId, record: Record, run: Run) -> io::Result<()> {
        let seen = identity::at_rest(&record.images.layers).await?;
        // The next run may have begun meanwhile.
        if self.load(vm, &record.disk)?.and_then(|r| r.open) != Some(run) {
            return Ok(());
        }
        let lost = record.lost.clone();
        let lost = lost.or_else(|| self.writers.foreign(vm, &record.disk));
        let lost = lost.or_else(|| touched(run.holder, &record.seen, &seen));
        let closed = Record {
            open: None,
            seen,
            lost,
            ..record
        };
        self.store(vm, &closed)
    }

    /// Why changes of a disk that a process has open are not all recorded; found out now, or before.
    pub(crate) fn lost(&self, vm: VmId, disk: &DiskId) -> Option<String> {
        let (reason, new) = self.loss(vm, disk)?;
        if let Some(record) = new
            && let Err(error) = self.store(vm, &record)
        {
            // Found again at the next look, as long as this daemon runs.
            tracing::warn!(%vm, %disk, %error, "that changes are unknown is not recorded");
        }
        Some(reason)
    }

    /// As [`Ledger::lost`], for views: nothing is written down.
    pub(crate) fn seems_lost(&self, vm: VmId, disk: &DiskId) -> Option<String> {
        self.loss(vm, disk).map(|(reason, _)| reason)
    }

    /// Why changes of a disk are not all recorded; and when that was found out only now, the record that says so.
    fn loss(&self, vm: VmId, disk: &DiskId) -> Option<(String, Option<Record>)> {
        let record = match self.load(vm, disk) {
            Ok(record) => record?,
            Err(e) => {
                let reason = format!("what was remembered of its images cannot be read: {e}");
                return Some((reason, None));
            }
        };
        if let Some(reason) = record.lost {
            return Some((reason, None));
        }
        let run = record.open?;
        let found = self.writers.foreign(vm, disk);
        let found = found.or_else(|| match identity::look(&record.images.layers) {
            Ok(now) => touched(run.holder, &record.seen, &now),
            Err(e) => Some(format!("its image cannot be looked at: {e}")),
        })?;
        let lost = Some(found.clone());
        Some((found, Some(Record { lost, ..record })))
    }

    /// Tracking begins again or ends: what was lost before is of no interest.
    pub(crate) fn forget_loss(&self, vm: VmId, disk: &DiskId) -> io::Result<()> {
        self.writers.forget(vm, disk);
        let Some(mut record) = self.load(vm, disk)? else {
            return Ok(());
        };
        if record.lost.is_none() {
            return Ok(());
        }
        record.lost = None;
        if record.open.is_some() {
            record.seen = identity::look(&record.images.layers)?;
        }
        self.store(vm, &record)
    }

    /// Looks at images that no process has open.
    pub(crate) fn look(&self, vm: VmId, disks: &[DiskId]) -> io::Result<Look> {
        for disk in disks {
            let record = match self.load(vm, disk)? {
                Some(record) if record.open.is_none() => record,
                Some(_) | None => return Ok(Look::NotRecorded),
            };
            let now = identity::look(&record.images.layers)?;
            if let Some(why) = record.lost.or_else(|| differences(&record.seen, &now)) {
                return Ok(Look::Changed(disk.clone(), why));
            }
        }
        Ok(Look::AsClosed)
    }

    /// Waits for the end of a run to be written down, where a task is about to. The process must be gone.
    pub(crate) async fn finish(&self, vm: VmId) {
        let over = self.ends().get(&vm).map(|end| end.over.clone());
        if let Some(mut over) = over
            && tokio::time::timeout(WRITING_DOWN, over.changed()).await.is_err()
        {
            tracing::warn!(%vm, "the end of the VM's process is not written down");
        }
        self.ends().retain(|_, end| !end.task.is_finished());
    }

    /// Writes down the end of the process that has the VM's images open, whenever it comes. `ended` waits for it.
    pub(crate) fn attend(
        self: &std::sync::Arc<Self>,
        vm: VmId,
        holder: Holder,
        pid: i32,
        ended: impl Future<Output = ()> + Send + 'static,
    ) {
        self.writers.allow(vm, pid);
        let runs = self.records(vm).into_iter().filter_map(|r| {
            let run = r.open.filter(|run| run.holder == holder)?;
            Some((r.disk, r.seen, run))
        });
        let runs: Vec<_> = runs.collect();
        for (disk, seen, _) in &runs {
            self.writers.arm(vm, disk, seen);
        }
        let run = runs.first().map(|(_, _, run)| *run);
        let ledger = std::sync::Arc::clone(self);
        let (done, over) = watch::channel(());
        let task = tokio::spawn(async move {
            ended.await;
            if let Some(run) = run {
                ledger.run_ended(vm, run).await;
            }
            drop(done);
        });
        let task = task.abort_handle();
        self.ends().insert(vm, End { task, over });
    }

    /// Whether this daemon waits for the end of this process.
    pub(crate) fn attends(&self, vm: VmId, pid: i32) -> bool {
        self.writers.attends(vm, pid) && self.ends().contains_key(&vm)
    }

    /// No task waits any more, as after the daemon was killed.
    #[cfg(test)]
    pub(crate) fn forget_ends(&self) {
        self.ends().drain().for_each(|(_, end)| end.task.abort());
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, End>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file in which a VM's process writes its number, below the directory of all of them.
pub(crate) fn witness(running: &Utf8Path, vm: VmId) -> Utf8PathBuf {
    running.join(vm.to_string()).join("pid")
}

fn differences(before: &[Identity], now: &[Identity]) -> Option<String> {
    if before.len() != now.len() {
        return Some("it has other backing files than before".to_owned());
    }
    before
        .iter()
        .zip(now)
        .find_map(|(before, now)| before.difference(now))
}

/// What happened to images, beyond what the process that has them open does to them: it writes to the first one, unless it
/// is the storage daemon and that one is raw, whose bitmaps are in its tracking overlay.
fn touched(holder: Holder, before: &[Identity], now: &[Identity]) -> Option<String> {
    let (first, below) = before.split_first()?;
    let (now, now_below) = now.split_first()?;
    let kept = holder == Holder::StandIn && first.holds(DiskFormat::Raw);
    let first = if kept || !first.same_file(now) {
        first.difference(now)
    } else {
        None
    };
    first.or_else(|| differences(below, now_below))
}
