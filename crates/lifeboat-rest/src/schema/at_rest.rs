//! Schemas of what directories hold and whether they are encrypted.

use serde_json::{Value, json};

use super::{Named, object, or_null, reference, tagged, text};

fn at_rest() -> Value {
    let key = "The kernel's name for the key: 32 hexadecimal digits that open nothing";
    json!({ "oneOf": [
        tagged("state", "not_encrypted", &[]),
        tagged("state", "encrypted", &[
            ("key", or_null(&text(&format!("{key}; null: a policy of an old version")))),
        ]),
        tagged("state", "locked", &[("key", text(&format!("{key}. The file system does not have it")))]),
        tagged("state", "not_known", &[("why", text("Why it is not known"))]),
    ] })
}

pub(super) fn schemas() -> Vec<Named> {
    vec![
        ("AtRest", at_rest()),
        (
            "DirectoryView",
            object(
                "A directory that holds guests' data",
                &[
                    (
                        "content",
                        json!({
                            "type": "string", "description": "What is in it", "enum": ["spool", "location", "replica"]
                        }),
                    ),
                    ("path", text("Its path")),
                    ("at_rest", reference("AtRest")),
                ],
            ),
        ),
    ]
}
