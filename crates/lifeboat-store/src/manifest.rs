//! What a replica consists of, as one JSON file beside its images. It alone decides: a file it does not name is left
//! over from something interrupted and may go, and replacing it is the single instant at which an operation takes
//! effect. It knows chains and names, not how anything is done.
//!
//! Logs are not listed: they describe themselves, and the manifest would otherwise grow and be rewritten with every
//! cycle.

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::LogDisk;
use lifeboat_engine::ports::store::{BulkProgress, Point, StoreError, Target};
use lifeboat_model::{BranchId, DiskId, PointId, Position, VmId};
use serde::{Deserialize, Serialize};

use crate::files::{self, Result, at};

/// The format this program writes and the only one it reads.
const VERSION: u32 = 1;

/// Most images one disk may stand on, the writable one included: QEMU opens and searches longer chains too slowly.
pub(crate) const MAX_CHAIN: usize = 48;

/// File name of the manifest.
pub(crate) const NAME: &str = "manifest.json";

/// The whole replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) vm: VmId,
    /// Arguments of `create`, to tell a repetition from a conflict.
    pub(crate) created: Vec<LogDisk>,
    pub(crate) start: Position,
    /// Disks at `applied`.
    pub(crate) disks: Vec<LogDisk>,
    pub(crate) bulk: Vec<BulkProgress>,
    /// Sealed points, oldest first; each stands on the one before, the first on the base.
    pub(crate) points: Vec<Sealed>,
    pub(crate) applied: Position,
    pub(crate) head: Option<Head>,
    pub(crate) branches: Vec<Branch>,
    pub(crate) promoted: Option<Promoted>,
    /// The oldest point's data is in the base already, only its layer is still in the way.
    pub(crate) merged: Option<PointId>,
    /// Number in the next layer's name, so that no name is ever used twice.
    pub(crate) next_layer: u64,
    /// The replica is being deleted.
    pub(crate) destroying: bool,
}

/// A sealed point and its layer of every disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    #[serde(flatten)]
    pub(crate) point: Point,
    pub(crate) layers: Vec<Layer>,
}

/// One image of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layer {
    pub(crate) disk: DiskId,
    /// Relative to the replica's directory.
    pub(crate) file: Utf8PathBuf,
    /// Size the guest sees, in bytes.
    pub(crate) size: u64,
}

/// The layers logs are applied to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// Set durably before the images are written to and cleared after they are durable. Found set, they are worthless.
    pub(crate) dirty: bool,
    pub(crate) layers: Vec<Layer>,
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Branch {
    pub(crate) id: BranchId,
    pub(crate) target: Target,
    /// The point below it; it and all older ones stay as long as the branch.
    pub(crate) on: PointId,
    /// Position of the target.
    pub(crate) position: Position,
    pub(crate) complete: bool,
    /// Layers with the logs from `on` to `position`; empty when the target is a point.
    pub(crate) replay: Vec<Layer>,
    pub(crate) layers: Vec<Layer>,
}

/// The branch that became the VM's disks, and what it still stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Promoted {
    pub(crate) branch: BranchId,
    /// Per disk, the layers between the base and the branch's own, lowest first.
    pub(crate) below: Vec<Below>,
}

/// Layers below a promoted branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Below {
    pub(crate) disk: DiskId,
    pub(crate) files: Vec<Utf8PathBuf>,
    /// The lowest of `files` is in the base already.
    pub(crate) merged: bool,
}

impl Manifest {
    /// A replica without content.
    pub(crate) fn new(vm: VmId, disks: &[LogDisk], start: Position) -> Self {
        let bulk = disks.iter().map(|d| BulkProgress {
            disk: d.id.clone(),
            done: 0,
        });
        Self {
            version: VERSION,
            vm,
            created: disks.to_vec(),
            start,
            disks: disks.to_vec(),
            bulk: bulk.collect(),
            points: Vec::new(),
            applied: start,
            head: None,
            branches: Vec::new(),
            promoted: None,
            merged: None,
            next_layer: 1,
            destroying: false,
        }
    }

