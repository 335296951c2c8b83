//! Which replicas are below a location, by their names and their manifests' existence. What is in them is not judged.

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::VmId;

use crate::error::{Result, io_error};
use crate::{locked, manifest};

/// The VM and the directory of each replica below `location`, in the order of the UUIDs.
pub(crate) fn found(location: &Utf8Path) -> Result<Vec<(VmId, Utf8PathBuf)>> {
    locked::check(location)?;
    let mut all = Vec::new();
    for entry in location.read_dir_utf8().map_err(io_error("read", location))? {
        let dir = entry.map_err(io_error("read", location))?.into_path();
        let vm = dir.file_name().and_then(|name| name.parse::<VmId>().ok());
        if let Some(vm) = vm
            && dir.join(manifest::NAME).exists()
        {
            all.push((vm, dir));
        }
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let location = Utf8Path::from_path(dir.path()).unwrap();
        let id = "6f3b2f2e-3a63-4a0e-9a53-0d9f5f6f0001";
        for (name, file) in [
            (id, manifest::NAME),
            ("lost+found", "x"),
            ("6f3b2f2e-3a63-4a0e-9a53-0d9f5f6f0002", "x"),
        ] {
            std::fs::create_dir(location.join(name)).unwrap();
            std::fs::write(location.join(name).join(file), "{}").unwrap();
        }
        assert_eq!(
            found(location).unwrap(),
            [(id.parse().unwrap(), location.join(id))]
        );
        assert!(found(&location.join("nothing")).is_err());
    }
}
