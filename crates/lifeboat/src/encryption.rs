//! Encryption at rest: where the key comes from, and that everything this host works in is readable before anything is opened.
//! In a locked directory every file seems to be gone, so the daemon does not start with one. What the kernel does with keys is
//! `lifeboat-kernel`'s.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::catalog::CatalogImage;
use lifeboat_engine::ports::environment::AtRest as Seen;
use lifeboat_kernel::at_rest::nearest;
use lifeboat_kernel::encryption::LONGEST;
use lifeboat_kernel::{AtRest, AtRestError, MasterKey, Standing};
use lifeboat_model::{VmSpec, words};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::config::{Config, Encryption};
use crate::private::standing;

/// The spool's directory while there is a key: only an empty directory can become encrypted, and the root of a file system never.
const SPOOL: &str = "encrypted";

/// How long the command that gives the key may take.
const COMMAND_TIME: Duration = Duration::from_secs(30);

/// Most that is shown of what it says on standard error, in bytes.
const SAID: usize = 2048;

/// How long a directory may take to be looked at when the daemon starts.
const LOOK: Duration = Duration::from_secs(10);

/// Where the spool is.
pub(crate) fn spool_dir(config: &Config) -> Utf8PathBuf {
    match &config.encryption {
        Some(_) => config.spool_dir.join(SPOOL),
        None => config.spool_dir.clone(),
    }
}

/// Reads the key, and makes the configured directories readable. Nothing is opened in them before.
pub(crate) async fn begin(config: &Config) -> anyhow::Result<Arc<AtRest>> {
    let at_rest = match &config.encryption {
        Some(encryption) => key(encryption).await.context("encryption at rest")?,
        None => AtRest::off(),
    };
    for dir in [
        &config.vm_dir,
        &config.state_dir,
        &config.run_dir,
        &config.spool_dir,
    ] {
        at_rest.unlock(dir.as_std_path())?;
    }
    Ok(Arc::new(at_rest))
}

/// Has the spool there, encrypted where there is a key. For the one daemon of this state alone: what an earlier one left in the
/// other place is removed, because nothing in a spool outlives the daemon.
pub(crate) fn spool(config: &Config, at_rest: &AtRest) -> anyhow::Result<()> {
    let encrypted = config.spool_dir.join(SPOOL);
    if !at_rest.is_on() {
        ensure!(
            !encrypted.exists(),
            "{encrypted} is there from when the spool was encrypted, and the configuration has no [encryption]: put that back, or, to \
             go on without encryption, remove the directory with: rm -r {encrypted}"
        );
        return Ok(());
    }
    at_rest.make(encrypted.as_std_path())?;
    remove_plain(&config.spool_dir)
}

/// Removes what was spooled in the clear. Guests that still have such a file open are not disturbed.
fn remove_plain(spool: &Utf8Path) -> anyhow::Result<()> {
    for entry in spool
        .read_dir_utf8()
        .with_context(|| format!("cannot list {spool}"))?
    {
        let path = entry?.into_path();
        let of_vm = path.file_name().is_some_and(|n| uuid::Uuid::parse_str(n).is_ok());
        let removed = match path.extension() {
            Some("spool") => std::fs::remove_file(&path),
            _ if of_vm && path.is_dir() => std::fs::remove_dir_all(&path),
            _ => continue,
        };
        removed.with_context(|| format!("cannot remove {path}, which holds guests' data in the clear"))?;
    }
    Ok(())
}

