-- Links by which anybody may read one file. The id is half of the address, the other half is signed and stands nowhere.
-- password: how it is hashed, salt and hash. tries: passwords that were tried since tries_since.
CREATE TABLE shares (
    id            TEXT    PRIMARY KEY NOT NULL,
    tenant        TEXT    NOT NULL,
    owner         TEXT    NOT NULL,
    upload_id     TEXT    NOT NULL,
    created_by    TEXT    NOT NULL,
    password      BLOB,
    max_downloads INTEGER,
    downloads     INTEGER NOT NULL DEFAULT 0,
    tries         INTEGER NOT NULL DEFAULT 0,
    tries_since   INTEGER,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER,
    revoked_at    INTEGER,
    CHECK (downloads <= max_downloads)
) STRICT;

CREATE INDEX shares_of_upload ON shares (upload_id);
