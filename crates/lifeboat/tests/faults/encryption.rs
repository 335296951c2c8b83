//! Encryption at rest on two real hosts: what is on the replica's medium, that nobody learns the key, and what the daemon says
//! and does when the key is missing, another one, or taken away while it runs. The medium is searched byte by byte.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lifeboat_faults::history::Content;
use lifeboat_faults::keys::take_away;
use lifeboat_faults::volume::{Layout, run};

use crate::cuts;
use crate::host::{Ground, Host, wait_for};
use crate::judge::Judge;
use crate::report::Report;
use crate::world::{Setup, VM, World, lock, now_ms};

/// A key in hexadecimal digits, and its bytes.
struct Key {
    digits: String,
    bytes: Vec<u8>,
}

impl Key {
    fn new(seed: u8) -> Self {
        let bytes: Vec<u8> = (0..64_u8).map(|n| (n * 3) ^ seed).collect();
        let digits = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Self { digits, bytes }
    }

    /// Whether something has the key, in one of the ways in which it can be written.
    fn is_in(&self, text: &[u8]) -> bool {
        let upper = self.digits.to_uppercase();
        // A part of it would be too much.
        let parts = [
            &self.bytes[..16],
            &self.digits.as_bytes()[..32],
            &upper.as_bytes()[..32],
        ];
        parts.iter().any(|part| has(text, part))
    }
}

fn has(text: &[u8], part: &[u8]) -> bool {
    count(text, part) > 0
}

/// How often something is in these bytes, at whatever place.
fn count(mut text: &[u8], part: &[u8]) -> usize {
    let mut found = 0;
    while let Some(at) = text.iter().position(|b| *b == part[0]) {
        found += usize::from(text[at..].starts_with(part));
        text = &text[at + 1..];
    }
    found
}

/// Writes the key file, on the file system of the test, and names it in the configuration; `None` takes it out again.
fn configure(host: &Host, key: Option<&Key>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (file, config) = (host.root.join("key"), host.root.join("lifeboat.toml"));
    let text = std::fs::read_to_string(&config)?;
    let mut text = text.split("[encryption]").next().unwrap_or_default().to_owned();
    if let Some(key) = key {
        std::fs::write(&file, format!("{}\n", key.digits))?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        text.push_str(&format!("[encryption]\nkey_file = \"{}\"\n", file.display()));
    }
    Ok(std::fs::write(config, text)?)
}

/// Everything that a host shows of itself: its log, the command lines and environments of its processes, its state.
fn shown(host: &Host) -> Result<Vec<u8>> {
    let mut all = std::fs::read(host.root.join("daemon.log"))?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        for file in ["cmdline", "environ"] {
            all.extend(std::fs::read(entry.path().join(file)).unwrap_or_default());
        }
    }
    for file in ["catalog.sqlite", "catalog.sqlite-wal"] {
        all.extend(std::fs::read(host.durable.join("state").join(file)).unwrap_or_default());
    }
    for command in [
        &["server", "show"][..],
        &["events"],
        &["replication", "status", VM],
    ] {
        all.extend(host.ok(command)?.into_bytes());
    }
    Ok(all)
}

/// What the medium of a host holds.
fn medium(host: &Host) -> Result<Vec<u8>> {
    run(&mut std::process::Command::new("sync"))?;
    Ok(std::fs::read(cuts::disk(host)?.file())?)
}

/// How many of the guest's records are in these bytes.
fn records(world: &World, bytes: &[u8]) -> usize {
    let history = lock(&world.history);
    let record = (1..).map(|n| history.write(n));
    let record = record.filter(|w| w.content == Content::Record).map(|w| w.bytes());
    // Every record begins with the same eight bytes.
    let magic = record.take(1).next().unwrap_or_default();
    count(bytes, &magic[..8])
}

/// The identifier that the host says its replica is encrypted with.
fn identifier(host: &Host) -> Result<String> {
    let seen = host.replication()["at_rest"].take();
    ensure!(seen["state"] == "encrypted", "the replica is {seen}");
    Ok(seen["key"].as_str().context("no key is named")?.to_owned())
}

/// Mounts the host's file system anew, whose kernel forgets the key with that.
fn mount_anew(host: &mut Host) -> Result<()> {
    let volume = host.volume.as_mut().context("no volume")?;
    volume.unmount()?;
    volume.mount()
}

