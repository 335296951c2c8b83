//! The REST surface as a table: one route for each action, in the order of the OpenAPI document. Translations are in the
//! parent.

use super::{Body, Field, Kind, Query, Reply, Route, Verb};

const FORCE: Field = Field {
    name: "force",
    schema: r#"{"type":"boolean","description":"Turn the VM off at once"}"#,
    default: Some("false"),
};

const fn get(path: &'static str, action: &'static str, reply: Reply, summary: &'static str) -> Route {
    Route {
        verb: Verb::Get,
        path,
        action,
        summary,
        query: &[],
        body: Body::None,
        reply,
        implies: None,
    }
}

const fn post(path: &'static str, action: &'static str, summary: &'static str) -> Route {
    Route {
        verb: Verb::Post,
        path,
        action,
        summary,
        query: &[],
        body: Body::None,
        reply: Reply::Carried,
        implies: None,
    }
}

const fn with_fields(route: Route, fields: &'static [Field]) -> Route {
    Route {
        body: Body::Fields(fields),
        ..route
    }
}

/// Where a page of a list begins.
const AFTER: Query = Query {
    name: "after",
    kind: Kind::Text,
    default: "null",
    about: "What comes behind this place, which the link of another page of the list names",
};

const LIMIT: Query = Query {
    name: "limit",
    kind: Kind::Number,
    default: "null",
    about: "At most this many, 1 to 1000; 500 when it is missing",
};

/// A list that may be long.
const fn pages(
    path: &'static str,
    action: &'static str,
    schema: &'static str,
    summary: &'static str,
) -> Route {
    Route {
        query: &[LIMIT, AFTER],
        ..get(path, action, Reply::Pages(schema), summary)
    }
}

