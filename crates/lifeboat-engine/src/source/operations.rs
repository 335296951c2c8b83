//! What a relationship is made of when it is enabled, and the refusals of that.

use crate::contract::{Answer, Refusal};
use crate::core::Core;
use crate::port::capture::CaptureError;
use crate::source::SourcePart;
use crate::work::calls::failed;
use lifeboat_model::JobType;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::Event as Step;
use tokio::time::Instant;

/// Jobs of initial copies.
pub(crate) const COPIES: [JobType; 3] = [
    JobType::StartReplication,
    JobType::StartSeeded,
    JobType::StartExport,
];

impl SourcePart {
    pub(crate) async fn start_replication(&mut self, core: &mut Core) -> Result<Answer, Refusal> {
        let mut change = core.change()?;
        change.step(Step::StartCopy)?;
        let job = core
            .host
            .jobs
            .begin(core.id, JobType::StartReplication, "initial copy");
        if let Some(primary) = change.primary_mut() {
            primary.scheduled = None;
        }
        change.tell("initial copy started");
        let answer = core.begin(change, job).await?;
        self.next_at = Instant::now();
        Ok(answer)
    }
}

/// A capture's error as the answer to an action.
pub(crate) fn capture_refusal(e: &CaptureError) -> Refusal {
    Refusal {
        code: match e {
            CaptureError::InUse { .. } | CaptureError::Busy(_) => ReturnCode::InUse,
            CaptureError::Preflight(_)
            | CaptureError::Gone
            | CaptureError::NoSpace(_)
            | CaptureError::TrackingLost { .. }
            | CaptureError::Block { .. } => ReturnCode::Failed,
        },
        ..failed("the disks cannot be captured", e)
    }
}
