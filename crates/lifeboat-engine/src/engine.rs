//! The engine of a host: finds the actor an action or a peer's call is meant for, and answers what is about the host
//! itself. It holds no relationship; the actors do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{
    AuthorizationEntry, JobState, JobType, Reading, ReplicationMode as Mode, ReplicationState as State, VmId,
    VmSpec,
};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use uuid::Uuid;

use crate::action::{Action, Answer, Management, Refusal};
use crate::actor::{Actor, Message, chain, failed};
use crate::aging::Stamp;
use crate::by::{self, By};
use crate::clock::ClockWatch;
use crate::copy::Tools;
use crate::jobs::Jobs;
use crate::observe::Observer;
use crate::operations::link_refusal;
use crate::pins::Pins;
use crate::ports::catalog::{Catalog, CatalogError};
use crate::ports::environment::{Certificate, Environment, OwnKeys};
use crate::ports::hypervisor::{Described, Hypervisor, KnownMachine};
use crate::ports::link::{
    LogAddress, LogReceipt, PeerHandler, PeerIdentity, PeerLink, PeerRefusal, PeerReply, PeerRequest,
};
use crate::ports::media::Media;
use crate::ports::spool::Spool;
use crate::ports::store::{ReplicaStore, StoreError};
use crate::ports::{ByteStream, Clock, Entropy};
use crate::presence::{self, Presence, Returned, WatchedLink};
use crate::records::{Event, FailoverPhase, Job, Relationship, ReplicaSide, ServerSettings, Side};
use crate::requests::Requests;
use crate::throttle::{PacedLink, Throttle};

/// How long an action waits to be taken up by an actor that is busy with something else.
const TAKEN_UP: Duration = Duration::from_millis(4800);

/// Everything the engine needs of the world.
#[derive(Clone)]
pub struct Ports {
    /// Runs VMs.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Replica disks.
    pub store: Arc<dyn ReplicaStore>,
    /// Durable state.
    pub catalog: Arc<dyn Catalog>,
    /// Peers.
    pub link: Arc<dyn PeerLink>,
    /// Room for logs on their way.
    pub spool: Arc<dyn Spool>,
    /// Directories that carry initial copies.
    pub media: Arc<dyn Media>,
    /// The host around the engine.
    pub environment: Arc<dyn Environment>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub entropy: Arc<dyn Entropy>,
}

/// What an engine is told once.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Name of this host, as peers and people know it.
    pub name: String,
    /// Where peers reach it.
    pub listen: String,
    /// Version of Lifeboat.
    pub version: String,
    /// How long ended jobs are kept; 5 minutes by the API's default.
    pub job_retention: Duration,
    /// How long a guest may take to shut down.
    pub shutdown_timeout: Duration,
    /// How often points are looked through for expiry while nothing arrives.
    pub expiry_interval: Duration,
    /// Limit for merging behind a running VM, bytes per second; 0 is unlimited.
    pub merge_bytes_per_s: u64,
    /// Limit for reading replicas' files to verify them, bytes per second for the whole host; 0 is unlimited.
    pub scrub_bytes_per_s: u64,
    /// How often each sealed byte is verified; zero: only on demand.
    pub scrub_interval: Duration,
    /// Directory of VM descriptions, for messages; empty: not known.
    pub vm_dir: String,
    /// Whether what cannot be undone waits for a second person.
    pub four_eyes: bool,
}

impl EngineConfig {
    /// The usual values.
    #[must_use]
    pub fn new(name: impl Into<String>, listen: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            listen: listen.into(),
            version: version.into(),
            job_retention: Duration::from_secs(300),
            shutdown_timeout: Duration::from_secs(120),
            expiry_interval: Duration::from_secs(10),
            merge_bytes_per_s: 0,
            vm_dir: String::new(),
            four_eyes: false,
            scrub_bytes_per_s: Self::SCRUB_BYTES_PER_S,
            scrub_interval: Self::SCRUB_INTERVAL,
        }
    }
}

