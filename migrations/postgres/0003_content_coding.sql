-- The coding that a client has put on its file before sending it; tus has none, so earlier uploads have none.
ALTER TABLE uploads ADD COLUMN content_coding text;
