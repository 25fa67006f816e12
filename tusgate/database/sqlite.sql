-- The statements of SqliteDatabase. A step is a function of sqlite.py that runs several of them in one transaction;
-- writers are one after the other, so nothing changes between the statements of a step.
-- Functions registered on each connection: now_ms() is the clock in integer milliseconds since 1970, ms(seconds) the
-- same unit for a duration, earliest(a, b) the smaller of two times of which each may be NULL; sinks_for(type, tenant)
-- is a JSON array of those that want such an event, NULL when it is not to be written.
--
-- Every statement that serves a request names tenant and owner wherever it reads or changes a table. Those of the
-- jobs, and those about tokens, work across tenants; their names begin with system_. Those for an
-- administrator of one tenant name that, and begin with tenant_.

-- name: create_upload^
INSERT INTO uploads (
    id, tenant, owner, created_via, state, upload_length, upload_offset, grid, epoch, held_since, metadata, filename,
    filename_folded, content_type, content_coding, object_key, put_attempts, token_id, created_at, updated_at, expires_at,
    role, concat, group_id, route, plan, fingerprint
)
VALUES (
    :id, :tenant, :owner, :created_via, :state, :length, :offset, :grid, :epoch, CASE WHEN :epoch > 0 THEN now_ms() END,
    :metadata, :filename, :filename_folded, :content_type, :content_coding, :object_key, coalesce(:attempt, 0),
    :token_id, now_ms(), now_ms(), earliest(now_ms() + ms(:lifetime), now_ms() + ms(:max_age)), :role, :concat, :group,
    :route, :plan, :fingerprint
)
ON CONFLICT (tenant, owner, token_id) WHERE token_id IS NOT NULL DO NOTHING
RETURNING *;

-- name: get_upload_of_token^
SELECT * FROM uploads WHERE token_id = :token_id AND tenant = :tenant AND owner = :owner;

-- name: get_upload^
SELECT * FROM uploads WHERE id = :id AND tenant = :tenant AND owner = :owner;

-- name: list_files
-- Times are milliseconds. Bounds are never NULL, so that the page is read from uploads_listing, from its first row to
-- its last. Rows of earlier releases have no folded name: SQLite's lower(), which knows ASCII, has to do for them.
SELECT * FROM uploads
WHERE tenant = :tenant AND owner = :owner
    AND (created_at, id) < (:after_time, :after_id)
    AND created_at >= :created_from
    AND created_at < :created_before
    AND state IN (SELECT value FROM json_each(:states))
    AND (:created_via IS NULL OR created_via = :created_via)
    AND (:type_prefix IS NULL OR substr(lower(content_type) || ';', 1, length(:type_prefix)) = :type_prefix)
    AND (
        :name_prefix IS NULL
        OR substr(coalesce(filename_folded, lower(filename)), 1, length(:name_prefix)) = :name_prefix
    )
    AND (:name_part IS NULL OR instr(coalesce(filename_folded, lower(filename)), :name_part) > 0)
    AND (role IS NULL OR role = 'final') AND derived_from IS :derived_from
ORDER BY created_at DESC, id DESC
LIMIT :limit;

-- name: find_by_fingerprint
-- Each of the three by its own index, and then their rows: of an OR SQLite makes a look at all rows of the owner.
WITH found AS (
    SELECT id FROM uploads
    WHERE tenant = :tenant AND owner = :owner AND fingerprint = :fingerprint
        AND state IN ('uploading', 'sealed', 'complete')
    UNION
    SELECT id FROM uploads
    WHERE tenant = :tenant AND owner = :owner AND crc64 = :crc64 AND state = 'complete'
    UNION
    SELECT id FROM uploads
    WHERE tenant = :tenant AND owner = :owner AND sha256 = :sha256 AND state = 'complete'
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
    expires_at = CASE WHEN :sets_expires_at THEN :expires_at ELSE expires_at END,
    retain_until = CASE WHEN :sets_retain_until THEN :retain_until ELSE retain_until END,
    updated_at = now_ms()
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state IN ('uploading', 'sealed', 'complete')
    AND (role IS NULL OR role <> 'group')
    AND (
        NOT :sets_expires_at
        OR state = 'complete' AND role IS NOT 'partial' AND (:expires_at IS NULL OR :expires_at > now_ms())
    )
    AND (
        NOT :sets_retain_until
        OR state = 'complete' AND role IS NOT 'partial' AND (:retain_until IS NULL OR :retain_until > now_ms())
            AND (
                :may_shorten OR retain_until IS NULL OR retain_until <= now_ms()
                OR coalesce(:retain_until >= retain_until, FALSE)
            )
    )
RETURNING *;

-- name: claim^
-- An attempt that was announced since the caller read the row would get its key a second time.
UPDATE uploads
SET epoch = epoch + 1, holder = :holder, held_since = now_ms(), put_attempts = coalesce(:attempt, put_attempts)
WHERE id = :id AND tenant = :tenant AND owner = :owner
    AND epoch = :epoch AND upload_offset = :offset AND state = 'uploading' AND put_attempts = :put_attempts
RETURNING *;

-- name: announce^
UPDATE uploads SET put_attempts = coalesce(:attempt, put_attempts)
WHERE id = :id AND tenant = :tenant AND owner = :owner AND epoch = :epoch AND state IN ('uploading', 'sealed')
RETURNING id;

-- name: insert_intents*!
INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, intent_epoch, created_at, due_at)
VALUES (:id, :tenant, :owner, :object_key, :multipart, :epoch, now_ms(), now_ms());

