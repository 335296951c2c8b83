//! The end of an import: the replica has its initial copy. Reading the medium is `source::media`'s.

use crate::core::Core;
use crate::target::TargetPart;
use crate::work::failure::CopyError;
use lifeboat_model::causes::chain;
use lifeboat_model::{JobState, Note};

impl TargetPart {
    pub(crate) async fn imported(&mut self, core: &mut Core, result: Result<(), CopyError>) {
        let Ok(mut change) = core.change() else { return };
        let import = change.replica().and_then(|r| r.import.as_ref());
        let job = import.map(|i| i.job);
        change.set_import(None);
        let (state, why) = match &result {
            Ok(()) => (JobState::Completed, None),
            Err(e) => (JobState::Exception, Some(Note::from(chain(e)))),
        };
        if result.is_ok() {
            change.awaits_no_import();
        }
        change.tell(match &why {
            None => "the initial copy is imported; what arrived meanwhile is applied to it now".into(),
            Some(why) => why
                .clone()
                .within(|why| format!("the initial copy was not imported: {why}")),
        });
        change.end_job(&core.host.jobs, job, state, why);
        if core.conclude_work(change).await {
            self.dirty = true;
        }
    }
}
