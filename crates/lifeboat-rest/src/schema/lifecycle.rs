//! Schemas of what a relationship goes through beyond the flow of data: settings by the time of day, synchronizations,
//! planned and test failovers, splits, addresses after a failover.

use serde_json::{Value, json};

use super::{Named, flag, instant, list, names, number, object, or_null, reference, tagged, text, uuid};

/// All of them by name.
pub(super) fn schemas() -> Vec<Named> {
    settings().into_iter().chain(operations()).collect()
}

fn settings() -> Vec<Named> {
    vec![
        (
            "DayWindow",
            object(
                "A part of each day in local time; it may go over midnight",
                &[
                    ("from_min", number("First minute of the day, 0 to 1439")),
                    (
                        "to_min",
                        number("First minute that is no longer in it; equal to from_min: the whole day"),
                    ),
                ],
            ),
        ),
        ("Bandwidth", bandwidth()),
        (
            "BandwidthWindow",
            object(
                "A limit for a part of the day",
                &[
                    ("window", reference("DayWindow")),
                    (
                        "bytes_per_s",
                        number("Bytes per second, at least 65536; 0 is unlimited"),
                    ),
                ],
            ),
        ),
        ("NicFailover", card()),
    ]
}

fn operations() -> Vec<Named> {
    vec![
        ("InitialCopy", initial_copy()),
        ("ExtendedView", extended()),
        ("Synchronization", synchronization()),
        (
            "SyncKind",
            names("Why two copies are made equal", &["resync", "seed", "reverse"]),
        ),
        ("Planned", planned()),
        (
            "PlannedPhase",
            names(
                "Steps of a planned failover",
                &["stopping", "closing", "prepared", "handingover"],
            ),
        ),
        (
            "Split",
            object(
                "Two copies that both may have gone on",
                &[
                    ("since", instant("Since when this side knows")),
                    ("theirs", text("What the other side said of itself")),
                    (
                        "committed",
                        flag("The other side has committed: this copy is the past"),
                    ),
                ],
            ),
        ),
        ("Test", test()),
        (
            "TestPhase",
            json!({ "oneOf": [
                tagged("phase", "making", &[("start", flag("Start the VM when it is there"))]),
                tagged("phase", "ready", &[]),
                tagged("phase", "ending", &[]),
            ]}),
        ),
        (
            "Abandoned",
            object(
                "What a copy held beyond the point that the other side went on from",
                &[
                    ("since", reference("Position")),
                    ("at", instant("When it was set aside")),
                ],
            ),
        ),
        (
            "Reverse",
            object(
                "A reversal that was asked for",
                &[
                    ("settings", reference("ReplicationSettings")),
                    (
                        "start",
                        flag("Start the VM when the old primary has become the replica"),
                    ),
                    (
                        "patient",
                        flag("Go on trying while the old primary cannot be reached"),
                    ),
                    ("job", uuid("Its job")),
                ],
            ),
        ),
    ]
}

fn initial_copy() -> Value {
    json!({ "oneOf": [
        tagged("how", "network", &[]),
        tagged("how", "export", &[("dir", text("Absolute path of an empty or missing directory"))]),
        tagged("how", "seed", &[]),
    ]})
}

fn bandwidth() -> Value {
    object(
        "A limit for sending, with exceptions by the time of day",
        &[
            (
                "bytes_per_s",
                number("Bytes per second, at least 65536; 0 is unlimited"),
            ),
            ("windows", list("BandwidthWindow")),
        ],
    )
}

fn card() -> Value {
    let texts = |about: &str| json!({ "type": "array", "items": { "type": "string" }, "description": about });
    object(
        "One network card after a failover",
        &[
            ("mac", text("Which card")),
            ("dhcp", flag("Take the addresses from DHCP")),
            (
                "addresses",
                texts("Static addresses with their prefix lengths, for example 10.1.2.3/24"),
            ),
            ("gateways", texts("At most one of each family")),
            ("dns", texts("Name servers, the preferred first")),
            ("backend", or_null(&reference("NicBackend"))),
            ("test_backend", or_null(&reference("NicBackend"))),
        ],
    )
}

fn synchronization() -> Value {
    object(
        "Making a replica equal by sending what differs",
        &[
            ("start", reference("Position")),
            ("kind", reference("SyncKind")),
            (
                "cursor",
                json!({
                    "type": "array", "items": number("Disk number, then offset"),
                    "description": "What lies before it is on the replica: disk number and offset"
                }),
            ),
            (
                "tracking",
                flag("Changes since the start are recorded on all disks"),
            ),
            ("sent", number("Bytes that were sent")),
            ("job", or_null(&uuid("Its job"))),
        ],
    )
}

fn extended() -> Value {
    object(
        "The relationship of a replica to a third host",
        &[
            ("state", reference("ReplicationState")),
            ("health", reference("ReplicationHealth")),
            ("health_notes", list("Finding")),
            ("peer", text("The third host")),
            ("settings", reference("ReplicationSettings")),
            ("position", or_null(&reference("Position"))),
            (
                "newest_instant",
                or_null(&instant("Instant of the newest data there")),
            ),
            ("last_replication", or_null(&instant("Last log sent"))),
            (
                "lag_ms",
                or_null(&number(
                    "Milliseconds of data that would be lost if this host and the primary were lost now",
                )),
            ),
            (
                "pending_bytes",
                or_null(&number(
                    "Bytes of logs here that the third host does not have yet; null when not known",
                )),
            ),
            ("problem", or_null(&reference("Problem"))),
            ("counters", reference("Counters")),
        ],
    )
}

fn planned() -> Value {
    object(
        "A planned failover, on the primary",
        &[
            ("phase", reference("PlannedPhase")),
            ("force", flag("Turn the VM off when it does not shut down")),
            ("hand_over", flag("Hand over to the replica when prepared")),
            ("start", flag("Start the VM on the replica")),
            ("job", uuid("Its job")),
        ],
    )
}

fn test() -> Value {
    object(
        "A test failover on the replica",
        &[
            ("vm", uuid("The test VM")),
            ("branch", uuid("The branch it runs on")),
            ("target", reference("Target")),
            ("instant", instant("Instant of the chosen point")),
            ("phase", reference("TestPhase")),
            ("job", uuid("Job of the current phase")),
        ],
    )
}
