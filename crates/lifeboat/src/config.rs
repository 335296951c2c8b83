//! What an administrator writes: the host's configuration and one file per VM. Read once at start; a mistake stops the
//! start before anything is touched. Defaults are here and nowhere else.

mod encryption;

use std::net::SocketAddr;
use std::time::SystemTime;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use lifeboat_engine::EngineConfig;
use lifeboat_engine::ports::hypervisor::{Described, KnownMachine};
use lifeboat_model::reach::Destinations;
use lifeboat_model::{Timestamp, VmSpec, VmSpecError};
use lifeboat_qemu::UserRange;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub(crate) use self::encryption::Encryption;
use crate::private::standing;

/// Where the management socket is unless the configuration or the command line says otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/lifeboat/lifeboat.sock";

/// Configuration of a host. `docs/lifeboat.toml` explains every key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Name of this host.
    pub(crate) host: String,
    /// Where it takes calls of peers.
    pub(crate) listen: SocketAddr,
    /// Durable state.
    pub(crate) state_dir: Utf8PathBuf,
    /// Sockets and pid files of VMs.
    pub(crate) run_dir: Utf8PathBuf,
    /// Logs on their way to a peer.
    pub(crate) spool_dir: Utf8PathBuf,
    /// VM descriptions.
    pub(crate) vm_dir: Utf8PathBuf,
    /// Management socket.
    #[serde(default = "default_socket")]
    pub(crate) socket: Utf8PathBuf,
    /// Group that may manage this host.
    pub(crate) admin_gid: Option<u32>,
    /// MiB to leave free on every file system.
    #[serde(default = "default_reserve")]
    pub(crate) reserve_mib: u64,
    /// Seconds a job is kept after its end.
    #[serde(default = "default_retention")]
    pub(crate) job_retention_s: u64,
    /// What peers get to know of this host.
    #[serde(default)]
    pub(crate) peer: Peer,
    /// The host's certificate, its key, and what they are judged by.
    pub(crate) tls: Tls,
    /// Management from other hosts.
    #[serde(default)]
    pub(crate) management: Management,
    /// Initial copies on media.
    #[serde(default)]
    pub(crate) media: Media,
    /// Encryption of what is kept of guests.
    pub(crate) encryption: Option<Encryption>,
    /// The emulator.
    #[serde(default)]
    pub(crate) qemu: Qemu,
    /// Verifying replicas' files.
    #[serde(default)]
    pub(crate) scrub: Scrub,
    /// The log.
    #[serde(default)]
    pub(crate) log: Log,
}

/// Verifying replicas' files by their recorded digests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scrub {
    /// Most to read, MiB per second for all replicas of the host; 0 is no limit.
    pub(crate) rate_mib_s: u64,
    /// Days within which each sealed byte is verified; 0: only when it is asked for.
    pub(crate) interval_days: u64,
}

impl Default for Scrub {
    fn default() -> Self {
        Self {
            rate_mib_s: EngineConfig::SCRUB_BYTES_PER_S >> 20,
            interval_days: EngineConfig::SCRUB_INTERVAL.as_secs() / 86_400,
        }
    }
}

/// Files of the certificates, PEM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// The authority both hosts trust.
    pub(crate) ca: Utf8PathBuf,
    /// This host's certificate.
    pub(crate) cert: Utf8PathBuf,
    /// Its key.
    pub(crate) key: Utf8PathBuf,
    /// Fingerprints of certificates and keys that are not accepted.
    pub(crate) revoked: Option<Utf8PathBuf>,
    /// The certificate that is to follow this host's; its key is announced to peers beforehand.
    pub(crate) next_certificate: Option<Utf8PathBuf>,
}

impl Tls {
    /// The first of the keys that may be absent whose path is not absolute.
    fn mistake(&self) -> Option<&'static str> {
        let files = [
            ("tls.revoked", &self.revoked),
            ("tls.next_certificate", &self.next_certificate),
        ];
        let relative = files
            .iter()
            .find(|(_, f)| f.as_ref().is_some_and(|f| !f.is_absolute()));
        relative.map(|(key, _)| *key)
    }
}

