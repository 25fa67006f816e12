-- Static tokens. Of the secret there is only the SHA-256; permissions are names separated by blanks.
CREATE TABLE api_tokens (
    id           text        PRIMARY KEY,
    digest       bytea       NOT NULL,
    tenant       text        NOT NULL,
    owner        text        NOT NULL,
    permissions  text        NOT NULL,
    label        text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz
);

-- The upload token that was spent on the upload: it makes one only. Earlier uploads had none.
ALTER TABLE uploads ADD COLUMN token_id text;
CREATE UNIQUE INDEX uploads_token ON uploads (tenant, owner, token_id) WHERE token_id IS NOT NULL;
