//! Actions that wait for a second person: recorded instead of carried out, confirmed, denied.

use crate::common::by;
use crate::common::by::By;
use crate::common::person::may_be_one;
use crate::contract::{Action, Answer, Refusal};
use crate::engine::Engine;
use crate::host::lists::in_time;
use crate::host::requests::{IN_ALL, LASTS, OF_ONE, may_wait, no_request, unknown_caller};
use crate::host::{stopping, taking};
use crate::port::catalog::CatalogError;
use crate::record::{Request, RequestState};
use crate::work::calls::failed;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{Note, RequestId, VmId, hint};
use tokio::sync::oneshot;
use tracing::{info, warn};

impl Engine {
    /// Carries an action out, or records that it waits for a second person.
    pub(crate) async fn judged(&self, action: Action) -> Result<Answer, Refusal> {
        match &action {
            Action::ConfirmRequest { request } => return self.confirm(*request).await,
            Action::DenyRequest { request } => return self.deny(*request).await,
            _ => {}
        }
        if !self.host.config.four_eyes || !may_wait(&action) {
            return self.carry_out(action).await;
        }
        let _turn = self.host.requests.turn.lock().await;
        let vm = match action.vm() {
            Some(vm) => Some(self.host.find(vm)?),
            None => None,
        };
        let image = self.host.ports.catalog.load();
        let image = in_time(image, "whether a second person is needed is not known").await?;
        let named = vm.as_ref().map(|(id, handle)| (*id, handle.name.as_str()));
        match taking::what(&action, named, &image) {
            None => self.carry_out(action).await,
            Some(what) => {
                let id = vm.as_ref().map(|(id, _)| *id);
                let action = match id {
                    Some(id) => taking::named_exactly(&action, id, &image)
                        .map_err(|e| failed("the request cannot be recorded", &e))?,
                    None => action,
                };
                Err(self.wait_for_a_second(action, id, what).await?)
            }
        }
    }

    /// Records a request, or finds the one that is there; the answer to its caller.
    async fn wait_for_a_second(
        &self,
        action: Action,
        vm: Option<VmId>,
        what: String,
    ) -> Result<Refusal, Refusal> {
        let by = by::now().ok_or_else(unknown_caller)?;
        self.host.expire_requests().await;
        let waiting = self.host.requests.list();
        let waiting: Vec<&Request> = waiting.iter().filter(|r| r.waits()).collect();
        if let Some(same) = waiting.iter().find(|r| r.action == action) {
            return Ok(if may_be_one(&same.by, &by) {
                same.refusal("this waits for a second person already")
            } else {
                same.refusal(&format!(
                    "{} has asked for the same, which waits for you or another person",
                    same.by
                ))
            });
        }
        let own = waiting.iter().filter(|r| may_be_one(&r.by, &by)).count();
        if own >= OF_ONE || self.host.requests.list().len() >= IN_ALL {
            return Err(Refusal::new(
                ReturnCode::InUse,
                format!(
                    "{OF_ONE} requests of one person, and {IN_ALL} in all, may wait at once; this one is not recorded"
                ),
                hint::Again::DecideRequests,
            ));
        }
        let read = self.host.ports.clock.reading();
        let request = Request {
            id: RequestId(self.host.ports.entropy.uuid()),
            by: by.clone(),
            action,
            vm,
            what,
            asked: read.wall,
            until: read.wall.plus(LASTS),
            read,
            state: RequestState::Waits,
        };
        let confirm = hint::Again::Confirm { request: request.id };
        let text = format!(
            "request {} waits for a second person: {}",
            request.id, request.what
        );
        let message = Note::new(text, confirm);
        let refusal = request.refusal("this waits for a second person");
        let kept = self.host.keep_request(request, Some(by), message).await;
        kept.map_err(|e| failed("the request cannot be recorded", &e))?;
        Ok(refusal)
    }

    pub(crate) fn list_requests(&self) -> Answer {
        let now = self.host.ports.clock.reading();
        let over = |r: &Request| r.waits() && r.over(now);
        let all = self.host.requests.list();
        Answer::Requests(all.into_iter().filter(|r| !over(r)).map(Into::into).collect())
    }

