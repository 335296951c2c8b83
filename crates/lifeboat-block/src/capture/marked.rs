//! How much the dirty bitmaps of a VM's disks mark together. Pure, like [`super::tracking`].

use lifeboat_engine::ports::capture::Tracking;

use super::tracking::{Bitmap, Tracked, judge};

/// Bytes that the records of these disks mark together; `None` when what is recorded is not all that changed.
#[must_use]
pub fn marked(disks: &[Tracked<'_>]) -> Option<u64> {
    match judge(disks) {
        Tracking::Since(_) => Some(disks.iter().map(of_disk).sum()),
        Tracking::None | Tracking::Lost { .. } => None,
    }
}

/// A frozen record is a log on its way, and what changes again meanwhile travels again. Of records that both go on the
/// older one has all the younger one has: the younger never became an instant.
fn of_disk(disk: &Tracked<'_>) -> u64 {
    let bytes = |b: &Bitmap| b.count.min(disk.size);
    let ours = || disk.bitmaps.iter().filter(|b| b.ours());
    let frozen: u64 = ours().filter(|b| !b.recording).map(bytes).sum();
    let recording = ours().filter(|b| b.recording).map(bytes).max();
    frozen + recording.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_model::{DiskId, GenerationId, Position};
    use uuid::Uuid;

    use crate::capture::tracking::record;

    fn at(sequence: u64) -> Position {
        Position::from_parts(GenerationId(Uuid::from_u128(7)), sequence)
    }

    fn bit(sequence: u64, recording: bool, count: u64) -> Bitmap {
        Bitmap {
            name: record(at(sequence)),
            granularity: 4096,
            count,
            recording,
            inconsistent: false,
        }
    }

    fn sum(disks: &[Vec<Bitmap>]) -> Option<u64> {
        let ids = ["a", "b"].map(|id| DiskId::new(id).unwrap());
        let tracked = ids.iter().zip(disks).map(|(id, bitmaps)| Tracked {
            id,
            size: 1 << 20,
            bitmaps,
            lost: None,
        });
        marked(&tracked.collect::<Vec<_>>())
    }

    #[test]
    fn a_log_on_its_way_and_what_changed_since_both_count() {
        let table = [
            // Between cycles.
            ([vec![bit(9, true, 8192)], vec![bit(9, true, 0)]], Some(8192)),
            // Nothing changed, which was seen.
            ([vec![bit(9, true, 0)], vec![bit(9, true, 0)]], Some(0)),
            // In a cycle.
            (
                [
                    vec![bit(9, false, 8192), bit(10, true, 4096)],
                    vec![bit(9, false, 0), bit(10, true, 4096)],
                ],
                Some(16384),
            ),
            // Before its instant both record the same.
            (
                [
                    vec![bit(9, true, 8192), bit(10, true, 4096)],
                    vec![bit(9, true, 0), bit(10, true, 0)],
                ],
                Some(8192),
            ),
            // The last block reaches beyond the end of the disk.
            (
                [vec![bit(9, true, 1 << 21)], vec![bit(9, true, 0)]],
                Some(1 << 20),
            ),
        ];
        for (disks, wanted) in table {
            assert_eq!(sum(&disks), wanted, "{disks:?}");
        }
    }

    #[test]
    fn what_was_not_recorded_is_not_known_and_never_nothing() {
        let whole = || vec![bit(9, true, 0)];
        let mut spoiled = whole();
        spoiled[0].inconsistent = true;
        for disks in [
            [vec![], vec![]],
            [whole(), vec![]],
            [whole(), vec![bit(9, false, 0)]],
            [whole(), spoiled],
        ] {
            assert_eq!(sum(&disks), None, "{disks:?}");
        }
    }
}