/// What all actors of a host share.
pub(crate) struct Host {
    pub(crate) ports: Ports,
    pub(crate) config: EngineConfig,
    pub(crate) jobs: Arc<Jobs>,
    /// Pieces of work of all actors, so that an end of the engine can wait for them.
    pub(crate) works: TaskTracker,
    /// How fast all of them may send.
    pub(crate) throttle: Arc<Throttle>,
    /// Whether this host's clock is set.
    pub(crate) clock: ClockWatch,
    /// Which other hosts are there.
    pub(crate) presence: Arc<Presence>,
    /// The VMs that this host had by itself when the daemon started.
    pub(crate) described: Vec<KnownMachine>,
    /// Certificates as they were looked at last.
    pub(crate) certificates: Mutex<Vec<Certificate>>,
    /// By which keys other hosts are known.
    pub(crate) pins: Arc<Pins>,
    /// Keys of this host as they were looked at last.
    pub(crate) own_keys: Mutex<OwnKeys>,
    /// What the storage locations said when they were looked at last.
    pub(crate) storage_notes: Mutex<Vec<String>>,
    /// What waits for a second person.
    pub(crate) requests: Requests,
    /// Who may replicate here. Small, read often, changed by hand.
    access: Mutex<Access>,
    /// Who can be talked to. Actors make and end the actors of test VMs, so it is not the engine's alone.
    actors: Mutex<BTreeMap<VmId, Handle>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Until then verifying has read what it may.
    scrubbed_until: Mutex<tokio::time::Instant>,
}

#[derive(Clone, Default)]
pub(crate) struct Access {
    pub(crate) server: ServerSettings,
    pub(crate) entries: Vec<AuthorizationEntry>,
    /// Primaries of the replicas that are here or about to be.
    pub(crate) places: BTreeMap<VmId, String>,
}

