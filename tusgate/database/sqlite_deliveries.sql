-- The statements of SqliteDeliveries. All are for relays and operators, which work across tenants.
-- Many deliveries in one statement, and `(SELECT now_ms())`, which is called once: each statement, each row and each call
-- of a function of ours is a turn at the interpreter's lock, for which the event loop competes.

-- name: put_off!
-- What is due before one that it has to wait for: else every claim would go past all of that again.
-- `settled_at IS NULL` is `state = 'waiting'`, said so that only the primary key can answer it.
UPDATE deliveries SET due_at = held_up.until
FROM (
    SELECT oldest.place, min(max(earlier.due_at), (SELECT now_ms()) + ms(:put_off)) AS until
    FROM (
        SELECT rowid AS place, upload_id, number, due_at FROM deliveries
        WHERE sink = :sink AND state = 'waiting' AND due_at <= (SELECT now_ms())
        ORDER BY due_at
        LIMIT :looked_at
    ) AS oldest
    JOIN deliveries AS earlier ON earlier.upload_id = oldest.upload_id AND earlier.number < oldest.number
        AND earlier.sink = :sink AND earlier.settled_at IS NULL
        AND earlier.holder IS NULL AND earlier.due_at > oldest.due_at
    GROUP BY oldest.place
) AS held_up
WHERE deliveries.rowid = held_up.place;

-- name: claim
-- An event waits for those of its upload before it. One statement, as writers are one after the other.
UPDATE deliveries SET holder = :holder, due_at = (SELECT now_ms()) + ms(:lease), tries = tries + 1
WHERE rowid IN (
    SELECT rowid FROM deliveries AS delivery
    WHERE sink = :sink AND state = 'waiting' AND due_at <= (SELECT now_ms())
        AND NOT EXISTS (
            SELECT 1 FROM deliveries AS earlier
            WHERE earlier.upload_id = delivery.upload_id AND earlier.number < delivery.number
                AND earlier.sink = delivery.sink AND earlier.settled_at IS NULL
        )
        AND NOT EXISTS (SELECT 1 FROM disabled_sinks WHERE name = :sink)
    ORDER BY due_at, rowid
    LIMIT :limit
)
RETURNING rowid AS place;

-- name: list_claimed
-- :places is a JSON array.
SELECT deliveries.*, events.type, events.upload, events.occurred_at
FROM deliveries JOIN events ON events.upload_id = deliveries.upload_id AND events.number = deliveries.number
WHERE deliveries.rowid IN (SELECT value FROM json_each(:places))
ORDER BY events.occurred_at, deliveries.upload_id, deliveries.number;

-- name: settle!
-- :outcomes is a JSON array of objects.
UPDATE deliveries
SET state = outcome.state, error = outcome.error, holder = NULL,
    due_at = (SELECT now_ms()) + CAST(outcome.delay * 1000 AS INTEGER),
    settled_at = CASE WHEN outcome.state <> 'waiting' THEN (SELECT now_ms()) END
FROM (
    SELECT
        json_extract(value, '$.upload_id') AS upload_id, json_extract(value, '$.number') AS number,
        json_extract(value, '$.state') AS state, json_extract(value, '$.delay') AS delay,
        json_extract(value, '$.error') AS error
    FROM json_each(:outcomes)
) AS outcome
WHERE deliveries.upload_id = outcome.upload_id AND deliveries.number = outcome.number AND deliveries.sink = :sink
    AND deliveries.holder = :holder AND deliveries.settled_at IS NULL;

-- name: give_back!
UPDATE deliveries SET holder = NULL, due_at = now_ms(), tries = tries - 1
WHERE sink = :sink AND holder = :holder AND state = 'waiting' AND due_at > now_ms();

-- name: disable!
INSERT INTO disabled_sinks (name, reason, disabled_at) VALUES (:sink, :reason, now_ms()) ON CONFLICT (name) DO NOTHING;

