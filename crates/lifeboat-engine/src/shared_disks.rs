//! One file in the descriptions of two VMs: whichever runs writes the other's disk, and nothing of that is seen by the
//! other's replication. Refused where a VM would begin to rely on its files. Files are compared by what they are, not by
//! the text of their paths.

use lifeboat_model::api::ReturnCode;
use lifeboat_model::{Firmware, VmSpec};

use crate::action::Refusal;
use crate::actor::Actor;
use crate::ports::environment::FileId;

/// A file that a VM writes to: what it is to the VM, and its path.
fn files(spec: &VmSpec) -> Vec<(String, String)> {
    let disks = spec
        .disks
        .iter()
        .map(|d| (format!("disk {}", d.id), d.path.clone()));
    let vars = match &spec.firmware {
        Firmware::Uefi { vars, .. } => vars.clone(),
        Firmware::Bios => None,
    };
    let vars = vars.map(|path| ("the firmware's variables".to_owned(), path));
    disks.chain(vars).collect()
}

/// A file of a VM, found by its identity.
struct Used<'a> {
    spec: &'a VmSpec,
    what: String,
    path: String,
    id: FileId,
}

impl Used<'_> {
    fn words(&self) -> String {
        let Self { spec, what, path, .. } = self;
        format!("{what} ({path}) of \"{}\" ({})", spec.name, spec.uuid)
    }
}

impl Actor {
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
                "give each its own: correct one description and restart the daemon",
            )),
        }
    }
}
