//! What the world consists of: hosts with their images, processes, replicas and catalogs, and the truth about every
//! instant. Everything here survives a crash of a daemon unless it says otherwise.

use crate::disk::{Content, Image};
use crate::gate::Gate;
use crate::lies::Lies;
use crate::medium::Medium;
use crate::rng::Rng;
use crate::tell::Listeners;
use bytes::Bytes;
use lifeboat_deltalog::LogDisk;
use lifeboat_engine::Engine;
use lifeboat_engine::ports::catalog::CatalogImage;
use lifeboat_engine::ports::environment::Certificate;
use lifeboat_engine::ports::hypervisor::{GuestOs, PowerChange, PowerState, Role, Stall};
use lifeboat_engine::ports::link::KeyJudge;
use lifeboat_engine::ports::storage::StorageFault;
use lifeboat_engine::ports::store::{Abandoned, Divergence, Point, Quota, StoredLog, Target};
use lifeboat_engine::records::Event;
use lifeboat_model::{BranchId, Changed, PointId, Position, Timestamp, VmId, VmSpec};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// What all disks of a VM held at an instant, in the order of the capture.
#[derive(Clone, Debug)]
pub struct Truth {
    /// The instant, by the wall clock of the host that captured it.
    pub at: Timestamp,
    /// Content of each disk, in the order of the capture.
    pub disks: Vec<Content>,
}

/// A VM's process on a host.
#[derive(Clone, Debug)]
pub struct Process {
    /// What it does.
    pub power: PowerState,
    /// What stops its guest again as soon as it goes on, while it is stalled.
    pub stall: Option<Stall>,
    /// Keys of its images.
    pub images: Vec<String>,
    /// Counts starts, so that a source can tell that its process is gone.
    pub run: u64,
    /// When it was started last.
    pub began: tokio::time::Instant,
    /// Views that exist on it.
    pub views: BTreeSet<u64>,
    /// Sources of the powered-off VM that are open; they die with the daemon.
    pub held: u32,
    /// The machine it was started as; `None` for one that has run since before.
    pub spec: Option<VmSpec>,
    /// Files of the seed disk it was started with.
    pub seed: Vec<(String, String)>,
    /// Where its firmware keeps variables.
    pub vars: Option<String>,
}

/// A program that ran in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// On which host.
    pub host: usize,
    /// In which VM.
    pub vm: VmId,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// Changes of one log: disk, block, number.
pub(crate) type Changes = Vec<(usize, u64, u64)>;

/// A durable log.
#[derive(Clone, Debug)]
pub struct KeptLog {
    /// What the store says of it.
    pub log: StoredLog,
    /// What it changes.
    pub(crate) changes: Changes,
    /// The log itself.
    pub bytes: Bytes,
}

/// A rotten block.
#[derive(Clone, Debug)]
pub struct Rot {
    pub(crate) disk: usize,
    pub(crate) block: u64,
    /// What it held; 0: nothing.
    pub(crate) right: u64,
    /// What it holds.
    pub(crate) wrong: u64,
    /// When a scrub found it.
    pub(crate) found: Option<Timestamp>,
    pub(crate) hopeless: bool,
}

