//! What a replica of the simulated store is made of, as plain functions on its state: replay, expiry, promotion and
//! adoption. The calls of the port, their faults and their order are `store`'s.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lifeboat_deltalog::{Decoder, FrameBody, Header, Item, LogDisk, LogKind};
use lifeboat_engine::ports::hypervisor::{DiskImage, ImageLayer, PowerState};
use lifeboat_engine::ports::store::{
    Adoption, BulkProgress, DiskFile, Divergence, Origin, Point, Ranges, Received, ReplicaInfo, StoreError,
    StoreLocation, StoredLog, Target,
};
use lifeboat_model::{BranchId, Changed, DiskFormat, DiskId, Position, Timestamp, VmId};

use crate::disk::{BLOCK, Content, numbers_of};
use crate::state::{Changes, KeptLog, Replica, State, Truth};

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// Reads a log; also the number of blocks of data in it.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Header, Changes, u64)> {
    let bad = |e: String| StoreError::BadLog(e);
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let (mut header, mut changes, mut data) = (None, Changes::new(), 0);
    while let Some(item) = decoder.next().map_err(|e| bad(e.to_string()))? {
        match item {
            Item::Header(h) => header = Some(h),
            Item::Frame(f) => match f.body {
                FrameBody::Data(d) => {
                    data += d.len() as u64 / BLOCK;
                    let numbers =
                        numbers_of(f.offset, &d).ok_or_else(|| bad("torn block on the wire".into()))?;
                    changes.extend(numbers.into_iter().map(|(b, n)| (usize::from(f.disk), b, n)));
                }
                FrameBody::Zero(len) => {
                    let (first, end) = (f.offset / BLOCK, (f.offset + len) / BLOCK);
                    // A hole of many blocks is kept as one mark: its first block, and the one after its last.
                    changes.push((usize::from(f.disk) | 1 << 32, first, end));
                }
            },
            Item::End(_) => {}
        }
    }
    decoder.finish().map_err(|e| bad(e.to_string()))?;
    header
        .map(|h| (h, changes, data))
        .ok_or_else(|| bad("no header".into()))
}

/// Applies changes to disks.
pub(crate) fn apply(disks: &mut [Content], changes: &Changes) {
    for &(disk, block, number) in changes {
        let zero = disk >> 32 == 1;
        let Some(content) = disks.get_mut(disk & 0xffff) else {
            continue;
        };
        if zero {
            let inside: Vec<u64> = content.range(block..number).map(|(b, _)| *b).collect();
            for b in inside {
                content.remove(&b);
            }
        } else if number == 0 {
            content.remove(&block);
        } else {
            content.insert(block, number);
        }
    }
}

/// Blocks that differ between two contents.
pub(crate) fn differing(a: &Content, b: &Content) -> BTreeSet<u64> {
    let of = |x: &Content, y: &Content| -> Vec<u64> {
        let other = x.iter().filter(|(block, n)| y.get(block) != Some(n));
        other.map(|(block, _)| *block).collect()
    };
    of(a, b).into_iter().chain(of(b, a)).collect()
}

fn ranges(blocks: BTreeSet<(u64, u64)>) -> Ranges {
    let mut out = Ranges::new();
    for (first, end) in blocks {
        let (from, to) = (first * BLOCK, end * BLOCK);
        match out.last_mut() {
            Some((offset, len)) if *offset + *len >= from => *len = (*len).max(to.saturating_sub(*offset)),
            _ => out.push((from, to - from)),
        }
    }
    out
}

/// The key of a branch's image.
pub(crate) fn file(branch: BranchId, disk: &DiskId) -> String {
    format!("/replicas/branch-{branch}-{disk}")
}

/// Where the content of a position is kept: what a replay begins with.
enum Ground<'r> {
    Point(usize),
    Root(&'r [Content]),
}

impl Replica {
    /// An empty one.
    pub(crate) fn new(dir: String, disks: &[LogDisk], start: Position) -> Self {
        Self {
            dir,
            disks: disks.to_vec(),
            start,
            bulk: vec![0; disks.len()],
            durable: start,
            applied: start,
            unsealed: Changed::default(),
            head: vec![Content::new(); disks.len()],
            points: Vec::new(),
            logs: Vec::new(),
            parts: HashMap::new(),
            branches: BTreeMap::new(),
            promoted: None,
            base_images: vec![None; disks.len()],
            adopted_branch: None,
            adopted: false,
            root: None,
            divergence: None,
            kept: None,
            pins: BTreeMap::new(),
            keep_since: Vec::new(),
            vars: None,
            branch_vars: BTreeMap::new(),
            rot: Vec::new(),
            scrubbed: Default::default(),
            open: true,
            faults: Vec::new(),
            rotten: BTreeSet::new(),
        }
    }

