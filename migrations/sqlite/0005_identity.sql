-- Static tokens. Of the secret there is only the SHA-256; permissions are names separated by blanks.
CREATE TABLE api_tokens (
    id           TEXT    PRIMARY KEY NOT NULL,
    digest       BLOB    NOT NULL,
    tenant       TEXT    NOT NULL,
    owner        TEXT    NOT NULL,
    permissions  TEXT    NOT NULL,
    label        TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER
) STRICT;

-- The upload token that was spent on the upload: it makes one only. Earlier uploads had none.
ALTER TABLE uploads ADD COLUMN token_id TEXT;
CREATE UNIQUE INDEX uploads_token ON uploads (tenant, owner, token_id) WHERE token_id IS NOT NULL;
