//! One actor per VM: it owns the VM's relationship, takes messages one at a time, and has at most one piece of work
//! under way. Nothing else changes the relationship. There are no locks around its state.
//!
//! The loop selects one thing that happened (a message, the end of the work, a time that has come), applies it, and
//! then plans the next piece of work from the state alone. Work of the primary and merging may be dropped at any
//! moment ([`Work::droppable`]); work that changes the replica's head or carries out a failover runs to its end first,
//! and messages that would collide with it wait in order.

mod backlog;
mod findings;
mod initiate;
mod lend;
mod machine;
mod media;
mod operations;
mod orphans;
mod outgoing;
mod planned;
mod power;
mod presence;
mod primary;
mod replica;
mod resync;
mod reverse;
mod schedule;
mod settings;
mod silence;
mod spawn;
mod statistics;
mod testing;
pub(crate) mod views;

use crate::common::by;
use crate::contract::{Action, Answer, Refusal};
use crate::core::change::Recorded;
use crate::core::{Core, Wake};
use crate::failover::network::GuestNetworkTask;
use crate::host::observe::Observer;
use crate::host::question::Asking;
use crate::host::{Host, observe};
use crate::port::link::PeerRequest;
use crate::record::Relationship;
use crate::roles::silence::Contact;
use crate::source::SourcePart;
use crate::source::outgoing::Forwarding;
use crate::target::TargetPart;
use crate::work::message::{Bound, Message};
use crate::work::piece::Work;
use crate::{failover, roles, source, target};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{ProblemKind, ReplicationMode, VmId, VmSpec};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How soon a failed write of the relationship is tried again.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// Between looks at whether an actor without a VM can end: the caller has read its answer by then.
const LEAVES: Duration = Duration::from_secs(1);

/// How often it is looked whether what waits for work can still hope.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);

/// How a piece of work ended.
pub(crate) enum Done {
    Source(source::Done),
    Target(target::Done),
    Failover(failover::Done),
    Roles(roles::Done),
}

impl From<source::Done> for Done {
    fn from(done: source::Done) -> Self {
        Self::Source(done)
    }
}

impl From<target::Done> for Done {
    fn from(done: target::Done) -> Self {
        Self::Target(done)
    }
}

impl From<failover::Done> for Done {
    fn from(done: failover::Done) -> Self {
        Self::Failover(done)
    }
}

