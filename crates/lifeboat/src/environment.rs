//! The host around the engine: files by their identity, directories for replicas, and the certificates that the link and
//! the management protocols use. It looks and reports; what follows from it is the engine's.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::environment::{
    AtRest as Seen, Certificate, Environment, FileId, LocationError, OwnKeys,
};
use lifeboat_kernel::at_rest::readable;
use lifeboat_kernel::{AtRest, AtRestError};
use lifeboat_model::certificates::CertificateUse;
use lifeboat_model::{Finding, ProblemKind};
use lifeboat_tls::certificate::describe;
use lifeboat_tls::{CertError, Credentials, Holder};
use tokio::sync::Semaphore;

use crate::config::Config;

/// Most threads that ask at once whether directories are locked.
const ASKING: usize = 4;

/// This host.
pub(crate) struct HostEnvironment {
    /// Directories that the daemon keeps things of its own in.
    own: Vec<Utf8PathBuf>,
    link: Arc<Credentials>,
    management: Option<Arc<Credentials>>,
    /// The certificate that is to follow this host's.
    next_certificate: Option<Utf8PathBuf>,
    /// The key of encrypted directories.
    at_rest: Arc<AtRest>,
    spool: Utf8PathBuf,
    /// How many may ask at once whether directories are locked: what hangs must not take a thread for each who asks.
    asking: Arc<Semaphore>,
}

impl HostEnvironment {
    pub(crate) fn new(
        config: &Config,
        link: Arc<Credentials>,
        management: Option<Arc<Credentials>>,
        at_rest: Arc<AtRest>,
    ) -> Self {
        Self {
            own: [
                &config.state_dir,
                &config.run_dir,
                &config.spool_dir,
                &config.vm_dir,
            ]
            .map(ToOwned::to_owned)
            .to_vec(),
            link,
            management,
            next_certificate: config.tls.next_certificate.clone(),
            at_rest,
            spool: crate::encryption::spool_dir(config),
            asking: Arc::new(Semaphore::new(ASKING)),
        }
    }
}

impl HostEnvironment {
    async fn look(
        &self,
        wanted: &str,
        how: fn(&str, &[Utf8PathBuf]) -> Result<(), LocationError>,
    ) -> Result<(), LocationError> {
        let (named, own) = (wanted.to_owned(), self.own.clone());
        let looked = blocking(move || how(&named, &own)).await;
        looked.unwrap_or_else(|| {
            Err(LocationError::Unusable {
                location: wanted.to_owned(),
                detail: "looking at it ended by a fault of this program".to_owned(),
            })
        })
    }
}

/// The encryption of a location, as an answer about it.
fn encryption(location: &str, looked: Result<(), AtRestError>) -> Result<(), LocationError> {
    looked.map_err(|e| LocationError::Unusable {
        location: location.to_owned(),
        detail: e.to_string(),
    })
}

/// Whether replicas in a location that is there, or is to be made, can be encrypted. The file system of one that is not there is
/// not known: it may not be mounted.
fn fits(keys: &AtRest, location: &Path) -> Result<(), AtRestError> {
    if location.exists() || location.parent().is_some_and(Path::is_dir) {
        keys.fits(location)
    } else {
        readable(location)
    }
}

/// The same without giving anybody the key.
fn could(keys: &AtRest, location: &Path) -> Result<(), AtRestError> {
    if location.exists() {
        keys.could(location)
    } else {
        readable(location)
    }
}

/// Runs what may wait for a disk where waiting is allowed; `None` when it ended by a fault of this program.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn file_id(path: &str) -> Option<FileId> {
    let meta = std::fs::metadata(path).ok()?;
    Some(if meta.file_type().is_block_device() {
        FileId::Device { number: meta.rdev() }
    } else {
        FileId::File {
            device: meta.dev(),
            inode: meta.ino(),
        }
    })
}

/// Whether `location` is a directory for replicas, none of them the daemon's `own`.
fn location(location: &str, own: &[Utf8PathBuf]) -> Result<(), LocationError> {
    let unusable = |detail: String| LocationError::Unusable {
        location: location.to_owned(),
        detail,
    };
    let real = match Utf8Path::new(location).canonicalize_utf8() {
        Ok(real) => real,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(LocationError::Missing(location.to_owned()));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(LocationError::NoDirectory(location.to_owned()));
        }
        Err(e) => return Err(unusable(e.to_string())),
    };
    if real == "/" {
        return Err(LocationError::Root);
    }
    if !real.is_dir() {
        return Err(LocationError::NoDirectory(location.to_owned()));
    }
    inside(&real, location, own)?;
    match crate::private::unsafe_part(&real) {
        Ok(None) => {}
        Ok(Some(why)) => return Err(unusable(why)),
        Err(e) => return Err(unusable(e.to_string())),
    }
    rustix::fs::access(real.as_std_path(), rustix::fs::Access::WRITE_OK)
        .map_err(|e| unusable(format!("the daemon cannot write to it: {e}")))
}

