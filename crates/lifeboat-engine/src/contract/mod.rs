//! The engine as management surfaces see it: what can be asked (`action`) and by whom (`facts`), what it is answered with (`answer`,
//! `views`), why it is refused (`refusal`), and what changes meanwhile (`watch`). Nothing here is recorded or sent to another host:
//! the catalog has [`crate::record`], the link has [`crate::port::link`], and a change of either changes nothing here.

mod action;
mod answer;
mod facts;
mod paged;
pub mod paging;
pub mod query;
pub(crate) mod refusal;
mod relationship;
mod request;
mod selectors;
mod views;
mod watch;

pub use action::Action;
pub use answer::{Answer, CycleResult, Management};
pub use facts::{Facts, Role, Taking};
pub use refusal::Refusal;
pub use relationship::RelationshipRef;
pub use request::RequestView;
pub use selectors::{InitialCopy, PointSelector, VmRef};
pub use views::{
    AbandonedView, AtRestView, BacklogView, BulkView, CertificateView, ChangesView, ConsoleView, ContactView,
    CountersView, DirectoryContent, DirectoryView, DiskPlace, EventView, ExtendedView, FailoverStage,
    FailoverView, HistoryView, HoldReason, HoldView, JobView, KnownKeyView, PlannedStage, PlannedView,
    PointView, PowerNote, ProcessView, ReplicationView, RequestStage, SeenPower, ServerKeys, ServerSettings,
    ServerView, SplitStage, SplitView, SynchronizationReason, SynchronizationView, TestStage, TestView,
    VmTimes, VmView,
};
pub use watch::{BEHIND, Change, Feed, NotTold, Turn, Watch, What};
