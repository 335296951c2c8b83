//! What the shells of raw disks and the ledger of images remember, as a capture asks for it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_block::capture::Losses;
use lifeboat_model::{DiskId, VmId};

use crate::ledger::Ledger;
use crate::shell;

/// The disks of a source.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) vm: VmId,
    /// Each with its shell, when it has one.
    pub(crate) disks: Vec<(DiskId, Option<PathBuf>)>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Losses for Remembered {
    fn lost(&self, disk: &DiskId) -> Option<String> {
        let known = self.disks.iter().find(|(id, _)| id == disk);
        let shell = known.and_then(|(_, shell)| shell.as_deref());
        shell
            .and_then(shell::lost)
            .or_else(|| self.ledger.lost(self.vm, disk))
    }

    fn forget(&self) -> io::Result<()> {
        let mut shells = self.disks.iter().filter_map(|(_, shell)| shell.as_deref());
        let mut disks = self.disks.iter();
        shells
            .try_for_each(shell::forget_loss)
            .and_then(|()| disks.try_for_each(|(id, _)| self.ledger.forget_loss(self.vm, id)))
    }
}