-- name: insert_parts*!
INSERT INTO parts (upload_id, tenant, owner, number, start_offset, size, etag, crc64, sha256)
VALUES (:id, :tenant, :owner, :number, :start_offset, :size, :etag, :crc64, :sha256);

-- name: insert_pieces*!
INSERT INTO pieces (upload_id, tenant, owner, start_offset, size, crc64, object_key, data)
VALUES (:id, :tenant, :owner, :start_offset, :size, :crc64, :object_key, :data);

-- name: record_multipart^
UPDATE uploads SET multipart_id = :multipart_id, object_key = :object_key, updated_at = now_ms()
WHERE id = :id AND tenant = :tenant AND owner = :owner AND epoch = :epoch AND state IN ('uploading', 'sealed')
    AND multipart_id IS NULL
RETURNING *;

-- name: settle_multipart!
-- Drops one intent only: of two announced with the same epoch, the other may have made a multipart upload too.
DELETE FROM garbage WHERE tenant = :tenant AND owner = :owner AND id = (
    SELECT min(id) FROM garbage
    WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND intent_epoch = :epoch AND multipart
);

-- name: settle_pieces*!
DELETE FROM garbage
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND intent_epoch = :epoch AND NOT multipart
    AND object_key = :object_key;

-- name: settle_object!
DELETE FROM garbage
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND intent_epoch IS NOT NULL AND NOT multipart
    AND object_key = :object_key;

-- name: replan^
UPDATE uploads
SET plan = :plan, upload_length = :length, fingerprint = :fingerprint, epoch = epoch + 1, held_since = now_ms(),
    updated_at = now_ms()
WHERE id = :id AND tenant = :tenant AND owner = :owner
    AND epoch = :epoch AND upload_offset = :offset AND state = 'uploading'
RETURNING *;

-- name: advance^
UPDATE uploads
SET upload_offset = :end, upload_length = :length, state = :state, updated_at = now_ms(),
    expires_at = earliest(
        now_ms() + ms(:lifetime), created_at + ms(:max_age)
    )
WHERE id = :id AND tenant = :tenant AND owner = :owner
    AND epoch = :epoch AND upload_offset = :offset AND state = 'uploading'
RETURNING *;

-- name: finish^
-- A final that was deleted meanwhile is a group by now, of which its caller knows nothing yet: it is no file any more, and
-- gets no jobs.
UPDATE uploads
SET state = 'complete', upload_offset = :end, upload_length = :length, object_key = :object_key, etag = :etag,
    crc64 = :crc64, completed_at = now_ms(), updated_at = now_ms(), finisher = NULL, finisher_until = NULL,
    multipart_id = CASE WHEN :abandon_multipart THEN NULL ELSE multipart_id END,
    expires_at = CASE WHEN role IN ('partial', 'group') THEN coalesce(
        earliest(now_ms() + ms(:lifetime), created_at + ms(:max_age)), expires_at
    ) ELSE now_ms() + ms(:kept_for) END,
    digest_due_at = CASE WHEN :digests AND (role IS NULL OR role = 'final') THEN now_ms() END,
    processing = CASE WHEN role IS NOT 'group' THEN :processing END, withheld = :withheld AND role IS NOT 'group'
WHERE id = :id AND tenant = :tenant AND owner = :owner
    AND epoch = :epoch AND upload_offset = :offset AND state = :from_state
RETURNING *;

-- name: insert_jobs*!
INSERT INTO jobs (upload_id, tenant, owner, processor, version, is_gate, due_at)
VALUES (:id, :tenant, :owner, :processor, :version, :is_gate, now_ms());

