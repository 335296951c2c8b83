//! Schemas of the keys by which hosts know each other.

use serde_json::{Value, json};

use super::{Named, instant, object, or_null, text};

fn texts(about: &str) -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": about })
}

pub(super) fn schemas() -> Vec<Named> {
    vec![
        (
            "KnownKey",
            object(
                "A host of a relationship, by the key that it has shown",
                &[
                    ("names", texts("Names of its certificates")),
                    ("addresses", texts("How it was called, HOST:PORT")),
                    ("key", text("SHA-256 of its public key, hexadecimal with colons")),
                    ("since", instant("When it was first seen")),
                    (
                        "next",
                        or_null(&text("The key that follows; null: none was announced")),
                    ),
                ],
            ),
        ),
        (
            "ServerKeys",
            object(
                "Keys of this host: SHA-256, hexadecimal with colons",
                &[
                    ("own", or_null(&text("The one in use; null: not looked at yet"))),
                    (
                        "next",
                        or_null(&text("The one that is to follow; null: none is to")),
                    ),
                ],
            ),
        ),
    ]
}
