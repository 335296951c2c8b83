//! The work of an outgoing relationship, on the host in the middle: what the third host lacks is found from where both
//! copies stand and sent, round by round. It only reads the replica, so it runs beside everything else the actor does, other
//! forwarders included. Decisions and records are `outgoing`'s.

use crate::core::order::{line, past};
use crate::host::jobs::Jobs;
use crate::host::tools::Tools;
use crate::port::Entropy;
use crate::port::capture::BlockView;
use crate::port::link::{Content, LinkError, LogAddress, PeerRefusal, PeerReply, PeerRequest, ReplicaStatus};
use crate::port::store::{LogStore, Point, ReplicaInfo, Store, StoredLog};
use crate::record::{Comparison, NOWHERE};
use crate::source::copy::Route;
use crate::source::sync::{Known, Piece};
use crate::source::{copy, machine, sync};
use crate::target::backlog::OFFER_AGAIN;
use crate::work::failure::CopyError;
use crate::work::message::{Message, Progress};
use bytes::Bytes;
use futures_util::stream;
use lifeboat_deltalog::{Encoder, Header, LogDisk, LogKind};
use lifeboat_model::causes::chain;
use lifeboat_model::policy::backoff;
use lifeboat_model::{GenerationId, JobId, Position, RelationshipId, ReplicationSettings, VmId, VmSpec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::debug;

/// The least time between two rounds of which the first one failed.
const LEAST: Duration = Duration::from_secs(1);

/// An initial copy that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copying {
    /// The job that shows how far it is; `None`: it began without one.
    pub(crate) job: Option<JobId>,
}

/// What a forwarder is started with; when any of it changes, another forwarder is started.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ForwarderConfig {
    pub(crate) spec: VmSpec,
    pub(crate) settings: ReplicationSettings,
    /// Nothing is sent: logs are only kept, as long as that is worth it.
    pub(crate) paused: bool,
    /// The initial copy is not there yet.
    pub(crate) copying: Option<Copying>,
    /// Both copies are compared although logs would do, and the job of it.
    pub(crate) compare: Option<JobId>,
}

/// From where on logs are kept for the third hosts of one VM: each forwarder says its own, and the store is told all of them.
#[derive(Default)]
pub(crate) struct KeptLogs(tokio::sync::Mutex<BTreeMap<RelationshipId, Position>>);

impl KeptLogs {
    /// Keeps the logs after this position for a relationship from now on; `None`: none for it.
    pub(crate) async fn keep(
        &self,
        logs: Option<&dyn LogStore>,
        vm: VmId,
        id: RelationshipId,
        after: Option<Position>,
    ) {
        // Held over the call, so that the store hears of changes in their order.
        let mut all = self.0.lock().await;
        match after {
            Some(at) => drop(all.insert(id, at)),
            None => drop(all.remove(&id)),
        }
        let wanted: Vec<Position> = all.values().copied().collect();
        // Without a store there is nothing that could expire.
        if let Some(logs) = logs {
            logs.keep_logs(vm, &wanted).await;
        }
    }

    /// Relationships that logs are kept for and that are gone. None while a forwarder is telling the store something: who asks must
    /// not wait for a disk, and asks again.
    pub(crate) fn gone(&self, there: impl Fn(RelationshipId) -> bool) -> Vec<RelationshipId> {
        match self.0.try_lock() {
            Ok(all) => all.keys().copied().filter(|id| !there(*id)).collect(),
            Err(_) => Vec::new(),
        }
    }
}

/// A forwarder at work.
pub(crate) struct Forwarder {
    pub(crate) vm: VmId,
    /// Which relationship it serves.
    pub(crate) id: RelationshipId,
    pub(crate) config: ForwarderConfig,
    /// What all forwarders of the VM need of its logs.
    pub(crate) kept: Arc<KeptLogs>,
    /// The store that the replica is in.
    pub(crate) store: Store,
    pub(crate) tools: Tools,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) jobs: Arc<Jobs>,
    /// Where this host takes calls.
    pub(crate) listen: String,
    /// Last known position of the third host.
    pub(crate) acknowledged: Option<Position>,
    pub(crate) comparison: Option<Comparison>,
    /// Which forwarder it is, for the actor that reads its progress.
    pub(crate) number: u64,
    pub(crate) progress: mpsc::WeakSender<Message>,
    /// Digest of what the third host was told of the machine.
    pub(crate) told: Option<blake3::Hash>,
    /// Ends the pause after a round that failed.
    pub(crate) wake: Arc<Notify>,
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
enum Next {
    /// Copy a sealed point; `None`: offer one first.
    Copy(Option<Point>),
    /// Send these logs as they are.
    Forward(Vec<StoredLog>),
    /// Make the copies equal at a sealed point.
    Compare(Point),
    /// This replica has no instant itself.
    Wait,
}

