//! Which other hosts are there. Every call and every transfer to another host passes [`WatchedLink`], which notes who
//! answered and who did not; one task of the engine says hello to those who did not, and wakes the actors that wait for a host
//! as soon as it is back. What the silence of the other side means for the health is `silence`'s.
//!
//! All times are of the monotonic clock of this host and begin with the daemon: nothing here survives a restart, so that a
//! daemon that has just started knows of no host's presence until it was told.

use crate::host::Host;
use crate::port::ByteStream;
use crate::port::link::{
    KeyJudge, LinkError, LogAddress, LogReceipt, NoAnswer, PeerLink, PeerRefusal, PeerReply, PeerRequest,
    PrimaryReport,
};
use crate::work::message::{Message, Returned, Waiting};
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use lifeboat_model::VmId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often a host that does not answer is asked whether it is back. A connection attempt for each host, not for each VM.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The least time between two attempts of one VM, however often the other side says that it is back.
pub(crate) const LEAST: Duration = Duration::from_secs(1);

/// What a call was about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Where the other side stands.
    Status,
    Other,
}

/// What is known of other hosts.
#[derive(Default)]
pub(crate) struct Presence {
    inner: Mutex<Inner>,
    /// Something is to be done before the next look.
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    /// Addresses that did not answer when they were called last.
    away: BTreeSet<String>,
    /// When each address answered last.
    seen: BTreeMap<String, Instant>,
    /// Those of them that were never called since the daemon began.
    unasked: BTreeSet<String>,
    /// Addresses that have answered again, which no actor was told of yet.
    back: Vec<String>,
    /// Addresses each VM needs.
    peers: BTreeMap<VmId, Vec<String>>,
    /// What each primary says while it sends nothing.
    words: BTreeMap<VmId, KeepAlive>,
    /// What passed between this host and an address about a VM.
    lines: BTreeMap<(VmId, String), Line>,
}

/// The word of a primary that has nothing else to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeepAlive {
    pub(crate) peer: String,
    /// Said when nothing else was said for this long.
    pub(crate) every: Duration,
    pub(crate) report: PrimaryReport,
}

/// What passed between this host and another one about one VM, by calls of this host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// The last call or transfer began then.
    spoken: Option<Instant>,
    /// The last answer came then, a refusal included.
    pub(crate) answered: Option<Instant>,
    /// The log that is being sent.
    pub(crate) transfer: Option<Transfer>,
    /// What the other side refused last, when it was asked where it stands.
    pub(crate) refusal: Option<PeerRefusal>,
    /// What it had still to apply then.
    pub(crate) waiting: Option<Waiting>,
}

/// A log on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// Bytes handed to the connection.
    pub(crate) bytes: u64,
    /// When that last went on.
    pub(crate) moved: Instant,
    /// When all of it was handed over; the other side's disk is waited for since.
    pub(crate) ended: Option<Instant>,
}

impl Presence {
    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes which addresses a VM needs now. One that was not called yet is said hello to at once: its host learns that this
    /// one is here.
    pub(crate) fn needs(&self, vm: VmId, peers: Vec<String>) {
        let new = self.with(|i| {
            if i.peers.get(&vm).is_some_and(|p| *p == peers) {
                return false;
            }
            i.lines.retain(|(of, peer), _| *of != vm || peers.contains(peer));
            let others: BTreeSet<String> = i.peers.values().flatten().cloned().collect();
            let new: Vec<String> = peers.iter().filter(|p| !others.contains(*p)).cloned().collect();
            i.peers.insert(vm, peers);
            let any = !new.is_empty();
            i.away.extend(new.iter().cloned());
            i.unasked.extend(new);
            any
        });
        if new {
            self.changed.notify_one();
        }
    }

    /// Takes in how a call to an address ended.
    fn called<T>(&self, peer: &str, result: &Result<T, LinkError>) {
        match result {
            Ok(_) | Err(LinkError::Refused(_)) => self.reached(peer),
            Err(LinkError::Unreachable { .. }) => self.missing(peer),
            // It is there; what is wrong with it is no matter of presence.
            Err(LinkError::Untrusted { .. } | LinkError::Protocol { .. }) => {}
        }
    }

    /// The host at an address answered. If it was away, actors may wait for it.
    fn reached(&self, peer: &str) {
        let back = self.with(|i| {
            i.seen.insert(peer.to_owned(), Instant::now());
            let was_away = i.away.remove(peer);
            if was_away {
                i.back.push(peer.to_owned());
            }
            was_away
        });
        if back {
            self.changed.notify_one();
        }
    }

    fn missing(&self, peer: &str) {
        self.with(|i| i.away.insert(peer.to_owned()));
    }