    /// Nothing arrived in it.
    pub(crate) fn untouched(&self) -> bool {
        self.durable == self.start && self.bulk.iter().all(|b| *b == 0)
    }

    /// What was made for an offer and never used.
    pub(crate) fn leftover(&self) -> bool {
        self.untouched() && !self.adopted && self.points.is_empty()
    }

    fn log(&self, at: Position) -> Option<&KeptLog> {
        self.logs.iter().find(|l| l.log.position == at)
    }

    /// What a replay to a position begins with, and the logs from there on, newest first.
    fn line(&self, to: Position) -> Option<(Ground<'_>, Vec<&Changes>)> {
        let (mut line, mut at) = (Vec::new(), to);
        loop {
            if let Some(n) = self.points.iter().position(|(p, _)| p.position == at) {
                return Some((Ground::Point(n), line));
            }
            if let Some((content, _)) = self.root.as_ref().filter(|_| at == self.start) {
                return Some((Ground::Root(content), line));
            }
            let log = self.log(at)?;
            line.push(&log.changes);
            at = log.log.parent;
        }
    }

    /// What the disks held at a cycle, by replay; `None` when it cannot be had, or when it is a piece of a
    /// synchronization.
    #[must_use]
    pub fn replayed(&self, to: Position) -> Option<Vec<Content>> {
        if self.partial(to) || self.log(to).is_none() && !self.points.iter().any(|(p, _)| p.position == to) {
            return None;
        }
        let (ground, line) = self.line(to)?;
        let mut disks = match ground {
            Ground::Point(n) => self.points.get(n)?.1.clone(),
            Ground::Root(content) => content.to_vec(),
        };
        line.iter().rev().for_each(|c| apply(&mut disks, c));
        Some(disks)
    }

    /// Applies a log to the head. `noise`: bytes that each block of it counts for, and that no compression makes smaller.
    pub(crate) fn apply(&mut self, log: &KeptLog, noise: u64) {
        apply(&mut self.head, &log.changes);
        self.applied = log.log.position;
        if !log.log.partial {
            let random = noise * log.changes.len() as u64;
            self.unsealed.random += random;
            self.unsealed.data += random.max(BLOCK * log.changes.len() as u64);
        }
    }

    /// Whether a position is a piece of a synchronization.
    #[must_use]
    pub fn partial(&self, at: Position) -> bool {
        self.log(at).is_some_and(|l| l.log.partial)
    }

    pub(crate) fn info(&self) -> ReplicaInfo {
        let progress = self.disks.iter().zip(&self.bulk);
        ReplicaInfo {
            place: StoreLocation::new(&self.dir),
            disks: self.disks.clone(),
            bulk: progress
                .map(|(d, done)| BulkProgress {
                    disk: d.id.clone(),
                    done: *done,
                })
                .collect(),
            durable: self.durable,
            applied: self.applied,
            points: self.points.iter().map(|(p, _)| p.clone()).collect(),
            logs: self.logs.iter().map(|l| l.log.clone()).collect(),
            branches: self.branches.keys().copied().collect(),
            abandoned: self.kept.as_ref().map(|(a, _)| a.clone()),
            files: self.files(),
            faults: self.faults.clone(),
            damage: self.damage(),
            unsealed: self.unsealed,
        }
    }

