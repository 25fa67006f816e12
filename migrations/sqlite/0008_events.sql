-- What others are told about uploads. Both columns are for the statements that write events: the number of the last one,
-- and when progress was last told.
ALTER TABLE uploads ADD COLUMN event_number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN progress_told_at INTEGER;

-- Facts. upload: the row as it was by then, as JSON.
CREATE TABLE events (
    upload_id   TEXT    NOT NULL,
    number      INTEGER NOT NULL,
    tenant      TEXT    NOT NULL,
    owner       TEXT    NOT NULL,
    type        TEXT    NOT NULL,
    upload      TEXT    NOT NULL,
    occurred_at INTEGER NOT NULL,
    PRIMARY KEY (upload_id, number)
) STRICT;

CREATE INDEX events_time ON events (occurred_at);

-- One row for each sink that wants the event. While a try runs, holder says who tries, and due_at when its lease ends.
CREATE TABLE deliveries (
    upload_id  TEXT    NOT NULL,
    number     INTEGER NOT NULL,
    sink       TEXT    NOT NULL,
    tenant     TEXT    NOT NULL,
    owner      TEXT    NOT NULL,
    state      TEXT    NOT NULL DEFAULT 'waiting',
    tries      INTEGER NOT NULL DEFAULT 0,
    holder     TEXT,
    error      TEXT,
    due_at     INTEGER NOT NULL,
    settled_at INTEGER,
    PRIMARY KEY (upload_id, number, sink)
) STRICT;

CREATE INDEX deliveries_due ON deliveries (sink, due_at) WHERE state = 'waiting';
CREATE INDEX deliveries_dead ON deliveries (sink) WHERE state = 'dead';

-- Sinks that have asked not to be told anything any more.
CREATE TABLE disabled_sinks (
    name        TEXT    PRIMARY KEY,
    reason      TEXT    NOT NULL,
    disabled_at INTEGER NOT NULL
) STRICT;
