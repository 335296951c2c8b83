//! One actor per VM: it owns the VM's relationship, takes messages one at a time, and has at most one piece of work
//! under way. Nothing else changes the relationship. There are no locks around its state.
//!
//! The loop selects one thing that happened (a message, the end of the work, a time that has come), applies it, and
//! then plans the next piece of work from the state alone. Work of the primary and merging may be dropped at any
//! moment ([`Work::droppable`]); work that changes the replica's head or carries out a failover runs to its end first,
//! and messages that would collide with it wait in order.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::api::ReturnCode;
pub(crate) use lifeboat_model::causes::chain;
use lifeboat_model::lifecycle::NotNow;
use lifeboat_model::{BranchId, JobId, ReplicationMode, VmId, VmSpec};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::action::{Action, Answer, Refusal};
use crate::backlog::Bound;
use crate::by::{self, By};
use crate::change::Recorded;
use crate::copy::{Base, CopyError, CycleEnd};
use crate::engine::Host;
use crate::observe::{self, Observer};
use crate::ports::capture::{CaptureError, CaptureSource};
use crate::ports::hypervisor::{HypervisorError, Launch, LaunchDisk, Power, PowerState};
use crate::ports::link::{
    LinkError, PeerIdentity, PeerRefusal, PeerReply, PeerRequest, ReplicaStatus, Standing,
};
use crate::ports::store::{BulkProgress, Received, StoreError};
use crate::primary::PrimaryState;
use crate::question::Asking;
use crate::records::{FailoverPhase, Relationship, Side};
use crate::replica::{Maintained, Permit, ReplicaState};
use crate::saga::{Ready, SagaError};

/// How soon a failed write of the relationship is tried again.
const SAVE_AGAIN: Duration = Duration::from_secs(5);
/// Between looks at whether an actor without a VM can end: whoever asked it has read the answer by then.
const LEAVES: Duration = Duration::from_secs(1);

/// How often it is looked whether what waits for work can still hope.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);

/// What reaches an actor.
pub(crate) enum Message {
    /// A management action for this VM.
    Act(Action, Option<By>, oneshot::Sender<Result<Answer, Refusal>>),
    /// Its state for a list; answered even while work is under way.
    View(oneshot::Sender<Result<Answer, Refusal>>),
    /// A control call from the primary.
    Peer(PeerIdentity, PeerRequest, oneshot::Sender<PeerReply>),
    /// May this peer stream a log now?
    MayReceive(PeerIdentity, oneshot::Sender<Result<Permit, PeerRefusal>>),
    /// A delta became durable.
    LogDurable(Received, crate::aging::Stamp),
    /// A segment of the initial copy became durable.
    BulkDone(BulkProgress),
    /// A log could not be stored.
    ReceiveFailed {
        /// Why.
        why: String,
        /// There was no room for it.
        no_room: bool,
    },
    /// The guest has shut down as it was asked to.
    Stopped,
    /// The merge beside the cycles ended.
    Merged(Result<(), SagaError>),
    /// What the courier with this number has to tell.
    Extended(u64, crate::courier::News),
    /// The guest was given its addresses, or will not be.
    Addressed(crate::network::Given),
    /// Who may replicate here, or how this host counts, was changed.
    AccessChanged,
    /// A planned failover that was asked of the primary is over.
    AskedOver(crate::resumed::Over),
    /// A host is back that may be the other side.
    Returned(crate::presence::Returned),
    /// The keys of this VM's hosts are to be written.
    SaveKeys(Option<oneshot::Sender<Result<(), Refusal>>>),
    /// A job of this VM is to be cancelled.
    CancelJob(JobId, Option<By>, oneshot::Sender<Result<Answer, Refusal>>),
}

impl Message {
    /// Who asks; `None`: nobody does.
    fn by(&self) -> Option<By> {
        match self {
            Self::Act(_, by, _) | Self::CancelJob(_, by, _) => by.clone(),
            Self::Peer(peer, ..) | Self::MayReceive(peer, _) => Some(By::peer(peer)),
            Self::View(_)
            | Self::LogDurable(..)
            | Self::BulkDone(_)
            | Self::ReceiveFailed { .. }
            | Self::Stopped
            | Self::Merged(_)
            | Self::Extended(..)
            | Self::Addressed(_)
            | Self::AccessChanged
            | Self::AskedOver(_)
            | Self::SaveKeys(_)
            | Self::Returned(_) => None,
        }
    }
}

