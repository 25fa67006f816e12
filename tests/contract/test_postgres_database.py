"""What only the PostgreSQL adapter can show: a server that goes away and comes back, its settings, notifications."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import structlog.testing

from tests.contract.database_rig import (
    CELL,
    PostgresRig,
    a_complete_upload,
    a_new_upload,
    a_part,
    a_step,
    a_writer,
    an_inline_piece,
    garbage_of,
)
from tests.fault.tcp import TcpFaultProxy
from tusgate.core.errors import DatabaseUnavailable, Fenced, InvalidRequest, SettingsError
from tusgate.core.model import State
from tusgate.database import postgres as adapter
from tusgate.database.postgres import PostgresDatabase
from tusgate.database.postgres_connections import CONNECT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.servers.pgbouncer import PgBouncer
    from tests.servers.postgres import Postgres
    from tusgate.core.model import UploadId
    from tusgate.ports import Database

pytestmark = pytest.mark.servers
PATIENCE = 20.0
END_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[PostgresRig]:
    rig = PostgresRig(database_url)
    await rig.database.migrate()
    yield rig
    await rig.close()


@pytest.fixture
def database(rig: PostgresRig) -> Database:
    return rig.database


async def first_success(database: Database) -> None:
    """Wait for the first answer after an outage, as a client would that tries again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await database.due_garbage(1, 0.0)
            except DatabaseUnavailable:
                continue
            return


@asynccontextmanager
async def silent_link(rig: PostgresRig) -> AsyncIterator[tuple[str, TcpFaultProxy]]:
    """Give a way to the server that can be frozen."""
    address = urlsplit(rig.dsn)
    assert address.hostname
    assert address.port
    async with TcpFaultProxy(address.hostname, address.port) as link:
        there = address.netloc.replace(f":{address.port}", f":{link.port}")
        yield urlunsplit(address._replace(netloc=there)), link


@asynccontextmanager
async def setting(rig: PostgresRig, name: str, value: str) -> AsyncIterator[None]:
    """Run with a server-wide setting, once new sessions have it."""
    await rig.query(f"ALTER SYSTEM SET {name} = {value}")
    try:
        await reloaded(rig, name, value)
        yield
    finally:
        await rig.query(f"ALTER SYSTEM RESET {name}")
        await rig.query("SELECT pg_reload_conf()")


async def reloaded(rig: PostgresRig, name: str, value: str) -> None:
    await rig.query("SELECT pg_reload_conf()")
    async with asyncio.timeout(PATIENCE):
        while await rig.query(f"SHOW {name}") != [(value,)]:
            pass


def become_standby(postgres: Postgres, directory: Path) -> None:
    if not directory.is_dir():
        pytest.skip("the server's files are not on this machine")
    postgres.stop()
    (directory / "standby.signal").touch()
    try:
        postgres.start()
    except BaseException:
        become_primary(postgres, directory)
        raise


def become_primary(postgres: Postgres, directory: Path) -> None:
    postgres.stop()
    (directory / "standby.signal").unlink()
    postgres.start()


