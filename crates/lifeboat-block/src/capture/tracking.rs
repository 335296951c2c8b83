//! What the dirty bitmaps of a VM's disks say together. Pure: from what QEMU reports to what the engine may rely on.

use std::collections::BTreeMap;

use lifeboat_engine::ports::capture::Tracking;
use lifeboat_model::policy::change_granularity;
use lifeboat_model::{DiskId, GenerationId, Position};
use serde::Deserialize;
use uuid::Uuid;

/// Every record of ours starts with this.
pub const RECORD_PREFIX: &str = "lifeboat-";

/// Name of the dirty bitmap of what changed since `position`.
#[must_use]
pub fn record(position: Position) -> String {
    format!(
        "{RECORD_PREFIX}{}-{}",
        position.generation().0.simple(),
        position.sequence()
    )
}

/// The position a record of ours is named after.
#[must_use]
pub fn position(record: &str) -> Option<Position> {
    let (generation, sequence) = record.strip_prefix(RECORD_PREFIX)?.split_once('-')?;
    let generation = GenerationId(Uuid::try_parse(generation).ok()?);
    let sequence = sequence.parse().ok()?;
    Some(Position::from_parts(generation, sequence))
}

/// A dirty bitmap as QEMU reports it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Bitmap {
    /// Bitmaps that other programs' jobs use internally have none.
    #[serde(default)]
    pub name: String,
    /// Bytes of the disk that one bit covers.
    pub granularity: u64,
    /// Bytes it marks.
    pub count: u64,
    /// Writes are marked in it; otherwise it is frozen.
    pub recording: bool,
    /// QEMU did not close it in order.
    #[serde(default)]
    pub inconsistent: bool,
}

impl Bitmap {
    /// Whether Lifeboat made it, by its name.
    #[must_use]
    pub fn ours(&self) -> bool {
        self.name.starts_with(RECORD_PREFIX)
    }
}

/// One disk as far as tracking is concerned.
#[derive(Clone, Debug)]
pub struct Tracked<'a> {
    /// Which disk, for reasons that name it.
    pub id: &'a DiskId,
    /// Size of the disk in bytes.
    pub size: u64,
    /// All bitmaps of its node, also those of others.
    pub bitmaps: &'a [Bitmap],
    /// Why records were thrown away before the disk was opened, if they were.
    pub lost: Option<String>,
}

/// What all disks together know.
#[must_use]
pub fn judge(disks: &[Tracked<'_>]) -> Tracking {
    for disk in disks {
        if let Some(reason) = spoiled(disk) {
            return Tracking::Lost {
                disk: disk.id.clone(),
                reason,
            };
        }
    }
    // How many disks have each record, and whether all of these still record.
    let mut seen: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
    for bitmap in disks.iter().flat_map(|d| d.bitmaps).filter(|b| b.ours()) {
        let entry = seen.entry(&bitmap.name).or_insert((0, true));
        *entry = (entry.0 + 1, entry.1 && bitmap.recording);
    }
    if seen.is_empty() {
        return Tracking::None;
    }
    let mut common: Vec<_> = seen
        .iter()
        .filter(|(_, (count, _))| *count == disks.len())
        .filter_map(|(name, (_, recording))| Some((*recording, position(name)?)))
        .collect();
    sort(&mut common);
    match common.as_slice() {
        [(_, only)] if common_records(&common) => Tracking::Since(vec![*only]),
        [(_, base), (true, next)] => Tracking::Since(vec![*base, *next]),
        _ => incomplete(disks, &common),
    }
}

/// Per disk the names of all its records, when together they hold every change since the oldest position that any disk
/// knows of; nothing for a disk whose records do not.
pub(crate) fn complete(disks: &[Tracked<'_>]) -> Vec<Option<Vec<String>>> {
    let records: Vec<_> = disks.iter().map(usable).collect();
    let known = records.iter().flatten().flatten();
    let mut positions: Vec<_> = known
        .filter_map(|b| Some((b.recording, position(&b.name)?)))
        .collect();
    sort(&mut positions);
    let Some((_, oldest)) = positions.first() else {
        return vec![None; disks.len()];
    };
    let oldest = record(*oldest);
    let names = |ours: &Vec<&Bitmap>| -> Option<Vec<String>> {
        let since = ours.iter().any(|b| b.name == oldest);
        since.then(|| ours.iter().map(|b| b.name.clone()).collect())
    };
    records.iter().map(|ours| ours.as_ref().and_then(names)).collect()
}

/// The records of a disk, unless something was not recorded.
fn usable<'a>(disk: &Tracked<'a>) -> Option<Vec<&'a Bitmap>> {
    let ours: Vec<_> = disk.bitmaps.iter().filter(|b| b.ours()).collect();
    let whole = disk.lost.is_none() && ours.iter().all(|b| !b.inconsistent);
    // A frozen record ends somewhere; only one that records has the rest.
    (whole && ours.iter().any(|b| b.recording)).then_some(ours)
}

