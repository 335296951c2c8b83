//! A guest that has ended, as the primary hears of it.

use crate::core::Core;
use crate::source::SourcePart;
use tokio::time::Instant;

impl SourcePart {
    pub(crate) async fn stopped(&mut self, core: &Core) {
        core.event("VM stopped").await;
        // The last changes are worth sending at once.
        self.next_at = Instant::now();
    }
}