impl Host {
    pub(crate) fn access<R>(&self, f: impl FnOnce(&mut Access) -> R) -> R {
        f(&mut self.access.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records what happened to the host as a whole. What cannot be recorded is at least logged.
    pub(crate) async fn event(&self, message: &str) {
        let event = Event {
            at: self.ports.clock.now(),
            vm: None,
            message: message.to_owned(),
            by: crate::by::now(),
        };
        if let Err(e) = self.ports.catalog.add_event(&event).await {
            warn!(error = %e, message, "event not recorded");
        }
    }

    pub(crate) fn tools(&self) -> Tools {
        Tools {
            link: self.ports.link.clone(),
            spool: self.ports.spool.clone(),
            clock: self.ports.clock.clone(),
        }
    }

    pub(crate) fn with_tasks<R>(&self, f: impl FnOnce(&mut Vec<JoinHandle<()>>) -> R) -> R {
        f(&mut self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn with_actors<R>(&self, f: impl FnOnce(&mut BTreeMap<VmId, Handle>) -> R) -> R {
        f(&mut self.actors.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// When the next piece may be read, after one that may take this long; all replicas of the host share the rate.
    pub(crate) fn pace_scrub(&self, takes: Duration) -> tokio::time::Instant {
        let mut until = self.scrubbed_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(tokio::time::Instant::now()) + takes;
        *until
    }

    /// Starts the actor of a VM, unless somebody else did just now.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        vm: VmId,
        name: String,
        local: Option<VmSpec>,
        rel: Option<Relationship>,
    ) -> Handle {
        let (mailbox, inbox) = mpsc::channel(64);
        let observer = Observer::new(vm, self.ports.clock.clone(), self.ports.catalog.clone());
        let own = (mailbox.downgrade(), inbox);
        let actor = Actor::new(vm, self.clone(), local, rel, own, observer.clone());
        let ended = CancellationToken::new();
        let handle = Handle {
            name,
            card: actor.card.clone(),
            mailbox,
            observer,
            ended: ended.clone(),
        };
        let there = self.with_actors(|actors| {
            let there = actors.get(&vm).filter(|h| !h.mailbox.is_closed()).cloned();
            if there.is_none() {
                actor.show_unseen();
                actor.publish();
                actors.insert(vm, handle.clone());
            }
            there
        });
        if let Some(there) = there {
            return there;
        }
        let task = tokio::spawn(async move {
            let _ended = ended.drop_guard();
            actor.run().await;
        });
        self.with_tasks(|t| {
            t.retain(|t| !t.is_finished());
            t.push(task);
        });
        handle
    }

    /// Ends the actor of a VM and waits until it has. It first answers what it was asked already.
    pub(crate) async fn dismiss(&self, vm: VmId) {
        // Only the token is kept: a mailbox that is held open would keep the actor waiting for messages.
        let ended = self.with_actors(|a| a.remove(&vm)).map(|h| h.ended);
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
    }

    /// When the description of a VM of this host was written.
    pub(crate) fn written(&self, vm: VmId) -> Option<Described> {
        self.described.iter().find(|m| m.spec.uuid == vm)?.described
    }

    /// The authorization entry that lets this peer in.
    pub(crate) fn authorize(&self, peer: &PeerIdentity) -> Result<AuthorizationEntry, PeerRefusal> {
        let host = self.config.name.clone();
        self.access(|a| {
            if !a.server.enabled {
                return Err(PeerRefusal::NotEnabled { host });
            }
            let found = peer
                .names
                .iter()
                .find_map(|n| AuthorizationEntry::find(&a.entries, n));
            found.cloned().ok_or(PeerRefusal::NotAuthorized {
                host,
                names: peer.names.clone(),
            })
        })
    }

    /// The settings of this host as they are now.
    pub(crate) fn server(&self) -> ServerSettings {
        self.access(|a| a.server.clone())
    }

    /// The entry with just this key.
    pub(crate) fn entry_named(&self, primary: &str) -> Option<AuthorizationEntry> {
        let same = |e: &&AuthorizationEntry| e.same_primary(primary);
        self.access(|a| a.entries.iter().find(same).cloned())
    }

    pub(crate) fn entry_for(&self, primary: &str) -> Option<AuthorizationEntry> {
        self.access(|a| AuthorizationEntry::find(&a.entries, primary).cloned())
    }

    /// A store's error in the words of the link: another host learns nothing of this host's files. Which one it is, the log
    /// here says.
    pub(crate) fn peer_refusal(&self, e: StoreError) -> PeerRefusal {
        let host = self.config.name.clone();
        let failed = |host: String, detail: String| {
            warn!(error = %chain(&e), "a call of another host is refused");
            let detail = format!("{detail}; the log there says which file it is");
            PeerRefusal::Failed { host, detail }
        };
        match &e {
            StoreError::NoReplica(_) => PeerRefusal::NoReplica { host },
            StoreError::Conflict(detail) => PeerRefusal::Conflict {
                detail: detail.clone(),
            },
            StoreError::OutOfSequence { have, .. } | StoreError::Superseded { have } => {
                PeerRefusal::OutOfSequence { have: *have }
            }
            StoreError::NoSpace(_) => PeerRefusal::NoSpace {
                host,
                location: "its storage location".into(),
            },
            StoreError::NoPoint(_)
            | StoreError::NoBranch(_)
            | StoreError::BadLog(_)
            | StoreError::OverQuota { .. } => PeerRefusal::Failed {
                host,
                detail: chain(&e),
            },
            StoreError::Damaged { detail, .. } if !detail.contains('/') => {
                failed(host, format!("an image: {detail}"))
            }
            StoreError::Damaged { .. } => failed(host, "an image is damaged".into()),
            StoreError::Locked { .. } => failed(host, "its files are locked, their key is missing".into()),
            StoreError::Busy(_) => failed(host, "a file is in use by a running VM".into()),
            StoreError::Failing { .. } => failed(host, "writing a file failed".into()),
            StoreError::Io { .. } => failed(host, "its storage failed".into()),
        }
    }
}

/// The refusal of what was not begun, because something else of this VM does not end.
fn busy(handle: &Handle, asked: Instant) -> Refusal {
    let since = handle.observer.busy_since(asked);
    let seconds = since.map_or(TAKEN_UP, |at| at.elapsed()).as_secs();
    Refusal::new(
        ReturnCode::InUse,
        format!(
            "\"{}\" has been busy with something else for {seconds} s; this was not begun",
            handle.name
        ),
        "try again; when it does not end, storage or a process of this host hangs: see lifeboat events",
    )
}

pub(crate) fn stopping() -> Refusal {
    Refusal::new(ReturnCode::Unavailable, "the daemon is stopping", "try again")
}

pub(crate) fn no_entry(primary: &str) -> Refusal {
    let shown: String = primary.chars().take(80).collect();
    Refusal::new(
        ReturnCode::FileNotFound,
        format!("no authorization entry for \"{shown}\""),
        "list them with: lifeboat authorization list",
    )
}

/// An actor, as others see it. While a handle exists its mailbox stays open.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) name: String,
    pub(crate) card: crate::references::Card,
    pub(crate) mailbox: mpsc::Sender<Message>,
    /// What was last seen of the VM.
    pub(crate) observer: Arc<Observer>,
    /// Cancelled when the actor has ended.
    ended: CancellationToken,
}

/// A host's engine.
pub struct Engine {
    pub(crate) host: Arc<Host>,
}

impl Drop for Engine {
    /// Actors share the host, and the host knows the actors: without this they would keep each other alive.
    fn drop(&mut self) {
        self.host.with_actors(BTreeMap::clear);
    }
}

/// The link as the engine uses it: what is sent keeps to the limits, and who answers is noted.
fn layered(link: Arc<dyn PeerLink>, throttle: &Arc<Throttle>, presence: &Arc<Presence>) -> Arc<dyn PeerLink> {
    let paced = PacedLink {
        link,
        throttle: throttle.clone(),
    };
    Arc::new(WatchedLink {
        link: Arc::new(paced),
        presence: presence.clone(),
    })
}

/// The clocks of this host as a record has them; of several the one that was read last, as far as that can be told.
fn last_read(relationships: &[Relationship], boot: Uuid) -> Option<Reading> {
    let read = relationships.iter().filter_map(|r| r.recency.any);
    read.max_by_key(|r| (r.boot == boot, if r.boot == boot { r.up_ms } else { r.wall.0 }))
}

impl Engine {
    /// Reads the catalog and starts an actor for each VM: those that this host's hypervisor has by itself, and those replicated to
    /// this host.
    pub async fn start(mut ports: Ports, config: EngineConfig) -> Result<Arc<Self>, CatalogError> {
        let local = ports.hypervisor.machines().await;
        let image = ports.catalog.load().await?;
        let jobs = Jobs::new(
            ports.catalog.clone(),
            ports.clock.clone(),
            ports.entropy.clone(),
            image.jobs,
            config.job_retention,
        );
        let throttle = Arc::new(Throttle::new(ports.clock.clone(), image.server.bandwidth.clone()));
        let presence = Arc::new(Presence::default());
        let pins = crate::keys::guard(&mut ports, &config.name, &image.relationships);
        ports.link = layered(ports.link, &throttle, &presence);
        let (entries, merged) = crate::authorization::merged(image.entries);
        let access = Mutex::new(Access {
            server: image.server,
            entries,
            places: BTreeMap::new(),
        });
        let read = last_read(&image.relationships, ports.clock.reading().boot);
        let host = Arc::new(Host {
            clock: ClockWatch::from(read),
            ports,
            config,
            jobs: Arc::new(jobs),
            works: TaskTracker::new(),
            throttle,
            presence,
            described: local.clone(),
            certificates: Mutex::default(),
            pins,
            own_keys: Mutex::default(),
            storage_notes: Mutex::default(),
            requests: Requests::new(image.requests),
            access,
            actors: Mutex::default(),
            tasks: Mutex::default(),
            scrubbed_until: Mutex::new(tokio::time::Instant::now()),
        });
        close_orphans(&host, &image.relationships).await?;
        crate::authorization::report_merged(&host, &merged).await;
        crate::orphans::drop_strays(&host, &image.relationships).await;
        let engine = Arc::new(Self { host });
        let mut relationships: BTreeMap<VmId, Relationship> = image
            .relationships
            .into_iter()
            .filter(|r| r.index == 0)
            .map(|mut r| {
                r.forget_foreign_paths();
                (r.vm, r)
            })
            .collect();
        for KnownMachine { spec, .. } in local {
            let rel = relationships.remove(&spec.uuid);
            engine.host.spawn(spec.uuid, spec.name.clone(), Some(spec), rel);
        }
        for (vm, rel) in relationships {
            if rel.mode == Mode::Primary && rel.home.is_none() {
                warn!(%vm, name = rel.spec.name, "replicated VM has no description in the VM directory any more");
            }
            let name = rel.spec.name.clone();
            engine.host.spawn(vm, name, None, Some(rel));
        }
        engine.host.look_at_clock().await;
        engine.begin_watches();
        Ok(engine)
    }

    /// Starts what looks at the host from time to time.
    fn begin_watches(self: &Arc<Self>) {
        self.hold_requests();
        let host = self.host.clone();
        let sweeper = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(10)).await;
                host.look_at_clock().await;
                host.expire_requests().await;
                if let Err(e) = host.jobs.sweep().await {
                    warn!(error = %e, "ended jobs not removed");
                }
            }
        });
        let lookout = tokio::spawn(look_out(Arc::downgrade(&self.host)));
        let certificates = tokio::spawn(crate::certificates::watch(Arc::downgrade(&self.host)));
        let storage = tokio::spawn(crate::orphans::watch(Arc::downgrade(&self.host)));
        let watcher = tokio::spawn(presence::watch(Arc::downgrade(&self.host)));
        let keys = tokio::spawn(crate::keys::watch(Arc::downgrade(&self.host)));
        let announcer = tokio::spawn(crate::keys::announce(Arc::downgrade(&self.host)));
        let all = [sweeper, lookout, certificates, storage, watcher, keys, announcer];
        self.host.with_tasks(|t| t.extend(all));
    }

