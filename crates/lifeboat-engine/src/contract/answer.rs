//! What an action is answered with: the views of what there is, and the interface by which surfaces ask. Why an action is refused
//! is `refusal`'s.

use super::views::{EventView, JobView, PointView, ServerView, VmView};
use super::{Action, Refusal, RequestView, Watch};
use crate::common::by::By;
use crate::contract::paging::Page;
use lifeboat_model::{AuthorizationEntry, Position, Timestamp};
use serde::{Deserialize, Serialize};

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "kebab-case")]
pub enum Answer {
    /// It was carried out, and there is nothing to tell of it.
    Done,
    /// VMs, by name and UUID.
    Vms(Page<VmView>),
    /// A VM.
    Vm(Box<VmView>),
    /// A PNG.
    Picture(Vec<u8>),
    /// Recovery points, newest first.
    Points(Page<PointView>),
    /// A job that carries on, or that ended.
    Job(JobView),
    /// Jobs, newest first.
    Jobs(Page<JobView>),
    /// Events, newest first.
    Events(Page<EventView>),
    /// Authorization entries.
    Entries(Page<AuthorizationEntry>),
    /// This host.
    Server(ServerView),
    /// How a cycle ended.
    Cycle(CycleResult),
    /// What waits for a second person.
    Requests(Vec<RequestView>),
}

impl Answer {
    /// The job that an action has started, or is about; `None` when it was done at once.
    #[must_use]
    pub fn job(self) -> Option<JobView> {
        match self {
            Self::Job(job) => Some(job),
            Self::Done
            | Self::Vms(_)
            | Self::Vm(_)
            | Self::Picture(_)
            | Self::Points(_)
            | Self::Jobs(_)
            | Self::Events(_)
            | Self::Entries(_)
            | Self::Server(_)
            | Self::Cycle(_)
            | Self::Requests(_) => None,
        }
    }
}

/// What came of a cycle that a user asked for. One that failed is a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum CycleResult {
    /// A log of what changed is durable on the replica.
    Sent {
        /// Bytes of the log; a log without any change has some hundred.
        bytes: u64,
        /// The instant that the replica holds now.
        instant: Timestamp,
        /// The replica stands here.
        position: Position,
    },
    /// The VM is off, and its images are what they were when they were last sent.
    Unchanged {
        /// When they were looked at.
        verified: Timestamp,
    },
}

/// The engine as surfaces see it. What has an answer of its own type is asked as a [`Query`](crate::contract::query::Query).
#[async_trait::async_trait]
pub trait Management: Send + Sync {
    /// Carries out an action, or starts the job that does. `by` is who asks; `None` for the questions of a surface itself.
    async fn perform(&self, by: Option<By>, action: Action) -> Result<Answer, Refusal>;
    /// What changes from now on: VMs, relationships, jobs and events, in order. Who watches before asking misses nothing.
    fn watch(&self) -> Watch;
}