/// Makes every directory readable that replicas and VMs are in. A directory whose storage does not answer is left to its first
/// use, which gives its file system the key as well.
pub(crate) async fn storage(
    at_rest: &Arc<AtRest>,
    catalog: &CatalogImage,
    vms: &[VmSpec],
) -> anyhow::Result<()> {
    let locations = catalog.entries.iter().map(|e| PathBuf::from(&e.storage_location));
    let replicas = catalog.relationships.iter().filter_map(|r| {
        let dir = r.replica().and_then(|side| side.dir.as_ref());
        let dir = dir.or(r.home.as_ref().map(|h| &h.dir))?;
        Some(PathBuf::from(dir))
    });
    let specs = vms.iter().chain(catalog.relationships.iter().map(|r| &r.spec));
    let images = specs.flat_map(|s| &s.disks).filter_map(|d| {
        let dir = Path::new(&d.path).parent()?;
        dir.is_absolute().then(|| dir.to_owned())
    });
    let all: BTreeSet<PathBuf> = locations.chain(replicas).chain(images).collect();
    for dir in all {
        let (at, keys) = (dir.clone(), Arc::clone(at_rest));
        let look = tokio::task::spawn_blocking(move || keys.unlock(&at));
        match tokio::time::timeout(LOOK, look).await {
            Ok(Ok(Ok(standing))) => said(&dir, standing),
            Ok(Ok(Err(error @ AtRestError::Io { .. }))) => warn!(%error, "a directory cannot be looked at"),
            Ok(Ok(Err(error))) => return Err(error.into()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => warn!(dir = %dir.display(), "the directory's storage does not answer"),
        }
    }
    Ok(())
}

fn said(dir: &Path, standing: Standing) {
    if let Standing::Open(key) = standing {
        info!(dir = %dir.display(), %key, "the directory is encrypted");
    }
}

/// Whether a directory is encrypted and locked, for views.
pub(crate) fn seen(dir: &str) -> Seen {
    match nearest(Path::new(dir)) {
        Ok((_, Standing::Unsupported(_) | Standing::Plain)) => Seen::NotEncrypted,
        Ok((_, Standing::Open(key))) => Seen::Encrypted {
            key: Some(key.to_string()),
        },
        Ok((_, Standing::Locked(key))) => Seen::Locked { key: key.to_string() },
        Ok((_, Standing::Foreign)) => Seen::Encrypted { key: None },
        Err(error) => Seen::NotKnown {
            why: error.to_string(),
        },
    }
}

/// Reads the key from where the configuration says.
async fn key(encryption: &Encryption) -> anyhow::Result<AtRest> {
    match (&encryption.key_file, &encryption.key_command) {
        (Some(path), _) => of_file(path),
        (None, Some(command)) => Ok(AtRest::with(of_command(command).await?, None)),
        (None, None) => bail!("no key is named"),
    }
}

fn of_file(path: &Utf8Path) -> anyhow::Result<AtRest> {
    use std::io::Read;
    let unreadable = || format!("the key file {path} cannot be read");
    let mut file = std::fs::File::open(path).with_context(unreadable)?;
    let meta = file.metadata().with_context(unreadable)?;
    ensure!(meta.is_file(), "the key file {path} is no file");
    ensure!(
        !standing(&meta).exposes_key(),
        "the key file {path} is not used: others than its owner may read it; take that away with: chmod 600 {path}"
    );
    // One buffer, wiped at the end: growing ones leave copies behind.
    let mut text = Zeroizing::new([0; LONGEST + 1]);
    let mut len = 0;
    loop {
        match file.read(&mut text[len..]).with_context(unreadable)? {
            0 => break,
            n => len += n,
        }
    }
    let key = MasterKey::parse(&text[..len]).with_context(|| format!("the key file {path} is not used"))?;
    Ok(AtRest::with(key, Some(meta.dev())))
}

async fn of_command(command: &[String]) -> anyhow::Result<MasterKey> {
    let (program, arguments) = command.split_first().context("the command is empty")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("the key command {program} cannot be run"))?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let Ok(answer) = tokio::time::timeout(COMMAND_TIME, answer(&mut child)).await else {
        // Whatever it started as well.
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        bail!(
            "the key command {program} did not end within {} s",
            COMMAND_TIME.as_secs()
        );
    };
    let (text, len, said, status) = answer.with_context(|| format!("the key command {program}"))?;
    let said = words::shown(String::from_utf8_lossy(&said).trim());
    let said = if said.is_empty() {
        String::new()
    } else {
        format!("; it said: {said}")
    };
    // A command that writes too much is ended by that, and how it ended says nothing.
    if len <= LONGEST && !status.success() {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".to_owned(),
        };
        bail!("the key command {program} failed with {how}{said}");
    }
    MasterKey::parse(&text[..len])
        .map_err(|e| anyhow!("what the key command {program} wrote is not used: {e}{said}"))
}

/// What a command wrote to standard output, as far as it can be a key, and to standard error; and how it ended.
type Answer = (
    Box<Zeroizing<[u8; LONGEST + 1]>>,
    usize,
    Vec<u8>,
    std::process::ExitStatus,
);

async fn answer(child: &mut Child) -> std::io::Result<Answer> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let wrote = async {
        // In a box, or each move of the future would leave a copy behind.
        let mut text = Box::new(Zeroizing::new([0; LONGEST + 1]));
        let mut len = 0;
        if let Some(out) = &mut out {
            // What is longer is no key. The pipe is closed then, which ends who goes on writing.
            while len < text.len() {
                match out.read(&mut text[len..]).await? {
                    0 => break,
                    n => len += n,
                }
            }
        }
        drop(out.take());
        std::io::Result::Ok((text, len))
    };
    let said = async {
        match &mut err {
            Some(err) => beginning(err).await,
            None => Ok(Vec::new()),
        }
    };
    let ((text, len), said) = tokio::try_join!(wrote, said)?;
    let status = child.wait().await?;
    Ok((text, len, said, status))
}

