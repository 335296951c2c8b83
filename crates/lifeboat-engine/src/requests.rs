//! Four eyes: what cannot be undone waits for a second person, where the configuration says so. A wish that removes data or
//! recovery points is recorded instead of carried out; another person confirms it, and then it is judged anew and carried
//! out as it was recorded. What is such a wish is in `taking`; who is another person, in [`crate::person`].
//!
//! A confirmed wish is carried out once: that somebody confirmed it is durable before it begins. A daemon that ends in between
//! does not know whether it was begun; it says so and never begins it again. No clock carries anything out; one that is set
//! only makes requests end early, and the counter of the host ends them when the clock is set back.
//!
//! Calls of other hosts do not come here: what a primary asks of its replica is between hosts, and a lock in the authorization
//! entry is what keeps points from it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use lifeboat_model::api::ReturnCode;
use lifeboat_model::{Reading, RequestId, VmId};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::action::{Action, Answer, Refusal};
use crate::actor::failed;
use crate::by::{self, By};
use crate::engine::{Engine, Host, stopping};
use crate::lists::in_time;
use crate::person::may_be_one;
use crate::ports::catalog::CatalogError;
use crate::records::{Event, Request, RequestState};
use crate::taking::{self, Taking};

/// How long a request waits for a second person. Ours: long enough for whoever is asleep, and short enough that nobody has
/// forgotten what it was about.
pub const LASTS: Duration = Duration::from_secs(24 * 3600);
/// Requests at once.
pub const IN_ALL: usize = 100;
/// Of one person, so that nobody can keep others from asking.
pub const OF_ONE: usize = 20;

impl Request {
    /// Whether it has lasted too long. A wall clock that was set ends it early, never late: where the host's counter goes on
    /// it counts as well, and a clock behind the time of asking is no clock to go by.
    fn over(&self, now: Reading) -> bool {
        match now.since(self.read) {
            Some(passed) => passed >= LASTS || now.wall >= self.until,
            None => now.wall >= self.until || now.wall < self.asked,
        }
    }

    fn waits(&self) -> bool {
        self.state == RequestState::Waits
    }

    /// The answer to whoever asked for it, and to whoever asks for the same.
    fn refusal(&self, why: &str) -> Refusal {
        Refusal {
            request: Some(self.id),
            ..Refusal::new(
                ReturnCode::AccessDenied,
                format!("{why}: {}; nothing is done before", self.what),
                format!(
                    "somebody else confirms it within 24 hours with: lifeboat request confirm {}",
                    self.id
                ),
            )
        }
    }
}

/// Whether an action may have to wait for a second person, depending on what it would take away.
#[must_use]
pub fn may_wait(action: &Action) -> bool {
    !matches!(taking::taking(action), Taking::Nothing)
}

/// The requests of a host.
#[derive(Default)]
pub(crate) struct Requests {
    /// Held while it is judged whether an action waits, and while what was judged harmless is carried out, so that nothing
    /// becomes harmful in between.
    turn: tokio::sync::Mutex<()>,
    all: Mutex<BTreeMap<RequestId, Request>>,
    /// Whoever carries out what was confirmed, for the time after the one who confirmed it has left.
    engine: OnceLock<Weak<Engine>>,
}