/// The same, after making a directory whose parent is there. What would be refused afterwards is not made.
fn prepare(wanted: &str, own: &[Utf8PathBuf]) -> Result<(), LocationError> {
    use std::os::unix::fs::DirBuilderExt;
    let looked = location(wanted, own);
    let path = Utf8Path::new(wanted);
    let parent = path
        .parent()
        .filter(|p| matches!(looked, Err(LocationError::Missing(_))) && p.is_dir());
    let (Some(parent), Some(name)) = (parent, path.file_name()) else {
        return looked;
    };
    let real = parent
        .canonicalize_utf8()
        .unwrap_or_else(|_| parent.to_owned())
        .join(name);
    inside(&real, wanted, own)?;
    let made = std::fs::DirBuilder::new().mode(0o700).create(path);
    made.and_then(|()| std::fs::File::open(parent)?.sync_all())
        .map_err(|e| LocationError::Unusable {
            location: wanted.to_owned(),
            detail: format!("it is not there and cannot be made: {e}"),
        })?;
    location(wanted, own)
}

/// Refuses what is inside a directory of the daemon's.
fn inside(real: &Utf8Path, wanted: &str, own: &[Utf8PathBuf]) -> Result<(), LocationError> {
    // A directory of the daemon that cannot be resolved is compared as it is written.
    let mut resolved = own
        .iter()
        .map(|dir| dir.canonicalize_utf8().unwrap_or_else(|_| dir.clone()));
    match resolved.find(|own| real.starts_with(own)) {
        None => Ok(()),
        Some(own) => Err(LocationError::Own {
            location: wanted.to_owned(),
            own: own.into_string(),
        }),
    }
}

#[async_trait]
impl Environment for HostEnvironment {
    async fn file_ids(&self, paths: &[String]) -> Vec<Option<FileId>> {
        let (paths, count) = (paths.to_vec(), paths.len());
        let ids = blocking(move || paths.iter().map(|p| file_id(p)).collect()).await;
        ids.unwrap_or_else(|| vec![None; count])
    }

    async fn prepare_location(&self, wanted: &str) -> Result<(), LocationError> {
        let (keys, at) = (self.at_rest.clone(), wanted.to_owned());
        if let Some(looked) = blocking(move || encryption(&at, fits(&keys, at.as_ref()))).await {
            looked?;
        }
        self.look(wanted, prepare).await
    }

    async fn replica_location(&self, wanted: &str) -> Result<(), LocationError> {
        let (keys, at) = (self.at_rest.clone(), wanted.to_owned());
        if let Some(looked) = blocking(move || encryption(&at, could(&keys, at.as_ref()))).await {
            looked?;
        }
        self.look(wanted, location).await
    }

    async fn at_rest(&self, dirs: &[String]) -> Vec<Seen> {
        // The permit goes with the work, which outlives who stops waiting.
        let Ok(permit) = self.asking.clone().acquire_owned().await else {
            return Vec::new();
        };
        let dirs = dirs.to_vec();
        let seen = blocking(move || {
            let _permit = permit;
            dirs.iter().map(|d| crate::encryption::seen(d)).collect()
        });
        seen.await.unwrap_or_default()
    }

    fn working_dirs(&self) -> Vec<String> {
        vec![self.spool.to_string()]
    }

    fn encrypts_new(&self) -> bool {
        self.at_rest.is_on()
    }

    async fn certificates(&self) -> Vec<Certificate> {
        let (link, management) = (self.link.clone(), self.management.clone());
        let all = blocking(move || {
            link.refresh();
            if let Some(management) = &management {
                management.refresh();
            }
            certificates(&link, management.as_deref())
        });
        all.await.unwrap_or_default()
    }

    async fn keys(&self) -> OwnKeys {
        let (link, next) = (self.link.clone(), self.next_certificate.clone());
        blocking(move || keys(&link, next.as_deref()))
            .await
            .unwrap_or_default()
    }
}

/// The keys of this host, and what there is to say of the files that say whom it trusts.
fn keys(link: &Credentials, next: Option<&Utf8Path>) -> OwnKeys {
    link.refresh();
    let mut findings = Vec::new();
    if let Some(revoked) = link.own_revoked() {
        let text = format!(
            "this host's own certificate ({}), or its key, is on the revocation list ({revoked}): issue a new one with a new key",
            link.files().cert
        );
        findings.push(Finding::critical(ProblemKind::OwnCertificateRevoked, text));
    }
    if let (Some(why), Some(path)) = (link.revoked().problem(), link.revoked().path()) {
        let text =
            format!("what the revocation list {path} holds now is not used, the list read before is: {why}");
        findings.push(Finding::warning(ProblemKind::RevocationListUnused, text));
    }
    let next = match next.map(describe) {
        Some(Ok(info)) => Some(info.key_fingerprint),
        // Nothing is to change.
        Some(Err(CertError::Io { source, .. })) if source.kind() == std::io::ErrorKind::NotFound => None,
        Some(Err(e)) => {
            let text = format!("the next certificate cannot be used: {e}");
            findings.push(Finding::warning(ProblemKind::NextCertificateUnusable, text));
            None
        }
        None => None,
    };
    OwnKeys {
        own: link.own_key(),
        next,
        findings,
    }
}