    /// Ends all actors. Guests are not touched; work under way is dropped and taken up by the next start. Nothing holds an
    /// image of a VM that is off, or of a replica, afterwards.
    pub async fn stop(&self) {
        loop {
            let tasks = self.host.with_tasks(std::mem::take);
            if tasks.is_empty() {
                break;
            }
            for task in &tasks {
                task.abort();
            }
            for task in tasks {
                // An aborted task ends with an error by design.
                let _ = task.await;
            }
            // What ran until now may have started an actor.
        }
        self.host.with_actors(BTreeMap::clear);
        self.host.works.close();
        self.host.works.wait().await;
        let ports = &self.host.ports;
        tokio::join!(ports.hypervisor.release(), ports.store.release());
    }

    pub(crate) async fn ask<R>(
        &self,
        handle: &Handle,
        message: impl FnOnce(oneshot::Sender<R>) -> Message,
    ) -> Option<R> {
        let (reply, answer) = oneshot::channel();
        handle.mailbox.send(message(reply)).await.ok()?;
        answer.await.ok()
    }

    /// An action for one VM. When its actor does not come back from something else, that is the answer, and the action is not
    /// begun later; what is under way itself takes its time.
    async fn act(&self, handle: &Handle, action: Action) -> Result<Answer, Refusal> {
        let (asked, shows) = (Instant::now(), matches!(action, Action::ShowVm { .. }));
        let by = by::now();
        let answer = self.ask(handle, |reply| Message::Act(action, by, reply));
        let mut answer = std::pin::pin!(answer);
        loop {
            match tokio::time::timeout(TAKEN_UP, &mut answer).await {
                Ok(answer) => return answer.unwrap_or_else(|| Err(stopping())),
                Err(_) if shows => {
                    let past = handle.observer.past(None).map(|v| Answer::Vm(Box::new(v)));
                    return past.ok_or_else(|| busy(handle, asked));
                }
                Err(_) if handle.observer.busy_since(asked).is_some() => return Err(busy(handle, asked)),
                Err(_) => {}
            }
        }
    }

