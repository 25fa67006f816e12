-- Uploads that are made of other uploads. role: partial, final, or group: the owner of a multipart upload that several
-- partials share, which becomes their final. concat: the Upload-Concat header of a final. group_id: of a partial whose
-- parts lie in the multipart upload of that group. group_name: how clients refer to a group.
ALTER TABLE uploads ADD COLUMN role TEXT;
ALTER TABLE uploads ADD COLUMN concat TEXT;
ALTER TABLE uploads ADD COLUMN group_id TEXT;
ALTER TABLE uploads ADD COLUMN group_name TEXT;

CREATE UNIQUE INDEX uploads_open_group ON uploads (tenant, owner, group_name)
    WHERE role = 'group' AND state = 'uploading';
CREATE INDEX uploads_members ON uploads (group_id) WHERE group_id IS NOT NULL;

-- What a final is made of, in order.
CREATE TABLE sources (
    upload_id TEXT    NOT NULL,
    position  INTEGER NOT NULL,
    tenant    TEXT    NOT NULL,
    owner     TEXT    NOT NULL,
    source_id TEXT    NOT NULL,
    PRIMARY KEY (upload_id, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX sources_used ON sources (source_id);

-- Complete partials expire, too.
DROP INDEX uploads_expiry;
CREATE INDEX uploads_expiry ON uploads (expires_at)
    WHERE state IN ('uploading', 'complete') AND expires_at IS NOT NULL;
