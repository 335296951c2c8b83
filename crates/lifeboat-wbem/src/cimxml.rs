//! CIM-XML onto the object manager: what each request asks for, and the document of its answer. Documents are read and
//! written by [`lifeboat_cim::cimxml`]; instances and methods are the object manager's.
//!
//! An answer that is long is made while it is read: a client that is slow slows the walk over the instances, and nothing
//! piles up in between.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use lifeboat_cim::cimxml::{
    self, Call, Head, Intrinsic, Listing, Page, Pulled, QueryText, Relation, Request, RequestError, Results,
    View,
};
use lifeboat_cim::wql::{Columns, Query};
use lifeboat_cim::{CimError, InstanceName, Namespace, Raw, Status, wql};
use lifeboat_engine::by::Surface;
use tokio::time::Instant;
use tracing::Instrument;

use crate::cim::{Caller, Cursor, Found, ObjectManager, Relations};
use crate::enumerations::{BatchError, Encode, Enumeration, Enumerations, IDLE, Measure, Walk};
use crate::http::{Body, Exchange, Protocol, document, plain};
use crate::listeners::Listeners;

/// Type of every answer.
const KIND: &str = "application/xml; charset=\"utf-8\"";
/// An answer is handed on in parts of about this many bytes.
const PIECE: usize = 32 << 10;
/// Most items and bytes of an answer to a pull, however many the client wants.
const MAX_ITEMS: usize = 32_000;
const MAX_OCTETS: usize = 4 << 20;
/// Longest wait for the items of a pull.
const PULL_TIME: Duration = Duration::from_secs(60);
/// Longest time that a client may have its enumeration wait for the next pull.
const MAX_IDLE: Duration = Duration::from_secs(600);
/// Requests of more bytes are parsed on a thread of their own, where they delay no other request.
const LARGE: usize = 128 << 10;

/// How the items of an enumeration look.
struct Form {
    host: Arc<str>,
    form: cimxml::Form,
    view: View,
    /// The pull operation by which they are asked for; `None`: they are not pulled.
    kind: Option<Pulled>,
}

impl Form {
    fn item(&self, Found { namespace, instance }: &Found) -> String {
        let results = Results {
            namespace,
            host: &self.host,
            form: self.form,
            view: &self.view,
        };
        results.item(instance)
    }
}

impl Encode for Form {
    fn encode(&self, found: &Found) -> Result<String, CimError> {
        Ok(self.item(found))
    }
}

/// CIM-XML of a host.
pub(crate) struct CimXml {
    manager: Arc<ObjectManager>,
    enumerations: Arc<Enumerations>,
    listeners: Listeners,
}

/// What OPTIONS answers about this server (DSP0200, 7.5).
fn options() -> Response<Body> {
    let mut answer = plain(StatusCode::OK);
    for (name, value) in [
        ("opt", "\"http://www.dmtf.org/cim/mapping/http/v1.0\"; ns=77"),
        ("77-cimprotocolversion", "1.0"),
        (
            "77-cimsupportedfunctionalgroups",
            "basic-read, association-traversal, query-execution",
        ),
        ("77-cimsupportedquerylanguages", "WQL"),
    ] {
        answer
            .headers_mut()
            .insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    answer
}

fn read(body: &[u8], charset: Option<&str>) -> Result<Request, RequestError> {
    cimxml::decode(&lifeboat_xml::decode_text(body, charset)?)
}

/// The answer of an operation.
enum Given {
    /// The whole answer.
    Document(String),
    /// Items, one after the other.
    Items(Box<(Form, Cursor)>),
}

impl Protocol for CimXml {
    const NAME: &'static str = "CIM-XML";
    const SURFACE: Surface = Surface::CimXml;
    const PATHS: &'static [&'static str] = &["/cimom", "/cimom/", "/"];
    const CHALLENGE: &'static str = "Basic realm=\"lifeboat\", charset=\"UTF-8\"";

    fn other_method(&self, method: &str) -> Result<Response<Body>, (StatusCode, &'static str)> {
        match method {
            "OPTIONS" => Ok(options()),
            // DSP0200 lets a server leave out the extension framework; clients then try POST.
            "M-POST" => Err((StatusCode::NOT_IMPLEMENTED, "M-POST")),
            _ => Err((StatusCode::METHOD_NOT_ALLOWED, "only POST")),
        }
    }

    async fn answer(&self, exchange: Exchange) -> Response<Body> {
        let span = tracing::info_span!("cimxml", from = %exchange.from, caller = exchange.caller.name);
        self.respond(exchange).instrument(span).await
    }
}

impl CimXml {
    pub(crate) fn new(
        manager: Arc<ObjectManager>,
        enumerations: Arc<Enumerations>,
        listeners: Listeners,
    ) -> Self {
        Self {
            manager,
            enumerations,
            listeners,
        }
    }

