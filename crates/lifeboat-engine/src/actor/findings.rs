//! What an actor has seen that needs attention, for the health of its relationship. Each part says what it found; nothing
//! is decided here.

use crate::actor::Actor;
use crate::record::Relationship;
use lifeboat_model::Finding;

impl Actor {
    /// Everything that needs attention now, beside the state and the recorded problem.
    pub(crate) fn findings(&self, rel: &Relationship) -> Vec<Finding> {
        let mut found = self.target.clock_findings(&self.core);
        found.extend(
            self.contact
                .silence_findings(&self.core, rel, self.source.waits_for_others()),
        );
        found.extend(self.backlog_findings(rel));
        found.extend(self.source.busy_finding());
        found.extend(self.core.resumed_finding(rel));
        found.extend(self.core.host.certificate_findings(rel));
        found.extend(self.core.orphan_findings(rel));
        found.extend(self.definition.definition_finding());
        found.extend(self.target.rot(&self.core, rel));
        found.extend(self.core.hold_findings(rel));
        found
    }
}
