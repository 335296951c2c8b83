-- Version 3. Until then an entry whose trust group nobody had named was of the group "default", so that all hosts could feed
-- each other's replicas. 0: written before; it gets a group of its own when the file is opened.
ALTER TABLE authorization_entry ADD COLUMN group_named INTEGER NOT NULL DEFAULT 0;
