-- Uploads that have ended are forgotten in time; one that has used up an upload token is not: nothing else tells so.
CREATE INDEX uploads_ended ON uploads (updated_at)
    WHERE state IN ('terminated', 'expired', 'failed') AND token_id IS NULL;
