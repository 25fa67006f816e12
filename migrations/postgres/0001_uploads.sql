-- Uploads and what they have stored. All times are the server's clock.
-- crc64 columns hold the unsigned value as 8 bytes, big endian: bigint is signed.

CREATE TABLE uploads (
    id            text        PRIMARY KEY,
    tenant        text        NOT NULL,
    owner         text        NOT NULL,
    created_via   text        NOT NULL,
    state         text        NOT NULL,
    upload_length bigint,
    upload_offset bigint      NOT NULL,
    grid          text        NOT NULL,
    epoch         bigint      NOT NULL,
    holder        text,
    held_since    timestamptz,
    metadata      bytea,
    filename      text,
    content_type  text,
    object_key    text        NOT NULL,
    put_attempts  integer     NOT NULL DEFAULT 0,
    multipart_id  text,
    etag          text,
    crc64         bytea,
    reason        text,
    finisher      text,
    finisher_until timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    completed_at  timestamptz,
    expires_at    timestamptz,
    CHECK (upload_offset >= 0 AND upload_offset <= upload_length)
);

-- Room on each page for the new row version of every step (heap-only updates).
ALTER TABLE uploads SET (fillfactor = 80);

CREATE INDEX uploads_sealed ON uploads (updated_at) WHERE state = 'sealed';
CREATE INDEX uploads_expiry ON uploads (expires_at) WHERE state = 'uploading';

CREATE TABLE parts (
    upload_id    text    NOT NULL,
    number       integer NOT NULL,
    tenant       text    NOT NULL,
    owner        text    NOT NULL,
    start_offset bigint  NOT NULL,
    size         bigint  NOT NULL,
    etag         text    NOT NULL,
    crc64        bytea   NOT NULL,
    PRIMARY KEY (upload_id, number)
);

CREATE TABLE pieces (
    upload_id    text   NOT NULL,
    start_offset bigint NOT NULL,
    tenant       text   NOT NULL,
    owner        text   NOT NULL,
    size         bigint NOT NULL,
    crc64        bytea  NOT NULL,
    object_key   text,
    data         bytea,
    PRIMARY KEY (upload_id, start_offset),
    CHECK ((object_key IS NULL) <> (data IS NULL))
);

-- What may have to be removed from the store. A row with an epoch is an intent: it was written by the writer with
-- that epoch before it created something, and is collected only when that writer can no longer record it.
CREATE TABLE garbage (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    upload_id    text        NOT NULL,
    tenant       text        NOT NULL,
    owner        text        NOT NULL,
    object_key   text        NOT NULL,
    multipart    boolean     NOT NULL,
    multipart_id text,
    intent_epoch bigint,
    tries        integer     NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL DEFAULT now(),
    due_at       timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX garbage_due ON garbage (due_at);
CREATE INDEX garbage_upload ON garbage (upload_id);
