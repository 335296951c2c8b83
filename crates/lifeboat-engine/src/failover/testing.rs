//! Test failover: a VM of its own, `<name> - Test`, on a branch of a recovery point, while replication goes on. It is made
//! and ended here, as a saga of the replica; the VM itself has an actor like any other. Failing over is `failover`'s.

use crate::contract::{Action, Answer, PointSelector, PointView, Refusal, VmRef};
use crate::core::Core;
use crate::core::aging::Sealer;
use crate::failover::Done;
use crate::failover::initiate::{branch, choose};
use crate::host::Host;
use crate::port::hypervisor::Power;
use crate::port::store::{ReplicaInfo, Target};
use crate::record::{FailoverPhase, Relationship, Side, Test, TestPhase};
use crate::target::TargetPart;
use crate::work::message::Message;
use crate::work::piece::{Work, undroppable};
use crate::work::saga::{Ready, SagaError, StartError};
use lifeboat_deltalog::Consistency;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::TestPoints;
use lifeboat_model::{BranchId, JobState, JobType, ProblemKind, VmId, VmSpec, hint, network};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What follows the name of the VM.
const SUFFIX: &str = " - Test";

/// Longest name of a VM in characters.
const NAME_MAX: usize = 64;

/// The name of a VM's test VM; a long name is cut.
fn test_name(name: &str) -> String {
    let kept: String = name.chars().take(NAME_MAX - SUFFIX.len()).collect();
    kept.trim_end().to_owned() + SUFFIX
}

/// The machine of a test: the same, but for its identity and what its cards are connected to.
fn test_spec(rel: &Relationship, vm: VmId) -> VmSpec {
    VmSpec {
        name: test_name(&rel.spec.name),
        uuid: vm,
        nics: network::in_test(&rel.spec.nics, &rel.network),
        ..rel.spec.clone()
    }
}

/// The record of the test VM.
fn test_record(rel: &Relationship, test: &Test, now: lifeboat_model::Timestamp) -> Relationship {
    Relationship {
        vm: test.vm,
        mode: Mode::TestReplica,
        settings: rel.settings.clone(),
        spec: test_spec(rel, test.vm),
        position: rel.position,
        side: Side::Test {
            of: rel.vm,
            branch: test.branch,
        },
        created: now,
        newest_instant: Some(test.instant),
        network: rel.network.clone(),
        ..Relationship::default()
    }
}

/// The point a selector means for a test; what was abandoned can be looked at in this way only.
pub(crate) fn choose_for_test(
    mut info: ReplicaInfo,
    selector: &PointSelector,
    points: TestPoints,
) -> Result<PointView, Refusal> {
    if let (PointSelector::Id(id), Some(kept)) = (selector, &info.abandoned)
        && id.eq_ignore_ascii_case("abandoned")
    {
        return Ok(PointView {
            id: "abandoned".into(),
            guid: None,
            target: Target::Abandoned,
            instant: kept.at,
            consistency: Consistency::Crash,
            size: 0,
            unusable: None,
            changed: None,
        });
    }
    let meant = choose(&info, selector)?;
    if points == TestPoints::All {
        return Ok(meant);
    }
    info.logs.clear();
    choose(&info, selector).map_err(|_| {
        Refusal::new(
            ReturnCode::InvalidState,
            format!(
                "point {} is not sealed, and the primary resynchronizes at this moment",
                meant.id
            ),
            hint::Failover::UseSealedPoint,
        )
    })
}

