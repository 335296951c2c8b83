//! Statistics of relationships.

use crate::cim::embedded::advised;
use crate::cim::hint;
use lifeboat_cim::Value;
use lifeboat_engine::action::{Action, RelationshipRef, VmView};
use lifeboat_model::Finding;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{RelationshipId, ReplicationHealth, Timestamp};

use super::{Answered, Call, Outcome};
use crate::cim::embedded;

/// CIM_ERR_FAILED.
const FAILED: u32 = 1;

fn report(vm: &VmView, id: RelationshipId, now: Timestamp) -> Answered {
    let none = |what: &str| {
        let message = format!("the VM {} {what}", vm.spec.name);
        advised(ReturnCode::InvalidState, message, "")
    };
    let known = vm.replication.as_ref().ok_or_else(|| none("is not replicated"))?;
    let (counters, pending, health, notes, last_test) = match id {
        RelationshipId::OWN => (
            &known.counters,
            known.pending_bytes,
            known.health,
            &known.health_notes,
            known.last_test,
        ),
        id => {
            let extended = known.outgoing().find(|e| e.relationship == id);
            let extended = extended.ok_or_else(|| none("has no extended relationship on this host"))?;
            (
                &extended.counters,
                extended.pending_bytes,
                extended.health,
                &extended.health_notes,
                None,
            )
        }
    };
    // 3 medium, 4 high: what is wrong is as bad as the health says.
    let severity = if health == ReplicationHealth::Critical {
        4
    } else {
        3
    };
    let issue = |found: &Finding| {
        let text = hint::told(&found.text, found.hint.as_ref());
        Value::from(embedded::error(&text, FAILED, severity))
    };
    let issues: Vec<Value> = notes.iter().map(issue).collect();
    let statistics = Value::from(embedded::statistics(counters, pending, health, now, last_test));
    Ok(Outcome::done()
        .with("ReplicationStatistics", Value::Array(vec![statistics]))
        .with("ReplicationHealthIssues", Value::Array(issues)))
}

pub(super) async fn get(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    report(&vm, RelationshipId::OWN, call.manager.now())
}

pub(super) async fn get_ex(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    let which = call.relationship_needed(vm.spec.uuid).await?;
    report(&vm, which, call.manager.now())
}

pub(super) async fn reset(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?.into();
    let relationship = RelationshipRef::Usual;
    call.done(Action::ResetStatistics { vm, relationship }).await
}

pub(super) async fn reset_ex(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?;
    let relationship = RelationshipRef::Id(call.relationship_needed(vm).await?);
    let vm = vm.into();
    call.done(Action::ResetStatistics { vm, relationship }).await
}
