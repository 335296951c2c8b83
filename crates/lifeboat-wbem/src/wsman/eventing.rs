//! WS-Eventing onto the indications: subscriptions whose events are pulled like items of an enumeration, and subscriptions
//! whose events are sent to a URL. Envelopes are read and written by [`lifeboat_cim::wsman`]; what an event is, is decided in
//! [`crate::cim::indications`]; envelopes are sent in [`crate::delivery`].
//!
//! A subscription belongs to the user who made it, lives a day at most, and cannot be renewed: a client that wants more
//! subscribes again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lifeboat_cim::wql::{Columns, Query, Select, SystemColumns};
use lifeboat_cim::wsman::encode::{self, Delivery, Ended};
use lifeboat_cim::wsman::{
    self, DeliveryMode, Encoder, Endpoint, Expires, Family, Fault, FaultKind, Headers, Operation, Pull,
    ResourceUri, Subscribe,
};
use lifeboat_cim::{CimError, Namespace, Status};
use lifeboat_model::Timestamp;
use tokio::time::Instant;

use super::{measure, message_id};
use crate::cim::indications::{Indication, Indications, Subscription};
use crate::cim::roles::LISTENERS;
use crate::cim::{Caller, VIRTUALIZATION};
use crate::delivery::{Client, Deliveries, DeliveryError, Destination, Over, Subscriber};

/// Longest life of a subscription, and its life when the client does not say.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A subscription whose events are pulled ends when it was not pulled from for so long.
const IDLE: Duration = Duration::from_secs(600);
/// Most events in one message.
const MAX_EVENTS: usize = 64;
/// Shortest time between two heartbeats.
const MIN_HEARTBEAT: Duration = Duration::from_secs(5);

/// How the events of a subscription are written.
#[derive(Clone)]
struct Form {
    namespace: &'static Namespace,
    family: Family,
    system: SystemColumns,
}

impl Form {
    fn item(&self, select: &Select, indication: &Indication) -> Result<String, CimError> {
        let encoder = Encoder {
            namespace: self.namespace,
            family: self.family,
        };
        let event = &indication.instance;
        match select.project(self.namespace, event, &self.system) {
            Some(columns) => Ok(encoder.fragment(&event.class, &columns)),
            None => encoder.object(event),
        }
    }
}

/// A subscription whose events are pulled.
struct Pulled {
    subscription: Arc<Subscription>,
    form: Form,
    /// When it ends, also if it is still pulled from.
    end: Instant,
    /// One pull at a time, so that no event is given twice.
    pulling: tokio::sync::Mutex<()>,
}

/// The subscriptions of WS-Management's clients.
pub(crate) struct Eventing {
    indications: Arc<Indications>,
    deliveries: Arc<Deliveries>,
    pulled: Mutex<HashMap<String, Arc<Pulled>>>,
}

impl Eventing {
    pub(crate) fn new(indications: Arc<Indications>, deliveries: Arc<Deliveries>) -> Self {
        Self {
            indications,
            deliveries,
            pulled: Mutex::default(),
        }
    }

