//! What the primaries of one authorization entry may take on a replica's host. Pure numbers: who counts what is there is not
//! said here.

use serde::{Deserialize, Serialize};

use crate::ReplicationSettings;

/// Bounds on what the replicas of an entry's primaries take together, or each. Ours; the API has no such settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Replicas, 1 to 100,000.
    pub vms: u32,
    /// Bytes on disk of all replicas; `None`: what the disk has above its reserve.
    pub bytes: Option<u64>,
    /// Additional recovery points of each replica, 0 to 24; `None`: as the primary asks.
    pub points: Option<u16>,
    /// Bytes of each disk as the guest sees it; `None`: as the primary asks.
    pub disk_bytes: Option<u64>,
}

/// Replicas of an entry that names no number. Twice the number of VMs that a host is measured with (docs/benchmarks.md), so
/// that honest use does not reach it, and a peer cannot fill the catalog.
const DEFAULT_VMS: u32 = 1000;

/// Most that can be allowed.
const MOST_VMS: u32 = 100_000;

impl Default for Quota {
    fn default() -> Self {
        Self {
            vms: DEFAULT_VMS,
            bytes: None,
            points: None,
            disk_bytes: None,
        }
    }
}

/// What asks for more than the quota.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverQuota {
    /// A replica more.
    #[error("{there} VMs are replicated there, the authorization entry allows {most}")]
    Vms {
        /// Replicas that are there.
        there: usize,
        /// Replicas that may be.
        most: u32,
    },
    /// A disk.
    #[error("a disk has {asked} bytes, the authorization entry there allows {most}")]
    Disk {
        /// Bytes of the disk.
        asked: u64,
        /// Bytes that it may have.
        most: u64,
    },
    /// Recovery points.
    #[error("{asked} recovery points are asked for, the authorization entry there allows {most}")]
    Points {
        /// Recovery points that the relationship would keep.
        asked: u16,
        /// Points that may be kept.
        most: u16,
    },
}

impl Quota {
    /// Whether its numbers make sense.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let points = self.points.is_none_or(|p| p <= ReplicationSettings::MOST_HISTORY);
        let some = self.bytes != Some(0) && self.disk_bytes != Some(0);
        points && some && (1..=MOST_VMS).contains(&self.vms)
    }

    /// Whether one more replica may be where so many are.
    ///
    /// # Errors
    /// There would be too many.
    pub fn one_more(&self, there: usize) -> Result<(), OverQuota> {
        if there < self.vms as usize {
            Ok(())
        } else {
            Err(OverQuota::Vms {
                there,
                most: self.vms,
            })
        }
    }

    /// Whether a replica may be like this. What `before` had already is never refused: the quota may have been lowered since.
    ///
    /// # Errors
    /// A disk is too large, or it asks for too many points.
    pub fn fits(&self, asked: Shape, before: Shape) -> Result<(), OverQuota> {
        match (self.disk_bytes, self.points) {
            (Some(most), _) if asked.disk_bytes > most.max(before.disk_bytes) => Err(OverQuota::Disk {
                asked: asked.disk_bytes,
                most,
            }),
            (_, Some(most)) if asked.points > most.max(before.points) => Err(OverQuota::Points {
                asked: asked.points,
                most,
            }),
            _ => Ok(()),
        }
    }
}

/// What of a replica its quota is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of its largest disk.
    pub disk_bytes: u64,
    /// Additional recovery points that are to be kept.
    pub points: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_not_refused() {
        let quota = Quota {
            points: Some(4),
            disk_bytes: Some(100),
            ..Quota::default()
        };
        let shape = |disk_bytes, points| Shape { disk_bytes, points };
        let none = Shape::default();
        assert_eq!(quota.fits(shape(100, 4), none), Ok(()));
        let disk = OverQuota::Disk {
            asked: 101,
            most: 100,
        };
        assert_eq!(quota.fits(shape(101, 4), none), Err(disk));
        let points = OverQuota::Points { asked: 5, most: 4 };
        assert_eq!(quota.fits(shape(100, 5), none), Err(points.clone()));
        // The quota was lowered: it stays as it is, shrinks, and does not grow.
        assert_eq!(quota.fits(shape(200, 24), shape(200, 24)), Ok(()));
        assert_eq!(quota.fits(shape(150, 10), shape(200, 24)), Ok(()));
        let grown = OverQuota::Disk {
            asked: 201,
            most: 100,
        };
        assert_eq!(quota.fits(shape(201, 4), shape(200, 4)), Err(grown));
    }

    #[test]
    fn the_last_place_is_one() {
        let quota = Quota {
            vms: 2,
            ..Quota::default()
        };
        assert_eq!(quota.one_more(1), Ok(()));
        assert_eq!(quota.one_more(2), Err(OverQuota::Vms { there: 2, most: 2 }));
    }

    #[test]
    fn numbers_that_allow_nothing_are_no_quota() {
        let with = |spoil: fn(&mut Quota)| {
            let mut quota = Quota::default();
            spoil(&mut quota);
            quota.is_valid()
        };
        assert!(with(|_| ()));
        assert!(with(|q| q.points = Some(0)));
        let bad: [fn(&mut Quota); 5] = [
            |q| q.vms = 0,
            |q| q.vms = 100_001,
            |q| q.bytes = Some(0),
            |q| q.disk_bytes = Some(0),
            |q| q.points = Some(25),
        ];
        for spoil in bad {
            assert!(!with(spoil));
        }
    }
}