    /// Lets every actor see what no longer holds, and waits until none relies on it.
    pub(crate) async fn access_changed(&self, what: &str) {
        self.host.event(what).await;
        let handles: Vec<Handle> = self.host.with_actors(|a| a.values().cloned().collect());
        for handle in handles {
            // An actor that is gone relies on nothing.
            let _ = handle.mailbox.send(Message::AccessChanged).await;
        }
    }

    async fn set_server(&self, settings: ServerSettings) -> Result<Answer, Refusal> {
        settings.validate().map_err(crate::settings::invalid)?;
        self.host
            .ports
            .catalog
            .put_server(&settings)
            .await
            .map_err(|e| failed("not recorded", &e))?;
        self.host.throttle.set_host(&settings.bandwidth);
        self.host.access(|a| a.server = settings);
        self.access_changed("server settings changed").await;
        Ok(Answer::Done)
    }

    async fn job_action(&self, job: lifeboat_model::JobId, cancel: bool) -> Result<Answer, Refusal> {
        let missing = || {
            Refusal::new(
                ReturnCode::FileNotFound,
                format!("no job {job}"),
                "list them with: lifeboat job list",
            )
        };
        let found = self.host.jobs.get(job).ok_or_else(missing)?;
        if !cancel {
            return Ok(Answer::Job(found));
        }
        let Some(handle) = self.host.with_actors(|a| a.get(&found.vm).cloned()) else {
            // Its VM is gone, and nobody else would end it.
            let why = Some("its VM is gone".to_owned());
            let ended = self.host.jobs.finish(job, JobState::Terminated, why).await;
            ended.map_err(|e| failed("the catalog cannot be written", &e))?;
            return Ok(Answer::Job(self.host.jobs.get(job).unwrap_or(found)));
        };
        let by = by::now();
        self.ask(&handle, |reply| Message::CancelJob(job, by, reply))
            .await
            .unwrap_or_else(|| Err(stopping()))
    }

