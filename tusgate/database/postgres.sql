-- The statements of PostgresDatabase. A step is one statement, so it is one round trip and one commit, except where
-- a row must be locked before the rows that hang on it are read (end_upload): a statement that waited for a lock sees
-- the newest version of the locked row, but all other rows as they were when it began.
--
-- Every statement that serves a request names tenant and owner wherever it reads or changes a table. Those of the
-- jobs, and those about tokens, work across tenants; their names begin with system_. Those for an
-- administrator of one tenant name that, and begin with tenant_.
--
-- :sinks are those that want the event that a statement is; it is written unless they are NULL.
-- An event occurs when its row is written, not when its transaction began: that may have waited for the one before.

-- name: create_upload^
WITH created AS (
    INSERT INTO uploads (
        id, tenant, owner, created_via, state, upload_length, upload_offset, grid, epoch, held_since, metadata,
        filename, filename_folded, content_type, content_coding, object_key, put_attempts, token_id, expires_at, role,
        concat, group_id, route, plan, fingerprint, event_number
    )
    VALUES (
        :id, :tenant, :owner, :created_via, :state, :length, :offset, :grid, :epoch,
        CASE WHEN :epoch::bigint > 0 THEN now() END, :metadata, :filename, :filename_folded, :content_type,
        :content_coding, :object_key, coalesce(:attempt, 0), :token_id,
        least(now() + make_interval(secs => :lifetime), now() + make_interval(secs => :max_age)),
        :role, :concat, :group, :route, :plan, :fingerprint, 1
    )
    ON CONFLICT (tenant, owner, token_id) WHERE token_id IS NOT NULL DO NOTHING
    RETURNING *
), new_intents AS (
    INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, intent_epoch)
    SELECT created.id, created.tenant, created.owner, intent.object_key, intent.multipart, created.epoch
    FROM created, unnest(:intent_keys::text[], :intent_multiparts::boolean[]) AS intent (object_key, multipart)
), told AS (
    INSERT INTO events (upload_id, number, tenant, owner, type, upload, occurred_at)
    SELECT id, event_number, tenant, owner, 'upload.created', to_json(created), clock_timestamp() FROM created
    WHERE :sinks::text[] IS NOT NULL
    RETURNING *
), deliveries_of_it AS (
    INSERT INTO deliveries (upload_id, number, sink, tenant, owner)
    SELECT upload_id, number, sink, tenant, owner FROM told, unnest(:sinks::text[]) AS sink
)
SELECT * FROM created;

-- name: get_upload_of_token^
SELECT * FROM uploads WHERE token_id = :token_id AND tenant = :tenant AND owner = :owner;

-- name: get_upload^
SELECT * FROM uploads WHERE id = :id AND tenant = :tenant AND owner = :owner;

-- name: list_files
-- Bounds are never NULL, so that the page is read from uploads_listing, from its first row to its last. Rows of earlier
-- releases have no folded name: what the server knows about letters has to do for them.
SELECT * FROM uploads
WHERE tenant = :tenant AND owner = :owner
    AND (created_at, id) < (coalesce(:after_time::timestamptz, 'infinity'), :after_id)
    AND created_at >= coalesce(:created_from::timestamptz, '-infinity')
    AND created_at < coalesce(:created_before::timestamptz, 'infinity')
    AND state = ANY(:states::text[])
    AND (:created_via::text IS NULL OR created_via = :created_via)
    AND (:type_prefix::text IS NULL OR starts_with(lower(content_type) || ';', :type_prefix))
    AND (:name_prefix::text IS NULL OR starts_with(coalesce(filename_folded, lower(filename)), :name_prefix))
    AND (:name_part::text IS NULL OR strpos(coalesce(filename_folded, lower(filename)), :name_part) > 0)
    AND (role IS NULL OR role = 'final') AND derived_from IS NOT DISTINCT FROM :derived_from::text
ORDER BY created_at DESC, id DESC
LIMIT :limit;

-- name: find_by_fingerprint
-- Each of the three by its own index.
WITH found AS (
    SELECT id FROM uploads
    WHERE tenant = :tenant AND owner = :owner AND fingerprint = :fingerprint
        AND state IN ('uploading', 'sealed', 'complete')
    UNION
    SELECT id FROM uploads
    WHERE tenant = :tenant AND owner = :owner AND crc64 = :crc64::bytea AND state = 'complete'
    UNION
    SELECT id FROM uploads
    WHERE tenant = :tenant AND owner = :owner AND sha256 = :sha256::bytea AND state = 'complete'
)
SELECT uploads.* FROM found CROSS JOIN uploads
WHERE uploads.id = found.id AND uploads.tenant = :tenant AND uploads.owner = :owner
    AND (uploads.role IS NULL OR uploads.role = 'final') AND uploads.derived_from IS NULL
ORDER BY uploads.created_at DESC, uploads.id DESC
LIMIT :limit;

-- name: describe^
UPDATE uploads
SET filename = CASE WHEN :sets_filename THEN :filename ELSE filename END,
    filename_folded = CASE WHEN :sets_filename THEN :filename_folded ELSE filename_folded END,
    content_type = CASE WHEN :sets_content_type THEN :content_type ELSE content_type END,
    expires_at = CASE WHEN :sets_expires_at THEN :expires_at::timestamptz ELSE expires_at END,
    retain_until = CASE WHEN :sets_retain_until THEN :retain_until::timestamptz ELSE retain_until END,
    updated_at = now()
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state IN ('uploading', 'sealed', 'complete')
    AND (role IS NULL OR role <> 'group')
    AND (
        NOT :sets_expires_at
        OR state = 'complete' AND role IS DISTINCT FROM 'partial' AND coalesce(:expires_at > now(), true)
    )
    AND (
        NOT :sets_retain_until
        OR state = 'complete' AND role IS DISTINCT FROM 'partial' AND coalesce(:retain_until > now(), true)
            AND (
                :may_shorten::boolean OR retain_until IS NULL OR retain_until <= now()
                OR coalesce(:retain_until >= retain_until, false)
            )
    )
RETURNING *;