impl Requests {
    pub(crate) fn new(loaded: Vec<Request>) -> Self {
        let all = loaded.into_iter().map(|r| (r.id, r)).collect();
        Self {
            all: Mutex::new(all),
            ..Self::default()
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut BTreeMap<RequestId, Request>) -> R) -> R {
        f(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn get(&self, id: RequestId) -> Option<Request> {
        self.with(|all| all.get(&id).cloned())
    }

    /// Oldest first.
    fn list(&self) -> Vec<Request> {
        let mut all: Vec<_> = self.with(|all| all.values().cloned().collect());
        all.sort_by_key(|r| (r.asked, r.id));
        all
    }
}

fn unknown_caller() -> Refusal {
    Refusal::new(
        ReturnCode::AccessDenied,
        "a second person is needed for this, and it is not known who asks",
        "ask over the management socket, or as a user of the management API",
    )
}

fn no_request(id: RequestId) -> Refusal {
    Refusal::new(
        ReturnCode::FileNotFound,
        format!("no request {id}"),
        "list them with: lifeboat request list",
    )
}

impl Host {
    fn request_event(&self, request: &Request, by: Option<By>, message: String) -> Event {
        Event {
            at: self.ports.clock.now(),
            vm: request.vm,
            message,
            by,
        }
    }

    async fn keep_request(
        &self,
        request: Request,
        by: Option<By>,
        message: String,
    ) -> Result<(), CatalogError> {
        let event = self.request_event(&request, by, message);
        self.ports.catalog.put_request(&request, &event).await?;
        self.requests.with(|all| all.insert(request.id, request));
        Ok(())
    }

    async fn drop_request(
        &self,
        request: &Request,
        by: Option<By>,
        message: String,
    ) -> Result<(), CatalogError> {
        let event = self.request_event(request, by, message);
        self.ports.catalog.remove_request(request.id, &event).await?;
        self.requests.with(|all| all.remove(&request.id));
        Ok(())
    }

    /// Says of requests that were confirmed before this start of the daemon that it is not known what came of them.
    pub(crate) async fn resume_requests(&self) -> Result<(), CatalogError> {
        for request in self.requests.list() {
            let RequestState::Confirmed { second } = request.state.clone() else {
                continue;
            };
            let (id, what) = (request.id, request.what.clone());
            let by = request.by.clone().confirmed_by((*second).clone());
            let message = format!(
                "request {id} was confirmed, and the daemon ended before it was known whether it was carried out: {what}; it is \
                 not begun again. Look whether it was done; if not, ask for it again"
            );
            warn!("{message}");
            let request = Request {
                state: RequestState::NotKnown { second },
                ..request
            };
            self.keep_request(request, Some(by), message).await?;
        }
        Ok(())
    }

    /// Ends the requests that nobody has confirmed in time. One that is being carried out goes on.
    pub(crate) async fn expire_requests(&self) {
        let now = self.ports.clock.reading();
        let over = |r: &Request| r.over(now) && !matches!(r.state, RequestState::Confirmed { .. });
        for request in self.requests.list().into_iter().filter(over) {
            let message = match request.waits() {
                true => format!(
                    "request {} has ended, nobody confirmed it: {}",
                    request.id, request.what
                ),
                false => format!("request {} is no longer listed: {}", request.id, request.what),
            };
            if let Err(error) = self
                .drop_request(&request, Some(request.by.clone()), message)
                .await
            {
                warn!(%error, request = %request.id, "a request that has ended is not removed; it is tried again");
            }
        }
    }

    /// What waits, for whoever looks after this host.
    pub(crate) fn request_notes(&self) -> Vec<String> {
        let waiting = self.requests.list().iter().filter(|r| r.waits()).count();
        match waiting {
            0 => Vec::new(),
            1 => vec!["a request waits for a second person: lifeboat request list".to_owned()],
            n => vec![format!(
                "{n} requests wait for a second person: lifeboat request list"
            )],
        }
    }
}

impl Engine {
    /// Lets what was confirmed be carried out after the one who confirmed it has left.
    pub(crate) fn hold_requests(self: &Arc<Self>) {
        // Set once, when the engine starts.
        let _ = self.host.requests.engine.set(Arc::downgrade(self));
    }

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
                    Some(id) => taking::named_exactly(action, &id.into()),
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
            return Ok(match may_be_one(&same.by, &by) {
                true => same.refusal("this waits for a second person already"),
                false => same.refusal(&format!(
                    "{} has asked for the same, which waits for you or somebody else",
                    same.by
                )),
            });
        }
        let own = waiting.iter().filter(|r| may_be_one(&r.by, &by)).count();
        if own >= OF_ONE || self.host.requests.list().len() >= IN_ALL {
            return Err(Refusal::new(
                ReturnCode::InUse,
                format!(
                    "{OF_ONE} requests of one person, and {IN_ALL} in all, may wait at once; this one is not recorded"
                ),
                "confirm or deny some of them: lifeboat request list",
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
        let message = format!(
            "request {id} waits for a second person: {what}; lifeboat request confirm {id}",
            id = request.id,
            what = request.what
        );
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
        let not_now = |message: &str, hint: &str| Err(Refusal::new(ReturnCode::InvalidState, message, hint));
        match &request.state {
            RequestState::Waits if request.over(self.host.ports.clock.reading()) => not_now(
                "this request has ended: nobody confirmed it within 24 hours",
                "ask for the same again",
            ),
            RequestState::Waits if may_be_one(&request.by, second) => Err(Refusal::new(
                ReturnCode::AccessDenied,
                format!(
                    "you may be the one who asked for it, {}: it takes a second person",
                    request.by
                ),
                "two people are told apart by the user they logged in as, or by their name in the management API",
            )),
            RequestState::Waits => Ok(request),
            RequestState::Confirmed { .. } => not_now("it is confirmed and being carried out", ""),
            RequestState::NotKnown { .. } => not_now(
                "it was confirmed before, and it is not known whether it was carried out",
                "look whether it was done; if not, ask for it again",
            ),
        }
    }

    /// Records that a second person agrees, and has the recorded action carried out. That goes on when the caller leaves.
    async fn confirm(&self, id: RequestId) -> Result<Answer, Refusal> {
        let second = by::now().ok_or_else(unknown_caller)?;
        let turn = self.host.requests.turn.lock().await;
        let request = self.may_confirm(id, &second)?;
        let engine = self.host.requests.engine.get().and_then(Weak::upgrade);
        let engine = engine.ok_or_else(stopping)?;
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
            // Whoever confirmed it may have left.
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

    /// Ends a request without carrying it out. Whoever asked for it may do that as well.
    async fn deny(&self, id: RequestId) -> Result<Answer, Refusal> {
        let _turn = self.host.requests.turn.lock().await;
        let request = self.host.requests.get(id).ok_or_else(|| no_request(id))?;
        if matches!(request.state, RequestState::Confirmed { .. }) {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "it is confirmed and being carried out",
                "see: lifeboat job list",
            ));
        }
        let message = format!("request {id} is denied: {}", request.what);
        let dropped = self.host.drop_request(&request, by::now(), message).await;
        dropped.map_err(|e| failed("the request cannot be removed", &e))?;
        Ok(Answer::Done)
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_model::Timestamp;

    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_request_ends_early_by_a_clock_and_never_late() {
        const DAY: u64 = 24 * 3_600_000;
        let reading = |boot: u128, up_ms: u64, wall: u64| Reading {
            boot: Uuid::from_u128(boot),
            up_ms,
            wall: Timestamp(wall),
        };
        let asked = Timestamp(100 * DAY);
        let request = Request {
            id: RequestId(Uuid::from_u128(1)),
            by: By::process(0, None),
            action: Action::ListVms(crate::paging::Paging::FIRST),
            vm: None,
            what: String::new(),
            asked,
            until: asked.plus(LASTS),
            read: reading(1, 5 * DAY, asked.0),
            state: RequestState::Waits,
        };
        for (now, over, why) in [
            (reading(1, 5 * DAY, asked.0), false, "at once"),
            (
                reading(1, 6 * DAY - 1, asked.0 + DAY - 1),
                false,
                "a moment before",
            ),
            (reading(1, 6 * DAY, asked.0 + DAY), true, "a day later"),
            (
                reading(1, 6 * DAY, asked.0 - 40 * DAY),
                true,
                "a day later, the clock set back",
            ),
            (
                reading(1, 5 * DAY + 1, asked.0 - 40 * DAY),
                false,
                "at once, the clock set back",
            ),
            (
                reading(1, 5 * DAY + 1, asked.0 + 40 * DAY),
                true,
                "at once, the clock set ahead",
            ),
            (
                reading(2, 0, asked.0 + DAY - 1),
                false,
                "after a start of the host",
            ),
            (
                reading(2, 0, asked.0 + DAY),
                true,
                "a day later, after a start of the host",
            ),
            (
                reading(2, 0, asked.0 - 1),
                true,
                "after a start of the host, by a clock that is behind",
            ),
        ] {
            assert_eq!(request.over(now), over, "{why}");
        }
    }
}
