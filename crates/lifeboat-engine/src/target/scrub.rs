//! Bit rot, as a replica's actor sees it: when the next piece is read, what damage means for its health, and where right
//! bytes are asked for. Finding and repairing is the store's; the primary's answers are in `lend`.

use crate::contract::refusal::no_relationship;
use crate::contract::{Answer, Refusal};
use crate::core::Core;
use crate::host::EngineConfig;
use crate::port::link::{LinkError, PeerLink, PeerReply, PeerRequest};
use crate::port::scrub::{
    DamagedFile, NewestData, OfferedRange, RepairSource, RepairState, Repaired, ScrubNews, ScrubNext,
    ScrubPass, ScrubState, ScrubStep, ScrubWork,
};
use crate::port::store::{ImageStore, StoreError};
use crate::record::Relationship;
use crate::target::{Done, TargetPart};
use crate::work::piece::{Work, droppable};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::{Finding, JobState, JobType, Note, PointId, ProblemKind, Timestamp, VmId, hint};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// How often an idle replica is looked at for new content without digests, and for a pass that is due.
const LOOK: Duration = Duration::from_secs(600);

/// When something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(300);

/// Most blocks that are repaired by trying every bit, in one go: each takes a second or two.
const MAX_SEARCHED: u32 = 16;

/// What the actor keeps in memory. All of it can be lost: the store has the damage and the progress.
pub(crate) struct Scrubbing {
    next_at: Instant,
    /// As the store last said.
    damage: Vec<DamagedFile>,
    state: ScrubState,
    /// The next pass is to begin, whatever was read before.
    restart: bool,
    repair: Option<Repair>,
    /// What the last repair came to, until nothing is damaged.
    note: String,
}

impl Default for Scrubbing {
    fn default() -> Self {
        Self {
            next_at: Instant::now(),
            damage: Vec::new(),
            state: ScrubState::default(),
            restart: false,
            repair: None,
            note: String::new(),
        }
    }
}

impl Scrubbing {
    /// There is something new to read.
    pub(crate) fn wake(&mut self) {
        self.next_at = Instant::now();
    }
}

/// A repair under way.
#[derive(Clone, Copy, Debug)]
struct Repair {
    stage: Stage,
    searched: u32,
    primary: Primary,
    /// Blocks that were repaired.
    mended: u64,
}

/// What is tried next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The logs kept here.
    Logs,
    /// The primary's disks as they are now.
    Primary,
    /// Every bit of a block.
    OneBit,
    /// Nothing: what is left cannot be repaired.
    GiveUp,
    /// The newest data is to be compared with the primary's.
    Compare,
}

/// What the primary said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Primary {
    NotAsked,
    Answered,
    /// It does not answer; it is asked again.
    Silent,
    /// It will never have an answer: it is of an older version, or refuses.
    Useless,
}

/// How a piece of work ended.
pub(crate) enum Scrubbed {
    /// Something was read.
    Read(Result<Seen, StoreError>),
    /// A repair from a source that is on this host.
    Mended(Result<Repaired, StoreError>, Vec<DamagedFile>),
    /// A repair from the primary.
    Lent(Result<(Repaired, Vec<DamagedFile>), Unlent>),
    /// The primary was asked to compare.
    Compared(Result<(), LinkError>),
}

/// Why a repair from the primary came to nothing.
pub(crate) enum Unlent {
    /// The primary takes no calls.
    NoWay,
    Link(LinkError),
    Store(StoreError),
}

/// What a piece of reading came to.
pub(crate) struct Seen {
    step: ScrubStep,
    state: ScrubState,
    damage: Vec<DamagedFile>,
}

/// Whether a pass is due, by the host's clock; a clock that went back does not put it off.
fn due(state: &ScrubState, interval: Duration, now: Timestamp) -> bool {
    if interval.is_zero() {
        return false;
    }
    match (state.running, state.last) {
        (Some(_), _) | (None, None) => true,
        (None, Some(last)) => last > now || now.since(last) >= interval,
    }
}

/// How long reading this much may take.
fn pace(read: u64, bytes_per_s: u64) -> Duration {
    match bytes_per_s {
        0 => Duration::ZERO,
        rate => Duration::from_millis(read.saturating_mul(1000) / rate),
    }
}