-- name: claim
-- One row per piece of the open cell, one without a piece when there is none. The row as it was (before) must still
-- be the newest one: else the pieces that this statement sees may be those of an older state. An attempt that was
-- announced since the caller read the row would get its key a second time.
WITH claimed AS (
    UPDATE uploads
    SET epoch = uploads.epoch + 1, holder = :holder, held_since = now(),
        put_attempts = coalesce(:attempt, uploads.put_attempts)
    FROM uploads AS before
    WHERE uploads.id = :id AND uploads.tenant = :tenant AND uploads.owner = :owner
        AND uploads.epoch = :epoch AND uploads.upload_offset = :offset AND uploads.state = 'uploading'
        AND uploads.put_attempts = :put_attempts
        AND before.id = :id AND before.tenant = :tenant AND before.owner = :owner
        AND before.updated_at = uploads.updated_at
    RETURNING uploads.*, CASE
        WHEN before.holder IS DISTINCT FROM :holder AND before.epoch > 0
        THEN pg_notify('tusgate_writer', uploads.id || ' ' || uploads.epoch)
    END AS told
), new_intents AS (
    INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, intent_epoch)
    SELECT claimed.id, claimed.tenant, claimed.owner, intent.object_key, intent.multipart, claimed.epoch
    FROM claimed, unnest(:intent_keys::text[], :intent_multiparts::boolean[]) AS intent (object_key, multipart)
)
SELECT claimed.*, piece.start_offset AS piece_start_offset, piece.size AS piece_size, piece.crc64 AS piece_crc64,
    piece.object_key AS piece_object_key, piece.data AS piece_data
FROM claimed
LEFT JOIN pieces AS piece
    ON piece.upload_id = claimed.id AND piece.tenant = :tenant AND piece.owner = :owner
    AND piece.start_offset >= :cell_start
ORDER BY piece.start_offset;

-- name: intend^
WITH announced AS (
    UPDATE uploads SET put_attempts = coalesce(:attempt, put_attempts)
    WHERE id = :id AND tenant = :tenant AND owner = :owner AND epoch = :epoch AND state IN ('uploading', 'sealed')
    RETURNING *
), new_intents AS (
    INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, intent_epoch)
    SELECT announced.id, announced.tenant, announced.owner, intent.object_key, intent.multipart, announced.epoch
    FROM announced, unnest(:intent_keys::text[], :intent_multiparts::boolean[]) AS intent (object_key, multipart)
)
SELECT id FROM announced;

-- name: record_multipart^
-- Drops one intent only: of two announced with the same epoch, the other may have made a multipart upload too.
WITH recorded AS (
    UPDATE uploads SET multipart_id = :multipart_id, object_key = :object_key, updated_at = now()
    WHERE id = :id AND tenant = :tenant AND owner = :owner AND epoch = :epoch AND state IN ('uploading', 'sealed')
        AND multipart_id IS NULL
    RETURNING *
), settled AS (
    DELETE FROM garbage USING recorded
    WHERE garbage.tenant = :tenant AND garbage.owner = :owner AND garbage.id = (
        SELECT min(id) FROM garbage
        WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND intent_epoch = :epoch AND multipart
    )
)
SELECT * FROM recorded;

-- name: replan^
UPDATE uploads
SET plan = :plan, upload_length = :length, fingerprint = :fingerprint, epoch = epoch + 1, held_since = now(),
    updated_at = now()
WHERE id = :id AND tenant = :tenant AND owner = :owner
    AND epoch = :epoch AND upload_offset = :offset AND state = 'uploading'
RETURNING *;

-- name: advance^
-- New pieces may take the place of absorbed ones: the deletion comes first (after_absorbing).
WITH moved AS (
    UPDATE uploads
    SET upload_offset = :end, upload_length = :length, state = :state, updated_at = now(),
        expires_at = least(
            now() + make_interval(secs => :lifetime), created_at + make_interval(secs => :max_age)
        ),
        (event_number, progress_told_at) = (
            SELECT CASE WHEN is_due THEN event_number + 1 ELSE event_number END,
                CASE WHEN is_due THEN now() ELSE progress_told_at END
            FROM (SELECT :sinks::text[] IS NOT NULL AND upload_offset < :end AND (
                progress_told_at IS NULL OR progress_told_at <= now() - make_interval(secs => :progress_every)
            )) AS progress (is_due)
        )
    WHERE id = :id AND tenant = :tenant AND owner = :owner
        AND epoch = :epoch AND upload_offset = :offset AND state = 'uploading'
    RETURNING *
), new_parts AS (
    INSERT INTO parts (upload_id, tenant, owner, number, start_offset, size, etag, crc64, sha256)
    SELECT moved.id, moved.tenant, moved.owner, part.*
    FROM moved, unnest(
        :part_numbers::integer[], :part_starts::bigint[], :part_sizes::bigint[], :part_etags::text[],
        :part_crcs::bytea[], :part_digests::bytea[]
    ) AS part
), absorbed AS (
    DELETE FROM pieces USING moved
    WHERE pieces.upload_id = moved.id AND pieces.tenant = :tenant AND pieces.owner = :owner
        AND pieces.start_offset >= :absorb_from AND pieces.start_offset < :absorb_to
    RETURNING pieces.*
), discarded AS (
    INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart)
    SELECT upload_id, tenant, owner, object_key, false FROM absorbed WHERE object_key IS NOT NULL
), new_pieces AS (
    INSERT INTO pieces (upload_id, tenant, owner, start_offset, size, crc64, object_key, data)
    SELECT moved.id, moved.tenant, moved.owner, piece.*
    FROM moved, (SELECT count(*) FROM absorbed) AS after_absorbing, unnest(
        :piece_starts::bigint[], :piece_sizes::bigint[], :piece_crcs::bytea[], :piece_keys::text[],
        :piece_data::bytea[]
    ) AS piece
), settled AS (
    DELETE FROM garbage USING moved
    WHERE garbage.upload_id = moved.id AND garbage.tenant = :tenant AND garbage.owner = :owner
        AND garbage.intent_epoch = :epoch AND NOT garbage.multipart
        AND garbage.object_key = ANY(:piece_keys::text[])
), told AS (
    INSERT INTO events (upload_id, number, tenant, owner, type, upload, occurred_at)
    SELECT id, event_number, tenant, owner, 'upload.progress', to_json(moved), clock_timestamp() FROM moved
    WHERE :sinks::text[] IS NOT NULL AND progress_told_at = now()
    RETURNING *
), deliveries_of_it AS (
    INSERT INTO deliveries (upload_id, number, sink, tenant, owner)
    SELECT upload_id, number, sink, tenant, owner FROM told, unnest(:sinks::text[]) AS sink
)
SELECT * FROM moved;

