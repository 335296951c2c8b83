//! What waits for a second person, for the OpenAPI document.

use serde_json::{Value, json};

use super::{instant, object, or_null, reference, tagged, text, uuid};

/// A request.
pub(super) fn request() -> Value {
    let second = [("second", reference("By"))];
    object(
        "An action that a caller has asked for and a second person has to confirm",
        &[
            ("id", uuid("Its name")),
            ("by", reference("By")),
            (
                "action",
                json!({
                    "type": "object",
                    "description": "What is carried out when it is confirmed: `action` is the id of an operation of this \
                                    document, the others are its parameters",
                }),
            ),
            ("vm", or_null(&uuid("The VM it is about; null: this host"))),
            ("what", text("What it would do")),
            ("asked", instant("When it was asked for")),
            ("until", instant("When it ends if it is not confirmed")),
            (
                "state",
                json!({ "oneOf": [
                    tagged("state", "waits", &[]),
                    tagged("state", "confirmed", &second),
                    tagged("state", "not-known", &second),
                ]}),
            ),
        ],
    )
}
