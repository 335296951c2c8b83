//! Wires a host together and runs it: the one place where adapters meet the engine. Decisions are the engine's.

use crate::config::{Accel, Config};
use crate::environment::HostEnvironment;
use crate::{encryption, hardware, private};
use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_catalog::SqliteCatalog;
use lifeboat_engine::ports::catalog::Catalog;
use lifeboat_engine::ports::hypervisor::KnownMachine;
use lifeboat_engine::ports::hypervisors::OneHypervisor;
use lifeboat_engine::ports::store::OneStore;
use lifeboat_engine::ports::{Clock, Entropy};
use lifeboat_engine::sealing::{ExportKey, KEY};
use lifeboat_engine::{Engine, EngineConfig, Ports};
use lifeboat_kernel::AtRest;
use lifeboat_link::{Link, Timing};
use lifeboat_model::{Reading, Timestamp};
use lifeboat_qemu::{Qemu, QemuConfig};
use lifeboat_rest::{Admission, Server};
use lifeboat_store::{FileMedia, FileSpool, QcowStore};
use lifeboat_tls::certificate::describe;
use lifeboat_tls::{CertInfo, CertificateFiles, Credentials, Purpose, RevocationList};
use lifeboat_wbem::cim::{Certificates, HostFacts, ObjectManager};
use lifeboat_wbem::{Limits, Remote, RemoteConfig, Transport};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

/// How long connections may take to end when the daemon stops.
const STOP_TIME: Duration = Duration::from_secs(5);

struct SystemClock {
    /// Which start of the host this is; of this program, where the kernel does not say.
    boot: Uuid,
}

impl SystemClock {
    fn new() -> Self {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let id = id.ok().and_then(|text| Uuid::parse_str(text.trim()).ok());
        Self {
            boot: id.unwrap_or_else(Uuid::new_v4),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A clock before 1970 is a clock that was never set.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn reading(&self) -> Reading {
        // Goes on while the host sleeps, unlike the monotonic clock.
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let ms = up
            .tv_sec
            .saturating_mul(1000)
            .saturating_add(up.tv_nsec / 1_000_000);
        Reading {
            boot: self.boot,
            up_ms: u64::try_from(ms).unwrap_or_default(),
            wall: self.now(),
        }
    }

    fn local_minute(&self) -> u16 {
        // Asked again each time: the zone may be changed and twice a year changes by itself.
        let now = jiff::Zoned::now();
        u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs())
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }

    fn key(&self) -> std::io::Result<ExportKey> {
        let mut key = [0; KEY];
        // The kernel gives up to 256 bytes at once and waits only until it has its first seed.
        match getrandom(&mut key, GetRandomFlags::empty())? {
            KEY => Ok(ExportKey::new(key)),
            n => Err(std::io::Error::other(format!(
                "the kernel gave {n} of {KEY} random bytes"
            ))),
        }
    }
}

/// Takes as many file descriptors as this process may have: each VM, connection and image costs some, and what cannot be
/// opened cannot be looked at.
fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit of file descriptors is not raised");
    }
}

/// Runs the host until it is asked to stop. Guests are not touched by its end.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    raise_descriptors();
    // Before anything is read or made: in a locked directory everything seems to be gone.
    let at_rest = encryption::begin(&config).await?;
    let vms = config.load_vms()?;
    // Replica disks, logs and state hold guests' data; no other user of the host has any business there.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    for dir in [&config.state_dir, &config.run_dir, &config.spool_dir] {
        private::make(dir)?;
    }
    // First of all: two daemons on one state would overwrite each other's records.
    let admission = Admission::local(config.admin_gid);
    let api = Server::bind(&config.socket, admission)?;
    encryption::spool(&config, &at_rest)?;
    let catalog = SqliteCatalog::open(&config.state_dir.join("catalog.sqlite"))?;
    let specs: Vec<_> = vms.iter().map(|m| m.spec.clone()).collect();
    encryption::storage(&at_rest, &catalog.load().await?, &specs).await?;
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen for peers on {}", config.listen))?;
    let revoked = match &config.tls.revoked {
        Some(path) => RevocationList::load(path)?,
        None => RevocationList::none(),
    };
    let remote = if config.management.served() {
        Some(Remote::bind(&remote(&config, revoked.clone())).await?)
    } else {
        None
    };
    let facts = facts(&config);
    let credentials = Credentials::load(Purpose::Peers, &link_files(&config), revoked)?;
    let ports = ports(&config, vms, catalog, &credentials, (remote.as_ref(), at_rest))?;
    let clock = ports.clock.clone();
    let callback_address = callback_address(&config, &describe(&config.tls.cert)?);
    let settings = engine_config(&config, &callback_address);
    let engine = Engine::start(ports, settings).await?;

    let stop = CancellationToken::new();
    let mut peers = tokio::spawn(peers(listener, credentials, engine.clone(), stop.clone()));
    let mut api = tokio::spawn(api.serve(engine.clone(), stop.clone()));
    let mut remote = tokio::spawn(serve_remote(
        remote,
        ObjectManager::new(engine.clone(), facts, clock),
        stop.clone(),
    ));
    // Without systemd there is no listener, which is fine.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let watchdog = tokio::spawn(watchdog());
    info!(host = config.host, listen = %config.listen, reached_at = callback_address, socket = %config.socket, "serving");

    let ended = tokio::select! {
        signal = told_to_stop() => { info!(signal = signal?, "stopping"); None }
        r = &mut peers => Some(format!("the peer server ended: {r:?}")),
        r = &mut api => Some(format!("the management server ended: {r:?}")),
        r = &mut remote => Some(format!("the server of remote management ended: {r:?}")),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
    watchdog.abort();
    if ended.is_none() {
        let all = async { (peers.await, api.await, remote.await) };
        if tokio::time::timeout(STOP_TIME, all).await.is_err() {
            warn!("connections did not end in time");
        }
    }
    engine.stop().await;
    match ended {
        None => Ok(()),
        Some(why) => anyhow::bail!(why),
    }
}

