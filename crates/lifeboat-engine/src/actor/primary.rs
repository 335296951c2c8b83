//! What an actor does as a primary: which work comes next, and what a finished cycle means. The work is `source`'s.

use crate::actor::{Actor, Done};
use crate::contract::CycleResult;
use crate::core::Core;
use crate::roles::planned::Gate;
use crate::source::copy::{Base, Capture, CycleEnd, Delivered};
use crate::source::images::NoCycle;
use crate::work::piece::{IDLE, Work};
use lifeboat_deltalog::Consistency;
use lifeboat_model::ProblemKind;
use lifeboat_model::ReplicationState as State;
use tokio::time::Instant;
use tracing::debug;

impl Actor {
    pub(crate) async fn plan_primary(&mut self) -> Option<Work<Done>> {
        // A log that waits for the network has the disks open.
        if self.source.pending.is_none()
            && let Some(work) = self.source.plan_loan(&self.core).await
        {
            return Some(work.into());
        }
        let rel = self.core.rel.as_ref()?;
        let due = Instant::now() >= self.source.next_at;
        let active = Core::flows(rel);
        let side = rel.primary()?;
        let more = side.planned.is_some() || side.start || rel.home.as_ref().is_some_and(|h| !h.merged);
        if !active && !self.source.awaiting.is_empty() {
            let state = rel.state;
            self.source.answer_cycle(Err(NoCycle::Rests(state)));
        }
        if !active && !more && !self.source.disturbed {
            self.source.next_at = Instant::now() + IDLE;
            return None;
        }
        if !due {
            return None;
        }
        match self.plan_role().await {
            Gate::Run(work) => return Some(work.into()),
            Gate::Blocked => return None,
            Gate::Open => {}
        }
        if !active {
            if !self.source.disturbed {
                self.source.next_at = Instant::now() + IDLE;
                return None;
            }
            return self.source.plan_tidy(&self.core).await.map(Work::into);
        }
        if let Some(work) = self.source.plan_update(&self.core).await {
            return Some(work.into());
        }
        if let Some(pending) = self.source.pending.take() {
            return self.core.resend(pending).map(Work::into);
        }
        if self.source.nothing_changed(&mut self.core).await {
            return None;
        }
        if self.core.synchronization().is_some() {
            return self.source.plan_sync(&mut self.core).await.map(Work::into);
        }
        match (self.source.source.take(), self.source.base) {
            (Some(source), Some(base)) => {
                let capture = Capture {
                    record: base.record,
                    parent: base.parent,
                    next: self.core.next_number(base.parent),
                    wanted: self.core.wanted(),
                };
                let work = self.source.plan_capture(&mut self.core, source, capture).await;
                work.map(Work::into)
            }
            (source, _) => {
                // Closing an idle source in order stores what it tracks; a powered-off VM must also be free to start.
                if let Some(source) = source
                    && !source.live()
                    && let Err(e) = source.close().await
                {
                    debug!(vm = %self.core.id, error = %e, "source not closed");
                }
                self.source.plan_settle(&mut self.core).await.map(Work::into)
            }
        }
    }

    pub(crate) async fn cycled(&mut self, end: CycleEnd) {
        match end {
            CycleEnd::Delivered(delivered) => self.delivered(delivered).await,
            CycleEnd::Waiting(pending, e) => {
                self.source.pending = Some(pending);
                self.source.answer_cycle(Err(NoCycle::Link(&e)));
                self.core.count_failure(true).await;
                self.source
                    .passing_fault(&mut self.core, e.problem(), e.note())
                    .await;
            }
            CycleEnd::HeldBack(pending, waiting) => {
                self.source.pending = Some(pending);
                self.source.held_back(waiting);
            }
            CycleEnd::Failed(e) => self.source.copy_failed(&mut self.core, &e).await,
        }
    }

    async fn delivered(&mut self, done: Delivered) {
        let now = self.core.host.ports.clock.reading();
        let sent = CycleResult::Sent {
            bytes: done.bytes,
            instant: done.taken.wall,
            position: done.position,
        };
        if !done.source.live() {
            self.source.verified = Some(done.taken.wall);
        }
        let live = done.source.live();
        self.core.roll_statistics().await;
        let (due, was) = (self.source.due, self.core.rel.as_ref().map(|r| r.state));
        let interval = self.core.tally(|rel| {
            let age = now.about_since(done.taken);
            rel.last_replication = Some(now.wall);
            rel.newest_instant = Some(done.taken.wall);
            rel.recency.instant(now, age);
            rel.counters.arrived(done.bytes, age);
            let interval = rel.settings.interval();
            if matches!(rel.state, State::Replicating | State::Critical) {
                rel.counters.late(due.elapsed(), interval);
            }
            if let Some(primary) = rel.primary_mut() {
                primary.settled = !live;
            }
            interval
        });
        if let Some(interval) = interval {
            // Fixed rate, without a burst of cycles after a long one.
            self.source.next_at = if was == Some(State::WaitingToCompleteInitialReplication) {
                Instant::now() + interval
            } else if due.elapsed() > interval {
                Instant::now()
            } else {
                due + interval
            };
        }
        (self.source.backing_off, self.source.held_back) = (None, None);
        self.source.busy = None;
        self.contact.moved();
        self.core.cured();
        self.core.rejoined();
        self.core.application_taken(&done).await;
        self.source.base = Some(Base::at(done.position));
        if live {
            self.source.source = Some(done.source);
        } else {
            self.source.forget();
            if let Err(e) = done.source.close().await {
                let text = format!("the powered-off VM's disks were not closed in order: {e}");
                self.core.fault(ProblemKind::DisksNotClosed, text).await;
            }
        }
        self.source.close_sync(&mut self.core, done.position).await;
        self.core.acknowledge(done.position).await;
        if !live && done.wanted == Consistency::Planned {
            self.source.prepared(&mut self.core).await;
        }
        self.source.answer_cycle(Ok(&sent));
        if !self.source.awaiting.is_empty() {
            // Asked for while this cycle was under way.
            self.source.next_at = Instant::now();
        }
    }
}