-- name: finish^
-- Entered from uploading (the whole upload was one PutObject; a multipart upload begun earlier is abandoned)
-- and from sealed (the multipart upload has become the object). A final that was deleted meanwhile is a group by now, of
-- which its caller knows nothing yet: it is no file any more, and gets no jobs.
WITH finished AS (
    UPDATE uploads
    SET state = 'complete', upload_offset = :end, upload_length = :length, object_key = :object_key, etag = :etag,
        crc64 = :crc64, completed_at = now(), updated_at = now(), finisher = NULL, finisher_until = NULL,
        multipart_id = CASE WHEN :abandon_multipart THEN NULL ELSE uploads.multipart_id END,
        event_number = uploads.event_number + CASE WHEN :processing::text IS NULL THEN 1 ELSE 2 END,
        processing = CASE WHEN uploads.role IS DISTINCT FROM 'group' THEN :processing END,
        withheld = :withheld AND uploads.role IS DISTINCT FROM 'group',
        expires_at = CASE WHEN uploads.role IN ('partial', 'group') THEN coalesce(
            least(
                now() + make_interval(secs => :lifetime), uploads.created_at + make_interval(secs => :max_age)
            ), uploads.expires_at
        ) ELSE now() + make_interval(secs => :kept_for) END,
        digest_due_at = CASE WHEN :digests AND (uploads.role IS NULL OR uploads.role = 'final') THEN now() END
    FROM uploads AS before
    WHERE uploads.id = :id AND uploads.tenant = :tenant AND uploads.owner = :owner
        AND uploads.epoch = :epoch AND uploads.upload_offset = :offset AND uploads.state = :from_state
        AND before.id = :id AND before.tenant = :tenant AND before.owner = :owner
    RETURNING uploads.*, before.object_key AS former_key,
        CASE WHEN :abandon_multipart THEN before.multipart_id END AS abandoned_id
), absorbed AS (
    DELETE FROM pieces USING finished
    WHERE pieces.upload_id = finished.id AND pieces.tenant = :tenant AND pieces.owner = :owner
    RETURNING pieces.*
), discarded AS (
    INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, multipart_id)
    SELECT upload_id, tenant, owner, object_key, false, NULL FROM absorbed WHERE object_key IS NOT NULL
    UNION ALL
    SELECT id, tenant, owner, former_key, true, abandoned_id FROM finished WHERE abandoned_id IS NOT NULL
), settled AS (
    DELETE FROM garbage USING finished
    WHERE garbage.upload_id = finished.id AND garbage.tenant = :tenant AND garbage.owner = :owner
        AND garbage.intent_epoch IS NOT NULL AND NOT garbage.multipart AND garbage.object_key = :object_key
), new_jobs AS (
    INSERT INTO jobs (upload_id, tenant, owner, processor, version, is_gate)
    SELECT finished.id, finished.tenant, finished.owner, job.*
    FROM finished, unnest(:job_processors::text[], :job_versions::integer[], :job_gates::boolean[]) AS job
    WHERE finished.processing IS NOT NULL
), told AS (
    INSERT INTO events (upload_id, number, tenant, owner, type, upload, occurred_at)
    SELECT id, event_number - CASE WHEN processing IS NULL THEN 0 ELSE 1 END, tenant, owner, 'upload.completed',
        to_json(finished), clock_timestamp()
    FROM finished
    WHERE :sinks::text[] IS NOT NULL AND (role IS NULL OR role = 'final')
    UNION ALL
    SELECT id, event_number, tenant, owner, 'file.processing', to_json(finished), clock_timestamp() FROM finished
    WHERE :processing_sinks::text[] IS NOT NULL AND processing IS NOT NULL
    RETURNING *
), deliveries_of_it AS (
    INSERT INTO deliveries (upload_id, number, sink, tenant, owner)
    SELECT upload_id, number, sink, tenant, owner FROM told, unnest(
        CASE type WHEN 'upload.completed' THEN :sinks::text[] ELSE :processing_sinks::text[] END
    ) AS sink
)
SELECT * FROM finished;

-- name: list_parts
SELECT * FROM parts WHERE upload_id = :id AND tenant = :tenant AND owner = :owner ORDER BY number;

-- name: find_known_parts
-- One of each digest is enough, whichever: so no digest costs more than the file that is found first, however often
-- its bytes are there.
SELECT known.*
FROM unnest(:digests::bytea[]) AS wanted (sha256), LATERAL (
    SELECT parts.sha256, parts.start_offset, parts.size, uploads.object_key, uploads.etag
    FROM parts JOIN uploads ON uploads.id = parts.upload_id
    WHERE parts.tenant = :tenant AND parts.owner = :owner AND parts.sha256 = wanted.sha256
        AND uploads.tenant = :tenant AND uploads.owner = :owner AND uploads.route IS NOT DISTINCT FROM :route::text
        AND uploads.state = 'complete' AND NOT uploads.withheld
    LIMIT 1
) AS known;

-- name: find_proved_etags
SELECT DISTINCT wanted.sha256, wanted.etag
FROM unnest(:digests::bytea[], :etags::text[]) AS wanted (sha256, etag)
WHERE EXISTS (
    SELECT FROM parts JOIN uploads ON uploads.id = parts.upload_id
    WHERE parts.tenant = :tenant AND parts.owner = :owner AND parts.sha256 = wanted.sha256 AND parts.etag = wanted.etag
        AND uploads.tenant = :tenant AND uploads.owner = :owner AND uploads.route IS NOT DISTINCT FROM :route::text
);

-- name: list_pieces
SELECT * FROM pieces WHERE upload_id = :id AND tenant = :tenant AND owner = :owner ORDER BY start_offset;

-- name: absorb^
WITH sealed AS (
    UPDATE uploads SET updated_at = now()
    WHERE id = :id AND tenant = :tenant AND owner = :owner AND epoch = :epoch AND state = 'sealed'
    RETURNING *
), new_parts AS (
    INSERT INTO parts (upload_id, tenant, owner, number, start_offset, size, etag, crc64, sha256)
    SELECT sealed.id, sealed.tenant, sealed.owner, part.*
    FROM sealed, unnest(
        :part_numbers::integer[], :part_starts::bigint[], :part_sizes::bigint[], :part_etags::text[],
        :part_crcs::bytea[], :part_digests::bytea[]
    ) AS part
), absorbed AS (
    DELETE FROM pieces
    USING sealed, unnest(:part_starts::bigint[], :part_sizes::bigint[]) AS part (start_offset, size)
    WHERE pieces.upload_id = sealed.id AND pieces.tenant = :tenant AND pieces.owner = :owner
        AND pieces.start_offset >= part.start_offset AND pieces.start_offset < part.start_offset + part.size
    RETURNING pieces.*
), discarded AS (
    INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart)
    SELECT upload_id, tenant, owner, object_key, false FROM absorbed WHERE object_key IS NOT NULL
)
SELECT * FROM sealed;

