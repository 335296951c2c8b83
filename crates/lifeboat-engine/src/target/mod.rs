//! What receives: offers and logs from the primary, applying, sealing, expiring, verifying, and the history that is kept.

pub(crate) mod aging;
pub(crate) mod backlog;
pub(crate) mod clock;
pub(crate) mod fitting;
pub(crate) mod hold;
pub(crate) mod media;
pub(crate) mod points;
pub(crate) mod question;
pub(crate) mod replica;
pub(crate) mod scrub;
pub(crate) mod settings;
pub(crate) mod storage;
pub(crate) mod stores;

use crate::core::aging::Aging;
use crate::host::clock::PeerClock;
use crate::port::link::PeerIdentity;
use crate::port::store::StoreError;
use crate::target::backlog::Queue;
use crate::target::replica::Maintained;
use crate::work::message::Bound;
use crate::work::message::Permit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How a piece of work of this kind ended.
pub(crate) enum Done {
    Maintained(Box<Result<Maintained, StoreError>>),
    Expired(Result<bool, StoreError>),
    Scrubbed(crate::target::scrub::Scrubbed),
}

/// What the replica keeps in memory. All of it can be lost.
pub(crate) struct TargetPart {
    /// There may be logs to apply or points to seal.
    pub(crate) dirty: bool,
    /// Points or logs may be due to expire. They may at the start: a daemon that never lives long must not fill the disk.
    pub(crate) expire: bool,
    /// Expiry had its turn after what was applied last.
    pub(crate) expiry_had_its_turn: bool,
    /// When to look again.
    pub(crate) next_at: Instant,
    /// Follows a planned failover that the primary was asked for.
    pub(crate) following: Option<crate::work::piece::BackgroundTask>,
    /// Failures of the current work in a row.
    pub(crate) attempts: u32,
    /// What is durable and not applied.
    pub(crate) queue: Queue,
    /// When points and logs were last looked through for expiry.
    pub(crate) expired_at: Instant,
    /// Since when an attempt that failed waits for the next one.
    pub(crate) backing_off: Option<Instant>,
    /// Verifying the files.
    pub(crate) scrub: crate::target::scrub::Scrubbing,
    /// Logs on their way in. They pass by the actor, so that it must be able to end them and to wait for that.
    pub(crate) receiving: (CancellationToken, TaskTracker),
    /// Who was let in last to send one.
    pub(crate) sender: Option<PeerIdentity>,
    /// What the store said of the files when it was asked last, so that only what is new becomes an event.
    pub(crate) storage_faults: Vec<crate::port::storage::StorageFault>,
    /// When what is here arrived.
    pub(crate) aging: Aging,
    /// What the logs say of the primary's clock.
    pub(crate) peer_clock: PeerClock,
    /// How much of what changed was counted.
    pub(crate) counted: Option<crate::target::hold::Counted>,
}

impl TargetPart {
    /// The store has taken a copy over.
    pub(crate) fn adopted(&mut self) {
        self.dirty = true;
        self.begin_now();
    }

    /// The next piece of work need not wait for whatever the last one waited for.
    pub(crate) fn begin_now(&mut self) {
        (self.attempts, self.next_at) = (0, Instant::now());
        self.backing_off = None;
    }

    /// Ends what is being received and waits until nothing is. What arrived is kept, and resumed if it may be.
    pub(crate) async fn stop_receiving(&mut self) {
        let (ended, counted) = std::mem::take(&mut self.receiving);
        ended.cancel();
        counted.close();
        counted.wait().await;
    }

    pub(crate) fn permit(&self, bound: Bound) -> Permit {
        Permit {
            bound,
            ended: self.receiving.0.clone(),
            _counted: self.receiving.1.token(),
        }
    }
}

impl Default for TargetPart {
    fn default() -> Self {
        Self {
            dirty: false,
            expire: true,
            expiry_had_its_turn: true,
            next_at: Instant::now(),
            following: None,
            attempts: 0,
            queue: Queue::default(),
            expired_at: Instant::now(),
            backing_off: None,
            scrub: Default::default(),
            receiving: Default::default(),
            sender: None,
            storage_faults: Vec::new(),
            aging: Aging::default(),
            peer_clock: PeerClock::default(),
            counted: None,
        }
    }
}