/// How a piece of work ended.
pub(crate) enum Done {
    Copied(Result<Box<dyn CaptureSource>, CopyError>),
    Cycled(CycleEnd),
    Settled(Result<(Box<dyn CaptureSource>, Base), CopyError>),
    /// The disks could not be opened here; and what the replica says of its copy.
    NotOpened(CaptureError, Option<Box<Standing>>),
    Maintained(Result<Maintained, StoreError>),
    Expired(Result<bool, StoreError>),
    FailedOver(Result<Ready, SagaError>),
    Reverted(Result<(), SagaError>),
    Committed(Result<(), SagaError>),
    Merged(Result<(), SagaError>),
    Tidied(Result<(), CaptureError>),
    /// The test VM is there, or why not.
    TestMade(Result<Ready, SagaError>),
    TestEnded(Result<(), SagaError>),
    /// What the replica said to the machine and the settings.
    Checked(crate::machine::Checked),
    Imported(Result<(), CopyError>),
    SyncBegun(Result<crate::sync::Begun, CopyError>),
    SyncStepped(Result<crate::sync::Step, CopyError>),
    /// The VM is off, or why it is not.
    Stopped(Result<(), Refusal>),
    /// What the replica said to taking over.
    HandedOver(Result<(), LinkError>),
    /// What the old primary said to giving way.
    Reversed(Result<ReplicaStatus, LinkError>),
    /// The hypervisor knows of the VM, or why it does not.
    Defined(Result<crate::defined::Told, HypervisorError>),
    Scrubbed(crate::scrub::Scrubbed),
    Lent(crate::lend::Lent),
}

pub(crate) struct Work {
    pub(crate) future: Pin<Box<dyn Future<Output = Done> + Send>>,
    /// Whether it may be dropped in the middle.
    pub(crate) droppable: bool,
}

/// Work under way, as a task of its own: it goes on while the actor answers, and what it holds (a monitor takes one
/// client at a time) cannot keep an answer waiting for ever.
struct Running {
    task: JoinHandle<Done>,
    droppable: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The actor of one VM.
pub(crate) struct Actor {
    pub(crate) id: VmId,
    pub(crate) host: Arc<Host>,
    /// The VM as this host's administrator described it; `None` for a VM that is only a replica.
    pub(crate) local: Option<VmSpec>,
    pub(crate) rel: Recorded,
    /// What others know of it.
    pub(crate) card: crate::references::Card,
    pub(crate) primary: PrimaryState,
    pub(crate) replica: ReplicaState,
    work: Option<Running>,
    mailbox: mpsc::Receiver<Message>,
    /// The way into that mailbox, for what the actor starts.
    pub(crate) own: mpsc::WeakSender<Message>,
    /// What was last seen of the VM, for whoever looks at it from outside.
    pub(crate) observer: Arc<Observer>,
    /// Waits for the guest of a failed-over VM.
    pub(crate) guest: crate::network::Attendant,
    /// What the hypervisor knows of the machine.
    pub(crate) definition: crate::defined::Definition,
    /// What the replica knows of the machine.
    pub(crate) told: crate::machine::Told,
    /// A change of roles was under way when the daemon started.
    pub(crate) resumed: bool,
    /// What was seen of the other side.
    pub(crate) contact: crate::silence::Contact,
    /// Sends to a third host what arrives here.
    pub(crate) dispatch: crate::extended::Dispatch,
    /// Messages that wait for the end of undroppable work.
    waiting: VecDeque<Message>,
}

impl Actor {
    pub(crate) fn new(
        id: VmId,
        host: Arc<Host>,
        local: Option<VmSpec>,
        rel: Option<Relationship>,
        (own, mailbox): (mpsc::WeakSender<Message>, mpsc::Receiver<Message>),
        observer: Arc<Observer>,
    ) -> Self {
        Self {
            id,
            host,
            local,
            rel: Recorded::loaded(rel),
            card: Default::default(),
            primary: PrimaryState::default(),
            replica: ReplicaState::default(),
            work: None,
            mailbox,
            own,
            observer,
            guest: Default::default(),
            definition: Default::default(),
            told: Default::default(),
            resumed: false,
            contact: Default::default(),
            dispatch: Default::default(),
            waiting: VecDeque::new(),
        }
    }