-- name: lock_upload^
SELECT * FROM uploads WHERE id = :id AND tenant = :tenant AND owner = :owner FOR UPDATE;

-- name: end_upload^
-- Runs after lock_upload, in its transaction. Its writer, wherever it runs, is told as if it were taken over. Partials
-- whose bytes lie in its multipart upload end with it.
WITH ended AS (
    UPDATE uploads
    SET state = :state, reason = coalesce(:reason, reason), updated_at = now(), expires_at = NULL, ended_by = :by,
        digest_due_at = NULL
    WHERE id = :id AND tenant = :tenant AND owner = :owner
    RETURNING *
), members AS (
    UPDATE uploads SET state = :state, reason = coalesce(:reason, reason), updated_at = now(), expires_at = NULL
    WHERE group_id = :id AND tenant = :tenant AND owner = :owner AND state = 'uploading'
    RETURNING id, pg_notify('tusgate_writer', id || ' ' || epoch + 1) AS told
), abandoned AS (
    DELETE FROM pieces
    WHERE (upload_id = :id OR upload_id IN (SELECT id FROM members)) AND tenant = :tenant AND owner = :owner
    RETURNING *
), discarded AS (
    INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, multipart_id)
    SELECT upload_id, tenant, owner, object_key, false, NULL FROM abandoned WHERE object_key IS NOT NULL
    UNION ALL
    SELECT id, tenant, owner, object_key, false, NULL FROM ended WHERE :discard_object
    UNION ALL
    SELECT id, tenant, owner, object_key, true, multipart_id FROM ended
    WHERE :discard_multipart AND multipart_id IS NOT NULL
)
SELECT ended.*, ARRAY(SELECT id FROM members) AS member_ids,
    pg_notify('tusgate_writer', id || ' ' || epoch + 1) AS told
FROM ended;

-- name: tell!
-- Writes the same event about several uploads, as they are within the transaction.
WITH named AS (
    UPDATE uploads SET event_number = event_number + 1
    WHERE id = ANY(:ids::text[]) AND tenant = :tenant AND owner = :owner AND role IS DISTINCT FROM 'group'
    RETURNING *
), told AS (
    INSERT INTO events (upload_id, number, tenant, owner, type, upload, occurred_at)
    SELECT id, event_number, tenant, owner, :type, to_json(named), clock_timestamp() FROM named
    RETURNING *
)
INSERT INTO deliveries (upload_id, number, sink, tenant, owner)
SELECT upload_id, number, sink, tenant, owner FROM told, unnest(:sinks::text[]) AS sink;

-- name: delete_jobs!
DELETE FROM jobs WHERE upload_id = :id AND tenant = :tenant AND owner = :owner;

-- name: lock_derived
-- Those that end with the file which they were made of: a hold of their own keeps them.
SELECT * FROM uploads
WHERE derived_from = :id AND tenant = :tenant AND owner = :owner AND state = 'complete'
    AND (retain_until IS NULL OR retain_until <= now())
ORDER BY id
FOR UPDATE;

-- name: end_derived!
-- Runs after lock_derived, in its transaction.
WITH ended AS (
    UPDATE uploads
    SET state = :state, updated_at = now(), expires_at = NULL, ended_by = :by, digest_due_at = NULL
    WHERE id = ANY(:ids::text[]) AND tenant = :tenant AND owner = :owner
    RETURNING *
)
INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart)
SELECT id, tenant, owner, object_key, false FROM ended;

-- name: keep_derived!
-- Runs after end_derived, in its transaction: what is held ends when the hold does.
UPDATE uploads SET expires_at = now()
WHERE derived_from = :id AND tenant = :tenant AND owner = :owner AND state = 'complete';

-- name: close_group!
-- A group that is too old for more partials gives its name away.
UPDATE uploads SET group_name = NULL
WHERE tenant = :tenant AND owner = :owner AND group_name = :name AND role = 'group' AND state = 'uploading'
    AND created_at < now() - make_interval(secs => :joined_within);

-- name: open_group^
-- Locks the group. It lives at least as long as the partial that is about to join it.
INSERT INTO uploads (
    id, tenant, owner, created_via, state, upload_offset, grid, epoch, filename, content_type, object_key, expires_at,
    role, group_name, route
)
VALUES (
    :id, :tenant, :owner, :created_via, 'uploading', 0, :grid, 0, :filename, :content_type, :object_key,
    least(now() + make_interval(secs => :lifetime), now() + make_interval(secs => :max_age)), 'group', :name, :route
)
ON CONFLICT (tenant, owner, group_name) WHERE role = 'group' AND state = 'uploading'
DO UPDATE SET expires_at = greatest(uploads.expires_at, excluded.expires_at)
RETURNING *;

-- name: list_grids
SELECT grid FROM uploads WHERE group_id = :id AND tenant = :tenant AND owner = :owner;

-- name: list_members
SELECT * FROM uploads
WHERE group_id = :id AND tenant = :tenant AND owner = :owner AND state = 'uploading'
ORDER BY created_at, id;

-- name: list_sources
SELECT uploads.* FROM sources JOIN uploads ON uploads.id = sources.source_id
WHERE sources.upload_id = :id AND sources.tenant = :tenant AND sources.owner = :owner
    AND uploads.tenant = :tenant AND uploads.owner = :owner
ORDER BY sources.position;

-- name: find_final^
SELECT uploads.* FROM sources JOIN uploads ON uploads.id = sources.upload_id
WHERE sources.source_id = :source AND sources.position = 0 AND sources.tenant = :tenant AND sources.owner = :owner
    AND uploads.tenant = :tenant AND uploads.owner = :owner AND uploads.role = 'final'
    AND uploads.state IN ('sealed', 'complete') AND uploads.concat = :concat
    AND uploads.metadata IS NOT DISTINCT FROM :metadata
ORDER BY uploads.created_at
LIMIT 1;

-- name: is_retained^
-- Runs after lock_upload, in its transaction.
SELECT retain_until FROM uploads
WHERE id = :id AND tenant = :tenant AND owner = :owner AND retain_until > now();

-- name: record_digest^
UPDATE uploads SET sha256 = :sha256, digest_due_at = NULL
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'complete' AND etag = :etag
RETURNING *;