    /// Notes what a VM says while it sends nothing; `None`: nothing.
    pub(crate) fn says(&self, vm: VmId, word: Option<KeepAlive>) {
        self.with(|i| match word {
            Some(word) => drop(i.words.insert(vm, word)),
            None => drop(i.words.remove(&vm)),
        });
    }

    /// What passed between this host and an address about a VM.
    pub(crate) fn line(&self, vm: VmId, peer: &str) -> Line {
        self.with(|i| i.lines.get(&(vm, peer.to_owned())).cloned())
            .unwrap_or_default()
    }

    fn on_line(&self, vm: VmId, peer: &str, f: impl FnOnce(&mut Line)) {
        self.with(|i| f(i.lines.entry((vm, peer.to_owned())).or_default()));
    }

    /// Takes in the answer to a call about a VM.
    fn answered(&self, vm: VmId, peer: &str, asked: Asked, result: &Result<PeerReply, LinkError>) {
        self.on_line(vm, peer, |line| match result {
            Ok(reply) => {
                line.answered = Some(Instant::now());
                if let PeerReply::Status(status) = reply {
                    line.refusal = None;
                    line.waiting = Some(Waiting {
                        logs: status.waiting_logs,
                        bytes: status.waiting_bytes,
                    });
                }
            }
            Err(LinkError::Refused(refusal)) => {
                line.answered = Some(Instant::now());
                if asked == Asked::Status {
                    line.refusal = Some(refusal.clone());
                }
            }
            Err(LinkError::Unreachable { .. } | LinkError::Untrusted { .. } | LinkError::Protocol { .. }) => {
            }
        });
    }

    /// Words that are due: nothing was said about these VMs for long enough.
    fn silent(&self) -> Vec<(VmId, KeepAlive)> {
        self.with(|i| {
            let due = i.words.iter().filter(|(vm, word)| {
                let line = i.lines.get(&(**vm, word.peer.clone()));
                // Looked at now and then only: what would be due before the next look is due.
                let spoken = line.and_then(|l| l.spoken);
                spoken.is_none_or(|at| at.elapsed() + ASK_AGAIN / 2 >= word.every)
            });
            due.map(|(vm, word)| (*vm, word.clone())).collect()
        })
    }

    /// The addresses that each VM needs.
    pub(crate) fn needed(&self) -> BTreeMap<VmId, Vec<String>> {
        self.with(|i| i.peers.clone())
    }

    /// When an address answered last; `None`: not since this daemon began.
    pub(crate) fn seen(&self, peer: &str) -> Option<Instant> {
        self.with(|i| i.seen.get(peer).copied())
    }

    fn take_back(&self) -> Vec<String> {
        self.with(|i| std::mem::take(&mut i.back))
    }

    /// Addresses that a VM needs and that do not answer; when it is not time for all, those that were never asked.
    fn missed(&self, all: bool) -> Vec<String> {
        self.with(|i| {
            let needed: BTreeSet<&String> = i.peers.values().flatten().collect();
            // What no VM needs any more is not asked for again.
            i.away.retain(|a| needed.contains(a));
            i.seen.retain(|a, _| needed.contains(a));
            let unasked = std::mem::take(&mut i.unasked);
            let wanted = i.away.iter().filter(|a| all || unasked.contains(*a));
            wanted.cloned().collect()
        })
    }
}

