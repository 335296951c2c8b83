//! The world as a test drives it: hosts with their daemons, a VM with a writing guest, and everything that can go
//! wrong. It restarts daemons that died. What it knows of right and wrong is in `oracle`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lifeboat_engine::action::{Action, Answer, Management, Refusal, VmRef, VmView};
use lifeboat_engine::by::By;
use lifeboat_engine::ports::Clock;
use lifeboat_engine::ports::hypervisor::{PowerChange, PowerState, Stall};
use lifeboat_engine::ports::hypervisors::OneHypervisor;
use lifeboat_engine::query::{Query, Unexpected};
use lifeboat_engine::records::{Job, Relationship};
use lifeboat_engine::{Engine, EngineConfig, Ports};
use lifeboat_model::{
    AuthorizationEntry, DiskFormat, DiskId, DiskSpec, Firmware, Hardware, OwnHardware, ReplicationSettings,
    VmId, VmSpec,
};
use uuid::Uuid;

use crate::disk::{BLOCK, Content, Image};
use crate::gate::Gate;
use crate::hosts::{A, B, TWO_HOSTS};
use crate::hypervisor::{Ending, end};
use crate::port::Port;
use crate::state::{Shared, State, process};

/// The VM of the world.
pub const VM: VmId = VmId(Uuid::from_u128(0x6f3b_2f2e_3a63_4a0e_9a53_0d9f_5f6f_0001));
/// Bytes of its first disk: two segments of the initial copy.
pub const SYS_BYTES: u64 = 320 << 20;
/// Bytes of its second disk.
pub const DATA_BYTES: u64 = 16 << 20;
/// Blocks of each disk that the guest writes to; few, so that writes meet.
const HOT: u64 = 120;

/// Hosts `a`, `b` and so on: `a` has the VM, and all take replicas.
pub struct World {
    /// What everything shares.
    pub shared: Arc<Shared>,
    /// Longest sequence seen durable, by host and generation.
    pub(crate) high: BTreeMap<(usize, u128), u64>,
}

impl Drop for World {
    /// The daemons have what is shared, and that has the daemons, and asks them about keys: neither would ever go, and a long run
    /// of histories would take gigabytes.
    fn drop(&mut self) {
        let shared = &self.shared;
        let engines = shared.engines.lock();
        engines.unwrap_or_else(PoisonError::into_inner).clear();
        let judges = shared.judges.lock();
        judges.unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn disk(id: &str) -> DiskSpec {
    DiskSpec {
        id: DiskId::try_from(id.to_owned()).expect("a plain name is a disk id"),
        path: format!("/vm/{id}.qcow2"),
        format: DiskFormat::Qcow2,
        bus: lifeboat_model::vm::DiskBus::Virtio,
        allow: Default::default(),
    }
}

/// The VM's description.
fn spec() -> VmSpec {
    VmSpec {
        name: "web".into(),
        uuid: VM,
        memory_mib: 256,
        cpus: 1,
        disks: vec![disk("sys"), disk("data")],
        nics: Vec::new(),
        guest_agent: true,
        hardware: Hardware::Own(OwnHardware {
            machine: "q35".into(),
            cpu: "max".into(),
            firmware: Firmware::Bios,
            iothreads: false,
        }),
    }
}

/// Who asks for everything.
fn by() -> By {
    By::process(0, None)
}

impl World {
    /// A world of two hosts in which nothing is replicated yet; the VM runs on host `a`.
    pub async fn new(seed: u64) -> Self {
        Self::with(seed, TWO_HOSTS, SYS_BYTES).await
    }

    /// The same with these hosts, at most four, and a first disk of this size.
    pub async fn with(seed: u64, hosts: &[&str], sys_bytes: u64) -> Self {
        let shared = Arc::new(Shared::new(seed, hosts));
        {
            let mut s = shared.state();
            for (path, size) in [("/vm/sys.qcow2", sys_bytes), ("/vm/data.qcow2", DATA_BYTES)] {
                s.hosts[A].images.insert(path.into(), Image::new(size));
            }
            s.hosts[A].local = vec![spec()];
            let p = process(&mut s, A, VM);
            (p.power, p.run) = (PowerState::Running, 1);
            p.images = vec!["/vm/sys.qcow2".into(), "/vm/data.qcow2".into()];
            for host in &mut s.hosts {
                host.catalog.server.enabled = true;
                let others = hosts.iter().filter(|n| **n != host.name);
                host.catalog.entries = others
                    .map(|name| AuthorizationEntry {
                        primary: (*name).to_owned(),
                        storage_location: "/replicas".into(),
                        trust_group: "t".into(),
                        allow_start: true,
                        keep_at_least_s: 0,
                        locked_until: None,
                        quota: Default::default(),
                    })
                    .collect();
            }
        }
        let world = Self {
            shared,
            high: BTreeMap::new(),
        };
        world.write(40);
        for host in 0..hosts.len() {
            world.boot(host).await;
        }
        world
    }

    /// Replication as the tests want it: every 10 seconds, a point every 30, three more kept, any point for two minutes.
    #[must_use]
    pub fn settings() -> ReplicationSettings {
        ReplicationSettings {
            peer: "b:7000".into(),
            interval_s: 10,
            history: 3,
            point_spacing_s: 30,
            any_point_window_s: 120,
            disks: Vec::new(),
            compression: true,
            application_h: 0,
            auto_resync: None,
            bandwidth: lifeboat_model::Bandwidth::default(),
        }
    }

    /// How a person names the VM.
    #[must_use]
    pub fn vm() -> VmRef {
        VmRef::Text("web".into())
    }

    /// The counter of a host's port calls.
    #[must_use]
    pub fn gate(&self, host: usize) -> &Gate {
        &self.shared.gates[host]
    }

    /// The clock of a host, as its daemon has it.
    #[must_use]
    pub fn clock(&self, host: usize) -> Arc<dyn Clock> {
        Arc::new(Port {
            shared: self.shared.clone(),
            host,
        })
    }

    /// Number of hosts.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.shared.gates.len()
    }

    /// The last things that happened.
    #[must_use]
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let s = self.shared.state();
        let from = s.recent.len().saturating_sub(lines);
        s.recent.iter().skip(from).cloned().collect()
    }