-- name: lock_content^
-- Until the end of the transaction nobody else looks for twins of this content.
SELECT pg_advisory_xact_lock(hashtextextended(:tenant || ' ' || encode(:sha256::bytea, 'hex'), 16)) AS locked;

-- name: tenant_find_twin^
-- The newest first: should the object of an older one be broken, equal files share that of the next that was not.
SELECT * FROM uploads
WHERE tenant = :tenant AND sha256 = :sha256::bytea AND state = 'complete' AND digest_due_at IS NULL
    AND id <> :id AND upload_length = :length AND route IS NOT DISTINCT FROM :route::text
    AND content_coding IS NOT DISTINCT FROM :content_coding::text AND (role IS NULL OR role = 'final')
ORDER BY completed_at DESC, id DESC
LIMIT 1;

-- name: note_content^
-- Runs after tenant_find_twin, in its transaction. No lease: it need not look again.
UPDATE uploads SET sha256 = :sha256, digest_due_at = now() + make_interval(secs => :lease)
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'complete' AND etag = :etag
    AND object_key = :object_key
RETURNING *;

-- name: tenant_lock_pair
-- In one order, so that nobody waits for somebody who waits for him.
SELECT * FROM uploads WHERE tenant = :tenant AND id = ANY(:ids::text[]) AND state = 'complete' ORDER BY id FOR UPDATE;

-- name: adopt^
-- Runs after tenant_lock_pair, in its transaction.
WITH adopted AS (
    UPDATE uploads
    SET object_key = :object_key, etag = :etag, crc64 = coalesce(crc64, :crc64::bytea), object_of = :object_of,
        digest_due_at = NULL
    WHERE id = :id AND tenant = :tenant AND owner = :owner
    RETURNING *
), discarded AS (
    INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, due_at)
    SELECT id, tenant, owner, :former_key, false, now() + make_interval(secs => :kept_for) FROM adopted
)
SELECT * FROM adopted;

-- name: begin_with^
-- Runs after finish, in the transaction that holds the lock of the file whose object this one refers to.
UPDATE uploads SET object_of = :object_of, sha256 = :sha256, digest_due_at = NULL
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'complete'
RETURNING *;

-- name: postpone_digest!
UPDATE uploads SET digest_due_at = now() + make_interval(secs => :seconds)
WHERE id = :id AND tenant = :tenant AND owner = :owner AND digest_due_at IS NOT NULL;