/// Makes the branch and the test VM, and starts it. Repeatable from any point. The second result is set when the VM is
/// there but did not start.
async fn make(
    host: Arc<Host>,
    test: Test,
    record: Relationship,
    of: VmId,
    (start, sealer): (bool, Sealer),
) -> Result<Ready, SagaError> {
    let made = async {
        let images = host.images_of(of)?;
        let max_images = host.ports.hypervisors.of_vm(test.vm).max_images();
        branch(&*images, of, (test.branch, test.target), &sealer, max_images).await?;
        images.verify_branch(of, test.branch).await?;
        // Made now, while nothing else of this replica is under way, so that a start of the VM only finds it.
        images.branch_firmware(of, test.branch).await?;
        let taken = host.with_actors(|a| {
            a.iter()
                .any(|(vm, h)| *vm != test.vm && h.is_named(&record.spec.name))
        });
        if taken {
            let name = record.spec.name.clone();
            return Err(SagaError::NameTaken { name });
        }
        host.ports.catalog.put(&record, &[], &[]).await?;
        Ok(host.spawn(test.vm, record.spec.name.clone(), None, Some(record.clone())))
    };
    let handle = made.await?;
    if !start {
        return Ok(None);
    }
    match host.ports.hypervisors.of(&record.spec).power(test.vm).await {
        Power::Off => {}
        Power::Running | Power::Paused | Power::Stalled(_) => return Ok(None),
        Power::NotKnown { why } => return Ok(Some(StartError::Refused(crate::host::power::not_known(&why)))),
    }
    let (reply, answer) = oneshot::channel();
    let vm = VmRef::from(test.vm);
    // An actor that is gone drops the question, and that is the answer.
    let _ = handle
        .mailbox
        .send(Message::Act(
            Action::StartVm { vm, force: false },
            crate::common::by::now(),
            reply,
        ))
        .await;
    Ok(match answer.await {
        Ok(Ok(_)) => None,
        Ok(Err(e)) => Some(StartError::Refused(e)),
        Err(_) => Some(StartError::Stopping),
    })
}

/// Ends the test VM and throws its disks away. Repeatable.
async fn end(host: Arc<Host>, of: VmId, vm: VmId, branch: BranchId) -> Result<(), SagaError> {
    // No caller may start it between being turned off and losing its disks.
    host.dismiss(vm).await;
    let hypervisor = host.ports.hypervisors.of_vm(vm);
    hypervisor.turn_off(vm).await?;
    crate::failover::defined::undefine(&*hypervisor, vm).await?;
    host.images_of(of)?.drop_branch(of, branch).await?;
    Ok(host.ports.catalog.remove_relationship(vm, 0).await?)
}

impl Core {
    pub(crate) fn test(&self) -> Option<&Test> {
        self.rel.as_ref()?.replica()?.test.as_ref()
    }

    pub(crate) fn may_begin_test(&self, name: &str) -> Result<(), Refusal> {
        let name = test_name(name);
        if self.test().is_some() {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                format!("there is a test of this VM already, \"{name}\""),
                hint::Failover::EndTest,
            ));
        }
        if matches!(self.branch(), Some(FailoverPhase::Committing { .. })) {
            return Err(Refusal::new(
                ReturnCode::InUse,
                "the failover is being committed, which ends every other recovery point",
                hint::Look::Jobs,
            ));
        }
        if self.host.with_actors(|a| a.values().any(|h| h.is_named(&name))) {
            return Err(Refusal::new(
                ReturnCode::InUse,
                format!("this host has a VM named \"{name}\", which is not a test of this one"),
                hint::Failover::RenameOtherVm,
            ));
        }
        Ok(())
    }

    /// DestroySystem of the test VM.
    pub(crate) async fn stop_test(&mut self) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        if change.mode == Mode::TestReplica {
            return Err(Refusal::new(
                ReturnCode::IncorrectType,
                "this is the VM of a test, which is ended by the name of its replica",
                hint::Failover::EndTestByReplica,
            ));
        }
        let Some(test) = self.test().cloned() else {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "there is no test of this VM",
                hint::Failover::StartTest,
            ));
        };
        let running = self.host.jobs.get(test.job).filter(|j| !j.state.is_final());
        if let (TestPhase::Ending, Some(job)) = (test.phase, &running) {
            return Ok(Answer::from(job.clone()));
        }
        let job = self
            .host
            .jobs
            .draft(self.id, JobType::RemoveTest, "throwing the test VM away");
        change.set_test(Some(Test {
            phase: TestPhase::Ending,
            job: job.id,
            ..test
        }));
        let (making, why) = (running.map(|j| j.id), "the test was ended".into());
        change.end_job(&self.host.jobs, making, JobState::Terminated, Some(why));
        change.tell("the test is being ended");
        self.begin(change, job).await
    }

    /// Refuses what would pull the ground from under a test.
    pub(crate) fn no_test(&self) -> Result<(), Refusal> {
        match self.test() {
            None => Ok(()),
            Some(_) => Err(Refusal::new(
                ReturnCode::InUse,
                "there is a test of this VM, whose disks stand on this replica",
                hint::Failover::EndTest,
            )),
        }
    }

    /// Ends the test, if there is one, whatever its phase: what it stands on is about to go.
    pub(crate) fn plan_test_end(&self) -> Option<Work<Done>> {
        let (vm, branch) = self.test().map(|t| (t.vm, t.branch))?;
        let (host, of) = (self.host.clone(), self.id);
        Some(undroppable(async move {
            Done::TestEnded(end(host, of, vm, branch).await)
        }))
    }

    pub(crate) async fn test_made(&mut self, result: Result<Ready, SagaError>) {
        let Some(test) = self.test().cloned() else { return };
        let Ok(mut change) = self.change() else { return };
        let (phase, text) = match result {
            Ok(not_started) => {
                let not = |e: StartError| {
                    e.note()
                        .within(|e| format!("the test VM is there, but did not start: {e}"))
                };
                (TestPhase::Ready, not_started.map(not))
            }
            // What there is of it is cleared away next; the job has ended before.
            Err(e) => {
                let note = e.note().within(|e| format!("the test was not possible: {e}"));
                (TestPhase::Ending, Some(note))
            }
        };
        let end = match &text {
            None => JobState::Completed,
            Some(_) => JobState::Exception,
        };
        let job = test.job;
        change.set_test(Some(Test { phase, ..test }));
        change.tell(text.clone().unwrap_or_else(|| "the test VM is there".into()));
        change.end_job(&self.host.jobs, Some(job), end, text);
        self.conclude_work(change).await;
    }
}

