//! What is known to be damaged, durable in `scrub/damage.json`, and which recovery points it spoils. A point is spoiled
//! when its chain shows bytes that may be wrong: what a layer above the damage holds itself hides it. Finding damage
//! is `scrub`'s, repairing `repair`'s; what an open replica knows of its damage is `spoiled`'s.

use std::collections::BTreeSet;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::scrub::{DamagedFile, NewestData, RepairState};
use lifeboat_engine::ports::store::Ranges;
use lifeboat_model::{DiskFormat, DiskId, PointId, Position, Timestamp};
use serde::{Deserialize, Serialize};

use crate::chain::Image;
use crate::digest::{BLOCK, DIR, LAYER_BLOCK};
use crate::error::{Result, io_error};
use crate::files;
use crate::manifest::{Layer, Manifest};
use crate::map::Map;

/// File of the record, below [`DIR`].
const NAME: &str = "damage.json";

/// Most blocks of a file that are recorded one by one; with more, the whole file counts as damaged.
const MAX_BLOCKS: usize = 512;

/// A sealed file of a replica: a base or a layer.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) image: Image,
    pub(crate) disk: DiskId,
    /// Number of its layer set; none: the base.
    pub(crate) index: Option<usize>,
    /// Bytes of the disk.
    pub(crate) size: u64,
}

impl Sealed {
    /// Bytes that a digest of it stands for.
    pub(crate) fn block(&self) -> u64 {
        match self.image.format {
            DiskFormat::Raw => BLOCK,
            DiskFormat::Qcow2 => LAYER_BLOCK,
        }
    }
}

/// Everything that is sealed, lowest first.
pub(crate) fn sealed(manifest: &Manifest) -> Vec<Sealed> {
    let mut all: Vec<Sealed> = Vec::new();
    for (index, layer) in layers(manifest) {
        if !all.iter().any(|s| s.disk == layer.disk) {
            all.push(Sealed {
                image: manifest.base(&layer.disk),
                disk: layer.disk.clone(),
                index: None,
                size: layer.size,
            });
        }
        all.push(Sealed {
            image: Image::layer(&layer.file),
            disk: layer.disk.clone(),
            index: Some(index),
            size: layer.size,
        });
    }
    all
}

fn layers(manifest: &Manifest) -> impl Iterator<Item = (usize, &Layer)> {
    let sets = manifest.points.iter().enumerate();
    sets.flat_map(|(n, p)| p.layers.iter().map(move |l| (n, l)))
}

/// A damaged block, or a damaged log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bad {
    /// As the manifest spells it; a log by its directory and name.
    pub(crate) file: Utf8PathBuf,
    /// None: a log.
    pub(crate) disk: Option<DiskId>,
    /// Number of the block in the file.
    pub(crate) block: u64,
    /// What was seen.
    pub(crate) seen: String,
    pub(crate) since: Timestamp,
    /// Bytes of the disk that may be wrong.
    pub(crate) suspect: Ranges,
    /// The bytes that may be wrong in points that were sealed later, when more was known.
    pub(crate) later: Option<Later>,
    /// It is, or may be, a table of the image and no data.
    pub(crate) table: bool,
    /// No source had the right bytes.
    pub(crate) hopeless: bool,
    /// Every bit of it was tried.
    #[serde(default)]
    pub(crate) searched: bool,
}

impl Bad {
    /// A file that cannot be used at all, and for which nothing has what should be there.
    pub(crate) fn whole(item: &Sealed, seen: String, now: Timestamp) -> Self {
        Self {
            file: item.image.file.clone(),
            disk: Some(item.disk.clone()),
            block: 0,
            seen,
            since: now,
            suspect: vec![(0, item.size)],
            later: None,
            table: true,
            hopeless: true,
            searched: true,
        }
    }
}

/// What is left of a suspicion after the newest data was compared with another copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Later {
    /// The newest point at that time; it and older ones are as suspect as before.
    pub(crate) after: Option<PointId>,
    pub(crate) suspect: Ranges,
}

