-- What happens to finished files. processing: what has become of the jobs of a file; withheld: nobody reads it for now.
-- derived_from, derivation: of which file this one was made, and as what.
ALTER TABLE uploads ADD COLUMN processing text;
ALTER TABLE uploads ADD COLUMN withheld boolean NOT NULL DEFAULT false;
ALTER TABLE uploads ADD COLUMN derived_from text;
ALTER TABLE uploads ADD COLUMN derivation text;

CREATE UNIQUE INDEX uploads_derived ON uploads (derived_from, derivation)
    WHERE derived_from IS NOT NULL AND state = 'complete';

-- The work of one processor on one file. While somebody has it, claim names that, and due_at is when the lease ends.
-- staged: files that were made and are in the store, as JSON; they become files when the job is done.
CREATE TABLE jobs (
    upload_id  text             NOT NULL,
    processor  text             NOT NULL,
    tenant     text             NOT NULL,
    owner      text             NOT NULL,
    version    integer          NOT NULL,
    is_gate    boolean          NOT NULL,
    state      text             NOT NULL DEFAULT 'waiting',
    tries      integer          NOT NULL DEFAULT 0,
    progress   double precision NOT NULL DEFAULT 0,
    claim      text,
    holder     text,
    error      text,
    facts      text             NOT NULL DEFAULT '{}',
    staged     text             NOT NULL DEFAULT '[]',
    due_at     timestamptz      NOT NULL DEFAULT now(),
    settled_at timestamptz,
    PRIMARY KEY (upload_id, processor)
);

CREATE INDEX jobs_due ON jobs (processor, due_at) WHERE state IN ('waiting', 'running');
CREATE UNIQUE INDEX jobs_claims ON jobs (claim) WHERE claim IS NOT NULL;
