-- The statements of SqliteEvents: for those who listen. What names an owner is for one scope only; tail and fetch serve all
-- listeners of the process at once, which then look at whose each event is.

-- name: tail
SELECT upload_id, number FROM events
WHERE tenant IN (SELECT value FROM json_each(:tenants)) AND occurred_at >= now_ms() - ms(:seconds);

-- name: fetch^
SELECT * FROM events WHERE upload_id = :upload_id AND number = :number;

-- name: of_upload
SELECT * FROM events
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND number > :after
ORDER BY number
LIMIT :limit;

-- name: when_was^
SELECT occurred_at FROM events
WHERE upload_id = :id AND number = :number AND tenant = :tenant AND (:owner IS NULL OR owner = :owner);

-- name: page
SELECT * FROM events
WHERE tenant = :tenant AND (:owner IS NULL OR owner = :owner)
    AND (occurred_at, upload_id, number) > (:time, :upload_id, :number)
ORDER BY occurred_at, upload_id, number
LIMIT :limit;
