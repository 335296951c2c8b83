//! Questions: actions that have an answer of one type, together with that type, so that who asks gets just that. Which action has
//! which answer is said here and nowhere else; what an action does is in [`crate::action`].

use crate::common::by::By;
use crate::contract::paging::{Page, Paging};
use crate::contract::{
    Action, Answer, CycleResult, EventView, JobView, Management, PointView, Refusal, RequestView, ServerView,
    VmRef, VmView,
};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{AuthorizationEntry, JobId, hint};

/// An action whose answer holds a `T`.
#[derive(Debug)]
pub struct Query<T> {
    action: Action,
    read: fn(Answer) -> Option<T>,
}

/// A question that was answered with something else: by a daemon of another version, or by a fault of this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} was answered with something else")]
pub struct Unexpected {
    /// Name of the action.
    pub asked: String,
}

impl Unexpected {
    /// The same as an action is refused.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        Refusal::new(ReturnCode::Failed, self.to_string(), hint::Again::ReportBug)
    }
}

/// Reads one kind of answer.
macro_rules! only {
    ($kind:ident) => {
        |answer| match answer {
            Answer::$kind(held) => Some(held),
            _ => None,
        }
    };
}

impl Query<Page<VmView>> {
    /// VMs of this host, by name and UUID.
    #[must_use]
    pub fn list_vms(page: Paging) -> Self {
        Self::new(Action::ListVms(page), only!(Vms))
    }
}

impl Query<VmView> {
    /// One VM.
    #[must_use]
    pub fn show_vm(vm: impl Into<VmRef>) -> Self {
        let read = |answer: Answer| match answer {
            Answer::Vm(view) => Some(*view),
            _ => None,
        };
        Self::new(Action::ShowVm { vm: vm.into() }, read)
    }
}

impl Query<Vec<u8>> {
    /// A picture of a VM's screen, as PNG.
    #[must_use]
    pub fn screenshot(vm: impl Into<VmRef>) -> Self {
        Self::new(Action::Screenshot { vm: vm.into() }, only!(Picture))
    }
}

impl Query<CycleResult> {
    /// A cycle now, and what came of it. It changes something, unlike the other questions.
    #[must_use]
    pub fn replicate_now(vm: impl Into<VmRef>) -> Self {
        Self::new(Action::ReplicateNow { vm: vm.into() }, only!(Cycle))
    }
}

impl Query<Page<PointView>> {
    /// Recovery points of a replica, newest first.
    #[must_use]
    pub fn list_points(vm: impl Into<VmRef>, page: Paging) -> Self {
        Self::new(Action::ListPoints { vm: vm.into(), page }, only!(Points))
    }
}

impl Query<Page<JobView>> {
    /// Jobs, newest first.
    #[must_use]
    pub fn list_jobs(page: Paging) -> Self {
        Self::new(Action::ListJobs(page), only!(Jobs))
    }
}

impl Query<JobView> {
    /// One job.
    #[must_use]
    pub fn show_job(job: JobId) -> Self {
        Self::new(Action::ShowJob { job }, only!(Job))
    }
}

impl Query<Page<EventView>> {
    /// The newest events of one VM, or of all; at most `limit`, 1 to 1000, in a page.
    #[must_use]
    pub fn list_events(vm: Option<VmRef>, limit: u32) -> Self {
        let after = None;
        Self::new(Action::ListEvents { vm, limit, after }, only!(Events))
    }
}

impl Query<Page<AuthorizationEntry>> {
    /// Authorization entries, by primary.
    #[must_use]
    pub fn list_authorization(page: Paging) -> Self {
        Self::new(Action::ListAuthorization(page), only!(Entries))
    }
}

impl Query<ServerView> {
    /// This host as a replica server.
    #[must_use]
    pub fn show_server() -> Self {
        Self::new(Action::ShowServer, only!(Server))
    }
}

impl Query<Vec<RequestView>> {
    /// What waits for a second person, oldest first.
    #[must_use]
    pub fn list_requests() -> Self {
        Self::new(Action::ListRequests, only!(Requests))
    }
}

impl<T> Query<T> {
    fn new(action: Action, read: fn(Answer) -> Option<T>) -> Self {
        Self { action, read }
    }

    /// What is asked.
    #[must_use]
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// What the answer holds.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn read(&self, answer: Answer) -> Result<T, Unexpected> {
        (self.read)(answer).ok_or_else(|| Unexpected {
            asked: self.action.name(),
        })
    }
}

impl<T> Query<Page<T>> {
    /// The same list from another place on, which a page of it named.
    #[must_use]
    pub fn going_on(&self, from: String) -> Option<Self> {
        let action = self.action.going_on(from)?;
        Some(Self::new(action, self.read))
    }
}

impl dyn Management + '_ {
    /// Asks a question. `by` as in [`Management::perform`].
    ///
    /// # Errors
    /// The refusal of its action; `Failed` when the answer is none to it.
    pub async fn query<T>(&self, by: Option<By>, query: Query<T>) -> Result<T, Refusal> {
        let answer = self.perform(by, query.action.clone()).await?;
        query.read(answer).map_err(Unexpected::refusal)
    }

    /// Asks for the whole of a list, page by page.
    ///
    /// # Errors
    /// That of the first page that there is none of.
    pub async fn whole<T>(&self, by: Option<By>, mut query: Query<Page<T>>) -> Result<Vec<T>, Refusal> {
        let mut all = Vec::new();
        loop {
            let answer = self.perform(by.clone(), query.action.clone()).await?;
            let Page { items, next } = query.read(answer).map_err(Unexpected::refusal)?;
            all.extend(items);
            match next.and_then(|from| query.going_on(from)) {
                Some(next) => query = next,
                None => return Ok(all),
            }
        }
    }
}