/// Management from other hosts: WS-Management and CIM-XML.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Management {
    /// Where WS-Management is served.
    pub(crate) wsman: Option<SocketAddr>,
    /// Where CIM-XML is served.
    pub(crate) cimxml: Option<SocketAddr>,
    /// Who may log in.
    pub(crate) users: Utf8PathBuf,
    /// Certificate shown to clients; that of `tls` when absent.
    pub(crate) cert: Option<Utf8PathBuf>,
    /// Its key.
    pub(crate) key: Option<Utf8PathBuf>,
    /// Authorities of client certificates; that of `tls` when absent.
    pub(crate) client_ca: Option<Utf8PathBuf>,
    /// Without TLS, on loopback addresses only.
    pub(crate) plain: bool,
    /// Hosts, addresses and networks that indications may be sent to.
    pub(crate) indication_destinations: Vec<String>,
    /// Whether what cannot be undone waits for a second person, on every surface.
    pub(crate) four_eyes: bool,
}

impl Default for Management {
    fn default() -> Self {
        Self {
            wsman: None,
            cimxml: None,
            users: "/etc/lifeboat/users.toml".into(),
            cert: None,
            key: None,
            client_ca: None,
            plain: false,
            indication_destinations: Vec::new(),
            four_eyes: false,
        }
    }
}

impl Management {
    /// Whether anything is served.
    pub(crate) fn served(&self) -> bool {
        self.wsman.is_some() || self.cimxml.is_some()
    }

    /// The first key with a value that cannot be, and why.
    fn mistake(&self) -> Option<(&'static str, &'static str)> {
        let listeners = [
            ("management.wsman", self.wsman),
            ("management.cimxml", self.cimxml),
        ];
        for (key, address) in listeners {
            if address.is_some_and(|a| a.port() == 0) {
                return Some((key, "name a port; clients have to know it"));
            }
            if self.plain && address.is_some_and(|a| !a.ip().is_loopback()) {
                let why = "management.plain is only for loopback addresses: passwords would cross the network readable. \
                           Listen on 127.0.0.1, or remove plain";
                return Some((key, why));
            }
        }
        if self.cert.is_some() != self.key.is_some() {
            return Some(("management.cert", "name both cert and key, or neither"));
        }
        let files = [
            ("management.users", Some(&self.users)),
            ("management.cert", self.cert.as_ref()),
            ("management.key", self.key.as_ref()),
            ("management.client_ca", self.client_ca.as_ref()),
        ];
        let relative = files.iter().find(|(_, f)| f.is_some_and(|f| !f.is_absolute()));
        relative.map(|(key, _)| (*key, "write an absolute path"))
    }
}

/// Initial copies on media.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Media {
    /// Directories at or below which remote callers may have copies exported and imported.
    pub(crate) directories: Vec<Utf8PathBuf>,
}

impl Media {
    fn mistake(&self) -> Option<&'static str> {
        let climbs = |d: &Utf8PathBuf| d.components().any(|c| c == Utf8Component::ParentDir);
        if self.directories.iter().any(|d| !d.is_absolute() || climbs(d)) {
            return Some("write absolute paths without ..");
        }
        let all = self.directories.iter().any(|d| d.components().count() < 2);
        all.then_some("\"/\" would be everything; name the directories that media are mounted at")
    }
}

/// What peers get to know of this host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Peer {
    /// Where they reach it, `HOST:PORT`, when that is not where it listens.
    pub(crate) advertise: Option<String>,
}

/// The emulator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Qemu {
    /// Program, searched for in `PATH` when it has no `/`.
    pub(crate) binary: Utf8PathBuf,
    /// How the guest's processor is run: by KVM or by QEMU's own translator.
    pub(crate) accel: Accel,
    /// Users that guests run as.
    pub(crate) guest_users: GuestUsers,
    /// Whether systemd bounds what guests use.
    pub(crate) guest_limits: bool,
}

/// A range of user ids, or none: then guests run as the daemon's user.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct GuestUsers(pub(crate) Option<UserRange>);

impl TryFrom<String> for GuestUsers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "none" => Ok(Self(None)),
            range => range.parse().map(|range| Self(Some(range))),
        }
    }
}

