//! The keys of a relationship's hosts, written with its record.

use crate::contract::Refusal;
use crate::core::Core;
use tokio::sync::oneshot;

impl Core {
    /// Writes the relationship with the keys that are known now.
    pub(crate) async fn save_keys(&mut self, reply: Option<oneshot::Sender<Result<(), Refusal>>>) {
        let saved = self.rewrite().await;
        if let Some(reply) = reply {
            drop(reply.send(saved));
        }
    }
}