/// The damage of a replica, in memory.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) bads: Vec<Bad>,
    /// What it means, and for which manifest.
    pub(crate) shown: Option<(Vec<PointId>, Vec<Utf8PathBuf>, Vec<DamagedFile>)>,
}

impl Known {
    /// What was recorded. A record that cannot be read is none: the next pass finds everything again.
    pub(crate) fn load(dir: &Utf8Path) -> Self {
        let path = dir.join(DIR).join(NAME);
        let bads = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|e| {
                tracing::warn!(%path, error = %e, "the record of damage cannot be read; the next scrub makes it again");
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        Self { bads, shown: None }
    }

    /// Replaces the list durably.
    pub(crate) fn set(&mut self, dir: &Utf8Path, bads: Vec<Bad>) -> Result<()> {
        if bads == self.bads {
            return Ok(());
        }
        let parent = dir.join(DIR);
        std::fs::create_dir_all(&parent).map_err(io_error("make", &parent))?;
        let path = parent.join(NAME);
        let bytes = serde_json::to_vec(&bads).map_err(|e| io_error("write", &path)(e.into()))?;
        files::replace(&path, &bytes)?;
        self.bads = bads;
        self.shown = None;
        Ok(())
    }
}

/// Adds damage that was found; what is known already stays as it is. Returns how much of it is new.
pub(crate) fn note(bads: &mut Vec<Bad>, found: Vec<Bad>, size: u64) -> u64 {
    let mut new = 0;
    for bad in found {
        let same = |b: &&mut Bad| b.file == bad.file && b.block == bad.block;
        if let Some(known) = bads.iter_mut().find(same) {
            // Found again by a later pass: every source is worth another try.
            known.hopeless = bad.hopeless;
            continue;
        }
        new += 1;
        let of_file = bads.iter().filter(|b| b.file == bad.file).count();
        if of_file < MAX_BLOCKS {
            bads.push(bad);
        } else if let Some(last) = bads.iter_mut().rfind(|b| b.file == bad.file) {
            (last.suspect, last.later) = (vec![(0, size)], None);
        }
    }
    new
}

/// Without what is about files that are gone.
pub(crate) fn prune(bads: &mut Vec<Bad>, manifest: &Manifest, logs: &[(Utf8PathBuf, Position)]) {
    let sealed = sealed(manifest);
    bads.retain(|b| match b.disk {
        Some(_) => sealed.iter().any(|s| s.image.file == b.file),
        None => logs.iter().any(|(f, _)| *f == b.file),
    });
}

/// What damage means: for each file, and for the recovery points that show it.
pub(crate) fn show(
    dir: &Utf8Path,
    manifest: &Manifest,
    logs: &[(Utf8PathBuf, Position)],
    bads: &[Bad],
) -> Vec<DamagedFile> {
    let sealed = sealed(manifest);
    let files: BTreeSet<&Utf8PathBuf> = bads.iter().map(|b| &b.file).collect();
    let mut shown = Vec::new();
    for file in files {
        let of: Vec<&Bad> = bads.iter().filter(|b| b.file == *file).collect();
        let Some(first) = of.first() else { continue };
        let log = logs.iter().find(|(f, _)| f == file).map(|(_, at)| *at);
        let item = sealed.iter().find(|s| s.image.file == *file);
        if log.is_none() && item.is_none() {
            continue;
        }
        let (mut points, mut newest) = (BTreeSet::new(), NewestData::Good);
        for bad in &of {
            let Some(item) = item else { break };
            let spoiled = spoiled(dir, manifest, item, bad);
            points.extend(spoiled.0);
            if spoiled.1 == NewestData::Spoiled {
                newest = NewestData::Spoiled;
            }
        }
        let order = manifest.recovery_points().map(|p| p.point.id);
        let hopeless = of.iter().all(|b| b.hopeless);
        shown.push(DamagedFile {
            file: dir.join(file),
            what: description(&of, first, item),
            since: of.iter().map(|b| b.since).min().unwrap_or_default(),
            points: order.filter(|id| points.contains(id)).collect(),
            log,
            newest,
            repair: if hopeless {
                RepairState::Hopeless
            } else {
                RepairState::Pending
            },
        });
    }
    shown
}

fn description(of: &[&Bad], first: &Bad, item: Option<&Sealed>) -> String {
    let Some(item) = item else {
        return first.seen.clone();
    };
    let (at, kib) = (first.block * item.block(), item.block() >> 10);
    match of.len() {
        1 => format!("{}: {kib} KiB at byte {at}", first.seen),
        n => format!(
            "{}: {n} blocks of {kib} KiB, one of them at byte {at}",
            first.seen
        ),
    }
}

/// The recovery points that show what a damaged block may have wrong, and whether the newest data does.
fn spoiled(dir: &Utf8Path, manifest: &Manifest, item: &Sealed, bad: &Bad) -> (BTreeSet<PointId>, NewestData) {
    let first = item.index.unwrap_or(0);
    let all = || {
        let sets = manifest.points.iter().skip(first);
        let ids = sets.map(|p| p.point.id).collect();
        (ids, NewestData::Spoiled)
    };
    // QEMU opens no chain with such an image, whatever is shown of it.
    if !opens(dir, item) {
        return all();
    }
    walk(dir, manifest, item, bad).unwrap_or_else(|error| {
        tracing::warn!(file = %item.image.file, %error, "it is not known what the damage spoils; everything above it counts as spoiled");
        all()
    })
}

fn opens(dir: &Utf8Path, item: &Sealed) -> bool {
    let path = dir.join(&item.image.file);
    match item.image.format {
        DiskFormat::Qcow2 if item.image.ours => Map::open(&path, item.size).is_ok(),
        DiskFormat::Qcow2 | DiskFormat::Raw => path.is_file(),
    }
}

/// Goes up the chain and takes away what each layer hides.
fn walk(
    dir: &Utf8Path,
    manifest: &Manifest,
    item: &Sealed,
    bad: &Bad,
) -> Result<(BTreeSet<PointId>, NewestData)> {
    let mut suspect = bad.suspect.clone();
    let mut later = bad.later.as_ref().map(|l| l.suspect.clone());
    let after = bad.later.as_ref().and_then(|l| l.after);
    // When that point is gone, every point that is here was sealed later.
    let mut passed = after.is_none_or(|id| manifest.points.iter().all(|p| p.point.id != id));
    let first = item.index.unwrap_or(0);
    let mut ids = BTreeSet::new();
    for (index, sealed) in manifest.points.iter().enumerate() {
        if index >= first
            && let Some(layer) = sealed.layers.iter().find(|l| l.disk == item.disk)
        {
            if item.index != Some(index) {
                hide(dir, layer, &mut suspect, &mut later)?;
            }
            let shows = match (&later, passed) {
                (Some(later), true) => later,
                (Some(_) | None, _) => &suspect,
            };
            if !shows.is_empty() {
                ids.insert(sealed.point.id);
            }
        }
        passed |= after == Some(sealed.point.id);
    }
    for layer in manifest.head.iter().flat_map(|h| &h.layers) {
        if layer.disk == item.disk {
            hide(dir, layer, &mut suspect, &mut later)?;
        }
    }
    let newest = if later.unwrap_or(suspect).is_empty() {
        NewestData::Good
    } else {
        NewestData::Spoiled
    };
    Ok((ids, newest))
}

/// Takes away what a layer hides of what is below it.
pub(crate) fn hide(
    dir: &Utf8Path,
    layer: &Layer,
    suspect: &mut Ranges,
    later: &mut Option<Ranges>,
) -> Result<()> {
    if !Image::layer(&layer.file).ours || suspect.is_empty() {
        // The tables of a layer that QEMU wrote are not read, so that it counts as hiding nothing.
        return Ok(());
    }
    let map = Map::open(&dir.join(&layer.file), layer.size)?;
    *suspect = map.uncovered(suspect)?;
    if let Some(later) = later {
        *later = map.uncovered(later)?;
    }
    Ok(())
}
