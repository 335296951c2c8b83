//! What the tracking overlays of raw disks and the ledger of images remember, as a capture asks for it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_block::capture::Losses;
use lifeboat_model::{DiskId, VmId};

use crate::ledger::Ledger;
use crate::tracking_overlay;

/// The disks of a source.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) vm: VmId,
    /// Each with its overlay, when it has one.
    pub(crate) disks: Vec<(DiskId, Option<PathBuf>)>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Losses for Remembered {
    fn lost(&self, disk: &DiskId) -> Option<String> {
        let known = self.disks.iter().find(|(id, _)| id == disk);
        let overlay = known.and_then(|(_, overlay)| overlay.as_deref());
        overlay
            .and_then(tracking_overlay::lost)
            .or_else(|| self.ledger.lost(self.vm, disk))
    }

    fn forget(&self) -> io::Result<()> {
        let mut overlays = self.disks.iter().filter_map(|(_, overlay)| overlay.as_deref());
        let mut disks = self.disks.iter();
        overlays
            .try_for_each(tracking_overlay::forget_loss)
            .and_then(|()| disks.try_for_each(|(id, _)| self.ledger.forget_loss(self.vm, id)))
    }
}
