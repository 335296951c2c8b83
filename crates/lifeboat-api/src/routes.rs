//! The REST surface as a table, and the two translations it stands for: a request into an action, and an action into
//! a request. It knows neither HTTP library nor socket.

use lifeboat_engine::action::{Action, Refusal};
use lifeboat_model::api::ReturnCode;
use serde_json::{Map, Value};

/// What every path begins with.
pub const PREFIX: &str = "/api/v1";

/// HTTP method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reads.
    Get,
    /// Does something.
    Post,
    /// Makes or replaces.
    Put,
    /// Removes.
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
    /// Text.
    Text,
    /// A number without sign.
    Number,
}

/// A query parameter; it becomes the action's field of the same name.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Taken when it is missing, as JSON.
    pub default: &'static str,
    /// For people.
    pub about: &'static str,
}

/// A field of a request body; it becomes the action's field of the same name.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name.
    pub name: &'static str,
    /// Its schema in the OpenAPI document, as JSON.
    pub schema: &'static str,
    /// Taken when it is missing, as JSON; without one the field is required.
    pub default: Option<&'static str>,
}

/// What a request's body is.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// Nothing.
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
    /// A JSON list of documents of this schema.
    List(&'static str),
    /// A PNG.
    Picture,
    /// Nothing, or the job that carries on.
    Carried,
}

/// One route: one action.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Method.
    pub verb: Verb,
    /// Path below [`PREFIX`]; names in braces are fields of the action.
    pub path: &'static str,
    /// The action's tag; also the operation's id in the OpenAPI document.
    pub action: &'static str,
    /// For people.
    pub summary: &'static str,
    /// Query parameters.
    pub query: &'static [Query],
    /// Request body.
    pub body: Body,
    /// Successful answer.
    pub reply: Reply,
}

const FORCE: Field = Field {
    name: "force",
    schema: r#"{"type":"boolean","description":"Turn the VM off at once"}"#,
    default: Some("false"),
};

const fn get(path: &'static str, action: &'static str, reply: Reply, summary: &'static str) -> Route {
    Route {
        verb: Verb::Get,
        path,
        action,
        summary,
        query: &[],
        body: Body::None,
        reply,
    }
}

const fn post(path: &'static str, action: &'static str, summary: &'static str) -> Route {
    Route {
        verb: Verb::Post,
        path,
        action,
        summary,
        query: &[],
        body: Body::None,
        reply: Reply::Carried,
    }
}

const fn with_fields(route: Route, fields: &'static [Field]) -> Route {
    Route {
        body: Body::Fields(fields),
        ..route
    }
}

/// Every route that carries an action. Beside them there are only the event stream and the document itself.
pub const ROUTES: &[Route] = &[
    get(
        "/vms",
        "list-vms",
        Reply::List("VmView"),
        "All VMs of this host, replicas included",
    ),
    get("/vms/{vm}", "show-vm", Reply::One("VmView"), "One VM"),
    post("/vms/{vm}/start", "start-vm", "Start a VM"),
    with_fields(
        post("/vms/{vm}/stop", "stop-vm", "Shut a VM down, or turn it off"),
        &[FORCE],
    ),
    get(
        "/vms/{vm}/screenshot",
        "screenshot",
        Reply::Picture,
        "A picture of the VM's screen",
    ),
    Route {
        verb: Verb::Put,
        path: "/vms/{vm}/replication",
        action: "enable-replication",
        summary: "Enable replication of a VM; an empty disk list means all disks",
        query: &[],
        body: Body::Whole {
            field: "settings",
            schema: "ReplicationSettings",
        },
        reply: Reply::Carried,
    },
    Route {
        verb: Verb::Delete,
        ..post(
            "/vms/{vm}/replication",
            "remove-replication",
            "Remove replication from a VM, on this side only",
        )
    },
    post(
        "/vms/{vm}/replication/start",
        "start-replication",
        "Start the initial copy",
    ),
    post(
        "/vms/{vm}/replication/suspend",
        "suspend-replication",
        "Pause replication",
    ),
    post(
        "/vms/{vm}/replication/resume",
        "resume-replication",
        "Resume paused replication",
    ),
    post(
        "/vms/{vm}/replication/now",
        "replicate-now",
        "Replicate now, without waiting for the interval",
    ),
    get(
        "/vms/{vm}/points",
        "list-points",
        Reply::List("PointView"),
        "Recovery points of a replica, newest first",
    ),
    with_fields(
        post(
            "/vms/{vm}/failover/start",
            "initiate-failover",
            "Fail over to a recovery point",
        ),
        &[
            Field {
                name: "point",
                schema: r##"{"$ref":"#/components/schemas/PointSelector"}"##,
                default: Some(r#"{"by":"latest"}"#),
            },
            Field {
                name: "start",
                schema: r#"{"type":"boolean","description":"Start the VM as well"}"#,
                default: Some("true"),
            },
        ],
    ),
    with_fields(
        post(
            "/vms/{vm}/failover/revert",
            "revert-failover",
            "Throw the failover away; recovery points stay as they are",
        ),
        &[FORCE],
    ),
    post(
        "/vms/{vm}/failover/commit",
        "commit-failover",
        "Keep the failover for good",
    ),
    get("/jobs", "list-jobs", Reply::List("Job"), "Jobs, newest first"),
    get("/jobs/{job}", "show-job", Reply::One("Job"), "One job"),
    post("/jobs/{job}/cancel", "cancel-job", "Cancel a job"),
    Route {
        query: &[
            Query {
                name: "vm",
                kind: Kind::Text,
                default: "null",
                about: "Only events of this VM",
            },
            Query {
                name: "limit",
                kind: Kind::Number,
                default: "100",
                about: "At most this many, 1 to 1000",
            },
        ],
        ..get(
            "/events",
            "list-events",
            Reply::List("Event"),
            "What happened, newest events",
        )
    },
    get(
        "/authorization",
        "list-authorization",
        Reply::List("AuthorizationEntry"),
        "Who may replicate to this host",
    ),
    Route {
        body: Body::Whole {
            field: "entry",
            schema: "AuthorizationEntry",
        },
        ..post(
            "/authorization",
            "add-authorization",
            "Add an entry; one with the same primary is replaced",
        )
    },
    Route {
        verb: Verb::Delete,
        ..post(
            "/authorization/{primary}",
            "remove-authorization",
            "Remove an entry",
        )
    },
    get("/server", "show-server", Reply::One("ServerView"), "This host"),
    Route {
        verb: Verb::Put,
        body: Body::Whole {
            field: "settings",
            schema: "ServerSettings",
        },
        ..post(
            "/server",
            "set-server",
            "Change the settings of this host as a replica server",
        )
    },
    with_fields(
        post(
            "/server/test-connection",
            "test-connection",
            "Reach a peer, authenticate, and be authorized",
        ),
        &[Field {
            name: "peer",
            schema: r#"{"type":"string","description":"HOST:PORT"}"#,
            default: None,
        }],
    ),
];

/// The request an action is sent as.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Method.
    pub verb: Verb,
    /// Path and query, encoded.
    pub target: String,
    /// Body.
    pub body: Option<Value>,
}