class TestOutages:
    async def test_it_is_unavailable_while_the_server_is_down_and_works_again_afterwards(
        self, rig: PostgresRig, postgres: Postgres
    ) -> None:
        database = rig.database
        writer = await a_writer(database)
        await asyncio.to_thread(postgres.stop)
        with pytest.raises(DatabaseUnavailable):
            await database.get(writer.scope, writer.id)
        with pytest.raises(DatabaseUnavailable) as down:
            await database.commit(writer, a_step(CELL, parts=(a_part(1),)))
        assert down.value.__cause__ is not None
        await asyncio.to_thread(postgres.start)
        assert await database.get(writer.scope, writer.id) == writer
        assert (await database.commit(writer, a_step(CELL, parts=(a_part(1),)))).offset == CELL

    async def test_a_commit_survives_a_power_cut_of_the_server(self, rig: PostgresRig, postgres: Postgres) -> None:
        writer = await a_writer(rig.database)
        moved = await rig.database.commit(writer, a_step(CELL, parts=(a_part(1),)))
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
        await first_success(rig.database)
        assert await rig.database.get(writer.scope, writer.id) == moved
        assert await rig.database.parts(writer) == [a_part(1)]

    async def test_it_can_be_built_before_the_server_is_there(self, rig: PostgresRig, postgres: Postgres) -> None:
        await asyncio.to_thread(postgres.stop)
        database = await PostgresDatabase.connect(rig.dsn)
        with pytest.raises(DatabaseUnavailable):
            await database.check()
        await asyncio.to_thread(postgres.start)
        await database.check()
        await database.close()

    async def test_a_connection_that_is_cut_between_two_steps_of_a_call_is_unavailable(self, rig: PostgresRig) -> None:
        """When a step has taken too long, its connection is terminated, wherever asyncpg is just then."""
        database = await PostgresDatabase.connect(rig.dsn)

        async def step() -> None:
            async with database._connections.session() as connection:
                inner: Any = connection._con  # type: ignore[attr-defined]  # what asyncpg itself works on
                connection.terminate()
                inner._protocol.get_settings()  # as asyncpg itself does after it has prepared a statement

        with pytest.raises(DatabaseUnavailable):
            await step()
        await database.check()
        await database.close()

    async def test_sessions_that_the_server_ended_are_replaced(self, rig: PostgresRig) -> None:
        writer = await a_writer(rig.database)
        await asyncio.gather(*[rig.database.get(writer.scope, writer.id) for _ in range(20)])
        await rig.query(END_SESSIONS)
        await first_success(rig.database)
        found = await asyncio.gather(*[rig.database.get(writer.scope, writer.id) for _ in range(20)])
        assert found == [writer] * 20

    async def test_a_server_that_became_read_only_is_left_and_found_again(
        self, rig: PostgresRig, postgres: Postgres
    ) -> None:
        name = rig.dsn.rpartition("/")[2]
        read_only = f'ALTER DATABASE "{name}" SET default_transaction_read_only'
        await asyncio.to_thread(postgres.execute, f"{read_only} = on")
        database = rig.another()  # a session keeps the setting that it began with
        new = a_new_upload()
        assert sum((await database.count_by_state()).values()) == 0
        with pytest.raises(DatabaseUnavailable):
            await database.create(new)
        await asyncio.to_thread(postgres.execute, f"{read_only} = off")
        assert (await database.create(new)).id == new.id

    async def test_a_server_that_does_not_answer_is_given_up_in_time(
        self, rig: PostgresRig, postgres: Postgres
    ) -> None:
        impatient = rig.another(command_timeout=0.3)
        writer = await a_writer(impatient)
        await asyncio.to_thread(postgres.pause)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(DatabaseUnavailable):
                await impatient.commit(writer, a_step(CELL, parts=(a_part(1),)))
        await asyncio.to_thread(postgres.resume)
        await first_success(impatient)
        found = await impatient.get(writer.scope, writer.id)
        assert found.offset in {0, CELL}
        assert len(await impatient.parts(found)) == found.offset // CELL

    async def test_a_silent_link_keeps_nobody_longer_than_a_step_may_take(self, rig: PostgresRig) -> None:
        """DF-24: not those who wait for a connection, not those in a transaction, and not the next ones."""
        writer = await a_writer(rig.database)
        async with silent_link(rig) as (dsn, link):
            database = PostgresDatabase(dsn, pool_size=3, command_timeout=4.0)
            await asyncio.gather(*(database.get(writer.scope, writer.id, ahead=n % 2 == 0) for n in range(20)))
            link.freeze()
            async with asyncio.timeout(1.9 * 4.0):  # once would do, were the machine not busy
                outcomes = await asyncio.gather(
                    *(database.get(writer.scope, writer.id, ahead=n % 2 == 0) for n in range(6)),
                    *(database.terminate(writer.scope, writer.id) for _ in range(6)),
                    return_exceptions=True,
                )
            assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
            link.thaw()
            await first_success(database)
            assert await database.get(writer.scope, writer.id) == writer
            await database.close()

    async def test_of_several_hosts_one_that_says_nothing_is_not_waited_for(self, rig: PostgresRig) -> None:
        """A host that is switched off answers nothing at all: the primary beside it serves all the same."""
        async with silent_link(rig) as (dsn, link):
            link.freeze()
            address = urlsplit(rig.dsn)
            both = urlsplit(dsn).netloc + "," + address.netloc.rpartition("@")[2]
            database = PostgresDatabase(
                urlunsplit(address._replace(netloc=both)), pool_size=5, command_timeout=CONNECT_TIMEOUT / 2
            )
            created = await database.create(a_new_upload())
            assert await database.get(created.scope, created.id) == created
            await database.close()

    async def test_more_callers_than_connections_wait_their_turn(self, rig: PostgresRig) -> None:
        narrow = rig.another(pool_size=1)
        created = await asyncio.gather(*[narrow.create(a_new_upload()) for _ in range(20)])
        assert len({upload.id for upload in created}) == 20

    async def test_who_looks_at_an_upload_waits_for_no_step(self, rig: PostgresRig) -> None:
        """A HEAD is answered while more commits wait for the disk than there are connections."""
        narrow = rig.another(pool_size=1)
        writer = await a_writer(narrow)
        async with rig.unfinished_write(writer):
            claims = [asyncio.create_task(narrow.claim(writer, "another")) for _ in range(2)]
            assert await narrow.get(writer.scope, writer.id, ahead=True) == writer
            assert not any(claim.done() for claim in claims)
        await asyncio.gather(*claims, return_exceptions=True)

    async def test_looks_leave_a_server_that_a_step_found_to_be_no_primary(self, rig: PostgresRig) -> None:
        """I1: it would go on to answer, with offsets of the past."""
        connections = rig.another()._connections

        async def server_process() -> int:
            async with connections.look() as connection:
                return int(await connection.fetchval("SELECT pg_backend_pid()"))

        async def step() -> None:
            async with connections.transaction() as connection:
                await connection.execute("SET LOCAL transaction_read_only = on")
                await connection.execute("CREATE TABLE never (id int)")

        before = await server_process()
        assert await server_process() == before
        with pytest.raises(DatabaseUnavailable):
            await step()
        assert await server_process() != before

    async def test_a_look_that_was_given_up_is_not_in_the_way_of_the_next(self, rig: PostgresRig) -> None:
        connections = rig.another()._connections

        async def look() -> None:
            async with connections.look() as connection:
                await connection.execute("SELECT pg_sleep(60)")

        given_up = asyncio.create_task(look())
        async with connections.session() as other:
            seen = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
            while not await other.fetchval(seen):  # noqa: ASYNC110 # the server tells nobody
                await asyncio.sleep(0.01)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        async with connections.look() as connection:
            assert await connection.fetchval("SELECT 1") == 1

    async def test_looks_wait_for_each_other_no_longer_than_a_step_may_take(self, rig: PostgresRig) -> None:
        connections = rig.another(command_timeout=0.5)._connections
        async with connections.look():
            with pytest.raises(DatabaseUnavailable, match="free in time"):
                await connections.look().__aenter__()
        async with connections.look() as connection:
            assert await connection.fetchval("SELECT 1") == 1

    async def test_a_caller_that_finds_no_free_connection_in_time_is_told_so(self, rig: PostgresRig) -> None:
        narrow = rig.another(pool_size=1, command_timeout=0.5)
        writer = await a_writer(narrow)
        async with rig.unfinished_write(writer):
            results = await asyncio.gather(
                narrow.claim(writer, "a"), narrow.get(writer.scope, writer.id), return_exceptions=True
            )
        assert isinstance(results[0], DatabaseUnavailable)
        assert await narrow.get(writer.scope, writer.id) == writer

    async def test_closing_while_the_server_is_away_ends(self, rig: PostgresRig, postgres: Postgres) -> None:
        database = rig.another(command_timeout=0.5)
        await database.count_by_state()
        await asyncio.to_thread(postgres.pause)
        async with asyncio.timeout(PATIENCE):
            await database.close()
        await asyncio.to_thread(postgres.resume)

    async def test_a_migration_while_statements_are_prepared_disturbs_nobody(self, rig: PostgresRig) -> None:
        writer = await a_writer(rig.database)
        await rig.database.get(writer.scope, writer.id)
        await rig.query("ALTER TABLE uploads ADD COLUMN of_the_next_release text")
        assert await rig.database.get(writer.scope, writer.id) == writer
        assert (await rig.database.commit(writer, a_step(CELL, parts=(a_part(1),)))).offset == CELL


