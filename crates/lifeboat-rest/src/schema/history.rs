//! Schemas of a replica's history: what changed, and why nothing of it expires.

use serde_json::{Value, json};

use super::{Named, instant, list, number, object, reference, tagged};

/// All of them by name.
pub(super) fn schemas() -> Vec<Named> {
    vec![
        ("Changed", changed()),
        (
            "ChangesView",
            object(
                "How much changes, as the replica counts it",
                &[
                    ("hour", reference("Changed")),
                    (
                        "usual",
                        number(
                            "Bytes that could not be compressed in the worst hour before, which is forgotten within days",
                        ),
                    ),
                ],
            ),
        ),
        (
            "HoldView",
            object(
                "Why no recovery point expires until an administrator releases them",
                &[("since", instant("Since when")), ("reasons", list("HoldReason"))],
            ),
        ),
        ("HoldReason", reason()),
        (
            "History",
            object(
                "How much history is kept",
                &[
                    ("points", number("Points beside the newest")),
                    ("spacing_s", number("Seconds between two points")),
                    ("window_s", number("Seconds for which every instant is kept")),
                ],
            ),
        ),
    ]
}

fn changed() -> Value {
    object(
        "Bytes that changed",
        &[
            ("data", number("Written with other content than zeros")),
            (
                "random",
                number(
                    "Of data, what no compression makes smaller: encrypted or compressed already, by samples",
                ),
            ),
            ("zeroed", number("Zeroed or discarded")),
        ],
    )
}

fn reason() -> Value {
    json!({ "oneOf": [
        tagged("reason", "asked", &[]),
        tagged("reason", "less-history", &[
            ("before", reference("History")),
            ("now", reference("History")),
        ]),
        tagged("reason", "burst", &[
            ("random", number("Bytes that cannot be compressed within an hour")),
            ("usual", number("Such bytes in the worst hour before")),
        ]),
    ]})
}