impl Default for Qemu {
    fn default() -> Self {
        Self {
            binary: "qemu-system-x86_64".into(),
            accel: Accel::Auto,
            guest_users: GuestUsers(Some(UserRange::default())),
            guest_limits: true,
        }
    }
}

/// What runs the guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accel {
    /// KVM where the host has it.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// QEMU's translator (TCG), also where the host has KVM.
    Tcg,
}

/// The daemon's log, on standard error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// A level or a filter as `tracing` reads it.
    pub(crate) level: String,
    /// Form of a line.
    pub(crate) format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

/// Form of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

fn default_socket() -> Utf8PathBuf {
    DEFAULT_SOCKET.into()
}
fn default_reserve() -> u64 {
    1024
}
fn default_retention() -> u64 {
    300
}

/// What is wrong with the files; always for the administrator to mend.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// Cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file or directory.
        path: Utf8PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Every user of the host can change it.
    #[error("{path}: every user of this host can write to this file; take that away with: chmod o-w {path}")]
    Open {
        /// The file.
        path: Utf8PathBuf,
    },
    /// Not TOML, or not the TOML it should be.
    #[error("{path}, line {line}{key}: {detail}")]
    Parse {
        /// The file.
        path: Utf8PathBuf,
        /// Line, from 1.
        line: usize,
        /// `, key "x"` when the line has one.
        key: String,
        /// What is wrong.
        detail: String,
    },
    /// A value that cannot be.
    #[error("{path}, key \"{key}\": {detail}")]
    Value {
        /// The file.
        path: Utf8PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A VM that cannot be.
    #[error("{path}: {source}")]
    Vm {
        /// The file.
        path: Utf8PathBuf,
        /// What is wrong.
        source: VmSpecError,
    },
    /// Two files for one VM.
    #[error("{first} and {second} both describe a VM with {what}: remove one, or give it its own")]
    Twice {
        /// A file.
        first: Utf8PathBuf,
        /// The other.
        second: Utf8PathBuf,
        /// What they share.
        what: String,
    },
}

impl Config {
    /// Reads and checks the configuration.
    pub(crate) fn load(path: &Utf8Path) -> Result<Self, ConfigError> {
        let config: Self = read_toml(path)?;
        let wrong = |key, detail: &str| {
            Err(ConfigError::Value {
                path: path.into(),
                key,
                detail: detail.into(),
            })
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if config.host.is_empty() || config.host.len() > 253 || !config.host.chars().all(plain) {
            return wrong("host", "use letters, digits, dots and hyphens");
        }
        if config.listen.port() == 0 {
            return wrong("listen", "name a port; peers have to know it");
        }
        if let Some(advertise) = &config.peer.advertise {
            let parts = advertise.rsplit_once(':');
            if !parts.is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok_and(|p| p > 0)) {
                return wrong("peer.advertise", "write HOST:PORT");
            }
        }
        if tracing_subscriber::EnvFilter::try_new(&config.log.level).is_err() {
            return wrong("log.level", "use error, warn, info, debug or trace");
        }
        if let Some((key, why)) = config.management.mistake() {
            return wrong(key, why);
        }
        if let Err(e) = Destinations::parse(&config.management.indication_destinations) {
            return wrong("management.indication_destinations", &e.to_string());
        }
        if let Some(key) = config.tls.mistake() {
            return wrong(key, "write an absolute path");
        }
        if let Some(why) = config.media.mistake() {
            return wrong("media.directories", why);
        }
        if let Some((key, why)) = config.encryption.as_ref().and_then(Encryption::mistake) {
            return wrong(key, why);
        }
        for (key, dir) in [
            ("state_dir", &config.state_dir),
            ("run_dir", &config.run_dir),
            ("spool_dir", &config.spool_dir),
            ("vm_dir", &config.vm_dir),
            ("socket", &config.socket),
            ("tls.ca", &config.tls.ca),
            ("tls.cert", &config.tls.cert),
            ("tls.key", &config.tls.key),
        ] {
            if !dir.is_absolute() {
                return wrong(key, "write an absolute path");
            }
        }
        Ok(config)
    }