-- name: system_claim_undigested
-- WITH, which is done once: in a WHERE it is done again for each row where the planner takes the table for very small.
WITH due AS MATERIALIZED (
    SELECT id FROM uploads WHERE digest_due_at <= now() AND state = 'complete' ORDER BY digest_due_at LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
UPDATE uploads SET digest_due_at = now() + make_interval(secs => :lease)
FROM due WHERE uploads.id = due.id
RETURNING uploads.*;

-- name: is_needed^
SELECT FROM sources JOIN uploads AS final ON final.id = sources.upload_id
WHERE sources.tenant = :tenant AND sources.owner = :owner AND final.tenant = :tenant AND final.owner = :owner
    AND sources.source_id = :id AND final.state = 'sealed'
LIMIT 1;

-- name: hide_final^
-- A final whose object partials lie in is no longer one for clients, and ends after the last of them.
UPDATE uploads
SET role = 'group', concat = NULL, metadata = NULL, filename = NULL, updated_at = now(), expires_at = now(),
    ended_by = :by, digest_due_at = NULL
WHERE id = :id AND tenant = :tenant AND owner = :owner AND role = 'final' AND state IN ('sealed', 'complete')
    AND EXISTS (
        SELECT FROM uploads AS member
        WHERE member.group_id = :id AND member.tenant = :tenant AND member.owner = :owner
            AND member.state = 'uploading'
    )
RETURNING *;

-- name: lock_sources
SELECT * FROM uploads WHERE id = ANY(:ids::text[]) AND tenant = :tenant AND owner = :owner ORDER BY id FOR UPDATE;

-- name: keep_sources!
UPDATE uploads SET expires_at = greatest(expires_at, now() + make_interval(secs => :lifetime))
WHERE id = ANY(:ids::text[]) AND tenant = :tenant AND owner = :owner AND expires_at IS NOT NULL;

-- name: insert_sources!
INSERT INTO sources (upload_id, tenant, owner, position, source_id)
SELECT :id, :tenant, :owner, source.number - 1, source.id
FROM unnest(:sources::text[]) WITH ORDINALITY AS source (id, number);

-- name: seal_group^
-- With a role it becomes the final itself, else it only becomes an object that finals can be made of.
UPDATE uploads
SET state = 'sealed', upload_offset = :length, upload_length = :length, updated_at = now(), group_name = NULL,
    role = coalesce(:role, role), concat = :concat, metadata = :metadata,
    filename = CASE WHEN :role::text IS NULL THEN filename ELSE :filename END,
    filename_folded = CASE WHEN :role::text IS NULL THEN filename_folded ELSE :filename_folded END,
    content_type = CASE WHEN :role::text IS NULL THEN content_type ELSE :content_type END,
    created_at = CASE WHEN :role::text IS NULL THEN created_at ELSE now() END,
    expires_at = CASE WHEN :role::text IS NULL THEN expires_at END
WHERE id = :id AND tenant = :tenant AND owner = :owner AND role = 'group' AND state = 'uploading'
RETURNING *;

-- name: count_with_group!
-- The bytes of these partials count as those of their group from now on, which is about to be sealed.
UPDATE uploads SET counted = false
WHERE group_id = :id AND tenant = :tenant AND owner = :owner AND state = 'uploading' AND id = ANY(:ids::text[]);

-- name: insert_parts!
INSERT INTO parts (upload_id, tenant, owner, number, start_offset, size, etag, crc64, sha256)
SELECT :id, :tenant, :owner, part.* FROM unnest(
    :part_numbers::integer[], :part_starts::bigint[], :part_sizes::bigint[], :part_etags::text[], :part_crcs::bytea[],
    :part_digests::bytea[]
) AS part;

-- name: leave_out
-- Ends the partials of a group whose multipart upload goes on without them. They hold no bytes, so no pieces.
UPDATE uploads SET state = 'terminated', reason = :reason, updated_at = now(), expires_at = NULL
WHERE group_id = :id AND tenant = :tenant AND owner = :owner AND state = 'uploading' AND upload_offset = 0
    AND id <> ALL(:ids::text[])
RETURNING id, pg_notify('tusgate_writer', id || ' ' || epoch + 1) AS told;

-- name: lease_sealed^
UPDATE uploads SET finisher = :holder, finisher_until = now() + make_interval(secs => :lease)
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'sealed'
    AND (finisher = :holder OR finisher_until IS NULL OR finisher_until <= now())
RETURNING id;

-- name: release_sealed^
UPDATE uploads SET finisher = NULL, finisher_until = now() + make_interval(secs => :retry_in)
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'sealed' AND finisher = :holder
RETURNING id;

-- name: system_claim_sealed
WITH chosen AS (
    SELECT id FROM uploads
    WHERE state = 'sealed' AND (finisher_until IS NULL OR finisher_until <= now())
    ORDER BY updated_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
UPDATE uploads SET finisher = :holder, finisher_until = now() + make_interval(secs => :lease)
FROM chosen WHERE uploads.id = chosen.id
RETURNING uploads.*;

-- name: system_clock^
-- Locks the row: replicas judge one after the other, each seeing the verdict of the one before.
SELECT now() AS now, last_run, waits_until, held_reason,
    (SELECT min(expires_at) FROM uploads WHERE state IN ('uploading', 'complete')) IS NOT NULL AS at_stake
FROM expiry_brake FOR UPDATE;

-- name: system_keep_verdict!
UPDATE expiry_brake SET last_run = now(), waits_until = :waits_until, held_reason = :held;

-- name: system_lock_expired
-- A partial stays as long as an unfinished final is made of it, a group or a final as long as partials lie in it. Looked
-- up for each row that is due: of a NOT EXISTS the planner may make a hash of the whole table.
SELECT id FROM uploads
WHERE state IN ('uploading', 'complete') AND expires_at <= now() AND (retain_until IS NULL OR retain_until <= now())
    AND (role IS DISTINCT FROM 'partial' OR (
        SELECT final.id FROM sources JOIN uploads AS final ON final.id = sources.upload_id
        WHERE sources.source_id = uploads.id AND final.state = 'sealed' LIMIT 1
    ) IS NULL)
    AND (role IS NULL OR role = 'partial' OR (
        SELECT member.id FROM uploads AS member
        WHERE member.group_id = uploads.id AND member.state = 'uploading' LIMIT 1
    ) IS NULL)
ORDER BY expires_at
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: system_expire
-- Runs after system_lock_expired, in its transaction.
WITH ended AS (
    UPDATE uploads SET state = 'expired', updated_at = now(), digest_due_at = NULL
    FROM uploads AS before
    WHERE uploads.id = ANY(:ids::text[]) AND before.id = uploads.id
    RETURNING uploads.*, before.state AS former_state
), abandoned AS (
    DELETE FROM pieces WHERE upload_id = ANY(:ids::text[])
    RETURNING *
), discarded AS (
    INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, multipart_id)
    SELECT upload_id, tenant, owner, object_key, false, NULL FROM abandoned WHERE object_key IS NOT NULL
    UNION ALL
    SELECT id, tenant, owner, object_key, false, NULL FROM ended WHERE former_state = 'complete'
    UNION ALL
    SELECT id, tenant, owner, object_key, true, multipart_id FROM ended
    WHERE former_state = 'uploading' AND multipart_id IS NOT NULL
)
SELECT ended.*, pg_notify('tusgate_writer', id || ' ' || epoch + 1) AS told FROM ended;

-- name: system_lock_ended
-- Those that nothing in the store and no other upload still depends on.
SELECT id FROM uploads
WHERE state IN ('terminated', 'expired', 'failed') AND token_id IS NULL
    AND updated_at <= now() - make_interval(secs => :seconds)
    AND NOT EXISTS (SELECT FROM garbage WHERE garbage.upload_id = uploads.id)
    AND NOT EXISTS (SELECT FROM uploads AS member WHERE member.group_id = uploads.id)
    AND NOT EXISTS (SELECT FROM uploads AS made WHERE made.derived_from = uploads.id AND made.state = 'complete')
    AND NOT EXISTS (
        SELECT FROM sources JOIN uploads AS final ON final.id = sources.upload_id
        WHERE sources.source_id = uploads.id AND final.state = 'sealed'
    )
ORDER BY updated_at
LIMIT :limit
FOR UPDATE SKIP LOCKED;

-- name: system_forget_parts!
DELETE FROM parts WHERE (upload_id, number) IN (
    SELECT upload_id, number FROM parts WHERE upload_id = ANY(:ids::text[]) LIMIT :limit
);

-- name: system_forget_ended!
-- Runs after system_forget_parts, in its transaction; what still has parts waits for the next run.
WITH forgotten AS (
    DELETE FROM uploads
    WHERE id = ANY(:ids::text[]) AND NOT EXISTS (SELECT FROM parts WHERE parts.upload_id = uploads.id)
    RETURNING id
)
DELETE FROM sources USING forgotten WHERE sources.upload_id = forgotten.id;

-- name: system_due_garbage
-- Intents are looked at again at the earliest `grace` seconds after the upload has ended or got a later epoch.
-- Verdicts: referenced rows are dropped, undecided ones wait (the upload may still come to use that key, or has no
-- multipart upload of its own yet that could be spared), all others are collected. An object is not looked at while a
-- multipart upload that could make it is there. What a file shares lies under the id of its maker (see core/dedup.py).
WITH due AS (
    SELECT garbage.*, uploads.multipart_id AS spare, uploads.route, CASE
        WHEN NOT garbage.multipart AND EXISTS (
            SELECT FROM pieces WHERE pieces.upload_id = uploads.id AND pieces.object_key = garbage.object_key
        ) THEN 'referenced'
        WHEN NOT garbage.multipart AND garbage.object_key = uploads.object_key AND uploads.state = 'complete'
        THEN 'referenced'
        WHEN NOT garbage.multipart AND EXISTS (
            SELECT FROM uploads AS sharing
            WHERE sharing.object_of IN (garbage.upload_id, uploads.object_of) AND sharing.state = 'complete'
                AND sharing.object_key = garbage.object_key
        ) THEN 'referenced'
        WHEN NOT garbage.multipart AND EXISTS (
            SELECT FROM uploads AS made
            WHERE made.id = uploads.object_of AND made.state = 'complete' AND made.object_key = garbage.object_key
        ) THEN 'referenced'
        WHEN garbage.multipart_id = uploads.multipart_id AND uploads.state IN ('uploading', 'sealed', 'complete')
        THEN 'referenced'
        WHEN NOT garbage.multipart AND garbage.object_key = uploads.object_key
            AND uploads.state IN ('uploading', 'sealed')
        THEN 'undecided'
        WHEN garbage.multipart AND garbage.multipart_id IS NULL AND uploads.multipart_id IS NULL
            AND uploads.state IN ('uploading', 'sealed')
        THEN 'undecided'
        ELSE 'collect'
    END AS verdict
    FROM garbage
    LEFT JOIN uploads ON uploads.id = garbage.upload_id
    WHERE garbage.due_at <= now() AND (
        garbage.intent_epoch IS NULL
        OR uploads.id IS NULL
        OR garbage.created_at <= now() - make_interval(secs => :grace) AND (
            uploads.state NOT IN ('uploading', 'sealed')
                AND uploads.updated_at <= now() - make_interval(secs => :grace)
            OR uploads.epoch > garbage.intent_epoch
                AND uploads.held_since <= now() - make_interval(secs => :grace)
        )
    ) AND (garbage.multipart OR NOT EXISTS (
        SELECT FROM garbage AS maker
        WHERE maker.upload_id IN (garbage.upload_id, uploads.object_of) AND maker.object_key = garbage.object_key
            AND maker.multipart_id IS NOT NULL AND maker.removed_at IS NULL
    ))
    ORDER BY garbage.due_at
    LIMIT :limit
    FOR UPDATE OF garbage SKIP LOCKED
), dropped AS (
    DELETE FROM garbage USING due WHERE garbage.id = due.id AND due.verdict = 'referenced'
), postponed AS (
    UPDATE garbage SET due_at = now() + interval '1 minute'
    FROM due WHERE garbage.id = due.id AND due.verdict <> 'referenced'
)
SELECT * FROM due WHERE verdict = 'collect' ORDER BY id;

-- name: system_drop_garbage!
WITH removed AS (
    UPDATE garbage SET removed_at = now(), due_at = now() + make_interval(secs => :grace), tries = 0
    WHERE id = ANY(:ids::bigint[]) AND removed_at IS NULL
)
DELETE FROM garbage WHERE id = ANY(:ids::bigint[]) AND removed_at <= now() - make_interval(secs => :grace);

-- name: system_postpone_garbage!
UPDATE garbage SET due_at = now() + make_interval(secs => :seconds), tries = tries + 1
WHERE id = ANY(:ids::bigint[]);

-- name: system_get_upload^
SELECT * FROM uploads WHERE id = :id;

-- name: system_survey
SELECT * FROM uploads WHERE id > :after ORDER BY id LIMIT :limit;

-- name: system_names
SELECT object_key, false AS multipart, NULL AS multipart_id FROM uploads
WHERE id = ANY(:ids::text[]) AND state IN ('uploading', 'sealed', 'complete')
UNION ALL
SELECT object_key, true, multipart_id FROM uploads
WHERE id = ANY(:ids::text[]) AND state IN ('uploading', 'sealed') AND multipart_id IS NOT NULL
UNION ALL
SELECT object_key, false, NULL FROM pieces WHERE upload_id = ANY(:ids::text[]) AND object_key IS NOT NULL
UNION ALL
SELECT object_key, false, NULL FROM uploads WHERE object_of = ANY(:ids::text[]) AND state = 'complete'
UNION ALL
SELECT object_key, multipart, multipart_id FROM garbage WHERE upload_id = ANY(:ids::text[]);

-- name: system_count_by_state
SELECT state, count(*) AS uploads FROM uploads GROUP BY state;

-- name: system_create_token^
INSERT INTO api_tokens (id, digest, tenant, owner, permissions, label, expires_at)
VALUES (:id, :digest, :tenant, :owner, :permissions, :label, now() + make_interval(secs => :lifetime))
RETURNING *;

-- name: system_get_token^
SELECT * FROM api_tokens WHERE id = :id;

-- name: system_list_tokens
SELECT * FROM api_tokens ORDER BY created_at, id;

-- name: system_revoke_token^
UPDATE api_tokens SET revoked_at = coalesce(revoked_at, now()) WHERE id = :id RETURNING *;

-- name: system_note_token_use!
UPDATE api_tokens SET last_used_at = now() WHERE id = :id;
-- name: system_usage^
-- Of a tenant whose usage is not kept it is counted.
SELECT bytes, files, unfinished FROM tenant_usage WHERE tenant = :tenant AND counted_at IS NOT NULL
UNION ALL
SELECT coalesce(sum(usage_bytes(uploads)), 0)::bigint, coalesce(sum(usage_files(uploads)), 0)::bigint,
    coalesce(sum(usage_unfinished(uploads)), 0)::bigint
FROM uploads
WHERE uploads.tenant = :tenant
    AND NOT EXISTS (SELECT FROM tenant_usage WHERE tenant = :tenant AND counted_at IS NOT NULL);

-- name: change_limits^
UPDATE tenant_usage SET max_bytes = :bytes, max_files = :files, max_unfinished = :unfinished
WHERE tenant = :tenant
RETURNING counted_at IS NOT NULL AS is_counted;

-- name: begin_counting!
-- All steps that began before see no row and do not count; the table's lock waits for them. Those after it do.
INSERT INTO tenant_usage (tenant, max_bytes, max_files, max_unfinished) VALUES (:tenant, :bytes, :files, :unfinished)
ON CONFLICT (tenant) DO NOTHING;

-- name: stop_counting!
DELETE FROM tenant_usage WHERE tenant = :tenant;

-- name: lock_usage^
SELECT tenant, bytes, files, unfinished FROM tenant_usage WHERE tenant = :tenant FOR UPDATE;

-- name: system_recount^
-- Runs after lock_usage, in its transaction: whoever has changed an upload of this tenant has either committed, or
-- waits for the lock and adds what it changes to what is written here.
UPDATE tenant_usage
SET bytes = truth.bytes, files = truth.files, unfinished = truth.unfinished, counted_at = now()
FROM (
    SELECT coalesce(sum(usage_bytes(uploads)), 0)::bigint AS bytes,
        coalesce(sum(usage_files(uploads)), 0)::bigint AS files,
        coalesce(sum(usage_unfinished(uploads)), 0)::bigint AS unfinished
    FROM uploads WHERE uploads.tenant = :tenant
) AS truth
WHERE tenant = :tenant
RETURNING tenant_usage.tenant, tenant_usage.bytes, tenant_usage.files, tenant_usage.unfinished;

-- name: system_usages
SELECT uploads.tenant, sum(usage_bytes(uploads))::bigint AS bytes, sum(usage_files(uploads))::bigint AS files,
    sum(usage_unfinished(uploads))::bigint AS unfinished
FROM uploads GROUP BY uploads.tenant ORDER BY uploads.tenant;

-- name: system_limited_tenants
SELECT tenant FROM tenant_usage ORDER BY tenant;

-- name: system_note_routes!
INSERT INTO routes (name, place) SELECT * FROM unnest(:names::text[], :places::text[]) ON CONFLICT (name) DO NOTHING;

-- name: system_routes
SELECT name, place, EXISTS (
    SELECT FROM uploads WHERE uploads.route = routes.name AND state IN ('uploading', 'sealed', 'complete')
) OR EXISTS (
    SELECT FROM garbage JOIN uploads ON uploads.id = garbage.upload_id WHERE uploads.route = routes.name
) AS is_used
FROM routes;

-- name: system_change_route!
UPDATE routes SET place = :place WHERE name = :name;

-- name: applied_migrations
SELECT name FROM schema_migrations ORDER BY name;

-- name: record_migration!
INSERT INTO schema_migrations (name) VALUES (:name);

-- name: durability^
SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('transaction_read_only') AS read_only;

-- name: create_share^
INSERT INTO shares (id, tenant, owner, upload_id, created_by, password, max_downloads, created_at, expires_at)
SELECT :id::text, tenant, owner, id, :created_by::text, :password::bytea, :max_downloads::bigint, now(),
    :expires_at::timestamptz
FROM uploads
WHERE id = :upload_id AND tenant = :tenant AND owner = :owner AND state = 'complete'
    AND (role IS NULL OR role = 'final') AND (:expires_at::timestamptz IS NULL OR :expires_at > now())
RETURNING *;

-- name: list_shares
SELECT * FROM shares WHERE upload_id = :upload_id AND tenant = :tenant AND owner = :owner
ORDER BY created_at DESC, id DESC;

-- name: revoke_share^
UPDATE shares SET revoked_at = coalesce(revoked_at, now())
WHERE id = :id AND tenant = :tenant AND owner = :owner AND upload_id = :upload_id
RETURNING *;

-- name: begin_try^
UPDATE shares
SET tries = CASE WHEN tries_since > now() - make_interval(secs => :window) THEN tries + 1 ELSE 1 END,
    tries_since = CASE WHEN tries_since > now() - make_interval(secs => :window) THEN tries_since ELSE now() END
WHERE id = :id AND tenant = :tenant AND owner = :owner
    AND (tries < :most OR tries_since IS NULL OR tries_since <= now() - make_interval(secs => :window))
RETURNING id;

-- name: take_try_back!
UPDATE shares SET tries = greatest(tries - 1, 0) WHERE id = :id AND tenant = :tenant AND owner = :owner;

-- name: count_download^
UPDATE shares SET downloads = downloads + 1
WHERE id = :id AND tenant = :tenant AND owner = :owner AND revoked_at IS NULL
    AND (expires_at IS NULL OR expires_at > now()) AND (max_downloads IS NULL OR downloads < max_downloads)
RETURNING id;

-- name: system_find_share^
SELECT * FROM shares
WHERE id = :id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now());