fn next(info: &ReplicaInfo, theirs: &ReplicaStatus) -> Next {
    let Some(newest) = info.points.last() else {
        return Next::Wait;
    };
    if !theirs.usable && !theirs.partial {
        let begun = info.points.iter().find(|p| p.position == theirs.durable);
        return if whole(info, begun.unwrap_or(newest)) {
            Next::Copy(begun.cloned())
        } else {
            Next::Wait
        };
    }
    match line(info, theirs.durable) {
        Some(logs) => Next::Forward(logs),
        None if whole(info, newest) => Next::Compare(newest.clone()),
        None => Next::Wait,
    }
}

/// Whether nothing is known against a point: what is damaged here must not become the copy there.
fn whole(info: &ReplicaInfo, point: &Point) -> bool {
    info.damage.iter().all(|d| !d.points.contains(&point.id))
}

/// From where on logs are kept for the third host. More than half of what the disks hold at most is not worth it: a
/// comparison costs less by then, and the room is the replica's. (Hyper-V Replica stops at the same mark.)
fn worth_keeping(info: &ReplicaInfo, theirs: Position) -> Option<Position> {
    let kept: u64 = line(info, theirs)?.iter().map(|l| l.size).sum();
    let disks: u64 = info.disks.iter().map(|d| d.size).sum();
    (kept <= disks / 2).then_some(theirs)
}

impl Forwarder {
    /// Forwards in rounds until the task is ended.
    pub(crate) async fn run(mut self) {
        let mut attempts = 0;
        loop {
            let begun = Instant::now();
            let done = self.round().await;
            let failed = done.is_err();
            attempts = if failed { attempts + 1 } else { 0 };
            let pause = if failed {
                backoff(attempts)
            } else {
                self.config.settings.interval().saturating_sub(begun.elapsed())
            };
            self.report(Progress::Ended(done)).await;
            self.rest(pause, failed).await;
        }
    }

    /// Waits for the next round. After a failure the third host may be back before the time is over.
    async fn rest(&self, pause: Duration, failed: bool) {
        let woken = self.wake.notified();
        let least = if failed { LEAST } else { Duration::from_millis(100) };
        tokio::time::sleep(least).await;
        let rest = tokio::time::sleep(pause.saturating_sub(least));
        if failed {
            tokio::select! {
                () = rest => {}
                () = woken => {}
            }
        } else {
            rest.await;
        }
    }

    async fn report(&self, progress: Progress) {
        if let Some(actor) = self.progress.upgrade() {
            // An actor that is gone finds out by itself at the next start.
            let _ = actor.send(Message::Forwarded(self.number, progress)).await;
        }
    }

    /// Keeps the logs after a position for this relationship.
    async fn keep(&self, after: Option<Position>) {
        self.kept
            .keep(Some(&*self.store.logs), self.vm, self.id, after)
            .await;
    }

    fn route(&self, start: Position) -> Route {
        Route {
            vm: self.vm,
            peer: self.config.settings.peer.clone(),
            compress: self.config.settings.compression,
            start,
        }
    }

    async fn round(&mut self) -> Result<Option<Position>, CopyError> {
        if let Some(at) = self.acknowledged {
            let info = self.store.images.info(self.vm).await?;
            self.keep(worth_keeping(&info, at)).await;
        }
        if self.config.paused {
            return Ok(None);
        }
        let mut theirs = self.standing().await?;
        self.tell_machine().await;
        // A few turns are enough for everything there is to do; the next round goes on.
        for _ in 0..4 {
            let info = self.store.images.info(self.vm).await?;
            let next = match next(&info, &theirs) {
                Next::Forward(_) if self.config.compare.is_some() => {
                    let point = info
                        .points
                        .last()
                        .filter(|p| past(&info, theirs.durable) && whole(&info, p));
                    // The next instant that arrives is sealed for it.
                    point.map_or(Next::Wait, |p| Next::Compare(p.clone()))
                }
                next => next,
            };
            match next {
                Next::Wait => return Ok(None),
                Next::Copy(None) => theirs = self.offer(&info).await?,
                Next::Copy(Some(point)) => theirs = self.copy(&info, &point, &theirs).await?,
                Next::Compare(point) => {
                    theirs = self.compare(&info, &point, &theirs).await?;
                    self.config.compare = None;
                }
                Next::Forward(logs) if logs.is_empty() => break,
                Next::Forward(logs) => {
                    self.keep(Some(theirs.durable)).await;
                    for log in &logs {
                        self.forward_patiently(log).await?;
                        (theirs.durable, theirs.partial) = (log.position, log.partial);
                    }
                }
            }
        }
        self.acknowledged = Some(theirs.durable).filter(|_| theirs.usable);
        Ok(self.acknowledged)
    }

