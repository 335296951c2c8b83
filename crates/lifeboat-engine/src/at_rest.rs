//! Which directories of this host hold guests' data, and whether they are encrypted: shown, and asked of the kernel for each
//! view. What is encrypted, and with which key, is decided by the binary and the store.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Answer, DirectoryContent as Content, DirectoryView, Refusal, ServerView};
use crate::engine::Engine;
use crate::lists::in_time;
use crate::ports::environment::{AtRest, Environment};
use crate::views::directory;

/// How long the view of a host waits for its storage. Together with the wait for the catalog it stays well below the 5 s in which
/// whatever hangs is answered.
const PATIENCE: Duration = Duration::from_secs(1);

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

impl Engine {
    /// This host.
    pub(crate) async fn server(&self) -> Result<Answer, Refusal> {
        let config = &self.host.config;
        let replicas = self.replica_directories().await;
        let mut notes = self.host.notes();
        notes.extend(replicas.as_ref().err().map(|refusal| refusal.message.clone()));
        Ok(Answer::Server(ServerView {
            host: config.name.clone(),
            version: config.version.clone(),
            listen: config.listen.clone(),
            settings: self.host.access(|a| (&a.server).into()),
            certificates: self.host.certificates().into_iter().map(Into::into).collect(),
            keys: self.host.shown_keys(),
            encrypts_new: self.host.ports.environment.encrypts_new(),
            directories: self.directories(replicas.unwrap_or_default()).await,
            notes,
        }))
    }

    /// Where the replicas of this host are.
    async fn replica_directories(&self) -> Result<BTreeSet<String>, Refusal> {
        let image = in_time(
            self.host.ports.catalog.load(),
            "the replicas' directories are not known",
        )
        .await?;
        Ok(image.relationships.iter().filter_map(directory).collect())
    }

    /// The directories that hold guests' data.
    async fn directories(&self, replicas: BTreeSet<String>) -> Vec<DirectoryView> {
        let ports = &self.host.ports;
        let locations: BTreeSet<String> = self
            .host
            .access(|a| a.entries.iter().map(|e| e.storage_location.clone()).collect());
        let spool = ports.environment.working_dirs().into_iter();
        let all = spool.map(|d| (Content::Spool, d));
        let all = all.chain(locations.into_iter().map(|d| (Content::Location, d)));
        let all: Vec<_> = all
            .chain(replicas.into_iter().map(|d| (Content::Replica, d)))
            .collect();
        let paths: Vec<String> = all.iter().map(|(_, path)| path.clone()).collect();
        let seen = tokio::time::timeout(PATIENCE, ports.environment.at_rest(&paths)).await;
        let late = || AtRest::NotKnown {
            why: format!("its storage did not answer within {} s", PATIENCE.as_secs()),
        };
        let mut seen = seen.unwrap_or_default().into_iter();
        let view = |(content, path)| DirectoryView {
            content,
            path,
            at_rest: seen.next().unwrap_or_else(late).into(),
        };
        all.into_iter().map(view).collect()
    }
}