    async fn respond(&self, exchange: Exchange) -> Response<Body> {
        let (body, charset) = (exchange.body.clone(), exchange.charset().map(str::to_owned));
        let request = if body.len() > LARGE {
            let read = tokio::task::spawn_blocking(move || read(&body, charset.as_deref())).await;
            read.unwrap_or_else(|e| Err(RequestError::NotValid(e.to_string())))
        } else {
            read(&body, charset.as_deref())
        };
        let request = match request {
            Ok(request) => request,
            Err(RequestError::Refused { head, error }) => return refused(&head, &error),
            Err(error) => {
                let reason = error.to_string();
                return turned_away(
                    error.http_status(),
                    error.cim_error().unwrap_or_default(),
                    &reason,
                );
            }
        };
        let header = |name| exchange.header(name);
        let (operation, method, object) = (header("CIMOperation"), header("CIMMethod"), header("CIMObject"));
        if let Err(error) = cimxml::check_headers(&request, operation, method, object) {
            return turned_away(error.http_status(), error.cim_error(), &error.to_string());
        }
        let Request {
            head,
            namespace,
            call,
        } = request;
        let given = match call {
            Call::Intrinsic(operation) => {
                self.intrinsic(&exchange.caller, &head, &namespace, operation)
                    .await
            }
            Call::Method { target, arguments } => {
                let answer = self.invoke(&exchange.caller, &head, &namespace, target, arguments);
                answer.await.map(Given::Document)
            }
        };
        match given {
            Ok(Given::Document(text)) => good(document(StatusCode::OK, KIND, text)),
            Ok(Given::Items(items)) => stream_items(head, *items).await,
            Err(error) => refused(&head, &error),
        }
    }

    async fn intrinsic(
        &self,
        caller: &Caller,
        head: &Head,
        namespace: &str,
        operation: Intrinsic,
    ) -> Result<Given, CimError> {
        let space = self.manager.schema().namespace(namespace)?;
        let items = cimxml::Form::of(&operation);
        let found = |instance| Found {
            namespace: space,
            instance,
        };
        let form = |view: View, kind| Form {
            host: self.manager.host().name.as_str().into(),
            // Only operations with items ask for it.
            form: items.unwrap_or(cimxml::Form::Instance),
            view,
            kind,
        };
        let text = match operation {
            Intrinsic::GetInstance { name, view } => {
                let instance = self.manager.get(namespace, &name).await?;
                cimxml::unit(head, &form(view, None).item(&found(instance)))
            }
            Intrinsic::List(listing) => {
                let (cursor, view) = self.list(namespace, listing).await?;
                return Ok(Given::Items(Box::new((form(view, None), cursor))));
            }
            Intrinsic::Open {
                listing,
                max,
                timeout,
                filter,
            } => {
                if filter.is_some() {
                    let message = "pulled enumerations are not filtered; use OpenQueryInstances";
                    return Err(CimError::new(Status::FilteredEnumerationNotSupported, message));
                }
                let idle = idle(timeout)?;
                let kind = Some(Pulled::of(&listing));
                let (cursor, view) = self.list(namespace, listing).await?;
                let begun = Enumeration::new(form(view, kind), Walk::new(cursor, None));
                self.open(caller, head, begun.waiting(idle), max).await?
            }
            Intrinsic::Pull { kind, context, max } => self.pull(caller, head, kind, &context, max).await?,
            Intrinsic::CloseEnumeration { context } => {
                if self.enumerations.remove(caller, &context) {
                    cimxml::nothing(head)
                } else {
                    return Err(unknown_context());
                }
            }
            Intrinsic::CreateInstance { instance } => {
                let made = self.listeners.create(caller, namespace, &instance).await?;
                cimxml::unit(head, &form(View::default(), None).item(&found(made)))
            }
            Intrinsic::DeleteInstance { name } => {
                self.listeners.delete(caller, namespace, &name)?;
                cimxml::nothing(head)
            }
            other @ (Intrinsic::GetClass { .. }
            | Intrinsic::EnumerateClasses { .. }
            | Intrinsic::EnumerateClassNames { .. }
            | Intrinsic::EnumerateQualifiers
            | Intrinsic::GetQualifier { .. }
            | Intrinsic::ModifyInstance { .. }) => from_schema(head, space, other)?,
        };
        Ok(Given::Document(text))
    }