/// A replica as the store keeps it.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Directory on its host; the storage location is above it.
    pub dir: String,
    /// Disks in the order of the logs, by id and size.
    pub disks: Vec<LogDisk>,
    /// Position before the first instant.
    pub start: Position,
    /// Initial copy, per disk.
    pub bulk: Vec<u64>,
    /// Last durable position.
    pub durable: Position,
    /// Position of the head.
    pub applied: Position,
    /// What changed in the head since the newest point.
    pub unsealed: Changed,
    /// The head.
    pub head: Vec<Content>,
    /// Sealed points.
    pub points: Vec<(Point, Vec<Content>)>,
    /// Durable logs.
    pub logs: Vec<KeptLog>,
    /// Bytes of logs whose transfer was interrupted.
    pub parts: HashMap<Position, Vec<u8>>,
    /// Branches, with the point or cycle that they were made on.
    pub branches: BTreeMap<BranchId, (Target, Position)>,
    /// The promoted branch, and whether its layers are merged (by the VM's process, by the store).
    pub promoted: Option<(BranchId, bool, bool)>,
    /// The VM's own images that an adoption made the base, per disk.
    pub base_images: Vec<Option<String>>,
    /// The promoted branch that an adoption made the base.
    pub adopted_branch: Option<BranchId>,
    /// It was adopted, so that it has content before anything arrives.
    pub adopted: bool,
    /// Content at `start` when an adoption found points below it, and how many of those are left.
    pub root: Option<(Vec<Content>, usize)>,
    /// Where it may differ from a copy it once was equal to.
    pub divergence: Option<Divergence>,
    /// What an adoption must keep, and its content then.
    pub kept: Option<(Abandoned, Vec<Content>)>,
    /// Points that are being read; lost with the daemon.
    pub pins: BTreeMap<PointId, u32>,
    /// Logs after each of these positions are kept; lost with the daemon.
    pub keep_since: Vec<Position>,
    /// Firmware variables, and those of the branches.
    pub vars: Option<Bytes>,
    /// Firmware variables that branches have.
    pub branch_vars: BTreeMap<BranchId, Bytes>,
    /// Rotten blocks.
    pub rot: Vec<Rot>,
    /// When it was scrubbed.
    pub scrubbed: lifeboat_engine::ports::scrub::ScrubState,
    /// Known to the running daemon; lost with it.
    pub open: bool,
    /// What the store says of its files and disks.
    pub faults: Vec<StorageFault>,
    /// Points that have a damaged file; whatever is newer needs it.
    pub rotten: BTreeSet<PointId>,
}

/// One host.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fault that a test switches on by itself"
)]
pub struct HostState {
    /// Its name.
    pub name: String,
    /// Descriptions of its own VMs, which the daemon reads when it starts.
    pub local: Vec<VmSpec>,
    /// Image files.
    pub images: BTreeMap<String, Image>,
    /// VM processes; they outlive the daemon.
    pub processes: BTreeMap<VmId, Process>,
    /// Another way to write its name, such as an address; empty: none.
    pub address: String,
    /// Whether its certificate carries that address, too.
    pub address_certified: bool,
    /// VMs whose processes do not answer, ever.
    pub stuck: BTreeSet<VmId>,
    /// Its daemon takes calls of others and answers none.
    pub mute: bool,
    /// VMs whose processes this host cannot ask, and why: they go on with whatever they do.
    pub blind: BTreeMap<VmId, String>,
    /// VMs whose disks another program uses for a while, so that they cannot be captured, and which program that is.
    pub occupied: BTreeMap<VmId, String>,
    /// Machines of elsewhere that its hypervisor was told of: what each is, and on which images.
    pub machines: BTreeMap<VmId, (Role, Vec<String>)>,
    /// Its own VMs that cannot be started.
    pub held: BTreeSet<VmId>,
    /// What the hypervisor was told of machines, oldest first.
    pub orders: Vec<(VmId, Order)>,
    /// Why its hypervisor takes no machine of elsewhere; `None`: it does.
    pub takes_no_machines: Option<String>,
    /// Its hypervisor tells of its guests without being asked. Otherwise all of it is lost, as in all histories that do not say
    /// otherwise: each look that is caused by it is a step more.
    pub tells: bool,
    /// Who listens to that.
    pub(crate) listeners: Listeners,
    /// Most images that its hypervisor opens in a chain.
    pub max_images: Option<usize>,
    /// Replicas that its stores keep, by VM.
    pub replicas: BTreeMap<VmId, Replica>,
    /// Locations that have a store to themselves; all others have one together.
    pub stores: BTreeSet<String>,
    /// Which store was called for which VM: by the location that it has to itself.
    pub store_calls: BTreeSet<(Option<String>, VmId)>,
    /// What its catalog holds durably.
    pub catalog: CatalogImage,
    /// Events, oldest first.
    pub events: Vec<Event>,
    /// The storage of its VMs' images does not answer.
    pub images_hang: bool,
    /// Names that lead to an image file of another name.
    pub links: BTreeMap<String, String>,
    /// Directories that do not exist.
    pub not_there: BTreeSet<String>,
    /// Certificates that its connections depend on.
    pub certificates: Vec<Certificate>,
    /// Which of its keys it uses; every host has keys of its own.
    pub key: u8,
    /// Which of its keys is to follow.
    pub next_key: Option<u8>,
    /// An impostor answers at its address with a certificate of its name and another key.
    pub impostor: bool,
    /// No log can be applied: one is damaged on the disk.
    pub log_damaged: bool,
    /// What the owners of its replicas may take.
    pub quotas: BTreeMap<VmId, Quota>,
    /// The replica disk is full.
    pub store_full: bool,
    /// The disk of the replicas does not answer.
    pub store_hangs: bool,
    /// Since when a call waits for it.
    pub stuck_since: Option<tokio::time::Instant>,
    /// Applying a log takes this many milliseconds.
    pub slow_apply_ms: u64,
    /// The daemon is frozen: it does nothing and answers no call.
    pub frozen: bool,
    /// The spool is full.
    pub spool_full: bool,
    /// The catalog's disk is full.
    pub catalog_full: bool,
    /// What cannot be undone waits for a second person; read when the daemon starts.
    pub four_eyes: bool,
    /// What VMs of elsewhere would lack here.
    pub missing: Vec<String>,
    /// Firmware variables of VMs that have some.
    pub vars: BTreeMap<VmId, Bytes>,
    /// Calls of the store under way, by VM; lost with the daemon.
    pub busy: BTreeMap<VmId, Vec<&'static str>>,
    /// How far its wall clock is off, in milliseconds; below zero it is behind.
    pub clock_off_ms: i64,
    /// Which start of the host this is.
    pub boot: u128,
    /// The time of the world at that start, in milliseconds since 1970.
    pub booted_at: u64,
}