    async fn standing(&mut self) -> Result<ReplicaStatus, CopyError> {
        let route = self.route(NOWHERE);
        match copy::status(&*self.tools.link, &route).await {
            Err(LinkError::Refused(PeerRefusal::NoReplica { .. })) if self.config.copying.is_some() => {
                let info = self.store.images.info(self.vm).await?;
                self.offer(&info).await
            }
            other => Ok(other?),
        }
    }

    /// Offers the newest point to be copied. A third host that has a copy already is gone on with.
    async fn offer(&self, info: &ReplicaInfo) -> Result<ReplicaStatus, CopyError> {
        let Some(point) = info.points.last() else {
            return Err(CopyError::Lost {
                why: "this replica has no recovery point yet".into(),
                arrived: false,
            });
        };
        let firmware = machine::firmware_of(&*self.store.images, self.vm).await?;
        let request = offer(&self.config, info, point, self.listen.clone(), firmware);
        let peer = &self.config.settings.peer;
        match self.tools.link.call(peer, request).await? {
            PeerReply::Status(status) => Ok(status),
            other => Err(crate::work::calls::unexpected(peer, &other).into()),
        }
    }

    /// Tells the third host of the machine if it is not what it was told last.
    async fn tell_machine(&mut self) {
        let Ok(firmware) = machine::firmware_of(&*self.store.images, self.vm).await else {
            return;
        };
        let Ok(described) = serde_json::to_vec(&(&self.config.spec, &self.config.settings, &firmware)) else {
            return;
        };
        let now = blake3::hash(&described);
        if self.told == Some(now) {
            return;
        }
        let request = PeerRequest::Update {
            vm: Box::new(self.config.spec.clone().into()),
            settings: self.config.settings.clone(),
            firmware,
        };
        match self.tools.link.call(&self.config.settings.peer, request).await {
            Ok(PeerReply::Checked { problems }) => {
                self.told = Some(now);
                self.report(Progress::Checked(problems)).await;
            }
            Ok(_) => {}
            // The error is ignored: its cause also keeps logs from arriving, and that is reported.
            Err(e) => debug!(vm = %self.vm, error = %chain(&e), "the third host was not told of the machine"),
        }
    }

    /// The initial copy: a sealed point in segments, which is an instant when it is there.
    async fn copy(
        &self,
        info: &ReplicaInfo,
        point: &Point,
        theirs: &ReplicaStatus,
    ) -> Result<ReplicaStatus, CopyError> {
        let route = self.route(point.position);
        let total: u64 = info.disks.iter().map(|d| d.size).sum();
        let view = self.store.images.read_point(self.vm, point.id).await?;
        self.keep(Some(point.position)).await;
        let mut before = 0;
        for (index, disk) in info.disks.iter().enumerate() {
            let from = theirs
                .bulk
                .iter()
                .find(|b| b.disk == disk.id)
                .map_or(0, |b| b.done);
            let report = |done| {
                if let Some(Copying { job: Some(job) }) = self.config.copying {
                    let detail = "copying a recovery point to the third host";
                    self.jobs.progress(job, before + done, total, detail);
                }
            };
            copy::copy_disk(&self.tools, &route, &*view, (index, disk), from, &report).await?;
            before += disk.size;
        }
        view.close().await?;
        let request = PeerRequest::FinishBulk {
            vm: self.vm,
            instant: point.instant,
            consistency: point.consistency,
        };
        match self.tools.link.call(&route.peer, request).await? {
            PeerReply::Status(status) => {
                let progress = Progress::Arrived {
                    at: point.position,
                    instant: Some(point.instant),
                    bytes: 0,
                };
                self.report(progress).await;
                Ok(status)
            }
            other => Err(crate::work::calls::unexpected(&route.peer, &other).into()),
        }
    }

    /// Forwards a log; a third host that has enough to apply is waited for.
    async fn forward_patiently(&self, log: &StoredLog) -> Result<(), CopyError> {
        loop {
            match self.forward(log).await {
                Err(CopyError::Link(LinkError::Refused(PeerRefusal::Backlog { .. }))) => {
                    tokio::time::sleep(OFFER_AGAIN).await;
                }
                other => return other,
            }
        }
    }

