//! Methods of the replication service on a replica: test failover, failover, revert and commit, and the guest's addresses
//! after a failover.

use crate::cim::embedded::advised;
use lifeboat_cim::{Instance, Value};
use lifeboat_engine::action::{Action, PointSelector, Refusal};

use super::{Answered, Call, missing};
use crate::cim::classes::{points, vm_path};
use crate::cim::embedded::{self, invalid};

/// The recovery point that a reference names; null is the newest data there is. The engine refuses a point that this VM does not
/// have.
fn point(call: &Call<'_>) -> Result<PointSelector, Refusal> {
    const NAME: &str = "SnapshotSettingData";
    let Some(path) = call.arguments.reference(NAME)? else {
        return Ok(PointSelector::Latest);
    };
    call.our_namespace(NAME, path)?;
    if !call
        .namespace
        .is_a(&path.name.class, "CIM_VirtualSystemSettingData")
    {
        let message = format!(
            "{NAME}: {} is no recovery point",
            embedded::shown(&path.name.class)
        );
        return Err(advised(
            lifeboat_model::api::ReturnCode::IncorrectType,
            message,
            "name an Msvm_VirtualSystemSettingData that Msvm_SnapshotOfVirtualSystem leads to",
        ));
    }
    points::selector(&path.name).map_err(|e| invalid(e.message))
}

/// Starts a test failover, and returns the job with a reference to the test VM.
pub(super) async fn test(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?;
    let action = Action::StartTest {
        vm: vm.into(),
        point: call.read(vm, point(call)).await?,
        start: false,
    };
    let outcome = call.job(action).await?;
    let test = call.show(vm).await?.replication.and_then(|r| r.test);
    Ok(match test {
        Some(test) => outcome.with("ResultingSystem", vm_path(test.vm)),
        None => outcome,
    })
}

/// Fails over without asking the primary whether its VM runs: the API leaves that to the caller. The VM is not
/// started: the other host is asked when it is.
pub(super) async fn initiate(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?;
    let action = Action::InitiateFailover {
        vm: vm.into(),
        point: call.read(vm, point(call)).await?,
        start: false,
        force: true,
    };
    call.job(action).await
}

/// Reverts a failover. A VM that runs is turned off first: what it has written since the failover is thrown away in any case.
pub(super) async fn revert(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?.into();
    let force = true;
    call.job(Action::RevertFailover { vm, force }).await
}

pub(super) async fn commit(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?.into();
    call.job(Action::CommitFailover { vm }).await
}

/// Sets the addresses after a failover; cards that are not named keep theirs.
pub(super) async fn network(call: &Call<'_>) -> Answered {
    const NAME: &str = "NetworkSettings";
    let vm = call.vm("ComputerSystem").await?;
    let given: Vec<&Instance> = match call.arguments.get(NAME) {
        None => return Err(missing(NAME)),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| {
                let Value::Instance(instance) = item else {
                    return Err(invalid(format!("{NAME} holds something that is no instance")));
                };
                Ok(&**instance)
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(invalid(format!("{NAME} is no array"))),
    };
    let before = vm.replication.as_ref().map_or(&[][..], |r| &r.network);
    let cards = embedded::cards(&given, &vm.spec, before)?;
    call.done(Action::SetFailoverNetwork {
        vm: vm.spec.uuid.into(),
        cards,
    })
    .await
}
