-- Version 4. What waits for a second person, or was confirmed by one.
CREATE TABLE request (
    id     TEXT NOT NULL PRIMARY KEY,
    record TEXT NOT NULL,
    digest TEXT
) STRICT;