-- name: delete_jobs!
DELETE FROM jobs WHERE upload_id = :id AND tenant = :tenant AND owner = :owner;

-- name: list_derived
-- Those that end with the file which they were made of: a hold of their own keeps them.
SELECT * FROM uploads
WHERE derived_from = :id AND tenant = :tenant AND owner = :owner AND state = 'complete'
    AND (retain_until IS NULL OR retain_until <= now_ms())
ORDER BY id;

-- name: keep_derived!
-- Runs when those are ended that nothing holds: what is held ends when the hold does.
UPDATE uploads SET expires_at = now_ms()
WHERE derived_from = :id AND tenant = :tenant AND owner = :owner AND state = 'complete';

-- name: tell^
-- Raises the number of the upload's events, if anybody wants to hear of this one.
UPDATE uploads SET event_number = event_number + 1
WHERE id = :id AND tenant = :tenant AND owner = :owner AND sinks_for(:type, tenant) IS NOT NULL
    AND role IS NOT 'group' AND (:type <> 'upload.completed' OR role IS NOT 'partial')
RETURNING *;

-- name: tell_progress^
UPDATE uploads SET event_number = event_number + 1, progress_told_at = now_ms()
WHERE id = :id AND tenant = :tenant AND owner = :owner AND sinks_for('upload.progress', tenant) IS NOT NULL
    AND (progress_told_at IS NULL OR progress_told_at <= now_ms() - ms(:progress_every))
RETURNING *;

-- name: insert_event!
INSERT INTO events (upload_id, number, tenant, owner, type, upload, occurred_at)
VALUES (:id, :number, :tenant, :owner, :type, :upload, now_ms());

-- name: insert_deliveries!
INSERT INTO deliveries (upload_id, number, sink, tenant, owner, due_at)
SELECT :id, :number, sink.value, :tenant, :owner, now_ms() FROM json_each(sinks_for(:type, :tenant)) AS sink;

-- name: touch_sealed^
UPDATE uploads SET updated_at = now_ms()
WHERE id = :id AND tenant = :tenant AND owner = :owner AND epoch = :epoch AND state = 'sealed'
RETURNING *;

-- name: end_upload^
UPDATE uploads
SET state = :state, reason = coalesce(:reason, reason), updated_at = now_ms(), expires_at = NULL, ended_by = :by,
    digest_due_at = NULL
WHERE id = :id AND tenant = :tenant AND owner = :owner
RETURNING *;

-- name: discard_pieces!
INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, created_at, due_at)
SELECT upload_id, tenant, owner, object_key, FALSE, now_ms(), now_ms() FROM pieces
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND object_key IS NOT NULL
    AND start_offset >= :absorb_from AND start_offset < :absorb_to;

-- name: delete_pieces!
DELETE FROM pieces
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner
    AND start_offset >= :absorb_from AND start_offset < :absorb_to;

-- name: discard!
INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, multipart_id, created_at, due_at)
VALUES (:id, :tenant, :owner, :object_key, :multipart, :multipart_id, now_ms(), now_ms());

-- name: list_parts
SELECT * FROM parts WHERE upload_id = :id AND tenant = :tenant AND owner = :owner ORDER BY number;

-- name: find_known_part^
-- Whichever is found first will do, however often the bytes are there.
SELECT parts.sha256, parts.start_offset, parts.size, uploads.object_key, uploads.etag
FROM parts JOIN uploads ON uploads.id = parts.upload_id
WHERE parts.tenant = :tenant AND parts.owner = :owner AND parts.sha256 = :sha256
    AND uploads.tenant = :tenant AND uploads.owner = :owner AND uploads.route IS :route
    AND uploads.state = 'complete' AND NOT uploads.withheld
LIMIT 1;

-- name: find_proved_etag^
SELECT 1
FROM parts JOIN uploads ON uploads.id = parts.upload_id
WHERE parts.tenant = :tenant AND parts.owner = :owner AND parts.sha256 = :sha256 AND parts.etag = :etag
    AND uploads.tenant = :tenant AND uploads.owner = :owner AND uploads.route IS :route
LIMIT 1;

-- name: list_pieces
SELECT * FROM pieces
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND start_offset >= :start
ORDER BY start_offset;

-- name: close_group!
-- A group that is too old for more partials gives its name away.
UPDATE uploads SET group_name = NULL
WHERE tenant = :tenant AND owner = :owner AND group_name = :name AND role = 'group' AND state = 'uploading'
    AND created_at < now_ms() - ms(:joined_within);

