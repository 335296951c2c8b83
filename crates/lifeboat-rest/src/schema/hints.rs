//! What is wrong, and what can be done, as JSON: kinds and hints by their codes, with what a program needs besides. The words of
//! other surfaces are not here.

use lifeboat_model::{Hint, ProblemKind};
use serde_json::{Value, json};

use super::{Named, names, object, optional, reference, text, uuid};

pub(super) fn schemas() -> Vec<Named> {
    vec![
        ("Hint", hint()),
        ("Finding", finding()),
        (
            "ProblemKind",
            names("What kind of thing is wrong", ProblemKind::ALL),
        ),
    ]
}

/// One object for all of them: what a code does not need is absent.
fn hint() -> Value {
    let codes: Vec<&str> = Hint::codes().collect();
    let fields = [
        ("request", uuid("The request that is to be confirmed")),
        ("point", text("The recovery point to use")),
        ("replica", text("The replica whose test is to be ended")),
        (
            "disks",
            json!({ "type": "array", "items": { "type": "string" }, "description": "Disks that are left" }),
        ),
        ("file", text("A file that would describe the VM")),
        (
            "dir",
            text("The directory of a replica that no relationship uses"),
        ),
        ("primary", text("The primary of an authorization entry")),
        ("place", text("A file with certificates")),
        ("name", text("The host whose key it is")),
        ("key", text("SHA-256 of a public key")),
        ("on", text("The host on which it is to be done")),
        ("third", text("The third host")),
    ];
    let mut all = vec![("code", names("What can be done", &codes))];
    all.extend(fields.iter().cloned());
    let whole = object("What can be done about a refusal or a problem", &all);
    fields
        .iter()
        .fold(whole, |hint, (field, _)| optional(field, hint))
}

fn finding() -> Value {
    let whole = object(
        "Something that needs attention",
        &[
            ("health", reference("ReplicationHealth")),
            ("kind", reference("ProblemKind")),
            ("subject", text("Which of several of the kind")),
            ("text", text("What was seen")),
            ("hint", reference("Hint")),
        ],
    );
    optional("subject", optional("hint", whole))
}
