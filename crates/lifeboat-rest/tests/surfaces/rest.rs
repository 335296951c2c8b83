//! The REST surface on a real Unix socket with a fake engine: every action has one route, every documented route
//! answers as documented, strangers and nonsense are refused. What the engine does is not tested here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::Utf8PathBuf;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use lifeboat_engine::action::{Action, Answer, Feed, JobView, Management, Refusal, VmRef, Watch, What};
use lifeboat_engine::by::By;
use lifeboat_engine::paging::Paging;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::{JobState, Timestamp};
use lifeboat_rest::routes::{ROUTES, Route, call};
use lifeboat_rest::{Admission, BindError, Client, ClientError, Server, openapi};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::samples::{self, actions, answers, example, job, route};

/// Remembers what it was asked and answers what its script says.
pub(crate) struct Fake {
    pub(crate) asked: Mutex<Vec<Action>>,
    by: Mutex<Option<By>>,
    pub(crate) feed: Feed,
    script: fn(&Action) -> Result<Answer, Refusal>,
}

#[async_trait::async_trait]
impl Management for Fake {
    async fn perform(&self, by: Option<By>, action: Action) -> Result<Answer, Refusal> {
        let answer = (self.script)(&action);
        *self.by.lock().unwrap() = by;
        self.asked.lock().unwrap().push(action);
        answer
    }
    fn watch(&self) -> Watch {
        self.feed.watch(uuid::Uuid::nil)
    }
}

pub(crate) struct Host {
    pub(crate) fake: Arc<Fake>,
    pub(crate) socket: Utf8PathBuf,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn host_for(admission: Admission, script: fn(&Action) -> Result<Answer, Refusal>) -> Host {
    let dir = tempfile::tempdir().unwrap();
    let socket = Utf8PathBuf::from_path_buf(dir.path().join("lifeboat.sock")).unwrap();
    let fake = Arc::new(Fake {
        asked: Mutex::default(),
        by: Mutex::default(),
        feed: Feed::default(),
        script,
    });
    let server = Server::bind(&socket, admission).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(server.serve(fake.clone(), stop.clone()));
    Host {
        fake,
        socket,
        stop,
        task,
        _dir: dir,
    }
}

pub(crate) fn host(script: fn(&Action) -> Result<Answer, Refusal>) -> Host {
    host_for(Admission::local(None), script)
}

pub(crate) fn fitting(action: &Action) -> Result<Answer, Refusal> {
    Ok(answers(action).remove(0))
}

async fn ask(host: &Host, method: &str, target: &str, body: &[u8]) -> (StatusCode, Option<String>, Bytes) {
    let stream = UnixStream::connect(&host.socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(target).header("host", "x");
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (status, kind) = (response.status(), response.headers().get("content-type").cloned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, kind.map(|k| k.to_str().unwrap().to_owned()), body)
}

/// Tags of all actions, as their reader names them when it is given another one.
fn tags() -> BTreeSet<String> {
    let other = serde_json::from_value::<Action>(json!({ "action": "?" })).unwrap_err();
    let other = other.to_string();
    let (found, expected) = other.split_once(", expected one of ").unwrap();
    assert_eq!(found, "unknown variant `?`");
    expected
        .split(", ")
        .map(|tag| tag.trim_matches('`').to_owned())
        .collect()
}

#[test]
fn every_action_has_exactly_one_route() {
    for tag in tags() {
        let own = ROUTES.iter().filter(|r| tag == r.action && !r.is_old());
        assert_eq!(own.count(), 1, "{tag}");
    }
    for route in ROUTES {
        assert!(tags().contains(route.action), "{} is no action", route.action);
    }
    let sampled = actions().iter().map(|a| route(a).action.to_owned()).collect();
    assert_eq!(tags(), sampled, "samples");
    let paths: BTreeSet<_> = ROUTES.iter().map(|r| (r.verb.as_str(), r.path)).collect();
    assert_eq!(paths.len(), ROUTES.len(), "no path and method twice");
    let ids: BTreeSet<_> = ROUTES.iter().map(Route::id).collect();
    assert_eq!(ids.len(), ROUTES.len(), "no operation twice");
}

#[tokio::test]
async fn the_kernel_says_who_asks() {
    let host = host(fitting);
    Client::new(&host.socket)
        .perform(&Action::ListVms(Paging::FIRST))
        .await
        .unwrap();
    let own = rustix::process::geteuid().as_raw();
    let pid = i32::try_from(std::process::id()).unwrap();
    let by = host.fake.by.lock().unwrap().clone().unwrap();
    let plain = By::process(own, Some(pid));
    assert_eq!(
        (by.surface, &by.name, &by.from),
        (plain.surface, &plain.name, &plain.from)
    );
    assert_eq!(by.account.map(|a| a.uid), Some(own));
}

#[tokio::test]
async fn an_action_arrives_as_it_was_sent_and_so_does_its_answer() {
    let host = host(fitting);
    let client = Client::new(&host.socket);
    for action in actions() {
        let answer = client.perform(&action).await.unwrap();
        assert_eq!(answer, answers(&action)[0], "{action:?}");
        assert_eq!(
            host.fake.asked.lock().unwrap().pop().unwrap(),
            action,
            "{:?}",
            call(&action)
        );
    }
    let action = Action::ShowVm {
        vm: VmRef::Text("a b/c%2F?d#ü".into()),
    };
    client.perform(&action).await.unwrap();
    assert_eq!(host.fake.asked.lock().unwrap().pop().unwrap(), action);
}

#[test]
fn the_committed_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let now = serde_json::to_string_pretty(&openapi::document()).unwrap() + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == now,
        "docs/openapi.json is not current: run this test with UPDATE_DOCS=1 and look at the diff"
    );
}