    /// What a listing walks over, and what of it is shown.
    async fn list(&self, namespace: &str, listing: Listing) -> Result<(Cursor, View), CimError> {
        let mut view = listing.view();
        let manager = &self.manager;
        let cursor = match listing {
            Listing::Instances { class, .. } | Listing::Names { class } => {
                manager.enumerate(namespace, &class).await?
            }
            Listing::Associators { relation, .. } | Listing::AssociatorNames { relation } => {
                manager.associators(namespace, relations(relation)?).await?
            }
            Listing::References { relation, .. } | Listing::ReferenceNames { relation } => {
                manager.references(namespace, relations(relation)?).await?
            }
            Listing::Query(text) => {
                let query = query(&text)?;
                if let Query::Select(select) = &query
                    && let Columns::Named(columns) = &select.columns
                {
                    view.properties = Some(columns.iter().map(ToString::to_string).collect());
                }
                manager.query(namespace, &query).await?
            }
        };
        Ok((cursor, view))
    }

    async fn open(
        &self,
        caller: &Caller,
        head: &Head,
        begun: Enumeration<Form>,
        max: u32,
    ) -> Result<String, CimError> {
        let (items, last) = some(&begun, max).await?;
        if last {
            return Ok(page(head, &items, Page::Last));
        }
        let context = self.enumerations.insert(caller, begun)?;
        Ok(page(head, &items, Page::More(&context)))
    }

    async fn pull(
        &self,
        caller: &Caller,
        head: &Head,
        kind: Pulled,
        context: &str,
        max: u32,
    ) -> Result<String, CimError> {
        let found = self
            .enumerations
            .find::<Form>(caller, context)
            .ok_or_else(unknown_context)?;
        if found.form.kind != Some(kind) {
            let message = "this enumeration was opened by another operation and is pulled by its own";
            return Err(CimError::new(Status::InvalidEnumerationContext, message));
        }
        let (items, last) = some(&found, max).await?;
        if last {
            self.enumerations.remove(caller, context);
            return Ok(page(head, &items, Page::Last));
        }
        Ok(page(head, &items, Page::More(context.trim())))
    }

    async fn invoke(
        &self,
        caller: &Caller,
        head: &Head,
        namespace: &str,
        target: InstanceName,
        arguments: Vec<(String, Raw)>,
    ) -> Result<String, CimError> {
        let manager = &self.manager;
        let called = manager
            .carry_out(caller, namespace, target, &head.name, arguments)
            .await?;
        let outcome = &called.outcome;
        Ok(cimxml::method_response(
            head,
            called.namespace,
            called.method,
            outcome.value,
            &outcome.out,
        ))
    }
}

/// The answer to an operation that the schema alone can answer; every other operation is refused.
fn from_schema(head: &Head, space: &Namespace, operation: Intrinsic) -> Result<String, CimError> {
    Ok(match operation {
        Intrinsic::GetClass { class, view } => {
            cimxml::unit(head, &cimxml::class_item(space, space.class(&class)?, &view))
        }
        Intrinsic::EnumerateClasses { class, deep, view } => {
            let classes = space.below(class.as_deref(), deep)?;
            whole(head, classes.map(|c| cimxml::class_item(space, c, &view)))
        }
        Intrinsic::EnumerateClassNames { class, deep } => {
            let classes = space.below(class.as_deref(), deep)?;
            whole(head, classes.map(|c| cimxml::class_name_item(&c.name)))
        }
        Intrinsic::EnumerateQualifiers => {
            let declared = space.qualifiers.values();
            whole(head, declared.map(|q| cimxml::qualifier_item(space, q)))
        }
        Intrinsic::GetQualifier { name } => match space.qualifiers.get(&name.to_ascii_lowercase()) {
            Some(declared) => cimxml::unit(head, &cimxml::qualifier_item(space, declared)),
            None => {
                let name: String = name.chars().take(100).collect();
                return Err(CimError::new(
                    Status::NotFound,
                    format!("there is no qualifier {name}"),
                ));
            }
        },
        Intrinsic::GetInstance { .. }
        | Intrinsic::List(_)
        | Intrinsic::Open { .. }
        | Intrinsic::Pull { .. }
        | Intrinsic::CloseEnumeration { .. }
        | Intrinsic::CreateInstance { .. }
        | Intrinsic::ModifyInstance { .. }
        | Intrinsic::DeleteInstance { .. } => {
            let message = "instances are not changed directly; call the method that does it";
            return Err(CimError::new(Status::NotSupported, message));
        }
    })
}

/// At most so many items, and whether they are the last.
async fn some(enumeration: &Enumeration<Form>, max: u32) -> Result<(String, bool), CimError> {
    let measure = Measure {
        items: usize::try_from(max).unwrap_or(MAX_ITEMS).min(MAX_ITEMS),
        octets: MAX_OCTETS,
        until: Instant::now() + PULL_TIME,
    };
    let batch = enumeration.batch(measure).await;
    let batch = batch.map_err(|error| match error {
        BatchError::Cim(error) => error,
        BatchError::TooLarge => CimError::new(
            Status::ServerLimitsExceeded,
            "an instance is too large to be sent",
        ),
        BatchError::TimedOut => {
            CimError::new(Status::Failed, "it took too long; nothing is lost, pull again")
        }
    })?;
    Ok((batch.items.concat(), batch.last))
}

