//! What a replica consists of, as one JSON file beside its images. It alone decides: a file it does not name is left
//! over from something interrupted and may go, and replacing it is the single instant at which an operation takes
//! effect. It knows chains and names, not how anything is done.
//!
//! Logs are not listed: they describe themselves, and the manifest would otherwise grow and be rewritten with every
//! cycle.

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::LogDisk;
use lifeboat_engine::ports::store::{Abandoned, BulkProgress, DiskFile, Point, StoreError, Target};
use lifeboat_model::{BranchId, Changed, DiskFormat, DiskId, PointId, Position, VmId};
use serde::{Deserialize, Serialize};

use crate::chain::Image;
use crate::digested;
use crate::error::{Result, io_error};
use crate::files;

/// The format this program writes. Version 1 lacks what came with adoption and is read as well.
const VERSION: u32 = 2;

/// Most images in the chain of a disk, the writable one included: QEMU opens and searches longer chains too slowly.
pub(crate) const MAX_CHAIN: usize = 48;

/// File name of the manifest.
pub(crate) const NAME: &str = "manifest.json";

/// The whole replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) vm: VmId,
    /// Arguments of `create` or `adopt`, to distinguish a repetition from a conflict.
    pub(crate) created: Vec<LogDisk>,
    pub(crate) start: Position,
    /// Disks at `applied`.
    pub(crate) disks: Vec<LogDisk>,
    pub(crate) bulk: Vec<BulkProgress>,
    /// Bases that are not ours: images of this host that were taken over where they are.
    #[serde(default)]
    pub(crate) bases: Vec<Base>,
    /// The layer sets, recovery points and intermediate ones, oldest first; each is on the one before, the first on the base.
    pub(crate) points: Vec<Sealed>,
    pub(crate) applied: Position,
    pub(crate) head: Option<Head>,
    pub(crate) branches: Vec<Branch>,
    pub(crate) promoted: Option<Promoted>,
    /// The data of the point or layer set is in the image below it already, only its layer is still in the way.
    pub(crate) merged: Option<PointId>,
    /// The replica was a copy with data of its own before.
    #[serde(default)]
    pub(crate) adopted: Option<Adopted>,
    /// What it held then, as long as that must not change.
    #[serde(default)]
    pub(crate) kept: Option<Kept>,
    /// File beside the manifest with the ranges in which this copy may differ from others.
    #[serde(default)]
    pub(crate) divergence: Option<Utf8PathBuf>,
    /// Number in the next layer's name, so that no name is ever used twice.
    pub(crate) next_layer: u64,
    /// The replica is being deleted.
    pub(crate) destroying: bool,
    /// Logs alone, whose images are kept elsewhere: it has no disks, and `applied` is where the logs that are left begin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) logs_alone: bool,
}

/// A base that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Base {
    pub(crate) disk: DiskId,
    /// Where the image is, from the root: it is outside of the replica's directory.
    pub(crate) path: Utf8PathBuf,
    pub(crate) format: DiskFormat,
}

/// Where an adopted replica came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adopted {
    /// The promoted branch it was.
    pub(crate) branch: Option<BranchId>,
}

/// Content that must not change until it is dropped: the base and the lowest layer sets above it, seen together. They may be
/// merged into one another, but nothing from above into them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) what: Abandoned,
    /// How many of the layer sets belong to it, counted from the lowest.
    #[serde(rename = "levels")]
    pub(crate) layer_sets: usize,
    /// Its disks, with the sizes they had.
    pub(crate) disks: Vec<LogDisk>,
}

/// A layer set: one layer of every disk, sealed together, and what is known of the instant that they show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    #[serde(flatten)]
    pub(crate) point: Point,
    pub(crate) layers: Vec<Layer>,
    /// What its layers were made on, when they were made of logs alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<MadeOn>,
    /// No recovery point: layers that are to be merged away, and are needed until then by what is above them.
    #[serde(default, rename = "loose")]
    pub(crate) intermediate: bool,
}

impl Sealed {
    /// Its disks.
    pub(crate) fn disks(&self) -> Vec<LogDisk> {
        let disk = |l: &Layer| LogDisk {
            id: l.disk.clone(),
            size: l.size,
        };
        self.layers.iter().map(disk).collect()
    }
}

/// What was below a layer set when it was begun. An expiry changes what is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MadeOn {
    pub(crate) position: Position,
    pub(crate) disks: Vec<LogDisk>,
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
    /// What the logs that were applied to it changed.
    #[serde(default)]
    pub(crate) changed: Changed,
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Branch {
    pub(crate) id: BranchId,
    pub(crate) target: Target,
    /// The point below it; it and all older ones stay as long as the branch. None: it is on the abandoned data.
    pub(crate) on: Option<PointId>,
    /// Position of the target.
    pub(crate) position: Position,
    pub(crate) complete: bool,
    /// Layers with the logs from `on` to `position`; empty when the target is a point.
    pub(crate) replay: Vec<Layer>,
    pub(crate) layers: Vec<Layer>,
}