/// A start that has to be refused; what the daemon said.
fn refused(host: &mut Host) -> Result<String> {
    let before = std::fs::metadata(host.root.join("daemon.log")).map_or(0, |m| m.len());
    if host.start().is_ok() {
        bail!("{} started", host.name);
    }
    let log = std::fs::read(host.root.join("daemon.log"))?;
    let new = log.get(usize::try_from(before)?..).unwrap_or_default();
    Ok(String::from_utf8_lossy(new).into_owned())
}

fn names(said: &str, wanted: &[&str]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|w| !said.contains(**w)).collect();
    ensure!(
        missing.is_empty(),
        "{missing:?} should be said, but this was: {said}"
    );
    Ok(())
}

/// The whole story of an encrypted replica.
pub(crate) fn of_a_replica(name: &str, seed: u64) -> Report {
    let mut judge = Judge::new(Report::new(name, seed));
    let layout = Layout {
        mkfs: &["-O", "encrypt"],
        mount: "",
    };
    let b = Ground {
        volume: Some(layout),
        clock: false,
    };
    let setup = Setup {
        seed,
        a: Ground::default(),
        b,
    };
    let done = World::new(setup).and_then(|mut world| {
        let key = Key::new(1);
        configure(&world.b, Some(&key))?;
        // As a daemon left it that was killed between the directory and its policy.
        std::fs::create_dir_all(world.b.durable.join("spool/encrypted"))?;
        world.begin(cuts::FLUSHED)?;
        std::thread::sleep(Duration::from_secs(3));
        on_the_medium(&mut world, &key)?;
        without_its_key(&mut world, &mut judge, &key)?;
        taken_away(&mut world, &mut judge)?;
        cuts::end(&mut world, &mut judge)
    });
    cuts::settle(judge, done)
}

/// What the medium and the surfaces show while everything runs.
fn on_the_medium(world: &mut World, key: &Key) -> Result<()> {
    let id = identifier(&world.b)?;
    let server = world.b.ok(&["server", "show"])?;
    names(&server, &["new replicas", "spool/encrypted, encrypted, key", &id])?;
    names(&world.b.ok(&["replication", "status", VM])?, &[&id])?;
    let medium = medium(&world.b)?;
    let found = records(world, &medium);
    ensure!(
        found == 0,
        "{found} of the guest's records are on the replica's medium"
    );
    // The control: the primary's disk has them, in the clear, and the same search finds them.
    let plain = std::fs::read(&world.disk_paths()[1])?;
    ensure!(records(world, &plain) > 0, "the search finds nothing anywhere");
    ensure!(!key.is_in(&medium), "the key is on the medium");
    ensure!(!key.is_in(&shown(&world.b)?), "the key is shown");
    let own = std::fs::read(world.b.root.join("key"))?;
    ensure!(key.is_in(&own), "the search for the key finds nothing anywhere");
    Ok(())
}

/// Mounted anew without the key, with another one, and with the right one.
fn without_its_key(world: &mut World, judge: &mut Judge, key: &Key) -> Result<()> {
    world.stop_writing()?;
    world.all_arrives(Duration::from_secs(60))?;
    let id = identifier(&world.b)?;
    let replica = world.replica();
    world.b.stop()?;
    mount_anew(&mut world.b)?;
    ensure!(!replica.join("manifest.json").exists(), "it is not locked");
    let files = entries(&replica)?;

    configure(&world.b, None)?;
    names(&refused(&mut world.b)?, &["[encryption]"])?;
    // Without the spool's own directory it is the replica that is told of.
    let spool = world.b.durable.join("spool/encrypted");
    let aside = world.b.durable.join("aside");
    std::fs::rename(&spool, &aside)?;
    names(
        &refused(&mut world.b)?,
        &[&id, &replica.display().to_string(), "[encryption]"],
    )?;

    let other = Key::new(77);
    configure(&world.b, Some(&other))?;
    let said = refused(&mut world.b)?;
    names(&said, &[&id, &replica.display().to_string()])?;
    let both = said.split_whitespace().filter(|w| {
        let w = w.trim_matches([',', ':']);
        w.len() == 32 && w.chars().all(|c| c.is_ascii_hexdigit())
    });
    let both: std::collections::BTreeSet<_> = both.map(|w| w.trim_matches([',', ':'])).collect();
    ensure!(both.len() == 2, "both keys should be named: {said}");
    ensure!(entries(&replica)? == files, "files were made or removed");
    ensure!(!other.is_in(said.as_bytes()), "the key is shown");

    // The spool that the other key made is in the way, and is told of before anything else.
    std::fs::remove_dir_all(&spool)?;
    std::fs::rename(&aside, &spool)?;
    configure(&world.b, Some(key))?;
    world.b.start()?;
    judge.points(world);
    world.write_on(cuts::FLUSHED)?;
    world.goes_on(now_ms(), cuts::GOES_ON)?;
    Ok(())
}

