//! Whether an export on a medium is the copy that a replica awaits, by its manifest, which was authenticated before: a pure
//! judgment. That what it names is on the medium is for the import to see.

use crate::port::media::{Manifest, MediaError, Part, Segment};
use crate::port::store::ReplicaInfo;
use lifeboat_deltalog::LogDisk;
use lifeboat_model::{DiskId, Position, VmId};

/// The version of manifests that is written, and the only one that is read.
pub(crate) const VERSION: u32 = 2;

/// Why an export is not the copy that a replica awaits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Misfit {
    #[error("it has version {0}, this Lifeboat reads {VERSION}")]
    Version(u32),
    #[error("it is of VM \"{name}\" ({vm})")]
    OtherVm { name: String, vm: VmId },
    #[error("it is of another attempt: it begins at {found}, awaited is {awaited}; import the newest export")]
    OtherAttempt { found: Position, awaited: Position },
    #[error("its disks are not those of the replica")]
    OtherDisks,
    #[error("its manifest leaves out disk \"{disk}\" from byte {from} on")]
    LeftOut { disk: DiskId, from: u64 },
    #[error("its manifest names {} beyond the disks", .0.name())]
    Beyond(Part),
}

fn fits(manifest: &Manifest, vm: VmId, info: &ReplicaInfo, start: Position) -> Result<(), Misfit> {
    if manifest.version != VERSION {
        return Err(Misfit::Version(manifest.version));
    }
    if manifest.vm != vm {
        return Err(Misfit::OtherVm {
            name: manifest.name.clone(),
            vm: manifest.vm,
        });
    }
    if manifest.start != start {
        return Err(Misfit::OtherAttempt {
            found: manifest.start,
            awaited: start,
        });
    }
    if manifest.disks != info.disks {
        return Err(Misfit::OtherDisks);
    }
    complete(&manifest.disks, &manifest.segments)
}

/// Whether segments cover all disks, in order and without gaps.
fn complete(disks: &[LogDisk], segments: &[Segment]) -> Result<(), Misfit> {
    let mut next = segments.iter();
    for (number, disk) in (0u16..).zip(disks) {
        let (mut at, mut part) = (
            0,
            Part {
                disk: number,
                number: 0,
            },
        );
        while at < disk.size {
            match next.next() {
                Some(s) if s.file.part == part && s.from == at && s.to > at && s.to <= disk.size => {
                    (at, part.number) = (s.to, part.number + 1);
                }
                _ => {
                    let disk = disk.id.clone();
                    return Err(Misfit::LeftOut { disk, from: at });
                }
            }
        }
    }
    match next.next() {
        None => Ok(()),
        Some(s) => Err(Misfit::Beyond(s.file.part)),
    }
}

pub(crate) fn misfitting(
    vm: VmId,
    manifest: &Manifest,
    info: &ReplicaInfo,
    start: Position,
) -> Result<(), MediaError> {
    fits(manifest, vm, info, start).map_err(|why| MediaError::Other(why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::media::SegmentFile;
    use lifeboat_model::GenerationId;
    use uuid::Uuid;

    fn segment(disk: u16, number: u64, from: u64, to: u64) -> Segment {
        Segment {
            from,
            to,
            file: SegmentFile {
                part: Part { disk, number },
                bytes: 1,
                salt: String::new(),
            },
        }
    }

    fn manifest() -> Manifest {
        let disk = |id: &str, size| LogDisk {
            id: DiskId::new(id).unwrap(),
            size,
        };
        Manifest {
            version: VERSION,
            vm: VmId(Uuid::from_u128(1)),
            name: "web".into(),
            start: Position::start(GenerationId(Uuid::from_u128(2))),
            disks: vec![disk("a", 100), disk("b", 50)],
            segments: vec![segment(0, 0, 0, 60), segment(0, 1, 60, 100), segment(1, 0, 0, 50)],
        }
    }

    #[test]
    fn only_the_awaited_export_fits() {
        type Spoil = fn(&mut Manifest);
        let good = manifest();
        let info = ReplicaInfo {
            place: crate::port::store::StoreLocation::new("/r"),
            disks: good.disks.clone(),
            bulk: Vec::new(),
            durable: good.start,
            applied: good.start,
            points: Vec::new(),
            logs: Vec::new(),
            branches: Vec::new(),
            abandoned: None,
            files: Vec::new(),
            faults: Vec::new(),
            damage: Vec::new(),
            unsealed: Default::default(),
        };
        let judge = |m: &Manifest| fits(m, good.vm, &info, good.start).err().map(|e| e.to_string());
        assert_eq!(judge(&good), None);
        let table: [(Spoil, &str); _] = [
            (|m| m.version = 1, "version"),
            (|m| m.vm = VmId(Uuid::from_u128(9)), "web"),
            (
                |m| m.start = Position::start(GenerationId(Uuid::from_u128(9))),
                "another attempt",
            ),
            (|m| m.disks[0].size = 99, "disks"),
            (|m| drop(m.segments.remove(1)), "\"a\" from byte 60"),
            (|m| m.segments.swap(0, 1), "from byte 0"),
            (|m| drop(m.segments.pop()), "\"b\" from byte 0"),
            (|m| m.segments[2].to = 51, "\"b\""),
            (|m| m.segments[1].from = 50, "from byte 60"),
            (|m| m.segments.push(segment(1, 1, 50, 60)), "beyond"),
            (|m| m.segments[1].file.part.number = 0, "from byte 60"),
            (|m| m.segments[2].file.part.disk = 0, "\"b\""),
            (|m| m.segments[1].to = 60, "from byte 60"),
        ];
        for (spoil, word) in table {
            let mut m = good.clone();
            spoil(&mut m);
            let why = judge(&m).unwrap_or_default();
            assert!(why.contains(word), "{why} should contain {word}");
        }
    }
}
