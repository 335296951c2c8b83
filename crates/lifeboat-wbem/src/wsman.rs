//! WS-Management onto the object manager: what each request asks for, and the envelope of its answer. Envelopes are read and
//! written by [`lifeboat_cim::wsman`]; instances and methods are the object manager's.
//!
//! Every answer says its length: some clients cannot read chunks.

pub(crate) mod eventing;

use std::sync::Arc;
use std::time::Duration;

use hyper::{HeaderMap, Response, StatusCode};
use lifeboat_cim::wql::{Query, Select, SystemColumns};
use lifeboat_cim::wsman::{
    self, Encoder, Enumerate, Family, Fault, FaultKind, Headers, MIN_ENVELOPE, Message, Mode, Operation,
    Polymorphism, Pull, encode,
};
use lifeboat_cim::{CimError, Instance, InstanceName, Namespace, ObjectPath, Raw, Status, Value};
use lifeboat_engine::by::Surface;
use tokio::time::Instant;
use tracing::Instrument;

use crate::cim::{Caller, Cursor, Found, ObjectManager};
use crate::enumerations::{Batch, BatchError, Encode, Enumeration, Enumerations, Measure, Walk};
use crate::http::{Body, Exchange, Protocol, document};
use eventing::Eventing;

/// How long an operation may take when the client does not say, and at most.
const TIMEOUT: Duration = Duration::from_secs(60);
const MAX_TIMEOUT: Duration = Duration::from_secs(300);
/// Requests of more bytes are parsed on a thread of their own, where they delay no other request.
const LARGE: usize = 128 << 10;
/// Type of every answer.
const KIND: &str = "application/soap+xml;charset=UTF-8";
/// Ways to log in, which Identify lists for callers that have logged in.
const PROFILES: [&str; 2] = [
    "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/basic",
    "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual",
];

/// How the items of an enumeration look.
struct Form {
    family: Family,
    mode: Mode,
    /// Cut down to this class.
    cut_to: Option<String>,
    /// Only these columns.
    columns: Option<Arc<Select>>,
    system: SystemColumns,
    /// Not the instance but its class, with these options.
    described: Option<Arc<[(String, String)]>>,
}

impl Encode for Form {
    fn encode(&self, found: &Found) -> Result<String, CimError> {
        let Found { namespace, instance } = found;
        let encoder = Encoder {
            namespace,
            family: self.family,
        };
        if let Some(options) = &self.described {
            return Ok(encoder.class(namespace.class(&instance.class)?, options));
        }
        let object = || {
            let select = self.columns.as_ref();
            if let Some(columns) = select.and_then(|s| s.project(namespace, instance, &self.system)) {
                return Ok(encoder.fragment(&instance.class, &columns));
            }
            encoder.object_as(instance, self.cut_to.as_ref().unwrap_or(&instance.class))
        };
        let endpoint = || {
            let name = namespace.name_of(instance);
            encoder.endpoint(&ObjectPath::new(&namespace.name, name))
        };
        Ok(match self.mode {
            Mode::Object => object()?,
            Mode::Reference => endpoint(),
            Mode::Both => format!("<w:Item>{}{}</w:Item>", object()?, endpoint()),
        })
    }
}

/// WS-Management of a host.
pub(crate) struct Wsman {
    manager: Arc<ObjectManager>,
    enumerations: Arc<Enumerations>,
    eventing: Eventing,
}

fn read(body: &[u8], charset: Option<&str>) -> Result<Message, Fault> {
    let text = lifeboat_xml::decode_text(body, charset)
        .map_err(|e| Fault::new(FaultKind::Malformed, e.to_string()))?;
    wsman::decode(&text)
}

fn message_id() -> String {
    format!("uuid:{}", uuid::Uuid::new_v4().to_string().to_uppercase())
}

