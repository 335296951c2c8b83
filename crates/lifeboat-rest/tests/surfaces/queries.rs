//! Questions of one answer each: what is taken for the answer, and what is not. Which answers an action has, the samples say.

use std::fmt::Debug;
use std::mem::discriminant;
use std::sync::Arc;

use lifeboat_engine::action::{Answer, Management, VmRef};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::query::Query;
use lifeboat_model::api::ReturnCode;
use lifeboat_rest::{Client, ClientError};
use serde::Serialize;
use serde_json::Value;

use crate::rest::host;
use crate::samples::{actions, answers, job};

/// Reads every sample as the answer to a question; the name of the question.
fn reads<T: Debug + Serialize>(query: &Query<T>) -> String {
    let (own, name) = (answers(query.action()), query.action().name());
    let samples: Vec<Answer> = actions().iter().flat_map(answers).collect();
    for answer in samples {
        let fits = own.iter().any(|o| discriminant(o) == discriminant(&answer));
        let mut written = serde_json::to_value(&answer).unwrap();
        match query.read(answer) {
            Ok(held) => {
                assert!(fits, "{name} takes {held:?}");
                let value = written["value"].take();
                assert_eq!(serde_json::to_value(&held).unwrap(), value, "{name}");
            }
            Err(e) => {
                assert!(!fits, "{name} does not take {written}");
                assert_eq!(e.asked, name);
            }
        }
    }
    name
}

#[test]
fn a_question_takes_its_own_answers_and_no_others() {
    let vm = || VmRef::Text("web".into());
    let asked = [
        reads(&Query::list_vms(Paging::FIRST)),
        reads(&Query::show_vm(vm())),
        reads(&Query::screenshot(vm())),
        reads(&Query::replicate_now(vm())),
        reads(&Query::list_points(vm(), Paging::FIRST)),
        reads(&Query::list_jobs(Paging::FIRST)),
        reads(&Query::show_job(job().id)),
        reads(&Query::list_events(Some(vm()), 5)),
        reads(&Query::list_authorization(Paging::FIRST)),
        reads(&Query::show_server()),
        reads(&Query::list_requests()),
    ];
    // All actions whose answer is more than that it was done, or a job that it started.
    let plain = |answer: &Answer| matches!(answer, Answer::Done | Answer::Job(_));
    for action in actions() {
        let own = asked.contains(&action.name());
        assert!(
            own || answers(&action).iter().all(plain),
            "{action:?} has no question"
        );
    }
}

/// The same list goes on where a page of it says.
#[test]
fn a_list_goes_on_as_the_same_list() {
    let vm = || VmRef::Text("web".into());
    let events = Query::list_events(Some(vm()), 5);
    let next = events.going_on("x".into()).unwrap();
    let mut want = serde_json::to_value(events.action()).unwrap();
    want["after"] = Value::from("x");
    assert_eq!(serde_json::to_value(next.action()).unwrap(), want);
    let paging = |limit| Paging { limit, after: None };
    let lists = [
        Query::list_vms(paging(Some(3)))
            .going_on("x".into())
            .map(|q| q.action().clone()),
        Query::list_jobs(paging(Some(3)))
            .going_on("x".into())
            .map(|q| q.action().clone()),
        Query::list_points(vm(), paging(Some(3)))
            .going_on("x".into())
            .map(|q| q.action().clone()),
        Query::list_authorization(paging(Some(3)))
            .going_on("x".into())
            .map(|q| q.action().clone()),
    ];
    for list in lists {
        let list = serde_json::to_value(list.unwrap()).unwrap();
        assert_eq!(
            (&list["after"], &list["limit"]),
            (&Value::from("x"), &Value::from(3)),
            "{list}"
        );
    }
}

#[tokio::test]
async fn a_daemon_that_answers_something_else_is_not_believed() {
    let host = host(|_| Ok(Answer::Done));
    let client = Client::new(&host.socket);
    let said = "ShowServer was answered with something else";
    match client.query(&Query::show_server()).await {
        Err(e @ ClientError::Protocol { .. }) => assert!(e.to_string().contains(said), "{e}"),
        other => panic!("{other:?}"),
    }
    match client.gather(Query::list_jobs(Paging::FIRST), usize::MAX).await {
        Err(ClientError::Protocol { detail, .. }) => assert!(detail.contains("ListJobs"), "{detail}"),
        other => panic!("{other:?}"),
    }
    // The surfaces of the daemon itself ask in the same way.
    let management: Arc<dyn Management> = host.fake.clone();
    let refusal = management.query(None, Query::show_server()).await.unwrap_err();
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (ReturnCode::Failed, said)
    );
    let refusal = management
        .whole(None, Query::list_vms(Paging::FIRST))
        .await
        .unwrap_err();
    assert!(refusal.message.starts_with("ListVms"), "{refusal}");
}
