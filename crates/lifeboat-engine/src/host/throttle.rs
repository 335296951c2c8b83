//! How fast this host sends: one bucket for the host, one for each relationship, with limits that follow the time of day.
//! It stands between the engine and the link, so that nothing is sent past it: initial copies, deltas, synchronizations
//! and digests. What is *received* is not limited here; that is the sender's business.
//!
//! Ready-made limiters were looked at and left: their quotas are fixed when they are made, and ours change with the hour
//! and by hand while bytes wait.

use crate::port::link::{
    KeyJudge, LinkError, LogAddress, LogReceipt, NoAnswer, PeerLink, PeerReply, PeerRequest,
};
use crate::port::{ByteStream, Clock};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use lifeboat_model::{Bandwidth, VmId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes that pass at once under a limit. One second's worth at the lowest limit there is: the link stays alive.
const PIECE: usize = 64 << 10;

/// How often a limit is looked at while bytes wait: a change counts within this time.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Time not used before that may be used up at once, so that short pauses of a sender do not lower its rate.
const SLACK: Duration = Duration::from_millis(250);

/// The limits of a host.
pub(crate) struct Throttle {
    clock: Arc<dyn Clock>,
    host: Bucket,
    relationships: Mutex<BTreeMap<VmId, BTreeMap<String, Arc<Bucket>>>>,
}

/// One limit and how far it is used up.
struct Bucket {
    limit: Mutex<Bandwidth>,
    /// When everything that passed so far has been paid for. Held while waiting, so that who came first goes first.
    paid: tokio::sync::Mutex<Instant>,
}

impl Bucket {
    fn new(limit: Bandwidth) -> Self {
        Self {
            limit: Mutex::new(limit),
            paid: tokio::sync::Mutex::new(Instant::now()),
        }
    }

    fn set(&self, limit: &Bandwidth) {
        let mut now = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != *limit {
            now.clone_from(limit);
        }
    }

    fn rate(&self, clock: &dyn Clock) -> Option<u64> {
        let limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if limit.windows.is_empty() {
            return limit.at(0);
        }
        limit.at(clock.local_minute())
    }

    /// Waits until `bytes` may pass.
    async fn pass(&self, clock: &dyn Clock, bytes: u64) {
        if self.rate(clock).is_none() {
            return;
        }
        let mut paid = self.paid.lock().await;
        while let Some(rate) = self.rate(clock) {
            let now = Instant::now();
            let wait = paid.saturating_duration_since(now);
            if wait.is_zero() {
                let from = (*paid).max(now.checked_sub(SLACK).unwrap_or(now));
                let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
                *paid = from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                return;
            }
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
        *paid = Instant::now();
    }
}

impl Throttle {
    pub(crate) fn new(clock: Arc<dyn Clock>, host: Bandwidth) -> Self {
        Self {
            clock,
            host: Bucket::new(host),
            relationships: Mutex::default(),
        }
    }

    /// The limit for everything this host sends, from now on.
    pub(crate) fn set_host(&self, limit: &Bandwidth) {
        self.host.set(limit);
    }

    /// The limit for what is sent of one VM to one host, from now on.
    pub(crate) fn set(&self, vm: VmId, peer: &str, limit: &Bandwidth) {
        let mut all = self.relationships.lock().unwrap_or_else(PoisonError::into_inner);
        let of_vm = all.entry(vm).or_default();
        match of_vm.get(peer) {
            Some(bucket) => bucket.set(limit),
            None if *limit == Bandwidth::default() => {}
            None => drop(of_vm.insert(peer.to_owned(), Arc::new(Bucket::new(limit.clone())))),
        }
    }

    fn bucket(&self, (vm, peer): (VmId, &str)) -> Option<Arc<Bucket>> {
        let all = self.relationships.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&vm)?.get(peer).cloned()
    }

    fn limited(&self, of: (VmId, &str)) -> bool {
        let clock = &*self.clock;
        self.host.rate(clock).is_some() || self.bucket(of).is_some_and(|b| b.rate(clock).is_some())
    }

    /// Waits until `bytes` of this VM may be sent to this host.
    async fn pass(&self, of: (VmId, &str), bytes: u64) {
        // The own limit first: a relationship that waits for it must not hold up others at the host's.
        if let Some(own) = self.bucket(of) {
            own.pass(&*self.clock, bytes).await;
        }
        self.host.pass(&*self.clock, bytes).await;
    }

    fn paced(self: &Arc<Self>, (vm, peer): (VmId, &str), body: ByteStream) -> ByteStream {
        let start = (self.clone(), body, Bytes::new(), peer.to_owned());
        Box::pin(stream::unfold(
            start,
            move |(throttle, mut body, mut rest, peer)| async move {
                if rest.is_empty() {
                    match body.next().await? {
                        Ok(bytes) => rest = bytes,
                        Err(e) => return Some((Err(e), (throttle, body, rest, peer))),
                    }
                }
                let piece = if throttle.limited((vm, &peer)) {
                    rest.split_to(PIECE.min(rest.len()))
                } else {
                    std::mem::take(&mut rest)
                };
                throttle.pass((vm, &peer), amount(piece.len())).await;
                Some((Ok(piece), (throttle, body, rest, peer)))
            },
        ))
    }
}

fn amount(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A link whose bodies keep to the limits.
pub(crate) struct PacedLink {
    pub(crate) link: Arc<dyn PeerLink>,
    pub(crate) throttle: Arc<Throttle>,
}

#[async_trait]
impl PeerLink for PacedLink {
    fn judged_by(&self, judge: Arc<dyn KeyJudge>) {
        self.link.judged_by(judge);
    }

    async fn call(&self, peer: &str, request: PeerRequest) -> Result<PeerReply, LinkError> {
        // Of the control calls only digests grow with the disks.
        if let PeerRequest::Compare { vm, ranges, .. } = &request {
            let digests: usize = ranges.iter().map(|r| r.digests.len()).sum();
            self.throttle.pass((*vm, peer), amount(digests)).await;
        }
        self.link.call(peer, request).await
    }

    async fn ask(&self, peer: &str, request: PeerRequest, patience: Duration) -> Result<PeerReply, NoAnswer> {
        self.link.ask(peer, request, patience).await
    }

    async fn send(&self, peer: &str, address: LogAddress, body: ByteStream) -> Result<LogReceipt, LinkError> {
        let (LogAddress::Delta { vm, .. } | LogAddress::Bulk { vm }) = address;
        self.link
            .send(peer, address, self.throttle.paced((vm, peer), body))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_model::{BandwidthWindow, DayWindow, Reading, Timestamp};
    use std::sync::atomic::{AtomicU16, Ordering};
    use uuid::Uuid;

    /// A clock whose minute the test sets.
    #[derive(Default)]
    struct Minute(AtomicU16);

    impl Clock for Minute {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }

        fn reading(&self) -> Reading {
            Reading {
                boot: uuid::Uuid::nil(),
                up_ms: 0,
                wall: self.now(),
            }
        }
        fn local_minute(&self) -> u16 {
            self.0.load(Ordering::Relaxed)
        }
    }

    const KIB: u64 = 1024;

    fn limit(bytes_per_s: u64) -> Bandwidth {
        Bandwidth {
            bytes_per_s,
            windows: Vec::new(),
        }
    }

    fn vm(n: u128) -> VmId {
        VmId(Uuid::from_u128(n))
    }

    /// The host that all of them send to.
    const PEER: &str = "b:7000";

    /// Seconds it takes to send so many bytes in pieces as they come from a spool.
    async fn seconds(throttle: &Arc<Throttle>, of: VmId, bytes: u64) -> f64 {
        seconds_to(throttle, (of, PEER), bytes).await
    }

    async fn seconds_to(throttle: &Arc<Throttle>, of: (VmId, &str), bytes: u64) -> f64 {
        let began = Instant::now();
        let chunks = bytes / (256 * KIB);
        let body: ByteStream = Box::pin(stream::iter(
            (0..chunks).map(|_| Ok(Bytes::from(vec![7; 256 << 10]))),
        ));
        let mut paced = throttle.paced(of, body);
        let mut arrived = 0;
        while let Some(piece) = paced.next().await {
            arrived += amount(piece.unwrap().len());
        }
        assert_eq!(
            arrived,
            chunks * 256 * KIB,
            "nothing is lost and nothing is added"
        );
        began.elapsed().as_secs_f64()
    }

    /// The first piece goes ahead at once, with what was not used before: 1.25 s at the lowest limit.
    fn near(got: f64, want: f64) {
        assert!((got - want).abs() <= 1.3, "{got} s, expected {want} s");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits_and_nothing_is_cut() {
        let throttle = Arc::new(Throttle::new(Arc::new(Minute::default()), Bandwidth::default()));
        near(seconds(&throttle, vm(1), 1 << 30).await, 0.0);
        let body: ByteStream = Box::pin(stream::iter([Ok(Bytes::from(vec![0; 1 << 20]))]));
        let whole = throttle.paced((vm(1), PEER), body).next().await.unwrap().unwrap();
        assert_eq!(whole.len(), 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lower_of_both_limits_counts() {
        let throttle = Arc::new(Throttle::new(Arc::new(Minute::default()), limit(1024 * KIB)));
        near(seconds(&throttle, vm(1), 20 << 20).await, 20.0);
        throttle.set(vm(1), PEER, &limit(256 * KIB));
        near(seconds(&throttle, vm(1), 10 << 20).await, 40.0);
        near(seconds(&throttle, vm(2), 10 << 20).await, 10.0);
        throttle.set(vm(1), PEER, &limit(4096 * KIB));
        near(seconds(&throttle, vm(1), 20 << 20).await, 20.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_to_one_host_is_none_to_another() {
        let throttle = Arc::new(Throttle::new(Arc::new(Minute::default()), limit(1024 * KIB)));
        throttle.set(vm(1), "c:7000", &limit(256 * KIB));
        near(seconds_to(&throttle, (vm(1), "c:7000"), 10 << 20).await, 40.0);
        near(seconds_to(&throttle, (vm(1), "d:7000"), 10 << 20).await, 10.0);
        throttle.set(vm(1), "d:7000", &limit(512 * KIB));
        near(seconds_to(&throttle, (vm(1), "d:7000"), 10 << 20).await, 20.0);
        near(seconds_to(&throttle, (vm(1), "c:7000"), 10 << 20).await, 40.0);
    }

    #[tokio::test(start_paused = true)]
    async fn all_relationships_share_the_limit_of_the_host() {
        let throttle = Arc::new(Throttle::new(Arc::new(Minute::default()), limit(1024 * KIB)));
        let began = Instant::now();
        let each = (1..=4).map(|n| {
            let throttle = throttle.clone();
            async move { seconds(&throttle, vm(n), 10 << 20).await }
        });
        let ended = futures_util::future::join_all(each).await;
        near(began.elapsed().as_secs_f64(), 40.0);
        assert!(ended.iter().all(|s| *s > 38.0), "none is starved: {ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_within_a_second_also_for_what_waits() {
        let throttle = Arc::new(Throttle::new(Arc::new(Minute::default()), limit(64 * KIB)));
        let slow = throttle.clone();
        let sending = tokio::spawn(async move { seconds(&slow, vm(1), 1 << 30).await });
        tokio::time::sleep(Duration::from_secs(60)).await;
        throttle.set_host(&Bandwidth::default());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(sending.is_finished(), "the limit was lifted");
        throttle.set_host(&limit(64 * KIB));
        near(seconds(&throttle, vm(1), 1 << 20).await, 16.0);
    }

    #[tokio::test(start_paused = true)]
    async fn limits_follow_the_time_of_day() {
        let clock = Arc::new(Minute::default());
        let night = BandwidthWindow {
            window: DayWindow {
                from_min: 22 * 60,
                to_min: 6 * 60,
            },
            bytes_per_s: 0,
        };
        let day = Bandwidth {
            bytes_per_s: 64 * KIB,
            windows: vec![night],
        };
        let throttle = Arc::new(Throttle::new(clock.clone(), Bandwidth::default()));
        throttle.set(vm(1), PEER, &day);
        for (minute, want) in [
            (23 * 60, 0.0),
            (6 * 60, 32.0),
            (5 * 60 + 59, 0.0),
            (12 * 60, 32.0),
        ] {
            clock.0.store(minute, Ordering::Relaxed);
            near(seconds(&throttle, vm(1), 2 << 20).await, want);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_body_stays_broken_and_a_dropped_one_holds_up_no_other() {
        let throttle = Arc::new(Throttle::new(Arc::new(Minute::default()), limit(64 * KIB)));
        let broken = std::io::Error::other("the view is gone");
        let body: ByteStream = Box::pin(stream::iter([Err(broken)]));
        assert!(throttle.paced((vm(1), PEER), body).next().await.unwrap().is_err());
        let endless: ByteStream = Box::pin(stream::repeat_with(|| Ok(Bytes::from(vec![0; 64 << 10]))));
        let mut dropped = throttle.paced((vm(1), PEER), endless);
        for _ in 0..3 {
            let next = tokio::time::timeout(Duration::from_millis(300), dropped.next());
            let _ = next.await;
        }
        drop(dropped);
        near(seconds(&throttle, vm(2), 1 << 20).await, 16.0);
    }
}