impl TargetPart {
    /// The next work on a test. A failover that is being made or thrown away comes first; one that is being committed ends
    /// the test by `plan_test_end`.
    pub(crate) fn plan_test(&mut self, core: &Core) -> Option<Work<Done>> {
        let test = core.test()?.clone();
        if Instant::now() < self.next_at {
            return None;
        }
        match core.branch() {
            Some(
                FailoverPhase::Initiating { .. }
                | FailoverPhase::Reverting
                | FailoverPhase::Committing { .. },
            ) => return None,
            None | Some(FailoverPhase::Ready | FailoverPhase::Merging | FailoverPhase::Done) => {}
        }
        match test.phase {
            TestPhase::Making { start } => {
                let now = core.host.ports.clock.now();
                let record = test_record(core.rel.as_ref()?, &test, now);
                let (host, of, sealer) = (core.host.clone(), core.id, self.sealer(core));
                Some(undroppable(async move {
                    Done::TestMade(make(host, test, record, of, (start, sealer)).await)
                }))
            }
            TestPhase::Ending => core.plan_test_end(),
            TestPhase::Ready => None,
        }
    }

    pub(crate) async fn test_ended(&mut self, core: &mut Core, result: Result<(), SagaError>) {
        let Some(test) = core.test().cloned() else { return };
        if let Err(e) = result {
            let note = e
                .note()
                .within(|e| format!("the test VM cannot be removed yet: {e}"));
            core.fault(e.problem(ProblemKind::TestNotRemoved), note).await;
            return self.replica_retry();
        }
        // Without being asked to end, a test ends when the branch it runs on goes.
        let end = match test.phase {
            TestPhase::Ending => JobState::Completed,
            TestPhase::Making { .. } | TestPhase::Ready => JobState::Terminated,
        };
        let Ok(mut change) = core.change() else { return };
        change.set_test(None);
        change.tell("the test is over; every recovery point is as it was");
        change.end_job(&core.host.jobs, Some(test.job), end, None);
        if core.conclude_work(change).await {
            self.dirty = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_a_name_that_is_valid() {
        assert_eq!(test_name("web"), "web - Test");
        for long in ["x".repeat(64), "ä".repeat(64), format!("{} y", "x".repeat(56))] {
            let name = test_name(&long);
            assert!(
                name.chars().count() <= NAME_MAX && name.ends_with(SUFFIX),
                "{name}"
            );
            assert!(!name.contains("  "), "{name}");
        }
    }
}