    /// Runs until the mailbox is closed. Work under way is then dropped: the next start finds order again.
    pub(crate) async fn run(mut self) {
        self.observer.begins();
        self.open().await;
        loop {
            self.observer.begins();
            if self.work.is_none() {
                while let Some(message) = self.waiting.pop_front() {
                    self.handle(message).await;
                }
                if self.rel.is_unwritten() {
                    self.write_noted().await;
                }
                self.work = self.plan().await.map(|work| Running {
                    task: self.host.works.spawn(work.future),
                    droppable: work.droppable,
                });
            }
            self.publish();
            if self.work.is_none() && self.waiting.is_empty() && self.is_over() {
                return;
            }
            self.attend_guest();
            let look = self.attend_contact().await;
            let wake = self.wake_at();
            let work = self.work.as_mut();
            let idle = work.is_none();
            self.observer.rests();
            let ended = tokio::select! {
                biased;
                message = self.mailbox.recv() => match message {
                    Some(message) => { self.observer.begins(); self.admit(message).await; continue }
                    None => return,
                },
                done = async { match work { Some(w) => (&mut w.task).await, None => std::future::pending().await } } => done,
                () = tokio::time::sleep_until(wake), if idle => continue,
                () = tokio::time::sleep_until(look) => { self.refuse_waiting(); continue }
            };
            self.work = None;
            self.observer.begins();
            match ended {
                Ok(done) => self.conclude(done).await,
                Err(e) => self.broken(&e).await,
            }
        }
    }

    /// Work that ended by a panic has done what it has done, like work that was killed: order is found again.
    async fn broken(&mut self, error: &tokio::task::JoinError) {
        self.primary.forget();
        self.replica.dirty = true;
        self.fault(&format!("work ended by a fault of this program: {error}"))
            .await;
        self.retry_later();
        self.replica_retry();
    }

    /// Handles a message now, or puts it behind the undroppable work.
    async fn admit(&mut self, message: Message) {
        let undroppable = self.work.as_ref().is_some_and(|w| !w.droppable);
        let harmless = match &message {
            Message::View(_)
            | Message::MayReceive(..)
            | Message::LogDurable(..)
            | Message::BulkDone(_)
            | Message::Stopped
            | Message::Merged(_)
            | Message::Addressed(_)
            | Message::Returned(_)
            | Message::AskedOver(_)
            | Message::SaveKeys(_)
            | Message::Extended(..)
            | Message::ReceiveFailed { .. } => true,
            Message::Peer(_, request, _) => matches!(
                request,
                PeerRequest::Status { .. }
                    | PeerRequest::LogOffset { .. }
                    | PeerRequest::Standing { .. }
                    | PeerRequest::Hello
            ),
            Message::Act(action, ..) => matches!(
                action,
                Action::ShowVm { .. } | Action::ListPoints { .. } | Action::Screenshot { .. }
            ),
            Message::CancelJob(..) | Message::AccessChanged => false,
        };
        if undroppable && (!harmless || !self.waiting.is_empty() && matches!(message, Message::Act(..))) {
            self.waiting.extend(self.refuse_hanging(message));
        } else {
            self.handle(message).await;
        }
    }

    /// Notes what the other side has to be told, and tells when it falls silent; when that is to be looked at again.
    async fn attend_contact(&mut self) -> Instant {
        self.host.presence.needs(self.id, self.needed_peers());
        self.host.presence.says(self.id, self.keeps_alive());
        self.watch_silence().await;
        match self.waiting.is_empty() {
            true => self.silence_due(),
            false => Instant::now() + REFUSE_WITHIN,
        }
    }

    /// Refuses what waits for work on a disk that does not answer.
    fn refuse_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting = waiting
            .into_iter()
            .filter_map(|m| self.refuse_hanging(m))
            .collect();
    }

