-- When uploads were last expired, and what keeps them from being expired: one row for all replicas.
CREATE TABLE expiry_brake (
    id          integer     PRIMARY KEY CHECK (id = 1),
    last_run    timestamptz,
    waits_until timestamptz,
    held_reason text
);

INSERT INTO expiry_brake (id) VALUES (1);

-- When the store first confirmed that it is gone; it is removed a second time before it is forgotten.
ALTER TABLE garbage ADD COLUMN removed_at timestamptz;
