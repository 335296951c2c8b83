//! Whether another VM of this host has a disk of this one in its description. What is compared is `host::shared_disks`'s.

use crate::contract::Refusal;
use crate::core::Core;
use crate::host::shared_disks::{Used, files};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{VmSpec, hint};

impl Core {
    async fn used<'a>(&self, spec: &'a VmSpec) -> Vec<Used<'a>> {
        let files = files(spec);
        let paths: Vec<String> = files.iter().map(|(_, path)| path.clone()).collect();
        let ids = self.host.ports.environment.file_ids(&paths).await;
        let known = files.into_iter().zip(ids);
        known
            .filter_map(|((what, path), id)| {
                let id = id?;
                Some(Used { spec, what, path, id })
            })
            .collect()
    }

    /// Refuses when a file that this VM writes to is one of another VM's, or two of its own are the same. Only for a VM
    /// on the images of its description: a branch in the replica store belongs to one VM by itself.
    pub(crate) async fn no_shared_disk(&self) -> Result<(), Refusal> {
        let Some(own) = self.local.as_ref().filter(|_| self.runs_on().is_none()) else {
            return Ok(());
        };
        let mine = self.used(own).await;
        let twice = mine.iter().enumerate().find_map(|(n, one)| {
            let other = mine.iter().skip(n + 1).find(|other| other.id == one.id)?;
            Some((one.words(), other.words()))
        });
        let mut shared = twice;
        let described = self.host.described.iter().map(|m| &m.spec);
        for spec in described.filter(|s| s.uuid != self.id) {
            if shared.is_some() {
                break;
            }
            let theirs = self.used(spec).await;
            shared = mine.iter().find_map(|one| {
                let other = theirs.iter().find(|other| other.id == one.id)?;
                Some((one.words(), other.words()))
            });
        }
        match shared {
            None => Ok(()),
            Some((one, other)) => Err(Refusal::new(
                ReturnCode::InUse,
                format!("{one} and {other} are one file"),
                hint::Guest::SeparateDisks,
            )),
        }
    }
}
