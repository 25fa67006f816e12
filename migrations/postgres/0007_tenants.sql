-- Which store an upload lies in (NULL: the one of the plain settings), and whether its bytes count as its own.
ALTER TABLE uploads ADD COLUMN route text;
ALTER TABLE uploads ADD COLUMN counted boolean NOT NULL DEFAULT true;

CREATE INDEX uploads_routes ON uploads (route) WHERE route IS NOT NULL;

-- Where a route led when it was first used: it must not lead elsewhere while something lies there.
CREATE TABLE routes (
    name  text PRIMARY KEY,
    place text NOT NULL
);

-- What a tenant with limits has and may have. Tenants without limits have no row, so that their uploads do not wait for
-- one another. While counted_at is NULL the row is not complete yet.
CREATE TABLE tenant_usage (
    tenant         text   PRIMARY KEY,
    bytes          bigint NOT NULL DEFAULT 0,
    files          bigint NOT NULL DEFAULT 0,
    unfinished     bigint NOT NULL DEFAULT 0,
    max_bytes      bigint,
    max_files      bigint,
    max_unfinished bigint,
    counted_at     timestamptz
);

ALTER TABLE tenant_usage SET (fillfactor = 50);

-- The rules of core/quota.py.
CREATE FUNCTION usage_bytes(upload uploads) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN upload.state IN ('uploading', 'sealed', 'complete') AND upload.counted
        THEN coalesce(upload.upload_length, upload.upload_offset) ELSE 0 END
$$;

CREATE FUNCTION usage_files(upload uploads) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN upload.state IN ('uploading', 'sealed', 'complete')
        AND coalesce(upload.role, '') NOT IN ('partial', 'group') THEN 1 ELSE 0 END
$$;

CREATE FUNCTION usage_unfinished(upload uploads) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN upload.state IN ('uploading', 'sealed') AND upload.role IS DISTINCT FROM 'group'
        AND (upload.group_id IS NULL OR upload.upload_offset IS DISTINCT FROM upload.upload_length)
        THEN 1 ELSE 0 END
$$;

-- A trigger, so that no statement can forget to count, not even one of the release before. The row of the upload is
-- locked before that of its tenant by whatever changes both.
CREATE FUNCTION count_usage() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    more_bytes bigint := 0;
    more_files bigint := 0;
    more_unfinished bigint := 0;
    now_used tenant_usage;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        more_bytes := usage_bytes(NEW);
        more_files := usage_files(NEW);
        more_unfinished := usage_unfinished(NEW);
    END IF;
    IF TG_OP <> 'INSERT' THEN
        more_bytes := more_bytes - usage_bytes(OLD);
        more_files := more_files - usage_files(OLD);
        more_unfinished := more_unfinished - usage_unfinished(OLD);
    END IF;
    IF more_bytes = 0 AND more_files = 0 AND more_unfinished = 0 THEN
        RETURN NULL;
    END IF;
    UPDATE tenant_usage
    SET bytes = bytes + more_bytes, files = files + more_files, unfinished = unfinished + more_unfinished
    WHERE tenant = CASE WHEN TG_OP = 'DELETE' THEN OLD.tenant ELSE NEW.tenant END
    RETURNING * INTO now_used;
    IF more_bytes > 0 AND now_used.bytes > now_used.max_bytes THEN
        RAISE EXCEPTION 'bytes' USING ERRCODE = 'TGQ01';
    ELSIF more_files > 0 AND now_used.files > now_used.max_files THEN
        RAISE EXCEPTION 'files' USING ERRCODE = 'TGQ01';
    ELSIF more_unfinished > 0 AND now_used.unfinished > now_used.max_unfinished THEN
        RAISE EXCEPTION 'unfinished' USING ERRCODE = 'TGQ01';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER uploads_come AFTER INSERT ON uploads FOR EACH ROW EXECUTE FUNCTION count_usage();
CREATE TRIGGER uploads_go AFTER DELETE ON uploads FOR EACH ROW EXECUTE FUNCTION count_usage();
-- Not for the step of an upload of declared length: that changes nothing here.
CREATE TRIGGER uploads_change AFTER UPDATE ON uploads FOR EACH ROW
    WHEN (
        OLD.state IS DISTINCT FROM NEW.state OR OLD.upload_length IS DISTINCT FROM NEW.upload_length
        OR OLD.counted IS DISTINCT FROM NEW.counted OR OLD.role IS DISTINCT FROM NEW.role
        OR OLD.upload_offset IS DISTINCT FROM NEW.upload_offset
            AND (NEW.upload_length IS NULL OR NEW.group_id IS NOT NULL)
    )
    EXECUTE FUNCTION count_usage();