    /// Forwards a log, as it was received.
    async fn forward(&self, log: &StoredLog) -> Result<(), CopyError> {
        let (vm, position, peer) = (self.vm, log.position, &self.config.settings.peer);
        let asked = PeerRequest::LogOffset { vm, position };
        let offset = match self.tools.link.call(peer, asked).await? {
            PeerReply::Offset { bytes } => bytes.min(log.size),
            other => return Err(crate::work::calls::unexpected(peer, &other).into()),
        };
        let body = self.store.logs.read_log(vm, position, offset).await?;
        let address = LogAddress::Delta { vm, position, offset };
        copy::confirmed(self.tools.link.send(peer, address, body).await?, position, peer)?;
        let progress = Progress::Arrived {
            at: position,
            instant: Some(log.instant).filter(|_| !log.partial),
            bytes: log.size,
        };
        self.report(progress).await;
        Ok(())
    }

    /// Makes the other copy equal to a sealed point, whatever it holds: what differs goes as resync fragments in a
    /// generation of their own, and an empty delta says that the disks are that instant now.
    async fn compare(
        &mut self,
        info: &ReplicaInfo,
        point: &Point,
        theirs: &ReplicaStatus,
    ) -> Result<ReplicaStatus, CopyError> {
        let route = self.route(point.position);
        let view = self.store.images.read_point(self.vm, point.id).await?;
        self.keep(Some(point.position)).await;
        let resumed = self
            .comparison
            .filter(|c| c.point == point.id && c.at == theirs.durable);
        let mut piece = Piece {
            cursor: resumed.map_or((0, 0), |c| c.cursor),
            parent: theirs.durable,
            // A generation of its own for each attempt: no position is ever used twice.
            position: Position::start(GenerationId(self.entropy.uuid())).next(),
        };
        let mut partial = theirs.partial;
        let known: Known = vec![None; info.disks.len()];
        while usize::from(piece.cursor.0) < info.disks.len() {
            let disks = (info.disks.as_slice(), &*view);
            let found = sync::find(&self.tools, &route, disks, &known, piece.cursor).await?;
            let mut bytes = 0;
            piece.cursor = found.cursor;
            self.compared(&info.disks, piece.cursor);
            let last = usize::from(piece.cursor.0) >= info.disks.len();
            if !found.ranges.is_empty() || (last && !partial) {
                bytes = sync::send(&self.tools, &route, disks, &found.ranges, piece).await?;
                piece.parent = piece.position;
                piece.position = piece.position.next();
                partial = true;
            }
            let comparison = Comparison {
                point: point.id,
                at: piece.parent,
                cursor: piece.cursor,
            };
            self.comparison = Some(comparison);
            self.report(Progress::Compared(comparison, bytes)).await;
        }
        self.close(&info.disks, view, point, piece.parent).await?;
        self.comparison = None;
        Ok(copy::status(&*self.tools.link, &route).await?)
    }

    /// Shows how far a comparison is that a caller asked for.
    fn compared(&self, disks: &[LogDisk], (disk, offset): (u16, u64)) {
        let Some(job) = self.config.compare else { return };
        let total = disks.iter().map(|d| d.size).sum();
        let before: u64 = disks.iter().take(disk.into()).map(|d| d.size).sum();
        let detail = "comparing a recovery point with the third host";
        self.jobs.progress(job, before + offset, total, detail);
    }

    /// The empty delta after a comparison.
    async fn close(
        &self,
        disks: &[LogDisk],
        view: Box<dyn BlockView>,
        point: &Point,
        parent: Position,
    ) -> Result<(), CopyError> {
        view.close().await?;
        let header = Header {
            vm: self.vm,
            kind: LogKind::Delta,
            position: point.position,
            parent,
            instant: point.instant,
            consistency: point.consistency,
            disks: disks.to_vec(),
        };
        let mut log = Vec::new();
        let encoder = Encoder::new(&header, false, &mut log)?;
        encoder.finish(&mut log);
        let (vm, position, peer) = (self.vm, point.position, &self.config.settings.peer);
        let offset = 0;
        let bytes = log.len() as u64;
        let body = Box::pin(stream::iter([Ok(Bytes::from(log))]));
        let address = LogAddress::Delta { vm, position, offset };
        copy::confirmed(self.tools.link.send(peer, address, body).await?, position, peer)?;
        let progress = Progress::Arrived {
            at: position,
            instant: Some(point.instant),
            bytes,
        };
        self.report(progress).await;
        Ok(())
    }
}