    async fn handle(&mut self, message: Message) {
        let by = message.by();
        by::asked(by, self.take(message)).await;
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::View(reply) => self.show(observe::GLANCE, reply),
            Message::Act(Action::ShowVm { .. }, _, reply) => self.show(observe::LOOK, reply),
            Message::Act(Action::StopVm { force: false, .. }, _, reply) => self.shut_down(reply).await,
            // Whoever asked was told that it was not begun, or went away before.
            Message::Act(_, _, reply) if reply.is_closed() => {}
            Message::Act(Action::ReplicateNow { .. }, _, reply) => self.replicate_now(reply),
            Message::Act(action, _, reply) => {
                let answer = self.act(action).await;
                // Who asked may look for this VM again at once.
                self.publish();
                drop(reply.send(answer));
            }
            Message::Stopped => self.stopped().await,
            Message::Merged(result) => self.merged_beside(result).await,
            Message::Addressed(given) => self.addressed(given).await,
            Message::Extended(number, news) => self.extended_news(number, news).await,
            Message::AccessChanged => self.access_changed().await,
            Message::CancelJob(job, _, reply) => drop(reply.send(self.cancel(job).await)),
            Message::Returned(who) => self.returned(&who),
            Message::AskedOver(over) => self.asked_over(over).await,
            Message::SaveKeys(reply) => self.save_keys(reply).await,
            Message::Peer(peer, PeerRequest::Standing { .. }, reply) => {
                self.heard_from(&peer);
                self.answer_standing(&peer, reply);
            }
            Message::Peer(peer, PeerRequest::ReadDisk { ranges, .. }, reply) => {
                self.heard_from(&peer);
                self.lend(&peer, ranges, reply);
            }
            Message::Peer(peer, request, reply) => {
                self.heard_from(&peer);
                drop(reply.send(self.peer_call(&peer, request).await));
            }
            Message::MayReceive(peer, reply) => {
                self.heard_from(&peer);
                let bound = match self.awaits_import() {
                    true => Bound::Room,
                    false => Bound::Policy,
                };
                let permit = self.may_receive(&peer).map(|()| self.replica.permit(bound));
                if permit.is_ok() {
                    self.replica.sender = Some(peer);
                }
                drop(reply.send(permit));
            }
            Message::LogDurable(received, stamp) => self.log_durable(received, stamp).await,
            Message::BulkDone(progress) => self.bulk_done(&progress).await,
            Message::ReceiveFailed { why, no_room } => {
                if no_room {
                    self.hold_lacks_room().await;
                }
                self.fault(&why).await;
            }
        }
    }

    /// After a start of the daemon.
    async fn open(&mut self) {
        self.open_replica().await;
        self.tell_resumed().await;
        self.follow_resumed();
    }

    async fn plan(&mut self) -> Option<Work> {
        self.before_work().await;
        self.dismiss_awaiting();
        self.attend_extended().await;
        if let Some(work) = self.plan_definition().await {
            return Some(work);
        }
        match self.rel.as_ref().map(|r| r.mode) {
            Some(ReplicationMode::Primary) => self.plan_primary().await,
            Some(ReplicationMode::None) => self.plan_home(),
            Some(ReplicationMode::Replica | ReplicationMode::ExtendedReplica) => self.plan_replica().await,
            Some(ReplicationMode::TestReplica) | None => None,
        }
    }

    fn wake_at(&self) -> Instant {
        let due = self.due_at();
        let due = self.scheduled_at().map_or(due, |at| at.min(due));
        let due = self.definition_at().map_or(due, |at| at.min(due));
        if self.rel.is_unwritten() {
            due.min(Instant::now() + SAVE_AGAIN)
        } else {
            due
        }
    }

    fn due_at(&self) -> Instant {
        match self.rel.as_ref().map(|r| r.mode) {
            Some(ReplicationMode::Primary | ReplicationMode::None) => self.primary.next_at,
            Some(ReplicationMode::Replica | ReplicationMode::ExtendedReplica) => {
                let at = self.replica.next_at;
                self.scrub_at().map_or(at, |scrub| scrub.min(at))
            }
            None if self.is_nobody() => Instant::now() + LEAVES,
            Some(ReplicationMode::TestReplica) | None => Instant::now() + crate::primary::IDLE,
        }
    }

    async fn conclude(&mut self, done: Done) {
        match done {
            Done::Copied(r) => self.copied(r).await,
            Done::Settled(r) => self.settled(r).await,
            Done::NotOpened(e, theirs) => self.not_opened(e, theirs).await,
            Done::Cycled(end) => self.cycled(end).await,
            Done::Maintained(r) => self.maintained(r).await,
            Done::Expired(r) => self.expired(r),
            Done::FailedOver(r) => self.failed_over(r).await,
            Done::Reverted(r) => self.reverted(r).await,
            Done::Committed(r) => self.committed(r).await,
            Done::Merged(r) => self.merged(r).await,
            Done::Tidied(r) => self.tidied(r),
            Done::TestMade(r) => self.test_made(r).await,
            Done::TestEnded(r) => self.test_ended(r).await,
            Done::Checked(done) => self.checked(done).await,
            Done::Imported(r) => self.imported(r).await,
            Done::SyncBegun(r) => self.sync_begun(r).await,
            Done::SyncStepped(r) => self.sync_stepped(r).await,
            Done::Stopped(r) => self.stopped_for_good(r).await,
            Done::HandedOver(r) => self.handed_over(r).await,
            Done::Reversed(r) => self.reversed(r).await,
            Done::Defined(done) => self.defined(done).await,
            Done::Scrubbed(done) => self.scrubbed(done).await,
            Done::Lent(lent) => self.lent(lent),
        }
    }

    /// Ends droppable work and waits until it has let go of everything. What it left behind is put in order by the next
    /// piece of work.
    pub(crate) async fn interrupt(&mut self) {
        self.end_merge().await;
        if let Some(mut work) = self.work.take_if(|w| w.droppable) {
            work.task.abort();
            // It ended, or was aborted; both are what was wanted.
            let _ = (&mut work.task).await;
        }
        self.primary.forget();
    }

    async fn act(&mut self, action: Action) -> Result<Answer, Refusal> {
        match action {
            Action::StartVm { force, .. } => self.start_vm(Asking::unless(force)).await,
            Action::StopVm { .. } => self.turn_off().await,
            Action::PauseVm { .. } => self.pause_vm().await,
            Action::ResetVm { .. } => self.reset_vm().await,
            Action::Screenshot { .. } => self.screenshot().await,
            Action::ModifyReplication { settings, .. } => self.modify(settings).await,
            Action::ResetStatistics { extended, .. } => self.reset_statistics(extended).await,
            Action::ImportCopy { dir, .. } => self.import_copy(&dir).await,
            Action::ExtendReplication { settings, start, .. } => self.extend(settings, start).await,
            Action::CancelInitialCopy { .. } => self.cancel_initial_copy().await,
            Action::CancelExtended { .. } => self.give_up_third(None).await,
            Action::SetAuthorization { primary, .. } => self.bind_to_entry(&primary).await,
            Action::SuspendExtended { .. } => self.suspend_extended().await,
            Action::ResumeExtended { .. } => self.resume_extended().await,
            Action::RemoveExtended { .. } => self.remove_extended().await,
            Action::ContinueAsPrimary { .. } => self.continue_as_primary().await,
            Action::Resynchronize { at, .. } => self.resynchronize(at).await,
            Action::CancelResync { .. } => self.give_up_resync().await,
            Action::ReverseReplication { settings, .. } => self.reverse(settings).await,
            Action::BecomeReplica { .. } => self.become_replica().await,
            Action::DropAbandoned { .. } => self.drop_abandoned().await,
            Action::Scrub { .. } => self.scrub_now().await,
            Action::HoldPoints { .. } => self.hold_points().await,
            Action::ReleasePoints { .. } => self.release_points().await,
            Action::PlannedFailover {
                force,
                prepare_only,
                start,
                ..
            } => self.planned_failover(force, !prepare_only, start).await,
            Action::CancelPlanned { force, .. } => self.cancel_planned(force).await,
            Action::SetFailoverNetwork { cards, .. } => self.set_failover_network(cards).await,
            Action::StartTest { point, start, .. } => self.start_test(&point, start).await,
            Action::StopTest { .. } => self.stop_test().await,
            Action::EnableReplication { settings, .. } => self.enable(settings).await,
            Action::StartReplication { how, at, .. } => self.start_copy(how, at).await,
            Action::SuspendReplication { .. } => self.suspend().await,
            Action::ResumeReplication { .. } => self.resume().await,
            Action::RemoveReplication { .. } => self.remove().await,
            Action::ForgetReplication { .. } => self.forget().await,
            Action::ListPoints { page, .. } => self.list_points(&page).await,
            Action::InitiateFailover {
                point, start, force, ..
            } => self.initiate_failover(&point, start, force).await,
            Action::RevertFailover { force, .. } => self.revert_failover(force).await,
            Action::CommitFailover { .. } => self.commit_failover().await,
            // A VM is shown where messages are taken up, because that waits for nothing.
            Action::ShowVm { .. }
            | Action::ListVms(_)
            // Answered when its cycle is over.
            | Action::ReplicateNow { .. }
            | Action::ListJobs(_)
            | Action::ShowJob { .. }
            | Action::CancelJob { .. }
            | Action::ListEvents { .. }
            | Action::ListAuthorization(_)
            | Action::AddAuthorization { .. }
            | Action::RemoveAuthorization { .. }
            | Action::ShowServer
            | Action::SetServer { .. }
            | Action::ListRequests
            | Action::ConfirmRequest { .. }
            | Action::DenyRequest { .. }
            | Action::TrustKey { .. }
            | Action::TestConnection { .. } => Err(not_of_one_vm()),
        }
    }

    /// The VM's description, wherever it comes from.
    pub(crate) fn spec(&self) -> Result<&VmSpec, Refusal> {
        let recorded = self.rel.as_ref();
        let copy = recorded
            .filter(|r| !matches!(r.mode, ReplicationMode::Primary | ReplicationMode::None))
            .map(|r| &r.spec);
        copy.or(self.local.as_ref())
            .or(recorded.filter(|r| r.home.is_some()).map(|r| &r.spec))
            .ok_or_else(|| match self.description_gone() {
                Some(gone) => Refusal::new(ReturnCode::InvalidState, gone, ""),
                None => crate::references::no_vm(&self.id.to_string()),
            })
    }

    /// The VM with the images it has on this host now.
    pub(crate) async fn launch(&self) -> Result<Launch, Refusal> {
        let spec = self.spec()?.clone();
        let Some((of, branch)) = self.runs_on() else {
            return Ok(Launch {
                disks: spec.disks.iter().map(plain).collect(),
                spec,
                firmware_vars: None,
                seed: Vec::new(),
            });
        };
        self.launch_branch(spec, of, branch).await
    }

    /// The VM on the images of a branch.
    pub(crate) async fn launch_branch(
        &self,
        spec: VmSpec,
        of: VmId,
        branch: BranchId,
    ) -> Result<Launch, Refusal> {
        let store = &self.host.ports.store;
        let rel = self.rel.as_ref();
        let cards = rel.map_or(&[][..], |r| &r.network);
        let spec = match rel.map(|r| &r.side) {
            // It was connected when it was made.
            Some(Side::Test { .. }) => spec,
            _ => crate::network::connected(&spec, cards, self.local.as_ref()),
        };
        crate::machine::branch_launch(&**store, spec, cards, (of, branch))
            .await
            .map_err(|e| failed("the VM's disks in the replica store are not there", &e))
    }

    /// The branch in the store that the VM's disks are on, and whose replica it belongs to; `None`: the images of its
    /// description.
    pub(crate) fn runs_on(&self) -> Option<(VmId, BranchId)> {
        let rel = self.rel.as_ref()?;
        match &rel.side {
            Side::Replica(r) => r.failover.as_ref().map(|f| (self.id, f.branch)),
            Side::Test { of, branch } => Some((*of, *branch)),
            Side::Primary(_) | Side::Alone => rel.home.as_ref().map(|h| (self.id, h.branch)),
        }
    }

    /// What the VM does, for whoever has to know: what is not known is a refusal.
    pub(crate) async fn power(&self) -> Result<PowerState, Refusal> {
        match self.look().await {
            Power::NotKnown { why } => Err(crate::power::not_known(&why)),
            known @ (Power::Off | Power::Running | Power::Paused | Power::Stalled(_)) => Ok(known.state()),
        }
    }

    /// What the VM does, as far as it can be told.
    pub(crate) async fn look(&self) -> Power {
        crate::power::look(&*self.host.ports.hypervisor, self.id).await
    }

    pub(crate) fn branch(&self) -> Option<FailoverPhase> {
        self.rel.as_ref()?.failover().map(|f| f.phase)
    }
}

