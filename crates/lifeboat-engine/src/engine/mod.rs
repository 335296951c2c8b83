//! The engine of a host: finds the actor an action or a peer's call is meant for, and answers what is about the host
//! itself. It holds no relationship; the actors do.

mod at_rest;
mod authorization;
mod keys;
mod lists;
mod lookout;
mod requests;
mod watch;

use crate::common::by;
use crate::common::by::By;
use crate::contract::{Action, Answer, Management, Refusal, Watch};
use crate::host::clock::ClockWatch;
use crate::host::jobs::Jobs;
use crate::host::presence::{Presence, WatchedLink};
use crate::host::requests::Requests;
use crate::host::throttle::{PacedLink, Throttle};
use crate::host::watch::Changes;
use crate::host::{Access, EngineConfig, Handle, Host, Ports, TAKEN_UP, busy, presence, stopping};
use crate::port::ByteStream;
use crate::port::catalog::CatalogError;
use crate::port::hypervisor::KnownMachine;
use crate::port::hypervisors::Hypervisors;
use crate::port::link::{
    LogAddress, LogReceipt, PeerHandler, PeerIdentity, PeerLink, PeerRefusal, PeerReply, PeerRequest,
};
use crate::port::store::StoreError;
use crate::record::{FailoverPhase, Job, Relationship, ReplicaSide, ServerSettings, Side};
use crate::work::calls::{failed, link_refusal};
use crate::work::message::{Message, Returned, Stamp};
use async_trait::async_trait;
use futures_util::future::join_all;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{JobState, JobType, Reading, VmId, hint};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use uuid::Uuid;

/// A host's engine.
pub struct Engine {
    pub(crate) host: Arc<Host>,
    /// What was confirmed goes on when the one who confirmed it is gone.
    me: Weak<Self>,
}

impl Drop for Engine {
    /// Actors share the host, and the host knows the actors: without this they would keep each other alive.
    fn drop(&mut self) {
        self.host.with_actors(BTreeMap::clear);
        self.host.changes.end();
    }
}

/// The link as the engine uses it: what is sent keeps to the limits, and who answers is noted.
pub(crate) fn layered(
    link: Arc<dyn PeerLink>,
    throttle: &Arc<Throttle>,
    presence: &Arc<Presence>,
) -> Arc<dyn PeerLink> {
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
pub(crate) fn last_read(relationships: &[Relationship], boot: Uuid) -> Option<Reading> {
    let read = relationships.iter().filter_map(|r| r.recency.any);
    read.max_by_key(|r| (r.boot == boot, if r.boot == boot { r.up_ms } else { r.wall.0 }))
}

/// The VMs that this host has by itself.
async fn machines(hypervisors: &dyn Hypervisors) -> Vec<KnownMachine> {
    let mut known = Vec::new();
    for hypervisor in hypervisors.all() {
        known.extend(hypervisor.machines().await);
    }
    known
}

impl Engine {
    /// Reads the catalog and starts an actor for each VM: those that this host's hypervisor has by itself, and those replicated to
    /// this host.
    pub async fn start(mut ports: Ports, config: EngineConfig) -> Result<Arc<Self>, CatalogError> {
        let local = machines(&*ports.hypervisors).await;
        let image = ports.catalog.load().await?;
        let changes = Changes::before(&mut ports);
        let jobs = Jobs::new(&ports, image.jobs, config.job_retention, changes.clone());
        let throttle = Arc::new(Throttle::new(ports.clock.clone(), image.server.bandwidth.clone()));
        let presence = Arc::new(Presence::default());
        let pins = crate::host::keys::guard(&mut ports, &config.name, &image.relationships);
        ports.link = layered(ports.link, &throttle, &presence);
        let (entries, merged) = crate::host::authorization::merged(image.entries);
        let access = Mutex::new(Access {
            server: image.server,
            entries,
            places: BTreeMap::new(),
            bound: BTreeMap::new(),
        });
        let read = last_read(&image.relationships, ports.clock.reading().boot);
        let host = Arc::new(Host {
            clock: ClockWatch::from(read),
            ports,
            config,
            jobs: Arc::new(jobs),
            changes,
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
            replicas: Arc::default(),
            scrubbed_until: Mutex::new(tokio::time::Instant::now()),
        });
        close_orphans(&host, &image.relationships).await?;
        crate::host::authorization::report_merged(&host, &merged).await;
        crate::host::orphans::drop_strays(&host, &image.relationships).await;
        let engine = Arc::new_cyclic(|me| Self { host, me: me.clone() });
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
        let lookout = tokio::spawn(lookout::from_time_to_time(Arc::downgrade(&self.host)));
        let watched = tokio::spawn(watch::look_again(Arc::downgrade(&self.host)));
        let certificates = tokio::spawn(crate::host::certificates::watch(Arc::downgrade(&self.host)));
        let storage = tokio::spawn(crate::host::orphans::watch(Arc::downgrade(&self.host)));
        let watcher = tokio::spawn(presence::watch(Arc::downgrade(&self.host)));
        let keys = tokio::spawn(crate::host::keys::watch(Arc::downgrade(&self.host)));
        let announcer = tokio::spawn(crate::host::keys::announce(Arc::downgrade(&self.host)));
        let all = [
            sweeper,
            lookout,
            watched,
            certificates,
            storage,
            watcher,
            keys,
            announcer,
        ];
        let hypervisors = self.host.ports.hypervisors.all().into_iter();
        let told = hypervisors.map(|h| tokio::spawn(lookout::when_told(Arc::downgrade(&self.host), h)));
        let told: Vec<_> = told.collect();
        self.host.with_tasks(|t| t.extend(all.into_iter().chain(told)));
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
        let (hypervisors, stores) = (self.host.ports.hypervisors.all(), self.host.ports.stores.all());
        tokio::join!(
            join_all(hypervisors.iter().map(|h| h.release())),
            join_all(stores.iter().map(|s| s.images.release())),
        );
        self.host.changes.end();
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
        settings.validate().map_err(crate::host::settings::invalid)?;
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
                hint::Look::Jobs,
            )
        };
        let found = self.host.jobs.get(job).ok_or_else(missing)?;
        if !cancel {
            return Ok(Answer::from(found));
        }
        let Some(handle) = self.host.with_actors(|a| a.get(&found.vm).cloned()) else {
            // Its VM is gone, and nothing else would end it.
            let why = Some("its VM is gone".into());
            let ended = self.host.jobs.finish(job, JobState::Terminated, why).await;
            ended.map_err(|e| failed("the catalog cannot be written", &e))?;
            return Ok(Answer::from(self.host.jobs.get(job).unwrap_or(found)));
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
                detail: format!("the VM's description: {e}").into(),
            });
        }
        if self
            .host
            .with_actors(|a| a.values().any(|h| h.is_named(&spec.name)))
        {
            let detail = format!("{host} has another VM named \"{}\"", spec.name).into();
            return Err(PeerRefusal::Conflict { detail });
        }
        Ok(self.host.spawn(vm, spec.name.clone(), None, None))
    }
}

