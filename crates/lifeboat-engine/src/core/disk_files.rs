//! Which file of this host holds the newest content of each disk of a VM, for surfaces that show it. Nothing is opened by
//! these names: what a VM starts on is in `machine`.

use crate::core::Core;
use crate::port::store::ReplicaInfo;
use camino::Utf8PathBuf;
use lifeboat_model::{BranchId, DiskId, VmId, VmSpec};
use std::collections::BTreeMap;

/// Where a VM's disks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where its description says.
    Described,
    /// In the replica store: of this replica, and on this branch of it, or on the copy that the primary's changes are
    /// written to.
    Stored(VmId, Option<BranchId>),
}

impl Core {
    /// Where the disks are: as described for a VM that runs on its own images, the branch for one that is failed over,
    /// tested or promoted, else the copy.
    pub(crate) fn place(&self) -> Place {
        match self.runs_on() {
            Some((of, branch)) => Place::Stored(of, Some(branch)),
            None if self.rel.as_ref().is_some_and(|r| r.replica().is_some()) => Place::Stored(self.id, None),
            None => Place::Described,
        }
    }
}

/// The file of each disk, with what the store says of the replica they belong to. A disk whose file is not known is missing;
/// the health says why.
pub(crate) fn disk_files(
    place: Place,
    spec: &VmSpec,
    info: Option<&ReplicaInfo>,
) -> BTreeMap<DiskId, Utf8PathBuf> {
    match place {
        Place::Described => {
            let described = spec.disks.iter();
            described
                .map(|d| (d.id.clone(), d.path.as_str().into()))
                .collect()
        }
        Place::Stored(_, branch) => {
            let files = info.into_iter().flat_map(|i| &i.files);
            let files = files.filter(|f| f.branch == branch);
            files.map(|f| (f.disk.clone(), f.path.clone())).collect()
        }
    }
}
