//! Sealing by the ages that a replica keeps. The ages themselves are `core::aging`'s.

use crate::core::Core;
use crate::core::aging::{Sealer, seal};
use crate::port::store::{ImageStore, StoreError, StoredLog};
use crate::target::TargetPart;
use lifeboat_model::PointId;

impl TargetPart {
    /// What a seal needs to note when a log arrived.
    pub(crate) fn sealer(&self, core: &Core) -> Sealer {
        Sealer {
            aging: self.aging.clone(),
            clock: core.host.ports.clock.clone(),
        }
    }

    /// Applies and seals the newest data of a replica that is about to become one of another generation: its logs go with
    /// that, and what they led to would be lost to people until the new primary has sent something.
    pub(crate) async fn seal_before_adoption(
        &self,
        core: &Core,
        images: &dyn ImageStore,
    ) -> Result<(), StoreError> {
        let vm = core.id;
        let mut info = images.info(vm).await?;
        while info.applied != info.durable && images.apply(vm).await?.is_some() {
            info = images.info(vm).await?;
        }
        let whole = |l: &StoredLog| l.position == info.applied && !l.partial;
        let sealed = info.points.iter().any(|p| p.position == info.applied);
        if !sealed && info.logs.iter().any(whole) {
            seal(
                images,
                vm,
                PointId(core.host.ports.entropy.uuid()),
                &self.sealer(core),
            )
            .await?;
        }
        Ok(())
    }
}
