//! Where this copy may differ from another that once had the same content: ranges of its disks, in a file beside the
//! manifest, because they are too many for what is rewritten with every operation. Collecting them is done here too;
//! what they are good for is the engine's matter.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{LOG_TAIL, footer_len, read_index};
use lifeboat_engine::ports::store::{Divergence, Ranges, StoreError, Target};
use lifeboat_model::DiskId;

use crate::error::{Result, io_error};
use crate::files;
use crate::logs::{self, Entry};
use crate::manifest::{Branch, Manifest};
use crate::map::{Map, tidy};
use crate::replica::{Replica, State};

/// Most ranges that are kept for a disk; beyond that, neighbours are joined.
const MAX_RANGES: usize = 1 << 18;

/// Ranges are joined when this many have gathered.
const GATHER: usize = 4 * MAX_RANGES;

/// Writes ranges durably under a name that was never used and returns it.
pub(crate) fn save(dir: &Utf8Path, number: u64, divergence: &Divergence) -> Result<Utf8PathBuf> {
    let name = Utf8PathBuf::from(format!("divergence-{number:04x}.json"));
    let mut bounded = divergence.clone();
    for (_, ranges) in &mut bounded.disks {
        *ranges = ranges.take().map(|r| joined(r, MAX_RANGES));
    }
    let path = dir.join(&name);
    let bytes = serde_json::to_vec(&bounded).map_err(|e| io_error("write", &path)(e.into()))?;
    files::replace(&path, &bytes)?;
    Ok(name)
}

/// What is known.
pub(crate) fn load(dir: &Utf8Path, manifest: &Manifest) -> Result<Divergence> {
    let Some(name) = &manifest.divergence else {
        return Err(StoreError::Conflict(format!(
            "the replica of VM {} was neither taken over nor promoted: it differs from nothing",
            manifest.vm
        )));
    };
    let path = dir.join(name);
    let bytes = std::fs::read(&path).map_err(io_error("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|e| StoreError::Damaged {
        path,
        detail: format!("not a list of ranges this version can read ({e})"),
    })
}

/// What was changed after the target of a branch, by everything that goes when the branch is promoted.
pub(crate) fn of_promotion(replica: &Replica, state: &State, branch: &Branch) -> Result<Divergence> {
    let mut union = Union::default();
    let known = match branch.target {
        Target::Point { .. } | Target::Cycle { .. } => {
            match state.logs.between(branch.position, state.durable()) {
                Some(entries) => union.logs(replica, &entries).map(|()| true)?,
                None => union.layers(replica, state, branch)?,
            }
        }
        Target::Abandoned => union.recorded(replica, state)? && union.layers(replica, state, branch)?,
    };
    let mut ranges = |disk: &DiskId| {
        let found = union.disks.remove(disk).unwrap_or_default();
        (known && !union.unknown.contains(disk)).then(|| joined(found, MAX_RANGES))
    };
    Ok(Divergence {
        since: branch.position,
        disks: branch
            .layers
            .iter()
            .map(|l| (l.disk.clone(), ranges(&l.disk)))
            .collect(),
    })
}

/// Ranges from several sources.
#[derive(Default)]
struct Union {
    disks: BTreeMap<DiskId, Ranges>,
    unknown: Vec<DiskId>,
}

impl Union {
    fn add(&mut self, disk: &DiskId, ranges: impl IntoIterator<Item = (u64, u64)>) {
        let all = self.disks.entry(disk.clone()).or_default();
        all.extend(ranges);
        if all.len() > GATHER {
            *all = joined(std::mem::take(all), GATHER / 2);
        }
    }

    /// What logs say of themselves.
    fn logs(&mut self, replica: &Replica, entries: &[Entry]) -> Result<()> {
        for entry in entries {
            let path = replica.dir.join(logs::DIR).join(&entry.file);
            let extents = extents(&path, entry)?;
            for (disk, ranges) in entry.disks.iter().zip(extents) {
                self.add(&disk.id, ranges);
            }
        }
        Ok(())
    }