impl From<roles::Done> for Done {
    fn from(done: roles::Done) -> Self {
        Self::Roles(done)
    }
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
    pub(crate) core: Core,
    /// What it sends.
    pub(crate) source: SourcePart,
    /// What it receives.
    pub(crate) target: TargetPart,
    /// Sends to a third host what arrives here.
    pub(crate) forward: Forwarding,
    /// What was seen of the other side.
    pub(crate) contact: Contact,
    /// Waits for the guest of a failed-over VM.
    pub(crate) guest: GuestNetworkTask,
    /// What the hypervisor knows of the machine.
    pub(crate) definition: crate::failover::defined::Definition,
    work: Option<Running>,
    mailbox: mpsc::Receiver<Message>,
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
            core: Core {
                id,
                rel: Recorded::loaded(id, rel, local.is_some(), &host),
                host,
                local,
                card: Default::default(),
                own,
                observer,
                resumed: false,
                wake: None,
                opened: false,
            },
            source: SourcePart::default(),
            target: TargetPart::default(),
            forward: Default::default(),
            contact: Default::default(),
            guest: Default::default(),
            definition: Default::default(),
            work: None,
            mailbox,
            waiting: VecDeque::new(),
        }
    }

    /// Runs until the mailbox is closed. Work under way is then dropped: the next start finds order again.
    pub(crate) async fn run(mut self) {
        self.core.observer.begins();
        self.open().await;
        loop {
            self.core.observer.begins();
            if self.work.is_none() {
                while let Some(message) = self.waiting.pop_front() {
                    self.handle(message).await;
                }
                if self.core.rel.is_unwritten() {
                    self.core.write_noted().await;
                }
                self.work = self.plan().await.map(|work| Running {
                    task: self.core.host.works.spawn(work.future),
                    droppable: work.droppable,
                });
            }
            self.core.publish();
            if self.work.is_none() && self.waiting.is_empty() && self.core.is_over() {
                return;
            }
            self.guest.attend_guest(&self.core);
            let look = self.attend_contact().await;
            let wake = self.wake_at();
            let work = self.work.as_mut();
            let idle = work.is_none();
            self.core.observer.rests();
            let ended = tokio::select! {
                biased;
                message = self.mailbox.recv() => match message {
                    Some(message) => { self.core.observer.begins(); self.admit(message).await; continue }
                    None => return,
                },
                done = async { match work { Some(w) => (&mut w.task).await, None => std::future::pending().await } } => done,
                () = tokio::time::sleep_until(wake), if idle => continue,
                () = tokio::time::sleep_until(look) => { self.refuse_waiting(); continue }
            };
            self.work = None;
            self.core.observer.begins();
            match ended {
                Ok(done) => self.conclude(done).await,
                Err(e) => self.broken(&e).await,
            }
        }
    }

    /// Work that ended by a panic has done what it has done, like work that was killed: order is found again.
    async fn broken(&mut self, error: &tokio::task::JoinError) {
        self.source.forget();
        self.target.dirty = true;
        let text = format!("work ended by a fault of this program: {error}");
        self.core.fault(ProblemKind::ProgramFault, text).await;
        self.source.retry_later(&self.core);
        self.target.replica_retry();
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
            | Message::Forwarded(..)
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
            self.waiting.extend(self.core.refuse_hanging(message));
        } else {
            self.handle(message).await;
        }
    }

    /// Notes what the other side has to be told, and tells when it falls silent; when that is to be looked at again.
    async fn attend_contact(&mut self) -> Instant {
        self.core
            .host
            .presence
            .needs(self.core.id, self.core.needed_peers());
        self.core
            .host
            .presence
            .says(self.core.id, self.core.keeps_alive());
        let waits = self.source.waits_for_others();
        self.contact.watch_silence(&self.core, waits).await;
        if self.waiting.is_empty() {
            self.contact.silence_due(&self.core)
        } else {
            Instant::now() + REFUSE_WITHIN
        }
    }

    /// Refuses what waits for work on a disk that does not answer.
    fn refuse_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting = waiting
            .into_iter()
            .filter_map(|m| self.core.refuse_hanging(m))
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
            Message::Act(Action::StopVm { force: false, .. }, _, reply) => self.core.shut_down(reply).await,
            // The caller was told that it was not begun, or went away before.
            Message::Act(_, _, reply) if reply.is_closed() => {}
            Message::Act(Action::ReplicateNow { .. }, _, reply) => {
                self.source.replicate_now(&self.core, reply)
            }
            Message::Act(action, _, reply) => {
                let answer = self.act(action).await;
                // Who asked may look for this VM again at once.
                self.core.publish();
                drop(reply.send(answer));
            }
            Message::Stopped => self.source.stopped(&self.core).await,
            Message::Merged(result) => self.merged_beside(result).await,
            Message::Addressed(given) => self.guest.addressed(&mut self.core, given).await,
            Message::Forwarded(number, progress) => {
                let aging = self.target.aging.clone();
                self.forward
                    .progressed(&mut self.core, number, progress, &aging)
                    .await
            }
            Message::AccessChanged => self.target.access_changed(&self.core).await,
            Message::CancelJob(job, _, reply) => drop(reply.send(self.cancel(job).await)),
            Message::Returned(who) => self.returned(&who),
            Message::AskedOver(over) => self.core.asked_over(over).await,
            Message::SaveKeys(reply) => self.core.save_keys(reply).await,
            Message::Peer(peer, PeerRequest::Standing { .. }, reply) => {
                self.heard_from(&peer);
                self.target.answer_standing(&self.core, &peer, reply);
            }
            Message::Peer(peer, PeerRequest::ReadDisk { ranges, .. }, reply) => {
                self.heard_from(&peer);
                self.source.lend(&self.core, &peer, ranges, reply);
            }
            Message::Peer(peer, request, reply) => {
                self.heard_from(&peer);
                drop(reply.send(self.peer_call(&peer, request).await));
            }
            Message::MayReceive(peer, reply) => {
                self.heard_from(&peer);
                let bound = if self.core.awaits_import() {
                    Bound::Room
                } else {
                    Bound::Policy
                };
                let permit = self.core.may_receive(&peer).map(|()| self.target.permit(bound));
                if permit.is_ok() {
                    self.target.sender = Some(peer);
                }
                drop(reply.send(permit));
            }
            Message::LogDurable(received, stamp) => self.log_durable(received, stamp).await,
            Message::BulkDone(progress) => self.contact.bulk_done(&mut self.core, &progress).await,
            Message::ReceiveFailed { kind, why, no_room } => {
                if no_room {
                    self.core.hold_lacks_room().await;
                }
                self.core.fault(kind, why).await;
            }
        }
    }

    /// After a start of the daemon.
    async fn open(&mut self) {
        self.target.open_replica(&mut self.core).await;
        self.core.tell_resumed().await;
        self.target.follow_resumed(&self.core);
    }

    async fn plan(&mut self) -> Option<Work<Done>> {
        match self.core.wake.take() {
            Some(Wake::Now) => self.target.begin_now(),
            Some(Wake::Seal) => {
                self.target.dirty = true;
                self.target.begin_now();
            }
            Some(Wake::Later) => self.target.replica_retry(),
            None => {}
        }
        self.before_work().await;
        self.source.dismiss_awaiting(&self.core);
        self.forward.attend(&self.core).await;
        if let Some(work) = self.definition.plan_definition(&self.core).await {
            return Some(work.into());
        }
        match self.core.rel.as_ref().map(|r| r.mode) {
            Some(ReplicationMode::Primary) => self.plan_primary().await,
            Some(ReplicationMode::None) => self.source.plan_home(&self.core).map(Work::into),
            Some(ReplicationMode::Replica | ReplicationMode::ExtendedReplica) => self.plan_replica().await,
            Some(ReplicationMode::TestReplica) | None => None,
        }
    }

    fn wake_at(&self) -> Instant {
        let due = self.due_at();
        let due = self.source.scheduled_at(&self.core).map_or(due, |at| at.min(due));
        let due = self.definition.definition_at().map_or(due, |at| at.min(due));
        if self.core.rel.is_unwritten() {
            due.min(Instant::now() + SAVE_AGAIN)
        } else {
            due
        }
    }

    fn due_at(&self) -> Instant {
        match self.core.rel.as_ref().map(|r| r.mode) {
            Some(ReplicationMode::Primary | ReplicationMode::None) => self.source.next_at,
            Some(ReplicationMode::Replica | ReplicationMode::ExtendedReplica) => {
                let at = self.target.next_at;
                self.target.scrub_at(&self.core).map_or(at, |scrub| scrub.min(at))
            }
            None if self.core.is_unknown() => Instant::now() + LEAVES,
            Some(ReplicationMode::TestReplica) | None => Instant::now() + crate::work::piece::IDLE,
        }
    }

    async fn conclude(&mut self, done: Done) {
        match done {
            Done::Source(source::Done::Copied(r)) => self.source.copied(&mut self.core, r).await,
            Done::Source(source::Done::Settled(r)) => self.source.settled(&mut self.core, r).await,
            Done::Source(source::Done::NotOpened(e, theirs)) => {
                self.source.not_opened(&mut self.core, e, theirs).await
            }
            Done::Source(source::Done::Cycled(end)) => self.cycled(end).await,
            Done::Target(target::Done::Maintained(r)) => self.maintained(*r).await,
            Done::Target(target::Done::Expired(r)) => self.target.expired(&self.core, r),
            Done::Failover(failover::Done::FailedOver(r)) => self.target.failed_over(&mut self.core, r).await,
            Done::Failover(failover::Done::Reverted(r)) => self.target.reverted(&mut self.core, r).await,
            Done::Failover(failover::Done::Committed(r)) => self.target.committed(&mut self.core, r).await,
            Done::Failover(failover::Done::Merged(r)) => self.merged(r).await,
            Done::Source(source::Done::Tidied(r)) => self.source.tidied(&self.core, r),
            Done::Failover(failover::Done::TestMade(r)) => self.core.test_made(r).await,
            Done::Failover(failover::Done::TestEnded(r)) => self.target.test_ended(&mut self.core, r).await,
            Done::Source(source::Done::Checked(done)) => self.source.checked(&mut self.core, done).await,
            Done::Source(source::Done::Imported(r)) => self.target.imported(&mut self.core, r).await,
            Done::Source(source::Done::SyncBegun(r)) => self.source.sync_begun(&mut self.core, r).await,
            Done::Source(source::Done::SyncStepped(r)) => self.source.sync_stepped(&mut self.core, r).await,
            Done::Roles(roles::Done::Stopped(r)) => self.source.stopped_for_good(&mut self.core, r).await,
            Done::Roles(roles::Done::HandedOver(r)) => self.source.handed_over(&mut self.core, r).await,
            Done::Roles(roles::Done::Merged(r)) => self.merged(r).await,
            Done::Roles(roles::Done::Reversed(r)) => self.reversed(r).await,
            Done::Failover(failover::Done::Defined(done)) => self.definition.defined(&self.core, done).await,
            Done::Target(target::Done::Scrubbed(done)) => self.target.scrubbed(&self.core, done).await,
            Done::Source(source::Done::Lent(lent)) => self.source.lent(lent),
        }
    }

    /// Ends droppable work and waits until it has let go of everything. What it left behind is put in order by the next
    /// piece of work.
    pub(crate) async fn interrupt(&mut self) {
        self.source.end_merge().await;
        if let Some(mut work) = self.work.take_if(|w| w.droppable) {
            work.task.abort();
            // It ended, or was aborted; both are what was wanted.
            let _ = (&mut work.task).await;
        }
        self.source.forget();
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each action, and the compiler names the one that is missing"
    )]
    async fn act(&mut self, action: Action) -> Result<Answer, Refusal> {
        match action {
            Action::StartVm { force, .. } => self.start_vm(Asking::unless(force)).await,
            Action::StopVm { .. } => self.turn_off().await,
            Action::PauseVm { .. } => self.pause_vm().await,
            Action::ResetVm { .. } => self.core.reset_vm().await,
            Action::Screenshot { .. } => self.core.screenshot().await,
            Action::ModifyReplication {
                settings,
                relationship,
                ..
            } => self.modify(&relationship, settings).await,
            Action::ResetStatistics { relationship, .. } => self.core.reset_statistics(&relationship).await,
            Action::ImportCopy { dir, .. } => self.core.import_copy(&dir).await,
            Action::ExtendReplication { settings, start, .. } => self.core.extend(settings, start).await,
            Action::CancelInitialCopy { relationship, .. } => self.cancel_copy_of(&relationship).await,
            Action::SetAuthorization { primary, .. } => self.target.bind_to_entry(&mut self.core, &primary).await,
            Action::ContinueAsPrimary { relationship, .. } => self.continue_as_primary(&relationship).await,
            Action::Resynchronize { at, relationship, .. } => self.resynchronize(&relationship, at).await,
            Action::CancelResync { relationship, .. } => self.give_up_resync_of(&relationship).await,
            Action::ReverseReplication { settings, .. } => self.reverse(settings).await,
            Action::BecomeReplica { .. } => self.become_replica().await,
            Action::DropAbandoned { .. } => self.drop_abandoned().await,
            Action::Scrub { .. } => self.target.scrub_now(&mut self.core).await,
            Action::HoldPoints { .. } => self.target.hold_points(&mut self.core).await,
            Action::ReleasePoints { .. } => self.target.release_points(&mut self.core).await,
            Action::PlannedFailover {
                force,
                prepare_only,
                start,
                ..
            } => self.planned_failover(force, !prepare_only, start).await,
            Action::CancelPlanned { force, .. } => self.cancel_planned(force).await,
            Action::SetFailoverNetwork { cards, .. } => self.core.set_failover_network(cards).await,
            Action::StartTest { point, start, .. } => self.start_test(&point, start).await,
            Action::StopTest { .. } => self.core.stop_test().await,
            Action::EnableReplication { settings, .. } => self.enable(settings).await,
            Action::StartReplication {
                how,
                at,
                relationship,
                ..
            } => self.start_copy(&relationship, how, at).await,
            Action::SuspendReplication { relationship, .. } => self.suspend_of(&relationship).await,
            Action::ResumeReplication { relationship, .. } => self.resume_of(&relationship).await,
            Action::RemoveReplication { relationship, .. } => self.remove_of(&relationship).await,
            Action::ForgetReplication { .. } => self.forget().await,
            Action::RetryNow { .. } => self.retry_now().await,
            Action::ListPoints { page, .. } => self.core.list_points(&page).await,
            Action::InitiateFailover {
                point, start, force, ..
            } => self.initiate_failover(&point, start, force).await,
            Action::RevertFailover { force, .. } => self.core.revert_failover(force).await,
            Action::CommitFailover { .. } => self.core.commit_failover().await,
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
}

pub(crate) fn not_of_one_vm() -> Refusal {
    Refusal::bare(ReturnCode::Failed, "this action is not about one VM")
}
