//! The damage of an open replica: what is noted of it, what it spoils, and what a comparison with another copy takes back. What
//! damage is, `damage` knows.

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::scrub::DamagedFile;
use lifeboat_engine::ports::store::Ranges;
use lifeboat_model::{DiskId, PointId, Position};

use crate::damage::{Bad, Later, hide, note, sealed, show};
use crate::error::Result;
use crate::logs;
use crate::manifest::Manifest;
use crate::map::{within, without};
use crate::replica::{Replica, State};

impl Replica {
    /// The damaged blocks that are known.
    pub(crate) fn bads(&self) -> Vec<Bad> {
        self.scrub().damage.bads.clone()
    }

    /// Changes that list durably.
    pub(crate) fn change_bads(&self, change: impl FnOnce(&mut Vec<Bad>)) -> Result<()> {
        let mut scrub = self.scrub();
        let mut bads = scrub.damage.bads.clone();
        change(&mut bads);
        scrub.damage.set(&self.dir, bads)
    }

    /// Notes damage of a disk of this size durably; how much of it is new.
    pub(crate) fn note_bads(&self, found: Vec<Bad>, size: u64) -> Result<u64> {
        let mut new = 0;
        self.change_bads(|all| new = note(all, found, size))?;
        Ok(new)
    }

    /// Whether anything is known to be damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.scrub().damage.bads.is_empty()
    }

    /// What is damaged and what that spoils. From blocking threads only.
    pub(crate) fn damage(&self) -> Vec<DamagedFile> {
        let (manifest, logs) = {
            let state = self.state.blocking_lock();
            (state.manifest.clone(), log_files(&state))
        };
        if !self.scrub().is_about(manifest.start) {
            return Vec::new();
        }
        let points: Vec<PointId> = manifest.points.iter().map(|p| p.point.id).collect();
        let head = manifest.head.iter().flat_map(|h| &h.layers);
        let mut head: Vec<Utf8PathBuf> = head.map(|l| l.file.clone()).collect();
        head.push(manifest.applied.to_string().into());
        head.extend(logs.iter().map(|(f, _)| f.clone()));
        let bads = {
            let scrub = self.scrub();
            if let Some((p, h, shown)) = &scrub.damage.shown
                && *p == points
                && *h == head
            {
                return shown.clone();
            }
            scrub.damage.bads.clone()
        };
        let shown = show(&self.dir, &manifest, &logs, &bads);
        let mut scrub = self.scrub();
        if scrub.damage.bads == bads {
            scrub.damage.shown = Some((points, head, shown.clone()));
        }
        shown
    }
}

/// The logs, as damage names them.
pub(crate) fn log_files(state: &State) -> Vec<(Utf8PathBuf, Position)> {
    let name = |e: &logs::Entry| (Utf8Path::new(logs::DIR).join(&e.file), e.log.position);
    state.logs.entries.iter().map(name).collect()
}

/// The newest data of a disk was compared with another copy: these ranges of it are equal. What is shown there of a
/// damaged block is right as far as points to come are concerned.
pub(crate) fn equal(replica: &Replica, manifest: &Manifest, disk: &DiskId, ranges: &Ranges) -> Result<()> {
    if !replica.bads().iter().any(|b| b.disk.as_ref() == Some(disk)) {
        return Ok(());
    }
    let newest = manifest.points.last().map(|p| p.point.id);
    let sealed = sealed(manifest);
    let mut bads = replica.bads();
    for bad in bads.iter_mut().filter(|b| b.disk.as_ref() == Some(disk)) {
        let Some(item) = sealed.iter().find(|s| s.image.file == bad.file) else {
            continue;
        };
        let now = bad.later.as_ref().map_or(&bad.suspect, |l| &l.suspect).clone();
        let mut shown = now.clone();
        let above = item.index.map_or(0, |l| l + 1);
        let layers = manifest.points.iter().skip(above).flat_map(|p| &p.layers);
        for layer in layers.chain(manifest.head.iter().flat_map(|h| &h.layers)) {
            if layer.disk == *disk {
                hide(&replica.dir, layer, &mut shown, &mut None)?;
            }
        }
        let proved = within(&shown, ranges);
        if !proved.is_empty() {
            bad.later = Some(Later {
                after: newest,
                suspect: without(&now, &proved),
            });
        }
    }
    replica.change_bads(|b| *b = bads)
}
