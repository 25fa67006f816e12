-- What others are told about uploads. Both columns are for the statements that write events: the number of the last one,
-- and when progress was last told.
ALTER TABLE uploads ADD COLUMN event_number integer NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN progress_told_at timestamptz;

-- Facts. upload: the row as it was by then.
CREATE TABLE events (
    upload_id   text        NOT NULL,
    number      integer     NOT NULL,
    tenant      text        NOT NULL,
    owner       text        NOT NULL,
    type        text        NOT NULL,
    upload      json        NOT NULL,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (upload_id, number)
);

CREATE INDEX events_time ON events (occurred_at);

-- One row for each sink that wants the event. While a try runs, holder says who tries, and due_at when its lease ends.
CREATE TABLE deliveries (
    upload_id  text        NOT NULL,
    number     integer     NOT NULL,
    sink       text        NOT NULL,
    tenant     text        NOT NULL,
    owner      text        NOT NULL,
    state      text        NOT NULL DEFAULT 'waiting',
    tries      integer     NOT NULL DEFAULT 0,
    holder     text,
    error      text,
    due_at     timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz,
    PRIMARY KEY (upload_id, number, sink)
);

CREATE INDEX deliveries_due ON deliveries (sink, due_at) WHERE state = 'waiting';
CREATE INDEX deliveries_dead ON deliveries (sink) WHERE state = 'dead';

-- Sinks that have asked not to be told anything any more.
CREATE TABLE disabled_sinks (
    name        text        PRIMARY KEY,
    reason      text        NOT NULL,
    disabled_at timestamptz NOT NULL DEFAULT now()
);