#[test]
fn the_table_holds_json_where_it_says_so() {
    for r in ROUTES {
        for q in r.query {
            serde_json::from_str::<Value>(q.default).unwrap();
        }
        if let lifeboat_rest::routes::Body::Fields(fields) = r.body {
            for f in fields {
                serde_json::from_str::<Value>(f.schema).unwrap();
                f.default.map(|d| serde_json::from_str::<Value>(d).unwrap());
            }
        }
    }
}

#[tokio::test]
async fn every_route_of_the_document_answers_as_documented() {
    let host = host(fitting);
    let doc: Value = serde_json::from_str(
        &std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json")).unwrap(),
    )
    .unwrap();
    let mut seen = 0;
    for (path, methods) in doc["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            if id == "watch-jobs" {
                continue; // Never ends: a_followed_job_is_seen_to_its_end reads it.
            }
            let mut target = path.clone();
            for p in operation["parameters"].as_array().unwrap_or(&Vec::new()) {
                let value = example(&p["schema"], &doc);
                let value = value.as_str().map_or(value.to_string(), str::to_owned);
                if p["in"] == "path" {
                    target = target.replace(&format!("{{{}}}", p["name"].as_str().unwrap()), &value);
                } else {
                    let mark = if target.contains('?') { '&' } else { '?' };
                    target.push_str(&format!("{mark}{}={value}", p["name"].as_str().unwrap()));
                }
            }
            let body = operation.pointer("/requestBody/content/application~1json/schema");
            let body = body.map(|s| example(s, &doc).to_string()).unwrap_or_default();
            let (status, kind, answer) = ask(&host, &method.to_uppercase(), &target, body.as_bytes()).await;
            let documented = &operation["responses"][status.as_str()];
            assert!(
                status.is_success() && !documented.is_null(),
                "{id}: {status} {answer:?}"
            );
            match (&documented["content"], kind) {
                (Value::Null, None) => assert!(answer.is_empty(), "{id}"),
                (Value::Object(types), Some(kind)) => {
                    let schema = &types.get(&kind).unwrap_or_else(|| panic!("{id}: {kind}"))["schema"];
                    if !schema.is_null() && id != "openapi" {
                        fits(&serde_json::from_slice(&answer).unwrap(), schema, &doc)
                            .unwrap_or_else(|e| panic!("{id}: {e}"));
                    }
                }
                other => panic!("{id}: {other:?}"),
            }
            if id != "openapi" {
                let asked = host.fake.asked.lock().unwrap().pop().unwrap();
                let route = ROUTES.iter().find(|r| r.id() == id).unwrap();
                assert_eq!(serde_json::to_value(asked).unwrap()["action"], route.action);
            }
            seen += 1;
        }
    }
    assert_eq!(seen, ROUTES.len() + 1);
}

