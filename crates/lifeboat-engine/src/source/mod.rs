//! What sends: the initial copy, cycles, synchronization and loans of a primary, and what a replica forwards to a third host.

pub(crate) mod backlog;
pub(crate) mod busy;
pub(crate) mod copy;
pub(crate) mod forwarder;
pub(crate) mod images;
pub(crate) mod lend;
pub(crate) mod machine;
pub(crate) mod media;
pub(crate) mod operations;
pub(crate) mod outgoing;
pub(crate) mod outgoing_commands;
pub(crate) mod pending;
pub(crate) mod power;
pub(crate) mod primary;
pub(crate) mod resync;
pub(crate) mod schedule;
pub(crate) mod sealing;
pub(crate) mod sync;

use crate::port::capture::CaptureError;
use crate::port::capture::CaptureSource;
use crate::port::link::Standing;
use crate::source::copy::Base;
use crate::source::copy::CycleEnd;
use crate::source::copy::Pending;
use crate::source::images::Awaiting;
use crate::source::images::Unverified;
use crate::work::failure::CopyError;
use crate::work::piece::BackgroundTask;
use lifeboat_model::Timestamp;
use tokio::time::Instant;

/// How a piece of work of this kind ended.
pub(crate) enum Done {
    Copied(Result<Box<dyn CaptureSource>, CopyError>),
    Settled(Result<(Box<dyn CaptureSource>, Base), CopyError>),
    /// The disks could not be opened here; and what the replica says of its copy.
    NotOpened(CaptureError, Option<Box<Standing>>),
    Cycled(CycleEnd),
    Tidied(Result<(), CaptureError>),
    /// What the replica said to the machine and the settings.
    Checked(crate::source::machine::Checked),
    Imported(Result<(), CopyError>),
    SyncBegun(Result<crate::source::sync::Begun, CopyError>),
    SyncStepped(Result<crate::source::sync::Step, CopyError>),
    Lent(crate::source::lend::Lent),
}

/// What the primary keeps in memory between pieces of work. All of it can be lost.
pub(crate) struct SourcePart {
    /// The open disks; `None` after anything went wrong.
    pub(crate) source: Option<Box<dyn CaptureSource>>,
    /// From where cycles go on; `None`: to be settled first.
    pub(crate) base: Option<Base>,
    /// A synchronization that is taken up.
    pub(crate) sync: Option<crate::source::resync::Open>,
    /// A log that waits for the network.
    pub(crate) pending: Option<Pending>,
    /// The bulk copy is complete; the closing cycle is next.
    pub(crate) copied: bool,
    /// Work may have been dropped in the middle of a capture since the disks were last put in order.
    pub(crate) disturbed: bool,
    /// When the next cycle is due.
    pub(crate) next_at: Instant,
    /// Since when an attempt that failed waits for the next one; `None` when nothing failed.
    pub(crate) backing_off: Option<Instant>,
    /// The replica has enough to apply and takes nothing more for now.
    pub(crate) held_back: Option<crate::work::message::HeldBack>,
    /// Others use the disks, and the next cycle waits for them.
    pub(crate) busy: Option<crate::source::busy::Busy>,
    /// When the current cycle was due.
    pub(crate) due: Instant,
    /// What was scheduled and could not begin is tried again then.
    pub(crate) begin_after: Instant,
    /// The merge of a commit, by the running VM's own process, beside the cycles.
    pub(crate) merging: Option<BackgroundTask>,
    /// Replicas that wait for bytes of the disks.
    pub(crate) loans: Vec<crate::source::lend::Loan>,
    /// A merge that failed is tried again then.
    pub(crate) merge_after: Instant,
    /// When the images of the powered-off VM were last seen to be what the replica has.
    pub(crate) verified: Option<Timestamp>,
    /// Why that could not be seen the last time.
    pub(crate) unverified: Option<Unverified>,
    /// Captures that were begun.
    pub(crate) captures: u64,
    /// Those who wait for the result of a cycle.
    pub(crate) awaiting: Vec<Awaiting>,
    /// What the replica knows of the machine.
    pub(crate) told: crate::source::machine::Told,
}

impl Default for SourcePart {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            told: Default::default(),
            source: None,
            base: None,
            sync: None,
            pending: None,
            copied: false,
            disturbed: true,
            next_at: now,
            backing_off: None,
            held_back: None,
            busy: None,
            due: now,
            begin_after: now,
            merging: None,
            loans: Vec::new(),
            merge_after: now,
            verified: None,
            unverified: None,
            captures: 0,
            awaiting: Vec::new(),
        }
    }
}

impl SourcePart {
    /// Lets go of everything, so that the next piece of work begins by finding order.
    pub(crate) fn forget(&mut self) {
        (self.source, self.base, self.pending, self.copied) = (None, None, None, false);
        self.sync = None;
        self.disturbed = true;
    }
}
