//! The OpenAPI document, made from the table of routes. The committed copy is `docs/openapi.json`.

use serde_json::{Map, Value, json};

use crate::routes::{Body, Kind, PREFIX, ROUTES, Reply, Route, Verb};
use crate::schema;

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn json_body(schema: &Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

fn constant(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = paths
            .entry(format!("{PREFIX}{}", route.path))
            .or_insert_with(|| json!({}));
        path[route.verb.as_str().to_lowercase()] = operation(route);
    }
    paths.insert(
        format!("{PREFIX}/jobs/events"),
        json!({ "get": {
            "operationId": "watch-jobs",
            "summary": "Jobs as they change, as server-sent events named \"job\"",
            "responses": {
                "200": {
                    "description": "The stream; the data of each event \"job\" is a job. An event \"missed\", without data, says \
                         that the reader was too slow and has to ask for its jobs again",
                    "content": { "text/event-stream": { "schema": reference("Job") } }
                }
            }
        }}),
    );
    paths.insert(format!("{PREFIX}/openapi.json"), json!({ "get": {
        "operationId": "openapi",
        "summary": "This document",
        "responses": { "200": { "description": "The document", "content": json_body(&json!({ "type": "object" })) } }
    }}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Lifeboat",
            "version": "1",
            "description": "Management of one host, over its Unix socket. Who may connect is decided by the peer's \
                            user and groups; others get status 403.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" }
        },
        "servers": [{ "url": "/", "description": "the Unix socket of the daemon" }],
        "paths": paths,
        "components": { "schemas": schema::all() }
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": route.id(),
        "summary": route.summary,
        "responses": responses(route),
    });
    if route.is_old() {
        operation["deprecated"] = true.into();
    }
    let parameters: Vec<Value> = path_parameters(route).chain(query_parameters(route)).collect();
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    match route.body {
        Body::None => {}
        Body::Whole { schema, .. } => {
            operation["requestBody"] = json!({ "required": true, "content": json_body(&reference(schema)) });
        }
        Body::Fields(fields) => {
            let mut properties = Map::new();
            for f in fields {
                let mut schema = constant(f.schema);
                if let Some(default) = f.default {
                    schema["default"] = constant(default);
                }
                properties.insert(f.name.into(), schema);
            }
            let required: Vec<&str> = fields
                .iter()
                .filter(|f| f.default.is_none())
                .map(|f| f.name)
                .collect();
            let schema = json!({
                "type": "object", "properties": properties, "required": required, "additionalProperties": false
            });
            operation["requestBody"] =
                json!({ "required": !required.is_empty(), "content": json_body(&schema) });
        }
    }
    operation
}

fn path_parameters(route: &Route) -> impl Iterator<Item = Value> {
    route.path_names().map(|name| {
        let (about, schema) = match name {
            "vm" => ("The VM, by name or UUID", json!({ "type": "string" })),
            "job" => ("The job", json!({ "type": "string", "format": "uuid" })),
            "request" => ("The request", json!({ "type": "string", "format": "uuid" })),
            _ => ("Key of the entry", json!({ "type": "string" })),
        };
        json!({ "name": name, "in": "path", "required": true, "description": about, "schema": schema })
    })
}

fn query_parameters(route: &Route) -> impl Iterator<Item = Value> {
    route.query.iter().map(|q| {
        let mut schema = match q.kind {
            Kind::Text => json!({ "type": "string" }),
            Kind::Number => json!({ "type": "integer", "minimum": 0 }),
            Kind::Flag => json!({ "type": "boolean" }),
        };
        if q.default != "null" {
            schema["default"] = constant(q.default);
        }
        json!({ "name": q.name, "in": "query", "required": false, "description": q.about, "schema": schema })
    })
}

fn responses(route: &Route) -> Value {
    let error = |about: &str| json!({ "description": about, "content": json_body(&reference("Error")) });
    let mut responses = json!({
        "403": error("Not allowed"),
        "default": error("Refused; the code says why and the hint says what to do instead"),
    });
    let good = |about: &str, schema: &Value| json!({ "description": about, "content": json_body(schema) });
    match route.reply {
        Reply::One(name) => responses["200"] = good("The answer", &reference(name)),
        Reply::List(name) => {
            responses["200"] = good(
                "The answer",
                &json!({ "type": "array", "items": reference(name) }),
            );
        }
        Reply::Pages(name) => {
            let list = json!({ "type": "array", "items": reference(name) });
            let mut page = good("A page of the list", &list);
            page["headers"] = json!({ "Link": {
                "description": "With rel=\"next\", the address of the next page (RFC 8288); absent on the last one. A page has \
                                at most 4 MiB and may have fewer items than were asked for",
                "schema": { "type": "string" }
            }});
            responses["200"] = page;
        }
        Reply::Picture => {
            responses["200"] = json!({ "description": "The picture", "content": { "image/png": {} } });
        }
        Reply::Carried => {
            responses["204"] = json!({ "description": "Done" });
            responses["202"] = good("A job carries on", &reference("Job"));
            responses["200"] = good("The job has ended already", &reference("Job"));
        }
    }
    if route.verb == Verb::Get {
        responses["404"] = error("There is no such thing");
    }
    responses
}