/// The beginning of what comes; the rest is read and dropped.
async fn beginning(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let (mut kept, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        let n = from.read(&mut piece).await?;
        if n == 0 {
            return Ok(kept);
        }
        let room = SAID - kept.len();
        kept.extend_from_slice(&piece[..n.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
                          202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

    fn file(mode: u32, text: &str) -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_key_file_is_for_its_owner_alone() {
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            let (_dir, path) = file(mode, DIGITS);
            let read = of_file(&path);
            assert_eq!(read.is_ok(), good, "{mode:o}");
            if let Err(error) = read {
                assert!(error.to_string().contains("chmod 600"), "{error:#}");
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_key_file_is_said_without_it() {
        let (_dir, path) = file(0o600, &DIGITS[..100]);
        let error = format!("{:#}", of_file(&path).unwrap_err());
        assert!(
            error.contains(path.as_str()) && error.contains("128 hexadecimal digits"),
            "{error}"
        );
        assert!(!error.contains("0a0b"), "{error}");
        let missing = format!("{:#}", of_file(Utf8Path::new("/nowhere/key")).unwrap_err());
        assert!(missing.contains("/nowhere/key"), "{missing}");
        let (dir, _) = file(0o600, "");
        let directory = Utf8Path::from_path(dir.path()).unwrap();
        assert!(format!("{:#}", of_file(directory).unwrap_err()).contains("is no file"));
    }

    async fn run(script: &str) -> anyhow::Result<MasterKey> {
        of_command(&["sh".into(), "-c".into(), script.into()]).await
    }

    #[tokio::test]
    async fn a_command_gives_the_key() {
        run(&format!("echo a word >&2; echo {DIGITS}")).await.unwrap();
        // More on standard error than a pipe holds does not block.
        run(&format!("head -c 300000 /dev/zero >&2; printf {DIGITS}"))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_command_that_fails_is_heard_and_its_output_is_not_shown() {
        let error = |script: String| async move { format!("{:#}", run(&script).await.unwrap_err()) };
        let failed = error(format!("echo {DIGITS}; echo no TPM here >&2; exit 3")).await;
        assert!(
            failed.contains("exit code 3") && failed.contains("no TPM here"),
            "{failed}"
        );
        let short = error(format!("echo {}; printf 'half\\033[1m' >&2", &DIGITS[..90])).await;
        assert!(
            short.contains("91 bytes") && short.contains("half") && !short.contains('\u{1b}'),
            "{short}"
        );
        let long = error(format!("yes {DIGITS}")).await;
        assert!(long.contains("more than that"), "{long}");
        for shown in [failed, short, long] {
            assert!(!shown.contains("0a0b0c"), "{shown}");
        }
        let missing = format!(
            "{:#}",
            of_command(&["/nowhere/give-key".into()]).await.unwrap_err()
        );
        assert!(missing.contains("/nowhere/give-key"), "{missing}");
    }

    #[test]
    fn one_source_is_named() {
        let of = |file: Option<&str>, command: Option<&[&str]>| Encryption {
            key_file: file.map(Into::into),
            key_command: command.map(|c| c.iter().map(ToString::to_string).collect()),
        };
        for good in [
            of(Some("/k"), None),
            of(None, Some(&["systemd-creds", "decrypt"])),
        ] {
            assert_eq!(good.mistake(), None);
        }
        for (bad, key) in [
            (of(None, None), "encryption"),
            (of(Some("/k"), Some(&["x"])), "encryption"),
            (of(Some("k"), None), "encryption.key_file"),
            (of(None, Some(&[])), "encryption.key_command"),
            (of(None, Some(&[""])), "encryption.key_command"),
        ] {
            assert_eq!(bad.mistake().unwrap().0, key);
        }
    }

    #[test]
    fn only_what_was_spooled_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = Utf8Path::from_path(dir.path()).unwrap();
        let vm = uuid::Uuid::new_v4().to_string();
        for made in [vm.as_str(), "encrypted", "other"] {
            std::fs::create_dir(at.join(made)).unwrap();
            std::fs::write(at.join(made).join("file"), "x").unwrap();
        }
        std::fs::write(at.join("a-1-2.spool"), "x").unwrap();
        std::fs::write(at.join("notes.txt"), "x").unwrap();
        remove_plain(at).unwrap();
        let mut left: Vec<_> = at
            .read_dir_utf8()
            .unwrap()
            .map(|e| e.unwrap().file_name().to_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["encrypted", "notes.txt", "other"]);
    }
}