fn common_records(common: &[(bool, Position)]) -> bool {
    common.iter().all(|(recording, _)| *recording)
}

/// Ascending; across generations, between which positions have no order, a frozen record is the older one.
fn sort(common: &mut [(bool, Position)]) {
    let one_generation = common
        .windows(2)
        .all(|w| matches!(w, [(_, a), (_, b)] if a.same_generation(*b)));
    let by_position = |a: Position, b: Position| {
        // Generations are compared only so that the order is total.
        let apart = || a.generation().cmp(&b.generation());
        a.compare(b).unwrap_or_else(apart)
    };
    if one_generation {
        common.sort_by(|(_, a), (_, b)| by_position(*a, *b));
    } else {
        common.sort_by(|(a_records, a), (b_records, b)| {
            a_records.cmp(b_records).then_with(|| by_position(*a, *b))
        });
    }
}

fn spoiled(disk: &Tracked<'_>) -> Option<String> {
    if let Some(reason) = &disk.lost {
        return Some(reason.clone());
    }
    let wanted = change_granularity(disk.size);
    disk.bitmaps.iter().filter(|b| b.ours()).find_map(|b| {
        if b.inconsistent {
            Some("the disk was not closed cleanly".to_owned())
        } else if b.granularity > wanted {
            Some(format!(
                "the granularity of its dirty bitmap is {} bytes, coarser than {wanted}",
                b.granularity
            ))
        } else {
            None
        }
    })
}

