//! Examples: what a client sends that knows the OpenAPI document and nothing else. So a new route needs no sample of its own.

use lifeboat_engine::action::Action;
use lifeboat_rest::openapi;
use lifeboat_rest::routes::{Body, PREFIX, ROUTES, Route};
use serde_json::{Value, json};

use super::job;

/// The action of each route.
pub(super) fn of_routes() -> Vec<Action> {
    let doc = openapi::document();
    ROUTES.iter().map(|route| action(route, &doc)).collect()
}

fn action(route: &Route, doc: &Value) -> Action {
    let path = format!("{PREFIX}{}", route.path);
    let operation = &doc["paths"][&path][route.verb.as_str().to_lowercase()];
    let (mut path, mut query) = (Vec::new(), Vec::new());
    for p in operation["parameters"].as_array().unwrap_or(&Vec::new()) {
        let value = example(&p["schema"], doc);
        let text = value.as_str().map_or(value.to_string(), str::to_owned);
        let to = if p["in"] == "path" { &mut path } else { &mut query };
        to.push((p["name"].as_str().unwrap().to_owned(), text));
    }
    let schema = operation.pointer("/requestBody/content/application~1json/schema");
    let body = match route.body {
        Body::None => String::new(),
        Body::Whole { .. } | Body::Fields(_) => example(schema.unwrap(), doc).to_string(),
    };
    let action = route.action(path, query, body.as_bytes());
    action.unwrap_or_else(|e| panic!("{}: the example {body} is refused: {e}", route.action))
}

/// A value that a schema allows, built from the schema alone.
pub(crate) fn example(schema: &Value, doc: &Value) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        return example(doc.pointer(name.trim_start_matches('#')).unwrap(), doc);
    }
    if let Some(one) = schema.get("oneOf").or(schema.get("anyOf")) {
        return example(&one[0], doc);
    }
    if let Some(value) = schema
        .get("const")
        .or(schema.pointer("/enum/0"))
        .or(schema.pointer("/examples/0"))
    {
        return value.clone();
    }
    match schema["type"].as_str().unwrap() {
        "object" => {
            let fields = schema["properties"].as_object().unwrap();
            Value::Object(fields.iter().map(|(k, v)| (k.clone(), example(v, doc))).collect())
        }
        "array" => json!([]),
        "string" if schema["format"] == "uuid" => json!(job().id),
        "string" => json!("b.example.org:8443"),
        "integer" => json!(7),
        "boolean" => json!(true),
        other => unreachable!("no example for {other}"),
    }
}