    /// The actor a peer's call is meant for; an offer of an unknown VM makes one.
    fn for_peer(&self, peer: &PeerIdentity, request: &PeerRequest) -> Result<Handle, PeerRefusal> {
        let host = self.host.config.name.clone();
        let (vm, offered) = match request {
            PeerRequest::Offer { vm, .. } => (vm.uuid, Some(vm)),
            PeerRequest::Update { vm, .. } => (vm.uuid, None),
            PeerRequest::Status { vm, .. }
            | PeerRequest::FinishBulk { vm, .. }
            | PeerRequest::RestartBulk { vm, .. }
            | PeerRequest::LogOffset { vm, .. }
            | PeerRequest::Compare { vm, .. }
            | PeerRequest::Differences { vm, .. }
            | PeerRequest::Standing { vm }
            | PeerRequest::Prepare { vm, .. }
            | PeerRequest::TakeOver { vm, .. }
            | PeerRequest::ReadDisk { vm, .. }
            | PeerRequest::CompareAgain { vm }
            | PeerRequest::AnnounceKey { vm, .. }
            | PeerRequest::StandDown { vm } => (*vm, None),
            PeerRequest::Hello => return Err(PeerRefusal::NoReplica { host }),
        };
        if let Some(handle) = self.host.with_actors(|a| a.get(&vm).cloned()) {
            return Ok(handle);
        }
        let Some(spec) = offered else {
            return Err(PeerRefusal::NoReplica { host });
        };
        self.host.authorize(peer)?;
        if let Err(e) = spec.validate() {
            return Err(PeerRefusal::Conflict {
                detail: format!("the VM's description: {e}"),
            });
        }
        if self
            .host
            .with_actors(|a| a.values().any(|h| h.is_named(&spec.name)))
        {
            let detail = format!("{host} has another VM named \"{}\"", spec.name);
            return Err(PeerRefusal::Conflict { detail });
        }
        Ok(self.host.spawn(vm, spec.name.clone(), None, None))
    }
}

/// Looks at every VM from time to time, so that what happens to a guest is known when it happens. No look is waited for.
async fn look_out(host: Weak<Host>) {
    loop {
        tokio::time::sleep(crate::observe::INTERVAL).await;
        let Some(host) = host.upgrade() else { return };
        let observers: Vec<_> = host.with_actors(|a| a.values().map(|h| h.observer.clone()).collect());
        for observer in observers {
            // It goes on without being waited for.
            let _ = observer.power(&host.ports.hypervisor, Duration::ZERO).await;
        }
    }
}

/// Ends jobs whose work nothing will take up again, and says of requests that it is not known what came of them.
async fn close_orphans(host: &Host, relationships: &[Relationship]) -> Result<(), CatalogError> {
    for job in host.jobs.list().into_iter().filter(|j| !j.state.is_final()) {
        let rel = relationships.iter().find(|r| r.vm == job.vm && r.index == 0);
        match rel.map_or(Orphan::Lost, |r| orphan(r, &job)) {
            Orphan::Continues => {}
            Orphan::Done => host.jobs.finish(job.id, JobState::Completed, None).await?,
            Orphan::Lost => {
                let why = "the daemon was restarted before the job ended".to_owned();
                host.jobs.finish(job.id, JobState::Exception, Some(why)).await?;
            }
        }
    }
    host.resume_requests().await
}

/// What the relationship says of an unfinished job.
enum Orphan {
    Continues,
    /// Its work is over; only the job's end was not recorded.
    Done,
    Lost,
}