-- name: system_forget_shares
DELETE FROM shares WHERE id IN (
    SELECT shares.id FROM shares LEFT JOIN uploads ON uploads.id = shares.upload_id
    WHERE coalesce(shares.revoked_at, shares.expires_at) <= now() - make_interval(secs => :seconds)
        OR uploads.id IS NULL
        OR uploads.state <> 'complete' AND uploads.updated_at <= now() - make_interval(secs => :seconds)
    LIMIT :limit
)
RETURNING id;

-- name: begin_accesses!
INSERT INTO accesses (
    id, tenant, owner, upload_id, reader, proof, how, client, first_byte, wanted, outcome, ended_at
)
SELECT id, tenant, owner, upload_id, reader, proof, how, client, first_byte, wanted, outcome,
    CASE WHEN is_over THEN now() END
FROM unnest(
    :ids::text[], :tenants::text[], :owners::text[], :upload_ids::text[], :readers::text[], :proofs::text[],
    :hows::text[], :clients::text[], :first_bytes::bigint[], :wanteds::bigint[], :outcomes::text[], :are_over::boolean[]
) AS new (
    id, tenant, owner, upload_id, reader, proof, how, client, first_byte, wanted, outcome, is_over
);

-- name: begin_counted_access^
WITH counted AS (
    UPDATE shares SET downloads = downloads + 1
    WHERE id = :share_id AND tenant = :tenant AND owner = :owner AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > now()) AND (max_downloads IS NULL OR downloads < max_downloads)
    RETURNING id
)
INSERT INTO accesses (
    id, tenant, owner, upload_id, reader, proof, how, client, first_byte, wanted, outcome, ended_at
)
SELECT :id::text, :tenant, :owner, :upload_id::text, :reader::text, :proof::text, :how::text, :client::text,
    :first_byte::bigint, :wanted::bigint, :outcome::text, CASE WHEN :is_over::boolean THEN now() END