fn certificates(link: &Credentials, management: Option<&Credentials>) -> Vec<Certificate> {
    let files = link.files();
    let of_link = link.seen().into_iter().map(|(holder, validity)| {
        let (usage, place, problem) = match holder {
            Holder::Host => (CertificateUse::Host, files.cert.to_string(), link.problem()),
            Holder::Authority => (CertificateUse::Authority, files.ca.to_string(), None),
            Holder::Peer(name) => (CertificateUse::Peer, name, None),
        };
        Certificate {
            usage,
            place,
            not_before: validity.not_before,
            not_after: validity.not_after,
            problem,
        }
    });
    // A file that is the link's as well is listed once.
    let other = management.filter(|m| m.files().cert != files.cert);
    let of_management = other.and_then(|m| {
        let validity = m.own_validity()?;
        Some(Certificate {
            usage: CertificateUse::Management,
            place: m.files().cert.to_string(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            problem: m.problem(),
        })
    });
    of_link.chain(of_management).collect()
}

#[cfg(test)]
mod tests {
    use lifeboat_tls::authority::{init_ca, issue};
    use lifeboat_tls::{Purpose, RevocationList};

    use super::*;

    #[test]
    fn a_file_is_the_same_by_every_path() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("a"), "x").unwrap();
        std::fs::write(at("other"), "x").unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        std::fs::hard_link(at("a"), at("hard")).unwrap();
        let one = file_id(&at("a")).unwrap();
        for same in ["link", "hard", "./a", "sub/../a", "sub//../a"] {
            assert_eq!(file_id(&at(same)), Some(one), "{same}");
        }
        assert_ne!(file_id(&at("other")), Some(one));
        assert_eq!(file_id(&at("nothing")), None);
    }

    #[test]
    fn what_is_wrong_with_the_files_of_trust_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let at = Utf8Path::from_path(dir.path()).unwrap();
        init_ca(&at.join("ca"), "CA", None).unwrap();
        let made = |name: &str| {
            let (names, day) = ([name.to_owned()], std::time::Duration::from_secs(86_400));
            issue(&at.join("ca"), &names, &at.join(name), day).unwrap()
        };
        let (own, next, list) = (made("alpha"), made("next"), at.join("revoked"));
        let info = describe(&own.cert).unwrap();
        std::fs::write(&list, "").unwrap();
        let revoked = RevocationList::load(&list).unwrap();
        let link = Credentials::load(Purpose::Peers, &own, revoked).unwrap();
        let said = |next: Option<&Utf8Path>| keys(&link, next);
        let fine = OwnKeys {
            own: Some(info.key_fingerprint),
            next: None,
            findings: Vec::new(),
        };
        assert_eq!(said(None), fine);
        assert_eq!(
            said(Some(&at.join("not-there.crt"))),
            fine,
            "nothing is to change"
        );
        let key = describe(&next.cert).unwrap().key_fingerprint;
        assert_eq!(said(Some(&next.cert)).next, Some(key));
        let words = |next: Option<&Utf8Path>| {
            let all = said(next).findings.into_iter().map(|f| f.text);
            all.collect::<Vec<_>>().join("; ")
        };
        assert!(
            words(Some(&next.key)).contains("the next certificate cannot be used"),
            "{}",
            words(None)
        );
        std::fs::write(&list, info.fingerprint.to_string()).unwrap();
        assert!(
            words(None).contains("this host's own certificate"),
            "{}",
            words(None)
        );
        std::fs::write(&list, "oops").unwrap();
        let both = words(None);
        assert!(
            both.contains("line 1") && both.contains("own certificate"),
            "{both}"
        );
    }

    #[test]
    fn replicas_are_stored_in_directories_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for made in ["state/deep", "replicas", "read-only"] {
            std::fs::create_dir_all(at(made)).unwrap();
        }
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("state"), at("link")).unwrap();
        let own = [Utf8PathBuf::from(at("state"))];
        let refused = |name: &str| location(&at(name), &own).unwrap_err();
        assert_eq!(location(&at("replicas"), &own), Ok(()));
        assert_eq!(location("/", &own), Err(LocationError::Root));
        assert_eq!(location("/proc/..", &own), Err(LocationError::Root));
        assert_eq!(refused("file"), LocationError::NoDirectory(at("file")));
        assert_eq!(
            refused("file/below"),
            LocationError::NoDirectory(at("file/below"))
        );
        let missing = refused("not/there");
        assert_eq!(missing, LocationError::Missing(at("not/there")));
        assert!(missing.to_string().contains("mkdir -p"), "{missing}");
        assert_eq!(
            prepare(&at("not/there"), &own),
            Err(LocationError::Missing(at("not/there")))
        );
        assert_eq!(prepare(&at("new"), &own), Ok(()));
        assert_eq!(location(&at("new"), &own), Ok(()));
        assert!(matches!(
            prepare(&at("link/new"), &own),
            Err(LocationError::Own { .. })
        ));
        assert!(
            !dir.path().join("state/new").exists(),
            "what is refused is not made"
        );
        for inside in ["state", "state/deep", "link", "link/deep"] {
            assert!(matches!(refused(inside), LocationError::Own { .. }), "{inside}");
        }
    }
}
