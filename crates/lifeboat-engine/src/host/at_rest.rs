//! Which directories of this host hold guests' data, and whether they are encrypted. What is encrypted, and with which key,
//! is for the administrator.

use crate::port::environment::{AtRest, Environment};
use crate::record::Relationship;
use std::time::Duration;

/// How long the view of a host waits for its storage. Together with the wait for the catalog it stays well below the 5 s in which
/// whatever hangs is answered.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// How a directory stands; `None` without one, and when its storage does not answer in time.
pub(crate) async fn of(
    environment: &dyn Environment,
    dir: Option<String>,
    patience: Duration,
) -> Option<AtRest> {
    let dirs = [dir?];
    let asked = tokio::time::timeout(patience, environment.at_rest(&dirs));
    asked.await.ok()?.pop()
}

/// Where this host keeps the VM's data in the replica store.
pub(crate) fn directory(rel: &Relationship) -> Option<String> {
    let replica = rel.replica().and_then(|r| r.dir.clone());
    replica.or_else(|| rel.home.as_ref().map(|home| home.dir.clone()))
}
