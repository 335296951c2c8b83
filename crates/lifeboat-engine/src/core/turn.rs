//! What becomes of a relationship and of its VM when the record changes, as far as it is shown: what those who watch are told. What is
//! shown beside the record is `host::watch`'s.

use crate::contract::Turn;
use crate::core::Core;
use crate::core::change::Recorded;
use crate::record::{Addressing, Counters, Relationship, Side};
use lifeboat_model::Recency;

/// What became of a relationship that was recorded like this before, and like that now; `None`: nothing that is shown.
fn turn(before: Option<&Relationship>, now: Option<&Relationship>) -> Option<Turn> {
    // A record that only says where the disks are is no replication.
    let shown = |rel: &&Relationship| !matches!(rel.side, Side::Alone);
    match (before.filter(shown), now.filter(shown)) {
        (None, None) => None,
        (None, Some(_)) => Some(Turn::Made),
        (Some(_), None) => Some(Turn::Removed),
        (Some(before), Some(now)) => (steady(before) != steady(now)).then_some(Turn::Changed),
    }
}

/// A record without what is not shown, and without what grows by itself.
fn steady(rel: &Relationship) -> Relationship {
    let mut rel = Relationship {
        recency: Recency::default(),
        counters: Counters::default(),
        callback: None,
        formerly: Vec::new(),
        addressing: Addressing::None,
        // Those that hold are not the record's.
        keys: Vec::new(),
        ..rel.clone()
    };
    if let Some(problem) = &mut rel.problem {
        problem.attempts = 0;
    }
    let position = rel.position;
    match &mut rel.side {
        Side::Primary(side) => {
            side.acknowledged = position;
            (side.sent, side.application_at, side.sealing) = (None, None, None);
            if let Some(sync) = &mut side.sync {
                (sync.start, sync.cursor, sync.sent, sync.tracking) = (position, (0, 0), 0, false);
            }
        }
        Side::Replica(side) => {
            (side.reports, side.asked, side.unequal) = (false, false, false);
            side.sealing = None;
            side.keeping.rate = Default::default();
            for one in side.outgoing.all_mut() {
                (one.recency, one.counters) = (Recency::default(), Counters::default());
                one.comparison = None;
            }
        }
        Side::Test { .. } | Side::Alone => {}
    }
    rel
}

/// What was recorded before a change.
pub(super) struct Before(Option<Relationship>);

impl Core {
    /// What is recorded before a change, if a watch has to be told what becomes of it.
    pub(super) fn before(&self) -> Option<Before> {
        let watched = self.host.changes.is_watched();
        watched.then(|| Before((*self.rel).clone()))
    }

    /// Tells those who watch what became of a record that was like this. Who began to watch meanwhile has not asked for anything yet.
    pub(super) fn tell_turn(&self, before: Option<Before>) {
        let Some(Before(before)) = before else { return };
        // Who is told may look for this VM at once.
        self.publish();
        self.rel.tell_turn(before);
    }
}

impl Recorded {
    fn tell_turn(&self, before: Option<Relationship>) {
        let turned = turn(before.as_ref(), self.as_ref());
        let there = |rel: Option<&Relationship>| self.described || rel.is_some();
        let (was, is) = (there(before.as_ref()), there(self.as_ref()));
        if is && !was {
            self.changes.vm(self.vm, Turn::Made);
        }
        if let Some(turned) = turned {
            self.changes.relationship(self.vm, turned);
            self.changes.look_at(self.vm);
        }
        if was && !is {
            self.changes.vm(self.vm, Turn::Removed);
        }
    }

    /// Tells those who watch that this VM is here from now on.
    pub(crate) fn tell_arrival(&self) {
        if self.described || self.is_some() {
            self.changes.vm(self.vm, Turn::Made);
        }
        if let Some(turned) = turn(None, self.as_ref()) {
            self.changes.relationship(self.vm, turned);
        }
        self.changes.look_at(self.vm);
    }
}
