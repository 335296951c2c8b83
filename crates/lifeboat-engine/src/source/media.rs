//! The initial copy by a medium that a person carries: the primary writes it to a directory while changes are recorded,
//! cycles flow at once and wait on the replica, and the replica imports the copy below them. The files are the port's; what the copy is
//! read from is `copy`'s, and the key that both sides have for the files is `sealing`'s.

use crate::contract::refusal::no_relationship;
use crate::contract::{Answer, Refusal};
use crate::core::Core;
use crate::core::change::Change;
use crate::host::jobs::Jobs;
use crate::host::tools::Tools;
use crate::port::capture::{CaptureError, CaptureSource, Tracking};
use crate::port::media::{Manifest, Media, MediaError, Part, Seal, Segment, SegmentFile};
use crate::port::store::{ImageStore, StoreError};
use crate::record::{Import, Relationship};
use crate::source::copy::{Route, SEGMENT};
use crate::source::{Done, SourcePart, copy};
use crate::target::fitting::{VERSION, misfitting};
use crate::work::failure::CopyError;
use crate::work::piece::{Work, droppable};
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::{JobState, JobType, Note, Position, hint};
use std::sync::Arc;

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
pub(crate) async fn import(
    (images, media): (Result<Arc<dyn ImageStore>, StoreError>, Arc<dyn Media>),
    seal: Result<Seal, MediaError>,
    start: Position,
    dir: &Utf8Path,
    report: &(dyn Fn(u64, u64, &str) + Send + Sync),
) -> Result<(), CopyError> {
    let (seal, images) = (seal?, images?);
    let vm = seal.vm;
    let manifest = media.open(dir, &seal).await?;
    let info = images.info(vm).await?;
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
            let progress = images.import(vm, body).await?;
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

pub(crate) fn media_refusal(e: &MediaError) -> Refusal {
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
    Refusal::bare(code, chain(e))
}

pub(crate) fn absolute(dir: &str) -> Result<Utf8PathBuf, Refusal> {
    let path = Utf8PathBuf::from(dir);
    let plain = path
        .components()
        .all(|c| !matches!(c, camino::Utf8Component::ParentDir));
    if path.is_absolute() && plain {
        Ok(path)
    } else {
        Err(Refusal::new(
            ReturnCode::InvalidParameter,
            format!("directory \"{}\"", dir.chars().take(200).collect::<String>()),
            hint::Again::AbsolutePath,
        ))
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
    pub(crate) fn awaits_no_import(&mut self) {
        if let Some(replica) = self.replica_mut().filter(|r| r.awaits_import) {
            (replica.awaits_import, replica.sealing) = (false, None);
        }
    }
}

impl Core {
    /// Where the initial copy is exported to, if it is.
    pub(crate) fn exports(&self) -> Option<Export> {
        let rel = self.rel.as_ref()?;
        let side = rel.primary()?;
        let seal = |sealing: crate::record::Sealing| Seal {
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

    /// ImportInitialReplica.
    pub(crate) async fn import_copy(&mut self, dir: &str) -> Result<Answer, Refusal> {
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        let Some(replica) = rel.replica() else {
            let hint = hint::Replicate::OnReplicaHost;
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
                hint::Copies::Export,
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
    pub(crate) fn plan_import(&self) -> Option<Work<Done>> {
        let rel = self.rel.as_ref()?;
        let Import { dir, job } = *rel.replica()?.import.clone()?;
        let ports = (self.images(), self.host.ports.media.clone());
        let (jobs, seal, start): (Arc<Jobs>, _, _) =
            (self.host.jobs.clone(), self.awaited_seal(), start_of(rel));
        Some(droppable(async move {
            let report = |done: u64, total: u64, what: &str| jobs.progress(job, done, total, what);
            Done::Imported(import(ports, seal, start, Utf8Path::new(&dir), &report).await)
        }))
    }

    /// The primary copies over the network after all.
    pub(crate) async fn no_import(&mut self) {
        self.note(Relationship::awaits_no_import).await;
    }
}

impl SourcePart {
    /// The export is complete: cycles flow from now on.
    pub(crate) async fn exported(&mut self, core: &mut Core) -> bool {
        let Ok(mut change) = core.change() else {
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
        self.export_ends(core, change, JobState::Completed, None).await
    }

    /// Whether an error ends an export; what a retry may cure does not.
    pub(crate) async fn export_failed(&mut self, core: &mut Core, e: &CopyError) -> bool {
        let fatal = matches!(
            e,
            CopyError::Media(_)
                | CopyError::Lost { .. }
                | CopyError::Capture(CaptureError::TrackingLost { .. })
        );
        if !fatal || core.exports().is_none() {
            return false;
        }
        self.forget();
        let Ok(mut change) = core.change() else {
            return false;
        };
        change.no_export();
        let _ = change.step(Step::CancelCopy);
        let why = e
            .note()
            .within(|e| format!("{e}; start it again, into a new directory"));
        let told = why.clone();
        change.tell(told.within(|why| format!("the export was given up: {why}")));
        self.export_ends(core, change, JobState::Exception, Some(why))
            .await;
        true
    }

    async fn export_ends(
        &mut self,
        core: &mut Core,
        mut change: Change,
        state: JobState,
        why: Option<Note>,
    ) -> bool {
        let job = core.host.jobs.unfinished(core.id, JobType::StartExport);
        change.end_job(&core.host.jobs, job.map(|j| j.id), state, why);
        if let Err(e) = core.commit(change).await {
            tracing::warn!(vm = %core.id, error = %e.message, "the end of the export is not recorded; it is repeated");
            self.forget();
            self.retry_later(core);
            return false;
        }
        true
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
