//! The action that shows this host, with its storage locations and whether they are encrypted.

use crate::contract::DirectoryContent as Content;
use crate::contract::{Answer, DirectoryView, Refusal, ServerView};
use crate::engine::Engine;
use crate::host::at_rest::{PATIENCE, directory};
use crate::host::lists::in_time;
use crate::port::environment::AtRest;
use lifeboat_model::{Finding, ProblemKind};
use std::collections::BTreeSet;

impl Engine {
    /// This host.
    pub(crate) async fn server(&self) -> Result<Answer, Refusal> {
        let config = &self.host.config;
        let replicas = self.replica_directories().await;
        let mut notes = self.host.notes();
        let unknown = replicas.as_ref().err();
        notes.extend(unknown.map(|e| Finding::warning(ProblemKind::Catalog, e.note())));
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