-- name: open_group^
-- It lives at least as long as the partial that is about to join it.
INSERT INTO uploads (
    id, tenant, owner, created_via, state, upload_offset, grid, epoch, filename, content_type, object_key, created_at,
    updated_at, expires_at, role, group_name, route
)
VALUES (
    :id, :tenant, :owner, :created_via, 'uploading', 0, :grid, 0, :filename, :content_type, :object_key, now_ms(),
    now_ms(), earliest(now_ms() + ms(:lifetime), now_ms() + ms(:max_age)), 'group', :name, :route
)
ON CONFLICT (tenant, owner, group_name) WHERE role = 'group' AND state = 'uploading'
DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)
RETURNING *;

-- name: list_grids
SELECT grid FROM uploads WHERE group_id = :id AND tenant = :tenant AND owner = :owner;

-- name: find_uploads
-- :ids is a JSON array.
SELECT * FROM uploads
WHERE id IN (SELECT value FROM json_each(:ids)) AND tenant = :tenant AND owner = :owner;

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
    AND uploads.state IN ('sealed', 'complete') AND uploads.concat = :concat AND uploads.metadata IS :metadata
ORDER BY uploads.created_at
LIMIT 1;

-- name: is_retained^
SELECT retain_until FROM uploads
WHERE id = :id AND tenant = :tenant AND owner = :owner AND retain_until > now_ms();

-- name: record_digest^
UPDATE uploads SET sha256 = :sha256, digest_due_at = NULL
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'complete' AND etag = :etag
RETURNING *;

-- name: tenant_find_twin^
-- The newest first: should the object of an older one be broken, equal files share that of the next that was not.
SELECT * FROM uploads
WHERE tenant = :tenant AND sha256 = :sha256 AND state = 'complete' AND digest_due_at IS NULL
    AND id <> :id AND upload_length = :length AND route IS :route
    AND content_coding IS :content_coding AND (role IS NULL OR role = 'final')
ORDER BY completed_at DESC, id DESC
LIMIT 1;

-- name: note_content^
-- Runs after tenant_find_twin, in its transaction. No lease: it need not look again.
UPDATE uploads SET sha256 = :sha256, digest_due_at = now_ms() + ms(:lease)
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'complete' AND etag = :etag
    AND object_key = :object_key
RETURNING *;

-- name: tenant_get_complete^
SELECT * FROM uploads WHERE tenant = :tenant AND id = :id AND state = 'complete';

-- name: adopt^
UPDATE uploads
SET object_key = :object_key, etag = :etag, crc64 = coalesce(crc64, :crc64), object_of = :object_of,
    digest_due_at = NULL
WHERE id = :id AND tenant = :tenant AND owner = :owner
RETURNING *;

-- name: discard_later!
INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, created_at, due_at)
VALUES (:id, :tenant, :owner, :former_key, FALSE, now_ms(), now_ms() + ms(:kept_for));

-- name: begin_with^
-- Runs after finish, in the transaction that holds the lock of the file whose object this one refers to.
UPDATE uploads SET object_of = :object_of, sha256 = :sha256, digest_due_at = NULL
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'complete'
RETURNING *;

-- name: postpone_digest!
UPDATE uploads SET digest_due_at = now_ms() + ms(:seconds)
WHERE id = :id AND tenant = :tenant AND owner = :owner AND digest_due_at IS NOT NULL;

-- name: system_claim_undigested
UPDATE uploads SET digest_due_at = now_ms() + ms(:lease)
WHERE id IN (
    SELECT id FROM uploads WHERE digest_due_at <= now_ms() AND state = 'complete' ORDER BY digest_due_at LIMIT :limit
)
RETURNING *;

-- name: is_needed^
SELECT 1 FROM sources JOIN uploads AS final ON final.id = sources.upload_id
WHERE sources.tenant = :tenant AND sources.owner = :owner AND final.tenant = :tenant AND final.owner = :owner
    AND sources.source_id = :id AND final.state = 'sealed'
LIMIT 1;

-- name: hide_final^
-- A final whose object partials lie in is no longer one for clients, and ends after the last of them.
UPDATE uploads
SET role = 'group', concat = NULL, metadata = NULL, filename = NULL, updated_at = now_ms(), expires_at = now_ms(),
    ended_by = :by, digest_due_at = NULL
WHERE id = :id AND tenant = :tenant AND owner = :owner AND role = 'final' AND state IN ('sealed', 'complete')
    AND EXISTS (
        SELECT 1 FROM uploads AS member
        WHERE member.group_id = :id AND member.tenant = :tenant AND member.owner = :owner
            AND member.state = 'uploading'
    )
