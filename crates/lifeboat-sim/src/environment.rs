//! The host around the engine, in memory: files are known by name, and links lead from one name to another.

use async_trait::async_trait;
use lifeboat_engine::ports::environment::{AtRest, Certificate, Environment, FileId, LocationError, OwnKeys};

use crate::link::key_of;
use crate::port::Port;

#[async_trait]
impl Environment for Port {
    async fn file_ids(&self, paths: &[String]) -> Vec<Option<FileId>> {
        let s = self.shared.state();
        let host = &s.hosts[self.host];
        let id = |path: &String| {
            let path = host.links.get(path).unwrap_or(path);
            let inode = host.images.keys().position(|k| k == path)? as u64;
            Some(FileId::File { device: 1, inode })
        };
        paths.iter().map(id).collect()
    }

    async fn prepare_location(&self, location: &str) -> Result<(), LocationError> {
        self.replica_location(location).await
    }

    async fn replica_location(&self, location: &str) -> Result<(), LocationError> {
        if self.shared.state().hosts[self.host].not_there.contains(location) {
            Err(LocationError::Missing(location.to_owned()))
        } else {
            Ok(())
        }
    }

    async fn at_rest(&self, dirs: &[String]) -> Vec<AtRest> {
        dirs.iter().map(|_| AtRest::NotEncrypted).collect()
    }

    fn working_dirs(&self) -> Vec<String> {
        vec!["/spool".to_owned()]
    }

    fn encrypts_new(&self) -> bool {
        false
    }

    async fn certificates(&self) -> Vec<Certificate> {
        self.shared.state().hosts[self.host].certificates.clone()
    }

    async fn keys(&self) -> OwnKeys {
        let s = self.shared.state();
        let host = &s.hosts[self.host];
        OwnKeys {
            own: Some(key_of(self.host, host.key)),
            next: host.next_key.map(|next| key_of(self.host, next)),
            findings: Vec::new(),
        }
    }
}
