-- What happens to finished files. processing: what has become of the jobs of a file; withheld: nobody reads it for now.
-- derived_from, derivation: of which file this one was made, and as what.
ALTER TABLE uploads ADD COLUMN processing TEXT;
ALTER TABLE uploads ADD COLUMN withheld INTEGER NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN derived_from TEXT;
ALTER TABLE uploads ADD COLUMN derivation TEXT;

CREATE UNIQUE INDEX uploads_derived ON uploads (derived_from, derivation)
    WHERE derived_from IS NOT NULL AND state = 'complete';

-- The work of one processor on one file. While somebody has it, claim names that, and due_at is when the lease ends.
-- staged: files that were made and are in the store, as JSON; they become files when the job is done.
CREATE TABLE jobs (
    upload_id  TEXT    NOT NULL,
    processor  TEXT    NOT NULL,
    tenant     TEXT    NOT NULL,
    owner      TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    is_gate    INTEGER NOT NULL,
    state      TEXT    NOT NULL DEFAULT 'waiting',
    tries      INTEGER NOT NULL DEFAULT 0,
    progress   REAL    NOT NULL DEFAULT 0,
    claim      TEXT,
    holder     TEXT,
    error      TEXT,
    facts      TEXT    NOT NULL DEFAULT '{}',
    staged     TEXT    NOT NULL DEFAULT '[]',
    due_at     INTEGER NOT NULL,
    settled_at INTEGER,
    PRIMARY KEY (upload_id, processor)
) STRICT;

CREATE INDEX jobs_due ON jobs (processor, due_at) WHERE state IN ('waiting', 'running');
CREATE UNIQUE INDEX jobs_claims ON jobs (claim) WHERE claim IS NOT NULL;
