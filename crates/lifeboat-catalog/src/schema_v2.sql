-- Version 2. A digest beside each record, so that one changed bit is found: BLAKE3 (hex) of the record's key as messages
-- name it, a line feed, and the record. NULL: written by version 1.
ALTER TABLE relationship ADD COLUMN digest TEXT;
ALTER TABLE job ADD COLUMN digest TEXT;
ALTER TABLE authorization_entry ADD COLUMN digest TEXT;
ALTER TABLE server_settings ADD COLUMN digest TEXT;
ALTER TABLE event ADD COLUMN digest TEXT;