    /// The engine of a host; `None` while its daemon is down.
    #[must_use]
    pub fn engine(&self, host: usize) -> Option<Arc<Engine>> {
        self.shared.engines.lock().unwrap_or_else(PoisonError::into_inner)[host].clone()
    }

    fn crashed(&self) -> Vec<usize> {
        let mut all = self
            .shared
            .crashing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *all).into_iter().collect()
    }

    /// Starts a daemon; one that cannot start, or dies in it, is started again.
    pub async fn boot(&self, host: usize) {
        loop {
            let port = Arc::new(Port {
                shared: self.shared.clone(),
                host,
            });
            let ports = Ports {
                hypervisors: Arc::new(OneHypervisor(port.clone())),
                stores: port.clone(),
                catalog: port.clone(),
                link: port.clone(),
                spool: port.clone(),
                media: port.clone(),
                environment: port.clone(),
                clock: port.clone(),
                entropy: port,
            };
            let name = self.shared.state().hosts[host].name.clone();
            let mut config = EngineConfig::new(name.clone(), format!("{name}:7000"), "0.0.0");
            config.four_eyes = self.shared.state().hosts[host].four_eyes;
            let started = tokio::select! {
                biased;
                started = Engine::start(ports, config) => started.ok(),
                () = self.shared.crash.notified() => None,
            };
            if let Some(engine) = started {
                self.shared.engines.lock().unwrap_or_else(PoisonError::into_inner)[host] = Some(engine);
                return;
            }
            // Only this host may be down while it starts; another one that died waits for its turn.
            let others: Vec<usize> = self.crashed().into_iter().filter(|h| *h != host).collect();
            for other in others {
                Box::pin(self.restart(other)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends a daemon as `kill -9` does and starts it again.
    pub async fn restart(&self, host: usize) {
        self.stop(host).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.boot(host).await;
    }

    /// Ends a daemon as `kill -9` does; [`Self::boot`] starts it again.
    pub async fn stop(&self, host: usize) {
        self.trouble(format!("daemon {host} dies"));
        let engine = self.shared.engines.lock().unwrap_or_else(PoisonError::into_inner)[host].take();
        let tasks = std::mem::take(
            &mut self
                .shared
                .answering
                .lock()
                .unwrap_or_else(PoisonError::into_inner)[host],
        );
        for task in tasks {
            task.abort();
        }
        if let Some(engine) = engine {
            engine.stop().await;
        }
        for replica in self.shared.state().hosts[host].replicas.values_mut() {
            (replica.open, replica.keep_since) = (false, Vec::new());
            replica.pins.clear();
        }
        self.shared.state().hosts[host].stuck_since = None;
    }

    /// Waits for something while daemons that die are started again. `None`: the daemon of `host` died in it.
    async fn while_living<T>(&self, host: Option<usize>, what: impl Future<Output = T>) -> Option<T> {
        futures_util::pin_mut!(what);
        loop {
            tokio::select! {
                biased;
                () = self.shared.crash.notified() => {
                    let dead = self.crashed();
                    for h in &dead {
                        self.restart(*h).await;
                    }
                    if host.is_some_and(|h| dead.contains(&h)) {
                        return None;
                    }
                }
                done = &mut what => return Some(done),
            }
        }
    }

    /// Ends the daemons of the first two hosts at once and starts them again, one after the other.
    pub async fn restart_both(&self) {
        self.stop(B).await;
        self.restart(A).await;
        self.boot(B).await;
    }

    /// Lets a little virtual time pass.
    pub async fn pause(&self, milliseconds: u64) {
        self.while_living(None, tokio::time::sleep(Duration::from_millis(milliseconds)))
            .await;
    }

    /// Lets virtual time pass.
    pub async fn run(&self, seconds: u64) {
        self.while_living(None, tokio::time::sleep(Duration::from_secs(seconds)))
            .await;
    }

    /// Asks a host for something. `None`: its daemon died before it answered.
    pub async fn act(&self, host: usize, action: Action) -> Option<Result<Answer, Refusal>> {
        self.act_by(host, Some(by()), action).await
    }

    /// The same by another caller.
    pub async fn act_by(
        &self,
        host: usize,
        by: Option<By>,
        action: Action,
    ) -> Option<Result<Answer, Refusal>> {
        self.shared.state().note(format!("act {host} {action:?}"));
        let engine = self.engine(host)?;
        let answer = self.while_living(Some(host), engine.perform(by, action)).await;
        self.shared.state().note(format!("answer {answer:?}"));
        answer
    }

    /// Asks until there is an answer and it is not a passing failure.
    pub async fn insist(&self, host: usize, action: Action) -> Result<Answer, Refusal> {
        let mut last = None;
        for _ in 0..20 {
            match self.act(host, action.clone()).await {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(e)) => last = Some(e),
                None => {}
            }
            self.run(5).await;
        }
        Err(last.unwrap_or_else(|| Refusal::bare(lifeboat_model::api::ReturnCode::Failed, "no answer")))
    }

    /// Asks a host a question. `None`: its daemon died before it answered.
    pub async fn query<T>(&self, host: usize, query: Query<T>) -> Option<Result<T, Refusal>> {
        let answer = self.act(host, query.action().clone()).await?;
        Some(answer.and_then(|answer| query.read(answer).map_err(Unexpected::refusal)))
    }

    /// Asks a question until there is an answer and it is not a passing failure.
    pub async fn insist_on<T>(&self, host: usize, query: Query<T>) -> Result<T, Refusal> {
        let answer = self.insist(host, query.action().clone()).await?;
        query.read(answer).map_err(Unexpected::refusal)
    }

    /// How a host sees the VM.
    pub async fn view(&self, host: usize) -> Option<VmView> {
        self.query(host, Query::show_vm(Self::vm())).await?.ok()
    }

    /// The relationship as a host's catalog has it.
    #[must_use]
    pub fn recorded(&self, host: usize) -> Option<Relationship> {
        let s = self.shared.state();
        let all = &s.hosts[host].catalog.relationships;
        all.iter().find(|r| r.vm == VM).cloned()
    }

    /// The jobs as a host's catalog has them.
    #[must_use]
    pub fn jobs(&self, host: usize) -> Vec<Job> {
        self.shared.state().hosts[host].catalog.jobs.clone()
    }

    /// Every guest that runs writes `n` times, wherever it is.
    pub fn write(&self, n: u64) {
        let mut s = self.shared.state();
        for host in 0..s.hosts.len() {
            let running = s.hosts[host].processes.values();
            let running = running.filter(|p| p.power == PowerState::Running);
            let images: Vec<Vec<String>> = running.map(|p| p.images.clone()).collect();
            for images in images {
                (0..n).for_each(|_| write_once(&mut s, host, &images));
            }
        }
    }

    /// The VM's process on a host is killed.
    pub fn kill_vm(&self, host: usize) {
        let mut s = self.shared.state();
        s.note(format!("kill the VM on {host}"));
        end(&mut s, host, VM, Ending::Killed);
    }

    /// The guest on a host shuts itself down.
    pub fn guest_off(&self, host: usize) {
        let mut s = self.shared.state();
        s.note(format!("the guest on {host} shuts down"));
        end(&mut s, host, VM, Ending::ByGuest);
    }

    /// The guest on a host is stopped by this, again and again.
    pub fn stall_guest(&self, host: usize, stall: Stall) {
        let mut s = self.shared.state();
        let p = process(&mut s, host, VM);
        (p.power, p.stall) = (PowerState::Stalled, Some(stall));
        s.hosts[host].tell(VM, PowerChange::Halted);
    }

    /// The hypervisor of a host tells of a VM, whatever that does.
    pub fn tell_of(&self, host: usize, vm: VmId, change: PowerChange) {
        self.shared.state().hosts[host].tell(vm, change);
    }

    /// Sets a host's wall clock: it is off by this many milliseconds from now on.
    pub fn set_clock(&self, host: usize, off_ms: i64) {
        let mut s = self.shared.state();
        s.note(format!("the clock of {host} is off by {off_ms} ms"));
        s.clocks_set = true;
        if let Some(host) = s.hosts.get_mut(host) {
            host.clock_off_ms = off_ms;
        }
    }

    /// A host is started again, with its daemon: no counter goes on. Its VMs' processes are left out of this.
    pub async fn reboot(&self, host: usize) {
        self.stop(host).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = self.shared.now().0;
        if let Some(host) = self.shared.state().hosts.get_mut(host) {
            (host.boot, host.booted_at) = (host.boot + 1, now);
        }
        self.boot(host).await;
    }

    /// Cuts the link between the first two hosts, or heals it.
    pub fn cut(&self, cut: bool) {
        self.cut_between(A, B, cut);
    }

    /// Makes the link between the first two hosts take everything and answer nothing, or heals it.
    pub fn mute(&self, mute: bool) {
        self.trouble(format!("mute {mute}"));
        let mut mutes = self.shared.mutes.lock().unwrap_or_else(PoisonError::into_inner);
        if mute {
            mutes.insert((A, B));
        } else {
            mutes.remove(&(A, B));
        }
    }

    /// The disk of a host's replicas stops answering, or goes on.
    pub fn hang_store(&self, host: usize, hangs: bool) {
        self.trouble(format!("the disk of {host} hangs: {hangs}"));
        let mut s = self.shared.state();
        (s.hosts[host].store_hangs, s.hosts[host].stuck_since) = (hangs, None);
    }

    /// A daemon is frozen, or goes on.
    pub fn freeze(&self, host: usize, frozen: bool) {
        self.trouble(format!("daemon {host} frozen: {frozen}"));
        self.shared.state().hosts[host].frozen = frozen;
    }

    fn trouble(&self, what: String) {
        let mut s = self.shared.state();
        s.note(what);
        s.trouble_at = self.shared.now().0;
    }

    /// Cuts the link between two hosts, or heals it.
    pub fn cut_between(&self, one: usize, other: usize, cut: bool) {
        let pair = (one.min(other), one.max(other));
        self.trouble(format!("cut {pair:?} {cut}"));
        self.shared.cuts.send_modify(|c| {
            if cut {
                c.insert(pair);
            } else {
                c.remove(&pair);
            }
        });
    }

    /// Whether the VM's process exists on a host.
    #[must_use]
    pub fn runs(&self, host: usize) -> bool {
        process(&mut self.shared.state(), host, VM).power != PowerState::Off
    }

    /// What the VM's disks hold now on a host.
    #[must_use]
    pub fn disks_now(&self, host: usize) -> Vec<Content> {
        let mut s = self.shared.state();
        let keys = process(&mut s, host, VM).images.clone();
        let content = |k: &String| s.hosts[host].images.get(k).map(|i| i.content.clone());
        keys.iter().filter_map(content).collect()
    }
}

fn write_once(s: &mut State, host: usize, images: &[String]) {
    s.writes += 1;
    let number = if s.rng.one_in(8) { 0 } else { s.writes };
    let which = s.rng.below(images.len() as u64);
    let Some(key) = images.get(usize::try_from(which).unwrap_or(0)) else {
        return;
    };
    let far = s.rng.one_in(10);
    let Some(blocks) = s.hosts[host].images.get(key).map(|i| i.size / BLOCK) else {
        return;
    };
    let block = if far {
        s.rng.below(blocks)
    } else {
        s.rng.below(HOT)
    };
    if let Some(image) = s.hosts[host].images.get_mut(key) {
        image.write(block, number);
    }
}