/// Ends jobs whose work nothing will take up again, and says of requests that it is not known what came of them.
pub(crate) async fn close_orphans(host: &Host, relationships: &[Relationship]) -> Result<(), CatalogError> {
    for job in host.jobs.list().into_iter().filter(|j| !j.state.is_final()) {
        let rel = relationships.iter().find(|r| r.vm == job.vm && r.index == 0);
        match rel.map_or(Orphan::Lost, |r| orphan(r, &job)) {
            Orphan::Continues => {}
            Orphan::Done => host.jobs.finish(job.id, JobState::Completed, None).await?,
            Orphan::Lost => {
                let why = "the daemon was restarted before the job ended".into();
                host.jobs.finish(job.id, JobState::Exception, Some(why)).await?;
            }
        }
    }
    host.resume_requests().await
}

/// What the relationship says of an unfinished job.
pub(crate) enum Orphan {
    Continues,
    /// Its work is over; only the job's end was not recorded.
    Done,
    Lost,
}

pub(crate) fn orphan(rel: &Relationship, job: &Job) -> Orphan {
    if job.state == JobState::New && crate::record::access::waits(rel, job.kind) {
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
            if r.outgoing
                .all()
                .iter()
                .any(|e| [e.job, e.compare].contains(&Some(job.id)))
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
        if !action.facts().changes {
            return self.carry_out(action).await;
        }
        let (name, vm) = (
            action.name(),
            action.vm().map_or(String::new(), ToString::to_string),
        );
        let caller = by.as_ref().map_or("none".to_owned(), By::to_string);
        let answer = by::asked(by, self.judged(action)).await;
        let code = answer.as_ref().err().map(|e| e.code.number());
        info!(target: "lifeboat::audit", caller, action = name, vm, refused = code, "asked");
        answer
    }

    fn watch(&self) -> Watch {
        self.host.changes.watch()
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
            Action::SetServer { settings } => self.set_server(settings.clone().into()).await,
            Action::TrustKey { vm, host, key } => self.trust_key(vm.as_ref(), host, *key).await,
            Action::TestConnection { peer } => {
                lifeboat_model::check_peer(peer).map_err(crate::host::settings::invalid)?;
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
                    return Err(Refusal::bare(
                        ReturnCode::NotSupported,
                        "this action is about no VM",
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
                let power = crate::host::question::own_power(&self.host.ports, vm, Vec::new()).await;
                crate::host::question::with_power(None, power)
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
        let store = match self.host.store_of(vm) {
            Ok(store) => store,
            Err(e) => return self.not_received(e),
        };
        match address {
            LogAddress::Delta { position, offset, .. } => {
                let begun = Instant::now();
                match store.logs.receive(vm, position, offset, body).await {
                    Ok(received) => (
                        Ok(LogReceipt::Delta(received.clone().into())),
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
            LogAddress::Bulk { .. } => match store.images.bulk(vm, body).await {
                Ok(progress) => (
                    Ok(LogReceipt::Bulk(progress.clone().into())),
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
            kind: e.problem(),
            why: e.note(),
            no_room: e.lacks_room(),
        });
        (Err(self.host.peer_refusal(e)), message)
    }
}
