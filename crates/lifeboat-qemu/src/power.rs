//! What a VM's process says its guest does, and letting a guest go on that was stopped. A monitor that does not answer
//! says nothing about the guest: that is not known, with what was seen.

use std::time::Duration;

use lifeboat_block::qmp::{Qmp, QmpError};
use lifeboat_engine::ports::hypervisor::{HypervisorError, Power, Stall, StallCause};
use lifeboat_model::{DiskId, VmId};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::error::monitor_error;
use crate::process::Process;
use crate::qemu::Qemu;

/// How long a look takes at most, all of it.
const LOOK: Duration = Duration::from_secs(4);

/// How long a monitor may take to greet and to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// How long a process may take to end after its monitor closed; it closes its images meanwhile.
const HANGING_UP: Duration = Duration::from_secs(2);

/// For how long a guest that goes on is watched for what stopped it before.
const RELAPSE: Duration = Duration::from_millis(500);

fn not_known(why: impl Into<String>) -> Power {
    Power::NotKnown { why: why.into() }
}

/// What the VM does now, within 4 seconds.
pub(crate) async fn look(qemu: &Qemu, vm: VmId) -> Power {
    let until = Instant::now() + LOOK;
    let process = match timeout_at(until, qemu.process(vm)).await {
        Ok(Ok(Some(process))) => process,
        Ok(Ok(None)) => return Power::Off,
        Ok(Err(HypervisorError::NotKnown(why))) => return not_known(why),
        Ok(Err(e)) => return not_known(e.to_string()),
        Err(_) => {
            return not_known(format!(
                "looking for its process takes longer than {} s",
                LOOK.as_secs()
            ));
        }
    };
    let pid = process.pid();
    if process.stopped() {
        return not_known(format!(
            "its QEMU (process {pid}) was stopped by a signal and answers nothing until: kill -CONT {pid}"
        ));
    }
    match timeout_at(until, guest(qemu, vm)).await {
        Ok(Ok(power)) => power,
        Ok(Err(error)) => silent(&process, &error, until).await,
        Err(_) => not_known(format!(
            "its QEMU (process {pid}) does not answer within {} s",
            LOOK.as_secs()
        )),
    }
}

/// A process that does not answer: it is ending, or it is there and cannot be asked.
async fn silent(process: &Process, error: &QmpError, until: Instant) -> Power {
    let (why, leaving) = match error {
        QmpError::Timeout { .. } | QmpError::Busy { .. } => (
            "does not answer: it hangs, or another program holds its monitor".to_owned(),
            Duration::ZERO,
        ),
        QmpError::Connect { path, source } => (
            format!("runs and cannot be asked at {}: {source}", path.display()),
            HANGING_UP,
        ),
        QmpError::Closed => ("closes the connection when it is asked".to_owned(), HANGING_UP),
        QmpError::Command { .. } | QmpError::Lagged { .. } | QmpError::Protocol(_) => {
            (format!("runs and cannot be asked: {error}"), Duration::ZERO)
        }
    };
    let left = until.saturating_duration_since(Instant::now());
    if process.gone(leaving.min(left)).await {
        return Power::Off;
    }
    not_known(format!("its QEMU (process {}) {why}", process.pid()))
}

/// What the monitor says.
async fn guest(qemu: &Qemu, vm: VmId) -> Result<Power, QmpError> {
    let monitor = Qmp::connect(qemu.paths(vm).control(), ANSWER).await?;
    status(&monitor).await
}

async fn status(monitor: &Qmp) -> Result<Power, QmpError> {
    let answer = monitor
        .execute_timeout("query-status", Value::Null, ANSWER)
        .await?;
    let status = answer.get("status").and_then(Value::as_str).unwrap_or_default();
    let cause = match status {
        "running" => return Ok(Power::Running),
        "io-error" => return Ok(Power::Stalled(storage(monitor).await)),
        "internal-error" => StallCause::Internal,
        "guest-panicked" => StallCause::Panicked,
        "watchdog" => StallCause::Watchdog,
        _ => return Ok(Power::Paused),
    };
    Ok(Power::Stalled(Stall {
        cause,
        disks: Vec::new(),
    }))
}

/// Which disks stopped the guest, and by what. That the guest is stopped is known already, whatever this comes to.
async fn storage(monitor: &Qmp) -> Stall {
    let answer = monitor.execute_timeout("query-block", Value::Null, ANSWER).await;
    let answer = answer.inspect_err(|error| tracing::debug!(%error, "the disks' states are not known"));
    stall_of(answer.as_ref().ok())
}

/// The cause in an answer to `query-block`. A full file system counts before any other error: it is the one a person can
/// mend at once.
fn stall_of(answer: Option<&Value>) -> Stall {
    let all = answer.and_then(Value::as_array);
    let with = |status: &str| -> Vec<DiskId> {
        let devices = all.into_iter().flatten();
        let hit = devices.filter(|d| d.get("io-status").and_then(Value::as_str) == Some(status));
        hit.filter_map(disk_of).collect()
    };
    let full = with("nospace");
    if full.is_empty() {
        return Stall {
            cause: StallCause::StorageError,
            disks: with("failed"),
        };
    }
    Stall {
        cause: StallCause::NoSpace,
        disks: full,
    }
}

/// The disk of a device in `query-block`: every device of a disk is called `vd-ID`, wherever it is in the machine.
fn disk_of(device: &Value) -> Option<DiskId> {
    let place = device.get("qdev").and_then(Value::as_str)?;
    let name = place.split('/').find_map(|part| part.strip_prefix("vd-"))?;
    DiskId::new(name).ok()
}

/// Lets a paused or stalled guest go on, and watches whether what stopped it does so again.
pub(crate) async fn go_on(qemu: &Qemu, vm: VmId) -> Result<(), HypervisorError> {
    let monitor = qemu.control(vm).await.map_err(monitor_error)?;
    let before = status(&monitor).await.map_err(monitor_error)?;
    let mut events = monitor.events();
    monitor
        .execute_timeout("cont", Value::Null, ANSWER)
        .await
        .map_err(monitor_error)?;
    if matches!(before, Power::Stalled(_)) {
        // What was interrupted is tried again at once; that nothing is heard means that it went well.
        let again = events.wait_for("STOP", |_| true, RELAPSE).await;
        tracing::debug!(%vm, stopped = again.is_ok(), "a stalled guest was let go on");
    }
    match status(&monitor).await.map_err(monitor_error)? {
        Power::Running => Ok(()),
        Power::Stalled(stall) => Err(HypervisorError::Monitor(format!(
            "the guest was let go on and was stopped again: {stall}"
        ))),
        state @ (Power::Off | Power::Paused | Power::NotKnown { .. }) => Err(HypervisorError::Monitor(
            format!("the guest was let go on and is {:?}", state.state()),
        )),
    }
}

#[cfg(test)]
#[path = "power_tests.rs"]
mod tests;
