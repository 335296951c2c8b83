//! Schemas of what the REST surface carries, written by hand so that the engine's types need no HTTP library. A test
//! serialises one of each and holds it against these.

mod at_rest;
mod hints;
mod history;
mod keys;
mod lifecycle;
mod requests;

use serde_json::{Map, Value, json};

use lifeboat_model::{
    FailedOverReplicationType, JobState, JobType, ReplicationHealth, ReplicationMode, ReplicationState,
};

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn list(name: &str) -> Value {
    json!({ "type": "array", "items": reference(name) })
}

fn or_null(schema: &Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

fn text(about: &str) -> Value {
    json!({ "type": "string", "description": about })
}

fn number(about: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": about })
}

fn flag(about: &str) -> Value {
    json!({ "type": "boolean", "description": about })
}

fn uuid(about: &str) -> Value {
    json!({ "type": "string", "format": "uuid", "description": about })
}

fn instant(about: &str) -> Value {
    number(&format!("{about}, in milliseconds since 1970-01-01T00:00:00Z"))
}

/// An object; every field is always written, and nothing else.
fn object(about: &str, fields: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = fields.iter().map(|(n, _)| *n).collect();
    let fields: Map<String, Value> = fields.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
    json!({
        "type": "object", "description": about, "properties": fields, "required": names, "additionalProperties": false
    })
}

/// The same object, with a field that is absent when it says nothing.
fn optional(field: &str, mut object: Value) -> Value {
    if let Some(required) = object["required"].as_array_mut() {
        required.retain(|name| name != field);
    }
    object
}

fn names<T: ToString>(about: &str, all: &[T]) -> Value {
    json!({ "type": "string", "description": about, "enum": all.iter().map(ToString::to_string).collect::<Vec<_>>() })
}

fn tagged(tag: &str, name: &str, fields: &[(&str, Value)]) -> Value {
    let mut all = vec![(tag, json!({ "const": name }))];
    all.extend_from_slice(fields);
    object("", &all)
}

/// All schemas by name.
pub(crate) fn all() -> Value {
    let mut schemas = Map::new();
    for (name, schema) in enumerations()
        .into_iter()
        .chain(machine())
        .chain(replication())
        .chain(lifecycle::schemas())
        .chain(history::schemas())
        .chain(at_rest::schemas())
        .chain(keys::schemas())
        .chain(hints::schemas())
        .chain(host())
    {
        schemas.insert(name.into(), schema);
    }
    Value::Object(schemas)
}

type Named = (&'static str, Value);

fn enumerations() -> Vec<Named> {
    vec![
        (
            "ReplicationState",
            names(
                "Msvm_ReplicationRelationship.ReplicationState by name",
                ReplicationState::ALL,
            ),
        ),
        (
            "ReplicationMode",
            names(
                "Msvm_ComputerSystem.ReplicationMode by name",
                ReplicationMode::ALL,
            ),
        ),
        (
            "ReplicationHealth",
            names("ReplicationHealth by name", ReplicationHealth::ALL),
        ),
        (
            "FailedOverReplicationType",
            names(
                "FailedOverReplicationType by name",
                FailedOverReplicationType::ALL,
            ),
        ),
        (
            "JobState",
            names("Msvm_ConcreteJob.JobState by name", JobState::ALL),
        ),
        ("JobType", names("Msvm_ConcreteJob.JobType by name", JobType::ALL)),
        (
            "PowerState",
            names(
                "What a VM does",
                &["off", "running", "paused", "stalled", "unknown"],
            ),
        ),
        (
            "Consistency",
            names("What an instant guarantees", &["crash", "application", "planned"]),
        ),
        ("DiskFormat", names("Format of a disk image", &["qcow2", "raw"])),
        ("DiskBus", names("Bus the guest sees", &["virtio", "scsi", "ide"])),
    ]
}

fn vm_spec() -> Value {
    object(
        "A virtual machine",
        &[
            ("name", text("Name, unique on its host")),
            ("uuid", uuid("Identity, the same on every host")),
            ("memory_mib", number("Memory in MiB")),
            ("cpus", number("Virtual CPUs")),
            ("machine", text("QEMU machine type")),
            ("cpu", text("QEMU CPU model")),
            ("firmware", reference("Firmware")),
            ("disk", list("DiskSpec")),
            ("nic", list("NicSpec")),
            (
                "guest_agent",
                flag("Whether the guest has a QEMU guest agent channel"),
            ),
            ("iothreads", flag("One iothread per disk")),
        ],
    )
}

fn machine() -> Vec<Named> {
    vec![
        (
            "Firmware",
            json!({ "oneOf": [
                tagged("type", "bios", &[]),
                optional("vars", tagged("type", "uefi", &[
                    ("code", text("Firmware code image: a path, or on a replica its name")),
                    ("vars", text("This VM's variable store; absent for a replica")),
                ])),
            ]}),
        ),
        ("GuestProcess", guest_process()),
        ("VmTimes", vm_times()),
        ("DiskSpec", disk_spec()),
        ("DiskAllow", disk_allow()),
        (
            "NicBackend",
            json!({ "oneOf": [
                tagged("type", "none", &[]),
                tagged("type", "user", &[]),
                tagged("type", "tap", &[("ifname", text("Interface name"))]),
                tagged("type", "bridge", &[("name", text("Interface name of the bridge"))]),
            ]}),
        ),
        (
            "NicSpec",
            object(
                "One network card",
                &[("mac", text("MAC address")), ("backend", reference("NicBackend"))],
            ),
        ),
        ("VmSpec", vm_spec()),
        (
            "Console",
            object(
                "Where to look at a VM",
                &[
                    ("socket", text("Unix socket of the serial console")),
                    ("log", text("File with everything the serial console wrote")),
                ],
            ),
        ),
        (
            "VmView",
            object(
                "A VM as this host sees it",
                &[
                    ("spec", reference("VmSpec")),
                    ("power", reference("PowerState")),
                    ("power_note", or_null(&reference("PowerNote"))),
                    ("console", reference("Console")),
                    ("process", or_null(&reference("GuestProcess"))),
                    ("times", reference("VmTimes")),
                    ("disk_files", disk_files()),
                    ("replication", or_null(&reference("ReplicationView"))),
                    (
                        "description_gone",
                        // Where it should be; spec is what was recorded of it.
                        or_null(&reference("Finding")),
                    ),
                ],
            ),
        ),
    ]
}

fn disk_spec() -> Value {
    optional(
        "allow",
        object(
            "One disk of a VM",
            &[
                ("id", text("Name within the VM")),
                ("path", text("Absolute path of the image; empty for a replica")),
                ("format", reference("DiskFormat")),
                ("bus", reference("DiskBus")),
                ("allow", reference("DiskAllow")),
            ],
        ),
    )
}

fn disk_allow() -> Value {
    object(
        "What is accepted of a disk's image beyond the ordinary; absent when nothing is",
        &[
            (
                "backing_in",
                json!({"type": "array", "items": {"type": "string"}}),
            ),
            (
                "raw_header",
                flag("A raw disk may begin with the header of an image format"),
            ),
        ],
    )
}

fn guest_process() -> Value {
    object(
        "The process that a VM runs in",
        &[
            ("pid", number("Its number on this host")),
            ("age_ms", number("Milliseconds for which it has existed")),
        ],
    )
}

fn vm_times() -> Value {
    object(
        "When something of a VM began; null where that is not known",
        &[
            ("known", or_null(&instant("The VM became known to this host"))),
            (
                "configured",
                or_null(&instant("Its description or settings were changed last")),
            ),
            ("power", or_null(&instant("Its power became what it is"))),
        ],
    )
}

fn disk_files() -> Value {
    json!({
        "type": "object",
        "description": "The file of each disk on this host, by the disk's id; a disk whose file is not known now is missing",
        "additionalProperties": { "type": "string" }
    })
}

fn position() -> Value {
    object(
        "Which instant a copy holds",
        &[
            ("generation", uuid("The generation of the VM's data")),
            ("sequence", number("The instant within it, from 1")),
        ],
    )
}

fn settings() -> Value {
    object(
        "Settings of a relationship",
        &[
            ("peer", text("HOST:PORT")),
            ("interval_s", number("Seconds between cycles, 1 to 900")),
            ("history", number("Additional recovery points kept, 0 to 24")),
            (
                "point_spacing_s",
                number("Seconds between kept recovery points, 1 to 86400"),
            ),
            (
                "any_point_window_s",
                number("Seconds for which every cycle can be brought back, 0 to 604800"),
            ),
            (
                "disks",
                json!({ "type": "array", "items": { "type": "string" }, "description": "Disks that are replicated" }),
            ),
            ("compression", flag("Whether deltas are compressed")),
            (
                "application_h",
                number("Hours between application-consistent points, 1 to 12; 0: none are made"),
            ),
            ("auto_resync", or_null(&reference("DayWindow"))),
            ("bandwidth", reference("Bandwidth")),
        ],
    )
}

fn contact_view() -> Value {
    object(
        "What a view of the other side rests on",
        &[
            (
                "heard",
                or_null(&instant(
                    "When the other side was last heard: a call of it, or an answer; null: not since this daemon started",
                )),
            ),
            (
                "silent_ms",
                number("Milliseconds since then, or since this daemon started"),
            ),
        ],
    )
}

fn backlog_view() -> Value {
    object(
        "Logs that are safe on the replica and wait to be applied",
        &[
            ("logs", number("How many")),
            ("bytes", number("Their bytes")),
            (
                "age_ms",
                or_null(&number(
                    "Milliseconds that the oldest has waited; null on the primary, which does not know",
                )),
            ),
        ],
    )
}

fn allowed() -> Value {
    let about = "The authorization entry whose primaries alone may feed this replica; null: every primary that this host authorizes";
    or_null(&text(about))
}

fn directory() -> Value {
    let about =
        "Directory in which this host keeps the VM's data; null: its disks are the images of its description";
    or_null(&text(about))
}

const PENDING: &str =
    "Bytes of a primary's disks that changed and are not known to be on the replica; null when not known";

fn view() -> Value {
    object(
        "A relationship as one side sees it",
        &[
            ("mode", reference("ReplicationMode")),
            ("state", reference("ReplicationState")),
            ("health", reference("ReplicationHealth")),
            ("health_notes", list("Finding")),
            ("peer", text("The other side")),
            ("settings", reference("ReplicationSettings")),
            ("position", reference("Position")),
            (
                "newest_instant",
                or_null(&instant("Instant of the newest data that is safe on the replica")),
            ),
            (
                "last_replication",
                or_null(&instant("Last delta sent or received")),
            ),
            (
                "last_application",
                or_null(&instant(
                    "Newest application-consistent instant that is safe on the replica, as far as this side knows one",
                )),
            ),
            (
                "lag_ms",
                or_null(&number(
                    "Milliseconds of data that would be lost if the primary were lost now",
                )),
            ),
            ("pending_bytes", or_null(&number(PENDING))),
            ("problem", or_null(&reference("Problem"))),
            ("bulk", list("BulkView")),
            ("failover", or_null(&reference("Failover"))),
            ("test", or_null(&reference("Test"))),
            (
                "last_test",
                or_null(&instant("When the last test failover was started, on a replica")),
            ),
            ("sync", or_null(&reference("Synchronization"))),
            ("planned", or_null(&reference("Planned"))),
            ("split", or_null(&reference("Split"))),
            (
                "scheduled",
                or_null(&instant(
                    "When an initial copy or a resynchronization is to begin",
                )),
            ),
            ("abandoned", or_null(&reference("Abandoned"))),
            ("preflight", preflight()),
            ("network", list("NicFailover")),
            ("counters", reference("Counters")),
            ("extended", or_null(&reference("ExtendedView"))),
            ("further", list("ExtendedView")),
            ("contact", or_null(&reference("ContactView"))),
            ("backlog", or_null(&reference("BacklogView"))),
            ("allowed", allowed()),
            ("hold", or_null(&reference("HoldView"))),
            ("changes", or_null(&reference("ChangesView"))),
            ("dir", directory()),
            ("at_rest", or_null(&reference("AtRest"))),
            ("keys", list("KnownKey")),
        ],
    )
}

fn preflight() -> Value {
    json!({
        "type": "array", "items": { "type": "string" },
        "description": "What would keep the VM from starting on the replica"
    })
}

fn counters() -> Value {
    object(
        "Counters of a relationship in the current monitoring window",
        &[
            (
                "since",
                or_null(&instant("When the window began; null in records of old")),
            ),
            ("total_latency_ms", number("Sum of all latencies in milliseconds")),
            ("network_failures", number("Failures that were the network's")),
            (
                "application_failures",
                number("Application-consistent instants that came out crash-consistent"),
            ),
            ("cycles", number("Cycles completed")),
            ("failures", number("Cycles that failed")),
            (
                "missed",
                number("Cycles that started later than one interval after they were due"),
            ),
            ("bytes", number("Bytes of delta logs sent or received")),
            ("largest", number("Bytes of the largest delta")),
            (
                "last_latency_ms",
                number("Milliseconds from instant to durable on the replica, last cycle"),
            ),
            ("max_latency_ms", number("The largest of those")),
        ],
    )
}

fn failover() -> Value {
    object(
        "A failover on the replica",
        &[
            ("stage", reference("FailoverStage")),
            ("point", reference("Target")),
            ("position", or_null(&reference("Position"))),
            ("instant", instant("Instant of the chosen point")),
            ("consistency", reference("Consistency")),
            ("kind", reference("FailedOverReplicationType")),
            (
                "unreached",
                or_null(&text(
                    "What was seen of a primary that could not be reached when the failover was started; null: it was reached, or not asked",
                )),
            ),
            (
                "reverses_to",
                or_null(&text(
                    "HOST:PORT that the VM is replicated to once the failover is committed; null: that was not asked for",
                )),
            ),
            ("job", uuid("Job of what is being done")),
        ],
    )
}

fn failover_stage() -> Value {
    names(
        "How far a failover is: an undecided one has to be committed or reverted, a planned one takes over by itself",
        &[
            "starting",
            "undecided",
            "taking-over",
            "reverting",
            "committing",
            "merging",
            "committed",
        ],
    )
}

fn selector() -> Value {
    json!({ "oneOf": [
        tagged("by", "latest", &[]),
        tagged("by", "id", &[("value", text("Id of a listed point, an unambiguous beginning of it, or its guid"))]),
        tagged("by", "at", &[("value", instant("The newest instant not after this one"))]),
    ]})
}

fn replication() -> Vec<Named> {
    vec![
        ("Position", position()),
        ("ReplicationSettings", settings()),
        ("ReplicationView", view()),
        ("ContactView", contact_view()),
        ("BacklogView", backlog_view()),
        (
            "Problem",
            optional(
                "kind",
                optional(
                    "hint",
                    object(
                        "Something that is wrong",
                        &[
                            ("since", instant("Since when")),
                            ("kind", reference("ProblemKind")),
                            ("message", text("What is wrong")),
                            ("hint", reference("Hint")),
                            ("attempts", number("Attempts that failed so far")),
                        ],
                    ),
                ),
            ),
        ),
        (
            "BulkView",
            object(
                "Initial copy of one disk",
                &[
                    ("disk", text("The disk")),
                    ("done", number("Bytes from its beginning that are on the replica")),
                    ("size", number("Size of the disk in bytes")),
                ],
            ),
        ),
        ("Counters", counters()),
        (
            "Target",
            json!({ "oneOf": [
                tagged("kind", "point", &[("id", uuid("A sealed point"))]),
                tagged("kind", "cycle", &[("position", reference("Position"))]),
                tagged("kind", "abandoned", &[]),
            ]}),
        ),
        ("PowerNote", power_note()),
        ("SeenPower", seen_power()),
        ("Failover", failover()),
        ("FailoverStage", failover_stage()),
        ("PointView", point()),
        ("PointSelector", selector()),
    ]
}

fn point() -> Value {
    object(
        "A recovery point",
        &[
            ("id", text("What to name it by")),
            (
                "guid",
                or_null(&uuid(
                    "The instant's name in the management API, which is taken here as well; it stays the same when a cycle is sealed, and on each host",
                )),
            ),
            ("target", reference("Target")),
            ("instant", instant("The instant on the primary")),
            ("consistency", reference("Consistency")),
            ("size", number("Bytes it takes")),
            (
                "unusable",
                or_null(&text("Why it is not offered: its data is, or may be, wrong")),
            ),
            ("changed", or_null(&reference("Changed"))),
        ],
    )
}

fn power_note() -> Value {
    object(
        "What is out of the ordinary about a VM's power",
        &[
            ("reason", text("What was seen")),
            (
                "since",
                instant("Since when it is so, as far as this daemon has looked"),
            ),
            ("before", or_null(&reference("SeenPower"))),
        ],
    )
}

fn seen_power() -> Value {
    object(
        "What a VM did at some time",
        &[
            ("power", reference("PowerState")),
            ("at", instant("When that was seen")),
        ],
    )
}

fn job() -> Value {
    let whole = object(
        "A long operation",
        &[
            ("id", uuid("Identity")),
            ("vm", uuid("The VM it works on")),
            ("kind", reference("JobType")),
            ("state", reference("JobState")),
            (
                "percent",
                json!({ "type": "integer", "minimum": 0, "maximum": 100 }),
            ),
            ("detail", text("What is being done")),
            ("done_bytes", number("Bytes done")),
            ("total_bytes", number("Bytes in all; 0 when it makes no sense")),
            ("error", or_null(&text("Why it ended badly"))),
            ("hint", reference("Hint")),
            (
                "code",
                or_null(&text("Name of the return code for that, as in Error")),
            ),
            ("created", instant("Recorded")),
            ("started", or_null(&instant("First started"))),
            ("ended", or_null(&instant("Ended"))),
            ("by", or_null(&reference("By"))),
        ],
    );
    optional("hint", whole)
}

fn by() -> Value {
    object(
        "Who asked for it; null: no caller did, or it is not known",
        &[
            (
                "surface",
                json!({ "type": "string", "description": "The way they came", "enum": ["local", "wsman", "cim-xml", "peer"] }),
            ),
            (
                "name",
                text("User, `certificate NAME`, `root`, `uid N`, or name of a host"),
            ),
            (
                "from",
                or_null(&text("Address and port, or `pid N` of a process of this host")),
            ),
            (
                "account",
                or_null(&object(
                    "The account of a process of this host",
                    &[
                        ("uid", number("The user id it has")),
                        (
                            "login",
                            or_null(&number(
                                "The user id it logged in with; null: there was no login, or it is not known",
                            )),
                        ),
                        (
                            "user",
                            or_null(&text(
                                "Name of the one it logged in with, or has; null: not known",
                            )),
                        ),
                    ],
                )),
            ),
            ("confirmed", or_null(&reference("By"))),
        ],
    )
}

fn server_settings() -> Value {
    object(
        "This host as a replica server",
        &[
            ("enabled", flag("Whether replicas are taken")),
            (
                "monitoring_interval_s",
                number("Length of a monitoring window in seconds, 3600 to 604800"),
            ),
            (
                "monitoring_start_min",
                number("When windows begin, in minutes of the local day, 0 to 1439"),
            ),
            ("bandwidth", reference("Bandwidth")),
        ],
    )
}

fn server_view() -> Value {
    object(
        "This host",
        &[
            ("host", text("Its name")),
            ("version", text("Version of Lifeboat")),
            ("listen", text("Where peers reach it")),
            ("settings", reference("ServerSettings")),
            ("certificates", list("Certificate")),
            ("keys", reference("ServerKeys")),
            (
                "encrypts_new",
                flag("Whether the directories of new replicas are made encrypted"),
            ),
            ("directories", list("DirectoryView")),
            ("notes", list("Finding")),
        ],
    )
}

fn authorization_entry() -> Value {
    object(
        "Who may replicate to this host, and where the copies go",
        &[
            ("primary", text("Name of the primary: exact, *.domain, or *")),
            (
                "storage_location",
                text("Absolute directory below which replicas are stored"),
            ),
            (
                "trust_group",
                text("Primaries that share it may feed each other's replicas"),
            ),
            (
                "allow_start",
                flag("Whether a planned failover may start a VM here by the primary's word alone"),
            ),
            (
                "keep_at_least_s",
                number(
                    "Seconds for which recovery points are kept whatever the primary asks for; 0: as it asks",
                ),
            ),
            (
                "locked_until",
                or_null(&instant(
                    "Until then the entry can be neither removed nor made to keep points for a shorter time",
                )),
            ),
            ("quota", quota()),
        ],
    )
}

fn quota() -> Value {
    object(
        "What the replicas of the entry's primaries may take, together or each",
        &[
            ("vms", number("Replicas, 1 to 100000")),
            (
                "bytes",
                or_null(&number("Bytes on disk of all replicas; null: what the disk has")),
            ),
            (
                "points",
                or_null(&number(
                    "Additional recovery points of each replica, 0 to 24; null: as the primary asks",
                )),
            ),
            (
                "disk_bytes",
                or_null(&number(
                    "Bytes of each disk as the guest sees it; null: as the primary asks",
                )),
            ),
        ],
    )
}

fn certificate() -> Value {
    object(
        "A certificate that connections of this host depend on",
        &[
            (
                "usage",
                names("What it is for", &["host", "authority", "management", "peer"]),
            ),
            ("place", text("The file it is in, or the peer that has shown it")),
            ("not_before", instant("Valid from")),
            ("not_after", instant("Valid until")),
            (
                "problem",
                or_null(&text("Why what the file holds now is not used")),
            ),
        ],
    )
}

fn host() -> Vec<Named> {
    vec![
        (
            "CycleResult",
            json!({ "oneOf": [
                tagged("result", "sent", &[
                    ("bytes", number("Bytes of the log that is durable on the replica now; without any change some hundred")),
                    ("instant", instant("The instant that the replica holds now")),
                    ("position", reference("Position")),
                ]),
                tagged("result", "unchanged", &[
                    ("verified", instant("When the images of the powered-off VM were seen to be what was last sent")),
                ]),
            ]}),
        ),
        ("Job", job()),
        ("By", by()),
        ("Request", requests::request()),
        (
            "Event",
            optional(
                "hint",
                object(
                    "Something that happened",
                    &[
                        ("at", instant("When")),
                        ("vm", or_null(&uuid("About which VM"))),
                        ("message", text("What")),
                        ("hint", reference("Hint")),
                        ("by", or_null(&reference("By"))),
                    ],
                ),
            ),
        ),
        ("AuthorizationEntry", authorization_entry()),
        ("ServerSettings", server_settings()),
        ("ServerView", server_view()),
        ("Certificate", certificate()),
        (
            "Error",
            optional(
                "request",
                object(
                    "A refusal",
                    &[
                        ("code", number("The API's return code, for example 32775")),
                        ("name", text("Its name, for example InvalidState")),
                        ("message", text("What and why, naming state and thing")),
                        ("hint", or_null(&reference("Hint"))),
                        (
                            "request",
                            uuid("The request that was recorded instead, which waits for a second person"),
                        ),
                    ],
                ),
            ),
        ),
    ]
}