    fn pulled(&self) -> MutexGuard<'_, HashMap<String, Arc<Pulled>>> {
        let mut pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        pulled.retain(|_, p| !p.subscription.is_over());
        pulled
    }

    /// The body of the answer to Subscribe. `url` is where this server answers.
    pub(crate) async fn subscribe(
        &self,
        caller: &Caller,
        headers: &Headers,
        request: Subscribe,
        url: &str,
    ) -> Result<String, Fault> {
        let manager = self.indications.manager();
        let form = Form {
            namespace: manager.schema().namespace(VIRTUALIZATION)?,
            family: headers.family(),
            system: manager.system_columns(),
        };
        let (resource, query) = what(headers, request.filter)?;
        let life = life(request.expires, manager.now())?;
        let (mode, notify) = match (request.mode, request.notify) {
            (DeliveryMode::Pull, _) => (DeliveryMode::Pull, None),
            (mode, Some(notify)) => (mode, Some(self.place(caller, notify).await?)),
            (_, None) => return Err(invalid("the subscription does not say where events go")),
        };
        let end = request.end.filter(|_| notify.is_some());
        let end = match end {
            Some(end) => Some(self.place(caller, end).await?),
            None => None,
        };
        let subscription = self.indications.subscribe(caller, &query, Some(life)).await?;
        let id = subscription.id.clone();
        let Some(notify) = notify else {
            let now = Instant::now();
            let pulled = Pulled {
                subscription,
                form,
                end: now + life,
                pulling: tokio::sync::Mutex::new(()),
            };
            pulled.live_until(now + IDLE);
            self.pulled().insert(id.clone(), Arc::new(pulled));
            return Ok(encode::subscribed(url, &resource, &id, life, Some(&id)));
        };
        let answer = encode::subscribed(url, &resource, &id, life, None);
        let receiver = Receiver {
            client: self.deliveries.client().clone(),
            notify,
            end,
            mode,
            resource,
            form,
            select: subscription.select().clone(),
            id,
            url: url.to_owned(),
            most: request.max_elements.clamp(1, MAX_EVENTS),
            heartbeat: request.heartbeats.map(|h| h.max(MIN_HEARTBEAT)),
        };
        self.deliveries.begin(subscription, receiver);
        Ok(answer)
    }

    /// An endpoint that events may be sent to. A monitor may only read, and this makes the host connect to another.
    async fn place(&self, caller: &Caller, endpoint: Endpoint) -> Result<(Endpoint, Destination), Fault> {
        if caller.role < LISTENERS {
            let message = "events are sent for operators and administrators; who only reads pulls them";
            return Err(CimError::new(Status::AccessDenied, message).into());
        }
        let destination = self.deliveries.client().destination(&endpoint.address).await;
        let destination = destination.map_err(|e| invalid(format!("{}: {e}", shown(&endpoint.address))))?;
        Ok((endpoint, destination))
    }

    /// The body of the answer to Unsubscribe.
    pub(crate) fn unsubscribe(&self, caller: &Caller, id: &str) -> Result<String, Fault> {
        let id = id.trim();
        if self.indications.end(caller, id) {
            Ok(String::new())
        } else {
            Err(invalid(format!("there is no subscription {}", shown(id))))
        }
    }

    /// Renew is not offered.
    pub(crate) fn renew(&self) -> Fault {
        let message = "subscriptions are not renewed here: subscribe again";
        Fault::new(FaultKind::UnableToRenew, message)
    }

    /// The body of the answer to Pull; `None` when the context is no subscription of the caller's.
    pub(crate) async fn pull(
        &self,
        caller: &Caller,
        headers: &Headers,
        pull: &Pull,
        until: Instant,
    ) -> Option<Result<String, Fault>> {
        let found = self.indications.find(caller, pull.context.trim())?;
        let pulled = self.pulled().get(&found.id).cloned()?;
        Some(pulled.pull(headers, pull, until).await)
    }

    /// Ends the subscription of this context, if it is one of the caller's that is pulled.
    pub(crate) fn release(&self, caller: &Caller, context: &str) {
        let context = context.trim();
        let known = self.pulled().contains_key(context);
        if known {
            self.indications.end(caller, context);
        }
    }
}

impl Pulled {
    fn live_until(&self, at: Instant) {
        self.subscription.set_end(at.min(self.end));
    }

    async fn pull(&self, headers: &Headers, pull: &Pull, until: Instant) -> Result<String, Fault> {
        let until = pull.max_time.map_or(until, |t| until.min(Instant::now() + t));
        let late = || Fault::new(FaultKind::TimedOut, "nothing has happened meanwhile; pull again");
        self.live_until(until + IDLE);
        let Ok(_guard) = tokio::time::timeout_at(until, self.pulling.lock()).await else {
            return Err(late());
        };
        let measure = measure(headers, pull.max_elements, pull.max_characters, until);
        let waiting = self.subscription.next(measure.items.min(MAX_EVENTS), until).await;
        let waiting = waiting.ok_or_else(|| {
            let message = "the subscription has ended";
            Fault::new(FaultKind::InvalidEnumerationContext, message)
        })?;
        let (mut items, mut last) = (String::new(), None);
        for indication in &waiting {
            let item = self.form.item(self.subscription.select(), indication)?;
            if items.len() + item.len() > measure.octets {
                if last.is_none() {
                    let message = "one event does not fit into the MaxEnvelopeSize of the request";
                    return Err(Fault::new(FaultKind::MaxEnvelopeSize, message));
                }
                break;
            }
            items.push_str(&item);
            last = Some(indication.sequence);
        }
        let last = last.ok_or_else(late)?;
        self.subscription.confirm(last);
        Ok(encode::pull(&items, Some(&self.subscription.id)))
    }
}

fn invalid(message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::InvalidSubscription, message)
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