fn orphan(rel: &Relationship, job: &Job) -> Orphan {
    if job.state == JobState::New && crate::schedule::waits(rel, job.kind) {
        return Orphan::Continues;
    }
    match &rel.side {
        Side::Primary(p)
            if p.sync.as_ref().and_then(|s| s.job) == Some(job.id)
                || p.planned.as_ref().is_some_and(|p| p.job == job.id) =>
        {
            Orphan::Continues
        }
        Side::Replica(ReplicaSide {
            failover: Some(f), ..
        }) if f.reverse.as_ref().is_some_and(|r| r.job == job.id) => Orphan::Continues,
        Side::Replica(r)
            if r.extended
                .as_ref()
                .is_some_and(|e| [e.job, e.compare].contains(&Some(job.id)))
                || r.import.as_ref().is_some_and(|i| i.job == job.id)
                || job.kind == JobType::Scrub =>
        {
            Orphan::Continues
        }
        Side::Primary(_) if matches!(job.kind, JobType::StartReplication | JobType::StartExport) => {
            match rel.state {
                State::WaitingToCompleteInitialReplication => Orphan::Continues,
                State::Disabled | State::ReadyForReplication => Orphan::Lost,
                _ => Orphan::Done,
            }
        }
        Side::Replica(ReplicaSide {
            failover: Some(f), ..
        }) if f.job == job.id => match f.phase {
            FailoverPhase::Initiating { .. }
            | FailoverPhase::Reverting
            | FailoverPhase::Committing { .. } => Orphan::Continues,
            FailoverPhase::Ready | FailoverPhase::Merging | FailoverPhase::Done => Orphan::Done,
        },
        Side::Primary(_) | Side::Replica(_) | Side::Test { .. } | Side::Alone => Orphan::Lost,
    }
}

#[async_trait]
impl Management for Engine {
    async fn perform(&self, by: Option<By>, action: Action) -> Result<Answer, Refusal> {
        if !action.changes() {
            return self.carry_out(action).await;
        }
        let (name, vm) = (
            action.name(),
            action.vm().map_or(String::new(), ToString::to_string),
        );
        let caller = by.as_ref().map_or("nobody".to_owned(), By::to_string);
        let answer = by::asked(by, self.judged(action)).await;
        let code = answer.as_ref().err().map(|e| e.code.number());
        info!(target: "lifeboat::audit", caller, action = name, vm, refused = code, "asked");
        answer
    }

    fn watch_jobs(&self) -> broadcast::Receiver<crate::records::Job> {
        self.host.jobs.watch()
    }
}

impl Engine {
    pub(crate) async fn carry_out(&self, action: Action) -> Result<Answer, Refusal> {
        match &action {
            Action::ListVms(page) => self.list(page).await,
            Action::ListJobs(page) => self.host.jobs.page(page).map(Answer::Jobs),
            Action::ShowJob { job } => self.job_action(*job, false).await,
            Action::CancelJob { job } => self.job_action(*job, true).await,
            Action::ListEvents { vm, limit, after } => self.events(vm.as_ref(), *limit, after.clone()).await,
            Action::ListAuthorization(page) => self.entries(page),
            Action::AddAuthorization { entry } => self.add_authorization(entry.clone()).await,
            Action::RemoveAuthorization { primary } => self.remove_authorization(primary).await,
            Action::ShowServer => self.server().await,
            Action::ListRequests => Ok(self.list_requests()),
            Action::SetServer { settings } => self.set_server(settings.clone()).await,
            Action::TrustKey { vm, host, key } => self.trust_key(vm.as_ref(), host, *key).await,
            Action::TestConnection { peer } => {
                lifeboat_model::check_peer(peer).map_err(crate::settings::invalid)?;
                self.host
                    .ports
                    .link
                    .call(peer, PeerRequest::Hello)
                    .await
                    .map_err(|e| link_refusal(&e))?;
                Ok(Answer::Done)
            }
            _ => {
                let Some(vm) = action.vm() else {
                    return Err(Refusal::new(
                        ReturnCode::NotSupported,
                        "this action is about no VM",
                        "",
                    ));
                };
                let (_, handle) = self.host.find(vm)?;
                self.act(&handle, action).await
            }
        }
    }
}

#[async_trait]
impl PeerHandler for Engine {
    fn knows(&self, peer: &PeerIdentity) -> bool {
        self.host.knows(peer)
    }

    async fn call(&self, peer: &PeerIdentity, request: PeerRequest) -> PeerReply {
        self.call_by_key(peer, request).await
    }

    async fn receive(
        &self,
        peer: &PeerIdentity,
        address: LogAddress,
        body: ByteStream,
    ) -> Result<LogReceipt, PeerRefusal> {
        self.receive_by_key(peer, address, body).await
    }
}