/// The store that the replica is in, if it is in one.
type Images = Result<Arc<dyn ImageStore>, StoreError>;

async fn read(images: Images, vm: VmId, wanted: Wanted, now: Timestamp) -> Result<Seen, StoreError> {
    let store = images?;
    let mut step = store.scrub(vm, ScrubWork::Record, now).await?;
    let before = store.scrub_state(vm).await?;
    if step.next == ScrubNext::Nothing {
        let work = match wanted {
            Wanted::Restart => Some(ScrubWork::Restart),
            Wanted::Pass => Some(ScrubWork::Verify),
            Wanted::WhenDue(interval) => due(&before, interval, now).then_some(ScrubWork::Verify),
        };
        if let Some(work) = work {
            step = store.scrub(vm, work, now).await?;
        }
    }
    Ok(Seen {
        step,
        state: store.scrub_state(vm).await?,
        damage: store.info(vm).await?.damage,
    })
}

/// What is to be read once everything has digests.
#[derive(Clone, Copy)]
enum Wanted {
    /// Everything, from the beginning.
    Restart,
    /// Everything that the pass under way has not read yet.
    Pass,
    /// What is due.
    WhenDue(Duration),
}

async fn lent(
    (images, link): (Images, Arc<dyn PeerLink>),
    vm: VmId,
    primary: Option<String>,
) -> Result<(Repaired, Vec<DamagedFile>), Unlent> {
    let Some(peer) = primary else {
        return Err(Unlent::NoWay);
    };
    let store = images.map_err(Unlent::Store)?;
    let offered = |ranges: Vec<OfferedRange>| RepairSource::Copy(ranges);
    let asked = store
        .repair(vm, offered(Vec::new()))
        .await
        .map_err(Unlent::Store)?;
    if asked.wanted.is_empty() {
        let damage = store.info(vm).await.map_err(Unlent::Store)?.damage;
        return Ok((asked, damage));
    }
    let request = PeerRequest::ReadDisk {
        vm,
        ranges: asked.wanted.iter().cloned().map(Into::into).collect(),
    };
    let reply = link.call(&peer, request).await.map_err(Unlent::Link)?;
    let PeerReply::DiskData { data } = reply else {
        return Err(Unlent::Link(crate::work::calls::unexpected(&peer, &reply)));
    };
    // Whatever does not decode is not right, and would not have the digest either.
    let ranges = asked.wanted.into_iter().zip(data).filter_map(|(wanted, data)| {
        let data = BASE64_STANDARD.decode(data).ok()?;
        Some(OfferedRange {
            disk: wanted.disk,
            offset: wanted.offset,
            data: data.into(),
        })
    });
    let repaired = store
        .repair(vm, offered(ranges.collect()))
        .await
        .map_err(Unlent::Store)?;
    let damage = store.info(vm).await.map_err(Unlent::Store)?.damage;
    Ok((repaired, damage))
}

async fn mended(
    images: Images,
    vm: VmId,
    source: RepairSource,
) -> (Result<Repaired, StoreError>, Vec<DamagedFile>) {
    let store = match images {
        Ok(images) => images,
        Err(e) => return (Err(e), Vec::new()),
    };
    let repaired = store.repair(vm, source).await;
    let damage = store.info(vm).await.map(|i| i.damage).unwrap_or_default();
    (repaired, damage)
}

/// Why an instant cannot be brought up, when it is spoiled by one of these.
pub(crate) fn spoils(damage: &[DamagedFile], point: PointId) -> Option<String> {
    let hurt = damage.iter().find(|d| d.points.contains(&point))?;
    Some(format!("{} is damaged: {}", hurt.file, hurt.what))
}

fn of(points: &[PointId]) -> String {
    match points {
        [] => "no recovery point".to_owned(),
        [one] => format!("recovery point {one}"),
        [first, .., last] => format!("{} recovery points, {first} to {last}", points.len()),
    }
}

