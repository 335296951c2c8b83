//! Four eyes: which requests wait, how many may, and when they lapse. Carrying them out is the engine's.

use crate::common::by::By;
use crate::contract::{Action, Refusal, Taking};
use crate::host::Host;
use crate::port::catalog::CatalogError;
use crate::record::{Event, Request, RequestState};
use lifeboat_model::ReplicationHealth as Health;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{Finding, Note, ProblemKind, Reading, RequestId, hint};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tracing::warn;

/// How long a request waits for a second person.
pub const LASTS: Duration = Duration::from_secs(24 * 3600);
/// Requests at once.
pub const IN_ALL: usize = 100;

/// Of one person, so that no person can keep others from asking.
pub const OF_ONE: usize = 20;

/// Whether an action may have to wait for a second person, depending on what it would take away.
#[must_use]
pub fn may_wait(action: &Action) -> bool {
    !matches!(action.facts().taking, Taking::Nothing)
}

/// The requests of a host.
#[derive(Default)]
pub(crate) struct Requests {
    /// Held while it is judged whether an action waits, and while what was judged harmless is carried out, so that nothing
    /// becomes harmful in between.
    pub(crate) turn: tokio::sync::Mutex<()>,
    all: Mutex<BTreeMap<RequestId, Request>>,
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

    pub(crate) fn get(&self, id: RequestId) -> Option<Request> {
        self.with(|all| all.get(&id).cloned())
    }

    /// Oldest first.
    pub(crate) fn list(&self) -> Vec<Request> {
        let mut all: Vec<_> = self.with(|all| all.values().cloned().collect());
        all.sort_by_key(|r| (r.asked, r.id));
        all
    }
}

pub(crate) fn unknown_caller() -> Refusal {
    Refusal::new(
        ReturnCode::AccessDenied,
        "a second person is needed for this, and it is not known who asks",
        hint::Again::AsKnownCaller,
    )
}

pub(crate) fn no_request(id: RequestId) -> Refusal {
    Refusal::new(
        ReturnCode::FileNotFound,
        format!("no request {id}"),
        hint::Look::Requests,
    )
}

impl Request {
    /// Whether it has lasted too long. A wall clock that was set ends it early, never late: where the host's counter goes on
    /// it counts as well, and a clock behind the time of asking is no clock to go by.
    pub(crate) fn over(&self, now: Reading) -> bool {
        match now.since(self.read) {
            Some(passed) => passed >= LASTS || now.wall >= self.until,
            None => now.wall >= self.until || now.wall < self.asked,
        }
    }

    pub(crate) fn waits(&self) -> bool {
        self.state == RequestState::Waits
    }

    /// The answer to the caller who asked for it, and to every caller who asks for the same.
    pub(crate) fn refusal(&self, why: &str) -> Refusal {
        Refusal {
            request: Some(self.id),
            ..Refusal::new(
                ReturnCode::AccessDenied,
                format!("{why}: {}; nothing is done before", self.what),
                hint::Again::Confirm { request: self.id },
            )
        }
    }
}

impl Host {
    fn request_event(&self, request: &Request, by: Option<By>, message: Note) -> Event {
        Event {
            at: self.ports.clock.now(),
            vm: request.vm,
            message: message.text,
            hint: message.hint,
            by,
        }
    }

    pub(crate) async fn keep_request(
        &self,
        request: Request,
        by: Option<By>,
        message: impl Into<Note>,
    ) -> Result<(), CatalogError> {
        let event = self.request_event(&request, by, message.into());
        self.ports.catalog.put_request(&request, &event).await?;
        self.requests.with(|all| all.insert(request.id, request));
        Ok(())
    }

    pub(crate) async fn drop_request(
        &self,
        request: &Request,
        by: Option<By>,
        message: impl Into<Note>,
    ) -> Result<(), CatalogError> {
        let event = self.request_event(request, by, message.into());
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

    /// Ends the requests that were not confirmed in time. One that is being carried out goes on.
    pub(crate) async fn expire_requests(&self) {
        let now = self.ports.clock.reading();
        let over = |r: &Request| r.over(now) && !matches!(r.state, RequestState::Confirmed { .. });
        for request in self.requests.list().into_iter().filter(over) {
            let message = if request.waits() {
                format!(
                    "request {} has ended, it was not confirmed: {}",
                    request.id, request.what
                )
            } else {
                format!("request {} is no longer listed: {}", request.id, request.what)
            };
            if let Err(error) = self
                .drop_request(&request, Some(request.by.clone()), message)
                .await
            {
                warn!(%error, request = %request.id, "a request that has ended is not removed; it is tried again");
            }
        }
    }

    /// What waits, for the administrator of this host.
    pub(crate) fn request_notes(&self) -> Option<Finding> {
        let waiting = self.requests.list().iter().filter(|r| r.waits()).count();
        let text = match waiting {
            0 => return None,
            1 => "a request waits for a second person".to_owned(),
            n => format!("{n} requests wait for a second person"),
        };
        let note = Note::new(text, hint::Look::Requests);
        Some(Finding::new(Health::Ok, ProblemKind::RequestsWait, note))
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use lifeboat_model::Reading;
    use lifeboat_model::Timestamp;
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
            action: Action::ListVms(crate::contract::paging::Paging::FIRST),
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
