//! An export or an import that begins or is cancelled, which ends other work first. Writing and reading are
//! `source::media`'s and `target::media`'s.

use crate::actor::Actor;
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, Refusal};
use crate::port::link::{Content, PeerRequest};
use crate::port::media::{MediaError, Seal};
use crate::record::Job;
use crate::source::media::{absolute, media_refusal};
use crate::source::sealing;
use crate::work::calls::link_refusal;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{GenerationId, JobState, JobType, Position, hint};
use tokio::time::Instant;

impl Actor {
    /// StartReplication to a directory. Each attempt has a start and a key of its own, so that the media of an earlier one are
    /// never taken for those of this one. It begins when the replica's host has recorded the key. Before that nothing is
    /// written: what is exported under a key that the other side may never get to know would be carried for nothing.
    pub(crate) async fn start_export(&mut self, dir: &str) -> Result<Answer, Refusal> {
        let rel = self.core.rel.clone().ok_or_else(no_relationship)?;
        let state = lifecycle::step(rel.mode, rel.state, Step::StartCopy).map_err(|e| not_now(&e))?;
        let path = absolute(dir)?;
        let start = Position::start(GenerationId(self.core.host.ports.entropy.uuid()));
        let sealing = self.core.new_sealing()?;
        let seal = Seal {
            vm: self.core.id,
            sealing: sealing.clone(),
        };
        let found = self.core.host.ports.media.found(&path, &seal).await;
        if found.map_err(|e| media_refusal(&e))?.is_some() {
            return Err(media_refusal(&MediaError::NotEmpty(path)));
        }
        let offer = PeerRequest::Offer {
            vm: Box::new(self.core.spec()?.clone().into()),
            settings: rel.settings.clone(),
            disks: self.capturable(&rel.settings.disks).await?,
            start,
            from: self.core.host.config.listen.clone(),
            content: Content::Media {
                sealing: Some(sealing.clone()),
            },
            firmware: self.core.firmware().await,
        };
        let offered = self.core.host.ports.link.call(&rel.peer, offer).await;
        let offered = offered.map_err(|e| link_refusal(&e))?;
        sealing::acknowledged(&rel.peer, &offered, &sealing)?;
        let job = self
            .core
            .host
            .jobs
            .draft(self.core.id, JobType::StartExport, "exporting the initial copy");
        let mut change = self.core.change()?;
        (change.state, change.position, change.problem) = (state, start, None);
        if let Some(side) = change.primary_mut() {
            (side.export, side.scheduled, side.acknowledged) = (Some(path.into()), None, start);
            side.sealing = Some(Box::new(sealing.into()));
        }
        change.tell(format!("initial copy started, to {dir}"));
        let answer = self.core.begin(change, job).await?;
        self.source.next_at = Instant::now();
        Ok(answer)
    }

    /// The job of an import was cancelled. What was taken in is kept. `None`: it is another job.
    pub(crate) async fn cancel_import(&mut self, job: &Job) -> Option<Result<Answer, Refusal>> {
        let import = self.core.rel.as_ref()?.replica()?.import.as_ref()?;
        if import.job != job.id {
            return None;
        }
        self.interrupt().await;
        let mut change = self.core.change().ok()?;
        change.set_import(None);
        change.tell("the import was cancelled; what was imported is kept");
        let why = Some("cancelled".into());
        change.end_job(&self.core.host.jobs, Some(job.id), JobState::Terminated, why);
        if !self.core.conclude_work(change).await {
            let what = "the catalog cannot be written; the import goes on";
            return Some(Err(Refusal::new(ReturnCode::Failed, what, hint::Again::Later)));
        }
        let job = self.core.host.jobs.get(job.id);
        Some(Ok(job.map_or(Answer::Done, Answer::from)))
    }
}