impl Protocol for Wsman {
    const NAME: &'static str = "WS-Management";
    const SURFACE: Surface = Surface::Wsman;
    const PATHS: &'static [&'static str] = &["/wsman", "/wsman/"];
    const CHALLENGE: &'static str = "Basic realm=\"WSMAN\", charset=\"UTF-8\"";

    fn asks_who(&self, headers: &HeaderMap) -> bool {
        let value = headers.get("wsmanidentify");
        value.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"unauthenticated"))
    }

    fn introduce(&self, body: &[u8], charset: Option<&str>) -> Option<Response<Body>> {
        let asked = read(body, charset).ok()?.operation;
        (asked == Operation::Identify).then(|| document(StatusCode::OK, KIND, self.identity(&[])))
    }

    async fn answer(&self, exchange: Exchange) -> Response<Body> {
        let span = tracing::info_span!("wsman", from = %exchange.from, caller = exchange.caller.name);
        let work = async {
            match self.respond(exchange).await {
                Ok(envelope) => document(StatusCode::OK, KIND, envelope),
                Err((fault, action)) => {
                    let reason = &fault.message;
                    tracing::info!(?action, kind = ?fault.kind, ?reason, "refused");
                    let status = StatusCode::from_u16(fault.kind.http_status());
                    let envelope = fault.envelope(&message_id(), &self.manager.host().name);
                    document(
                        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                        KIND,
                        envelope,
                    )
                }
            }
        };
        work.instrument(span).await
    }
}

impl Wsman {
    pub(crate) fn new(
        manager: Arc<ObjectManager>,
        enumerations: Arc<Enumerations>,
        eventing: Eventing,
    ) -> Self {
        Self {
            manager,
            enumerations,
            eventing,
        }
    }

    fn identity(&self, profiles: &[&str]) -> String {
        encode::identify("Lifeboat", &self.manager.host().version, profiles)
    }

    async fn respond(&self, exchange: Exchange) -> Result<String, (Fault, String)> {
        let (body, charset) = (exchange.body.clone(), exchange.charset().map(str::to_owned));
        let message = if body.len() > LARGE {
            let read = tokio::task::spawn_blocking(move || read(&body, charset.as_deref())).await;
            read.unwrap_or_else(|e| Err(Fault::new(FaultKind::InternalError, e.to_string())))
        } else {
            read(&body, charset.as_deref())
        };
        let Message { headers, operation } = message.map_err(|fault| (fault, String::new()))?;
        if operation == Operation::Identify {
            return Ok(self.identity(&PROFILES));
        }
        let until = Instant::now() + headers.timeout.unwrap_or(TIMEOUT).min(MAX_TIMEOUT);
        let url = self.url(&exchange);
        let performed = self.perform(&exchange.caller, &headers, operation, &url, until);
        let performed = tokio::time::timeout_at(until, performed).await;
        let body = performed.unwrap_or_else(|_| Err(timed_out()));
        match body {
            Ok(body) => Ok(encode::response(&headers, &message_id(), &body)),
            Err(fault) => Err((fault.to(headers.message_id.as_deref()), headers.action)),
        }
    }

    /// Where this server answers, as the client calls it.
    fn url(&self, exchange: &Exchange) -> String {
        let host = exchange.header("host").filter(|h| h.len() <= 512);
        let host = host.unwrap_or(&self.manager.host().name);
        format!("https://{host}/wsman")
    }

    /// The body of the answer.
    async fn perform(
        &self,
        caller: &Caller,
        headers: &Headers,
        operation: Operation,
        url: &str,
        until: Instant,
    ) -> Result<String, Fault> {
        match operation {
            Operation::Identify => Ok(String::new()),
            Operation::Get => self.get(headers).await,
            Operation::GetClass { class } => self.get_class(headers, &class),
            Operation::Enumerate(enumerate) => self.enumerate(caller, headers, enumerate, until).await,
            Operation::EnumerateClasses { below, enumerate } => {
                self.enumerate_classes(caller, headers, below.as_deref(), &enumerate, until)
                    .await
            }
            Operation::Pull(pull) => self.pull(caller, headers, &pull, until).await,
            Operation::Release { context } => {
                // Releasing what has ended already is no error: clients do so.
                self.enumerations.remove(caller, &context);
                self.eventing.release(caller, &context);
                Ok(String::new())
            }
            Operation::Invoke { method, arguments } => self.invoke(caller, headers, &method, arguments).await,
            Operation::Put(_) => Err(unsupported(
                "nothing here is written by Put; call the method that changes it",
            )),
            Operation::Create(_) => Err(unsupported(
                "nothing here is made by Create; call the method that makes it",
            )),
            Operation::Delete => Err(unsupported(
                "nothing here is removed by Delete; call the method that removes it",
            )),
            Operation::Subscribe(request) => self.eventing.subscribe(caller, headers, request, url).await,
            Operation::Unsubscribe { identifier } => self.eventing.unsubscribe(caller, &identifier),
            Operation::Renew { .. } => Err(self.eventing.renew()),
            Operation::Ack { .. } => Err(unsupported("this server receives no events")),
        }
    }