    /// What layers above the branch hold, and the logs that are in none of them yet. Coarser than logs, which for
    /// older points may have expired.
    fn layers(&mut self, replica: &Replica, state: &State, branch: &Branch) -> Result<bool> {
        let manifest = &state.manifest;
        let below = match (branch.on, &manifest.kept) {
            (Some(id), _) => manifest.index_of(id).map(|on| on + 1),
            (None, kept) => kept.as_ref().map(|k| k.layer_sets),
        };
        let after = state.logs.between(manifest.applied, state.durable());
        let (Some(below), Some(after)) = (below, after) else {
            return Ok(false);
        };
        let points = manifest.points.iter().skip(below).flat_map(|p| &p.layers);
        for layer in points.chain(manifest.head.iter().flat_map(|h| &h.layers)) {
            let map = Map::open(&replica.dir.join(&layer.file), layer.size)?;
            let own = map.pieces(0, layer.size)?.into_iter().map(|p| (p.offset, p.len));
            self.add(&layer.disk, tidy(own.collect()));
        }
        self.logs(replica, &after)?;
        Ok(true)
    }

    /// What was recorded when the content became a replica.
    fn recorded(&mut self, replica: &Replica, state: &State) -> Result<bool> {
        for (disk, ranges) in load(&replica.dir, &state.manifest)?.disks {
            match ranges {
                Some(ranges) => self.add(&disk, ranges),
                None => self.unknown.push(disk),
            }
        }
        Ok(true)
    }
}

/// The index at the end of a stored log.
pub(crate) fn extents(path: &Utf8Path, entry: &Entry) -> Result<Vec<Ranges>> {
    let damaged = |detail: &str| StoreError::Damaged {
        path: path.to_owned(),
        detail: detail.to_owned(),
    };
    let file = File::open(path).map_err(io_error("open", path))?;
    let mut tail = [0; LOG_TAIL];
    let end = entry.log.size.checked_sub(LOG_TAIL as u64);
    let end = end.ok_or_else(|| damaged("too short for a log"))?;
    file.read_exact_at(&mut tail, end)
        .map_err(io_error("read", path))?;
    let len = footer_len(&tail).filter(|len| *len <= entry.log.size);
    let len = len.ok_or_else(|| damaged("it does not end like a log"))?;
    let mut footer = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read_exact_at(&mut footer, entry.log.size - len)
        .map_err(io_error("read", path))?;
    read_index(&footer, entry.disks.len()).map_err(|e| damaged(&e.to_string()))
}

/// The same bytes and, if there would be more than `max` ranges, those between neighbours: the smallest gaps go first.
fn joined(mut ranges: Ranges, max: usize) -> Ranges {
    ranges.sort_unstable();
    let merged = close(&ranges, 0);
    if merged.len() <= max.max(1) {
        return merged;
    }
    let pairs = merged.iter().zip(merged.iter().skip(1));
    let mut gaps: Vec<u64> = pairs.map(|(a, b)| b.0 - (a.0 + a.1)).collect();
    gaps.sort_unstable();
    let enough = gaps.get(merged.len() - max.max(1) - 1);
    close(&merged, enough.copied().unwrap_or(u64::MAX))
}

/// Joins sorted ranges with no more than `gap` bytes between them.
fn close(ranges: &[(u64, u64)], gap: u64) -> Ranges {
    let mut closed: Ranges = Vec::new();
    for &(offset, len) in ranges {
        match closed.last_mut() {
            Some(last) if offset <= (last.0 + last.1).saturating_add(gap) => {
                last.1 = (offset + len).max(last.0 + last.1) - last.0;
            }
            Some(_) | None => closed.push((offset, len)),
        }
    }
    closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_touch_overlap_and_join_across_the_smallest_gaps() {
        let ranges = vec![(100, 10), (0, 10), (5, 20), (25, 5), (120, 10), (200, 1), (40, 1)];
        assert_eq!(
            joined(ranges.clone(), 9),
            [(0, 30), (40, 1), (100, 10), (120, 10), (200, 1)]
        );
        assert_eq!(joined(ranges.clone(), 3), [(0, 41), (100, 30), (200, 1)]);
        assert_eq!(joined(ranges, 1), [(0, 201)]);
    }
}