/// The branch that became the VM's disks, and the layers that it still needs.
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
            bases: Vec::new(),
            points: Vec::new(),
            applied: start,
            head: None,
            branches: Vec::new(),
            promoted: None,
            merged: None,
            adopted: None,
            kept: None,
            divergence: None,
            next_layer: 1,
            destroying: false,
            logs_alone: false,
        }
    }

    /// No logs yet of images that are kept elsewhere.
    pub(crate) fn of_logs(vm: VmId, start: Position) -> Self {
        Self {
            logs_alone: true,
            ..Self::new(vm, &[], start)
        }
    }

    /// Reads a manifest that was found at `path`.
    pub(crate) fn parse(path: &Utf8Path, bytes: &[u8]) -> Result<Self> {
        let damaged = |detail: String| StoreError::Damaged {
            path: path.to_owned(),
            detail,
        };
        let mut manifest: Self = serde_json::from_slice(bytes)
            .map_err(|e| damaged(format!("not a manifest this version can read ({e})")))?;
        if !(1..=VERSION).contains(&manifest.version) {
            return Err(damaged(format!(
                "version {}, this program reads 1 to {VERSION}",
                manifest.version
            )));
        }
        manifest.version = VERSION;
        if let Some(file) = manifest.files().find(|f| !is_ours(f)) {
            return Err(damaged(format!("names a file outside the replica: {file}")));
        }
        if let Some(base) = manifest.bases.iter().find(|b| !is_absolute(&b.path)) {
            return Err(damaged(format!("a base is not named absolutely: {}", base.path)));
        }
        if let Some(file) = manifest.divergence.iter().find(|f| !is_divergence(f.as_str())) {
            return Err(damaged(format!("names a file outside the replica: {file}")));
        }
        if manifest
            .kept
            .as_ref()
            .is_some_and(|k| k.layer_sets > manifest.points.len())
        {
            return Err(damaged("keeps more layer sets than there are".to_owned()));
        }
        Ok(manifest)
    }

    /// Puts it in place durably.
    pub(crate) fn save(&self, dir: &Utf8Path) -> Result<()> {
        let path = dir.join(NAME);
        let text = digested::text(self).map_err(|e| io_error("write", &path)(e.into()))?;
        files::replace(&path, text.as_bytes())
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

    /// Every image that cannot be made again, the unfinished apart; relative to the replica's directory, bases that are not
    /// ours absolute. What recovery points need comes first.
    pub(crate) fn needed(&self) -> Vec<Utf8PathBuf> {
        let head: Vec<_> = self
            .head
            .iter()
            .flat_map(|h| &h.layers)
            .map(|l| &l.file)
            .collect();
        let unfinished = self.branches.iter().filter(|b| !b.complete);
        let unfinished: Vec<_> = unfinished.map(|b| format!("branches/{}", b.id)).collect();
        let images = self.files().filter(|f| {
            let in_unfinished = unfinished.iter().any(|u| f.starts_with(u));
            !head.contains(f) && !in_unfinished
        });
        self.disks_with_base()
            .map(|d| self.base(d).file)
            .chain(images.cloned())
            .collect()
    }

    /// Disks whose base is there: a disk that is only in an unfinished head gets its base together with the head.
    pub(crate) fn disks_with_base(&self) -> impl Iterator<Item = &DiskId> {
        let sealed = self.points.iter().flat_map(|p| &p.layers);
        let sealed = sealed.map(|l| &l.disk);
        sealed.chain(self.disks.iter().map(|d| &d.id))
    }

    /// The point at a position.
    pub(crate) fn point_at(&self, position: Position) -> Option<&Sealed> {
        self.recovery_points().find(|p| p.point.position == position)
    }

    /// The layer sets that are recovery points, oldest first.
    pub(crate) fn recovery_points(&self) -> impl DoubleEndedIterator<Item = &Sealed> {
        self.points.iter().filter(|p| !p.intermediate)
    }

    /// Number of the layer set that is this recovery point.
    pub(crate) fn index_of(&self, id: PointId) -> Option<usize> {
        self.points
            .iter()
            .position(|p| !p.intermediate && p.point.id == id)
    }

    /// The branch that was made on the abandoned data, if there is one.
    pub(crate) fn branch_on_kept(&self) -> Option<&Branch> {
        self.branches.iter().find(|b| b.on.is_none())
    }

    /// The base of a disk.
    pub(crate) fn base(&self, disk: &DiskId) -> Image {
        match self.bases.iter().find(|b| b.disk == *disk) {
            Some(base) => Image {
                file: base.path.clone(),
                format: base.format,
                ours: base.format == DiskFormat::Raw,
            },
            None => Image {
                file: own_base(disk),
                format: DiskFormat::Raw,
                ours: true,
            },
        }
    }

    /// Where the head starts from: the newest point, or the bulk copy.
    pub(crate) fn floor(&self) -> Position {
        self.points.last().map_or(self.start, |p| p.point.position)
    }

    /// What the head is made on.
    pub(crate) fn made_on(&self) -> MadeOn {
        MadeOn {
            position: self.floor(),
            disks: self.floor_disks(),
        }
    }

    /// Disks at [`Self::floor`].
    pub(crate) fn floor_disks(&self) -> Vec<LogDisk> {
        let Some(newest) = self.points.last() else {
            return self.created.clone();
        };
        newest.disks()
    }

    /// The images of a disk up to and including point number `upto` (none: only the base), lowest first.
    pub(crate) fn chain(&self, disk: &DiskId, upto: Option<usize>) -> Vec<Image> {
        let points = upto.map_or(0, |n| n + 1);
        let layers = self.points.iter().take(points).flat_map(|p| &p.layers);
        let layers = layers.filter(|l| l.disk == *disk);
        let layers = layers.map(|l| Image::layer(&l.file));
        std::iter::once(self.base(disk)).chain(layers).collect()
    }

    /// The images of a disk up to and including the head.
    pub(crate) fn head_chain(&self, disk: &DiskId) -> Vec<Image> {
        let mut chain = self.chain(disk, self.points.len().checked_sub(1));
        let head = self.head.iter().flat_map(|h| &h.layers);
        let head = head.filter(|l| l.disk == *disk);
        chain.extend(head.map(|l| Image::layer(&l.file)));
        chain
    }

    /// The topmost file of each disk, of the replica itself and of each complete branch.
    pub(crate) fn disk_files(&self, dir: &Utf8Path) -> Vec<DiskFile> {
        let own = self.disks.iter().filter_map(|d| {
            let top = self.head_chain(&d.id).pop()?;
            Some((d.id.clone(), None, top.file))
        });
        let complete = self.branches.iter().filter(|b| b.complete);
        let branches = complete.flat_map(|b| {
            let layers = b.layers.iter();
            layers.map(|l| (l.disk.clone(), Some(b.id), l.file.clone()))
        });
        let file = |(disk, branch, file): (DiskId, Option<BranchId>, Utf8PathBuf)| DiskFile {
            disk,
            branch,
            path: dir.join(file),
        };
        own.chain(branches).map(file).collect()
    }

    /// The images of a branch's disk, lowest first, the branch's own last.
    pub(crate) fn branch_chain(&self, branch: &Branch, layer: &Layer) -> Vec<Image> {
        let promoted = self.promoted.iter().find(|p| p.branch == branch.id);
        let mut chain = if let Some(promoted) = promoted {
            let below = promoted.below.iter().filter(|b| b.disk == layer.disk);
            let files = below.flat_map(|b| b.files.iter().map(|f| Image::layer(f)));
            std::iter::once(self.base(&layer.disk)).chain(files).collect()
        } else {
            let on = match (branch.on, &self.kept) {
                (Some(id), _) => self.index_of(id),
                (None, Some(kept)) => kept.layer_sets.checked_sub(1),
                (None, None) => None,
            };
            let mut chain = self.chain(&layer.disk, on);
            let replay = branch.replay.iter().filter(|l| l.disk == layer.disk);
            chain.extend(replay.map(|l| Image::layer(&l.file)));
            chain
        };
        chain.push(Image::layer(&layer.file));
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

    /// Everything but the head.
    pub(crate) fn without_head(&self) -> Self {
        let mut rest = self.clone();
        if rest.head.is_some() {
            rest.discard_head();
        }
        rest
    }

    /// Forgets the head; its logs are applied again.
    pub(crate) fn discard_head(&mut self) {
        self.head = None;
        self.applied = self.floor();
        self.disks = self.floor_disks();
    }
}

/// Our own base image of a disk, relative to the replica's directory.
pub(crate) fn own_base(disk: &DiskId) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("disks/{disk}/base.raw"))
}

/// Whether a name is one of a file of ranges.
pub(crate) fn is_divergence(name: &str) -> bool {
    name.starts_with("divergence-") && name.ends_with(".json") && !name.contains('/')
}

fn is_absolute(path: &Utf8Path) -> bool {
    path.is_absolute()
        && path.components().all(|c| {
            matches!(
                c,
                camino::Utf8Component::Normal(_) | camino::Utf8Component::RootDir
            )
        })
}

/// Whether a file name from a manifest stays where our files are.
fn is_ours(file: &Utf8Path) -> bool {
    let plain = file
        .components()
        .all(|c| matches!(c, camino::Utf8Component::Normal(_)));
    plain && (file.starts_with("disks") || file.starts_with("branches")) && file.components().count() == 3
}
