-- Links by which anybody may read one file. The id is half of the address, the other half is signed and stands nowhere.
-- password: how it is hashed, salt and hash. tries: passwords that were tried since tries_since.
CREATE TABLE shares (
    id            text        PRIMARY KEY,
    tenant        text        NOT NULL,
    owner         text        NOT NULL,
    upload_id     text        NOT NULL,
    created_by    text        NOT NULL,
    password      bytea,
    max_downloads bigint,
    downloads     bigint      NOT NULL DEFAULT 0,
    tries         integer     NOT NULL DEFAULT 0,
    tries_since   timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    CHECK (downloads <= max_downloads)
);

CREATE INDEX shares_of_upload ON shares (upload_id);
