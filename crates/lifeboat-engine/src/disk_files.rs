//! Which file of this host holds the newest content of each disk of a VM, for surfaces that show it. Nothing is opened by
//! these names: what a VM starts on is in `machine`.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use lifeboat_model::{DiskId, VmSpec};

use crate::actor::Actor;

impl Actor {
    /// The file of each disk: of the description for a VM that runs on its own images, of the branch for one that is failed
    /// over, tested or promoted, else of the copy that the primary's changes are written to. A disk whose file is not
    /// known is missing.
    pub(crate) async fn disk_files(&self, spec: &VmSpec) -> BTreeMap<DiskId, Utf8PathBuf> {
        let (of, branch) = match self.runs_on() {
            Some((of, branch)) => (of, Some(branch)),
            None if self.rel.as_ref().is_some_and(|r| r.replica().is_some()) => (self.id, None),
            None => {
                let described = spec.disks.iter();
                return described
                    .map(|d| (d.id.clone(), d.path.as_str().into()))
                    .collect();
            }
        };
        // Its files cannot be read now: the health says why.
        let Ok(info) = self.host.ports.store.info(of).await else {
            return BTreeMap::new();
        };
        let files = info.files.into_iter().filter(|f| f.branch == branch);
        files.map(|f| (f.disk, f.path)).collect()
    }
}
