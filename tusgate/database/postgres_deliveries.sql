-- The statements of PostgresDeliveries. All are for relays and operators, which work across tenants; each is one step.

-- name: claim
-- An event waits for those of its upload before it. One that another relay is claiming right now is skipped; the next
-- ones of that upload are not due then, since this statement sees it waiting.
-- `settled_at IS NULL` is `state = 'waiting'`, said so that only the primary key can answer it: the statistics of a queue
-- are as a rule those of an empty one, and by the index of what is due every event would look at every other.
-- What is due before one that it has to wait for is put off: else every claim would go past all of that again.
WITH due AS (
    SELECT upload_id, number, sink FROM deliveries AS delivery
    WHERE sink = :sink AND state = 'waiting' AND due_at <= now()
        AND number = (
            SELECT min(first.number) FROM deliveries AS first
            WHERE first.upload_id = delivery.upload_id AND first.sink = delivery.sink AND first.settled_at IS NULL
        )
        AND NOT EXISTS (SELECT FROM disabled_sinks WHERE name = :sink)
    ORDER BY due_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE deliveries
    SET holder = :holder, due_at = now() + make_interval(secs => :lease), tries = deliveries.tries + 1
    FROM due
    WHERE deliveries.upload_id = due.upload_id AND deliveries.number = due.number AND deliveries.sink = due.sink
    RETURNING deliveries.*
), behind AS (
    SELECT delivery.upload_id, delivery.number, delivery.sink, held_up.until
    FROM (
        SELECT upload_id, number, sink FROM deliveries
        WHERE sink = :sink AND state = 'waiting' AND due_at <= now()
        ORDER BY due_at
        LIMIT :looked_at
    ) AS oldest
    JOIN deliveries AS delivery USING (upload_id, number, sink)
    CROSS JOIN LATERAL (
        SELECT least(max(earlier.due_at), now() + make_interval(secs => :put_off)) AS until FROM deliveries AS earlier
        WHERE earlier.upload_id = delivery.upload_id AND earlier.number < delivery.number
            AND earlier.sink = delivery.sink AND earlier.settled_at IS NULL
            AND earlier.holder IS NULL AND earlier.due_at > delivery.due_at
        HAVING count(*) > 0  -- least() knows no NULL
    ) AS held_up
    FOR UPDATE OF delivery SKIP LOCKED
), put_off AS (
    UPDATE deliveries SET due_at = behind.until
    FROM behind
    WHERE deliveries.upload_id = behind.upload_id AND deliveries.number = behind.number AND deliveries.sink = behind.sink
)
SELECT claimed.*, events.type, events.upload, events.occurred_at
FROM claimed JOIN events ON events.upload_id = claimed.upload_id AND events.number = claimed.number
ORDER BY events.occurred_at, claimed.upload_id, claimed.number;

-- name: settle!
UPDATE deliveries
SET state = outcome.state, error = outcome.error, holder = NULL, due_at = now() + make_interval(secs => outcome.delay),
    settled_at = CASE WHEN outcome.state <> 'waiting' THEN now() END
FROM unnest(
    :upload_ids::text[], :numbers::integer[], :states::text[], :delays::double precision[], :errors::text[]
) AS outcome (upload_id, number, state, delay, error)
WHERE deliveries.upload_id = outcome.upload_id AND deliveries.number = outcome.number AND deliveries.sink = :sink
    AND deliveries.holder = :holder AND deliveries.state = 'waiting';

-- name: give_back!
UPDATE deliveries SET holder = NULL, due_at = now(), tries = tries - 1
WHERE sink = :sink AND holder = :holder AND state = 'waiting' AND due_at > now();

-- name: disable!
INSERT INTO disabled_sinks (name, reason) VALUES (:sink, :reason) ON CONFLICT (name) DO NOTHING;

-- name: enable!
DELETE FROM disabled_sinks WHERE name = :sink;

-- name: list_disabled
SELECT name, reason FROM disabled_sinks ORDER BY name;

-- name: backlog
-- Two selections, since each has a partial index, and both together would have none.
SELECT sink, 'waiting' AS state, count(*) AS deliveries, extract(epoch FROM now() - min(events.occurred_at))::double precision AS seconds
FROM deliveries JOIN events ON events.upload_id = deliveries.upload_id AND events.number = deliveries.number
WHERE deliveries.state = 'waiting'
GROUP BY sink
UNION ALL
SELECT sink, 'dead', count(*), NULL::double precision FROM deliveries WHERE state = 'dead' GROUP BY sink
ORDER BY sink, state DESC;

