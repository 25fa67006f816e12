-- File names as they are searched: without regard to case. Rows of earlier releases have none, see list_files.
ALTER TABLE uploads ADD COLUMN filename_folded TEXT;

-- A page of an owner's files, newest first, whatever else is stored.
CREATE INDEX uploads_listing ON uploads (tenant, owner, created_at, id);