class TestSettings:
    async def test_fsync_off_is_refused(self, rig: PostgresRig) -> None:
        async with setting(rig, "fsync", "off"):
            with pytest.raises(SettingsError, match="fsync"):
                await rig.another().check()

    async def test_synchronous_commit_off_is_warned_of(self, rig: PostgresRig) -> None:
        name = rig.dsn.rpartition("/")[2]
        await rig.query(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
        database = rig.another()
        with structlog.testing.capture_logs() as logs:
            await database.check()
            await database.check()  # as often as somebody asks whether we are ready
        assert [(entry["event"], entry["log_level"]) for entry in logs] == [("database.unsafe", "warning")]

    async def test_a_standby_is_never_used(self, rig: PostgresRig, postgres: Postgres) -> None:
        ((directory,),) = await rig.query("SHOW data_directory")
        writer = await a_writer(rig.database)
        await asyncio.to_thread(become_standby, postgres, Path(directory))
        try:
            with pytest.raises(DatabaseUnavailable):
                await rig.database.get(writer.scope, writer.id)
            with pytest.raises(DatabaseUnavailable):
                await rig.database.check()
            with pytest.raises(DatabaseUnavailable):  # a pooler may lead anywhere without connecting anew
                await rig.another(transaction_pooling=True).get(writer.scope, writer.id)
        finally:
            await asyncio.to_thread(become_primary, postgres, Path(directory))
        assert await rig.database.get(writer.scope, writer.id) == writer

    async def test_a_server_that_takes_no_changes_is_not_ready(self, rig: PostgresRig, postgres: Postgres) -> None:
        name = rig.dsn.rpartition("/")[2]
        read_only = f'ALTER DATABASE "{name}" SET default_transaction_read_only'
        await asyncio.to_thread(postgres.execute, f"{read_only} = on")
        database = rig.another()
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            await database.check()
        await asyncio.to_thread(postgres.execute, f"{read_only} = off")
        await database.check()

    async def test_tables_that_are_away_for_a_while_are_no_lost_uploads(self, rig: PostgresRig) -> None:
        """A restore replaces them, or a role is being changed: whoever asks has to come again."""
        writer = await a_writer(rig.database)
        await rig.query("ALTER TABLE uploads RENAME TO being_restored")
        with pytest.raises(DatabaseUnavailable, match="migrate"):
            await rig.database.get(writer.scope, writer.id)
        await rig.query("ALTER TABLE being_restored RENAME TO uploads")
        assert await rig.database.get(writer.scope, writer.id) == writer

    async def test_a_database_that_was_never_prepared_is_a_wrong_setting(
        self, rig: PostgresRig, postgres: Postgres
    ) -> None:
        empty = await asyncio.to_thread(postgres.new_database)
        database = PostgresDatabase(empty, pool_size=1, command_timeout=5.0)
        with pytest.raises(SettingsError, match="tusgate migrate"):
            await database.check()
        await database.close()
        await asyncio.to_thread(postgres.drop_database, empty)

    async def test_a_url_that_makes_no_sense_is_a_wrong_setting(self) -> None:
        database = await PostgresDatabase.connect("mysql://host/name")
        with pytest.raises(SettingsError):
            await database.check()

    async def test_a_nul_byte_in_a_text_is_an_invalid_request(self, database: Database) -> None:
        with pytest.raises(InvalidRequest):
            await database.create(a_new_upload(filename="a\x00b"))

    async def test_sessions_behind_a_transaction_pooler_are_left_as_they_are(self, rig: PostgresRig) -> None:
        pooled = await PostgresDatabase.connect(f"{rig.dsn}?pgbouncer=true&application_name=mine", pool_size=1)
        done = await a_complete_upload(pooled)
        await pooled.terminate(done.scope, done.id)
        async with pooled._connections.session() as connection:
            assert await connection.fetch("SELECT name FROM pg_prepared_statements") == []
            changed = "SELECT name FROM pg_settings WHERE source = 'client' AND name ~ 'timeout'"
            assert await connection.fetch(changed) == []
            assert await connection.fetchval("SHOW application_name") == "mine"
        await pooled.close()

    async def test_a_pooler_that_nobody_told_us_of_is_a_wrong_setting(
        self, rig: PostgresRig, pgbouncer: PgBouncer
    ) -> None:
        """DF-28: instead of failing now and then, as sessions change under it."""
        database = await PostgresDatabase.connect(pgbouncer.way_to(rig.dsn))
        with pytest.raises(SettingsError, match="TUSGATE_DATABASE_POOLING"):
            await database.check()
        await database.close()


class TestRaces:
    async def test_a_claim_that_waited_for_a_commit_never_shows_older_pieces(self, rig: PostgresRig) -> None:
        other = rig.another()
        for _ in range(30):
            writer = await a_writer(rig.database)
            old = an_inline_piece(0, b"old")
            writer = await rig.database.commit(writer, a_step(3, pieces=(old,)))
            new = an_inline_piece(0, b"new")
            replacing = a_step(3, pieces=(new,), absorb=(0, 3))
            committed, claimed = await asyncio.gather(
                rig.database.commit(writer, replacing), other.claim(writer, "replica-2"), return_exceptions=True
            )
            if isinstance(claimed, tuple):
                assert claimed[1] == ([old] if isinstance(committed, Fenced) else [new])

    async def test_a_termination_waits_for_the_commit_that_it_meets(self, rig: PostgresRig) -> None:
        writer = await a_writer(rig.database)
        async with rig.unfinished_write(writer):
            ending = asyncio.create_task(rig.database.terminate(writer.scope, writer.id))
            await waiting_for_a_lock(rig)
            await rig.query("SELECT 1")
            assert not ending.done()
        assert (await ending).state is State.TERMINATED
        assert await garbage_of(rig, writer) == {(writer.object_key, None)}

    async def test_rows_that_another_is_changing_are_skipped_not_waited_for(self, rig: PostgresRig) -> None:
        stuck = await rig.database.create(a_new_upload(lifetime=-1.0))
        free = await rig.database.create(a_new_upload(lifetime=-1.0))
        async with rig.unfinished_write(stuck):
            assert [upload.id for upload in await rig.database.expire(10)] == [free.id]
        assert [upload.id for upload in await rig.database.expire(10)] == [stuck.id]


async def waiting_for_a_lock(rig: PostgresRig) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await rig.query("SELECT 1 FROM pg_locks WHERE NOT granted"):
            pass


class TestNotifications:
    async def test_a_process_learns_that_another_took_its_upload_over(self, rig: PostgresRig) -> None:
        told: asyncio.Queue[tuple[UploadId, int]] = asyncio.Queue()
        await rig.database.listen(lambda upload_id, epoch: told.put_nowait((upload_id, epoch)))
        await listening(rig)
        first = await a_writer(rig.database)
        own, _ = await rig.database.claim(first, "replica-1")
        await rig.another().claim(own, "replica-2")
        assert await asyncio.wait_for(told.get(), PATIENCE) == (first.id, 3)
        assert told.empty()

    async def test_a_process_learns_that_an_upload_has_ended(self, rig: PostgresRig) -> None:
        """CC-05: the epoch that it is told is one that no writer of the upload has."""
        told: asyncio.Queue[tuple[UploadId, int]] = asyncio.Queue()
        await rig.database.listen(lambda upload_id, epoch: told.put_nowait((upload_id, epoch)))
        await listening(rig)
        other = rig.another()
        terminated, failed, expired = [await a_writer(rig.database, lifetime=-1.0) for _ in range(3)]
        await other.terminate(terminated.scope, terminated.id)
        await other.fail(failed, "broken")
        await other.expire(10)
        heard = [await asyncio.wait_for(told.get(), PATIENCE) for _ in range(3)]
        assert heard == [(upload.id, upload.epoch + 1) for upload in (terminated, failed, expired)]

    async def test_a_claim_that_was_fenced_tells_nobody(self, rig: PostgresRig) -> None:
        told: asyncio.Queue[tuple[UploadId, int]] = asyncio.Queue()
        await rig.database.listen(lambda upload_id, epoch: told.put_nowait((upload_id, epoch)))
        await listening(rig)
        upload = await a_writer(rig.database)
        results = await asyncio.gather(
            *[rig.another().claim(upload, f"other-{number}") for number in range(4)], return_exceptions=True
        )
        assert sum(isinstance(result, tuple) for result in results) == 1
        end = await a_writer(rig.database)
        await rig.database.claim(end, "other")
        heard = [await asyncio.wait_for(told.get(), PATIENCE) for _ in range(2)]
        assert heard == [(upload.id, 2), (end.id, 2)]

    async def test_listening_goes_on_after_the_connection_was_lost(
        self, rig: PostgresRig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adapter, "RELISTEN_DELAY", 0.0)
        monkeypatch.setattr(adapter, "LISTENER_CHECK_INTERVAL", 0.05)
        told: asyncio.Queue[tuple[UploadId, int]] = asyncio.Queue()
        await rig.database.listen(lambda upload_id, epoch: told.put_nowait((upload_id, epoch)))
        before = await listening(rig)
        await rig.query(END_SESSIONS)
        after = await listening(rig, other_than=before)
        assert after != before
        await first_success(rig.database)
        upload = await a_writer(rig.database)
        await rig.another().claim(upload, "replica-2")
        assert await asyncio.wait_for(told.get(), PATIENCE) == (upload.id, 2)

    async def test_listening_may_begin_while_the_server_is_away(
        self, rig: PostgresRig, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adapter, "RELISTEN_DELAY", 0.05)
        await asyncio.to_thread(postgres.stop)
        await rig.database.listen(lambda _id, _epoch: None)
        await asyncio.to_thread(postgres.start)
        await listening(rig)


async def listening(rig: PostgresRig, other_than: int | None = None) -> int:
    """Return the process id of the session that listens, once there is one."""
    question = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        f" AND pid IS DISTINCT FROM {other_than or 'NULL'}"
    )
    async with asyncio.timeout(PATIENCE):
        while not (rows := await rig.query(question)):
            pass
    ((pid,),) = rows
    return int(pid)
