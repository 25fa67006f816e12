"""Counting what waits and what is dead costs what there is of it, however much was settled before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tusgate.database import postgres_deliveries, postgres_jobs, sqlite_deliveries, sqlite_jobs

if TYPE_CHECKING:
    from tests.contract.database_rig import PostgresRig, SqliteRig

SETTLED = 20_000
EVENTS = f"""
    INSERT INTO events (upload_id, number, tenant, owner, type, upload)
    SELECT 'upload-' || n, 1, 'acme', 'alice', 'upload.completed', '{{}}' FROM generate_series(1, {SETTLED}) n
"""
DELIVERIES = """
    INSERT INTO deliveries (upload_id, number, sink, tenant, owner, state)
    SELECT upload_id, 1, 'hook', 'acme', 'alice',
        CASE upload_id WHEN 'upload-1' THEN 'waiting' WHEN 'upload-2' THEN 'dead' ELSE 'delivered' END
    FROM events
"""
JOBS = """
    INSERT INTO jobs (upload_id, processor, tenant, owner, version, is_gate, state)
    SELECT upload_id, 'scan', 'acme', 'alice', 1, false, CASE upload_id WHEN 'upload-1' THEN 'waiting' ELSE 'done' END
    FROM events
"""


@pytest.mark.servers
async def test_postgres_reads_nothing_that_is_settled(postgres_rig: PostgresRig) -> None:
    for statement in (EVENTS, DELIVERIES, JOBS, "ANALYZE events, deliveries, jobs"):
        await postgres_rig.query(statement)
    for sql in (postgres_deliveries._queries.backlog.sql, postgres_jobs._queries.system_backlog.sql):
        plan = "\n".join(str(line) for (line,) in await postgres_rig.query(f"EXPLAIN {sql}"))
        assert "Seq Scan" not in plan, plan
    waiting, dead = await postgres_rig.database.deliveries.backlog()
    assert (waiting.deliveries, dead.deliveries) == (1, 1)
    (jobs,) = await postgres_rig.database.jobs.backlog()
    assert (jobs.waiting, jobs.running) == (1, 0)


async def test_sqlite_finds_what_is_not_settled_by_its_indexes(sqlite_rig: SqliteRig) -> None:
    wanted = {
        sqlite_deliveries._queries.backlog.sql: ("deliveries_due", "deliveries_dead"),
        sqlite_jobs._queries.system_backlog.sql: ("jobs_due",),
    }
    for sql, indexes in wanted.items():
        statement = sql.replace("now_ms()", "0")  # a function of the adapter's own connections
        plan = str(await sqlite_rig.query(f"EXPLAIN QUERY PLAN {statement}"))
        for index in indexes:
            assert index in plan, plan
