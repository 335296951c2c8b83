//! The capture source: which steps each call of the port takes, and in which order. The monitor commands of a step are `shared`'s.

use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_engine::ports::capture::{
    BlockView, CaptureError, CaptureSource, Extent, Instant, Prepared, Tracking,
};
use lifeboat_model::Position;
use serde_json::{Value, json};

use super::StandIn;
use super::ranges;
use super::shared::{Shared, bitmap_action};
use super::tracking;
use super::view::{self, View};
use crate::graph;

/// One VM's disks, held for capture.
#[derive(Debug)]
pub struct Source {
    shared: Arc<Shared>,
    stand_in: Option<Box<dyn StandIn>>,
}

impl Source {
    /// The source of a running VM; of one that is off with the storage daemon.
    #[must_use]
    pub fn new(shared: Shared, stand_in: Option<Box<dyn StandIn>>) -> Self {
        Self {
            shared: Arc::new(shared),
            stand_in,
        }
    }
}

/// An instant of a source whose nodes and files are there.
struct Ready {
    shared: Arc<Shared>,
    base: Position,
    next: Position,
    wanted: Consistency,
}

#[async_trait]
impl Prepared for Ready {
    async fn take(self: Box<Self>) -> Result<Instant, CaptureError> {
        let consistency = self.shared.take(self.next, self.wanted).await?;
        self.shared.show(self.base).await?;
        // A disk resized since the beginning may have been cut off at its old end.
        self.shared.fitting().await?;
        let context = view::changes(&tracking::record(self.base));
        let view = View::open(self.shared, &[&context]).await?;
        Ok(Instant {
            consistency,
            view: Box::new(view),
        })
    }
}

#[async_trait]
impl CaptureSource for Source {
    fn disks(&self) -> &[LogDisk] {
        &self.shared.disks
    }

    fn live(&self) -> bool {
        self.stand_in.is_none()
    }

    async fn recover(&self) -> Result<Tracking, CaptureError> {
        if let Some(freezer) = &self.shared.freezer {
            freezer.thaw_leftover().await;
        }
        self.shared.clear().await?;
        self.shared.tracking().await
    }

    async fn start_tracking(&self, base: Position) -> Result<(), CaptureError> {
        let mut actions = self.shared.removals().await?;
        let again = tracking::record(base);
        // One transaction cannot remove and add the same name.
        let same = |a: &Value| a.pointer("/data/name").and_then(Value::as_str) == Some(again.as_str());
        if actions.iter().any(same) {
            self.stop_tracking().await?;
            actions.clear();
        }
        actions.extend(self.shared.additions(base));
        self.shared
            .monitor
            .transaction("starting to record changes", actions)
            .await?;
        self.shared.forget_losses()
    }

    async fn stop_tracking(&self) -> Result<(), CaptureError> {
        let removals = self.shared.removals().await?;
        self.shared
            .monitor
            .transaction("forgetting recorded changes", removals)
            .await?;
        self.shared.forget_losses()
    }

    async fn current(&self) -> Result<Box<dyn BlockView>, CaptureError> {
        let what = "opening the disks for reading";
        self.shared.fitting().await?;
        self.shared.serve(what).await?;
        for disk in &self.shared.disks {
            let id = &disk.id;
            let export = json!({
                "type": "nbd", "id": format!("export-{id}"), "node-name": graph::disk_node(id),
                "name": id, "writable": false,
            });
            self.shared.monitor.run(what, "block-export-add", export).await?;
        }
        let view = View::open(Arc::clone(&self.shared), &[view::ALLOCATION]).await?;
        Ok(Box::new(view))
    }

    async fn prepare(
        &self,
        base: Position,
        next: Position,
        wanted: Consistency,
    ) -> Result<Box<dyn Prepared>, CaptureError> {
        if let Tracking::Lost { disk, reason } = self.shared.tracking().await? {
            return Err(CaptureError::TrackingLost { disk, reason });
        }
        self.shared.prepare().await?;
        Ok(Box::new(Ready {
            shared: Arc::clone(&self.shared),
            base,
            next,
            wanted,
        }))
    }

    async fn acknowledge(&self, base: Position) -> Result<(), CaptureError> {
        let having = self.shared.having(base).await?;
        let known = self.shared.disks.iter().filter(|d| having.contains(&d.id));
        let removals = known.map(|d| bitmap_action("remove", d, &tracking::record(base)));
        self.shared
            .monitor
            .transaction("forgetting changes that arrived", removals.collect())
            .await
    }

    async fn give_back(&self, base: Position, next: Position) -> Result<(), CaptureError> {
        let (kept, merged) = (tracking::record(base), tracking::record(next));
        let having = self.shared.having(next).await?;
        let mut actions = Vec::new();
        for disk in &self.shared.disks {
            // Recording goes on before the merge: a write in between is then in both records, never in none.
            actions.push(bitmap_action("enable", disk, &kept));
            if having.contains(&disk.id) {
                actions.push(json!({"type": "block-dirty-bitmap-merge", "data": {
                    "node": graph::disk_node(&disk.id), "target": kept, "bitmaps": [merged],
                }}));
                actions.push(bitmap_action("remove", disk, &merged));
            }
        }
        self.shared
            .monitor
            .transaction("taking back changes that did not arrive", actions)
            .await
    }

    async fn known_changes(&self) -> Result<Vec<Option<Vec<Extent>>>, CaptureError> {
        ranges::known(&self.shared).await
    }

    async fn own_ranges(&self) -> Result<Vec<Vec<Extent>>, CaptureError> {
        ranges::own(&self.shared).await
    }

    async fn close(self: Box<Self>) -> Result<(), CaptureError> {
        self.shared.clear().await?;
        let Self { shared, stand_in } = *self;
        // The storage daemon serves one client at a time on each monitor.
        drop(shared);
        match stand_in {
            None => Ok(()),
            Some(stand_in) => stand_in.end().await,
        }
    }
}
