-- The statements of SqliteDeliveries. All are for relays and operators, which work across tenants.

-- name: claim
-- An event waits for those of its upload before it. One statement, as writers are one after the other.
UPDATE deliveries SET holder = :holder, due_at = now_ms() + ms(:lease), tries = tries + 1
WHERE rowid IN (
    SELECT rowid FROM deliveries AS delivery
    WHERE sink = :sink AND state = 'waiting' AND due_at <= now_ms()
        AND NOT EXISTS (
            SELECT 1 FROM deliveries AS earlier
            WHERE earlier.upload_id = delivery.upload_id AND earlier.number < delivery.number
                AND earlier.sink = delivery.sink AND earlier.state = 'waiting'
        )
        AND NOT EXISTS (SELECT 1 FROM disabled_sinks WHERE name = :sink)
    ORDER BY due_at, rowid
    LIMIT :limit
)
RETURNING upload_id, number;

-- name: get^
SELECT deliveries.*, events.type, events.upload, events.occurred_at
FROM deliveries JOIN events ON events.upload_id = deliveries.upload_id AND events.number = deliveries.number
WHERE deliveries.upload_id = :upload_id AND deliveries.number = :number AND deliveries.sink = :sink;

-- name: settle*!
UPDATE deliveries
SET state = :state, error = :error, holder = NULL, due_at = now_ms() + ms(:delay),
    settled_at = CASE WHEN :state <> 'waiting' THEN now_ms() END
WHERE upload_id = :upload_id AND number = :number AND sink = :sink AND holder = :holder AND state = 'waiting';

-- name: give_back!
UPDATE deliveries SET holder = NULL, due_at = now_ms(), tries = tries - 1
WHERE sink = :sink AND holder = :holder AND state = 'waiting' AND due_at > now_ms();

-- name: disable!
INSERT INTO disabled_sinks (name, reason, disabled_at) VALUES (:sink, :reason, now_ms()) ON CONFLICT (name) DO NOTHING;

-- name: enable!
DELETE FROM disabled_sinks WHERE name = :sink;

-- name: list_disabled
SELECT name, reason FROM disabled_sinks ORDER BY name;

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