fn page(head: &Head, items: &str, page: Page<'_>) -> String {
    let mut text = cimxml::begin(head);
    text.push_str(items);
    text.push_str(&cimxml::end(Some(page)));
    text
}

fn whole(head: &Head, items: impl Iterator<Item = String>) -> String {
    let mut text = cimxml::begin(head);
    text.extend(items);
    text.push_str(&cimxml::end(None));
    text
}

fn query(text: &QueryText) -> Result<Query, CimError> {
    let language = text.language.trim();
    if !["WQL", "WQL2", "DMTF:WQL"]
        .iter()
        .any(|l| l.eq_ignore_ascii_case(language))
    {
        let shown: String = language.chars().take(100).collect();
        let message = format!("the query language {shown} is not supported; use WQL");
        return Err(CimError::new(Status::QueryLanguageNotSupported, message));
    }
    wql::parse(&text.text).map_err(|e| CimError::new(Status::InvalidQuery, e.to_string()))
}

fn relations(relation: Relation) -> Result<Relations, CimError> {
    if relation.of_class {
        let message = "associations of classes are not walked; name an instance";
        return Err(CimError::new(Status::NotSupported, message));
    }
    Ok(Relations {
        source: relation.source,
        association: relation.association,
        result: relation.result,
        role: relation.role,
        result_role: relation.result_role,
    })
}

fn idle(seconds: Option<u32>) -> Result<Duration, CimError> {
    let Some(seconds) = seconds else {
        return Ok(IDLE);
    };
    let asked = Duration::from_secs(seconds.into());
    if !asked.is_zero() && asked <= MAX_IDLE {
        Ok(asked)
    } else {
        let message = format!("OperationTimeout is 1 to {} seconds here", MAX_IDLE.as_secs());
        Err(CimError::new(Status::InvalidOperationTimeout, message))
    }
}

fn unknown_context() -> CimError {
    let message = "the enumeration context is unknown: it was closed, or nothing was pulled for too long";
    CimError::new(Status::InvalidEnumerationContext, message)
}

fn good(mut answer: Response<Body>) -> Response<Body> {
    let name = HeaderName::from_static("cimoperation");
    answer
        .headers_mut()
        .insert(name, HeaderValue::from_static("MethodResponse"));
    answer
}

/// The answer with an error of CIM: status 200, as DSP0200 wants it.
fn refused(head: &Head, error: &CimError) -> Response<Body> {
    tracing::info!(operation = ?head.name, status = ?error.status, reason = ?error.message, "refused");
    good(document(StatusCode::OK, KIND, cimxml::error(head, error)))
}

/// The answer to what is no request, or none that can be taken: an HTTP status, and `CIMError` that says which.
fn turned_away(status: u16, error: &'static str, reason: &str) -> Response<Body> {
    tracing::info!(status, error, ?reason, "refused");
    let mut answer = plain(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST));
    let headers = answer.headers_mut();
    headers.insert(
        HeaderName::from_static("cimerror"),
        HeaderValue::from_static(error),
    );
    answer
}

/// The rest of an answer with many items.
struct Rest {
    form: Form,
    walk: Walk,
    ended: bool,
}

impl Rest {
    /// The next part, added to what there is; after the last one `ended` is true.
    async fn piece(&mut self, mut text: String) -> Result<String, CimError> {
        while text.len() < PIECE {
            match self.walk.take().await? {
                Some(found) => text.push_str(&self.form.item(&found)),
                None => {
                    self.ended = true;
                    text.push_str(&cimxml::end(None));
                    break;
                }
            }
        }
        Ok(text)
    }
}

/// Items as they are made. An error before the first part is complete is the answer; after it the answer can only break off.
async fn stream_items(head: Head, (form, cursor): (Form, Cursor)) -> Response<Body> {
    let mut rest = Rest {
        form,
        walk: Walk::new(cursor, None),
        ended: false,
    };
    let first = match rest.piece(cimxml::begin(&head)).await {
        Ok(first) if rest.ended => return good(document(StatusCode::OK, KIND, first)),
        Ok(first) => first,
        Err(error) => return refused(&head, &error),
    };
    let pieces = stream::try_unfold((Some(first), rest), |(first, mut rest)| async move {
        let text = match first {
            Some(first) => first,
            None if rest.ended => return Ok(None),
            None => rest.piece(String::new()).await.map_err(|error| {
                tracing::warn!(%error, "an answer breaks off");
                std::io::Error::other(error)
            })?,
        };
        Ok(Some((Frame::data(Bytes::from(text)), (None, rest))))
    });
    let mut answer = Response::new(StreamBody::new(pieces).boxed_unsync());
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(KIND));
    good(answer)
}
