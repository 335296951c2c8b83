//! What a route of the REST surface is, and the two translations it stands for: a request into an action, and an action
//! into a request. The routes themselves are in `table`. It knows neither HTTP library nor socket.

mod table;

use lifeboat_engine::action::{Action, Refusal};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint::{self, Hint};
use serde_json::{Map, Value};

pub use table::ROUTES;

/// What every path begins with.
pub const PREFIX: &str = "/api/v1";

/// HTTP method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Asks and changes nothing, so that a client may send it again.
    Get,
    /// Carries an action out, which may have an effect again when it is sent again.
    Post,
    /// Makes or replaces.
    Put,
    /// Removes what the path names.
    Delete,
}

impl Verb {
    /// As HTTP writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// Type of a query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string, taken as it is in the query.
    Text,
    /// A number without sign.
    Number,
    /// `true` or `false`.
    Flag,
}

/// A query parameter; it becomes the action's field of the same name.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// The parameter in the query, which is also the field of the action.
    pub name: &'static str,
    /// How its text is read into JSON; one that cannot be read so is refused.
    pub kind: Kind,
    /// Taken when it is missing, as JSON.
    pub default: &'static str,
    /// For people.
    pub about: &'static str,
}

/// A field of a request body; it becomes the action's field of the same name.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The property of the body, which is also the field of the action.
    pub name: &'static str,
    /// Its schema in the OpenAPI document, as JSON.
    pub schema: &'static str,
    /// Taken when it is missing, as JSON; without one the field is required.
    pub default: Option<&'static str>,
}

/// What a request's body is.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// The request has no body: every field is in the path or in the query.
    None,
    /// The whole body is one field of the action.
    Whole {
        /// The action's field.
        field: &'static str,
        /// Name of its schema.
        schema: &'static str,
    },
    /// An object with these fields. A missing body is an empty object.
    Fields(&'static [Field]),
}

/// What a route answers when it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A JSON document of this schema.
    One(&'static str),
    /// A JSON list of documents of this schema, all there are.
    List(&'static str),
    /// A page of such a list, which may be long; a link of the answer leads to the next one.
    Pages(&'static str),
    /// A PNG.
    Picture,
    /// Nothing, or the job that carries on.
    Carried,
}

/// One route: one action. An action has one route, beside old names.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// HTTP method of the request, of which each path has at most one route.
    pub verb: Verb,
    /// Path below [`PREFIX`]; names in braces are fields of the action.
    pub path: &'static str,
    /// The action's tag; also the operation's id in the OpenAPI document, but of old names.
    pub action: &'static str,
    /// For people.
    pub summary: &'static str,
    /// Query parameters.
    pub query: &'static [Query],
    /// Request body.
    pub body: Body,
    /// Successful answer.
    pub reply: Reply,
    /// A field of the action that the path implies, with its value: the path is another name, kept for scripts, of a request that
    /// has a route of its own.
    pub implies: Option<(&'static str, &'static str)>,
}

/// The request an action is sent as.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// HTTP method of the request.
    pub verb: Verb,
    /// Path and query, encoded.
    pub target: String,
    /// JSON of the body; `None`: the request has no body.
    pub body: Option<Value>,
}

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::bare(ReturnCode::InvalidParameter, message)
}

fn wrong_but(message: impl Into<String>, hint: impl Into<Hint>) -> Refusal {
    Refusal::new(ReturnCode::InvalidParameter, message, hint)
}

impl Route {
    /// The operation's id in the OpenAPI document.
    #[must_use]
    pub fn id(&self) -> String {
        match self.implies {
            None => self.action.to_owned(),
            Some((_, value)) => format!("{}-of-{value}", self.action),
        }
    }