/// What a person has to know of a damaged file.
fn words(damage: &DamagedFile, note: &str) -> Note {
    let spoils = match damage.log {
        Some(at) => format!("no cycle can be brought up through it ({at})"),
        None => format!("it spoils {}", of(&damage.points)),
    };
    let newest = match damage.newest {
        NewestData::Good => "; the newest data is not hurt",
        NewestData::Spoiled => " and the newest data",
    };
    let next = match (damage.repair, damage.newest) {
        (RepairState::Pending, _) if note.is_empty() => "; a repair goes on".to_owned(),
        (RepairState::Pending, _) => format!("; {note}"),
        (RepairState::Hopeless, NewestData::Good) => {
            "; it cannot be repaired, and what it spoils is not offered".to_owned()
        }
        (RepairState::Hopeless, NewestData::Spoiled) => "; it cannot be repaired".to_owned(),
    };
    let newest = if damage.log.is_some() { "" } else { newest };
    let text = format!(
        "{} is damaged ({}); {spoils}{newest}{next}",
        damage.file, damage.what
    );
    let hint = match (damage.repair, damage.newest) {
        (RepairState::Hopeless, NewestData::Spoiled) => Some(hint::Copies::CompareOnPrimary.into()),
        (RepairState::Hopeless, NewestData::Good) | (RepairState::Pending, _) => None,
    };
    Note { text, hint }
}

impl Core {
    /// Whether the replica's files are still, so that they can be read.
    fn may_scrub(&self) -> bool {
        let Some(rel) = self.rel.as_ref() else {
            return false;
        };
        let side = rel.replica();
        matches!(rel.mode, Mode::Replica | Mode::ExtendedReplica)
            && self.opened
            && side.is_some_and(|r| r.dir.is_some() && !r.awaits_import && r.failover.is_none())
            && matches!(
                rel.state,
                State::Replicating | State::Critical | State::Suspended | State::Resynchronizing
            )
    }

    fn plan_repair(&self, stage: Stage) -> Work<Done> {
        let (images, link, vm) = (self.images(), self.host.ports.link.clone(), self.id);
        let primary = self.rel.as_ref().and_then(|r| r.callback.clone());
        let source = match stage {
            Stage::Logs => RepairSource::Logs,
            Stage::OneBit => RepairSource::OneBit,
            Stage::GiveUp => RepairSource::None,
            Stage::Primary => {
                return droppable(async move {
                    Done::Scrubbed(Scrubbed::Lent(lent((images, link), vm, primary).await))
                });
            }
            Stage::Compare => {
                return droppable(async move {
                    let at = primary.as_deref().unwrap_or_default();
                    let asked = link.call(at, PeerRequest::CompareAgain { vm }).await;
                    Done::Scrubbed(Scrubbed::Compared(asked.map(drop)))
                });
            }
        };
        droppable(async move {
            let (repaired, damage) = mended(images, vm, source).await;
            Done::Scrubbed(Scrubbed::Mended(repaired, damage))
        })
    }

    fn scrub_job(&self) -> Option<lifeboat_model::JobId> {
        self.host.jobs.unfinished(self.id, JobType::Scrub).map(|j| j.id)
    }
}

impl TargetPart {
    /// What bit rot means for the health.
    pub(crate) fn rot(&self, core: &Core, rel: &Relationship) -> Vec<Finding> {
        if rel.replica().is_none() {
            return Vec::new();
        }
        let scrub = &self.scrub;
        let damage = scrub.damage.iter().map(|d| {
            Finding::critical(ProblemKind::Damaged, words(d, &scrub.note)).about(d.file.to_string())
        });
        let mut found: Vec<Finding> = damage.collect();
        let config = &core.host.config;
        let since = scrub
            .state
            .running
            .map(|p| core.host.ports.clock.now().since(p.started));
        if since.is_some_and(|s| !config.scrub_interval.is_zero() && s > config.scrub_interval) {
            let text = format!(
                "verifying the replica's files takes longer than {} days: raise rate_mib_s or interval_days in [scrub] of lifeboat.toml",
                config.scrub_interval.as_secs() / 86_400
            );
            found.push(Finding::warning(ProblemKind::ScrubSlow, text));
        }
        found
    }

    /// When the next piece is due; none while nothing can be read.
    pub(crate) fn scrub_at(&self, core: &Core) -> Option<Instant> {
        core.may_scrub().then_some(self.scrub.next_at)
    }

