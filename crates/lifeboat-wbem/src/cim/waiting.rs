//! What waits for a second person, as clients of the management API see it: a request is a job that has not begun. A method that
//! made one has answered with an error and its words, not with this job: clients wait for a job they were given, and nobody
//! would tell whoever called it that somebody else has to do something.

use lifeboat_cim::CimError;
use lifeboat_engine::action::{Action, JobView, RequestStage, RequestView};
use lifeboat_engine::query::Query;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{JobId, JobState, JobType, RequestId, VmId};
use uuid::Uuid;

use super::ObjectManager;

/// The kind of job that would carry an action out.
fn kind(action: &Action) -> JobType {
    match action {
        Action::CommitFailover { .. } => JobType::CommitFailover,
        Action::ModifyReplication { .. } => JobType::ModifySettings,
        Action::RemoveReplication { .. }
        | Action::ForgetReplication { .. }
        | Action::RemoveExtended { .. }
        | Action::DropAbandoned { .. } => JobType::RemoveRelationship,
        // Entries; and nothing else waits.
        _ => JobType::ServerSettings,
    }
}

/// A request as a job.
fn job(request: RequestView) -> JobView {
    let (id, what) = (request.id, &request.what);
    let (state, detail, error) = match &request.state {
        RequestStage::Waits => (
            JobState::New,
            format!("waits for a second person: {what}; lifeboat request confirm {id}"),
            None,
        ),
        RequestStage::Confirmed { .. } => (JobState::Running, what.clone(), None),
        RequestStage::NotKnown { .. } => {
            let error = format!("it was confirmed, and whether it was carried out is not known: {what}");
            (JobState::Exception, what.clone(), Some(error))
        }
    };
    let by = match request.state {
        RequestStage::Waits => request.by,
        RequestStage::Confirmed { second } | RequestStage::NotKnown { second } => {
            request.by.confirmed_by(*second)
        }
    };
    JobView {
        id: JobId(id.0),
        vm: request.vm.unwrap_or(VmId(Uuid::nil())),
        kind: kind(&request.action),
        state,
        percent: 0,
        detail,
        done_bytes: 0,
        total_bytes: 0,
        code: error.as_ref().map(|_| ReturnCode::Unknown),
        error,
        created: request.asked,
        started: None,
        ended: None,
        by: Some(by),
    }
}

impl ObjectManager {
    async fn requests(&self) -> Result<Vec<RequestView>, CimError> {
        self.ask(Query::list_requests()).await
    }

    /// All requests as jobs, newest first.
    pub(crate) async fn waiting_jobs(&self) -> Result<Vec<JobView>, CimError> {
        Ok(self.requests().await?.into_iter().rev().map(job).collect())
    }

    /// The request that is shown as this job.
    pub(crate) async fn waiting(&self, job: JobId) -> Result<Option<RequestId>, CimError> {
        let all = self.requests().await?;
        Ok(all.iter().find(|r| r.id.0 == job.0).map(|r| r.id))
    }

    /// A request as a job, by the job's id.
    pub(crate) async fn waiting_job(&self, id: JobId) -> Result<Option<JobView>, CimError> {
        let all = self.requests().await?;
        Ok(all.into_iter().find(|r| r.id.0 == id.0).map(job))
    }
}
