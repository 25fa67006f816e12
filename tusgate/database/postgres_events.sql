-- The statements of PostgresEvents: for those who listen. What names an owner is for one scope only; tail and fetch serve
-- all listeners of a process at once, which then look at whose each event is.

-- name: tail
SELECT upload_id, number FROM events
WHERE tenant = ANY(:tenants::text[]) AND occurred_at >= now() - make_interval(secs => :seconds);

-- name: fetch
SELECT events.* FROM events
JOIN unnest(:upload_ids::text[], :numbers::integer[]) AS chosen (upload_id, number)
    ON events.upload_id = chosen.upload_id AND events.number = chosen.number
ORDER BY occurred_at, upload_id, number;

-- name: of_upload
SELECT * FROM events
WHERE upload_id = :id AND tenant = :tenant AND owner = :owner AND number > :after
ORDER BY number
LIMIT :limit;

-- name: when_was^
SELECT occurred_at FROM events
WHERE upload_id = :id AND number = :number AND tenant = :tenant AND (:owner::text IS NULL OR owner = :owner);

-- name: page
SELECT * FROM events
WHERE tenant = :tenant AND (:owner::text IS NULL OR owner = :owner)
    AND (occurred_at, upload_id, number) > (coalesce(:time::timestamptz, '-infinity'), :upload_id::text, :number::integer)
ORDER BY occurred_at, upload_id, number
LIMIT :limit;