-- name: bury_unclaimed!
-- Of a sink that is disabled, or that no relay knows any more: else these would be kept for ever.
UPDATE deliveries SET state = 'dead', settled_at = now(), error = coalesce(
    (SELECT reason FROM disabled_sinks WHERE name = deliveries.sink), 'no gateway has this sink in its settings'
)
WHERE state = 'waiting' AND due_at <= now() - make_interval(secs => :patience)
    AND (sink <> ALL(:sinks::text[]) OR sink IN (SELECT name FROM disabled_sinks));

-- name: purge
WITH old AS (
    SELECT upload_id, number FROM events AS event
    WHERE occurred_at <= now() - make_interval(secs => :retention) AND NOT EXISTS (
        SELECT FROM deliveries
        WHERE upload_id = event.upload_id AND number = event.number AND (
            state = 'waiting' OR settled_at > now() - make_interval(secs => :retention)
            OR state = 'dead' AND settled_at > now() - make_interval(secs => :dead_retention)
        )
    )
    ORDER BY occurred_at
    LIMIT :limit
), settled AS (
    DELETE FROM deliveries USING old
    WHERE deliveries.upload_id = old.upload_id AND deliveries.number = old.number
)
DELETE FROM events USING old WHERE events.upload_id = old.upload_id AND events.number = old.number
RETURNING events.upload_id;

-- name: find
SELECT deliveries.*, events.type, events.upload, events.occurred_at
FROM deliveries JOIN events ON events.upload_id = deliveries.upload_id AND events.number = deliveries.number
WHERE (:upload_id::text IS NULL OR events.upload_id = :upload_id)
    AND (:number::integer IS NULL OR events.number = :number)
    AND (:tenant::text IS NULL OR events.tenant = :tenant)
    AND (:type::text IS NULL OR events.type = :type)
    AND (:sink::text IS NULL OR deliveries.sink = :sink)
    AND (:state::text IS NULL OR deliveries.state = :state)
    AND (:since::timestamptz IS NULL OR events.occurred_at >= :since)
    AND (:until::timestamptz IS NULL OR events.occurred_at < :until)
    AND (:after_time::timestamptz IS NULL OR (events.occurred_at, events.upload_id, events.number, deliveries.sink)
        > (:after_time, :after_upload::text, :after_number::integer, :after_sink::text))
ORDER BY events.occurred_at, events.upload_id, events.number, deliveries.sink
LIMIT :limit;

-- name: replay
-- What is behind these was put off because of them, and is not any more. The same in `drop`.
WITH replayed AS (
    UPDATE deliveries SET state = 'waiting', tries = 0, holder = NULL, due_at = now(), settled_at = NULL, error = NULL
    FROM unnest(:upload_ids::text[], :numbers::integer[], :sinks::text[]) AS chosen (upload_id, number, sink)
    WHERE deliveries.upload_id = chosen.upload_id AND deliveries.number = chosen.number
        AND deliveries.sink = chosen.sink
        AND NOT (deliveries.state = 'waiting' AND deliveries.holder IS NOT NULL AND deliveries.due_at > now())
    RETURNING deliveries.upload_id, deliveries.number, deliveries.sink
), behind AS (
    UPDATE deliveries SET due_at = now()
    FROM replayed
    WHERE deliveries.upload_id = replayed.upload_id AND deliveries.sink = replayed.sink
        AND deliveries.number > replayed.number AND deliveries.settled_at IS NULL AND deliveries.holder IS NULL
        AND deliveries.tries = 0 AND deliveries.due_at > now()
        AND (deliveries.upload_id, deliveries.number, deliveries.sink) NOT IN (SELECT * FROM replayed)
)
SELECT number FROM replayed;

-- name: drop
WITH dropped AS (
    DELETE FROM deliveries
    USING unnest(:upload_ids::text[], :numbers::integer[], :sinks::text[]) AS chosen (upload_id, number, sink)
    WHERE deliveries.upload_id = chosen.upload_id AND deliveries.number = chosen.number
        AND deliveries.sink = chosen.sink
        AND NOT (deliveries.state = 'waiting' AND deliveries.holder IS NOT NULL AND deliveries.due_at > now())
    RETURNING deliveries.upload_id, deliveries.number, deliveries.sink
), behind AS (
    UPDATE deliveries SET due_at = now()
    FROM dropped
    WHERE deliveries.upload_id = dropped.upload_id AND deliveries.sink = dropped.sink
        AND deliveries.number > dropped.number AND deliveries.settled_at IS NULL AND deliveries.holder IS NULL
        AND deliveries.tries = 0 AND deliveries.due_at > now()
        AND (deliveries.upload_id, deliveries.number, deliveries.sink) NOT IN (SELECT * FROM dropped)
)
SELECT number FROM dropped;
