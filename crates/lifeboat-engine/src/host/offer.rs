//! An offer to be a replica.

use crate::host::callback_address;
use crate::port::link::{Content, PeerIdentity, PeerRefusal};
use lifeboat_deltalog::LogDisk;
use lifeboat_model::settings::check_peer;
use lifeboat_model::{Machine, Position, ReplicationSettings};

/// An offer to be a replica.
pub(crate) struct Offer {
    pub(crate) spec: Machine,
    pub(crate) settings: ReplicationSettings,
    pub(crate) disks: Vec<LogDisk>,
    pub(crate) start: Position,
    pub(crate) from: Option<String>,
    pub(crate) content: Content,
}

impl Offer {
    /// Checks what the offering host says against itself, against its certificate and against what can be.
    pub(crate) fn validate(&self, peer: &PeerIdentity) -> Result<(), PeerRefusal> {
        let conflict = |detail: String| PeerRefusal::Conflict {
            detail: detail.into(),
        };
        let Self { spec, settings, .. } = self;
        let machine = spec.validate();
        machine.map_err(|e| conflict(format!("the VM's description: {e}")))?;
        let agreed = settings.validate(spec.disks.iter().map(|d| &d.id));
        agreed.map_err(|e| conflict(format!("the settings: {e}")))?;
        if self.disks.iter().map(|d| &d.id).ne(&settings.disks) {
            return Err(conflict("the offered disks are not those of the settings".into()));
        }
        for disk in &self.disks {
            disk.validate().map_err(|e| conflict(e.to_string()))?;
        }
        if let Some(from) = &self.from {
            check_peer(from).map_err(|e| conflict(format!("the callback address: {e}")))?;
            callback_address::check(from, peer)
                .map_err(|e| conflict(format!("the callback address: {e}")))?;
        }
        Ok(())
    }
}