/// Records that do not fit together; names the disk that lacks most.
fn incomplete(disks: &[Tracked<'_>], common: &[(bool, Position)]) -> Tracking {
    let count = |d: &&Tracked<'_>| d.bitmaps.iter().filter(|b| b.ours()).count();
    let reason = match common.len() {
        0 => "it has no records since a position that the other disks know",
        1 | 2 => "its changes are no longer recorded",
        _ => "it has records of more than two positions",
    };
    let worst = disks.iter().min_by_key(count);
    worst.map_or(Tracking::None, |d| Tracking::Lost {
        disk: d.id.clone(),
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GenerationId = GenerationId(Uuid::from_u128(7));
    const H: GenerationId = GenerationId(Uuid::from_u128(1));

    fn at(generation: GenerationId, sequence: u64) -> Position {
        Position::from_parts(generation, sequence)
    }

    fn bit(position: Position, recording: bool) -> Bitmap {
        Bitmap {
            name: record(position),
            granularity: 4096,
            count: 0,
            recording,
            inconsistent: false,
        }
    }

    fn verdict(disks: &[Vec<Bitmap>]) -> Tracking {
        let ids = [DiskId::new("a").unwrap(), DiskId::new("b").unwrap()];
        let tracked: Vec<_> = ids
            .iter()
            .zip(disks)
            .map(|(id, bitmaps)| Tracked {
                id,
                size: 1 << 20,
                bitmaps,
                lost: None,
            })
            .collect();
        judge(&tracked)
    }

    fn lost(disks: &[Vec<Bitmap>]) -> String {
        match verdict(disks) {
            Tracking::Lost { disk, reason } => format!("{disk}: {reason}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_lead_back_to_positions() {
        assert_eq!(position(&record(at(G, u64::MAX))), Some(at(G, u64::MAX)));
        for other in [
            "lifeboat-",
            "lifeboat-x-1",
            "backup-1",
            "lifeboat-00000000000000000000000000000007-",
        ] {
            assert_eq!(position(other), None, "{other}");
        }
    }

    #[test]
    fn what_all_disks_have_counts() {
        assert_eq!(verdict(&[vec![], vec![]]), Tracking::None);
        let one = vec![bit(at(G, 9), true)];
        assert_eq!(
            verdict(&[one.clone(), one.clone()]),
            Tracking::Since(vec![at(G, 9)])
        );
        // Interrupted before the instant (both record) and after it (the base is frozen).
        for frozen in [true, false] {
            let two = vec![bit(at(G, 10), true), bit(at(G, 9), frozen)];
            let since = Tracking::Since(vec![at(G, 9), at(G, 10)]);
            assert_eq!(verdict(&[two.clone(), two.clone()]), since);
        }
        // Across generations only freezing shows the order.
        let two = vec![bit(at(H, 1), true), bit(at(G, 9), false)];
        assert_eq!(
            verdict(&[two.clone(), two]),
            Tracking::Since(vec![at(G, 9), at(H, 1)])
        );
        // A record that only one disk has never became an instant.
        let partial = vec![bit(at(G, 9), true), bit(at(G, 10), true)];
        assert_eq!(verdict(&[one, partial]), Tracking::Since(vec![at(G, 9)]));
    }

    #[test]
    fn a_disk_is_known_when_its_records_reach_back_and_go_on() {
        let ids = ["a", "b"].map(|id| DiskId::new(id).unwrap());
        let whole = |disks: [Vec<Bitmap>; 2]| {
            let tracked = ids.iter().zip(&disks).map(|(id, bitmaps)| Tracked {
                id,
                size: 1 << 20,
                bitmaps,
                lost: None,
            });
            let known = complete(&tracked.collect::<Vec<_>>());
            [known[0].is_some(), known[1].is_some()]
        };
        let (old, frozen, new) = (bit(at(G, 1), true), bit(at(G, 1), false), bit(at(H, 2), true));
        let both = || vec![frozen.clone(), new.clone()];
        assert_eq!(whole([vec![], vec![]]), [false, false]);
        assert_eq!(whole([vec![old.clone()], vec![]]), [true, false]);
        assert_eq!(whole([both(), both()]), [true, true]);
        assert_eq!(
            whole([both(), vec![frozen.clone()]]),
            [true, false],
            "it does not go on"
        );
        assert_eq!(
            whole([both(), vec![new.clone()]]),
            [true, false],
            "it does not reach back"
        );
        let mut spoiled = both();
        spoiled[0].inconsistent = true;
        assert_eq!(whole([spoiled, vec![new.clone()]]), [false, true]);
        // Bitmaps of a smaller disk, whose granularity is finer, are as good.
        let fine = Bitmap {
            granularity: 512,
            ..old
        };
        assert_eq!(whole([vec![fine.clone()], vec![fine.clone()]]), [true, true]);
        assert_eq!(
            verdict(&[vec![fine.clone()], vec![fine]]),
            Tracking::Since(vec![at(G, 1)])
        );
    }

    #[test]
    fn every_way_to_lose_is_named() {
        let fine = vec![bit(at(G, 9), true)];
        let mut bad = fine.clone();
        bad[0].inconsistent = true;
        assert!(lost(&[fine.clone(), bad]).starts_with("b: the disk was not closed"));
        let mut coarse = fine.clone();
        coarse[0].granularity = 65536;
        assert!(lost(&[fine.clone(), coarse]).contains("65536"));
        assert!(lost(&[fine.clone(), vec![]]).starts_with("b: it has no records"));
        assert!(lost(&[fine.clone(), vec![bit(at(G, 8), true)]]).contains("no records"));
        let frozen = vec![bit(at(G, 9), false)];
        assert!(lost(&[fine, frozen]).contains("no longer recorded"));
        let three: Vec<_> = (1..=3).map(|s| bit(at(G, s), true)).collect();
        assert!(lost(&[three.clone(), three]).contains("more than two"));
    }
}