    /// The next piece of reading, or of a repair.
    pub(crate) fn plan_scrub(&mut self, core: &Core) -> Option<Work<Done>> {
        if !core.may_scrub() || Instant::now() < self.scrub.next_at {
            return None;
        }
        let (images, vm, now) = (core.images(), core.id, core.host.ports.clock.now());
        if let Some(repair) = self.scrub.repair {
            return Some(core.plan_repair(repair.stage));
        }
        let wanted = match (self.scrub.restart, core.scrub_job()) {
            (true, _) => Wanted::Restart,
            (false, Some(_)) => Wanted::Pass,
            (false, None) => Wanted::WhenDue(core.host.config.scrub_interval),
        };
        Some(droppable(async move {
            Done::Scrubbed(Scrubbed::Read(read(images, vm, wanted, now).await))
        }))
    }

    /// What came of a piece of work.
    pub(crate) async fn scrubbed(&mut self, core: &Core, done: Scrubbed) {
        match done {
            Scrubbed::Read(Ok(seen)) => self.was_read(core, seen).await,
            Scrubbed::Mended(Ok(repaired), damage) => self.was_mended(core, &repaired, damage).await,
            Scrubbed::Lent(Ok((repaired, damage))) => {
                self.primary_said(Primary::Answered);
                self.was_mended(core, &repaired, damage).await;
            }
            Scrubbed::Lent(Err(Unlent::NoWay)) => {
                self.not_lent(
                    Primary::Useless,
                    "the primary takes no calls, and cannot help".to_owned(),
                );
            }
            Scrubbed::Lent(Err(Unlent::Link(e))) => self.link_failed(&e),
            Scrubbed::Compared(asked) => self.asked_to_compare(core, asked).await,
            Scrubbed::Read(Err(e)) | Scrubbed::Mended(Err(e), _) | Scrubbed::Lent(Err(Unlent::Store(e))) => {
                warn!(vm = %core.id, error = %chain(&e), "scrubbing waits");
                self.scrub.next_at = Instant::now() + AGAIN;
            }
        }
    }

    async fn was_read(&mut self, core: &Core, seen: Seen) {
        let Seen { step, state, damage } = seen;
        let at = core
            .host
            .pace_scrub(pace(step.read, core.host.config.scrub_bytes_per_s));
        let scrub = &mut self.scrub;
        scrub.state = state;
        scrub.next_at = at;
        if step.pass.is_some() {
            scrub.restart = false;
        }
        let before = std::mem::replace(&mut scrub.damage, damage);
        self.tell_damage(core, &before).await;
        if matches!(step.next, ScrubNext::Complete(_)) && self.scrub.repair.is_none() {
            // Every source is worth another try.
            self.scrub.note.clear();
        }
        if step.news == ScrubNews::Damage || self.scrub.note.is_empty() {
            self.begin_repair();
        }
        match step.next {
            ScrubNext::More => {
                if let (Some(job), Some(pass)) = (core.scrub_job(), step.pass) {
                    let jobs = &core.host.jobs;
                    jobs.progress(job, pass.done, pass.total, "verifying the replica's files");
                }
            }
            ScrubNext::Complete(pass) => self.pass_complete(core, &pass).await,
            ScrubNext::Nothing => {
                self.scrub.next_at = Instant::now() + LOOK;
                if let Some(job) = core.scrub_job() {
                    core.host.jobs.step(job, 99, "there is nothing to verify yet");
                    core.end_job(job, JobState::Completed, "").await;
                }
            }
        }
    }

    /// Events for damage that was not known before.
    async fn tell_damage(&mut self, core: &Core, before: &[DamagedFile]) {
        let known = |d: &DamagedFile| before.iter().any(|b| b.file == d.file);
        let new: Vec<Note> = self
            .scrub
            .damage
            .iter()
            .filter(|d| !known(d))
            .map(|d| words(d, ""))
            .collect();
        for note in new {
            warn!(vm = %core.id, damage = note.text, "bit rot");
            core.event(note).await;
        }
        if self.scrub.damage.iter().any(|d| d.log.is_some()) {
            // A point makes the head independent of the log.
            self.dirty = true;
        }
    }

    fn begin_repair(&mut self) {
        let scrub = &mut self.scrub;
        let pending = scrub.damage.iter().any(|d| d.repair == RepairState::Pending);
        if pending && scrub.repair.is_none() {
            scrub.repair = Some(Repair {
                stage: Stage::Logs,
                searched: 0,
                primary: Primary::NotAsked,
                mended: 0,
            });
            scrub.next_at = Instant::now();
        }
    }