    /// Where indications may be sent.
    pub(crate) fn destinations(&self) -> Destinations {
        // It was read when the configuration was checked.
        Destinations::parse(&self.management.indication_destinations).unwrap_or_default()
    }

    /// Reads and checks the description of every VM, in the order of the file names, and when each was written.
    pub(crate) fn load_vms(&self) -> Result<Vec<KnownMachine>, ConfigError> {
        let unreadable = |source| ConfigError::Read {
            path: self.vm_dir.clone(),
            source,
        };
        let mut files = Vec::new();
        for entry in self.vm_dir.read_dir_utf8().map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.into_path();
            let hidden = path.file_name().is_some_and(|n| n.starts_with('.'));
            if path.extension() == Some("toml") && !hidden {
                files.push(path);
            }
        }
        files.sort();
        let mut vms: Vec<(Utf8PathBuf, VmSpec)> = Vec::new();
        for path in files {
            let spec: VmSpec = read_toml(&path)?;
            spec.validate().map_err(|source| ConfigError::Vm {
                path: path.clone(),
                source,
            })?;
            let clash = vms.iter().find_map(|(first, other)| {
                let what = if other.uuid == spec.uuid {
                    format!("the UUID {}", spec.uuid)
                } else if other.name == spec.name {
                    format!("the name \"{}\"", spec.name)
                } else {
                    return None;
                };
                Some((first.clone(), what))
            });
            if let Some((first, what)) = clash {
                return Err(ConfigError::Twice {
                    first,
                    second: path,
                    what,
                });
            }
            vms.push((path, spec));
        }
        let described = |(path, spec): (Utf8PathBuf, VmSpec)| {
            let described = written(&path).map_err(|source| ConfigError::Read { path, source })?;
            Ok(KnownMachine {
                spec,
                described: Some(described),
            })
        };
        vms.into_iter().map(described).collect()
    }
}

/// When a file was written, first and last. A file system that does not know the first gives the last for both.
fn written(path: &Utf8Path) -> std::io::Result<Described> {
    let meta = std::fs::metadata(path)?;
    let at = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    };
    let changed = at(meta.modified()?);
    Ok(Described {
        created: meta.created().map_or(changed, at),
        changed,
    })
}

