-- Version 1. Records are JSON beside the columns that are searched by; read them with the sqlite3 tool.
CREATE TABLE relationship (
    vm         TEXT    NOT NULL,
    peer_index INTEGER NOT NULL,
    record     TEXT    NOT NULL,
    PRIMARY KEY (vm, peer_index)
) STRICT;

CREATE TABLE job (
    id     TEXT NOT NULL PRIMARY KEY,
    vm     TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE authorization_entry (
    primary_host TEXT NOT NULL PRIMARY KEY,
    record       TEXT NOT NULL
) STRICT;

-- One row at most.
CREATE TABLE server_settings (
    one    INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    record TEXT    NOT NULL
) STRICT;

-- AUTOINCREMENT: an id is never used twice, so pruning can count back from the newest.
CREATE TABLE event (
    id     INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    vm     TEXT,
    record TEXT    NOT NULL
) STRICT;

CREATE INDEX event_by_vm ON event (vm, id);