/// Asks for those that are away, and tells of those that are back, until the engine is gone.
pub(crate) async fn watch(host: Weak<Host>) {
    let mut asked: JoinSet<String> = JoinSet::new();
    let mut under_way = BTreeSet::new();
    let mut spoken: JoinSet<VmId> = JoinSet::new();
    let mut speaking = BTreeSet::new();
    let mut next = Instant::now();
    loop {
        let Some(host) = host.upgrade() else { return };
        for address in host.presence.take_back() {
            host.tell_returned(&Returned::Address(address));
        }
        let due = Instant::now() >= next;
        if due {
            next = Instant::now() + ASK_AGAIN;
        }
        for peer in host.presence.missed(due) {
            if under_way.insert(peer.clone()) {
                let link = host.ports.link.clone();
                asked.spawn(async move {
                    // What comes of it is noted by the link itself.
                    let _ = link.call(&peer, PeerRequest::Hello).await;
                    peer
                });
            }
        }
        for (vm, word) in host.presence.silent().into_iter().filter(|_| due) {
            if speaking.insert(vm) {
                let link = host.ports.link.clone();
                let request = PeerRequest::Status {
                    vm,
                    report: word.report,
                };
                spoken.spawn(async move {
                    // What comes of it is noted by the link itself.
                    let _ = link.call(&word.peer, request).await;
                    vm
                });
            }
        }
        let presence = host.presence.clone();
        drop(host);
        tokio::select! {
            () = presence.changed.notified() => {}
            Some(ended) = asked.join_next() => match ended {
                Ok(peer) => drop(under_way.remove(&peer)),
                // A call that ended in a panic is not named; every address may be asked again.
                Err(_) => under_way.clear(),
            },
            Some(ended) = spoken.join_next() => match ended {
                Ok(vm) => drop(speaking.remove(&vm)),
                Err(_) => speaking.clear(),
            },
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

impl Host {
    /// Lets every actor know that a host is back. One with a full mailbox has enough to do, and tries again by itself.
    pub(crate) fn tell_returned(&self, who: &Returned) {
        self.with_actors(|actors| {
            for handle in actors.values() {
                let _ = handle.mailbox.try_send(Message::Returned(who.clone()));
            }
        });
    }
}

/// A link that notes who answers.
pub(crate) struct WatchedLink {
    pub(crate) link: Arc<dyn PeerLink>,
    pub(crate) presence: Arc<Presence>,
}

/// Ends the note of a transfer with it, however it ends.
struct Sending {
    presence: Arc<Presence>,
    vm: VmId,
    peer: String,
}

impl Sending {
    fn begin(presence: &Arc<Presence>, vm: VmId, peer: &str) -> Self {
        let now = Instant::now();
        presence.on_line(vm, peer, |line| {
            line.spoken = Some(now);
            // It changes with what is sent now.
            line.waiting = None;
            line.transfer = Some(Transfer {
                bytes: 0,
                moved: now,
                ended: None,
            });
        });
        Self {
            presence: presence.clone(),
            vm,
            peer: peer.to_owned(),
        }
    }

    /// A body whose progress is noted.
    fn noted(&self, body: ByteStream) -> ByteStream {
        let (presence, vm, peer) = (self.presence.clone(), self.vm, self.peer.clone());
        Box::pin(stream::unfold(Some(body), move |body| {
            let (presence, peer) = (presence.clone(), peer.clone());
            async move {
                let mut body = body?;
                let next = body.next().await;
                let now = Instant::now();
                presence.on_line(vm, &peer, |line| {
                    if let Some(t) = &mut line.transfer {
                        match &next {
                            Some(Ok(bytes)) => t.bytes += bytes.len() as u64,
                            Some(Err(_)) => {}
                            None => t.ended = Some(now),
                        }
                        t.moved = now;
                    }
                });
                next.map(|piece| (piece, Some(body)))
            }
        }))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.presence
            .on_line(self.vm, &self.peer, |line| line.transfer = None);
    }
}

#[async_trait]
impl PeerLink for WatchedLink {
    fn judged_by(&self, judge: Arc<dyn KeyJudge>) {
        self.link.judged_by(judge);
    }

    async fn call(&self, peer: &str, request: PeerRequest) -> Result<PeerReply, LinkError> {
        // A key is a host's: nothing is said of the VM by it.
        let about = request
            .vm()
            .filter(|_| !matches!(request, PeerRequest::AnnounceKey { .. }));
        let asked = if matches!(request, PeerRequest::Status { .. }) {
            Asked::Status
        } else {
            Asked::Other
        };
        if let Some(vm) = about {
            self.presence
                .on_line(vm, peer, |line| line.spoken = Some(Instant::now()));
        }
        let result = self.link.call(peer, request).await;
        if let Some(vm) = about {
            self.presence.answered(vm, peer, asked, &result);
        }
        self.presence.called(peer, &result);
        result
    }

    async fn ask(&self, peer: &str, request: PeerRequest, patience: Duration) -> Result<PeerReply, NoAnswer> {
        let about = request.vm();
        let result = self.link.ask(peer, request, patience).await;
        match &result {
            Ok(_) => {
                if let Some(vm) = about {
                    self.presence
                        .on_line(vm, peer, |line| line.answered = Some(Instant::now()));
                }
                self.presence.reached(peer);
            }
            Err(NoAnswer::Unreachable { .. }) => self.presence.missing(peer),
            Err(NoAnswer::Unanswered { .. }) => {}
        }
        result
    }

    async fn send(&self, peer: &str, address: LogAddress, body: ByteStream) -> Result<LogReceipt, LinkError> {
        let (LogAddress::Delta { vm, .. } | LogAddress::Bulk { vm }) = address;
        let sending = Sending::begin(&self.presence, vm, peer);
        let result = self.link.send(peer, address, sending.noted(body)).await;
        drop(sending);
        if matches!(result, Ok(_) | Err(LinkError::Refused(_))) {
            self.presence
                .on_line(vm, peer, |line| line.answered = Some(Instant::now()));
        }
        self.presence.called(peer, &result);
        result
    }
}
