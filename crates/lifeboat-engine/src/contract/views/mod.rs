//! What surfaces show: VMs, replications and what they go through, points, jobs, events, requests, the host. Their form as JSON is
//! that of the REST documents. How far something is, is said by stages that people know, not by the steps in which the engine
//! works and records.

mod condition;
mod host;
mod job;
mod lifecycle;
mod point;
mod replication;
mod vm;

pub use condition::{BacklogView, ChangesView, ContactView, CountersView, HistoryView, HoldReason, HoldView};
pub use host::{
    AtRestView, CertificateView, DirectoryContent, DirectoryView, ServerKeys, ServerSettings, ServerView,
};
pub use job::{EventView, JobView, RequestStage};
pub use lifecycle::{
    AbandonedView, DiskPlace, FailoverStage, FailoverView, PlannedStage, PlannedView, SplitStage, SplitView,
    SynchronizationReason, SynchronizationView, TestStage, TestView,
};
pub use point::PointView;
pub use replication::{BulkView, ExtendedView, KnownKeyView, ReplicationView};
pub use vm::{ConsoleView, PowerNote, ProcessView, SeenPower, VmTimes, VmView};