/// What a subscription is for: its filter, or all events of the class it is addressed to.
fn what(headers: &Headers, filter: Option<Query>) -> Result<(ResourceUri, Query), Fault> {
    let Some(resource) = headers.resource.clone() else {
        let message = "the header w:ResourceURI is missing";
        return Err(Fault::new(FaultKind::InvalidResourceUri, message));
    };
    let namespace = headers.namespace().replace('\\', "/");
    if !namespace.trim_matches('/').eq_ignore_ascii_case(VIRTUALIZATION) {
        let message = format!(
            "events come from {VIRTUALIZATION} only, not from {}",
            shown(&namespace)
        );
        return Err(Fault::new(FaultKind::InvalidResourceUri, message));
    }
    let query = match (filter, &resource.class) {
        (Some(query), _) => query,
        (None, Some(class)) => Query::Select(Select {
            class: class.clone(),
            columns: Columns::All,
            condition: None,
            within: None,
        }),
        (None, None) => {
            let message = "the subscription has no filter: say in WQL what to watch";
            return Err(Fault::new(FaultKind::CannotProcessFilter, message));
        }
    };
    Ok((resource, query))
}

/// How long a subscription that begins now lives.
fn life(asked: Option<Expires>, now: Timestamp) -> Result<Duration, Fault> {
    let life = match asked {
        None => MAX_LIFE,
        Some(Expires::In(time)) => time,
        Some(Expires::At(micros)) => {
            let now = i64::try_from(now.0).unwrap_or(i64::MAX / 1000);
            let left = micros.saturating_sub(now.saturating_mul(1000));
            Duration::from_micros(u64::try_from(left).unwrap_or(0))
        }
    };
    // In whole seconds, which the answer can express exactly.
    match Duration::from_secs(life.min(MAX_LIFE).as_secs()) {
        Duration::ZERO => {
            let message = "the subscription would end at once";
            Err(Fault::new(FaultKind::InvalidSubscriptionExpiration, message))
        }
        life => Ok(life),
    }
}

/// A subscriber to whose URL events are sent.
struct Receiver {
    client: Arc<Client>,
    notify: (Endpoint, Destination),
    end: Option<(Endpoint, Destination)>,
    mode: DeliveryMode,
    resource: ResourceUri,
    form: Form,
    select: Select,
    id: String,
    url: String,
    most: usize,
    heartbeat: Option<Duration>,
}

impl Receiver {
    fn delivery<'a>(&'a self, to: &'a Endpoint, message_id: &'a str) -> Delivery<'a> {
        Delivery {
            to,
            message_id,
            mode: self.mode,
            resource: &self.resource,
        }
    }

    async fn post(&self, to: &Destination, envelope: String) -> Result<String, DeliveryError> {
        let fields = [("content-type", "application/soap+xml;charset=UTF-8")];
        self.client.post(to, &fields, envelope).await
    }
}

impl Subscriber for Receiver {
    fn most(&self) -> usize {
        match self.mode {
            DeliveryMode::Events => self.most,
            DeliveryMode::Push | DeliveryMode::PushWithAck | DeliveryMode::Pull => 1,
        }
    }

    fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat
    }

    async fn send(&self, indications: &[Indication]) -> Result<(), DeliveryError> {
        let id = message_id();
        let (endpoint, destination) = &self.notify;
        let delivery = self.delivery(endpoint, &id);
        let items: Result<Vec<String>, CimError> = indications
            .iter()
            .map(|i| self.form.item(&self.select, i))
            .collect();
        let items = items.map_err(|e| DeliveryError::Refused(e.to_string()))?;
        let envelope = if items.is_empty() {
            delivery.heartbeat()
        } else {
            delivery.events(&items)
        };
        let answer = self.post(destination, envelope).await?;
        match self.mode {
            DeliveryMode::Push | DeliveryMode::Pull => Ok(()),
            DeliveryMode::PushWithAck | DeliveryMode::Events => acknowledged(&answer, &id),
        }
    }

    async fn farewell(&self, why: Over) {
        let Some((endpoint, destination)) = &self.end else {
            return;
        };
        let (why, reason) = match why {
            Over::Failed => (
                Ended::DeliveryFailure,
                "events could not be delivered for an hour",
            ),
            Over::Stopping => (Ended::ShuttingDown, "this host stops"),
        };
        let id = message_id();
        let envelope = self
            .delivery(endpoint, &id)
            .ended(&self.url, &self.id, why, reason);
        if let Err(error) = self.post(destination, envelope).await {
            tracing::info!(subscription = self.id, %error, "a subscriber does not hear of the end");
        }
    }
}

/// Whether an answer says that the message of this id has been taken.
fn acknowledged(answer: &str, id: &str) -> Result<(), DeliveryError> {
    match wsman::decode(answer).map(|m| m.operation) {
        Ok(Operation::Ack { relates_to }) if relates_to.trim() == id => Ok(()),
        _ => {
            let message = "the receiver has not acknowledged the events";
            Err(DeliveryError::Refused(message.into()))
        }
    }
}
