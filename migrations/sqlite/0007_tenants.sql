-- Which store an upload lies in (NULL: the one of the plain settings), and whether its bytes count as its own.
ALTER TABLE uploads ADD COLUMN route TEXT;
ALTER TABLE uploads ADD COLUMN counted INTEGER NOT NULL DEFAULT 1;

CREATE INDEX uploads_routes ON uploads (route) WHERE route IS NOT NULL;

-- Where a route led when it was first used: it must not lead elsewhere while something lies there.
CREATE TABLE routes (
    name  TEXT PRIMARY KEY,
    place TEXT NOT NULL
) STRICT;

-- What a tenant with limits has and may have, and by how much the last change made it more. Tenants without limits have
-- no row. What a limit keeps from growing may be above it: limits shrink.
CREATE TABLE tenant_usage (
    tenant           TEXT    PRIMARY KEY,
    bytes            INTEGER NOT NULL,
    files            INTEGER NOT NULL,
    unfinished       INTEGER NOT NULL,
    more_bytes       INTEGER NOT NULL DEFAULT 0,
    more_files       INTEGER NOT NULL DEFAULT 0,
    more_unfinished  INTEGER NOT NULL DEFAULT 0,
    max_bytes        INTEGER,
    max_files        INTEGER,
    max_unfinished   INTEGER,
    CONSTRAINT quota_bytes CHECK (more_bytes <= 0 OR max_bytes IS NULL OR bytes <= max_bytes),
    CONSTRAINT quota_files CHECK (more_files <= 0 OR max_files IS NULL OR files <= max_files),
    CONSTRAINT quota_unfinished CHECK (more_unfinished <= 0 OR max_unfinished IS NULL OR unfinished <= max_unfinished)
) STRICT;

-- The rules of core/quota.py.
CREATE VIEW counted_uploads AS
SELECT id, tenant,
    CASE WHEN state IN ('uploading', 'sealed', 'complete') AND counted
        THEN coalesce(upload_length, upload_offset) ELSE 0 END AS bytes,
    state IN ('uploading', 'sealed', 'complete') AND coalesce(role, '') NOT IN ('partial', 'group') AS files,
    state IN ('uploading', 'sealed') AND role IS NOT 'group'
        AND (group_id IS NULL OR upload_offset IS NOT upload_length) AS unfinished
FROM uploads;

-- Triggers, so that no statement can forget to count, not even one of the release before.
CREATE TRIGGER uploads_come AFTER INSERT ON uploads
BEGIN
    UPDATE tenant_usage
    SET bytes = tenant_usage.bytes + upload.bytes, more_bytes = upload.bytes,
        files = tenant_usage.files + upload.files, more_files = upload.files,
        unfinished = tenant_usage.unfinished + upload.unfinished, more_unfinished = upload.unfinished
    FROM counted_uploads AS upload
    WHERE upload.id = NEW.id AND tenant_usage.tenant = NEW.tenant;
END;

CREATE TRIGGER uploads_go BEFORE DELETE ON uploads
BEGIN
    UPDATE tenant_usage
    SET bytes = tenant_usage.bytes - upload.bytes, more_bytes = 0,
        files = tenant_usage.files - upload.files, more_files = 0,
        unfinished = tenant_usage.unfinished - upload.unfinished, more_unfinished = 0
    FROM counted_uploads AS upload
    WHERE upload.id = OLD.id AND tenant_usage.tenant = OLD.tenant;
END;

-- Not for the step of an upload of declared length: that changes nothing here.
CREATE TRIGGER uploads_change AFTER UPDATE ON uploads
WHEN OLD.state IS NOT NEW.state OR OLD.upload_length IS NOT NEW.upload_length OR OLD.counted IS NOT NEW.counted
    OR OLD.role IS NOT NEW.role
    OR OLD.upload_offset IS NOT NEW.upload_offset AND (NEW.upload_length IS NULL OR NEW.group_id IS NOT NULL)
BEGIN
    UPDATE tenant_usage
    SET bytes = tenant_usage.bytes + upload.bytes - former.bytes, more_bytes = upload.bytes - former.bytes,
        files = tenant_usage.files + upload.files - former.files, more_files = upload.files - former.files,
        unfinished = tenant_usage.unfinished + upload.unfinished - former.unfinished,
        more_unfinished = upload.unfinished - former.unfinished
    FROM counted_uploads AS upload, (
        SELECT
            CASE WHEN OLD.state IN ('uploading', 'sealed', 'complete') AND OLD.counted
                THEN coalesce(OLD.upload_length, OLD.upload_offset) ELSE 0 END AS bytes,
            OLD.state IN ('uploading', 'sealed', 'complete')
                AND coalesce(OLD.role, '') NOT IN ('partial', 'group') AS files,
            OLD.state IN ('uploading', 'sealed') AND OLD.role IS NOT 'group'
                AND (OLD.group_id IS NULL OR OLD.upload_offset IS NOT OLD.upload_length) AS unfinished
    ) AS former
    WHERE upload.id = NEW.id AND tenant_usage.tenant = NEW.tenant;
END;
