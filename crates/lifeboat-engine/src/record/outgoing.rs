//! What a replica remembers of the relationships in which it forwards what arrives: to each third host it is what a primary is
//! to a replica. A VM may have any number of them.

use super::{Counters, Problem, nothing_set};
use crate::common::address::host_of;
use lifeboat_model::{
    JobId, PointId, Position, Recency, RelationshipId, ReplicationSettings, ReplicationState, Timestamp,
};
use serde::{Deserialize, Serialize};

/// The outgoing relationships of a replica, by their numbers. In a document the first one is `extended`, where a release that
/// knew no more than one finds it, and the others are `further`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Outgoing(Vec<OutgoingRelationship>);

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Written {
    extended: Option<Box<OutgoingRelationship>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    further: Vec<OutgoingRelationship>,
}

impl FromIterator<OutgoingRelationship> for Outgoing {
    fn from_iter<I: IntoIterator<Item = OutgoingRelationship>>(relationships: I) -> Self {
        let mut all = Self::default();
        relationships.into_iter().for_each(|one| all.put(one));
        all
    }
}

impl From<Written> for Outgoing {
    fn from(written: Written) -> Self {
        let first = written.extended.map(|one| *one);
        first.into_iter().chain(written.further).collect()
    }
}

impl From<Outgoing> for Written {
    fn from(all: Outgoing) -> Self {
        let mut all = all.0.into_iter();
        Self {
            extended: all.next().map(Box::new),
            further: all.collect(),
        }
    }
}

impl Outgoing {
    /// All of them, by their numbers.
    #[must_use]
    pub fn all(&self) -> &[OutgoingRelationship] {
        &self.0
    }

    /// The one with this number.
    #[must_use]
    pub fn get(&self, id: RelationshipId) -> Option<&OutgoingRelationship> {
        self.0.iter().find(|one| one.id == id)
    }

    /// The same, to change it. Its number stays.
    pub(crate) fn get_mut(&mut self, id: RelationshipId) -> Option<&mut OutgoingRelationship> {
        self.0.iter_mut().find(|one| one.id == id)
    }

    /// All of them, to change them. Their numbers stay.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut OutgoingRelationship> {
        self.0.iter_mut()
    }

    /// The lowest number that none of them has.
    pub(crate) fn free(&self) -> RelationshipId {
        let mut id = RelationshipId::FIRST_OUTGOING;
        while self.get(id).is_some() {
            id = id.next();
        }
        id
    }

    /// Adds one, in place of the one with its number.
    pub(crate) fn put(&mut self, one: OutgoingRelationship) {
        match self.0.binary_search_by_key(&one.id, |there| there.id) {
            Ok(at) => self.0[at] = one,
            Err(at) => self.0.insert(at, one),
        }
    }

    /// Takes one away.
    pub(crate) fn remove(&mut self, id: RelationshipId) {
        self.0.retain(|one| one.id != id);
    }
}

/// The relationship of a replica to a third host, in which it is what a primary is to a replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutgoingRelationship {
    /// Its number, as long as it lasts: the index that the API shows. Above 0; the document of a release that knew no more than one
    /// does not say it.
    #[serde(skip_serializing_if = "RelationshipId::is_first_outgoing")]
    pub id: RelationshipId,
    /// Settings; the peer in them is the third host.
    pub settings: ReplicationSettings,
    /// State by the API's table of a primary.
    pub state: ReplicationState,
    /// Last position that the host has confirmed as durable; `None` before the initial copy is there.
    pub acknowledged: Option<Position>,
    /// A comparison that goes on.
    pub comparison: Option<Comparison>,
    /// The job of a comparison that an administrator asked for, until it is over.
    pub compare: Option<JobId>,
    /// When the copy or a comparison is to begin; `None` when nothing waits.
    pub scheduled: Option<Timestamp>,
    /// What would keep the VM from starting there.
    pub preflight: Vec<String>,
    /// What is wrong now.
    pub problem: Option<Problem>,
    /// When the relationship was made.
    pub created: Timestamp,
    /// Last log sent.
    pub last_replication: Option<Timestamp>,
    /// Instant of the newest data there.
    pub newest_instant: Option<Timestamp>,
    /// The same two by clocks that cannot be set: what ages are measured by.
    pub recency: Recency,
    /// Counters since it was made.
    pub counters: Counters,
    /// The job of the initial copy.
    pub job: Option<JobId>,
    /// The job that waits for the time in `scheduled`; `None` also in the document of a release that knew no more than one
    /// relationship.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<JobId>,
}

impl OutgoingRelationship {
    /// Whether this names its host: `HOST:PORT` as in its settings, or `HOST`.
    pub(crate) fn is_to(&self, named: &str) -> bool {
        let there = &self.settings.peer;
        there.eq_ignore_ascii_case(named) || host_of(there).eq_ignore_ascii_case(named)
    }
}

/// To no peer, with nothing sent.
impl Default for OutgoingRelationship {
    fn default() -> Self {
        Self {
            id: RelationshipId::FIRST_OUTGOING,
            settings: nothing_set(),
            state: ReplicationState::Disabled,
            acknowledged: None,
            comparison: None,
            compare: None,
            scheduled: None,
            preflight: Vec::new(),
            problem: None,
            created: Timestamp::default(),
            last_replication: None,
            newest_instant: None,
            recency: Recency::default(),
            counters: Counters::default(),
            job: None,
            waiting: None,
        }
    }
}

/// How far a copy of a copy is compared with a sealed point. Lost, it begins again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The point.
    pub point: PointId,
    /// Where the other copy stands.
    pub at: Position,
    /// What lies before it is equal: disk number and offset.
    pub cursor: (u16, u64),
}
