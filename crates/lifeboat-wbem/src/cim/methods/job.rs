//! Methods of a job: cancelling it, and reading its error. What a job does is not known here.

use crate::cim::embedded::advised;
use crate::cim::hint;
use lifeboat_cim::{CimError, DateTime, Instance, Value};
use lifeboat_engine::action::{Action, JobView, Refusal};
use lifeboat_model::JobId;
use lifeboat_model::api::ReturnCode;

use super::{Answered, Call, Outcome, missing};
use crate::cim::embedded::{self, invalid, unsupported};

/// Return value of a call with a timeout, which is not supported.
const NO_TIMEOUT: u32 = 4098;
/// CIM_ERR_FAILED.
const FAILED: u32 = 1;
/// `PerceivedSeverity`: high.
const HIGH: u16 = 4;

fn id(call: &Call<'_>) -> Result<JobId, Refusal> {
    let id = call.target.name.text("InstanceID").unwrap_or_default();
    id.parse().map_err(|_| invalid("this job has no id"))
}

/// Cancels a job. Terminate and kill are the same: a job that ends early leaves its data consistent in both cases.
pub(super) async fn request_state_change(call: &Call<'_>) -> Answered {
    const STATE: &str = "RequestedState";
    let timeout = call.arguments.get("TimeoutPeriod");
    // Some clients write an interval of 0 when they want no limit.
    if timeout.is_some_and(|t| *t != Value::DateTime(DateTime::Interval(0))) {
        return Ok(Outcome {
            value: NO_TIMEOUT,
            out: Vec::new(),
        });
    }
    match call.arguments.number(STATE).ok_or_else(|| missing(STATE))? {
        4 | 5 => {
            let job = id(call)?;
            let waiting = call.manager.waiting(job).await.map_err(unreadable)?;
            let action = match waiting {
                Some(request) => Action::DenyRequest { request },
                None => Action::CancelJob { job },
            };
            call.done(action).await
        }
        2 | 3 | 6 => Err(unsupported("a job can only be terminated (4) or killed (5)", "")),
        other => Err(invalid(format!("{STATE} {other}: use 4 (terminate) or 5 (kill)"))),
    }
}

async fn show(call: &Call<'_>) -> Result<JobView, Refusal> {
    let job = call.manager.job(id(call)?).await.map_err(unreadable)?;
    job.ok_or_else(|| advised(ReturnCode::FileNotFound, "the job is no longer remembered", ""))
}

fn unreadable(e: CimError) -> Refusal {
    advised(ReturnCode::Failed, e.message, "")
}

/// The error of a job that failed; `MessageID` is the return value that its method would have had.
async fn failure(call: &Call<'_>) -> Result<Option<Instance>, Refusal> {
    let job = show(call).await?;
    let code = job.code.map(|c| c.number().to_string());
    let error = job.error.as_deref().map(|m| hint::told(m, job.hint.as_ref()));
    Ok(error.map(|m| embedded::error(&m, FAILED, HIGH).with_some("MessageID", code)))
}

/// Null when the job has not failed.
pub(super) async fn error(call: &Call<'_>) -> Answered {
    Ok(match failure(call).await? {
        Some(error) => Outcome::done().with("Error", error),
        None => Outcome::done(),
    })
}

/// Empty when the job has not failed.
pub(super) async fn errors(call: &Call<'_>) -> Answered {
    let errors = failure(call).await?.map(Value::from);
    Ok(Outcome::done().with("Errors", Value::Array(errors.into_iter().collect())))
}