    async fn get(&self, headers: &Headers) -> Result<String, Fault> {
        let (namespace, name) = headers.target()?;
        let encoder = self.encoder(headers)?;
        let got = self.manager.get(namespace, &name).await;
        let instance = got.map_err(|e| keys(encoder.namespace, &name, e))?;
        let body = encoder.object(&instance)?;
        within(headers, body)
    }

    fn get_class(&self, headers: &Headers, class: &str) -> Result<String, Fault> {
        let encoder = self.encoder(headers)?;
        let class = encoder.namespace.class(class)?;
        within(headers, encoder.class(class, &headers.options))
    }

    async fn enumerate(
        &self,
        caller: &Caller,
        headers: &Headers,
        enumerate: Enumerate,
        until: Instant,
    ) -> Result<String, Fault> {
        let namespace = headers.namespace();
        let class = headers.resource.as_ref().and_then(|r| r.class.clone());
        let cursor = match (&enumerate.filter, &class) {
            (Some(query), _) => self.manager.query(namespace, query).await?,
            (None, Some(class)) => self.manager.enumerate(namespace, class).await?,
            (None, None) => return Err(headers.target().err().unwrap_or_else(timed_out)),
        };
        // The class that was asked for: instances are cut down to its properties, or must be of it.
        let (asked, columns) = match enumerate.filter {
            Some(Query::Select(select)) => (Some(select.class.clone()), Some(Arc::new(select))),
            Some(Query::Associators(_) | Query::References(_)) => (None, None),
            None => (class, None),
        };
        let (cut_to, exactly) = match enumerate.polymorphism {
            Polymorphism::Include => (None, None),
            Polymorphism::Exclude => (asked, None),
            Polymorphism::None => (None, asked),
        };
        let form = Form {
            mode: enumerate.mode,
            cut_to,
            columns,
            ..self.form(headers)
        };
        let at_once = enumerate.optimised.then_some(enumerate.max_elements);
        self.begin(caller, headers, form, Walk::new(cursor, exactly), at_once, until)
            .await
    }

    /// Classes are enumerated like instances: each is an instance of itself that has no properties.
    async fn enumerate_classes(
        &self,
        caller: &Caller,
        headers: &Headers,
        class: Option<&str>,
        enumerate: &Enumerate,
        until: Instant,
    ) -> Result<String, Fault> {
        let form = Form {
            described: Some(headers.options.clone().into()),
            ..self.form(headers)
        };
        let namespace = self.namespace(headers)?;
        let classes = namespace.below(class, true)?;
        let classes = classes.map(|c| Instance::new(&c.name)).collect();
        let walk = Walk::new(Cursor::over(&self.manager, namespace, classes), None);
        let at_once = enumerate.optimised.then_some(enumerate.max_elements);
        self.begin(caller, headers, form, walk, at_once, until).await
    }

    /// The form of complete instances.
    fn form(&self, headers: &Headers) -> Form {
        Form {
            family: headers.family(),
            mode: Mode::Object,
            cut_to: None,
            columns: None,
            system: SystemColumns {
                server: self.manager.host().name.clone(),
            },
            described: None,
        }
    }

    /// Keeps an enumeration, and answers with its first items where so many are wanted `at_once`.
    async fn begin(
        &self,
        caller: &Caller,
        headers: &Headers,
        form: Form,
        walk: Walk,
        at_once: Option<usize>,
        until: Instant,
    ) -> Result<String, Fault> {
        let begun = Enumeration::new(form, walk);
        let Some(items) = at_once else {
            let context = self.enumerations.insert(caller, begun)?;
            return Ok(encode::enumerate(None, Some(&context)));
        };
        let measure = measure(headers, items, None, until);
        let batch = batch(&begun, measure).await?;
        let context = if batch.last {
            None
        } else {
            Some(self.enumerations.insert(caller, begun)?)
        };
        Ok(encode::enumerate(Some(&batch.items.concat()), context.as_deref()))
    }