/// The offer of a point to a third host.
pub(crate) fn offer(
    config: &ForwarderConfig,
    info: &ReplicaInfo,
    point: &Point,
    listen: String,
    firmware: String,
) -> PeerRequest {
    PeerRequest::Offer {
        vm: Box::new(config.spec.clone().into()),
        settings: config.settings.clone(),
        disks: info.disks.clone(),
        start: point.position,
        from: listen,
        content: Content::Extended,
        firmware,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::link::HandOver;
    use lifeboat_deltalog::Consistency;
    use lifeboat_model::Timestamp;
    use lifeboat_model::{DiskId, PointId};
    use uuid::Uuid;

    fn at(generation: u128, sequence: u64) -> Position {
        Position::from_parts(GenerationId(Uuid::from_u128(generation)), sequence)
    }

    fn log(parent: Position, position: Position, size: u64) -> StoredLog {
        StoredLog {
            position,
            parent,
            instant: Timestamp(position.sequence()),
            consistency: Consistency::Crash,
            size,
            partial: false,
        }
    }

    fn point(n: u128, position: Position) -> Point {
        Point {
            id: PointId(Uuid::from_u128(n)),
            position,
            instant: Timestamp(position.sequence()),
            consistency: Consistency::Crash,
            size: 0,
            arrived: None,
            changed: None,
        }
    }

    /// Points at 3 and 5, logs from 3 to 6; disks of 1000 bytes in all.
    fn info() -> ReplicaInfo {
        ReplicaInfo {
            place: crate::port::store::StoreLocation::new("/r"),
            disks: vec![LogDisk {
                id: DiskId::new("a").unwrap(),
                size: 1000,
            }],
            bulk: Vec::new(),
            durable: at(1, 6),
            applied: at(1, 5),
            points: vec![point(1, at(1, 3)), point(2, at(1, 5))],
            logs: (3..6).map(|n| log(at(1, n), at(1, n + 1), 200)).collect(),
            branches: Vec::new(),
            abandoned: None,
            files: Vec::new(),
            faults: Vec::new(),
            damage: Vec::new(),
            unsealed: Default::default(),
        }
    }

    fn status(durable: Position, usable: bool, partial: bool) -> ReplicaStatus {
        ReplicaStatus {
            durable,
            bulk: Vec::new(),
            partial,
            usable,
            problems: Vec::new(),
            waiting_logs: 0,
            waiting_bytes: 0,
            hand_over: HandOver::default(),
            export: None,
        }
    }

    #[test]
    fn what_the_third_host_lacks_is_found_from_where_both_stand() {
        let i = info();
        assert_eq!(
            next(&i, &status(at(1, 3), false, false)),
            Next::Copy(Some(i.points[0].clone()))
        );
        assert_eq!(
            next(&i, &status(at(1, 2), false, false)),
            Next::Copy(None),
            "that point has expired"
        );
        assert_eq!(
            next(&i, &status(at(1, 4), true, false)),
            Next::Forward(i.logs[1..].to_vec())
        );
        assert_eq!(
            next(&i, &status(at(1, 6), true, false)),
            Next::Forward(Vec::new())
        );
        let newest = Next::Compare(i.points[1].clone());
        for elsewhere in [at(1, 2), at(1, 7), at(2, 4)] {
            assert_eq!(next(&i, &status(elsewhere, true, false)), newest, "{elsewhere}");
            assert_eq!(next(&i, &status(elsewhere, true, true)), newest, "{elsewhere}");
        }
        let empty = ReplicaInfo {
            points: Vec::new(),
            ..i
        };
        assert_eq!(next(&empty, &status(at(1, 4), true, false)), Next::Wait);
    }

    #[test]
    fn logs_are_kept_up_to_half_of_the_disks() {
        let i = info();
        assert_eq!(worth_keeping(&i, at(1, 6)), Some(at(1, 6)));
        assert_eq!(worth_keeping(&i, at(1, 4)), Some(at(1, 4)), "400 of 1000 bytes");
        assert_eq!(worth_keeping(&i, at(1, 3)), None, "600 of 1000 bytes");
        assert_eq!(worth_keeping(&i, at(1, 2)), None, "they are gone");
    }

    #[test]
    fn logs_that_lead_in_circles_lead_nowhere() {
        let mut i = info();
        i.logs = vec![log(at(1, 3), at(1, 4), 1), log(at(1, 4), at(1, 3), 1)];
        assert_eq!(line(&i, at(1, 3)), None);
    }
}
