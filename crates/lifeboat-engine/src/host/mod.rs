//! What the actors of this host share: jobs, authorization, keys, who is there, how fast may be sent.

pub(crate) mod at_rest;
pub(crate) mod authorization;
pub(crate) mod callback_address;
pub(crate) mod certificates;
pub(crate) mod clock;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod lists;
pub(crate) mod observe;
pub(crate) mod offer;
pub(crate) mod orphans;
pub(crate) mod pins;
pub(crate) mod power;
pub(crate) mod presence;
pub(crate) mod question;
pub(crate) mod quota;
pub(crate) mod references;
pub(crate) mod requests;
pub(crate) mod settings;
pub(crate) mod shared_disks;
pub(crate) mod stores;
pub(crate) mod taking;
pub(crate) mod throttle;
pub(crate) mod tools;
pub(crate) mod watch;

use crate::contract::{Refusal, Turn};
use crate::host::clock::ClockWatch;
use crate::host::jobs::Jobs;
use crate::host::observe::Observer;
use crate::host::pins::Pins;
use crate::host::presence::Presence;
use crate::host::requests::Requests;
use crate::host::stores::ReplicaPlaces;
use crate::host::throttle::Throttle;
use crate::host::tools::Tools;
use crate::host::watch::Changes;
use crate::port::catalog::Catalog;
use crate::port::environment::{Certificate, Environment, OwnKeys};
use crate::port::hypervisor::{Described, KnownMachine};
use crate::port::hypervisors::Hypervisors;
use crate::port::link::{PeerIdentity, PeerLink, PeerRefusal};
use crate::port::media::Media;
use crate::port::spool::Spool;
use crate::port::store::{Store, StoreError, Stores};
use crate::port::{Clock, Entropy};
use crate::record::{Event, ServerSettings};
use crate::work::message::Message;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::{AuthorizationEntry, Finding, Note, VmId, hint};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

/// How long an action waits to be taken up by an actor that is busy with something else.
pub(crate) const TAKEN_UP: Duration = Duration::from_millis(4800);

/// Everything the engine needs of the world.
#[derive(Clone)]
pub struct Ports {
    /// What runs VMs, by VM.
    pub hypervisors: Arc<dyn Hypervisors>,
    /// Replicas, by location.
    pub stores: Arc<dyn Stores>,
    /// Durable state.
    pub catalog: Arc<dyn Catalog>,
    /// Calls and transfers to other hosts.
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
    /// What those who watch are told.
    pub(crate) changes: Arc<Changes>,
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
    pub(crate) storage_notes: Mutex<Vec<Finding>>,
    /// What waits for a second person.
    pub(crate) requests: Requests,
    /// Who may replicate here. Small, read often, changed by hand.
    pub(crate) access: Mutex<Access>,
    /// Who can be talked to. Actors make and end the actors of test VMs, so it is not the engine's alone.
    pub(crate) actors: Mutex<BTreeMap<VmId, Handle>>,
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Where the replicas are.
    pub(crate) replicas: Arc<ReplicaPlaces>,
    /// Until then verifying has read what it may.
    pub(crate) scrubbed_until: Mutex<tokio::time::Instant>,
}

#[derive(Clone, Default)]
pub(crate) struct Access {
    pub(crate) server: ServerSettings,
    pub(crate) entries: Vec<AuthorizationEntry>,
    /// Primaries of the replicas that are here or about to be.
    pub(crate) places: BTreeMap<VmId, String>,
    /// The stores that know whose these replicas are.
    pub(crate) bound: BTreeMap<VmId, Store>,
}

impl Host {
    pub(crate) fn access<R>(&self, f: impl FnOnce(&mut Access) -> R) -> R {
        f(&mut self.access.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records what happened to the host as a whole. What cannot be recorded is at least logged.
    pub(crate) async fn event(&self, message: impl Into<Note>) {
        let note = message.into();
        let event = Event {
            at: self.ports.clock.now(),
            vm: None,
            message: note.text,
            hint: note.hint,
            by: crate::common::by::now(),
        };
        if let Err(e) = self.ports.catalog.add_event(&event).await {
            warn!(error = %e, message = event.message, "event not recorded");
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

    /// Ends the actor of the VM of a test and waits until it has. It first answers what it was asked already.
    pub(crate) async fn dismiss(&self, vm: VmId) {
        // Only the token is kept: a mailbox that is held open would keep the actor waiting for messages.
        let ended = self.with_actors(|a| a.remove(&vm)).map(|h| h.ended);
        if let Some(ended) = ended {
            ended.cancelled().await;
            self.changes.relationship(vm, Turn::Removed);
            self.changes.vm(vm, Turn::Removed);
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
                detail: detail.as_str().into(),
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
pub(crate) fn busy(handle: &Handle, asked: Instant) -> Refusal {
    let since = handle.observer.busy_since(asked);
    let seconds = since.map_or(TAKEN_UP, |at| at.elapsed()).as_secs();
    Refusal::new(
        ReturnCode::InUse,
        format!(
            "\"{}\" has been busy with something else for {seconds} s; this was not begun",
            handle.name
        ),
        hint::Look::Events,
    )
}

pub(crate) fn stopping() -> Refusal {
    Refusal::new(
        ReturnCode::Unavailable,
        "the daemon is stopping",
        hint::Again::Later,
    )
}

pub(crate) fn no_entry(primary: &str) -> Refusal {
    let shown: String = primary.chars().take(80).collect();
    Refusal::new(
        ReturnCode::FileNotFound,
        format!("no authorization entry for \"{shown}\""),
        hint::Look::Authorization,
    )
}

/// An actor, as others see it. While a handle exists its mailbox stays open.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) name: String,
    pub(crate) card: crate::host::references::Card,
    pub(crate) mailbox: mpsc::Sender<Message>,
    /// What was last seen of the VM.
    pub(crate) observer: Arc<Observer>,
    /// Cancelled when the actor has ended.
    pub(crate) ended: CancellationToken,
}
