-- File names as they are searched: without regard to case. Rows of earlier releases have none, see list_files.
ALTER TABLE uploads ADD COLUMN filename_folded text;

-- A page of an owner's files, newest first, whatever else is stored. None of the columns ever changes, so that steps
-- stay heap-only updates. While it is built, which takes seconds per million uploads, steps wait.
CREATE INDEX uploads_listing ON uploads (tenant, owner, created_at, id);