    fn primary_said(&mut self, said: Primary) {
        if let Some(repair) = &mut self.scrub.repair {
            repair.primary = said;
        }
    }

    async fn was_mended(&mut self, core: &Core, repaired: &Repaired, damage: Vec<DamagedFile>) {
        let scrub = &mut self.scrub;
        scrub.damage = damage;
        scrub.next_at = Instant::now();
        let Some(repair) = &mut scrub.repair else { return };
        repair.mended += repaired.blocks;
        repair.stage = match (repair.stage, repair.primary) {
            (Stage::Logs, _) => Stage::Primary,
            // It is asked for so much at once; as long as that helps there may be more.
            (Stage::Primary, Primary::Answered) if repaired.blocks > 0 && !repaired.wanted.is_empty() => {
                Stage::Primary
            }
            (Stage::Primary, _) => Stage::OneBit,
            (Stage::OneBit, _) if repaired.untried > 0 && repair.searched < MAX_SEARCHED => {
                repair.searched += 1;
                Stage::OneBit
            }
            (Stage::OneBit, Primary::Silent) => {
                repair.searched = 0;
                scrub.next_at = Instant::now() + AGAIN;
                Stage::Primary
            }
            (Stage::OneBit, _) => Stage::GiveUp,
            (Stage::GiveUp | Stage::Compare, _) => Stage::Compare,
        };
        let over = repaired.left == 0;
        for file in &repaired.files {
            info!(vm = %core.id, %file, "repaired");
            core.event(&format!(
                "{file} is repaired: every block has its recorded digest again"
            ))
            .await;
        }
        if over {
            self.repair_over().await;
        }
    }

    /// Nothing is left that could be repaired.
    async fn repair_over(&mut self) {
        let spoiled = |d: &DamagedFile| d.newest == NewestData::Spoiled;
        let scrub = &mut self.scrub;
        if scrub.damage.is_empty() {
            (scrub.repair, scrub.note) = (None, String::new());
        } else if scrub.damage.iter().any(spoiled) {
            if let Some(repair) = &mut scrub.repair {
                repair.stage = Stage::Compare;
            }
        } else {
            (scrub.repair, scrub.note) = (None, "it cannot be repaired".to_owned());
        }
    }

    fn link_failed(&mut self, error: &LinkError) {
        let (said, note) = match error {
            LinkError::Unreachable { .. } | LinkError::Untrusted { .. } => (
                Primary::Silent,
                format!("the primary is asked for the right bytes again: {}", chain(error)),
            ),
            LinkError::Protocol { .. } => (
                Primary::Useless,
                "the primary's version of Lifeboat cannot help to repair it".to_owned(),
            ),
            LinkError::Refused(_) => (
                Primary::Useless,
                format!("the primary does not help: {}", chain(error)),
            ),
        };
        self.not_lent(said, note);
    }

    fn not_lent(&mut self, said: Primary, note: String) {
        self.primary_said(said);
        let scrub = &mut self.scrub;
        scrub.note = note;
        scrub.next_at = Instant::now();
        if let Some(repair) = &mut scrub.repair {
            repair.stage = Stage::OneBit;
        }
    }

    async fn asked_to_compare(&mut self, core: &Core, asked: Result<(), LinkError>) {
        let scrub = &mut self.scrub;
        match asked {
            Ok(()) => {
                (scrub.repair, scrub.note) = (None, "the copies are being compared".to_owned());
                scrub.next_at = Instant::now() + AGAIN;
                core.event("the newest data is damaged here: the primary compares both copies")
                    .await;
            }
            Err(e) => {
                scrub.note = format!("the copies have to be compared: {}", chain(&e));
                scrub.next_at = Instant::now() + AGAIN;
            }
        }
    }