fn link_files(config: &Config) -> CertificateFiles {
    CertificateFiles {
        ca: config.tls.ca.clone(),
        cert: config.tls.cert.clone(),
        key: config.tls.key.clone(),
    }
}

/// The adapters of this host.
fn ports(
    config: &Config,
    vms: Vec<KnownMachine>,
    catalog: SqliteCatalog,
    credentials: &Arc<Credentials>,
    (remote, at_rest): (Option<&Remote>, Arc<AtRest>),
) -> anyhow::Result<Ports> {
    let management = remote.and_then(Remote::certificates);
    Ok(Ports {
        hypervisors: Arc::new(OneHypervisor::new(Qemu::new(qemu(config)).with_machines(vms))),
        stores: Arc::new(OneStore::new(
            QcowStore::new(config.reserve_mib).with_encryption(at_rest.clone()),
        )),
        catalog: Arc::new(catalog),
        link: Arc::new(Link::with_credentials(credentials.clone(), Timing::default())),
        spool: Arc::new(FileSpool::new(
            &encryption::spool_dir(config),
            config.reserve_mib,
        )?),
        media: Arc::new(FileMedia),
        environment: Arc::new(HostEnvironment::new(
            config,
            credentials.clone(),
            management,
            at_rest,
        )),
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
    })
}

/// Answers peers until `stop`.
async fn peers(
    listener: tokio::net::TcpListener,
    credentials: Arc<Credentials>,
    engine: Arc<Engine>,
    stop: CancellationToken,
) {
    let limits = lifeboat_link::Limits::default();
    lifeboat_link::serve_with(limits, listener, credentials, engine, stop).await;
}

/// Serves management from other hosts where the configuration wants it, until `stop`.
async fn serve_remote(remote: Option<Remote>, manager: Arc<ObjectManager>, stop: CancellationToken) {
    let Some(remote) = remote else {
        return stop.cancelled().await;
    };
    let text = |address: Option<SocketAddr>| address.map_or_else(|| "-".to_owned(), |a| a.to_string());
    info!(
        wsman = text(remote.wsman_address()),
        cimxml = text(remote.cimxml_address()),
        "serving remote management"
    );
    remote.serve(manager, stop).await;
}

fn remote(config: &Config, revoked: Arc<RevocationList>) -> RemoteConfig {
    let (m, tls) = (&config.management, &config.tls);
    let or = |own: &Option<Utf8PathBuf>, other: &Utf8Path| own.clone().unwrap_or_else(|| other.to_owned());
    let files = CertificateFiles {
        cert: or(&m.cert, &tls.cert),
        key: or(&m.key, &tls.key),
        ca: or(&m.client_ca, &tls.ca),
    };
    RemoteConfig {
        wsman: m.wsman,
        cimxml: m.cimxml,
        users: m.users.clone(),
        transport: if m.plain {
            Transport::Plain
        } else {
            Transport::Tls(files)
        },
        destinations: config.destinations(),
        revoked,
        limits: Limits::default(),
    }
}