RETURNING *;

-- name: keep_sources!
UPDATE uploads SET expires_at = max(expires_at, now_ms() + ms(:lifetime))
WHERE id IN (SELECT value FROM json_each(:ids)) AND tenant = :tenant AND owner = :owner
    AND expires_at IS NOT NULL AND :lifetime IS NOT NULL;

-- name: insert_sources*!
INSERT INTO sources (upload_id, tenant, owner, position, source_id)
VALUES (:id, :tenant, :owner, :position, :source_id);

-- name: seal_group^
-- With a role it becomes the final itself, else it only becomes an object that finals can be made of.
UPDATE uploads
SET state = 'sealed', upload_offset = :length, upload_length = :length, updated_at = now_ms(), group_name = NULL,
    role = coalesce(:role, role), concat = :concat, metadata = :metadata,
    filename = CASE WHEN :role IS NULL THEN filename ELSE :filename END,
    filename_folded = CASE WHEN :role IS NULL THEN filename_folded ELSE :filename_folded END,
    content_type = CASE WHEN :role IS NULL THEN content_type ELSE :content_type END,
    created_at = CASE WHEN :role IS NULL THEN created_at ELSE now_ms() END,
    expires_at = CASE WHEN :role IS NULL THEN expires_at END
WHERE id = :id AND tenant = :tenant AND owner = :owner AND role = 'group' AND state = 'uploading'
RETURNING *;

-- name: count_with_group!
-- The bytes of these partials count as those of their group from now on, which is about to be sealed.
UPDATE uploads SET counted = FALSE
WHERE group_id = :id AND tenant = :tenant AND owner = :owner AND state = 'uploading'
    AND id IN (SELECT value FROM json_each(:ids));

-- name: end_member^
UPDATE uploads SET state = :state, reason = coalesce(:reason, reason), updated_at = now_ms(), expires_at = NULL
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'uploading'
RETURNING *;

-- name: lease_sealed^
UPDATE uploads SET finisher = :holder, finisher_until = now_ms() + ms(:lease)
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'sealed'
    AND (finisher = :holder OR finisher_until IS NULL OR finisher_until <= now_ms())
RETURNING id;

-- name: release_sealed^
UPDATE uploads SET finisher = NULL, finisher_until = now_ms() + ms(:retry_in)
WHERE id = :id AND tenant = :tenant AND owner = :owner AND state = 'sealed' AND finisher = :holder
RETURNING id;

-- name: system_claim_sealed
UPDATE uploads SET finisher = :holder, finisher_until = now_ms() + ms(:lease)
WHERE id IN (
    SELECT id FROM uploads
    WHERE state = 'sealed' AND (finisher_until IS NULL OR finisher_until <= now_ms())
    ORDER BY updated_at
    LIMIT :limit
)
RETURNING *;

-- name: system_clock^
SELECT now_ms() AS now, last_run, waits_until, held_reason,
    (SELECT min(expires_at) FROM uploads WHERE state IN ('uploading', 'complete')) IS NOT NULL AS at_stake
FROM expiry_brake;

-- name: system_keep_verdict!
UPDATE expiry_brake SET last_run = now_ms(), waits_until = :waits_until, held_reason = :held;

-- name: system_due_to_expire
-- A partial stays as long as an unfinished final is made of it, a group or a final as long as partials lie in it.
SELECT * FROM uploads
WHERE state IN ('uploading', 'complete') AND expires_at <= :now
    AND (retain_until IS NULL OR retain_until <= :now)
    AND (role IS NOT 'partial' OR NOT EXISTS (
        SELECT 1 FROM sources JOIN uploads AS final ON final.id = sources.upload_id
        WHERE sources.source_id = uploads.id AND final.state = 'sealed'
    ))
    AND (role IS NULL OR role = 'partial' OR NOT EXISTS (
        SELECT 1 FROM uploads AS member WHERE member.group_id = uploads.id AND member.state = 'uploading'
    ))
ORDER BY expires_at
LIMIT :limit;

-- name: system_expire^
-- No row of one that has just ended with the file that it was made of.
UPDATE uploads SET state = 'expired', updated_at = now_ms(), digest_due_at = NULL
WHERE id = :id AND state IN ('uploading', 'complete')
RETURNING *;