    /// Whether this caller may confirm this request now.
    fn may_confirm(&self, id: RequestId, second: &By) -> Result<Request, Refusal> {
        let request = self.host.requests.get(id).ok_or_else(|| no_request(id))?;
        match &request.state {
            RequestState::Waits if request.over(self.host.ports.clock.reading()) => Err(Refusal::new(
                ReturnCode::InvalidState,
                "this request has ended: it was not confirmed within 24 hours",
                hint::Again::Anything,
            )),
            RequestState::Waits if may_be_one(&request.by, second) => Err(Refusal::new(
                ReturnCode::AccessDenied,
                format!(
                    "you may be the one who asked for it, {}: it takes a second person",
                    request.by
                ),
                hint::Again::AsOtherPerson,
            )),
            RequestState::Waits => Ok(request),
            RequestState::Confirmed { .. } => Err(Refusal::bare(
                ReturnCode::InvalidState,
                "it is confirmed and being carried out",
            )),
            RequestState::NotKnown { .. } => Err(Refusal::new(
                ReturnCode::InvalidState,
                "it was confirmed before, and it is not known whether it was carried out",
                hint::Again::IfNotDone,
            )),
        }
    }

    /// Records that a second person agrees, and has the recorded action carried out. That goes on when the caller leaves.
    async fn confirm(&self, id: RequestId) -> Result<Answer, Refusal> {
        let second = by::now().ok_or_else(unknown_caller)?;
        let turn = self.host.requests.turn.lock().await;
        let request = self.may_confirm(id, &second)?;
        let engine = self.me.upgrade().ok_or_else(stopping)?;
        let both = request.by.clone().confirmed_by(second.clone());
        let request = Request {
            state: RequestState::Confirmed {
                second: Box::new(second),
            },
            ..request
        };
        let message = format!("request {id} is confirmed: {}", request.what);
        let kept = self
            .host
            .keep_request(request.clone(), Some(both.clone()), message)
            .await;
        if let Err(e) = kept {
            return Err(self.not_confirmed(request, &e).await);
        }
        drop(turn);
        let (tell, told) = oneshot::channel();
        let task = tokio::spawn(async move {
            let answer = engine.carry_out_confirmed(request, both).await;
            // The caller that confirmed it may have left.
            let _ = tell.send(answer);
        });
        self.host.with_tasks(|t| t.push(task));
        told.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// A write that failed may have arrived nevertheless. Memory still says that it waits; what the catalog says is made the
    /// same, so that a restart does not take it for confirmed.
    async fn not_confirmed(&self, request: Request, e: &CatalogError) -> Refusal {
        let waits = Request {
            state: RequestState::Waits,
            ..request
        };
        let message = format!(
            "request {} could not be confirmed, and waits: {}",
            waits.id, waits.what
        );
        if let Err(error) = self.host.keep_request(waits, None, message).await {
            warn!(%error, "a request that was not confirmed may be recorded as confirmed; it is not carried out");
        }
        failed("nothing was done: the confirmation cannot be recorded", e)
    }

    async fn carry_out_confirmed(&self, request: Request, both: By) -> Result<Answer, Refusal> {
        let action = request.action.clone();
        let (name, vm) = (
            action.name(),
            action.vm().map_or(String::new(), ToString::to_string),
        );
        let answer = by::asked(Some(both.clone()), self.carry_out(action)).await;
        let code = answer.as_ref().err().map(|e| e.code.number());
        info!(target: "lifeboat::audit", caller = %both, action = name, vm, refused = code, request = %request.id, "confirmed");
        if answer.as_ref().err() == Some(&stopping()) {
            // Whether it was begun is not known. The next start says so.
            return answer;
        }
        let (id, what) = (request.id, &request.what);
        let message = match &answer {
            Ok(Answer::Job(job)) => format!("request {id} is being carried out by job {}: {what}", job.id),
            Ok(_) => format!("request {id} is carried out: {what}"),
            Err(e) => format!("request {id} was confirmed and refused: {what}: {e}"),
        };
        if let Err(error) = self.host.drop_request(&request, Some(both), message).await {
            warn!(%error, request = %id, "a request that was carried out is not removed; the next start says that it is not known");
        }
        answer
    }

    /// Ends a request without carrying it out. The person who asked for it may do that as well.
    async fn deny(&self, id: RequestId) -> Result<Answer, Refusal> {
        let _turn = self.host.requests.turn.lock().await;
        let request = self.host.requests.get(id).ok_or_else(|| no_request(id))?;
        if matches!(request.state, RequestState::Confirmed { .. }) {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "it is confirmed and being carried out",
                hint::Look::Jobs,
            ));
        }
        let message = format!("request {id} is denied: {}", request.what);
        let dropped = self.host.drop_request(&request, by::now(), message).await;
        dropped.map_err(|e| failed("the request cannot be removed", &e))?;
        Ok(Answer::Done)
    }
}