    /// Whether it is an old name of an action that has a route of its own.
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.implies.is_some()
    }

    /// Names of the path's parameters, in order.
    pub fn path_names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// Puts a request together into its action. `path` and `query` are decoded; an empty `body` means none.
    pub fn action(
        &self,
        path: impl IntoIterator<Item = (String, String)>,
        query: Vec<(String, String)>,
        body: &[u8],
    ) -> Result<Action, Refusal> {
        let mut fields: Map<String, Value> = path.into_iter().map(|(k, v)| (k, Value::String(v))).collect();
        self.take_query(query, &mut fields)?;
        self.take_body(body, &mut fields)?;
        if let Some((field, value)) = self.implies {
            fields.insert(field.into(), value.into());
        }
        fields.insert("action".into(), self.action.into());
        // Types that are a body refuse fields they do not know: a misspelt field is an error.
        serde_json::from_value(Value::Object(fields)).map_err(|e| {
            wrong_but(
                format!("the request is not complete or not right: {e}"),
                hint::Look::Document,
            )
        })
    }

    fn take_query(
        &self,
        query: Vec<(String, String)>,
        fields: &mut Map<String, Value>,
    ) -> Result<(), Refusal> {
        for q in self.query {
            fields.insert(q.name.into(), constant(q.default));
        }
        for (name, text) in query {
            // As requests said it while a replica had one outgoing relationship at most.
            let name = if name == "extended" {
                "relationship".to_owned()
            } else {
                name
            };
            let known = self.query.iter().find(|q| q.name == name);
            let known = known.ok_or_else(|| wrong(format!("unknown query parameter \"{name}\"")))?;
            let value = match known.kind {
                Kind::Text => Value::String(text),
                Kind::Number => text
                    .parse::<u64>()
                    .map(Value::from)
                    .map_err(|_| wrong(format!("{name}={text} is not a number")))?,
                Kind::Flag => text
                    .parse::<bool>()
                    .map(Value::from)
                    .map_err(|_| wrong(format!("{name}={text} is neither true nor false")))?,
            };
            fields.insert(name, value);
        }
        Ok(())
    }

    fn take_body(&self, body: &[u8], fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        let parse = || {
            serde_json::from_slice::<Value>(body)
                .map_err(|e| wrong_but(format!("the body is not JSON: {e}"), hint::Again::Json))
        };
        match self.body {
            Body::None if body.is_empty() => Ok(()),
            Body::None => Err(wrong_but("this request takes no body", hint::Again::NoBody)),
            Body::Whole { field, .. } => {
                fields.insert(field.into(), parse()?);
                Ok(())
            }
            Body::Fields(known) => {
                let given = if body.is_empty() {
                    Value::Object(Map::new())
                } else {
                    parse()?
                };
                let Value::Object(given) = given else {
                    return Err(wrong("the body is not a JSON object"));
                };
                for f in known {
                    f.default.map(|d| fields.insert(f.name.into(), constant(d)));
                }
                for (name, value) in given {
                    if !known.iter().any(|f| f.name == name) {
                        return Err(wrong(format!("unknown field \"{name}\"")));
                    }
                    fields.insert(name, value);
                }
                Ok(())
            }
        }
    }
}

/// Text of the table as JSON; a test reads every one of them.
fn constant(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

/// The request that stands for an action; `None` when the table has no route for it, which a test rules out.
#[must_use]
pub fn call(action: &Action) -> Option<Call> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(action) else {
        return None;
    };
    let tag = fields.remove("action")?;
    let route = ROUTES.iter().find(|r| tag == r.action && !r.is_old())?;
    let mut target = PREFIX.to_owned();
    for part in route.path.split('/').skip(1) {
        target.push('/');
        match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
            Some(name) => encode(fields.remove(name)?.as_str()?, &mut target),
            None => target.push_str(part),
        }
    }
    let mut mark = '?';
    for q in route.query {
        let text = match fields.remove(q.name) {
            // What is not written is what it is when it is missing.
            None | Some(Value::Null) => continue,
            Some(Value::String(s)) => s,
            Some(other) => other.to_string(),
        };
        target.push(mark);
        target.push_str(q.name);
        target.push('=');
        encode(&text, &mut target);
        mark = '&';
    }
    let body = match route.body {
        Body::None => None,
        Body::Whole { field, .. } => Some(fields.remove(field)?),
        Body::Fields(_) => Some(Value::Object(fields)),
    };
    Some(Call {
        verb: route.verb,
        target,
        body,
    })
}

fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}