/// Holds a value against the part of JSON Schema that the document uses.
fn fits(value: &Value, schema: &Value, doc: &Value) -> Result<(), String> {
    let no = |what: &str| Err(format!("{value} {what} of {schema}"));
    if let Some(name) = schema["$ref"].as_str() {
        return fits(value, doc.pointer(name.trim_start_matches('#')).unwrap(), doc);
    }
    if let Some(Value::Array(any)) = schema.get("oneOf").or(schema.get("anyOf")) {
        let found: Vec<_> = any.iter().map(|s| fits(value, s, doc)).collect();
        return if found.iter().any(Result::is_ok) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        };
    }
    if let Some(only) = schema.get("const") {
        return if only == value {
            Ok(())
        } else {
            no("is not the constant")
        };
    }
    if let Some(Value::Array(all)) = schema.get("enum") {
        return if all.contains(value) {
            Ok(())
        } else {
            no("is not in the list")
        };
    }
    match (schema["type"].as_str().unwrap(), value) {
        ("object", Value::Object(fields))
            if schema.get("additionalProperties").is_some_and(Value::is_object) =>
        {
            let each = &schema["additionalProperties"];
            fields.values().try_for_each(|v| fits(v, each, doc))
        }
        // Whatever it is made of.
        ("object", Value::Object(_)) if schema.get("properties").is_none() => Ok(()),
        ("object", Value::Object(fields)) => {
            let known = schema["properties"].as_object().unwrap();
            let required = schema["required"].as_array().unwrap();
            let lacks = required
                .iter()
                .any(|name| !fields.contains_key(name.as_str().unwrap()));
            if lacks || fields.keys().any(|name| !known.contains_key(name)) {
                return no("has not the fields");
            }
            fields.iter().try_for_each(|(k, v)| fits(v, &known[k], doc))
        }
        ("array", Value::Array(items)) => items.iter().try_for_each(|v| fits(v, &schema["items"], doc)),
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) | ("null", Value::Null) => Ok(()),
        ("integer", Value::Number(n)) if n.is_u64() => Ok(()),
        _ => no("has not the type"),
    }
}

#[test]
fn answers_of_the_engine_fit_the_schemas() {
    let doc = openapi::document();
    for action in actions() {
        let route = route(&action);
        let one = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
        for answer in answers(&action) {
            let value = serde_json::to_value(&answer).unwrap()["value"].take();
            let fit = match (route.reply, &answer) {
                (lifeboat_rest::routes::Reply::One(name), _) => fits(&value, &one(name), &doc),
                (lifeboat_rest::routes::Reply::List(name) | lifeboat_rest::routes::Reply::Pages(name), _) => {
                    fits(&value, &json!({ "type": "array", "items": one(name) }), &doc)
                }
                (lifeboat_rest::routes::Reply::Carried, Answer::Job(_)) => fits(&value, &one("Job"), &doc),
                (lifeboat_rest::routes::Reply::Carried, Answer::Done) => Ok(()),
                (lifeboat_rest::routes::Reply::Carried, _) => Err("neither done nor a job".to_owned()),
                (lifeboat_rest::routes::Reply::Picture, _) => Ok(()),
            };
            fit.unwrap_or_else(|e| panic!("{}: {e}", route.action));
        }
    }
    let taken = |name: &str, value: Value| {
        let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
        fits(&value, &schema, &doc).unwrap();
    };
    for point in samples::selectors() {
        taken("PointSelector", serde_json::to_value(point).unwrap());
    }
    for how in samples::initial_copies() {
        taken("InitialCopy", serde_json::to_value(how).unwrap());
    }
    for card in samples::cards() {
        taken("NicFailover", serde_json::to_value(card).unwrap());
    }
}

