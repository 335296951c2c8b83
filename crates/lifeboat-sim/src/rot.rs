//! Bit rot in the simulated store: a block of a sealed point, and of everything that shows it from below, holds a number
//! that no write of the guest has. A scrub finds it, and a repair believes only the number that was there.

use lifeboat_engine::ports::scrub::{
    DamagedFile, NewestData, RepairSource, RepairState, Repaired, ScrubNews, ScrubNext, ScrubPass,
    ScrubState, ScrubStep, ScrubWork, WantedRange,
};
use lifeboat_model::{PointId, Timestamp};

use crate::disk::{BLOCK, Content, numbers_of};
use crate::state::{Replica, Rot};

impl Rot {
    fn shows(&self, content: &[Content]) -> bool {
        let at = content.get(self.disk).and_then(|c| c.get(&self.block));
        at == Some(&self.wrong)
    }

    fn cure(&self, content: &mut [Content]) {
        if self.shows(content)
            && let Some(content) = content.get_mut(self.disk)
        {
            match self.right {
                0 => drop(content.remove(&self.block)),
                right => drop(content.insert(self.block, right)),
            }
        }
    }
}

impl Replica {
    /// Lets a block of a point rot, there and in every newer point and the head that show it.
    pub fn rot(&mut self, point: usize, disk: usize, block: u64) {
        let wrong = u64::MAX - self.rot.len() as u64;
        let Some((_, content)) = self.points.get(point) else {
            return;
        };
        let right = content
            .get(disk)
            .and_then(|c| c.get(&block))
            .copied()
            .unwrap_or(0);
        let newer = self.points.iter_mut().skip(point).map(|(_, c)| c);
        for content in newer.chain([&mut self.head]) {
            let Some(content) = content.get_mut(disk) else {
                break;
            };
            if content.get(&block).copied().unwrap_or(0) != right {
                // It was written again: from here on that hides it.
                break;
            }
            content.insert(block, wrong);
        }
        self.rot.push(Rot {
            disk,
            block,
            right,
            wrong,
            found: None,
            hopeless: false,
        });
    }

    /// Whether a kept log writes this number to a block.
    #[must_use]
    pub fn logged(&self, disk: usize, block: u64, number: u64) -> bool {
        let mut changes = self.logs.iter().flat_map(|l| &l.changes);
        changes.any(|c| *c == (disk, block, number))
    }

    fn spoiled(&self, rot: &Rot) -> Vec<PointId> {
        let hurt = self.points.iter().filter(|(_, c)| rot.shows(c));
        hurt.map(|(p, _)| p.id).collect()
    }

    fn there(&self, rot: &Rot) -> bool {
        rot.shows(&self.head) || !self.spoiled(rot).is_empty()
    }

    /// What a scrub found and what that spoils.
    pub(crate) fn damage(&self) -> Vec<DamagedFile> {
        let found = self.rot.iter().filter(|r| r.found.is_some() && self.there(r));
        let file = |r: &Rot| DamagedFile {
            file: format!("{}/rot-{}-{}", self.dir, r.disk, r.block).into(),
            what: "its data differs from the recorded digest".into(),
            since: r.found.unwrap_or_default(),
            points: self.spoiled(r),
            log: None,
            newest: if r.shows(&self.head) {
                NewestData::Spoiled
            } else {
                NewestData::Good
            },
            repair: if r.hopeless {
                RepairState::Hopeless
            } else {
                RepairState::Pending
            },
        };
        found.map(file).collect()
    }

    /// Reads everything at once.
    pub(crate) fn scrub(&mut self, work: ScrubWork, now: Timestamp) -> ScrubStep {
        let mut step = ScrubStep {
            read: 0,
            next: ScrubNext::Nothing,
            pass: None,
            news: ScrubNews::None,
        };
        if work == ScrubWork::Record || self.points.is_empty() || self.promoted.is_some() {
            return step;
        }
        let mut found = 0;
        for rot in &mut self.rot {
            if rot.found.is_none() {
                (rot.found, found) = (Some(now), found + 1);
            }
            rot.hopeless = false;
        }
        let pass = ScrubPass {
            started: now,
            done: BLOCK,
            total: BLOCK,
            first_seen: 0,
            found,
        };
        self.scrubbed = ScrubState {
            running: None,
            last: Some(now),
        };
        (step.read, step.next, step.pass) = (BLOCK, ScrubNext::Complete(pass), Some(pass));
        if found > 0 {
            step.news = ScrubNews::Damage;
        }
        step
    }

    /// Tries a source on everything that is known.
    pub(crate) fn repair(&mut self, source: &RepairSource) -> Repaired {
        let mut repaired = Repaired {
            blocks: 0,
            files: Vec::new(),
            wanted: Vec::new(),
            left: 0,
            untried: 0,
        };
        let (rot, mut left) = (std::mem::take(&mut self.rot), Vec::new());
        for mut r in rot {
            if !self.there(&r) {
                continue;
            }
            if r.found.is_some() && self.offers(&r, source) {
                self.points.iter_mut().for_each(|(_, c)| r.cure(c));
                r.cure(&mut self.head);
                repaired.blocks += 1;
                repaired
                    .files
                    .push(format!("{}/rot-{}-{}", self.dir, r.disk, r.block).into());
                continue;
            }
            r.hopeless |= *source == RepairSource::None;
            if r.found.is_some() && !r.hopeless {
                repaired.left += 1;
                repaired
                    .wanted
                    .extend(self.disks.get(r.disk).map(|d| WantedRange {
                        disk: d.id.clone(),
                        offset: r.block * BLOCK,
                        len: 4096,
                    }));
            }
            left.push(r);
        }
        self.rot = left;
        repaired
    }

    /// Whether a source has what was there.
    fn offers(&self, rot: &Rot, source: &RepairSource) -> bool {
        match source {
            RepairSource::Logs => rot.right != 0 && self.logged(rot.disk, rot.block, rot.right),
            RepairSource::Copy(offered) => offered.iter().any(|o| {
                let disk = self.disks.get(rot.disk).is_some_and(|d| d.id == o.disk);
                let numbers = numbers_of(o.offset, &o.data).unwrap_or_default();
                disk && numbers.contains(&(rot.block, rot.right))
            }),
            RepairSource::OneBit | RepairSource::None => false,
        }
    }
}
