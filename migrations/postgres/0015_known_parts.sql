-- The digest that a part of a direct upload was declared with, and that the store has proved. By it a part of a new
-- upload finds the bytes that a finished file of its owner has already.
ALTER TABLE parts ADD COLUMN sha256 bytea;

CREATE INDEX parts_digest ON parts (tenant, owner, sha256) WHERE sha256 IS NOT NULL;