-- name: system_ended
-- Those that nothing in the store and no other upload still depends on.
SELECT id FROM uploads
WHERE state IN ('terminated', 'expired', 'failed') AND token_id IS NULL
    AND updated_at <= now_ms() - ms(:seconds)
    AND NOT EXISTS (SELECT 1 FROM garbage WHERE garbage.upload_id = uploads.id)
    AND NOT EXISTS (SELECT 1 FROM uploads AS member WHERE member.group_id = uploads.id)
    AND NOT EXISTS (SELECT 1 FROM uploads AS made WHERE made.derived_from = uploads.id AND made.state = 'complete')
    AND NOT EXISTS (
        SELECT 1 FROM sources JOIN uploads AS final ON final.id = sources.upload_id
        WHERE sources.source_id = uploads.id AND final.state = 'sealed'
    )
ORDER BY updated_at
LIMIT :limit;

-- name: system_forget_parts!
DELETE FROM parts WHERE (upload_id, number) IN (
    SELECT upload_id, number FROM parts WHERE upload_id IN (SELECT value FROM json_each(:ids)) LIMIT :limit
);

-- name: system_forget_ended
-- Runs after system_forget_parts, in its transaction; what still has parts waits for the next run.
DELETE FROM uploads
WHERE id IN (SELECT value FROM json_each(:ids)) AND NOT EXISTS (SELECT 1 FROM parts WHERE parts.upload_id = uploads.id)
RETURNING id;

-- name: system_forget_sources!
DELETE FROM sources WHERE upload_id IN (SELECT value FROM json_each(:ids));

-- name: system_due_garbage
-- Intents are looked at again at the earliest `grace` seconds after the upload has ended or got a later epoch.
-- Verdicts: referenced rows are dropped, undecided ones wait (the upload may still come to use that key, or has no
-- multipart upload of its own yet that could be spared), all others are collected. An object is not looked at while a
-- multipart upload that could make it is there. What a file shares lies under the id of its maker (see core/dedup.py).
SELECT garbage.*, uploads.multipart_id AS spare, uploads.route, CASE
    WHEN NOT garbage.multipart AND EXISTS (
        SELECT 1 FROM pieces WHERE pieces.upload_id = uploads.id AND pieces.object_key = garbage.object_key
    ) THEN 'referenced'
    WHEN NOT garbage.multipart AND garbage.object_key = uploads.object_key AND uploads.state = 'complete'
    THEN 'referenced'
    WHEN NOT garbage.multipart AND EXISTS (
        SELECT 1 FROM uploads AS sharing
        WHERE sharing.object_of IN (garbage.upload_id, uploads.object_of) AND sharing.state = 'complete'
            AND sharing.object_key = garbage.object_key
    ) THEN 'referenced'
    WHEN NOT garbage.multipart AND EXISTS (
        SELECT 1 FROM uploads AS made
        WHERE made.id = uploads.object_of AND made.state = 'complete' AND made.object_key = garbage.object_key
    ) THEN 'referenced'
    WHEN garbage.multipart_id = uploads.multipart_id AND uploads.state IN ('uploading', 'sealed', 'complete')
    THEN 'referenced'
    WHEN NOT garbage.multipart AND garbage.object_key = uploads.object_key AND uploads.state IN ('uploading', 'sealed')
    THEN 'undecided'
    WHEN garbage.multipart AND garbage.multipart_id IS NULL AND uploads.multipart_id IS NULL
        AND uploads.state IN ('uploading', 'sealed')
    THEN 'undecided'
    ELSE 'collect'
END AS verdict
FROM garbage
LEFT JOIN uploads ON uploads.id = garbage.upload_id
WHERE garbage.due_at <= now_ms() AND (
    garbage.intent_epoch IS NULL
    OR uploads.id IS NULL
    OR garbage.created_at <= now_ms() - ms(:grace) AND (
        uploads.state NOT IN ('uploading', 'sealed')
            AND uploads.updated_at <= now_ms() - ms(:grace)
        OR uploads.epoch > garbage.intent_epoch
            AND uploads.held_since <= now_ms() - ms(:grace)
    )
) AND (garbage.multipart OR NOT EXISTS (
    SELECT 1 FROM garbage AS maker
    WHERE maker.upload_id IN (garbage.upload_id, uploads.object_of) AND maker.object_key = garbage.object_key
        AND maker.multipart_id IS NOT NULL AND maker.removed_at IS NULL
))
ORDER BY garbage.due_at, garbage.id
LIMIT :limit;

-- name: system_drop_garbage*!
DELETE FROM garbage WHERE id = :id AND removed_at <= now_ms() - ms(:grace);

-- name: system_note_removed*!
UPDATE garbage SET removed_at = now_ms(), due_at = now_ms() + ms(:grace), tries = 0
WHERE id = :id AND removed_at IS NULL;

