//! Jobs, and what they are about.

use crate::cim::hint;
use lifeboat_cim::Instance;
use lifeboat_engine::action::JobView;
use lifeboat_engine::by::By;
use lifeboat_model::JobState;
use lifeboat_model::api::ReturnCode;

use super::names::{guid, job_path, replication_service_path, vm_path};
use super::{ClassView, Make, duration, element, instant, link, span, view};
use crate::cim::HostFacts;
use crate::cim::facts::JobParts;

pub(super) const CLASSES: &[ClassView] = &[
    view("Msvm_ConcreteJob", Make::Job(job)),
    view("Msvm_AffectedJobElement", Make::JobOfVm(affected)),
    view("Msvm_OwningJobElement", Make::Job(owned)),
];

/// What a job says of itself: `OperationalStatus`, its word, and `HealthState` (5 is OK, 20 a major failure). OK while
/// nothing is wrong with it.
fn status(job: &JobView) -> (u16, &'static str, u16) {
    match job.state {
        JobState::New
        | JobState::Starting
        | JobState::Running
        | JobState::Suspended
        | JobState::ShuttingDown
        | JobState::Completed
        | JobState::Terminated => (2, "OK", 5),
        JobState::Killed | JobState::Exception => (6, "Error", 20),
    }
}

/// `JobStatus`: what it is doing while it runs, and how it ended afterwards.
fn job_status(job: &JobView) -> &str {
    match job.state {
        JobState::New
        | JobState::Starting
        | JobState::Running
        | JobState::Suspended
        | JobState::ShuttingDown => &job.detail,
        JobState::Completed => "Completed",
        JobState::Terminated => "Cancelled",
        JobState::Killed | JobState::Exception => job.error.as_deref().unwrap_or("Failed"),
    }
}

/// `ErrorCode`: what the method would have returned; 0 unless the job ended by an error.
fn error_code(job: &JobView) -> u16 {
    let code = match job.state {
        JobState::Exception | JobState::Killed => job.code.unwrap_or(ReturnCode::Failed),
        JobState::New
        | JobState::Starting
        | JobState::Running
        | JobState::Suspended
        | JobState::ShuttingDown
        | JobState::Completed
        | JobState::Terminated => ReturnCode::Completed,
    };
    u16::try_from(code.number()).unwrap_or(u16::MAX)
}

/// A few words for what a job does, from the name of its kind.
fn title(job: &JobView) -> String {
    let name = job.kind.to_string();
    let mut words = String::new();
    for c in name.chars() {
        match (c.is_ascii_uppercase(), words.is_empty()) {
            (true, false) => words.extend([' ', c.to_ascii_lowercase()]),
            _ => words.push(c),
        }
    }
    words
}

fn job(host: &HostFacts, of: &JobParts) -> Vec<Instance> {
    let job = &of.job;
    let (status, word, health) = status(job);
    let title = title(job);
    let changed = job.ended.or(job.started).unwrap_or(job.created);
    let ran = job.started.map(|s| job.ended.unwrap_or(of.now).since(s));
    let cancellable = matches!(job.state, JobState::New | JobState::Starting | JobState::Running);
    let error = match job.state {
        JobState::Exception | JobState::Killed | JobState::Terminated => {
            job.error.as_deref().map(|e| hint::told(e, job.hint.as_ref()))
        }
        JobState::New
        | JobState::Starting
        | JobState::Running
        | JobState::Suspended
        | JobState::ShuttingDown
        | JobState::Completed => None,
    };
    let instance = element("Msvm_ConcreteJob", &title, &job.detail, &title)
        .with("InstanceID", guid(job.id))
        .with("Name", title.as_str())
        .with("OperationalStatus", vec![status])
        .with("StatusDescriptions", vec![word])
        .with("Status", word)
        .with("HealthState", health)
        .with("JobStatus", job_status(job))
        .with("InstallDate", instant(job.created))
        .with("TimeSubmitted", instant(job.created))
        .with_some("StartTime", job.started.map(instant))
        .with("ElapsedTime", duration(ran.unwrap_or_default()))
        .with("JobRunTimes", 1_u32)
        .with("LocalOrUtcTime", 2_u16)
        .with("Notify", "")
        .with("Owner", job.by.as_ref().map_or_else(String::new, By::names))
        .with("Priority", 0_u32)
        .with("PercentComplete", u16::from(job.percent))
        .with("DeleteOnCompletion", true)
        .with("ErrorCode", error_code(job))
        .with("ErrorDescription", error.clone().unwrap_or_default())
        .with("ErrorSummaryDescription", error.unwrap_or_default())
        .with("RecoveryAction", 2_u16)
        .with("JobState", job.state.number())
        .with("TimeOfLastStateChange", instant(changed))
        .with("TimeBeforeRemoval", span(host.job_retention.as_secs()))
        .with("Cancellable", cancellable)
        .with("JobType", job.kind.number());
    vec![instance]
}

fn affected(_: &HostFacts, of: &JobParts) -> Vec<Instance> {
    let affected = || {
        let vm = ("AffectedElement", vm_path(of.job.vm));
        let job = ("AffectingElement", job_path(of.job.id));
        link("Msvm_AffectedJobElement", vm, job).with("ElementEffects", vec![5_u16])
    };
    of.vm_exists.then(affected).into_iter().collect()
}

fn owned(host: &HostFacts, of: &JobParts) -> Vec<Instance> {
    let service = ("OwningElement", replication_service_path(host));
    let job = ("OwnedElement", job_path(of.job.id));
    vec![link("Msvm_OwningJobElement", service, job)]
}
