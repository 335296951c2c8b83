//! The machine's firmware variables beside its disks: one file that the primary keeps current, and a copy for each
//! branch, which its VM writes to. What is in them is the hypervisor's matter.

use camino::Utf8PathBuf;
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::BranchId;

use crate::error::{Result, io_error};
use crate::files;
use crate::merge::complete;
use crate::replica::Replica;

/// File name, beside the manifest and beside a branch's disks.
pub(crate) const NAME: &str = "firmware.fd";

/// Most bytes that are kept; variable stores of real firmware have half a MiB.
const MAX: usize = 16 << 20;

/// Keeps what the next branch starts with.
pub(crate) fn put(replica: &Replica, vars: &[u8]) -> Result<()> {
    if vars.len() > MAX {
        let why = format!("firmware variables of {} bytes; {MAX} is the limit", vars.len());
        return Err(StoreError::Conflict(why));
    }
    replica.step("before firmware variables are replaced")?;
    let path = replica.dir.join(NAME);
    files::replace(&path, vars)?;
    replica.proved(&path);
    Ok(())
}

/// What was put last.
pub(crate) fn get(replica: &Replica) -> Result<Option<bytes::Bytes>> {
    let path = replica.dir.join(NAME);
    match std::fs::read(&path) {
        Ok(vars) => Ok(Some(vars.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read", &path)(e)),
    }
}

/// The file for a branch's own variables. A branch that was made before anything was put gets them now.
pub(crate) fn of_branch(replica: &Replica, id: BranchId) -> Result<Utf8PathBuf> {
    complete(&replica.manifest(), id)?;
    let path = place(replica, id);
    if !path.is_file() {
        copy_for(replica, id)?;
    }
    Ok(path)
}

/// Gives a branch its copy, if there is something to copy.
pub(crate) fn copy_for(replica: &Replica, id: BranchId) -> Result<()> {
    let from = replica.dir.join(NAME);
    match std::fs::read(&from) {
        Ok(vars) => files::replace(&place(replica, id), &vars),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io_error("read", &from)(e)),
    }
}

fn place(replica: &Replica, id: BranchId) -> Utf8PathBuf {
    replica.dir.join("branches").join(id.to_string()).join(NAME)
}
