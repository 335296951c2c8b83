//! Merging layers of a running VM's disks downwards while the guest writes: QEMU's block-commit, one disk after the
//! other. A merge that was cut off goes on in QEMU by itself; asked for again, it is waited for or found done.
//!
//! QEMU opens the image that is merged into again, for writing and afterwards for reading, and so does it with the one whose
//! backing file that is now. A process that was given its files is given these two again, both ways. What its sets hold of them
//! has to go before, and after: the locks on an image end only when nothing has the same open file any more.

use std::path::Path;
use std::time::Duration;

use lifeboat_block::fdset;
use lifeboat_block::qmp::{Event, EventStream, Qmp, QmpError};
use lifeboat_engine::ports::hypervisor::{HypervisorError, LiveMerge};
use lifeboat_model::DiskId;
use serde_json::{Value, json};

use crate::config::VmPaths;
use crate::error::{io_error, monitor_error};
use crate::graph::{self, DiskGraph};
use crate::handed::{self, Access};
use crate::start::Started;

/// How often a job is looked at in case its event was lost.
const LOOK: Duration = Duration::from_secs(5);

pub(crate) async fn run(
    paths: &VmPaths,
    merges: &[LiveMerge],
    bytes_per_s: u64,
) -> Result<(), HypervisorError> {
    let path = paths.launch();
    let bytes = std::fs::read(&path).map_err(io_error(format!("cannot read {path}")))?;
    let started: Started = serde_json::from_slice(&bytes)
        .map_err(|e| HypervisorError::Monitor(format!("{path} cannot be understood: {e}")))?;
    let monitor = Qmp::connect(paths.merge(), Duration::from_secs(5))
        .await
        .map_err(monitor_error)?;
    for merge in merges {
        one(&monitor, &started, merge, bytes_per_s).await?;
    }
    Ok(())
}

async fn one(
    monitor: &Qmp,
    started: &Started,
    merge: &LiveMerge,
    bytes_per_s: u64,
) -> Result<(), HypervisorError> {
    let id = &merge.id;
    let unknown = |what: &str| HypervisorError::Monitor(format!("disk {id} was not started with {what}"));
    let graph = started.graphs.iter().find(|g| g.id == *id);
    let graph = graph.ok_or_else(|| unknown("this VM"))?;
    let node = |path: &str| graph.layers.get(path).ok_or_else(|| unknown(path));
    let (top, base) = (node(merge.top.as_str())?, node(merge.base.as_str())?);
    let job = format!("merge-{id}");
    let again = reopened(graph, merge);
    let again: Vec<_> = again
        .iter()
        .filter_map(|p| Some((p, *started.sets.get(p)?)))
        .collect();
    let sets: Vec<_> = again.iter().map(|(_, set)| *set).collect();
    let mut events = monitor.events();
    if job_state(monitor, &job).await?.is_some() {
        let arguments = json!({"device": job, "speed": bytes_per_s});
        // Refused when the job is at its end, which is what the following wait sees.
        if let Err(error) = monitor.execute("block-job-set-speed", arguments).await {
            tracing::debug!(%error, "the speed of a merge was not changed");
        }
        finish(monitor, &mut events, id, &job).await?;
    }
    // A job that was under way may have been an earlier request's: only the graph says what is merged.
    fdset::empty(monitor, &sets).await.map_err(monitor_error)?;
    if !nodes(monitor).await?.contains(top) {
        return Ok(());
    }
    for (path, set) in again {
        for access in [Access::Write, Access::Read] {
            let file =
                handed::open(Path::new(path), access).map_err(io_error(format!("cannot open {path}")))?;
            fdset::lend(monitor, Some(set), file)
                .await
                .map_err(monitor_error)?;
        }
    }
    let arguments = json!({
        "job-id": job, "device": graph::top_node(id), "top-node": top, "base-node": base,
        "backing-file": merge.base, "speed": bytes_per_s, "auto-dismiss": false,
    });
    monitor
        .execute("block-commit", arguments)
        .await
        .map_err(monitor_error)?;
    finish(monitor, &mut events, id, &job).await?;
    fdset::empty(monitor, &sets).await.map_err(monitor_error)
}

/// Files that QEMU opens again for a merge: the one that is merged into, and the one above what is merged, unless the guest
/// writes to that anyway.
fn reopened(graph: &DiskGraph, merge: &LiveMerge) -> Vec<String> {
    let mut files = vec![merge.base.to_string()];
    let written = graph.written();
    files.extend(
        graph
            .above(merge.top.as_str())
            .filter(|above| !written.contains(above)),
    );
    files
}

/// Waits until the job is concluded, takes its result and removes it.
async fn finish(
    monitor: &Qmp,
    events: &mut EventStream,
    id: &DiskId,
    job: &str,
) -> Result<(), HypervisorError> {
    loop {
        let Some((status, error)) = job_state(monitor, job).await? else {
            return Ok(());
        };
        if status == "concluded" {
            monitor
                .execute("job-dismiss", json!({"id": job}))
                .await
                .map_err(monitor_error)?;
            return match error {
                None => Ok(()),
                Some(error) => Err(HypervisorError::Monitor(format!(
                    "disk {id}: its layers were not merged: {error}"
                ))),
            };
        }
        let concluded = |data: &Value| {
            data.get("id").and_then(Value::as_str) == Some(job)
                && data.get("status").and_then(Value::as_str) == Some("concluded")
        };
        let waited: Result<Event, QmpError> = events.wait_for("JOB_STATUS_CHANGE", concluded, LOOK).await;
        match waited {
            Ok(_) | Err(QmpError::Timeout { .. } | QmpError::Lagged { .. }) => {}
            Err(error) => return Err(monitor_error(error)),
        }
    }
}

/// State and error of a job, if there is one.
async fn job_state(monitor: &Qmp, job: &str) -> Result<Option<(String, Option<String>)>, HypervisorError> {
    let jobs = monitor
        .execute("query-jobs", Value::Null)
        .await
        .map_err(monitor_error)?;
    let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).map(str::to_owned);
    let found = jobs
        .as_array()
        .into_iter()
        .flatten()
        .find(|j| j.get("id").and_then(Value::as_str) == Some(job));
    Ok(found.map(|j| (text(j, "status").unwrap_or_default(), text(j, "error"))))
}

async fn nodes(monitor: &Qmp) -> Result<Vec<String>, HypervisorError> {
    let nodes = monitor
        .execute("query-named-block-nodes", json!({"flat": true}))
        .await
        .map_err(monitor_error)?;
    let names = nodes.as_array().into_iter().flatten();
    Ok(names
        .filter_map(|n| Some(n.get("node-name")?.as_str()?.to_owned()))
        .collect())
}