impl HostState {
    /// Something happened to a guest; the engine hears of it where the hypervisor tells.
    pub(crate) fn tell(&self, vm: VmId, change: PowerChange) {
        if self.tells {
            self.listeners.tell(vm, change);
        }
    }
}

/// What a hypervisor was told of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Of elsewhere.
    Define(Role),
    /// Of elsewhere, no longer there.
    Undefine,
    /// Not to be started.
    Hold,
    /// To be started as it was.
    Free,
}

/// The world's state.
#[derive(Debug)]
pub struct State {
    /// Everything random.
    pub rng: Rng,
    /// A clock was set: instants say nothing of when they were taken.
    pub clocks_set: bool,
    /// Hosts, by the number that tests use for them.
    pub hosts: Vec<HostState>,
    /// Every instant ever taken.
    pub truth: BTreeMap<(VmId, u128, u64), Truth>,
    /// Hash of every log that was ever durable somewhere.
    pub logs: BTreeMap<(VmId, u128, u64), [u8; 32]>,
    /// The agent in every guest; `None`: none answers.
    pub agent: Option<GuestOs>,
    /// No guest shuts down when it is asked to.
    pub stubborn: bool,
    /// A host that lies.
    pub lies: Option<Lies>,
    /// Bytes that each block which arrives counts for, and that no compression makes smaller; 0: blocks can be compressed.
    pub noise: u64,
    /// How often a reset button was pressed.
    pub resets: u64,
    /// Exit code of whatever is run in guests.
    pub exit_code: i64,
    /// What was run in guests.
    pub ran: Vec<Ran>,
    /// When something was last in the way of the hosts' talk: a cut, a lost answer, an injected fault, a dead daemon.
    pub trouble_at: u64,
    /// Starts of a VM whose twin was running on another host, which could have been asked.
    pub twins: Vec<String>,
    /// Blocks that arrived in resync fragments.
    pub sync_blocks: u64,
    /// Blocks that arrived in deltas.
    pub delta_blocks: u64,
    /// Number of the last guest write.
    pub writes: u64,
    /// Next id of a view.
    pub next_view: u64,
    /// Blocks that arrived by bulk copies.
    pub bulk_blocks: u64,
    /// Segments that arrived by bulk copies.
    pub bulk_segments: u64,
    /// Breaches of the ports' contracts, noticed while the engine ran.
    pub violations: Vec<String>,
    /// Hash of everything that happened.
    pub trace: u64,
    /// The last things that happened.
    pub recent: Vec<String>,
    /// Answers that get lost, by calling host.
    pub lose_replies: [u32; 4],
    /// Bytes after which the link is cut, by calling host.
    pub cut_after: [Option<u64>; 4],
    /// Longest delay of a port call in milliseconds.
    pub delay_ms: u64,
    /// Calls of ports that never return, by host and name.
    pub hangs: BTreeSet<(usize, &'static str)>,
    /// Directories on media, which every host sees.
    pub media: BTreeMap<String, Medium>,
    /// Nothing more fits on any medium.
    pub medium_full: bool,
}

impl State {
    /// Notes something in the trace.
    pub fn note(&mut self, what: String) {
        for byte in what.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.recent.len() >= 600 {
            self.recent.drain(..300);
        }
        self.recent.push(what);
    }