fn wrong(message: impl Into<String>, hint: &str) -> Refusal {
    Refusal::new(ReturnCode::InvalidParameter, message, hint)
}

impl Route {
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
        let whole = self.take_body(body, &mut fields)?;
        fields.insert("action".into(), self.action.into());
        let action: Action = serde_json::from_value(Value::Object(fields)).map_err(|e| {
            wrong(
                format!("the request is not complete or not right: {e}"),
                "see /api/v1/openapi.json",
            )
        })?;
        if let (Some(given), Body::Whole { field, .. }) = (whole, self.body) {
            known_fields(&given, &action, field)?;
        }
        Ok(action)
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
            let known = self.query.iter().find(|q| q.name == name);
            let known = known.ok_or_else(|| wrong(format!("unknown query parameter \"{name}\""), ""))?;
            let value = match known.kind {
                Kind::Text => Value::String(text),
                Kind::Number => text
                    .parse::<u64>()
                    .map(Value::from)
                    .map_err(|_| wrong(format!("{name}={text} is not a number"), ""))?,
            };
            fields.insert(name, value);
        }
        Ok(())
    }

    /// Returns the body when it is one field as a whole.
    fn take_body(&self, body: &[u8], fields: &mut Map<String, Value>) -> Result<Option<Value>, Refusal> {
        let parse = || {
            serde_json::from_slice::<Value>(body)
                .map_err(|e| wrong(format!("the body is not JSON: {e}"), "send JSON"))
        };
        match self.body {
            Body::None if body.is_empty() => Ok(None),
            Body::None => Err(wrong("this request takes no body", "send it without one")),
            Body::Whole { field, .. } => {
                let value = parse()?;
                fields.insert(field.into(), value.clone());
                Ok(Some(value))
            }
            Body::Fields(known) => {
                let given = if body.is_empty() {
                    Value::Object(Map::new())
                } else {
                    parse()?
                };
                let Value::Object(given) = given else {
                    return Err(wrong("the body is not a JSON object", ""));
                };
                for f in known {
                    f.default.map(|d| fields.insert(f.name.into(), constant(d)));
                }
                for (name, value) in given {
                    if !known.iter().any(|f| f.name == name) {
                        return Err(wrong(format!("unknown field \"{name}\""), ""));
                    }
                    fields.insert(name, value);
                }
                Ok(None)
            }
        }
    }
}

/// Types of the engine may ignore what they do not know; a management surface may not: a misspelt wish is an error.
fn known_fields(given: &Value, action: &Action, field: &str) -> Result<(), Refusal> {
    let understood = serde_json::to_value(action).unwrap_or_default();
    let (Value::Object(given), Some(Value::Object(understood))) = (given, understood.get(field)) else {
        return Ok(());
    };
    match given.keys().find(|k| !understood.contains_key(*k)) {
        Some(k) => Err(wrong(format!("unknown field \"{k}\""), "")),
        None => Ok(()),
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
    let route = ROUTES.iter().find(|r| tag == r.action)?;
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
        let text = match fields.remove(q.name)? {
            Value::Null => continue,
            Value::String(s) => s,
            other => other.to_string(),
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