    /// Whether nothing in the chain of a target is damaged. A point needs all older ones.
    pub(crate) fn verify(&self, target: Target) -> Result<()> {
        let on = match target {
            Target::Point { id } => self.points.iter().position(|(p, _)| p.id == id),
            Target::Cycle { position } => match self.line(position) {
                Some((Ground::Point(n), _)) => Some(n),
                Some((Ground::Root(_), _)) | None => None,
            },
            Target::Abandoned => None,
        };
        let below = self.points.iter().take(on.map_or(0, |n| n + 1));
        match below.map(|(p, _)| p.id).find(|id| self.rotten.contains(id)) {
            Some(id) => Err(StoreError::Damaged {
                path: format!("{}/disks/{id}.qcow2", self.dir).into(),
                detail: "it is no qcow2 image".to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn files(&self) -> Vec<DiskFile> {
        let branches = self.branches.keys().copied().map(Some);
        let all = std::iter::once(None).chain(branches);
        let name = |branch: Option<BranchId>| branch.map_or("head".to_owned(), |b| b.to_string());
        let of = |branch| {
            self.disks.iter().map(move |d| DiskFile {
                disk: d.id.clone(),
                branch,
                path: format!("{}/{}/{}", self.dir, d.id, name(branch)).into(),
            })
        };
        all.flat_map(of).collect()
    }

    pub(crate) fn images(&self, branch: BranchId) -> Vec<(DiskId, DiskImage)> {
        let image = |d: &LogDisk| DiskImage::Chain {
            layers: vec![ImageLayer {
                file: file(branch, &d.id).into(),
                format: DiskFormat::Qcow2,
            }],
        };
        self.disks.iter().map(|d| (d.id.clone(), image(d))).collect()
    }

    /// The content of a target and its position.
    pub(crate) fn target(&self, target: Target) -> Option<(Position, Vec<Content>)> {
        match target {
            Target::Point { id } => {
                let found = self.points.iter().find(|(p, _)| p.id == id);
                found.map(|(p, c)| (p.position, c.clone()))
            }
            Target::Cycle { position } => self.replayed(position).map(|c| (position, c)),
            Target::Abandoned => self.kept.as_ref().map(|(a, c)| (a.since, c.clone())),
        }
    }

    /// Forgets the oldest point, and the logs that nothing can use any more.
    pub(crate) fn forget_oldest(&mut self) {
        self.points.remove(0);
        self.root = match self.root.take() {
            Some((content, below)) if below > 1 => Some((content, below - 1)),
            Some(_) | None => None,
        };
        self.forget_logs(|_| true);
    }

    /// Keeps the logs that are wanted and can be replayed, and those that must be kept.
    pub(crate) fn forget_logs(&mut self, wanted: impl Fn(&KeptLog) -> bool) {
        let behind = |since: &Position| {
            let at = self.logs.iter().position(|l| l.log.position == *since);
            at.map_or(0, |n| n + 1)
        };
        let after = self.keep_since.iter().map(behind).min();
        let needed = self.since_newest();
        let keep: BTreeSet<usize> = (0..self.logs.len())
            .filter(|n| {
                let log = &self.logs[*n];
                let replayable = self.line(log.log.position).is_some();
                after.is_some_and(|a| *n >= a)
                    || needed.contains(&log.log.position)
                    || replayable && wanted(log)
            })
            .collect();
        let mut n = 0;
        self.logs.retain(|_| {
            n += 1;
            keep.contains(&(n - 1))
        });
    }

    /// Where the head is built from: the newest point, or the first copy.
    pub(crate) fn floor(&self) -> Position {
        self.points.last().map_or(self.start, |(p, _)| p.position)
    }

    /// Logs after the newest point, which the head is built from.
    fn since_newest(&self) -> HashSet<Position> {
        let newest = self.points.last().map(|(p, _)| p.position);
        let at = newest.and_then(|p| self.logs.iter().position(|l| l.log.position == p));
        let from = at.map_or(0, |n| n + 1);
        self.logs[from..].iter().map(|l| l.log.position).collect()
    }

    /// Makes a branch the disks of the VM.
    pub(crate) fn promote(&mut self, branch: BranchId, target: Target, position: Position) {
        let line = match target {
            Target::Abandoned => None,
            Target::Point { .. } | Target::Cycle { .. } => self.line(position),
        };
        let below = match line {
            Some((Ground::Point(n), _)) => n + 1,
            Some((Ground::Root(_), _)) => self.root.as_ref().map_or(0, |(_, below)| *below),
            None => 0,
        };
        self.divergence = Some(self.gone(target, position, below));
        self.promoted = Some((branch, false, false));
        self.points.truncate(below);
        self.root = None;
        self.logs.clear();
        self.parts.clear();
        self.branches.retain(|b, _| *b == branch);
    }

    /// Everything that arrived after the target of a branch.
    fn gone(&self, target: Target, since: Position, below: usize) -> Divergence {
        let content = match target {
            Target::Abandoned => None,
            Target::Point { .. } | Target::Cycle { .. } => self.target(target).map(|(_, c)| c),
        };
        let Some(content) = content else {
            let unknown = self.disks.iter().map(|d| (d.id.clone(), None));
            return Divergence {
                since,
                disks: unknown.collect(),
            };
        };
        let passed = self.logs.iter().position(|l| l.log.position == since);
        let mut blocks = vec![BTreeSet::new(); self.disks.len()];
        for (_, later) in &self.points[below..] {
            for (n, (was, is)) in content.iter().zip(later).enumerate() {
                blocks[n].extend(differing(was, is).into_iter().map(|b| (b, b + 1)));
            }
        }
        for log in &self.logs[passed.map_or(0, |n| n + 1)..] {
            for &(disk, block, number) in &log.changes {
                let end = if disk >> 32 == 1 { number } else { block + 1 };
                blocks[disk & 0xffff].insert((block, end));
            }
        }
        let known = self.disks.iter().zip(blocks);
        Divergence {
            since,
            disks: known.map(|(d, b)| (d.id.clone(), Some(ranges(b)))).collect(),
        }
    }
}

/// A number is used for one content, on whatever host it is.
fn once(s: &mut State, vm: VmId, at: Position, bytes: &[u8]) {
    let hash = *blake3::hash(bytes).as_bytes();
    let place = (vm, at.generation().0.as_u128(), at.sequence());
    if *s.logs.entry(place).or_insert(hash) != hash {
        s.violation(format!("{at} is the number of two different logs"));
    }
}

/// Whether the newest log is a piece of a synchronization: an empty delta then says which instant the disks are.
fn found_partial(r: &Replica) -> bool {
    r.logs.last().is_some_and(|l| l.log.partial)
}

/// A whole log is here.
pub(crate) fn arrived(
    s: &mut State,
    h: usize,
    vm: VmId,
    position: Position,
    bytes: Vec<u8>,
) -> Result<Received> {
    let (header, mut changes, data) = decode(&bytes)?;
    if header.position != position || header.vm != vm || header.kind == LogKind::Bulk {
        return Err(StoreError::BadLog("another log".into()));
    }
    let found = s.hosts[h].replicas.get(&vm).filter(|r| r.open);
    let r = found.ok_or(StoreError::NoReplica(vm))?;
    // Frames name disks by the header's order, which need not be the replica's.
    for (disk, ..) in &mut changes {
        let id = header.disks.get(*disk & 0xffff).map(|d| &d.id);
        let at = r.disks.iter().position(|d| Some(&d.id) == id);
        let at = at.ok_or_else(|| StoreError::BadLog("a disk that is not here".into()))?;
        *disk = *disk & !0xffff | at;
    }
    let closes = changes.is_empty() && found_partial(r);
    if header.parent != r.durable {
        return Err(StoreError::OutOfSequence {
            parent: header.parent,
            have: r.durable,
        });
    }
    if r.promoted.is_some() {
        s.violation(format!(
            "{position} arrived in a replica whose failover is committed"
        ));
    }
    if !closes {
        once(s, vm, position, &bytes);
    }
    let partial = header.kind == LogKind::Sync;
    *(if partial {
        &mut s.sync_blocks
    } else {
        &mut s.delta_blocks
    }) += data;
    let r = s.hosts[h]
        .replicas
        .get_mut(&vm)
        .ok_or(StoreError::NoReplica(vm))?;
    r.parts.clear();
    r.durable = position;
    let (instant, size) = (header.instant, bytes.len() as u64);
    let log = StoredLog {
        position,
        parent: header.parent,
        instant,
        consistency: header.consistency,
        size,
        partial,
    };
    r.logs.push(KeptLog {
        log,
        changes,
        bytes: bytes.into(),
    });
    Ok(Received {
        durable: position,
        instant,
        bytes: size,
        partial,
    })
}

/// Content and base images that an adoption takes over.
fn origin(s: &State, h: usize, vm: VmId, wanted: &Adoption) -> Result<(Vec<Content>, Vec<Option<String>>)> {
    let conflict = |why: &str| Err(StoreError::Conflict(why.into()));
    let there = s.hosts[h].replicas.get(&vm);
    let again = there.filter(|r| r.adopted && r.untouched());
    let image = |key: &String| match s.hosts[h].images.get(key) {
        Some(image) => Ok(image.content.clone()),
        None => Err(StoreError::Io {
            what: format!("open {key}"),
            source: std::io::ErrorKind::NotFound.into(),
        }),
    };
    match &wanted.origin {
        Origin::Images(images) => {
            if there.is_some_and(|r| !r.leftover()) && again.is_none() {
                return conflict("a replica with data of its own exists");
            }
            let mut taken = (Vec::new(), Vec::new());
            for disk in &wanted.disks {
                let found = images.iter().find(|(id, _, _)| *id == disk.id);
                let key = found.map(|(_, path, _)| path.to_string());
                taken
                    .0
                    .push(key.as_ref().map(image).transpose()?.unwrap_or_default());
                taken.1.push(key);
            }
            Ok(taken)
        }
        Origin::Promoted(branch) => {
            let r = there.filter(|r| r.open).ok_or(StoreError::NoReplica(vm))?;
            if matches!(r.promoted, Some((b, _, _)) if b == *branch) {
                let keys = wanted.disks.iter().map(|d| file(*branch, &d.id));
                let keys: Vec<String> = keys.collect();
                let contents = keys.iter().map(image).collect::<Result<_>>()?;
                return Ok((contents, keys.into_iter().map(Some).collect()));
            }
            match again.filter(|r| r.adopted_branch == Some(*branch)) {
                Some(r) => Ok((r.head.clone(), r.base_images.clone())),
                None => conflict("that branch is not the disks of the VM"),
            }
        }
        Origin::Here => {
            let r = there.filter(|r| r.open).ok_or(StoreError::NoReplica(vm))?;
            if r.promoted.is_some() {
                return conflict("the replica is the VM's disks");
            }
            Ok((r.head.clone(), r.base_images.clone()))
        }
    }
}

/// Makes a copy a replica.
pub(crate) fn adopt(s: &mut State, h: usize, dir: String, vm: VmId, wanted: &Adoption) -> Result<()> {
    if let Some(r) = s.hosts[h].replicas.get_mut(&vm)
        && r.start == wanted.start
    {
        r.open = true;
        return Ok(());
    }
    if s.hosts[h]
        .processes
        .get(&vm)
        .is_some_and(|p| p.power != PowerState::Off)
    {
        s.violation("a replica was made of the disks of a running VM");
    }
    let (contents, base) = origin(s, h, vm, wanted)?;
    let old = s.hosts[h].replicas.remove(&vm);
    if let Some(r) = old
        .as_ref()
        .filter(|r| !r.branches.is_empty() && r.promoted.is_none())
    {
        let branches = r.branches.len();
        s.violation(format!("adopted under {branches} branches"));
    }
    let kept = wanted.keep.clone().map(|a| (a, contents.clone()));
    if let (Some((new, _)), Some((was, _))) = (&kept, old.as_ref().and_then(|r| r.kept.as_ref()))
        && new != was
    {
        s.violation("what was kept was overwritten by another thing to keep");
    }
    let mut new = Replica::new(dir, &wanted.disks, wanted.start);
    if let Some(old) = old {
        new.dir = old.dir;
        new.kept = old.kept.filter(|_| old.promoted.is_none());
        (new.vars, new.adopted_branch) = (old.vars, old.adopted_branch);
        if wanted.origin == Origin::Here {
            let gone = old.logs.iter().position(|l| l.log.parent == old.applied);
            new.logs = old.logs;
            new.logs.truncate(gone.unwrap_or(new.logs.len()));
            new.root = Some((contents.clone(), old.points.len())).filter(|(_, below)| *below > 0);
            new.points = old.points;
        }
    }
    if let Origin::Promoted(branch) = wanted.origin {
        new.adopted_branch = Some(branch);
    }
    (new.adopted, new.base_images, new.head) = (true, base, contents);
    new.divergence = Some(wanted.divergence.clone());
    new.kept = kept.or(new.kept);
    if let Some((id, instant, consistency)) = wanted.sealed {
        whole(s, vm, wanted.divergence.since, &new.head, "an adopted copy");
        let truth = Truth {
            at: instant,
            disks: new.head.clone(),
        };
        let place = (vm, wanted.start.generation().0.as_u128(), wanted.start.sequence());
        s.truth.entry(place).or_insert(truth);
        let point = Point {
            id,
            position: wanted.start,
            instant,
            consistency,
            size: 0,
            arrived: None,
            changed: None,
        };
        new.points.push((point, new.head.clone()));
        new.root = None;
    }
    s.hosts[h].replicas.insert(vm, new);
    Ok(())
}

/// Notes a breach when content that is said to be an instant is not that instant.
fn whole(s: &mut State, vm: VmId, at: Position, content: &[Content], what: &str) {
    match s.truth_at(vm, at) {
        Some(truth) if truth.disks == content => {}
        Some(_) => s.violation(format!("{what} is not the instant {at} that it is said to be")),
        None => s.violation(format!("{what} is said to be {at}, which was never an instant")),
    }
}

/// Content that arrived by an initial copy is said to be the instant of the start position.
pub(crate) fn finished(s: &mut State, vm: VmId, start: Position, instant: Timestamp, content: &[Content]) {
    if s.truth_at(vm, start).is_some() {
        return whole(s, vm, start, content, "a finished copy");
    }
    let same = |t: &Truth| t.at >= instant && t.disks == content;
    let known = s.truth.iter().find(|((v, _, _), t)| *v == vm && same(t));
    let Some(truth) = known.map(|(_, t)| t.clone()) else {
        return s.violation("a finished copy holds no instant there was");
    };
    let place = (vm, start.generation().0.as_u128(), start.sequence());
    s.truth.insert(place, truth);
}
