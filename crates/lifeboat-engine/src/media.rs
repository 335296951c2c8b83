//! The initial copy by somebody's hands: the primary writes it to a directory while changes are recorded, cycles flow at
//! once and wait on the replica, and the replica imports the copy below them. The files are the port's; what the copy is
//! read from is `copy`'s.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::LogDisk;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::{self, Event as Step};
use lifeboat_model::{GenerationId, JobState, JobType, Position, ReplicationState as State, VmId};
use tokio::time::Instant;

use crate::action::{Answer, Refusal};
use crate::actor::{Actor, Done, Work, chain, no_relationship, not_now};
use crate::copy::{self, CopyError, Route, SEGMENT, Tools};
use crate::jobs::Jobs;
use crate::operations::link_refusal;
use crate::ports::capture::{CaptureError, CaptureSource, Tracking};
use crate::ports::link::{Content, PeerRequest};
use crate::ports::media::{Manifest, Media, MediaError, Segment, SegmentFile};
use crate::ports::store::{ReplicaInfo, ReplicaStore};
use crate::primary::droppable;
use crate::records::{Import, Job, PrimarySide, Relationship};

/// The version of manifests that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Where an export goes.
pub(crate) struct Export {
    pub(crate) media: Arc<dyn Media>,
    pub(crate) dir: Utf8PathBuf,
    /// The VM's name, for people.
    pub(crate) name: String,
}