pub(crate) fn plain(disk: &lifeboat_model::DiskSpec) -> LaunchDisk {
    use crate::ports::hypervisor::DiskImage;
    let image = DiskImage::Plain {
        path: disk.path.clone().into(),
        format: disk.format,
    };
    LaunchDisk {
        id: disk.id.clone(),
        bus: disk.bus,
        image,
    }
}

fn not_of_one_vm() -> Refusal {
    Refusal::new(ReturnCode::Failed, "this action is not about one VM", "")
}

pub(crate) fn no_relationship() -> Refusal {
    Refusal::new(
        ReturnCode::InvalidState,
        "this VM is not replicated",
        "enable replication first: lifeboat replication enable",
    )
}

pub(crate) fn not_now(e: &NotNow) -> Refusal {
    Refusal::new(ReturnCode::InvalidState, e.to_string(), e.way_out)
}

/// A refusal from an error of a port, with all of its causes.
pub(crate) fn failed(what: &str, e: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal::new(ReturnCode::Failed, format!("{what}: {}", chain(e)), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_does_not_say_its_cause_twice() {
        let gone = || CaptureError::Preflight("the VM has no disk r".into());
        let text = gone().to_string();
        assert_eq!(chain(&CopyError::Capture(gone())).matches(&text).count(), 1);
    }
}