FROM counted
RETURNING id;

-- name: end_accesses!
UPDATE accesses SET sent = given.sent, outcome = given.outcome, ended_at = now()
FROM unnest(
    :ids::text[], :tenants::text[], :owners::text[], :sents::bigint[], :outcomes::text[]
) AS given (id, tenant, owner, sent, outcome)
WHERE accesses.id = given.id AND accesses.tenant = given.tenant AND accesses.owner = given.owner
    AND accesses.ended_at IS NULL;

-- name: list_accesses
SELECT * FROM accesses
WHERE tenant = :tenant AND owner = :owner AND upload_id = :upload_id
    AND (began_at, id) < (coalesce(:after_time::timestamptz, 'infinity'), :after_id)
ORDER BY began_at DESC, id DESC
LIMIT :limit;

-- name: tenant_list_accesses
SELECT * FROM accesses
WHERE tenant = :tenant AND (began_at, id) < (coalesce(:after_time::timestamptz, 'infinity'), :after_id)
    AND (:upload_id::text IS NULL OR upload_id = :upload_id) AND (:reader::text IS NULL OR reader = :reader)
    AND began_at >= coalesce(:began_from::timestamptz, '-infinity')
    AND began_at < coalesce(:began_before::timestamptz, 'infinity')
ORDER BY began_at DESC, id DESC
LIMIT :limit;

-- name: system_forget_accesses
DELETE FROM accesses WHERE id IN (
    SELECT id FROM accesses WHERE began_at <= now() - make_interval(secs => :seconds) ORDER BY began_at LIMIT :limit
)
RETURNING id;
