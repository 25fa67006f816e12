-- Uploads and what they have stored. All times are integer milliseconds since 1970, UTC.
-- crc64 columns hold the unsigned value as 8 bytes, big endian: integers are signed.

CREATE TABLE uploads (
    id            TEXT    PRIMARY KEY NOT NULL,
    tenant        TEXT    NOT NULL,
    owner         TEXT    NOT NULL,
    created_via   TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    upload_length INTEGER,
    upload_offset INTEGER NOT NULL,
    grid          TEXT    NOT NULL,
    epoch         INTEGER NOT NULL,
    holder        TEXT,
    held_since    INTEGER,
    metadata      BLOB,
    filename      TEXT,
    content_type  TEXT,
    object_key    TEXT    NOT NULL,
    put_attempts  INTEGER NOT NULL DEFAULT 0,
    multipart_id  TEXT,
    etag          TEXT,
    crc64         BLOB,
    reason        TEXT,
    finisher      TEXT,
    finisher_until INTEGER,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    completed_at  INTEGER,
    expires_at    INTEGER,
    CHECK (upload_offset >= 0 AND upload_offset <= upload_length)
) STRICT;

CREATE INDEX uploads_sealed ON uploads (updated_at) WHERE state = 'sealed';
CREATE INDEX uploads_expiry ON uploads (expires_at) WHERE state = 'uploading';

CREATE TABLE parts (
    upload_id    TEXT    NOT NULL,
    number       INTEGER NOT NULL,
    tenant       TEXT    NOT NULL,
    owner        TEXT    NOT NULL,
    start_offset INTEGER NOT NULL,
    size         INTEGER NOT NULL,
    etag         TEXT    NOT NULL,
    crc64        BLOB    NOT NULL,
    PRIMARY KEY (upload_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE pieces (
    upload_id    TEXT    NOT NULL,
    start_offset INTEGER NOT NULL,
    tenant       TEXT    NOT NULL,
    owner        TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    crc64        BLOB    NOT NULL,
    object_key   TEXT,
    data         BLOB,
    PRIMARY KEY (upload_id, start_offset),
    CHECK ((object_key IS NULL) <> (data IS NULL))
) STRICT;

-- What may have to be removed from the store. A row with an epoch is an intent: it was written by the writer with
-- that epoch before it created something, and is collected only when that writer can no longer record it.
CREATE TABLE garbage (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    upload_id    TEXT    NOT NULL,
    tenant       TEXT    NOT NULL,
    owner        TEXT    NOT NULL,
    object_key   TEXT    NOT NULL,
    multipart    INTEGER NOT NULL,
    multipart_id TEXT,
    intent_epoch INTEGER,
    tries        INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    due_at       INTEGER NOT NULL
) STRICT;

CREATE INDEX garbage_due ON garbage (due_at);
CREATE INDEX garbage_upload ON garbage (upload_id);
