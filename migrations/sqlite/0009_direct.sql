-- What was declared of the parts of a direct upload (JSON); NULL for all uploads that go through the gateway.
-- From here on parts.crc64 may be empty: nobody has computed it.
ALTER TABLE uploads ADD COLUMN plan TEXT;

-- What the client tells the file by, and the digest that was verified: both find an upload again.
ALTER TABLE uploads ADD COLUMN fingerprint TEXT;
CREATE INDEX uploads_fingerprint ON uploads (tenant, owner, fingerprint) WHERE fingerprint IS NOT NULL;
CREATE INDEX uploads_digest ON uploads (tenant, owner, crc64) WHERE state = 'complete';