/// Writes the copy of all disks, from where an interrupted attempt stopped. Changes are recorded from before its first
/// byte, so that the first cycle makes it an instant.
pub(crate) async fn export(
    tools: &Tools,
    route: &Route,
    source: &dyn CaptureSource,
    to: &Export,
    report: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(), CopyError> {
    let Export { media, dir, name } = to;
    let found = media.found(dir, route.vm, route.start).await?;
    let recorded = match source.recover().await? {
        Tracking::Since(at) => at.first() == Some(&route.start),
        Tracking::None | Tracking::Lost { .. } => false,
    };
    if !recorded && found.is_some() {
        // What was written since is not known, so that what is on the medium can never be made whole.
        return Err(CopyError::Lost {
            why: "changes were no longer recorded during the export".into(),
            arrived: false,
        });
    }
    if !recorded {
        source.stop_tracking().await?;
        source.start_tracking(route.start).await?;
    }
    media.begin(dir, route.vm, route.start).await?;
    let there = found.unwrap_or_default();
    let disks = source.disks();
    let total = disks.iter().map(|d| d.size).sum();
    let (mut segments, mut done) = (Vec::new(), 0);
    let view = source.current().await?;
    for (number, disk) in (0u16..).zip(disks) {
        let mut from = 0;
        while from < disk.size {
            let end = disk.size.min(from + SEGMENT);
            let name = format!("{number:02}-{:06}.segment", from / SEGMENT);
            let file = match there.iter().find(|f| f.name == name) {
                Some(file) => file.clone(),
                None => {
                    let put = |body| media.put(dir, &name, body);
                    let of = (usize::from(number), disk);
                    copy::segment::<SegmentFile, _, _>(tools, route, &*view, of, from..end, put).await?
                }
            };
            segments.push(Segment {
                disk: number,
                from,
                to: end,
                file,
            });
            done += end - from;
            report(done, total);
            from = end;
        }
    }
    view.close().await?;
    let manifest = Manifest {
        version: VERSION,
        vm: route.vm,
        name: name.clone(),
        start: route.start,
        disks: disks.to_vec(),
        segments,
    };
    media.finish(dir, &manifest).await?;
    Ok(())
}

/// Why an export is not the copy that a replica awaits; `None` when it is.
fn misfit(manifest: &Manifest, vm: VmId, info: &ReplicaInfo, start: Position) -> Option<String> {
    if manifest.version != VERSION {
        return Some(format!(
            "it has version {}, this Lifeboat reads {VERSION}",
            manifest.version
        ));
    }
    if manifest.vm != vm {
        return Some(format!("it is of VM \"{}\" ({})", manifest.name, manifest.vm));
    }
    if manifest.start != start {
        return Some(format!(
            "it is of another attempt: it begins at {}, awaited is {start}; import the newest export",
            manifest.start
        ));
    }
    if manifest.disks != info.disks {
        return Some("its disks are not those of the replica".into());
    }
    complete(&manifest.disks, &manifest.segments).err()
}

/// Whether segments cover all disks, in order and without gaps.
fn complete(disks: &[LogDisk], segments: &[Segment]) -> Result<(), String> {
    let mut next = segments.iter();
    for (number, disk) in (0u16..).zip(disks) {
        let mut at = 0;
        while at < disk.size {
            match next.next() {
                Some(s) if s.disk == number && s.from == at && s.to > at && s.to <= disk.size => at = s.to,
                _ => {
                    return Err(format!(
                        "its manifest leaves out disk \"{}\" from byte {at} on",
                        disk.id
                    ));
                }
            }
        }
    }
    match next.next() {
        None => Ok(()),
        Some(s) => Err(format!("its manifest names \"{}\" beyond the disks", s.file.name)),
    }
}

fn misfitting(vm: VmId, manifest: &Manifest, info: &ReplicaInfo, start: Position) -> Result<(), MediaError> {
    misfit(manifest, vm, info, start).map_or(Ok(()), |why| Err(MediaError::Other(why)))
}

/// Reads an export to its end, and only when all of it is as it must be takes it in, from where an interrupted attempt
/// stopped.
async fn import(
    (store, media): (Arc<dyn ReplicaStore>, Arc<dyn Media>),
    vm: VmId,
    start: Position,
    dir: &Utf8Path,
    report: &(dyn Fn(u64, u64, &str) + Send + Sync),
) -> Result<(), CopyError> {
    let manifest = media.open(dir).await?;
    let info = store.info(vm).await?;
    misfitting(vm, &manifest, &info, start)?;
    let total = manifest.segments.iter().map(|s| s.file.bytes).sum::<u64>() * 2;
    let mut read = 0;
    for segment in &manifest.segments {
        media.check(dir, &segment.file).await?;
        read += segment.file.bytes;
        report(read, total, "checking the export");
    }
    for segment in &manifest.segments {
        read += segment.file.bytes;
        let Some(disk) = manifest.disks.get(usize::from(segment.disk)) else {
            continue;
        };
        let have = info.bulk.iter().find(|b| b.disk == disk.id).map_or(0, |b| b.done);
        if have < segment.to {
            let body = media.read(dir, &segment.file).await?;
            let progress = store.import(vm, body).await?;
            if progress.disk != disk.id || progress.done < segment.to {
                let name = &segment.file.name;
                let why = format!("{name} holds less than its manifest says");
                return Err(MediaError::Other(why).into());
            }
        }
        report(read, total, "importing");
    }
    Ok(())
}

fn media_refusal(e: &MediaError) -> Refusal {
    let code = match e {
        MediaError::NotEmpty(_) | MediaError::Other(_) | MediaError::NotTaken { .. } => {
            ReturnCode::InvalidParameter
        }
        MediaError::NoExport(_) => ReturnCode::FileNotFound,
        MediaError::Damaged { .. } | MediaError::NoSpace(_) | MediaError::Io(_) => ReturnCode::Failed,
    };
    Refusal::new(code, chain(e), "")
}

fn absolute(dir: &str) -> Result<Utf8PathBuf, Refusal> {
    let path = Utf8PathBuf::from(dir);
    let plain = path
        .components()
        .all(|c| !matches!(c, camino::Utf8Component::ParentDir));
    match path.is_absolute() && plain {
        true => Ok(path),
        false => Err(Refusal::new(
            ReturnCode::InvalidParameter,
            format!("directory \"{}\"", dir.chars().take(200).collect::<String>()),
            "write an absolute path without ..",
        )),
    }
}

impl Actor {
    fn primary_side(&mut self) -> Option<&mut PrimarySide> {
        self.rel.as_mut()?.primary_mut()
    }

    /// Where the initial copy is exported to, if it is.
    pub(crate) fn exports(&self) -> Option<Export> {
        let rel = self.rel.as_ref()?;
        Some(Export {
            media: self.host.ports.media.clone(),
            dir: rel.primary()?.export.clone()?.into(),
            name: rel.spec.name.clone(),
        })
    }

    /// StartReplication to a directory. Each attempt has a start of its own, so that the media of an earlier one are never
    /// taken for those of this one.
    pub(crate) async fn start_export(&mut self, dir: &str) -> Result<Answer, Refusal> {
        let before = self.rel.clone();
        let rel = before.as_ref().ok_or_else(no_relationship)?;
        let state = lifecycle::step(rel.mode, rel.state, Step::StartCopy).map_err(|e| not_now(&e))?;
        let path = absolute(dir)?;
        let start = Position::start(GenerationId(self.host.ports.entropy.uuid()));
        let found = self.host.ports.media.found(&path, self.id, start).await;
        if found.map_err(|e| media_refusal(&e))?.is_some() {
            return Err(media_refusal(&MediaError::NotEmpty(path)));
        }
        let offer = PeerRequest::Offer {
            vm: Box::new(self.spec()?.clone().into()),
            settings: rel.settings.clone(),
            disks: self.capturable(&rel.settings.disks).await?,
            start,
            from: self.host.config.listen.clone(),
            content: Content::Media,
            firmware: self.firmware().await,
        };
        let offered = self.host.ports.link.call(&rel.peer, offer).await;
        offered.map_err(|e| link_refusal(&e))?;
        let job = self
            .host
            .jobs
            .draft(self.id, JobType::StartExport, "exporting the initial copy");
        if let Some(rel) = &mut self.rel {
            (rel.state, rel.position, rel.problem) = (state, start, None);
        }
        if let Some(side) = self.primary_side() {
            (side.export, side.scheduled, side.acknowledged) = (Some(path.into()), None, start);
        }
        let answer = self.record(before, job).await?;
        self.primary.next_at = Instant::now();
        self.event(&format!("initial copy started, to {dir}")).await;
        Ok(answer)
    }

    /// The export is complete: cycles flow from now on.
    pub(crate) async fn exported(&mut self) -> bool {
        let before = self.rel.clone();
        let Some(dir) = self.primary_side().and_then(|s| s.export.take()) else {
            return true;
        };
        // It is in the state that the export was begun in.
        let _ = self.step(Step::ExportFinished);
        let text = format!(
            "the initial copy is in {dir}; import it on the replica host. What changes is sent already"
        );
        self.export_ends(before, JobState::Completed, None, &text).await
    }

    /// Whether an error ends an export; what a retry may cure does not.
    pub(crate) async fn export_failed(&mut self, e: &CopyError) -> bool {
        let fatal = matches!(
            e,
            CopyError::Media(_)
                | CopyError::Lost { .. }
                | CopyError::Capture(CaptureError::TrackingLost { .. })
        );
        if !fatal || self.exports().is_none() {
            return false;
        }
        let before = self.rel.clone();
        self.primary.forget();
        if let Some(side) = self.primary_side() {
            side.export = None;
        }
        let _ = self.step(Step::CancelCopy);
        let why = format!("{}; start it again, into a new directory", chain(e));
        let text = format!("the export was given up: {why}");
        self.export_ends(before, JobState::Exception, Some(why), &text)
            .await;
        true
    }

    async fn export_ends(
        &mut self,
        before: Option<Relationship>,
        state: JobState,
        why: Option<String>,
        text: &str,
    ) -> bool {
        let job = self.host.jobs.unfinished(self.id, JobType::StartExport);
        let ended = job.and_then(|j| self.host.jobs.ended(j.id, state, why));
        let Some(rel) = &self.rel else { return false };
        if let Err(e) = self.put_end(rel, ended).await {
            tracing::warn!(vm = %self.id, error = %e, "the end of the export is not recorded; it is repeated");
            self.rel = before;
            self.primary.forget();
            self.retry_later();
            return false;
        }
        self.event(text).await;
        true
    }

    /// ImportInitialReplica.
    pub(crate) async fn import_copy(&mut self, dir: &str) -> Result<Answer, Refusal> {
        let before = self.rel.clone();
        let rel = before.as_ref().ok_or_else(no_relationship)?;
        let Some(replica) = rel.replica() else {
            let hint = "this host is the primary; import on the replica host";
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "nothing is imported on a primary",
                hint,
            ));
        };
        if let Some(import) = &replica.import {
            let job = self.host.jobs.get(import.job);
            return Ok(job.map_or(Answer::Done, Answer::Job));
        }
        if rel.state != State::WaitingToCompleteInitialReplication || !replica.awaits_import {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                format!(
                    "no exported copy is awaited; replication is {} ({})",
                    rel.state,
                    rel.state.number()
                ),
                "export one on the primary host: lifeboat replication start --export DIR",
            ));
        }
        let path = absolute(dir)?;
        let info = self.replica_info().await?;
        let manifest = self
            .host
            .ports
            .media
            .open(&path)
            .await
            .map_err(|e| media_refusal(&e))?;
        misfitting(self.id, &manifest, &info, start_of(rel)).map_err(|e| media_refusal(&e))?;
        let job = self
            .host
            .jobs
            .draft(self.id, JobType::ImportCopy, "importing the initial copy");
        self.set_import(Some(Import {
            dir: path.into(),
            job: job.id,
        }));
        let answer = self.record(before, job).await?;
        self.event(&format!("importing the initial copy from {dir}"))
            .await;
        Ok(answer)
    }

    fn set_import(&mut self, to: Option<Import>) {
        if let Some(replica) = self.rel.as_mut().and_then(Relationship::replica_mut) {
            replica.import = to.map(Box::new);
        }
    }

    /// The copy comes on media: nothing can be applied before it is here.
    pub(crate) fn awaits_import(&self) -> bool {
        self.rel
            .as_ref()
            .and_then(Relationship::replica)
            .is_some_and(|r| r.awaits_import)
    }

    /// The import, if one was asked for.
    pub(crate) fn plan_import(&self) -> Option<Work> {
        let rel = self.rel.as_ref()?;
        let Import { dir, job } = *rel.replica()?.import.clone()?;
        let ports = (self.host.ports.store.clone(), self.host.ports.media.clone());
        let (jobs, vm, start): (Arc<Jobs>, _, _) = (self.host.jobs.clone(), self.id, start_of(rel));
        Some(droppable(async move {
            let report = |done: u64, total: u64, what: &str| jobs.progress(job, done, total, what);
            Done::Imported(import(ports, vm, start, Utf8Path::new(&dir), &report).await)
        }))
    }

    pub(crate) async fn imported(&mut self, result: Result<(), CopyError>) {
        let before = self.rel.clone();
        let job = before
            .as_ref()
            .and_then(Relationship::replica)
            .and_then(|r| r.import.as_ref().map(|i| i.job));
        self.set_import(None);
        let (state, why) = match &result {
            Ok(()) => (JobState::Completed, None),
            Err(e) => (JobState::Exception, Some(chain(e))),
        };
        if result.is_ok()
            && let Some(replica) = self.rel.as_mut().and_then(Relationship::replica_mut)
        {
            replica.awaits_import = false;
        }
        let text = match &why {
            None => "the initial copy is imported; what arrived meanwhile is applied to it now".to_owned(),
            Some(why) => format!("the initial copy was not imported: {why}"),
        };
        if self.conclude_job(before, job, state, why).await {
            self.replica.dirty = true;
            self.event(&text).await;
        }
    }

    /// The primary copies over the network after all.
    pub(crate) async fn no_import(&mut self) {
        if !self.awaits_import() {
            return;
        }
        if let Some(replica) = self.rel.as_mut().and_then(Relationship::replica_mut) {
            replica.awaits_import = false;
        }
        self.save_or_warn().await;
    }

    /// The job of an import was cancelled. What was taken in is kept. `None`: it is another job.
    pub(crate) async fn cancel_import(&mut self, job: &Job) -> Option<Result<Answer, Refusal>> {
        let before = self.rel.clone();
        let import = before.as_ref()?.replica()?.import.as_ref()?;
        if import.job != job.id {
            return None;
        }
        self.interrupt().await;
        self.set_import(None);
        let why = Some("cancelled".to_owned());
        if !self
            .conclude_job(before, Some(job.id), JobState::Terminated, why)
            .await
        {
            let what = "the catalog cannot be written; the import goes on";
            return Some(Err(Refusal::new(ReturnCode::Failed, what, "try again")));
        }
        self.event("the import was cancelled; what was imported is kept")
            .await;
        let job = self.host.jobs.get(job.id);
        Some(Ok(job.map_or(Answer::Done, Answer::Job)))
    }
}

