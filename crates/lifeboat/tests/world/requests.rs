//! What waits for a second person on the scripted host.

use super::{NOW, vm_id};
use lifeboat_engine::action::{Action, Refusal, RequestStage, RequestView, VmRef};
use lifeboat_engine::by::{By, Surface};
use lifeboat_engine::person::Account;
use lifeboat_engine::requests::LASTS;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{RequestId, Timestamp, hint};
use uuid::Uuid;

fn ada() -> By {
    let account = Account {
        uid: 0,
        login: Some(1000),
        user: Some("ada".into()),
    };
    By::of(account, Some(4711))
}

fn bob() -> By {
    By {
        surface: Surface::Wsman,
        name: "bob".into(),
        from: Some("192.0.2.7:40112".into()),
        account: None,
        confirmed: None,
    }
}

/// One that waits, and one of which it is not known whether it was carried out.
pub(crate) fn requests() -> Vec<RequestView> {
    let asked = Timestamp(NOW - 600_000);
    let waits = RequestView {
        id: RequestId(Uuid::from_u128(0xb1)),
        by: ada(),
        action: Action::CommitFailover {
            vm: VmRef::Text(vm_id(4).to_string()),
        },
        vm: Some(vm_id(4)),
        what: "commit of the failover, which ends every recovery point but the chosen one, of \"mail\""
            .into(),
        asked,
        until: asked.plus(LASTS),
        state: RequestStage::Waits,
    };
    let not_known = RequestView {
        id: RequestId(Uuid::from_u128(0xb2)),
        by: bob(),
        action: Action::RemoveAuthorization {
            primary: "a.example.org".into(),
        },
        vm: None,
        what: "removal of the authorization entry \"a.example.org\"".into(),
        state: RequestStage::NotKnown {
            second: Box::new(ada()),
        },
        ..waits.clone()
    };
    vec![waits, not_known]
}

/// The answer to an action that waits.
pub(crate) fn waits() -> Refusal {
    let id = RequestId(Uuid::from_u128(0xb3));
    Refusal {
        request: Some(id),
        ..Refusal::new(
            ReturnCode::AccessDenied,
            "this waits for a second person: dropping of the abandoned data of \"old\"; nothing is done before",
            hint::Again::Confirm { request: id },
        )
    }
}