#[tokio::test]
async fn refusals_carry_code_name_and_way_out() {
    let host = host(|_| {
        Err(Refusal::new(
            ReturnCode::InvalidState,
            "web is Suspended",
            hint::Replicate::Resume,
        ))
    });
    let (status, _, body) = ask(&host, "POST", "/api/v1/vms/web/replication/now", b"").await;
    assert_eq!(status, StatusCode::CONFLICT);
    let body: Value = serde_json::from_slice(&body).unwrap();
    let want = json!({
        "code": 32775, "name": "InvalidState", "message": "web is Suspended",
        "hint": { "code": "resume-replication" }
    });
    assert_eq!(body, want);
    fits(
        &body,
        &json!({ "$ref": "#/components/schemas/Error" }),
        &openapi::document(),
    )
    .unwrap();
    let client = Client::new(&host.socket);
    match client.perform(&Action::ListVms(Paging::FIRST)).await {
        Err(ClientError::Refused(r)) => assert_eq!(
            (r.code, r.hint),
            (ReturnCode::InvalidState, Some(hint::Replicate::Resume.into()))
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_invalid_request_is_refused_before_it_reaches_the_engine() {
    let host = host(fitting);
    let long = vec![b' '; (1 << 20) + 1];
    let table: &[(&str, &str, &[u8], u16, &str)] = &[
        ("GET", "/api/v1/vmss", b"", 404, "nothing at this path"),
        ("GET", "/", b"", 404, "nothing at this path"),
        ("DELETE", "/api/v1/vms", b"", 405, "method"),
        ("GET", "/api/v1/jobs/7", b"", 400, "UUID"),
        ("GET", "/api/v1/events?limit=x", b"", 400, "not a number"),
        (
            "GET",
            "/api/v1/events?limits=1",
            b"",
            400,
            "unknown query parameter",
        ),
        ("GET", "/api/v1/vms?vm=a", b"", 400, "unknown query parameter"),
        ("POST", "/api/v1/vms/web/pause", b"{}", 400, "no body"),
        ("POST", "/api/v1/vms/web/stop", b"{\"froce\":true}", 400, "froce"),
        ("POST", "/api/v1/vms/web/stop", b"{\"force\":1}", 400, "boolean"),
        ("POST", "/api/v1/vms/web/stop", b"[]", 400, "not a JSON object"),
        ("POST", "/api/v1/vms/web/stop", b"{", 400, "not JSON"),
        (
            "POST",
            "/api/v1/vms/web/stop",
            b"{\"vm\":\"other\"}",
            400,
            "unknown field",
        ),
        (
            "PUT",
            "/api/v1/server",
            b"{\"enabled\":true,\"x\":1}",
            400,
            "unknown field `x`",
        ),
        ("PUT", "/api/v1/server", b"", 400, "not JSON"),
        ("PUT", "/api/v1/server", &long, 413, "longer than"),
        ("POST", "/api/v1/server/test-connection", b"{}", 400, "peer"),
        ("POST", "/api/v1/vms/web/replication/import", b"{}", 400, "dir"),
        (
            "PUT",
            "/api/v1/vms/web/failover/network",
            b"{\"cards\":[{\"mac\":\"52:54:00:00:00:01\",\"adresses\":[]}]}",
            400,
            "adresses",
        ),
        (
            "PUT",
            "/api/v1/vms/web/failover/network",
            b"{\"cards\":[{\"mac\":\"52:54:00:00:00:01\",\"dns\":[\"ns1\"]}]}",
            400,
            "invalid IP address",
        ),
    ];
    for (method, target, body, status, word) in table {
        let (got, _, answer) = ask(&host, method, target, body).await;
        let answer = String::from_utf8(answer.to_vec()).unwrap();
        assert!(
            got.as_u16() == *status && answer.contains(word),
            "{method} {target}: {got} {answer}"
        );
        serde_json::from_str::<Value>(&answer).unwrap()["code"]
            .as_u64()
            .unwrap();
    }
    assert!(host.fake.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_missing_body_means_the_defaults() {
    let host = host(fitting);
    ask(&host, "POST", "/api/v1/vms/web/failover/start", b"").await;
    ask(
        &host,
        "POST",
        "/api/v1/vms/web/failover/start",
        b"{\"start\":false}",
    )
    .await;
    ask(&host, "GET", "/api/v1/events", b"").await;
    ask(&host, "POST", "/api/v1/vms/web/replication/start", b"").await;
    ask(&host, "POST", "/api/v1/vms/web/failover/test", b"").await;
    let vm = VmRef::Text("web".into());
    let point = lifeboat_engine::action::PointSelector::Latest;
    let want = vec![
        Action::InitiateFailover {
            vm: vm.clone(),
            point: point.clone(),
            start: true,
            force: false,
        },
        Action::InitiateFailover {
            vm,
            point,
            start: false,
            force: false,
        },
        Action::ListEvents {
            vm: None,
            limit: 100,
            after: None,
        },
        Action::StartReplication {
            vm: VmRef::Text("web".into()),
            how: lifeboat_engine::action::InitialCopy::Network,
            at: None,
            relationship: Default::default(),
        },
        Action::StartTest {
            vm: VmRef::Text("web".into()),
            point: lifeboat_engine::action::PointSelector::Latest,
            start: false,
        },
    ];
    assert_eq!(*host.fake.asked.lock().unwrap(), want);
}

#[tokio::test]
async fn a_stranger_gets_403_whatever_is_sent() {
    let host = host_for(
        Admission {
            uids: Vec::new(),
            gid: None,
        },
        fitting,
    );
    let client = Client::new(&host.socket);
    match client.perform(&Action::ListVms(Paging::FIRST)).await {
        Err(ClientError::Refused(r)) => assert_eq!(r.code, ReturnCode::AccessDenied),
        other => panic!("{other:?}"),
    }
    let mut stream = UnixStream::connect(&host.socket).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 403 "),
        "not a byte had to be sent: {answer}"
    );
    assert!(host.fake.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_socket_has_one_owner_and_is_replaced_when_stale() {
    use std::os::unix::fs::PermissionsExt;
    let host = host(fitting);
    assert_eq!(
        std::fs::metadata(&host.socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    let second = Server::bind(&host.socket, Admission::local(None));
    assert!(matches!(second, Err(BindError::InUse(_))), "{second:?}");
    host.stop.cancel();
    host.task.await.unwrap();
    assert!(!host.socket.exists());

    drop(std::os::unix::net::UnixListener::bind(&host.socket).unwrap());
    assert!(host.socket.exists(), "what a killed daemon leaves");
    drop(Server::bind(&host.socket, Admission::local(None)).unwrap());

    let foreign = std::os::unix::net::UnixListener::bind(host.socket.with_extension("other")).unwrap();
    let refused = Server::bind(&host.socket.with_extension("other"), Admission::local(None));
    assert!(matches!(refused, Err(BindError::InUse(_))), "{refused:?}");
    drop(foreign);

    // What a daemon that was killed has left to a program it was starting is free again soon.
    let socket = host.socket.with_extension("left");
    let lock = std::fs::File::create(format!("{socket}.lock")).unwrap();
    lock.lock().unwrap();
    let (told, tell) = std::sync::mpsc::channel();
    let left = std::thread::spawn(move || {
        tell.recv().unwrap();
        std::thread::park_timeout(Duration::from_millis(100));
        drop(lock);
    });
    told.send(()).unwrap();
    Server::bind(&socket, Admission::local(None)).unwrap();
    left.join().unwrap();

    let file = host.socket.with_extension("txt");
    std::fs::write(&file, "precious").unwrap();
    let refused = Server::bind(&file, Admission::local(None));
    assert!(matches!(refused, Err(BindError::NotASocket(_))), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn a_followed_job_is_seen_to_its_end() {
    let host = host(|_| Ok(Answer::Job(job())));
    let client = Client::new(&host.socket);
    let mut follower = client.follow(job().id).await.unwrap();
    assert_eq!(follower.next().await.unwrap(), Some(job()), "the state it is in");
    let other = JobView {
        id: lifeboat_model::JobId(uuid::Uuid::from_u128(99)),
        ..job()
    };
    let half = JobView { percent: 50, ..job() };
    let done = JobView {
        percent: 100,
        state: JobState::Completed,
        ..job()
    };
    for j in [other, job(), half.clone(), done.clone()] {
        assert!(host.fake.feed.tell(Timestamp(0), || What::Job(Box::new(j))));
    }
    assert_eq!(follower.next().await.unwrap(), Some(half));
    assert_eq!(follower.next().await.unwrap(), Some(done));
    assert_eq!(follower.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_follower_learns_that_the_daemon_stops() {
    let host = host(|_| Ok(Answer::Job(job())));
    let mut follower = Client::new(&host.socket).follow(job().id).await.unwrap();
    follower.next().await.unwrap();
    host.stop.cancel();
    assert!(matches!(follower.next().await, Err(ClientError::Lost { .. })));
    host.task.await.unwrap();
    let gone = Client::new(&host.socket)
        .perform(&Action::ListVms(Paging::FIRST))
        .await;
    assert!(matches!(gone, Err(ClientError::Unreachable { .. })), "{gone:?}");
}