    async fn pass_complete(&mut self, core: &Core, pass: &ScrubPass) {
        info!(vm = %core.id, bytes = pass.done, found = pass.found, "the replica's files were verified");
        if pass.first_seen > 0 {
            let bytes = pass.first_seen;
            core.event(&format!(
                "the replica's files have digests now: {bytes} bytes were seen for the first time"
            ))
            .await;
        }
        let Some(job) = core.scrub_job() else { return };
        let first = match pass.first_seen {
            0 => String::new(),
            n => format!("; {n} bytes had no digest, they were recorded as first seen now"),
        };
        let detail = format!(
            "{} bytes verified, {} damaged blocks found{first}",
            pass.done, pass.found
        );
        core.host.jobs.progress(job, pass.done, pass.done, &detail);
        if self.scrub.damage.is_empty() {
            core.end_job(job, JobState::Completed, "").await;
        } else {
            let why = self.scrub.damage.iter().map(|d| words(d, &self.scrub.note));
            let why: Vec<Note> = why.collect();
            let text: Vec<&str> = why.iter().map(|w| w.text.as_str()).collect();
            let note = Note {
                text: text.join("; "),
                hint: why.iter().find_map(|w| w.hint.clone()),
            };
            core.end_job(job, JobState::Exception, note).await;
        }
    }

    /// Verifies everything now. A job; repeated, the same one.
    pub(crate) async fn scrub_now(&mut self, core: &mut Core) -> Result<Answer, Refusal> {
        let rel = core.rel.as_ref().ok_or_else(no_relationship)?;
        if rel.replica().is_none() {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "this host has no replica of this VM",
                hint::Replicate::OnReplicaHost,
            ));
        }
        if !core.may_scrub() {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                format!(
                    "the replica's files cannot be verified in state {} ({})",
                    rel.state,
                    rel.state.number()
                ),
                hint::Look::Status,
            ));
        }
        if let Some(job) = core.host.jobs.unfinished(core.id, JobType::Scrub) {
            return Ok(Answer::from(job));
        }
        let change = core.change()?;
        let job = core
            .host
            .jobs
            .begin(core.id, JobType::Scrub, "verifying the replica's files");
        let answer = core.begin(change, job).await?;
        let scrub = &mut self.scrub;
        (scrub.restart, scrub.next_at) = (true, Instant::now());
        Ok(answer)
    }

    /// The newest position that cannot be reached by logs any more: a point past it is wanted.
    pub(crate) fn damaged_log(&self) -> Option<lifeboat_model::Position> {
        // In the order of their names, which is that of their positions.
        let mut logs = self.scrub.damage.iter().filter_map(|d| d.log);
        logs.next_back()
    }

    /// What the store knows of damage, after it was opened.
    pub(crate) fn damage_found(&mut self, damage: Vec<DamagedFile>) {
        self.scrub.damage = damage;
        self.begin_repair();
    }
}

impl EngineConfig {
    /// The usual limit of scrubbing, bytes per second of all replicas of this host together.
    pub const SCRUB_BYTES_PER_S: u64 = 32 << 20;

    /// How often each sealed byte is verified, usually.
    pub const SCRUB_INTERVAL: Duration = Duration::from_secs(7 * 86_400);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(started: u64) -> ScrubPass {
        ScrubPass {
            started: Timestamp(started),
            done: 0,
            total: 1,
            first_seen: 0,
            found: 0,
        }
    }

    #[test]
    fn a_pass_is_due_by_its_age_and_a_clock_that_went_back_does_not_put_it_off() {
        let week = Duration::from_secs(7 * 86_400);
        let state = |running, last| ScrubState { running, last };
        let at = Timestamp(2 * 7 * 86_400_000);
        let table = [
            (state(None, None), true),
            (state(Some(pass(1)), Some(at)), true),
            (state(None, Some(Timestamp(at.0 - 1000))), false),
            (state(None, Some(Timestamp(at.0 - 7 * 86_400_000))), true),
            (state(None, Some(Timestamp(at.0 + 86_400_000))), true),
        ];
        for (state, want) in table {
            assert_eq!(due(&state, week, at), want, "{state:?}");
            assert!(!due(&state, Duration::ZERO, at), "only on demand");
        }
    }

    #[test]
    fn the_rate_counts_what_was_read() {
        assert_eq!(pace(16 << 20, 32 << 20), Duration::from_millis(500));
        assert_eq!(pace(1 << 40, 0), Duration::ZERO);
        assert_eq!(pace(0, 1), Duration::ZERO);
    }
}
