//! Disks that others use for a while: cycles wait for them, from interval to interval, and that is a problem only when it takes
//! long. What keeps the disks for good is an ordinary fault, and is `primary`'s.

use crate::core::Core;
use crate::source::SourcePart;
use crate::work::failure::CopyError;
use crate::work::span::span;
use lifeboat_model::Finding;
use lifeboat_model::ProblemKind;
use lifeboat_model::ReplicationHealth as Health;
use lifeboat_model::policy::BUSY_PATIENCE;
use tokio::time::Instant;

/// A primary whose next cycle waits for others.
#[derive(Clone, Debug)]
pub(crate) struct Busy {
    since: Instant,
    /// Who uses the disks, in words.
    why: String,
}

impl Busy {
    /// Whether it is what users of disks do, and no problem.
    fn passes(&self) -> bool {
        self.since.elapsed() < BUSY_PATIENCE
    }
}

impl SourcePart {
    /// A cycle found the disks in use. Nothing failed, and nothing is lost: changes are recorded meanwhile.
    pub(crate) async fn busy(&mut self, core: &mut Core, why: &str, e: &CopyError) {
        let since = self.busy.as_ref().map_or_else(Instant::now, |b| b.since);
        let busy = Busy {
            since,
            why: why.to_owned(),
        };
        let passes = busy.passes();
        self.busy = Some(busy);
        if !passes {
            core.count_failure(false).await;
            self.passing_fault(core, e.problem(), e.note()).await;
        } else if core.closing() {
            // The VM of a planned failover is down until its last cycle is through.
            self.retry_later(core);
        } else {
            let interval = core.rel.as_ref().map(|r| r.settings.interval());
            self.next_at = Instant::now() + interval.unwrap_or(crate::work::piece::IDLE);
        }
    }

    /// Whether cycles wait for others, so that nothing is expected to arrive.
    pub(crate) fn waits_for_others(&self) -> bool {
        self.busy.as_ref().is_some_and(Busy::passes)
    }

    /// What the next cycle waits for. It is shown, and says nothing about the health.
    pub(crate) fn busy_finding(&self) -> Option<Finding> {
        let busy = self.busy.as_ref().filter(|b| b.passes())?;
        let text = format!(
            "the next cycle waits, since {}: the disks are in use for a while: {}",
            span(busy.since.elapsed()),
            busy.why
        );
        Some(Finding::new(Health::Ok, ProblemKind::DisksBusy, text))
    }
}