    /// Reads the manifest in `dir`; `None` when there is none.
    pub(crate) fn load(dir: &Utf8Path) -> Result<Option<Self>> {
        let path = dir.join(NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(at("read", &path)(e)),
        };
        let damaged = |detail: String| StoreError::Damaged {
            path: path.clone(),
            detail,
        };
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|e| damaged(format!("not a manifest this version can read ({e})")))?;
        if manifest.version != VERSION {
            return Err(damaged(format!(
                "version {}, this program reads {VERSION}",
                manifest.version
            )));
        }
        if let Some(file) = manifest.files().find(|f| !is_ours(f)) {
            return Err(damaged(format!("names a file outside the replica: {file}")));
        }
        Ok(Some(manifest))
    }

    /// Puts it in place durably.
    pub(crate) fn save(&self, dir: &Utf8Path) -> Result<()> {
        let path = dir.join(NAME);
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| at("write", &path)(e.into()))?;
        bytes.push(b'\n');
        files::replace(&path, &bytes)
    }

    /// Every image it names, relative to the replica's directory, except bases.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Utf8PathBuf> {
        let points = self.points.iter().flat_map(|p| &p.layers);
        let head = self.head.iter().flat_map(|h| &h.layers);
        let branches = self
            .branches
            .iter()
            .flat_map(|b| b.replay.iter().chain(&b.layers));
        let below = self.promoted.iter().flat_map(|p| &p.below);
        points
            .chain(head)
            .chain(branches)
            .map(|l| &l.file)
            .chain(below.flat_map(|b| &b.files))
    }

    /// The point at a position.
    pub(crate) fn point_at(&self, position: Position) -> Option<&Sealed> {
        self.points.iter().find(|p| p.point.position == position)
    }

    /// Where the head starts from: the newest point, or the bulk copy.
    pub(crate) fn floor(&self) -> Position {
        self.points.last().map_or(self.start, |p| p.point.position)
    }

    /// Disks at [`Self::floor`].
    pub(crate) fn floor_disks(&self) -> Vec<LogDisk> {
        let Some(newest) = self.points.last() else {
            return self.created.clone();
        };
        let disk = |l: &Layer| LogDisk {
            id: l.disk.clone(),
            size: l.size,
        };
        newest.layers.iter().map(disk).collect()
    }

    /// The images of a disk up to and including point number `upto` (none: only the base), lowest first.
    pub(crate) fn chain(&self, disk: &DiskId, upto: Option<usize>) -> Vec<Utf8PathBuf> {
        let points = upto.map_or(0, |n| n + 1);
        let layers = self.points.iter().take(points).flat_map(|p| &p.layers);
        let layers = layers.filter(|l| l.disk == *disk).map(|l| l.file.clone());
        std::iter::once(base(disk)).chain(layers).collect()
    }

    /// The images of a branch's disk, lowest first, the branch's own last.
    pub(crate) fn branch_chain(&self, branch: &Branch, layer: &Layer) -> Vec<Utf8PathBuf> {
        let promoted = self.promoted.iter().find(|p| p.branch == branch.id);
        let mut chain = if let Some(promoted) = promoted {
            let below = promoted.below.iter().filter(|b| b.disk == layer.disk);
            let files = below.flat_map(|b| b.files.iter().cloned());
            std::iter::once(base(&layer.disk)).chain(files).collect()
        } else {
            let on = self.points.iter().position(|p| p.point.id == branch.on);
            let mut chain = self.chain(&layer.disk, on);
            let replay = branch.replay.iter().filter(|l| l.disk == layer.disk);
            chain.extend(replay.map(|l| l.file.clone()));
            chain
        };
        chain.push(layer.file.clone());
        chain
    }

    /// The branch, if it exists.
    pub(crate) fn branch(&self, id: BranchId) -> Option<&Branch> {
        self.branches.iter().find(|b| b.id == id)
    }

    /// Refuses what only a replica can do once its branch has become the VM's disks.
    pub(crate) fn not_promoted(&self) -> Result<()> {
        match &self.promoted {
            Some(p) => Err(StoreError::Conflict(format!(
                "branch {} became the disks of VM {}: this is no replica any more",
                p.branch, self.vm
            ))),
            None => Ok(()),
        }
    }

    /// Forgets the head; its logs are applied again.
    pub(crate) fn discard_head(&mut self) {
        self.head = None;
        self.applied = self.floor();
        self.disks = self.floor_disks();
    }
}

/// The base image of a disk, relative to the replica's directory.
pub(crate) fn base(disk: &DiskId) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("disks/{disk}/base.raw"))
}

/// Whether a file name from a manifest stays where our files are.
fn is_ours(file: &Utf8Path) -> bool {
    let plain = file
        .components()
        .all(|c| matches!(c, camino::Utf8Component::Normal(_)));
    plain && (file.starts_with("disks") || file.starts_with("branches")) && file.components().count() == 3
}