/// What CIM clients are shown of this host beside what the engine knows.
fn facts(config: &Config) -> HostFacts {
    HostFacts {
        name: config.host.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        certificates: Certificates::File(config.tls.cert.clone()),
        peer_port: config.listen.port(),
        job_retention: Duration::from_secs(config.job_retention_s),
        machine: hardware::read(),
        media_directories: config.media.directories.clone(),
    }
}

/// Where peers reach this host: as the configuration says; else where it listens, if that is one address and the
/// certificate has it; else by a name of the certificate, because under any other name its certificate is not accepted.
fn callback_address(config: &Config, own: &CertInfo) -> String {
    if let Some(advertise) = &config.peer.advertise {
        return advertise.clone();
    }
    if own.addresses.contains(&config.listen.ip()) {
        return config.listen.to_string();
    }
    let certified = |name: &&String| !name.starts_with('*');
    let own_name = own.names.iter().find(|n| n.eq_ignore_ascii_case(&config.host));
    let name = own_name.or_else(|| own.names.iter().find(certified));
    format!("{}:{}", name.unwrap_or(&config.host), config.listen.port())
}

/// What the engine is configured with, once.
fn engine_config(config: &Config, callback_address: &str) -> EngineConfig {
    let mut settings = EngineConfig::new(&config.host, callback_address, env!("CARGO_PKG_VERSION"));
    settings.vm_dir = config.vm_dir.to_string();
    settings.four_eyes = config.management.four_eyes;
    settings.job_retention = Duration::from_secs(config.job_retention_s);
    settings.scrub_bytes_per_s = config.scrub.rate_mib_s.saturating_mul(1 << 20);
    settings.scrub_interval = Duration::from_secs(config.scrub.interval_days.saturating_mul(86_400));
    settings
}

fn qemu(config: &Config) -> QemuConfig {
    QemuConfig {
        run_dir: config.run_dir.clone(),
        state_dir: config.state_dir.clone(),
        spool_dir: encryption::spool_dir(config),
        reserve_mib: config.reserve_mib,
        binary: Some(config.qemu.binary.clone()),
        accel: match config.qemu.accel {
            Accel::Auto => lifeboat_qemu::Accel::Auto,
            Accel::Kvm => lifeboat_qemu::Accel::Kvm,
            Accel::Tcg => lifeboat_qemu::Accel::Tcg,
        },
        guest_users: config.qemu.guest_users.0,
        guest_limits: config.qemu.guest_limits,
        firmware_dirs: lifeboat_qemu::FIRMWARE_DIRS.map(Into::into).into(),
    }
}

async fn told_to_stop() -> anyhow::Result<&'static str> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => Ok("SIGTERM"),
        _ = int.recv() => Ok("SIGINT"),
    }
}

/// Notifies systemd's watchdog that the runtime still turns, if it asks for that.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        tokio::time::sleep(limit / 2).await;
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_model::Fingerprint;

    use super::*;

    #[test]
    fn peers_are_told_an_address_that_the_certificate_has() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lifeboat.toml");
        let sample = Config::load(sample.into()).unwrap();
        let own = |names: &[&str], addresses: &[&str]| CertInfo {
            subject: String::new(),
            issuer: String::new(),
            names: names.iter().map(ToString::to_string).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            not_before: Timestamp(0),
            not_after: Timestamp(0),
            fingerprint: Fingerprint::new([0; 32]),
            key_fingerprint: Fingerprint::new([0; 32]),
            is_ca: false,
        };
        for (listen, names, addresses, want) in [
            (
                "0.0.0.0:8443",
                &["a.example.org", "alpha"][..],
                &["10.0.0.1"][..],
                "alpha:8443",
            ),
            (
                "[::]:8443",
                &["*.example.org", "a.example.org"],
                &[],
                "a.example.org:8443",
            ),
            (
                "10.0.0.1:8443",
                &["a.example.org"],
                &["10.0.0.1"],
                "10.0.0.1:8443",
            ),
            (
                "[fd00::1]:8443",
                &["a.example.org"],
                &["fd00::1"],
                "[fd00::1]:8443",
            ),
            ("10.0.0.1:8443", &["a.example.org"], &[], "a.example.org:8443"),
            ("10.0.0.1:8443", &["*.example.org"], &[], "alpha:8443"),
        ] {
            let config = Config {
                listen: listen.parse().unwrap(),
                ..sample.clone()
            };
            assert_eq!(
                callback_address(&config, &own(names, addresses)),
                want,
                "{listen}"
            );
        }
        let mut config = sample;
        config.peer.advertise = Some("gate.example.org:7000".into());
        assert_eq!(
            callback_address(&config, &own(&["alpha"], &[])),
            "gate.example.org:7000"
        );
    }
}