/// Which recovery point.
const POINT: Field = Field {
    name: "point",
    schema: r##"{"$ref":"#/components/schemas/PointSelector"}"##,
    default: Some(r#"{"by":"latest"}"#),
};

/// When something scheduled begins.
const AT: Field = Field {
    name: "at",
    schema: r#"{"anyOf":[{"type":"integer","minimum":0},{"type":"null"}],"description":"When to begin, in milliseconds since 1970, at most 7 days ahead; null: now"}"#,
    default: Some("null"),
};

/// Which of a VM's relationships.
const RELATIONSHIP: Query = Query {
    name: "relationship",
    kind: Kind::Text,
    default: r#""usual""#,
    about: "Which relationship: \"extended\" for the one that a replica is extended by, its number, or the other host as HOST:PORT. When it is missing, the one that gives the VM its role here; for what only a sender does, on a replica, the one that it is extended by",
};

const fn of_relationship(route: Route) -> Route {
    Route {
        query: &[RELATIONSHIP],
        ..route
    }
}

/// The path that a request about the one extended relationship has had before there could be several.
const fn extended(route: Route) -> Route {
    Route {
        implies: Some(("relationship", "extended")),
        ..route
    }
}

const fn delete(path: &'static str, action: &'static str, summary: &'static str) -> Route {
    Route {
        verb: Verb::Delete,
        ..post(path, action, summary)
    }
}

/// Every route that carries an action. Beside them there are only the event stream and the document itself.
pub const ROUTES: &[Route] = &[
    pages(
        "/vms",
        "list-vms",
        "VmView",
        "VMs of this host, replicas included, by name",
    ),
    get("/vms/{vm}", "show-vm", Reply::One("VmView"), "One VM"),
    with_fields(
        post(
            "/vms/{vm}/start",
            "start-vm",
            "Start a VM, or let one go on that is paused or stalled",
        ),
        &[Field {
            name: "force",
            schema: r#"{"type":"boolean","description":"Do it although the other host was reached and did not say whether it runs the VM"}"#,
            default: Some("false"),
        }],
    ),
    with_fields(
        post("/vms/{vm}/stop", "stop-vm", "Shut a VM down, or turn it off"),
        &[FORCE],
    ),
    post(
        "/vms/{vm}/pause",
        "pause-vm",
        "Stop the CPUs of a VM; its memory stays, and starting it lets it go on",
    ),
    post(
        "/vms/{vm}/reset",
        "reset-vm",
        "Press the reset button of a VM: it starts again without having shut down",
    ),
    get(
        "/vms/{vm}/screenshot",
        "screenshot",
        Reply::Picture,
        "A picture of the VM's screen",
    ),
    Route {
        verb: Verb::Put,
        path: "/vms/{vm}/replication",
        action: "enable-replication",
        summary: "Enable replication of a VM; an empty disk list means all disks",
        query: &[],
        body: Body::Whole {
            field: "settings",
            schema: "ReplicationSettings",
        },
        reply: Reply::Carried,
        implies: None,
    },
    of_relationship(delete(
        "/vms/{vm}/replication",
        "remove-replication",
        "Remove replication from a VM, on this side only",
    )),
    post(
        "/vms/{vm}/replication/forget",
        "forget-replication",
        "Remove replication by this side's record alone, when the other side or the files are gone; files are kept",
    ),
    of_relationship(Route {
        verb: Verb::Put,
        body: Body::Whole {
            field: "settings",
            schema: "ReplicationSettings",
        },
        ..post(
            "/vms/{vm}/replication/settings",
            "modify-replication",
            "Change the settings of a replication: the whole new settings; on a replica of one to a third host",
        )
    }),
    of_relationship(with_fields(
        post(
            "/vms/{vm}/replication/start",
            "start-replication",
            "Start the initial copy: over the network, to a directory, or from a copy the replica has; on a replica that to a third host",
        ),
        &[
            Field {
                name: "how",
                schema: r##"{"$ref":"#/components/schemas/InitialCopy"}"##,
                default: Some(r#"{"how":"network"}"#),
            },
            AT,
        ],
    )),
    of_relationship(post(
        "/vms/{vm}/replication/start/cancel",
        "cancel-initial-copy",
        "Give up an initial copy that is scheduled or under way; what was copied is kept",
    )),
    with_fields(
        post(
            "/vms/{vm}/replication/import",
            "import-copy",
            "Import an exported initial copy, on the replica",
        ),
        &[Field {
            name: "dir",
            schema: r#"{"type":"string","description":"Directory that was exported to, as this host sees it"}"#,
            default: None,
        }],
    ),
    of_relationship(with_fields(
        post(
            "/vms/{vm}/replication/resync",
            "resynchronize",
            "Compare both copies and send what differs; recovery points stay. On a replica with a third host",
        ),
        &[AT],
    )),
    of_relationship(post(
        "/vms/{vm}/replication/resync/cancel",
        "cancel-resync",
        "Give a resynchronization up",
    )),
    of_relationship(post(
        "/vms/{vm}/replication/suspend",
        "suspend-replication",
        "Pause replication",
    )),
    of_relationship(post(
        "/vms/{vm}/replication/resume",
        "resume-replication",
        "Resume paused replication, or a paused resynchronization",
    )),
    Route {
        reply: Reply::One("CycleResult"),
        ..post(
            "/vms/{vm}/replication/now",
            "replicate-now",
            "Replicate now, without waiting for the interval; answered with the cycle's result when it is over",
        )
    },
    post(
        "/vms/{vm}/replication/retry",
        "retry-now",
        "Try at once what waits for its next attempt after a failure; done as well when nothing waits",
    ),
    with_fields(
        post(
            "/vms/{vm}/replication/reverse",
            "reverse-replication",
            "Replicate the other way round, on the failed-over and committed side",
        ),
        &[Field {
            name: "settings",
            schema: r##"{"anyOf":[{"$ref":"#/components/schemas/ReplicationSettings"},{"type":"null"}],"description":"Of the new direction; null: as they are, with the old primary as the peer"}"##,
            default: Some("null"),
        }],
    ),
    post(
        "/vms/{vm}/replication/become-replica",
        "become-replica",
        "Make a VM that is off a replica that awaits its data",
    ),
    post(
        "/vms/{vm}/replication/scrub",
        "scrub",
        "Verify the replica's files by their recorded digests, and repair what can be",
    ),
    post(
        "/vms/{vm}/replication/hold-points",
        "hold-points",
        "Keep every recovery point of a replica from expiring until they are released",
    ),
    post(
        "/vms/{vm}/replication/release-points",
        "release-points",
        "Let recovery points expire again, and agree to the history that the primary asks for",
    ),
    delete(
        "/vms/{vm}/replication/abandoned",
        "drop-abandoned",
        "Let go of what an old primary had beyond the point the other side went on from",
    ),
    of_relationship(delete(
        "/vms/{vm}/replication/statistics",
        "reset-statistics",
        "Begin a new window of statistics",
    )),
    Route {
        verb: Verb::Put,
        ..with_fields(
            post(
                "/vms/{vm}/replication/authorization",
                "set-authorization",
                "Let only primaries that an authorization entry covers feed this replica",
            ),
            &[Field {
                name: "primary",
                schema: r#"{"type":"string","description":"The entry, by its primary"}"#,
                default: None,
            }],
        )
    },
    Route {
        verb: Verb::Put,
        query: &[Query {
            name: "start",
            kind: Kind::Flag,
            default: "true",
            about: "Start the copy as well",
        }],
        body: Body::Whole {
            field: "settings",
            schema: "ReplicationSettings",
        },
        ..post(
            "/vms/{vm}/replication/extended",
            "extend-replication",
            "Send on to a third host what arrives at this replica; an empty disk list means those of the replica",
        )
    },
    extended(post(
        "/vms/{vm}/replication/extended/cancel",
        "cancel-initial-copy",
        "Give up the copy to the third host, or the comparison with it",
    )),
    extended(post(
        "/vms/{vm}/replication/extended/suspend",
        "suspend-replication",
        "Pause the replication to the third host",
    )),
    extended(post(
        "/vms/{vm}/replication/extended/resume",
        "resume-replication",
        "Resume the replication to the third host",
    )),
    extended(delete(
        "/vms/{vm}/replication/extended",
        "remove-replication",
        "Remove the replication to the third host, on this side only",
    )),
    of_relationship(post(
        "/vms/{vm}/replication/continue",
        "continue-as-primary",
        "Go on as the primary of a host that the replica was extended to, after a committed failover",
    )),
    pages(
        "/vms/{vm}/points",
        "list-points",
        "PointView",
        "Recovery points of a replica, newest first",
    ),
    with_fields(
        post(
            "/vms/{vm}/failover/start",
            "initiate-failover",
            "Fail over to a recovery point",
        ),
        &[
            POINT,
            Field {
                name: "start",
                schema: r#"{"type":"boolean","description":"Start the VM as well"}"#,
                default: Some("true"),
            },
            Field {
                name: "force",
                schema: r#"{"type":"boolean","description":"Do it although the primary answers that its VM is running"}"#,
                default: Some("false"),
            },
        ],
    ),
    with_fields(
        post(
            "/vms/{vm}/failover/revert",
            "revert-failover",
            "Throw the failover away; recovery points stay as they are",
        ),
        &[FORCE],
    ),
    post(
        "/vms/{vm}/failover/commit",
        "commit-failover",
        "Keep the failover for good",
    ),
    with_fields(
        post(
            "/vms/{vm}/failover/planned",
            "planned-failover",
            "A whole planned failover, from either host: shut down, send the rest, fail over, reverse",
        ),
        &[
            Field {
                name: "force",
                schema: r#"{"type":"boolean","description":"Turn the VM off when it does not shut down in time"}"#,
                default: Some("false"),
            },
            Field {
                name: "prepare_only",
                schema: r#"{"type":"boolean","description":"Shut down and send the rest, but do not hand over; on the primary"}"#,
                default: Some("false"),
            },
            Field {
                name: "start",
                schema: r#"{"type":"boolean","description":"Start the VM on the replica"}"#,
                default: Some("true"),
            },
        ],
    ),
    with_fields(
        post(
            "/vms/{vm}/failover/planned/cancel",
            "cancel-planned",
            "Cancel a planned failover before the replica took over, on the primary",
        ),
        &[Field {
            name: "force",
            schema: r#"{"type":"boolean","description":"Go on although the replica does not answer and may have taken over"}"#,
            default: Some("false"),
        }],
    ),
    with_fields(
        post(
            "/vms/{vm}/failover/test",
            "start-test",
            "Make a test VM at a recovery point; replication goes on",
        ),
        &[
            POINT,
            Field {
                name: "start",
                schema: r#"{"type":"boolean","description":"Start the test VM as well"}"#,
                default: Some("false"),
            },
        ],
    ),
    delete(
        "/vms/{vm}/failover/test",
        "stop-test",
        "Turn the test VM off and throw it away",
    ),
    Route {
        verb: Verb::Put,
        ..with_fields(
            post(
                "/vms/{vm}/failover/network",
                "set-failover-network",
                "What the guest's network cards become after a failover and in a test",
            ),
            &[Field {
                name: "cards",
                schema: r##"{"type":"array","items":{"$ref":"#/components/schemas/NicFailover"},"description":"One entry for each card that has settings; others have none afterwards"}"##,
                default: None,
            }],
        )
    },
    pages("/jobs", "list-jobs", "Job", "Jobs, newest first"),
    get("/jobs/{job}", "show-job", Reply::One("Job"), "One job"),
    post("/jobs/{job}/cancel", "cancel-job", "Cancel a job"),
    Route {
        query: &[
            Query {
                name: "vm",
                kind: Kind::Text,
                default: "null",
                about: "Only events of this VM",
            },
            Query {
                name: "limit",
                kind: Kind::Number,
                default: "100",
                about: "At most this many, 1 to 1000",
            },
            AFTER,
        ],
        ..get(
            "/events",
            "list-events",
            Reply::Pages("Event"),
            "What happened, newest events first",
        )
    },
    pages(
        "/authorization",
        "list-authorization",
        "AuthorizationEntry",
        "Who may replicate to this host, by name",
    ),
    Route {
        body: Body::Whole {
            field: "entry",
            schema: "AuthorizationEntry",
        },
        ..post(
            "/authorization",
            "add-authorization",
            "Add an entry; one with the same primary is replaced",
        )
    },
    delete(
        "/authorization/{primary}",
        "remove-authorization",
        "Remove an entry",
    ),
    get("/server", "show-server", Reply::One("ServerView"), "This host"),
    Route {
        verb: Verb::Put,
        body: Body::Whole {
            field: "settings",
            schema: "ServerSettings",
        },
        ..post(
            "/server",
            "set-server",
            "Change the settings of this host as a replica server",
        )
    },
    with_fields(
        post(
            "/server/trust-key",
            "trust-key",
            "Accept a new key of another host for the replications that name it",
        ),
        &[
            Field {
                name: "host",
                schema: r#"{"type":"string","description":"A name of its certificate, or how it is called"}"#,
                default: None,
            },
            Field {
                name: "key",
                schema: r#"{"type":"string","description":"SHA-256 of its public key, hexadecimal with or without colons","examples":["5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A:5A"]}"#,
                default: None,
            },
            Field {
                name: "vm",
                schema: r#"{"anyOf":[{"type":"string"},{"type":"null"}],"description":"For this VM alone, by name or UUID; null: for all"}"#,
                default: Some("null"),
            },
        ],
    ),
    with_fields(
        post(
            "/server/test-connection",
            "test-connection",
            "Reach a peer, authenticate, and be authorized",
        ),
        &[Field {
            name: "peer",
            schema: r#"{"type":"string","description":"HOST:PORT"}"#,
            default: None,
        }],
    ),
    get(
        "/requests",
        "list-requests",
        Reply::List("Request"),
        "What waits for a second person, oldest first",
    ),
    post(
        "/requests/{request}/confirm",
        "confirm-request",
        "Confirm a request as the second person: what was asked for is carried out",
    ),
    post(
        "/requests/{request}/deny",
        "deny-request",
        "End a request without carrying it out",
    ),
];