/// The position that an initial copy stands for.
fn start_of(rel: &Relationship) -> Position {
    rel.position.first()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_model::DiskId;
    use uuid::Uuid;

    fn segment(disk: u16, from: u64, to: u64) -> Segment {
        Segment {
            disk,
            from,
            to,
            file: SegmentFile {
                name: format!("{disk}-{from}"),
                bytes: 1,
                blake3: String::new(),
            },
        }
    }

    fn manifest() -> Manifest {
        let disk = |id: &str, size| LogDisk {
            id: DiskId::new(id).unwrap(),
            size,
        };
        Manifest {
            version: VERSION,
            vm: VmId(Uuid::from_u128(1)),
            name: "web".into(),
            start: Position::start(GenerationId(Uuid::from_u128(2))),
            disks: vec![disk("a", 100), disk("b", 50)],
            segments: vec![segment(0, 0, 60), segment(0, 60, 100), segment(1, 0, 50)],
        }
    }

    #[test]
    fn only_the_awaited_export_fits() {
        type Spoil = fn(&mut Manifest);
        let good = manifest();
        let info = ReplicaInfo {
            dir: "/r".into(),
            disks: good.disks.clone(),
            bulk: Vec::new(),
            durable: good.start,
            applied: good.start,
            points: Vec::new(),
            logs: Vec::new(),
            branches: Vec::new(),
            abandoned: None,
            files: Vec::new(),
            faults: Vec::new(),
            damage: Vec::new(),
            unsealed: Default::default(),
        };
        let judge = |m: &Manifest| misfit(m, good.vm, &info, good.start);
        assert_eq!(judge(&good), None);
        let table: [(Spoil, &str); _] = [
            (|m| m.version = 2, "version"),
            (|m| m.vm = VmId(Uuid::from_u128(9)), "web"),
            (
                |m| m.start = Position::start(GenerationId(Uuid::from_u128(9))),
                "another attempt",
            ),
            (|m| m.disks[0].size = 99, "disks"),
            (|m| drop(m.segments.remove(1)), "\"a\" from byte 60"),
            (|m| m.segments.swap(0, 1), "from byte 0"),
            (|m| drop(m.segments.pop()), "\"b\" from byte 0"),
            (|m| m.segments[2].to = 51, "\"b\""),
            (|m| m.segments[1].from = 50, "from byte 60"),
            (|m| m.segments.push(segment(1, 50, 60)), "beyond"),
            (|m| m.segments[1].to = 60, "from byte 60"),
        ];
        for (spoil, word) in table {
            let mut m = good.clone();
            spoil(&mut m);
            let why = judge(&m).unwrap_or_default();
            assert!(why.contains(word), "{why} should contain {word}");
        }
    }

    #[test]
    fn a_directory_is_named_from_the_root() {
        assert!(absolute("/media/usb/web").is_ok());
        for bad in ["", "usb", "./usb", "/media/../etc"] {
            assert!(absolute(bad).is_err(), "{bad}");
        }
    }
}
