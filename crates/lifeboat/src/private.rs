//! Directories and files of the daemon that no other user may change, and how that is found out: by owner and permissions. What
//! a store keeps inside of them is its own matter.

use std::os::unix::fs::MetadataExt;

use anyhow::Context;
use camino::Utf8Path;
use lifeboat_model::guard::Standing;

/// A directory only the daemon's user can enter: it holds sockets that are as powerful as the daemon. One that is there is
/// taken if no other user can put anything into it, or anything in its place: files are made, opened and removed there by names
/// that can be foreseen.
pub(crate) fn make(dir: &Utf8Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let real = match dir.canonicalize_utf8() {
        Ok(real) => real,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.with_context(|| format!("cannot make the directory {dir}"))?;
            dir.canonicalize_utf8()?
        }
        Err(e) => return Err(e).with_context(|| format!("cannot look at the directory {dir}")),
    };
    match unsafe_part(&real)? {
        Some(why) => anyhow::bail!("the directory {dir} is not used: {why}"),
        None => Ok(()),
    }
}

/// Why a directory, named without links, could be another user's trap: itself, or one above it in which another could be put
/// in its place.
pub(crate) fn unsafe_part(real: &Utf8Path) -> std::io::Result<Option<String>> {
    for (above, at) in real.ancestors().enumerate() {
        let meta = std::fs::metadata(at)?;
        if !meta.is_dir() {
            return Ok(Some(format!(
                "{at} is not a directory; name another one, or remove it"
            )));
        }
        if let Some(why) = shared(above > 0, &standing(&meta)) {
            return Ok(Some(format!("{at} {why}")));
        }
    }
    Ok(None)
}

/// Who may change a file of this host.
pub(crate) fn standing(meta: &std::fs::Metadata) -> Standing {
    Standing {
        owner: meta.uid(),
        mode: meta.mode(),
        us: rustix::process::geteuid().as_raw(),
    }
}

/// Why a directory, or one above it, could be another user's trap.
fn shared(above: bool, standing: &Standing) -> Option<String> {
    const STICKY: u32 = 0o1000;
    let loose = if above {
        standing.every_user_writes() && standing.mode & STICKY == 0
    } else {
        standing.others_write()
    };
    if loose {
        return Some(
            "may be written to by others than its owner; take that away with: chmod go-w".to_owned(),
        );
    }
    let (owner, us) = (standing.owner, standing.us);
    let foreign = !above && !standing.is_ours_or_roots();
    foreign.then(|| {
        format!("belongs to user {owner}, and the daemon runs as user {us}; change its owner with: chown")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_can_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path())
            .unwrap()
            .canonicalize_utf8()
            .unwrap();
        let mode = |at: &Utf8Path, mode: u32| {
            std::fs::set_permissions(at, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let made = root.join("a/b/state");
        make(&made).unwrap();
        assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
        for (bits, good) in [
            (0o700, true),
            (0o755, true),
            (0o777, false),
            (0o1777, false),
            (0o775, false),
        ] {
            mode(&made, bits);
            let taken = make(&made);
            assert_eq!(taken.is_ok(), good, "{bits:o}: {taken:?}");
            assert_eq!(
                std::fs::metadata(&made).unwrap().mode() & 0o7777,
                bits,
                "nothing is changed"
            );
        }
        mode(&made, 0o700);
        // A user who can write above it can put another one in its place.
        for (bits, good) in [(0o755, true), (0o777, false), (0o1777, true)] {
            mode(&root.join("a"), bits);
            assert_eq!(make(&made).is_ok(), good, "{bits:o}");
        }
        let link = root.join("link");
        std::os::unix::fs::symlink(&made, &link).unwrap();
        make(&link).unwrap();
        mode(&made, 0o777);
        let error = make(&link).unwrap_err().to_string();
        assert!(
            error.contains("chmod go-w") && error.contains(made.as_str()),
            "{error}"
        );
        let file = root.join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(make(&file).unwrap_err().to_string().contains("not a directory"));
        let foreign = Standing {
            owner: 1000,
            mode: 0o700,
            us: 0,
        };
        assert!(shared(false, &foreign).unwrap().contains("user 1000"));
        assert_eq!(
            shared(
                false,
                &Standing {
                    owner: 0,
                    us: 990,
                    ..foreign
                }
            ),
            None
        );
    }
}
