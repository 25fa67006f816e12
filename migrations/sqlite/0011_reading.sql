-- Who read what: one row per access. reader and proof: the owner in whose name it was, and how that was known; proof is
-- share:<id> for a share link. sent: bytes, when it has ended.
CREATE TABLE accesses (
    id          TEXT    PRIMARY KEY NOT NULL,
    tenant      TEXT    NOT NULL,
    owner       TEXT    NOT NULL,
    upload_id   TEXT    NOT NULL,
    reader      TEXT    NOT NULL,
    proof       TEXT    NOT NULL,
    how         TEXT    NOT NULL,
    client      TEXT,
    first_byte  INTEGER,
    wanted      INTEGER,
    sent        INTEGER,
    outcome     TEXT    NOT NULL,
    began_at    INTEGER NOT NULL,
    ended_at    INTEGER
) STRICT;

CREATE INDEX accesses_of_upload ON accesses (upload_id, began_at);
CREATE INDEX accesses_of_tenant ON accesses (tenant, began_at, id);
CREATE INDEX accesses_age ON accesses (began_at);

-- retain_until: until then nobody deletes the file, and it does not expire. ended_by: how whoever deleted it was known.
-- sha256: of all bytes; digest_due_at: when somebody may compute it, NULL where nobody has to.
ALTER TABLE uploads ADD COLUMN retain_until INTEGER;
ALTER TABLE uploads ADD COLUMN ended_by TEXT;
ALTER TABLE uploads ADD COLUMN sha256 BLOB;
ALTER TABLE uploads ADD COLUMN digest_due_at INTEGER;
CREATE INDEX uploads_undigested ON uploads (digest_due_at) WHERE digest_due_at IS NOT NULL;
