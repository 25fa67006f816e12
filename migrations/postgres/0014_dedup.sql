-- Equal files of a tenant may share an object. object_of: the upload that the object was made by, where that is another
-- one; it may be gone. Whoever collects garbage looks there for those who still need it.
ALTER TABLE uploads ADD COLUMN object_of text;

CREATE INDEX uploads_sharing ON uploads (object_of) WHERE object_of IS NOT NULL AND state = 'complete';
CREATE INDEX uploads_twins ON uploads (tenant, sha256) WHERE sha256 IS NOT NULL AND state = 'complete';
