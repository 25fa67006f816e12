-- The statements of PostgresJobs. Whoever settles a job locks the row of its file first, as those do who end the file.

-- name: system_claim^
-- WITH, which is done once: a subquery in FROM is done again for each job where the planner takes the table for very small,
-- and finds another one each time.
WITH due AS MATERIALIZED (
    SELECT upload_id, processor FROM jobs
    WHERE processor = ANY(:processors::text[]) AND state IN ('waiting', 'running') AND due_at <= now()
        AND tries < :tries AND (:of_tenant::text IS NULL OR tenant = :of_tenant)
    ORDER BY due_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs
SET state = 'running', claim = :claim, holder = :holder, tries = jobs.tries + 1, progress = 0, staged = '[]',
    due_at = now() + make_interval(secs => :lease)
FROM due
WHERE jobs.upload_id = due.upload_id AND jobs.processor = due.processor
RETURNING jobs.*;

-- name: system_get_upload^
SELECT * FROM uploads WHERE id = :upload_id;

-- name: tenant_held^
SELECT * FROM jobs WHERE claim = :claim AND tenant = :tenant AND state = 'running';

-- name: system_lost
SELECT * FROM jobs WHERE state = 'running' AND due_at <= now() AND tries >= :tries ORDER BY due_at LIMIT :limit;

-- name: heartbeat^
-- What it has put into the store stays its own for as long as it is heard of.
WITH renewed AS (
    UPDATE jobs
    SET due_at = now() + make_interval(secs => :lease), progress = greatest(progress, :progress)
    WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor AND claim = :claim
        AND state = 'running'
    RETURNING upload_id
), kept AS (
    UPDATE garbage SET created_at = now() FROM renewed
    WHERE garbage.upload_id = renewed.upload_id AND garbage.tenant = :tenant AND garbage.owner = :owner
        AND garbage.intent_epoch IS NOT NULL AND garbage.removed_at IS NULL
        AND garbage.created_at > now() - make_interval(secs => :intent_life)
)
SELECT upload_id FROM renewed;

-- name: intend^
WITH held AS (
    SELECT upload_id FROM jobs
    WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor AND claim = :claim
        AND state = 'running'
), intents AS (
    INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, intent_epoch)
    SELECT upload_id, :tenant, :owner, :object_key, what.multipart, :epoch
    FROM held, (VALUES (false), (true)) AS what (multipart)
)
SELECT upload_id FROM held;

-- name: get_staged^
SELECT staged FROM jobs
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor AND claim = :claim
    AND state = 'running'
FOR UPDATE;

-- name: stage!
UPDATE jobs SET staged = :staged
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor AND claim = :claim;

-- name: lock_file^
SELECT * FROM uploads WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'complete' FOR UPDATE;

-- name: settle^
UPDATE jobs
SET state = :state, error = :error, facts = coalesce(:facts, facts), claim = NULL, holder = NULL, staged = '[]',
    progress = CASE :state WHEN 'done' THEN 1 ELSE progress END, tries = tries - :not_counted,
    due_at = now() + make_interval(secs => :delay), settled_at = CASE WHEN :state <> 'waiting' THEN now() END
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor AND claim = :claim
    AND state = 'running'
RETURNING *;

-- name: take_over
-- Only what the collector cannot be about to remove.
DELETE FROM garbage
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND object_key = ANY(:keys::text[])
    AND intent_epoch IS NOT NULL AND removed_at IS NULL
    AND created_at > now() - make_interval(secs => :intent_life)
RETURNING object_key, multipart;

-- name: insert_derived^
INSERT INTO uploads (
    id, tenant, owner, created_via, state, upload_length, upload_offset, grid, epoch, filename, filename_folded,
    content_type, object_key, etag, crc64, completed_at, route, derived_from, derivation, event_number
)
VALUES (
    :id, :tenant, :owner, :created_via, 'complete', :length, :length, :grid, 0, :filename, :filename_folded,
    :content_type, :object_key, :etag, :crc64, now(), :route, :derived_from, :derivation, 0
)
RETURNING *;

-- name: list_states
SELECT state, is_gate FROM jobs WHERE upload_id = :id AND tenant = :tenant AND owner = :owner;

-- name: note_outcome^
UPDATE uploads SET processing = :processing, withheld = :withheld, updated_at = now()
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'complete'
RETURNING *;

-- name: revive
UPDATE jobs
SET state = 'waiting', tries = 0, claim = NULL, holder = NULL, due_at = now(), settled_at = NULL, progress = 0
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND state = 'dead'
    AND (:processor::text IS NULL OR processor = :processor)
RETURNING processor;

-- name: system_find
SELECT jobs.* FROM jobs JOIN uploads ON uploads.id = jobs.upload_id
WHERE (:upload_id::text IS NULL OR jobs.upload_id = :upload_id)
    AND (:of_tenant::text IS NULL OR jobs.tenant = :of_tenant)
    AND (:processor::text IS NULL OR jobs.processor = :processor)
    AND (:state::text IS NULL OR jobs.state = :state)
    AND (:since::timestamptz IS NULL OR uploads.completed_at >= :since)
    AND (:until::timestamptz IS NULL OR uploads.completed_at < :until)
    AND (:after_upload::text IS NULL OR (jobs.upload_id, jobs.processor) > (:after_upload, :after_processor::text))
ORDER BY jobs.upload_id, jobs.processor
LIMIT :limit;

-- name: system_get_uploads
SELECT * FROM uploads WHERE id = ANY(:ids::text[]);

-- name: drop^
DELETE FROM jobs
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor
    AND (state IN ('waiting', 'dead') OR state = 'running' AND due_at <= now())
RETURNING processor;

-- name: system_overdue
SELECT processor, count(*) AS jobs, extract(epoch FROM now() - min(due_at))::double precision AS seconds FROM jobs
WHERE state IN ('waiting', 'running') AND due_at <= now() - make_interval(secs => :patience)
GROUP BY processor
ORDER BY processor;

-- name: system_backlog
SELECT processor, count(*) FILTER (WHERE state = 'waiting') AS waiting,
    count(*) FILTER (WHERE state = 'running') AS running, greatest(0, extract(epoch FROM now() - min(due_at)))::double precision AS seconds
FROM jobs
WHERE state IN ('waiting', 'running')
GROUP BY processor
ORDER BY processor;

-- name: system_count_dead
SELECT processor, count(*) AS jobs FROM jobs WHERE state = 'dead' GROUP BY processor ORDER BY processor;

-- name: list_jobs
SELECT * FROM jobs WHERE upload_id = ANY(:ids::text[]) AND tenant = :tenant AND owner = :owner ORDER BY processor;

-- name: list_derived
SELECT * FROM uploads
WHERE derived_from = ANY(:ids::text[]) AND tenant = :tenant AND owner = :owner AND state = 'complete'
ORDER BY derivation;