    async fn pull(
        &self,
        caller: &Caller,
        headers: &Headers,
        pull: &Pull,
        until: Instant,
    ) -> Result<String, Fault> {
        let unknown = || {
            let message =
                "the enumeration context is unknown: it was ended, or nothing was pulled for a minute";
            Fault::new(FaultKind::InvalidEnumerationContext, message)
        };
        if let Some(events) = self.eventing.pull(caller, headers, pull, until).await {
            return events;
        }
        let found = self
            .enumerations
            .find::<Form>(caller, &pull.context)
            .ok_or_else(unknown)?;
        let until = pull
            .max_time
            .map_or(until, |t| until.min(Instant::now() + t.min(MAX_TIMEOUT)));
        let measure = measure(headers, pull.max_elements, pull.max_characters, until);
        let batch = batch(&found, measure).await?;
        let context = (!batch.last).then_some(pull.context.as_str());
        if batch.last {
            self.enumerations.remove(caller, &pull.context);
        }
        Ok(encode::pull(&batch.items.concat(), context))
    }

    async fn invoke(
        &self,
        caller: &Caller,
        headers: &Headers,
        method: &str,
        arguments: Vec<(String, Raw)>,
    ) -> Result<String, Fault> {
        let (namespace, target) = headers.target()?;
        let encoder = self.encoder(headers)?;
        let manager = &self.manager;
        let called = manager
            .carry_out(caller, namespace, target, method, arguments)
            .await?;
        let outcome = &called.outcome;
        Ok(encoder.method_output(
            called.class,
            called.method,
            &Value::from(outcome.value),
            &outcome.out,
        ))
    }

    fn namespace(&self, headers: &Headers) -> Result<&'static Namespace, Fault> {
        Ok(self.manager.schema().namespace(headers.namespace())?)
    }

    fn encoder(&self, headers: &Headers) -> Result<Encoder<'static>, Fault> {
        Ok(Encoder {
            namespace: self.namespace(headers)?,
            family: headers.family(),
        })
    }
}

async fn batch(enumeration: &Enumeration<Form>, measure: Measure) -> Result<Batch, Fault> {
    let batch = enumeration.batch(measure).await;
    batch.map_err(|error| match error {
        BatchError::Cim(error) => error.into(),
        BatchError::TooLarge => too_large(),
        BatchError::TimedOut => timed_out(),
    })
}

fn measure(headers: &Headers, items: usize, characters: Option<usize>, until: Instant) -> Measure {
    let room = headers.max_envelope.max(MIN_ENVELOPE) - encode::OVERHEAD;
    Measure {
        items,
        octets: room.min(characters.unwrap_or(usize::MAX)),
        until,
    }
}

fn within(headers: &Headers, body: String) -> Result<String, Fault> {
    if body.len() + encode::OVERHEAD <= headers.max_envelope {
        Ok(body)
    } else {
        Err(too_large())
    }
}

/// A parameter of Get is a key: one that the class does not have, or else too few of them.
fn keys(namespace: &Namespace, name: &InstanceName, error: CimError) -> Fault {
    let fault = Fault::from(error.clone());
    if error.status != Status::InvalidParameter {
        return fault;
    }
    let class = namespace.class(&name.class).ok();
    let own = |key: &str| {
        let properties = class.iter().flat_map(|c| &c.properties);
        properties
            .filter(|p| p.key)
            .any(|p| p.name.eq_ignore_ascii_case(key))
    };
    let kind = if name.keys.iter().all(|(key, _)| own(key)) {
        FaultKind::InsufficientSelectors
    } else {
        FaultKind::UnexpectedSelectors
    };
    Fault { kind, ..fault }
}

fn unsupported(message: &str) -> Fault {
    Fault::new(FaultKind::ActionNotSupported, message)
}

fn timed_out() -> Fault {
    Fault::new(
        FaultKind::TimedOut,
        "the operation took longer than its OperationTimeout",
    )
}

fn too_large() -> Fault {
    let message = "one item does not fit into the MaxEnvelopeSize of the request";
    Fault::new(FaultKind::MaxEnvelopeSize, message)
}