impl Engine {
    /// Answers a peer whose key was looked at.
    pub(crate) async fn answer_peer(&self, peer: &PeerIdentity, request: PeerRequest) -> PeerReply {
        if request == PeerRequest::Hello {
            self.host.tell_returned(&Returned::Names(peer.names.clone()));
            return match self.host.authorize(peer) {
                Ok(_) => PeerReply::Hello {
                    host: self.host.config.name.clone(),
                    version: self.host.config.version.clone(),
                },
                Err(refusal) => PeerReply::Refused(refusal),
            };
        }
        let host = self.host.config.name.clone();
        match self.for_peer(peer, &request) {
            Ok(handle) => {
                let reply = self
                    .ask(&handle, |reply| Message::Peer(peer.clone(), request, reply))
                    .await;
                reply.unwrap_or(PeerReply::Refused(PeerRefusal::Failed {
                    host,
                    detail: "the daemon is stopping".into(),
                }))
            }
            Err(refusal) => match (refusal, request) {
                // Nothing is recorded of the VM; its process may run all the same.
                (PeerRefusal::NoReplica { .. }, PeerRequest::Standing { vm }) => {
                    self.standing(peer, vm).await
                }
                (refusal, _) => PeerReply::Refused(refusal),
            },
        }
    }

    /// Stores a log of a peer whose key was looked at.
    pub(crate) async fn receive_log(
        &self,
        peer: &PeerIdentity,
        address: LogAddress,
        body: ByteStream,
    ) -> Result<LogReceipt, PeerRefusal> {
        let (LogAddress::Delta { vm, .. } | LogAddress::Bulk { vm }) = address;
        let host = self.host.config.name.clone();
        let gone = || PeerRefusal::NoReplica { host: host.clone() };
        let handle = self.host.with_actors(|a| a.get(&vm).cloned()).ok_or_else(gone)?;
        let permit = self
            .ask(&handle, |reply| Message::MayReceive(peer.clone(), reply))
            .await
            .ok_or_else(gone)??;
        let stored = async {
            if let LogAddress::Delta { position, .. } = address {
                let room = self.host.room_in_backlog(vm, position, permit.bound).await;
                if let Err(refusal) = room {
                    return (Err(refusal), None);
                }
            }
            self.store_log(vm, address, body).await
        };
        let (receipt, message) = tokio::select! {
            biased;
            () = permit.ended.cancelled() => {
                let detail = "receiving was interrupted; the next attempt is told why".into();
                (Err(PeerRefusal::Failed { host, detail }), None)
            }
            stored = stored => stored,
        };
        // The actor may be waiting for this one, and then it does not read its mailbox.
        drop(permit);
        if let Some(message) = message {
            // An actor that is gone has nothing to be told: the next one asks the store.
            let _ = handle.mailbox.send(message).await;
        }
        receipt
    }

    /// Whether a VM runs here of which nothing is recorded.
    async fn standing(&self, peer: &PeerIdentity, vm: VmId) -> PeerReply {
        match self.host.authorize(peer) {
            Ok(_) => {
                let power = crate::question::own_power(&self.host.ports, vm, Vec::new()).await;
                crate::question::with_power(None, power)
            }
            Err(refusal) => PeerReply::Refused(refusal),
        }
    }

    async fn store_log(
        &self,
        vm: VmId,
        address: LogAddress,
        body: ByteStream,
    ) -> (Result<LogReceipt, PeerRefusal>, Option<Message>) {
        let store = &self.host.ports.store;
        match address {
            LogAddress::Delta { position, offset, .. } => {
                let begun = Instant::now();
                match store.receive(vm, position, offset, body).await {
                    Ok(received) => (
                        Ok(LogReceipt::Delta(received.clone())),
                        Some(Message::LogDurable(
                            received,
                            Stamp {
                                position,
                                reading: self.host.ports.clock.reading(),
                                receiving: begun.elapsed(),
                            },
                        )),
                    ),
                    Err(e) => self.not_received(e),
                }
            }
            LogAddress::Bulk { .. } => match store.bulk(vm, body).await {
                Ok(progress) => (
                    Ok(LogReceipt::Bulk(progress.clone())),
                    Some(Message::BulkDone(progress)),
                ),
                Err(e) => self.not_received(e),
            },
        }
    }

    /// What the primary and the replica's administrator get to know of a log that was not stored. A broken connection
    /// and a log that comes in the wrong order are the primary's business alone.
    fn not_received(&self, e: StoreError) -> (Result<LogReceipt, PeerRefusal>, Option<Message>) {
        let message = e.concerns_this_host().then(|| Message::ReceiveFailed {
            why: chain(&e),
            no_room: e.lacks_room(),
        });
        (Err(self.host.peer_refusal(e)), message)
    }
}
