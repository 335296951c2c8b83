//! Beginning a test failover, which may interrupt other work. Making and ending it is `failover::testing`'s.

use crate::actor::Actor;
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, PointSelector, Refusal};
use crate::failover::initiate::disorder_note;
use crate::failover::testing::choose_for_test;
use crate::record::{Test, TestPhase};
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{BranchId, JobType, VmId};

impl Actor {
    /// TestReplicaSystem.
    pub(crate) async fn start_test(&mut self, point: &PointSelector, start: bool) -> Result<Answer, Refusal> {
        let rel = self.core.rel.clone().ok_or_else(no_relationship)?;
        let points = lifecycle::may_test(rel.mode, rel.state).map_err(|e| not_now(&e))?;
        self.core.may_begin_test(&rel.spec.name)?;
        choose_for_test(self.core.replica_info().await?, point, points)?;
        // Points may be expiring at this moment; what is being received goes on.
        self.interrupt().await;
        let info = self.core.replica_info().await?;
        let note = disorder_note(&info, point);
        let chosen = choose_for_test(info, point, points)?;
        self.core.check_point(&chosen).await?;
        let job =
            self.core
                .host
                .jobs
                .draft(self.core.id, JobType::TestFailover, "making the test VM's disks");
        let entropy = &self.core.host.ports.entropy;
        let test = Test {
            vm: VmId(entropy.uuid()),
            branch: BranchId(entropy.uuid()),
            target: chosen.target,
            instant: chosen.instant,
            phase: TestPhase::Making { start },
            job: job.id,
        };
        let now = self.core.host.ports.clock.now();
        let mut change = self.core.change()?;
        if let Some(replica) = change.replica_mut() {
            (replica.test, replica.last_test) = (Some(test), Some(now));
        }
        change.tell(format!("test failover to point {} started", chosen.id));
        let answer = self.core.begin(change, job).await?;
        self.core.tell_disorder(note, answer).await
    }
}