-- name: system_drop_referenced*!
DELETE FROM garbage WHERE id = :id;

-- name: system_delay_garbage*!
UPDATE garbage SET due_at = now_ms() + 60000 WHERE id = :id;

-- name: system_postpone_garbage*!
UPDATE garbage SET due_at = now_ms() + ms(:seconds), tries = tries + 1 WHERE id = :id;

-- name: system_get_upload^
SELECT * FROM uploads WHERE id = :id;

-- name: system_survey
SELECT * FROM uploads WHERE id > :after ORDER BY id LIMIT :limit;

-- name: system_names
-- :ids is a JSON array.
SELECT object_key, FALSE AS multipart, NULL AS multipart_id FROM uploads
WHERE id IN (SELECT value FROM json_each(:ids)) AND state IN ('uploading', 'sealed', 'complete')
UNION ALL
SELECT object_key, TRUE, multipart_id FROM uploads
WHERE id IN (SELECT value FROM json_each(:ids)) AND state IN ('uploading', 'sealed') AND multipart_id IS NOT NULL
UNION ALL
SELECT object_key, FALSE, NULL FROM pieces
WHERE upload_id IN (SELECT value FROM json_each(:ids)) AND object_key IS NOT NULL
UNION ALL
SELECT object_key, FALSE, NULL FROM uploads
WHERE object_of IN (SELECT value FROM json_each(:ids)) AND state = 'complete'
UNION ALL
SELECT object_key, multipart, multipart_id FROM garbage WHERE upload_id IN (SELECT value FROM json_each(:ids));

-- name: system_count_by_state
SELECT state, count(*) AS uploads FROM uploads GROUP BY state;

-- name: system_create_token^
INSERT INTO api_tokens (id, digest, tenant, owner, permissions, label, created_at, expires_at)
VALUES (:id, :digest, :tenant, :owner, :permissions, :label, now_ms(), now_ms() + ms(:lifetime))
RETURNING *;

-- name: system_get_token^
SELECT * FROM api_tokens WHERE id = :id;

-- name: system_list_tokens
SELECT * FROM api_tokens ORDER BY created_at, id;

-- name: system_revoke_token^
UPDATE api_tokens SET revoked_at = coalesce(revoked_at, now_ms()) WHERE id = :id RETURNING *;

-- name: system_note_token_use!
UPDATE api_tokens SET last_used_at = now_ms() WHERE id = :id;

-- name: create_share^
INSERT INTO shares (id, tenant, owner, upload_id, created_by, password, max_downloads, created_at, expires_at)
SELECT :id, tenant, owner, id, :created_by, :password, :max_downloads, now_ms(), :expires_at FROM uploads
WHERE id = :upload_id AND tenant = :tenant AND owner = :owner AND state = 'complete'
    AND (role IS NULL OR role = 'final') AND (:expires_at IS NULL OR :expires_at > now_ms())
RETURNING *;

-- name: list_shares
SELECT * FROM shares WHERE upload_id = :upload_id AND tenant = :tenant AND owner = :owner
ORDER BY created_at DESC, id DESC;

-- name: revoke_share^
UPDATE shares SET revoked_at = coalesce(revoked_at, now_ms())
WHERE id = :id AND tenant = :tenant AND owner = :owner AND upload_id = :upload_id
RETURNING *;

-- name: begin_try^
UPDATE shares
SET tries = CASE WHEN tries_since > now_ms() - ms(:window) THEN tries + 1 ELSE 1 END,
    tries_since = CASE WHEN tries_since > now_ms() - ms(:window) THEN tries_since ELSE now_ms() END
WHERE id = :id AND tenant = :tenant AND owner = :owner
    AND (tries < :most OR tries_since IS NULL OR tries_since <= now_ms() - ms(:window))
RETURNING id;

-- name: take_try_back!
UPDATE shares SET tries = max(tries - 1, 0) WHERE id = :id AND tenant = :tenant AND owner = :owner;

-- name: count_download^
UPDATE shares SET downloads = downloads + 1
WHERE id = :id AND tenant = :tenant AND owner = :owner AND revoked_at IS NULL
    AND (expires_at IS NULL OR expires_at > now_ms()) AND (max_downloads IS NULL OR downloads < max_downloads)
RETURNING id;

-- name: system_find_share^
SELECT * FROM shares
WHERE id = :id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now_ms());

