//! Methods of the management service: the end of a test VM, and summaries of VMs.

use crate::cim::embedded::advised;
use lifeboat_cim::{CimError, Value};
use lifeboat_engine::action::{Action, Refusal, VmView};
use lifeboat_engine::paging::{Page, Paging};
use lifeboat_engine::query::Query;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{ReplicationMode as Mode, VmId};

use super::{Answered, Call, Outcome, missing};
use crate::cim::classes::summary;
use crate::cim::embedded::{self, invalid, shown, unsupported};

/// Most VMs of one summary, because one answer has to hold them all, with some 4 KiB each. The API has no such limit.
const MOST: usize = 1000;

/// A page of VMs, and where the next one begins.
async fn page(call: &Call<'_>, after: Option<String>) -> Result<Page<VmView>, Refusal> {
    let limit = None;
    call.query(Query::list_vms(Paging { limit, after })).await
}

/// The replica that a test VM belongs to.
async fn tested_by(call: &Call<'_>, test: VmId) -> Result<Option<VmView>, Refusal> {
    let mut after = None;
    loop {
        let Page { items, next } = page(call, after).await?;
        let tests = |v: &VmView| {
            let own = v.replication.as_ref().and_then(|r| r.test.as_ref());
            own.is_some_and(|t| t.vm == test)
        };
        let found = items.into_iter().find(tests);
        if found.is_some() || next.is_none() {
            return Ok(found);
        }
        after = next;
    }
}

/// All VMs, if they fit into one answer.
async fn all(call: &Call<'_>) -> Result<Vec<VmId>, Refusal> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let Page { items, next } = page(call, after).await?;
        all.extend(items.iter().map(|vm| vm.spec.uuid));
        if all.len() > MOST {
            return Err(too_many());
        }
        if next.is_none() {
            return Ok(all);
        }
        after = next;
    }
}

fn too_many() -> Refusal {
    advised(
        ReturnCode::InvalidParameter,
        format!("the summary of more than {MOST} VMs does not fit into one answer"),
        format!(
            "name at most {MOST} of them in SettingData; enumerate Msvm_VirtualSystemSettingData to know all"
        ),
    )
}

/// Ends a test failover. Other VMs than test VMs are not destroyed.
pub(super) async fn destroy(call: &Call<'_>) -> Answered {
    let vm = call.vm("AffectedSystem").await?;
    if vm.replication.as_ref().map(|r| r.mode) != Some(Mode::TestReplica) {
        return Err(unsupported(
            format!(
                "{} is no test VM; VMs are described by files in this host's VM directory",
                vm.spec.name
            ),
            "to end replication: RemoveReplicationRelationship; to remove a VM, remove its file",
        ));
    }
    match tested_by(call, vm.spec.uuid).await? {
        Some(replica) => {
            let vm = replica.spec.uuid.into();
            call.job(Action::StopTest { vm }).await
        }
        None => {
            let message = format!("no replica here is tested by {}", vm.spec.name);
            Err(advised(
                ReturnCode::InvalidState,
                message,
                "its test is being ended already",
            ))
        }
    }
}

/// The VMs whose settings are named, each as it is now.
async fn named(call: &Call<'_>, items: &[Value]) -> Result<Vec<VmView>, Refusal> {
    const NAME: &str = "SettingData";
    if items.len() > MOST {
        return Err(too_many());
    }
    let mut vms = Vec::new();
    for item in items {
        let Value::Reference(path) = item else {
            return Err(invalid(format!("{NAME} holds something that is no reference")));
        };
        call.our_namespace(NAME, path)?;
        let (class, id) = (&path.name.class, path.name.text("InstanceID").unwrap_or_default());
        // Some clients name the VM itself.
        let vm = if call.namespace.is_a(class, "CIM_ComputerSystem") {
            call.vm_at(NAME, path)?
        } else if call.namespace.is_a(class, "CIM_VirtualSystemSettingData") {
            embedded::vm_id(id)
                .ok_or_else(|| invalid(format!("{NAME}: \"{}\" is not the settings of a VM", shown(id))))?
        } else {
            let message = format!("{NAME}: {} is neither a VM nor its settings", shown(class));
            return Err(advised(ReturnCode::IncorrectType, message, ""));
        };
        vms.push(call.show(vm).await?);
    }
    Ok(vms)
}

fn unreadable(e: CimError) -> Refusal {
    advised(ReturnCode::Failed, e.message, "")
}

/// The summary of a VM, with these parts of it.
async fn summary_of(call: &Call<'_>, vm: VmView, codes: &[u64]) -> Result<Value, Refusal> {
    let parts = call.manager.vm_parts(vm).await.map_err(unreadable)?;
    let mut summary = summary::summary(&call.manager.host, &parts);
    summary.properties.retain(|(name, _)| asked(name, codes));
    Ok(Value::from(summary))
}

pub(super) async fn summary(call: &Call<'_>) -> Answered {
    const CODES: &str = "RequestedInformation";
    let Some(Value::Array(codes)) = call.arguments.get(CODES) else {
        return Err(missing(CODES));
    };
    let codes: Vec<u64> = codes
        .iter()
        .filter_map(|c| {
            if let Value::Unsigned(n) = c {
                Some(*n)
            } else {
                None
            }
        })
        .collect();
    let mut summaries = Vec::new();
    match call.arguments.get("SettingData") {
        Some(Value::Array(items)) => {
            for vm in named(call, items).await? {
                summaries.push(summary_of(call, vm, &codes).await?);
            }
        }
        // All VMs. One that is gone meanwhile is left out.
        _ => {
            for vm in all(call).await? {
                if let Some(vm) = call.manager.show(vm).await.map_err(unreadable)? {
                    summaries.push(summary_of(call, vm, &codes).await?);
                }
            }
        }
    }
    Ok(Outcome::done().with("SummaryInformation", Value::Array(summaries)))
}

/// Whether a property is among those with these codes. From 116 on the documents of the API contradict each other: a caller
/// who asks for one of those gets all of them.
fn asked(property: &str, codes: &[u64]) -> bool {
    const CODES: [(u64, &str); 19] = [
        (1, "ElementName"),
        (2, "CreationTime"),
        (3, "Notes"),
        (4, "NumberOfProcessors"),
        (10, "Version"),
        (11, "Shielded"),
        (100, "EnabledState"),
        (101, "ProcessorLoad"),
        (103, "MemoryUsage"),
        (104, "Heartbeat"),
        (105, "UpTime"),
        (106, "GuestOperatingSystem"),
        (107, "Snapshots"),
        (109, "HealthState"),
        (110, "OperationalStatus"),
        (111, "StatusDescriptions"),
        (112, "MemoryAvailable"),
        (114, "ReplicationMode"),
        (115, "ReplicationState"),
    ];
    if ["InstanceID", "Name"].contains(&property) {
        return true;
    }
    match CODES.iter().find(|(_, name)| *name == property) {
        Some((code, _)) => codes.contains(code),
        None => codes.iter().any(|c| *c >= 116),
    }
}
