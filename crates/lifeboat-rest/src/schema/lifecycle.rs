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
            "SynchronizationReason",
            names("Why two copies are made equal", &["resync", "seed", "reverse"]),
        ),
        (
            "DiskPlace",
            object(
                "A place on the disks of a VM, which are gone through in the order of the settings",
                &[
                    ("disk", text("The disk")),
                    ("offset", number("Bytes from its beginning")),
                ],
            ),
        ),
        ("Planned", planned()),
        ("PlannedStage", planned_stage()),
        ("Split", split()),
        (
            "SplitStage",
            names(
                "How far the other side of a split has gone: once it has committed, the copy here is the past",
                &["failed-over", "committed"],
            ),
        ),
        ("Test", test()),
        (
            "TestStage",
            names("How far a test failover is", &["making", "ready", "ending"]),
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
            ("reason", reference("SynchronizationReason")),
            ("at", or_null(&reference("DiskPlace"))),
            ("sent", number("Bytes that were sent")),
            ("job", or_null(&uuid("Its job"))),
        ],
    )
}

fn extended() -> Value {
    object(
        "An outgoing relationship of a replica, to a third host",
        &[
            (
                "relationship",
                number("Its number, by which requests name it; the index that the API shows"),
            ),
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
            ("stage", reference("PlannedStage")),
            ("start", flag("The VM is started on the replica")),
            ("job", uuid("Its job")),
        ],
    )
}

fn planned_stage() -> Value {
    names(
        "How far a planned failover is; a prepared one waits for an administrator, who goes on or cancels it",
        &[
            "shutting-down",
            "sending-changes",
            "prepared",
            "asking-replica",
            "handing-over",
        ],
    )
}

fn split() -> Value {
    object(
        "Two copies that both may have gone on",
        &[
            ("stage", reference("SplitStage")),
            ("since", instant("Since when this side knows")),
            ("theirs", text("What the other side said of itself")),
        ],
    )
}

fn test() -> Value {
    object(
        "A test failover on the replica",
        &[
            ("stage", reference("TestStage")),
            ("vm", uuid("The test VM")),
            ("point", reference("Target")),
            ("instant", instant("Instant of the chosen point")),
            ("job", uuid("Job of what is being done")),
        ],
    )
}
