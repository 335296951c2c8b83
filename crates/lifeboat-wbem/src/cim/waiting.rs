//! Requests that wait for a second person, as clients of the management API see them: a request is a job that has not begun.
//! The method that made the request answered with an error whose text says so, not with this job: clients wait in silence for a
//! job that they are given, so the caller would not learn that a second person has to confirm it.

use crate::cim::hint::told;
use lifeboat_cim::CimError;
use lifeboat_engine::action::{JobView, RequestStage, RequestView};
use lifeboat_engine::query::Query;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint::Again;
use lifeboat_model::{JobId, JobState, RequestId, VmId};
use uuid::Uuid;

use super::ObjectManager;

/// A request as a job.
fn job(request: RequestView) -> JobView {
    let (id, what) = (request.id, &request.what);
    let (state, detail, error) = match &request.state {
        RequestStage::Waits => (
            JobState::New,
            told(
                &format!("waits for a second person: {what}"),
                Some(&Again::Confirm { request: id }.into()),
            ),
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
        kind: request.action.facts().waits_as,
        state,
        percent: 0,
        detail,
        done_bytes: 0,
        total_bytes: 0,
        code: error.as_ref().map(|_| ReturnCode::Unknown),
        error,
        hint: None,
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