/// Somebody takes the key away while the daemon runs.
fn taken_away(world: &mut World, judge: &mut Judge) -> Result<()> {
    let id = identifier(&world.b)?;
    take_away(&world.b.durable, &id)?;
    wait_for("the replica is shown as locked", Duration::from_secs(60), || {
        let view = world.b.replication();
        let locked = view["at_rest"]["state"] == "locked" && view["health"] == "Critical";
        (locked && view["health_notes"].to_string().contains(&id)).then_some(())
    })?;
    let view = world.b.replication();
    for wrong in ["is gone", "missing; restore", "replicate this VM", "built again"] {
        ensure!(!view.to_string().contains(wrong), "\"{wrong}\" is said: {view}");
    }
    // Files that were open may have been left so; whatever is seen, it comes back with the key.
    world.b.stop()?;
    world.b.start()?;
    world.goes_on(now_ms(), cuts::GOES_ON)?;
    world.stop_writing()?;
    world.all_arrives(Duration::from_secs(60))?;
    judge.points(world);
    world.write_on(cuts::FLUSHED)?;
    Ok(())
}

fn entries(dir: &Path) -> Result<usize> {
    let mut all = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        all += 1;
        if entry.file_type()?.is_dir() {
            all += entries(&entry.path())?;
        }
    }
    Ok(all)
}

/// A file system without the feature: the daemon says the way out.
pub(crate) fn of_a_file_system_without_it() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("lbf").tempdir()?;
    let mut authority = std::process::Command::new(crate::host::binary());
    authority.args(["cert", "init", "--name", "Faults"]);
    run(authority.arg(dir.path().join("ca")))?;
    let layout = Layout {
        mkfs: &["-O", "^encrypt"],
        mount: "",
    };
    let ground = Ground {
        volume: Some(layout),
        clock: false,
    };
    let mut host = Host::new(dir.path(), "beta.test", ground)?;
    host.configure(host.port)?;
    let key = Key::new(1);
    configure(&host, Some(&key))?;
    names(
        &refused(&mut host)?,
        &["tune2fs -O encrypt DEVICE", "spool/encrypted"],
    )?;
    // The way out, as it is said.
    let device = format!(
        "/dev/{}",
        host.volume
            .as_ref()
            .and_then(|v| v.device())
            .context("no device")?
    );
    run(std::process::Command::new("tune2fs").args(["-O", "encrypt", &device]))?;
    host.start()?;
    // A location on a file system without encryption is refused before anything is sent there.
    host.ok(&["server", "set", "--replica", "on"])?;
    let elsewhere = dir.path().join("ram");
    std::fs::create_dir(&elsewhere)?;
    run(std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "mode=0700", "none"])
        .arg(&elsewhere))?;
    let location = elsewhere.display().to_string();
    let out = host.cli(&["authorization", "add", "alpha.test", "--location", &location])?;
    ensure!(!out.status.success(), "the location was taken");
    names(&String::from_utf8_lossy(&out.stderr), &["dm-crypt", &location])?;
    // The key beside what it encrypts.
    host.stop()?;
    let beside = host.durable.join("key");
    std::fs::copy(host.root.join("key"), &beside)?;
    let config = host.root.join("lifeboat.toml");
    let text = std::fs::read_to_string(&config)?;
    let text = text.replace(
        &host.root.join("key").display().to_string(),
        &beside.display().to_string(),
    );
    std::fs::write(config, text)?;
    names(&refused(&mut host)?, &["same file system"])
}
