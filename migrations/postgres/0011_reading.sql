-- Who read what: one row per access. reader and proof: the owner in whose name it was, and how that was known; proof is
-- share:<id> for a share link. sent: bytes, when it has ended.
CREATE TABLE accesses (
    id          text        PRIMARY KEY,
    tenant      text        NOT NULL,
    owner       text        NOT NULL,
    upload_id   text        NOT NULL,
    reader      text        NOT NULL,
    proof       text        NOT NULL,
    how         text        NOT NULL,
    client      text,
    first_byte  bigint,
    wanted      bigint,
    sent        bigint,
    outcome     text        NOT NULL,
    began_at    timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz
);

CREATE INDEX accesses_of_upload ON accesses (upload_id, began_at);
CREATE INDEX accesses_of_tenant ON accesses (tenant, began_at, id);
CREATE INDEX accesses_age ON accesses (began_at);

-- retain_until: until then nobody deletes the file, and it does not expire. ended_by: how whoever deleted it was known.
-- sha256: of all bytes; digest_due_at: when somebody may compute it, NULL where nobody has to.
ALTER TABLE uploads ADD COLUMN retain_until timestamptz;
ALTER TABLE uploads ADD COLUMN ended_by text;
ALTER TABLE uploads ADD COLUMN sha256 bytea;
ALTER TABLE uploads ADD COLUMN digest_due_at timestamptz;
CREATE INDEX uploads_undigested ON uploads (digest_due_at) WHERE digest_due_at IS NOT NULL;
