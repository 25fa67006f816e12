-- The statements of SqliteJobs. A step is a function of sqlite_jobs.py; :processors, :ids and :keys are JSON arrays.

-- name: system_claim^
UPDATE jobs
SET state = 'running', claim = :claim, holder = :holder, tries = tries + 1, progress = 0, staged = '[]',
    due_at = now_ms() + ms(:lease)
WHERE rowid = (
    SELECT rowid FROM jobs
    WHERE processor IN (SELECT value FROM json_each(:processors)) AND state IN ('waiting', 'running')
        AND due_at <= now_ms() AND tries < :tries AND (:of_tenant IS NULL OR tenant = :of_tenant)
    ORDER BY due_at, rowid
    LIMIT 1
)
RETURNING *;

-- name: system_get_upload^
SELECT * FROM uploads WHERE id = :upload_id;

-- name: tenant_held^
SELECT * FROM jobs WHERE claim = :claim AND tenant = :tenant AND state = 'running';

-- name: system_lost
SELECT * FROM jobs WHERE state = 'running' AND due_at <= now_ms() AND tries >= :tries ORDER BY due_at LIMIT :limit;

-- name: heartbeat^
UPDATE jobs SET due_at = now_ms() + ms(:lease), progress = max(progress, :progress)
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor AND claim = :claim
    AND state = 'running'
RETURNING upload_id;

-- name: keep_intents!
-- What a job has put into the store stays its own for as long as it is heard of.
UPDATE garbage SET created_at = now_ms()
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND intent_epoch IS NOT NULL AND removed_at IS NULL
    AND created_at > now_ms() - ms(:intent_life);

-- name: get_staged^
SELECT staged FROM jobs
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor AND claim = :claim
    AND state = 'running';

-- name: intend*!
INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, intent_epoch, created_at, due_at)
VALUES (:id, :tenant, :owner, :object_key, :multipart, :epoch, now_ms(), now_ms());

-- name: stage!
UPDATE jobs SET staged = :staged
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor AND claim = :claim;

-- name: get_file^
SELECT * FROM uploads WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'complete';

-- name: settle^
UPDATE jobs
SET state = :state, error = :error, facts = coalesce(:facts, facts), claim = NULL, holder = NULL, staged = '[]',
    progress = CASE :state WHEN 'done' THEN 1 ELSE progress END, tries = tries - :not_counted,
    due_at = now_ms() + ms(:delay), settled_at = CASE WHEN :state <> 'waiting' THEN now_ms() END
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor AND claim = :claim
    AND state = 'running'
RETURNING *;

-- name: take_over
-- Only what the collector cannot be about to remove.
DELETE FROM garbage
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner
    AND object_key IN (SELECT value FROM json_each(:keys)) AND intent_epoch IS NOT NULL AND removed_at IS NULL
    AND created_at > now_ms() - ms(:intent_life)
RETURNING object_key, multipart;

-- name: insert_derived^
INSERT INTO uploads (
    id, tenant, owner, created_via, state, upload_length, upload_offset, grid, epoch, filename, filename_folded,
    content_type, object_key, etag, crc64, completed_at, route, derived_from, derivation, created_at, updated_at
)
VALUES (
    :id, :tenant, :owner, :created_via, 'complete', :length, :length, :grid, 0, :filename, :filename_folded,
    :content_type, :object_key, :etag, :crc64, now_ms(), :route, :derived_from, :derivation, now_ms(), now_ms()
)
RETURNING *;

-- name: list_states
SELECT state, is_gate FROM jobs WHERE upload_id = :id AND tenant = :tenant AND owner = :owner;

-- name: note_outcome^
UPDATE uploads SET processing = :processing, withheld = :withheld, updated_at = now_ms()
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'complete'
RETURNING *;

-- name: revive
UPDATE jobs
SET state = 'waiting', tries = 0, claim = NULL, holder = NULL, due_at = now_ms(), settled_at = NULL, progress = 0
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND state = 'dead'
    AND (:processor IS NULL OR processor = :processor)
RETURNING processor;

-- name: system_find
SELECT jobs.* FROM jobs JOIN uploads ON uploads.id = jobs.upload_id
WHERE (:upload_id IS NULL OR jobs.upload_id = :upload_id)
    AND (:of_tenant IS NULL OR jobs.tenant = :of_tenant)
    AND (:processor IS NULL OR jobs.processor = :processor)
    AND (:state IS NULL OR jobs.state = :state)
    AND (:since IS NULL OR uploads.completed_at >= :since)
    AND (:until IS NULL OR uploads.completed_at < :until)
    AND (:after_upload IS NULL OR (jobs.upload_id, jobs.processor) > (:after_upload, :after_processor))
ORDER BY jobs.upload_id, jobs.processor
LIMIT :limit;

-- name: system_get_uploads
SELECT * FROM uploads WHERE id IN (SELECT value FROM json_each(:ids));

-- name: drop^
DELETE FROM jobs
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND processor = :processor
    AND (state IN ('waiting', 'dead') OR state = 'running' AND due_at <= (SELECT now_ms()))
RETURNING processor;

-- name: system_overdue
SELECT processor, count(*) AS jobs, (now_ms() - min(due_at)) / 1000.0 AS seconds FROM jobs
WHERE state IN ('waiting', 'running') AND due_at <= now_ms() - ms(:patience)
GROUP BY processor
ORDER BY processor;

-- name: system_backlog
SELECT processor, count(*) FILTER (WHERE state = 'waiting') AS waiting,
    count(*) FILTER (WHERE state = 'running') AS running, max(0, now_ms() - min(due_at)) / 1000.0 AS seconds
FROM jobs
WHERE state IN ('waiting', 'running')
GROUP BY processor
ORDER BY processor;

-- name: system_count_dead
SELECT processor, count(*) AS jobs FROM jobs WHERE state = 'dead' GROUP BY processor ORDER BY processor;

-- name: list_jobs
SELECT * FROM jobs
WHERE upload_id IN (SELECT value FROM json_each(:ids)) AND tenant = :tenant AND owner = :owner
ORDER BY processor;

-- name: list_derived
SELECT * FROM uploads
WHERE derived_from IN (SELECT value FROM json_each(:ids)) AND tenant = :tenant AND owner = :owner
    AND state = 'complete'
ORDER BY derivation;
