"""Where offsets, metadata, parts and garbage are committed: PostgreSQL for production, SQLite for one process.

Both adapters keep the contract of `ports.Database`; their statements are in `postgres.sql` and `sqlite.sql`.
"""
