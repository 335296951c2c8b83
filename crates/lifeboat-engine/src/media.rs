//! The initial copy by somebody's hands: the primary writes it to a directory while changes are recorded, cycles flow at
//! once and wait on the replica, and the replica imports the copy below them. The files are the port's; what the copy is
//! read from is `copy`'s, and the key that both sides have for the files is `sealing`'s.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::{self, Event as Step};
use lifeboat_model::{GenerationId, JobState, JobType, Position, ReplicationState as State};
use tokio::time::Instant;

use crate::action::{Answer, Refusal};
use crate::actor::{Actor, Done, Work, chain, no_relationship, not_now};
use crate::change::Change;
use crate::copy::{self, CopyError, Route, SEGMENT, Tools};
use crate::fitting::{VERSION, misfitting};
use crate::jobs::Jobs;
use crate::operations::link_refusal;
use crate::ports::capture::{CaptureError, CaptureSource, Tracking};
use crate::ports::link::{Content, PeerRequest};
use crate::ports::media::{Manifest, Media, MediaError, Part, Seal, Segment, SegmentFile};
use crate::ports::store::ReplicaStore;
use crate::primary::droppable;
use crate::records::{self, Import, Job, Relationship};
use crate::sealing;

/// Where an export goes.
pub(crate) struct Export {
    pub(crate) media: Arc<dyn Media>,
    pub(crate) dir: Utf8PathBuf,
    /// `None`: it was begun by a version that sealed nothing.
    pub(crate) seal: Option<Seal>,
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
    let Export {
        media,
        dir,
        seal,
        name,
    } = to;
    let seal = seal.as_ref().ok_or(MediaError::NoKey)?;
    let found = media.found(dir, seal).await?;
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
    media.begin(dir, seal).await?;
    let there = found.unwrap_or_default();
    let disks = source.disks();
    let total = disks.iter().map(|d| d.size).sum();
    let (mut segments, mut done) = (Vec::new(), 0);
    let view = source.current().await?;
    for (number, disk) in (0u16..).zip(disks) {
        let mut from = 0;
        while from < disk.size {
            let end = disk.size.min(from + SEGMENT);
            let part = Part {
                disk: number,
                number: from / SEGMENT,
            };
            let file = match there.iter().find(|f| f.part == part) {
                Some(file) => file.clone(),
                None => {
                    let put = |body| media.put(dir, seal, part, body);
                    let of = (usize::from(number), disk);
                    copy::segment::<SegmentFile, _, _>(tools, route, &*view, of, from..end, put).await?
                }
            };
            segments.push(Segment { from, to: end, file });
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
    media.finish(dir, seal, &manifest).await?;
    Ok(())
}

/// Reads an export to its end, and only when all of it is what was sealed with the key that the link told takes it in, from
/// where an interrupted attempt stopped. A medium may change between the two readings: the second one believes no more than
/// the first.
async fn import(
    (store, media): (Arc<dyn ReplicaStore>, Arc<dyn Media>),
    seal: Result<Seal, MediaError>,
    start: Position,
    dir: &Utf8Path,
    report: &(dyn Fn(u64, u64, &str) + Send + Sync),
) -> Result<(), CopyError> {
    let seal = seal?;
    let vm = seal.vm;
    let manifest = media.open(dir, &seal).await?;
    let info = store.info(vm).await?;
    misfitting(vm, &manifest, &info, start)?;
    let total = manifest.segments.iter().map(|s| s.file.bytes).sum::<u64>() * 2;
    let mut read = 0;
    for segment in &manifest.segments {
        media.check(dir, &seal, &segment.file).await?;
        read += segment.file.bytes;
        report(read, total, "checking the export");
    }
    for segment in &manifest.segments {
        read += segment.file.bytes;
        let Some(disk) = manifest.disks.get(usize::from(segment.file.part.disk)) else {
            continue;
        };
        let have = info.bulk.iter().find(|b| b.disk == disk.id).map_or(0, |b| b.done);
        if have < segment.to {
            let body = media.read(dir, &seal, &segment.file).await?;
            let progress = store.import(vm, body).await?;
            if progress.disk != disk.id || progress.done < segment.to {
                let name = segment.file.part.name();
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
        MediaError::NotEmpty(_)
        | MediaError::Other(_)
        | MediaError::Another { .. }
        | MediaError::NotSealed(_)
        | MediaError::NotTaken { .. } => ReturnCode::InvalidParameter,
        MediaError::NoKey => ReturnCode::InvalidState,
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

impl Relationship {
    /// Nothing is exported any more; to where it was. The key is of no use here from then on.
    fn no_export(&mut self) -> Option<String> {
        let side = self.primary_mut()?;
        side.sealing = None;
        side.export.take()
    }

    /// No medium is taken any more, and the key is forgotten.
    fn awaits_no_import(&mut self) {
        if let Some(replica) = self.replica_mut().filter(|r| r.awaits_import) {
            (replica.awaits_import, replica.sealing) = (false, None);
        }
    }
}

impl Actor {
    /// Where the initial copy is exported to, if it is.
    pub(crate) fn exports(&self) -> Option<Export> {
        let rel = self.rel.as_ref()?;
        let side = rel.primary()?;
        let seal = |sealing: records::Sealing| Seal {
            vm: self.id,
            sealing: sealing.into(),
        };
        Some(Export {
            media: self.host.ports.media.clone(),
            dir: side.export.clone()?.into(),
            seal: side.sealing.as_deref().cloned().map(seal),
            name: rel.spec.name.clone(),
        })
    }

    /// StartReplication to a directory. Each attempt has a start and a key of its own, so that the media of an earlier one are
    /// never taken for those of this one. It begins when the replica's host has recorded the key. Before that nothing is
    /// written: what is exported under a key that the other side may never get to know would be carried for nothing.
    pub(crate) async fn start_export(&mut self, dir: &str) -> Result<Answer, Refusal> {
        let rel = self.rel.clone().ok_or_else(no_relationship)?;
        let state = lifecycle::step(rel.mode, rel.state, Step::StartCopy).map_err(|e| not_now(&e))?;
        let path = absolute(dir)?;
        let start = Position::start(GenerationId(self.host.ports.entropy.uuid()));
        let sealing = self.new_sealing()?;
        let seal = Seal {
            vm: self.id,
            sealing: sealing.clone(),
        };
        let found = self.host.ports.media.found(&path, &seal).await;
        if found.map_err(|e| media_refusal(&e))?.is_some() {
            return Err(media_refusal(&MediaError::NotEmpty(path)));
        }
        let offer = PeerRequest::Offer {
            vm: Box::new(self.spec()?.clone().into()),
            settings: rel.settings.clone(),
            disks: self.capturable(&rel.settings.disks).await?,
            start,
            from: self.host.config.listen.clone(),
            content: Content::Media {
                sealing: Some(sealing.clone()),
            },
            firmware: self.firmware().await,
        };
        let offered = self.host.ports.link.call(&rel.peer, offer).await;
        let offered = offered.map_err(|e| link_refusal(&e))?;
        sealing::acknowledged(&rel.peer, &offered, &sealing)?;
        let job = self
            .host
            .jobs
            .draft(self.id, JobType::StartExport, "exporting the initial copy");
        let mut change = self.change()?;
        (change.state, change.position, change.problem) = (state, start, None);
        if let Some(side) = change.primary_mut() {
            (side.export, side.scheduled, side.acknowledged) = (Some(path.into()), None, start);
            side.sealing = Some(Box::new(sealing.into()));
        }
        change.tell(format!("initial copy started, to {dir}"));
        let answer = self.begin(change, job).await?;
        self.primary.next_at = Instant::now();
        Ok(answer)
    }

    /// The export is complete: cycles flow from now on.
    pub(crate) async fn exported(&mut self) -> bool {
        let Ok(mut change) = self.change() else {
            return true;
        };
        let Some(dir) = change.no_export() else {
            return true;
        };
        // It is in the state that the export was begun in.
        let _ = change.step(Step::ExportFinished);
        change.tell(format!(
            "the initial copy is in {dir}; import it on the replica host. What changes is sent already"
        ));
        self.export_ends(change, JobState::Completed, None).await
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
        self.primary.forget();
        let Ok(mut change) = self.change() else {
            return false;
        };
        change.no_export();
        let _ = change.step(Step::CancelCopy);
        let why = format!("{}; start it again, into a new directory", chain(e));
        change.tell(format!("the export was given up: {why}"));
        self.export_ends(change, JobState::Exception, Some(why)).await;
        true
    }

    async fn export_ends(&mut self, mut change: Change, state: JobState, why: Option<String>) -> bool {
        let job = self.host.jobs.unfinished(self.id, JobType::StartExport);
        change.end_job(&self.host.jobs, job.map(|j| j.id), state, why);
        if let Err(e) = self.commit(change).await {
            tracing::warn!(vm = %self.id, error = %e.message, "the end of the export is not recorded; it is repeated");
            self.primary.forget();
            self.retry_later();
            return false;
        }
        true
    }

    /// ImportInitialReplica.
    pub(crate) async fn import_copy(&mut self, dir: &str) -> Result<Answer, Refusal> {
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
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
            return Ok(job.map_or(Answer::Done, Answer::from));
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
        let seal = self.awaited_seal().map_err(|e| media_refusal(&e))?;
        let info = self.replica_info().await?;
        let manifest = self.host.ports.media.open(&path, &seal).await;
        let manifest = manifest.map_err(|e| media_refusal(&e))?;
        misfitting(self.id, &manifest, &info, start_of(rel)).map_err(|e| media_refusal(&e))?;
        let job = self
            .host
            .jobs
            .draft(self.id, JobType::ImportCopy, "importing the initial copy");
        let mut change = self.change()?;
        change.set_import(Some(Import {
            dir: path.into(),
            job: job.id,
        }));
        change.tell(format!("importing the initial copy from {dir}"));
        self.begin(change, job).await
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
        let (jobs, seal, start): (Arc<Jobs>, _, _) =
            (self.host.jobs.clone(), self.awaited_seal(), start_of(rel));
        Some(droppable(async move {
            let report = |done: u64, total: u64, what: &str| jobs.progress(job, done, total, what);
            Done::Imported(import(ports, seal, start, Utf8Path::new(&dir), &report).await)
        }))
    }

    pub(crate) async fn imported(&mut self, result: Result<(), CopyError>) {
        let Ok(mut change) = self.change() else { return };
        let import = change.replica().and_then(|r| r.import.as_ref());
        let job = import.map(|i| i.job);
        change.set_import(None);
        let (state, why) = match &result {
            Ok(()) => (JobState::Completed, None),
            Err(e) => (JobState::Exception, Some(chain(e))),
        };
        if result.is_ok() {
            change.awaits_no_import();
        }
        change.tell(match &why {
            None => "the initial copy is imported; what arrived meanwhile is applied to it now".to_owned(),
            Some(why) => format!("the initial copy was not imported: {why}"),
        });
        change.end_job(&self.host.jobs, job, state, why);
        if self.conclude_work(change).await {
            self.replica.dirty = true;
        }
    }

    /// The primary copies over the network after all.
    pub(crate) async fn no_import(&mut self) {
        self.note(Relationship::awaits_no_import).await;
    }

    /// The job of an import was cancelled. What was taken in is kept. `None`: it is another job.
    pub(crate) async fn cancel_import(&mut self, job: &Job) -> Option<Result<Answer, Refusal>> {
        let import = self.rel.as_ref()?.replica()?.import.as_ref()?;
        if import.job != job.id {
            return None;
        }
        self.interrupt().await;
        let mut change = self.change().ok()?;
        change.set_import(None);
        change.tell("the import was cancelled; what was imported is kept");
        let why = Some("cancelled".to_owned());
        change.end_job(&self.host.jobs, Some(job.id), JobState::Terminated, why);
        if !self.conclude_work(change).await {
            let what = "the catalog cannot be written; the import goes on";
            return Some(Err(Refusal::new(ReturnCode::Failed, what, "try again")));
        }
        let job = self.host.jobs.get(job.id);
        Some(Ok(job.map_or(Answer::Done, Answer::from)))
    }
}

/// The position that an initial copy stands for.
fn start_of(rel: &Relationship) -> Position {
    rel.position.first()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_named_from_the_root() {
        assert!(absolute("/media/usb/web").is_ok());
        for bad in ["", "usb", "./usb", "/media/../etc"] {
            assert!(absolute(bad).is_err(), "{bad}");
        }
    }
}
