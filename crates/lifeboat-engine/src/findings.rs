//! What an actor has seen that needs attention, for the health of its relationship. Each part of the actor says what it
//! found; nothing is decided here, and nothing is remembered here.

use lifeboat_model::policy::Finding;

use crate::actor::Actor;
use crate::records::Relationship;

impl Actor {
    /// Everything that needs attention now, beside the state and the recorded problem.
    pub(crate) fn findings(&self, rel: &Relationship) -> Vec<Finding> {
        let mut found = self.clock_findings();
        found.extend(self.silence_findings(rel));
        found.extend(self.backlog_findings(rel));
        found.extend(self.busy_finding());
        found.extend(self.resumed_finding(rel));
        found.extend(self.host.certificate_findings(rel));
        found.extend(self.orphan_findings(rel));
        found.extend(self.definition_finding());
        found.extend(self.rot(rel));
        found.extend(self.hold_findings(rel));
        found
    }
}