fn read_toml<T: DeserializeOwned>(path: &Utf8Path) -> Result<T, ConfigError> {
    let unreadable = |source| ConfigError::Read {
        path: path.into(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // Programs and disks that the daemon opens are named in it.
    if standing(&file.metadata().map_err(unreadable)?).every_user_writes() {
        return Err(ConfigError::Open { path: path.into() });
    }
    let text = std::io::read_to_string(file).map_err(unreadable)?;
    toml::from_str(&text).map_err(|e| {
        let before = text.get(..e.span().map_or(0, |s| s.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let written = text.lines().nth(line - 1).unwrap_or_default();
        let key = written
            .split_once('=')
            .map(|(k, _)| format!(", key \"{}\"", k.trim()))
            .unwrap_or_default();
        ConfigError::Parse {
            path: path.into(),
            line,
            key,
            detail: e.message().to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lifeboat.toml");
    const VM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vm-example.toml");

    fn dir_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    /// The sample with every optional key switched on, at its default.
    fn uncommented(text: &str) -> String {
        let switched_on = |line: &str| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let key = bare
                .split_once(" = ")
                .is_some_and(|(k, _)| k.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            if key || bare.starts_with('[') {
                bare.to_owned()
            } else {
                line.to_owned()
            }
        };
        text.lines().map(switched_on).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_sample_is_right_and_shows_the_defaults() {
        let plain = Config::load(SAMPLE.into()).unwrap();
        assert_eq!(
            (plain.host.as_str(), plain.reserve_mib, plain.admin_gid),
            ("alpha", 1024, None)
        );
        let (_dir, path) = dir_with(&[("l.toml", &uncommented(&std::fs::read_to_string(SAMPLE).unwrap()))]);
        let mut full = Config::load(&path.join("l.toml")).unwrap();
        let m = &mut full.management;
        assert_eq!(
            (m.wsman.take().unwrap().port(), m.cimxml.take().unwrap().port()),
            (5986, 5989)
        );
        assert_eq!(
            (m.cert.take(), m.key.take(), m.client_ca.take()),
            (
                Some(full.tls.cert.clone()),
                Some(full.tls.key.clone()),
                Some(full.tls.ca.clone())
            )
        );
        assert_eq!(
            (full.tls.revoked.take(), full.tls.next_certificate.take()),
            (
                Some("/etc/lifeboat/revoked".into()),
                Some("/etc/lifeboat/tls/next.crt".into())
            )
        );
        let encryption = full.encryption.take().unwrap();
        assert_eq!(
            (encryption.key_file, encryption.key_command),
            (Some("/etc/lifeboat/encryption.key".into()), None)
        );
        assert_eq!(
            (full.admin_gid.take(), full.peer.advertise.take()),
            (Some(990), Some("alpha.example.org:8443".to_owned())),
            "every optional key was switched on"
        );
        assert_eq!(format!("{plain:?}"), format!("{full:?}"));
    }

    #[test]
    fn a_file_that_every_user_can_write_to_is_not_read() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, path) = dir_with(&[
            ("l.toml", &std::fs::read_to_string(SAMPLE).unwrap()),
            ("web.toml", &std::fs::read_to_string(VM).unwrap()),
        ]);
        let open = |name: &str, mode| {
            std::fs::set_permissions(path.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        open("l.toml", 0o666);
        let error = Config::load(&path.join("l.toml")).unwrap_err().to_string();
        assert!(error.contains("chmod o-w"), "{error}");
        open("l.toml", 0o644);
        let mut config = Config::load(&path.join("l.toml")).unwrap();
        std::fs::remove_file(path.join("l.toml")).unwrap();
        config.vm_dir = path.clone();
        assert_eq!(config.load_vms().unwrap().len(), 1);
        open("web.toml", 0o602);
        assert!(matches!(config.load_vms(), Err(ConfigError::Open { .. })));
    }

    #[test]
    fn the_sample_vm_is_right() {
        let (_dir, path) = dir_with(&[
            ("web.toml", &std::fs::read_to_string(VM).unwrap()),
            (".x.toml", "?"),
            ("y.bak", "?"),
        ]);
        let config = Config {
            vm_dir: path,
            ..Config::load(SAMPLE.into()).unwrap()
        };
        let vms = config.load_vms().unwrap();
        assert_eq!(
            vms.iter().map(|m| m.spec.name.as_str()).collect::<Vec<_>>(),
            ["web"]
        );
        let written = vms[0].described.unwrap();
        assert_eq!(vms[0].spec.disks.len(), 2);
        assert!(written.created.0 > 0 && written.changed >= written.created);
    }

    /// Each edit of the sample is refused with words that hold these.
    fn mistakes(table: &[(&str, &str, String)]) {
        let sample = std::fs::read_to_string(SAMPLE).unwrap();
        for (from, to, want) in table {
            assert!(sample.contains(from), "{from}");
            let (_dir, path) = dir_with(&[("l.toml", &sample.replacen(from, to, 1))]);
            let error = Config::load(&path.join("l.toml")).unwrap_err().to_string();
            assert!(error.contains(want), "{error}\nshould contain {want}");
        }
    }

    #[test]
    fn mistakes_about_management_are_named() {
        let table = [
            (
                "[management]\nwsman = \"0.0.0.0:0\"",
                "key \"management.wsman\": name a port",
            ),
            (
                "[management]\ncimxml = \"0.0.0.0:5989\"\nplain = true",
                "key \"management.cimxml\": management.plain is only for loopback",
            ),
            (
                "[management]\ncert = \"/c\"",
                "key \"management.cert\": name both",
            ),
            (
                "[management]\nusers = \"u.toml\"",
                "key \"management.users\": write an absolute path",
            ),
            (
                "[management]\nindication_destinations = [\"10.0.0.0/8\", \"127.0.0.1\"]",
                "key \"management.indication_destinations\": \"127.0.0.1\" is a loopback address",
            ),
            (
                "[management]\nindication_destinations = [\"https://nms\"]",
                "key \"management.indication_destinations\": \"https://nms\" is no host name",
            ),
            (
                "[media]\ndirectories = [\"media\"]\n[management]",
                "key \"media.directories\": write absolute paths",
            ),
            (
                "[media]\ndirectories = [\"/media/../etc\"]\n[management]",
                "key \"media.directories\": write absolute paths without ..",
            ),
            (
                "[media]\ndirectories = [\"//\"]\n[management]",
                "key \"media.directories\": \"/\" would be everything",
            ),
        ];
        mistakes(&table.map(|(to, want)| ("# [management]", to, want.into())));
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_key() {
        let sample = std::fs::read_to_string(SAMPLE).unwrap();
        let line = |needle: &str| sample.lines().position(|l| l.starts_with(needle)).unwrap() + 1;
        let host = line("host");
        let table = [
            (
                "host = \"alpha\"",
                "hots = \"alpha\"",
                format!("l.toml, line {host}, key \"hots\": unknown field `hots`"),
            ),
            (
                "host = \"alpha\"",
                "host = 7",
                format!("l.toml, line {host}, key \"host\": invalid type"),
            ),
            (
                "host = \"alpha\"",
                "host = \"a b\"",
                "l.toml, key \"host\": use letters".into(),
            ),
            (
                "host = \"alpha\"",
                "host = \"alpha",
                format!("l.toml, line {host}, key \"host\": "),
            ),
            ("host = \"alpha\"", "", "missing field `host`".into()),
            (
                "0.0.0.0:8443",
                "0.0.0.0",
                format!("line {}, key \"listen\"", line("listen")),
            ),
            ("0.0.0.0:8443", "0.0.0.0:0", "key \"listen\": name a port".into()),
            (
                "\"/run/lifeboat\"",
                "\"run\"",
                "key \"run_dir\": write an absolute path".into(),
            ),
            (
                "# [peer]",
                "[peer]\nadvertise = \"alpha.example.org\"",
                "key \"peer.advertise\": write HOST:PORT".into(),
            ),
            ("ca = ", "cа = ", "l.toml, line ".into()),
            (
                "[tls]",
                "[tls]\nrevoked = \"revoked\"",
                "key \"tls.revoked\": write an absolute path".into(),
            ),
            ("[tls]", "[tsl]", "unknown field `tsl`".into()),
            (
                "# [log]",
                "[log]\nlevel = \"in,fo=loud\"",
                "key \"log.level\": use".into(),
            ),
        ];
        mistakes(&table);
        let missing = Config::load("/nowhere/l.toml".into()).unwrap_err().to_string();
        assert!(missing.starts_with("/nowhere/l.toml: No such file"), "{missing}");
    }

    #[test]
    fn mistakes_in_vm_files_are_named() {
        let vm = std::fs::read_to_string(VM).unwrap();
        let other = vm.replace("f0001", "f0002");
        let renamed = vm.replace("\"web\"", "\"db\"");
        let table = [
            (
                vm.replace("/srv/vms/web/sys", "sys"),
                "a.toml: disk \"sys\": path \"sys.qcow2\" must be absolute",
            ),
            (
                vm.replace("cpus = 2", "cpus = 0"),
                "a.toml: cpus = 0 is out of range",
            ),
            (
                vm.replace("cpus = 2", "cpu_count = 2"),
                "key \"cpu_count\": unknown field",
            ),
            (
                vm.replace("id = \"sys\"", "id = \"SYS\""),
                "key \"id\": \"SYS\" is not a disk id",
            ),
            (vm.replace("6f3b", "zzzz"), "key \"uuid\""),
            (other, "a.toml and "),
            (renamed, "both describe a VM with the UUID 6f3b2f2e"),
        ];
        for (text, want) in table {
            let (_dir, path) = dir_with(&[("a.toml", &text), ("b.toml", &vm)]);
            let config = Config {
                vm_dir: path,
                ..Config::load(SAMPLE.into()).unwrap()
            };
            let error = config.load_vms().unwrap_err().to_string();
            assert!(error.contains(want), "{error}\nshould contain {want}");
        }
    }
}