-- name: enable!
DELETE FROM disabled_sinks WHERE name = :sink;

-- name: list_disabled
SELECT name, reason FROM disabled_sinks ORDER BY name;

-- name: backlog
-- Two selections, since each has a partial index, and both together would have none.
SELECT sink, 'waiting' AS state, count(*) AS deliveries, (now_ms() - min(events.occurred_at)) / 1000.0 AS seconds
FROM deliveries JOIN events ON events.upload_id = deliveries.upload_id AND events.number = deliveries.number
WHERE deliveries.state = 'waiting'
GROUP BY sink
UNION ALL
SELECT sink, 'dead', count(*), NULL FROM deliveries WHERE state = 'dead' GROUP BY sink
ORDER BY sink, state DESC;

-- name: bury_unclaimed!
-- Of a sink that is disabled, or that no relay knows any more: else these would be kept for ever. :sinks is a JSON array.
UPDATE deliveries SET state = 'dead', settled_at = now_ms(), error = coalesce(
    (SELECT reason FROM disabled_sinks WHERE name = deliveries.sink), 'no gateway has this sink in its settings'
)
WHERE state = 'waiting' AND due_at <= now_ms() - ms(:patience)
    AND (sink NOT IN (SELECT value FROM json_each(:sinks)) OR sink IN (SELECT name FROM disabled_sinks));

-- name: list_old
SELECT upload_id, number FROM events AS event
WHERE occurred_at <= now_ms() - ms(:retention) AND NOT EXISTS (
    SELECT 1 FROM deliveries
    WHERE upload_id = event.upload_id AND number = event.number AND (
        state = 'waiting' OR settled_at > now_ms() - ms(:retention)
        OR state = 'dead' AND settled_at > now_ms() - ms(:dead_retention)
    )
)
ORDER BY occurred_at
LIMIT :limit;

-- name: delete_deliveries*!
DELETE FROM deliveries WHERE upload_id = :upload_id AND number = :number;

-- name: delete_events*!
DELETE FROM events WHERE upload_id = :upload_id AND number = :number;

-- name: find
SELECT deliveries.*, events.type, events.upload, events.occurred_at
FROM deliveries JOIN events ON events.upload_id = deliveries.upload_id AND events.number = deliveries.number
WHERE (:upload_id IS NULL OR events.upload_id = :upload_id)
    AND (:number IS NULL OR events.number = :number)
    AND (:tenant IS NULL OR events.tenant = :tenant)
    AND (:type IS NULL OR events.type = :type)
    AND (:sink IS NULL OR deliveries.sink = :sink)
    AND (:state IS NULL OR deliveries.state = :state)
    AND (:since IS NULL OR events.occurred_at >= :since)
    AND (:until IS NULL OR events.occurred_at < :until)
    AND (:after_time IS NULL OR (events.occurred_at, events.upload_id, events.number, deliveries.sink)
        > (:after_time, :after_upload, :after_number, :after_sink))
ORDER BY events.occurred_at, events.upload_id, events.number, deliveries.sink
LIMIT :limit;

-- name: replay^
UPDATE deliveries SET state = 'waiting', tries = 0, holder = NULL, due_at = now_ms(), settled_at = NULL, error = NULL
WHERE upload_id = :upload_id AND number = :number AND sink = :sink
    AND NOT (state = 'waiting' AND holder IS NOT NULL AND due_at > now_ms())
RETURNING number;

-- name: drop^
DELETE FROM deliveries
WHERE upload_id = :upload_id AND number = :number AND sink = :sink
    AND NOT (state = 'waiting' AND holder IS NOT NULL AND due_at > now_ms())
RETURNING number;

-- name: let_go*!
-- What is behind these was put off because of them, and is not any more.
UPDATE deliveries SET due_at = now_ms()
WHERE upload_id = :upload_id AND sink = :sink AND number > :number AND settled_at IS NULL AND holder IS NULL
    AND tries = 0 AND due_at > now_ms();