-- name: system_forget_shares
DELETE FROM shares WHERE id IN (
    SELECT shares.id FROM shares LEFT JOIN uploads ON uploads.id = shares.upload_id
    WHERE coalesce(shares.revoked_at, shares.expires_at) <= now_ms() - ms(:seconds)
        OR uploads.id IS NULL
        OR uploads.state <> 'complete' AND uploads.updated_at <= now_ms() - ms(:seconds)
    LIMIT :limit
)
RETURNING id;

-- name: begin_access!
INSERT INTO accesses (
    id, tenant, owner, upload_id, reader, proof, how, client, first_byte, wanted, outcome, began_at, ended_at
)
VALUES (
    :id, :tenant, :owner, :upload_id, :reader, :proof, :how, :client, :first_byte, :wanted, :outcome, now_ms(),
    CASE WHEN :is_over THEN now_ms() END
);

-- name: end_access!
UPDATE accesses SET sent = :sent, outcome = :outcome, ended_at = now_ms()
WHERE id = :id AND tenant = :tenant AND owner = :owner AND ended_at IS NULL;

-- name: list_accesses
SELECT * FROM accesses
WHERE tenant = :tenant AND owner = :owner AND upload_id = :upload_id AND (began_at, id) < (:after_time, :after_id)
ORDER BY began_at DESC, id DESC
LIMIT :limit;

-- name: tenant_list_accesses
SELECT * FROM accesses
WHERE tenant = :tenant AND (began_at, id) < (:after_time, :after_id)
    AND (:upload_id IS NULL OR upload_id = :upload_id) AND (:reader IS NULL OR reader = :reader)
    AND began_at >= :began_from AND began_at < :began_before
ORDER BY began_at DESC, id DESC
LIMIT :limit;

-- name: system_forget_accesses
DELETE FROM accesses WHERE id IN (
    SELECT id FROM accesses WHERE began_at <= now_ms() - ms(:seconds) ORDER BY began_at LIMIT :limit
)
RETURNING id;

-- name: create_schema_migrations!
CREATE TABLE IF NOT EXISTS schema_migrations (name TEXT PRIMARY KEY NOT NULL, applied_at INTEGER NOT NULL) STRICT;

-- name: system_usage^
-- Of a tenant whose usage is not kept it is counted.
SELECT bytes, files, unfinished FROM tenant_usage WHERE tenant = :tenant
UNION ALL
SELECT coalesce(sum(bytes), 0), coalesce(sum(files), 0), coalesce(sum(unfinished), 0)
FROM counted_uploads
WHERE tenant = :tenant AND NOT EXISTS (SELECT 1 FROM tenant_usage WHERE tenant = :tenant);

-- name: system_limit_usage!
INSERT INTO tenant_usage (tenant, bytes, files, unfinished, max_bytes, max_files, max_unfinished)
SELECT :tenant, coalesce(sum(bytes), 0), coalesce(sum(files), 0), coalesce(sum(unfinished), 0),
    :bytes, :files, :unfinished
FROM counted_uploads WHERE tenant = :tenant
ON CONFLICT (tenant) DO UPDATE
SET max_bytes = excluded.max_bytes, max_files = excluded.max_files, max_unfinished = excluded.max_unfinished,
    more_bytes = 0, more_files = 0, more_unfinished = 0;

-- name: stop_counting!
DELETE FROM tenant_usage WHERE tenant = :tenant;

-- name: system_counted_usages
SELECT tenant, bytes, files, unfinished FROM tenant_usage ORDER BY tenant;

-- name: system_recount!
UPDATE tenant_usage
SET bytes = :bytes, files = :files, unfinished = :unfinished, more_bytes = 0, more_files = 0, more_unfinished = 0
WHERE tenant = :tenant;

-- name: system_usages
SELECT tenant, sum(bytes) AS bytes, sum(files) AS files, sum(unfinished) AS unfinished
FROM counted_uploads GROUP BY tenant ORDER BY tenant;

-- name: system_note_routes*!
INSERT INTO routes (name, place) VALUES (:name, :place) ON CONFLICT (name) DO NOTHING;

-- name: system_routes
SELECT name, place, EXISTS (
    SELECT 1 FROM uploads WHERE uploads.route = routes.name AND state IN ('uploading', 'sealed', 'complete')
) OR EXISTS (
    SELECT 1 FROM garbage JOIN uploads ON uploads.id = garbage.upload_id WHERE uploads.route = routes.name
) AS is_used
FROM routes;

-- name: system_change_route!
UPDATE routes SET place = :place WHERE name = :name;

-- name: applied_migrations
SELECT name FROM schema_migrations ORDER BY name;

-- name: record_migration!
INSERT INTO schema_migrations (name, applied_at) VALUES (:name, now_ms());
