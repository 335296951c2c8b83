//! Watches a job on a terminal, or line by line where there is none. Leaving never stops the job.

use super::exit::{Exit, Failure};
use super::show::{Names, amount, ending, error, name_of, safe, title};
use super::units::span;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lifeboat_engine::action::JobView;
use lifeboat_model::{JobState, JobType};
use lifeboat_rest::Client;
use std::io::IsTerminal;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Follows `job` to its end or to Ctrl-C; returns the exit code and the last state seen.
pub(crate) async fn follow(client: &Client, job: JobView, names: &Names) -> Result<(Exit, JobView), Failure> {
    let what = format!("{}: {}", name_of(job.vm, names), title(job.kind));
    let mut progress = Progress::new(what.clone());
    let mut last = job;
    progress.show(&last);
    if !last.state.is_final() {
        // Before anything that can take long: from here on Ctrl-C leaves the job and says so.
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(|e| Failure::io("watch for Ctrl-C", &e))?;
        let mut follower = client.follow(last.id).await?;
        loop {
            let next = tokio::select! {
                next = follower.next() => next,
                _ = interrupt.recv() => {
                    progress.end();
                    eprintln!("the job carries on; follow it with: lifeboat job follow {}", last.id);
                    return Ok((Exit::Interrupted, last));
                }
            };
            match next {
                Ok(Some(job)) => last = job,
                Ok(None) => break,
                Err(error) => {
                    progress.end();
                    return Err(error.into());
                }
            }
            progress.show(&last);
        }
    }
    progress.end();
    outcome(&what, &last, names).map(|exit| (exit, last))
}

fn outcome(what: &str, job: &JobView, names: &Names) -> Result<Exit, Failure> {
    let took = match (job.started, job.ended) {
        (Some(start), Some(end)) => format!(" after {}", span(end.since(start))),
        _ => String::new(),
    };
    if job.state == JobState::Completed {
        eprintln!("{what} completed{took}");
        return Ok(Exit::Done);
    }
    let why = error(job, names).map(|e| format!(": {e}")).unwrap_or_default();
    let hint = format!("see: lifeboat job show {}", job.id);
    Err(Failure::new(
        Exit::Failed,
        format!("{what} {}{took}{why}", ending(job.state)),
        hint,
    ))
}

enum Progress {
    Bar(ProgressBar),
    /// What it is about, and the last tenth that was printed.
    Lines(String, Option<u8>),
}

impl Progress {
    fn new(what: String) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines(what, None);
        }
        let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
        bar.set_prefix(safe(&what));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self::Bar(bar)
    }

    fn show(&mut self, job: &JobView) {
        match self {
            Self::Bar(bar) => {
                let (template, length, done) = if job.kind == JobType::SendInitial && job.total_bytes > 0 {
                    // No speed: holes count as copied, and take no time.
                    let template = "{prefix} [{bar:30}] {percent}% copied {binary_bytes} of {binary_total_bytes} of disk, {eta} left";
                    (template, job.total_bytes, job.done_bytes)
                } else if job.total_bytes > 0 {
                    let template = "{prefix} [{bar:30}] {percent}% {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left  {msg}";
                    (template, job.total_bytes, job.done_bytes)
                } else {
                    ("{prefix} [{bar:30}] {percent}%  {msg}", 100, job.percent.into())
                };
                if bar.length() != Some(length) {
                    let style = ProgressStyle::with_template(template)
                        .unwrap_or_else(|_| ProgressStyle::default_bar());
                    bar.set_style(style.progress_chars("=> "));
                    bar.set_length(length);
                    // What was there before we looked is no speed.
                    bar.set_position(done);
                    bar.reset_eta();
                }
                bar.set_position(done);
                bar.set_message(safe(&job.detail));
            }
            Self::Lines(what, printed) => {
                let tenth = job.percent / 10;
                if *printed == Some(tenth) || job.state.is_final() {
                    return;
                }
                *printed = Some(tenth);
                let amount = amount(job).map(|a| format!(", {a}")).unwrap_or_default();
                let detail = match job.detail.as_str() {
                    "" => String::new(),
                    detail if detail == title(job.kind) => String::new(),
                    detail => format!(", {}", safe(detail)),
                };
                eprintln!("{what}: {}%{amount}{detail}", job.percent);
            }
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