    /// Notes a breach of a contract.
    pub fn violation(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note(format!("VIOLATION {what}"));
        self.violations.push(what);
    }

    /// What the VM's disks held at a position.
    #[must_use]
    pub fn truth_at(&self, vm: VmId, at: Position) -> Option<&Truth> {
        self.truth.get(&(vm, at.generation().0.as_u128(), at.sequence()))
    }
}

/// What all ports share.
pub struct Shared {
    state: Mutex<State>,
    /// One per host.
    pub gates: Vec<Gate>,
    /// Who says whom a host may talk to, by host.
    pub judges: Mutex<Vec<Option<std::sync::Arc<dyn KeyJudge>>>>,
    /// Engines that answer, by host.
    pub engines: Mutex<Vec<Option<std::sync::Arc<Engine>>>>,
    /// Requests being answered, by host; they die with the daemon.
    pub answering: Mutex<Vec<Vec<AbortHandle>>>,
    /// Pairs of hosts between which nothing passes, lower index first.
    pub cuts: watch::Sender<BTreeSet<(usize, usize)>>,
    /// Pairs of hosts between which bytes are taken and never answered, lower index first.
    pub mutes: Mutex<BTreeSet<(usize, usize)>>,
    /// Hosts whose daemon is about to die.
    pub crashing: Mutex<BTreeSet<usize>>,
    /// Something was added to `crashing`.
    pub crash: Notify,
    /// Start of virtual time.
    pub began: tokio::time::Instant,
}

impl Shared {
    /// A world with these hosts.
    #[must_use]
    pub fn new(seed: u64, hosts: &[&str]) -> Self {
        let state = State {
            rng: Rng(seed),
            hosts: hosts
                .iter()
                .map(|name| HostState {
                    name: (*name).to_owned(),
                    boot: 1,
                    ..HostState::default()
                })
                .collect(),
            clocks_set: false,
            truth: BTreeMap::new(),
            logs: BTreeMap::new(),
            agent: Some(GuestOs::Linux),
            stubborn: false,
            lies: None,
            noise: 0,
            resets: 0,
            exit_code: 0,
            ran: Vec::new(),
            trouble_at: 0,
            twins: Vec::new(),
            sync_blocks: 0,
            delta_blocks: 0,
            writes: 0,
            next_view: 0,
            bulk_blocks: 0,
            bulk_segments: 0,
            violations: Vec::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            recent: Vec::new(),
            lose_replies: [0; 4],
            cut_after: [None; 4],
            delay_ms: 2,
            hangs: BTreeSet::new(),
            media: BTreeMap::new(),
            medium_full: false,
        };
        Self {
            state: Mutex::new(state),
            gates: hosts.iter().map(|_| Gate::default()).collect(),
            judges: Mutex::new(hosts.iter().map(|_| None).collect()),
            engines: Mutex::new(vec![None; hosts.len()]),
            answering: Mutex::new(vec![Vec::new(); hosts.len()]),
            cuts: watch::Sender::new(BTreeSet::new()),
            mutes: Mutex::default(),
            crashing: Mutex::default(),
            crash: Notify::new(),
            began: tokio::time::Instant::now(),
        }
    }

    /// The state; never held across an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Virtual wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp(1_800_000_000_000 + elapsed)
    }
}

/// A VM's process on a host; off where it has none.
pub(crate) fn process(s: &mut State, h: usize, vm: VmId) -> &mut Process {
    s.hosts[h].processes.entry(vm).or_insert(Process {
        power: PowerState::Off,
        stall: None,
        images: Vec::new(),
        run: 0,
        began: tokio::time::Instant::now(),
        views: BTreeSet::new(),
        held: 0,
        spec: None,
        seed: Vec::new(),
        vars: None,
    })
}

/// Whether an image is what a replica of this host stands on.
pub(crate) fn adopted(s: &State, h: usize, key: &String) -> bool {
    let mut replicas = s.hosts[h].replicas.values();
    replicas.any(|r| r.base_images.iter().flatten().any(|k| k == key))
}
