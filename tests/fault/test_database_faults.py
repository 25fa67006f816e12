"""PostgreSQL restarts, dies at a commit, falls silent, fills up, refuses, or is another one all of a sudden.

Held by every test here: I1 and I3 (`honest.Upload`), I8 (no success meanwhile), I20 (service goes on within ten
seconds of the end of the fault, and nobody restarts anything), and what else the audit looks at.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest

import tests.servers.postgres
from tests.fault.books import PostgresBooks
from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.disk import ballast_of, fill, small_disk
from tests.fault.honest import begin
from tests.fault.proxy import Gate
from tests.fault.rig import KIB, MIB, PART, Rig, id_of
from tests.fault.running import patch_running
from tests.servers import acquire
from tests.servers.process import accepts_connections
from tests.servers.s3 import scratch_directory
from tests.wire.client import CT, V

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.fault.honest import Upload
    from tests.fault.rig import Replica
    from tests.fault.tcp import Direction, TcpFaultProxy
    from tests.servers.postgres import Pair, Postgres, StopMode
    from tests.wire.client import Answer

    StartRig = Callable[..., Awaitable[Rig]]

DATA = random.Random(24).randbytes(3 * PART + 100 * KIB + 7)
READY_SECONDS = 10.0
"""Within which the gateway serves again after a fault has ended: the promise itself, and so a deadline."""
SILENCE_SECONDS = 15.0
"""Within which a client is answered while the database says nothing at all (DF-24): likewise."""
SMALL = 60 * KIB
"""What lies in the database itself until its part is full."""
ROUNDS = int(os.environ.get("TUSGATE_TEST_ROUNDS", "10"))
"""How often the server dies in `test_a_server_that_dies_while_it_commits`; CR-11 asks for 100 now and then."""
PATIENT = SMALLEST_PARTS_AND_COLD | {"TUSGATE_IDLE_TIMEOUT": "300s", "TUSGATE_MIN_RATE": "0"}
"""A request that waits for the test is not ended for that."""


@pytest.fixture
async def rig(start_rig: StartRig) -> Rig:
    """One gateway on PostgreSQL."""
    return await start_rig(PATIENT, database="postgres")


def link_of(replica: Replica) -> TcpFaultProxy:
    assert replica.database_link is not None
    return replica.database_link


async def until_ready(rig: Rig) -> None:
    """Wait until every gateway says that it serves. Fails when that takes longer than promised (I20)."""
    for replica in rig.replicas:
        try:
            await rig.until(replica.gateway.answers_ready, READY_SECONDS)
        except TimeoutError:
            pytest.fail(f"not ready: {await replica.client.request('GET', '/readyz')}")


async def is_refused_without_loss(rig: Rig, upload: Upload, *, head: int = 423) -> None:
    """Clients are asked to come again, in time, and before they have sent anything; nothing is acknowledged.

    Args:
        rig: whose database cannot be used.
        upload: with at least a byte left to send.
        head: what a HEAD gets: 200 where the database can still be read.
    """
    rest = DATA[upload.acknowledged :]
    async with asyncio.timeout(SILENCE_SECONDS):
        *answers, looked = await asyncio.gather(
            rig.client.patch(upload.path, upload.acknowledged, rest),
            rig.client.post({"Upload-Length": "5", **CT}, b"hello"),
            rig.client.delete(upload.path),
            patch_that_waits_to_be_asked(rig, upload.path, upload.acknowledged, len(rest)),
            rig.client.head(upload.path),
        )
    for answer in answers:
        assert answer.status == 503, answer
        assert 1 <= int(answer.headers["Retry-After"]) <= 10
        assert b"Traceback" not in answer.body
    assert answers[-1].interim == []
    assert looked.status == head, looked
    ready = await rig.client.request("GET", "/readyz")
    assert ready.status == 503
    assert ready.body.startswith(b"database_unavailable: ")
    assert (await rig.client.request("GET", "/livez")).status == 200


async def patch_that_waits_to_be_asked(rig: Rig, path: str, offset: int, size: int) -> Answer:
    """Announce a PATCH and wait for the answer to its head."""
    async with rig.client.connect() as connection:
        fields = {"Upload-Offset": str(offset), "Content-Length": str(size), "Expect": "100-continue"}
        connection.send_head("PATCH", path, {**V, **CT, **fields})
        return await connection.answer()


@asynccontextmanager
async def sending(upload: Upload, *, from_about: int = PART) -> AsyncIterator[None]:
    """Have the client upload while the block runs; after it, the upload has to end well."""
    task = asyncio.create_task(upload.run(700 * KIB, deadline=120))
    try:
        await upload.rig.until_offset(upload.path, from_about)
        yield
        await task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class TestOutages:
    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    async def test_a_restart_of_the_server_costs_time_and_nothing_else(
        self, rig: Rig, postgres: Postgres, mode: StopMode
    ) -> None:
        """DF-20."""
        upload = await begin(rig, DATA)
        await upload.send(PART + MIB)

        await asyncio.to_thread(postgres.stop, mode)
        await is_refused_without_loss(rig, upload)
        await asyncio.to_thread(postgres.start)

        await until_ready(rig)
        await upload.run()
        assert await rig.finished_keys() == [id_of(upload.path)]

    async def test_a_restart_in_the_middle_of_requests_is_survived_by_them_or_their_clients(
        self, rig: Rig, postgres: Postgres
    ) -> None:
        upload = await begin(rig, DATA)
        async with sending(upload):
            await asyncio.to_thread(postgres.restart)
            await until_ready(rig)

    async def test_a_server_that_dies_while_it_commits(self, rig: Rig, postgres: Postgres) -> None:
        """CR-11: the outcome is looked up, never assumed. The seed is the number of rounds."""
        chance = random.Random(ROUNDS)
        for _ in range(ROUNDS):
            uploads = [await begin(rig, DATA) for _ in range(3)]
            running = [
                asyncio.create_task(upload.run(chance.choice([300 * KIB, MIB, None]), 120)) for upload in uploads
            ]
            await rig.until_offset(uploads[0].path, chance.randrange(1, 2 * PART))
            direction: Direction = chance.choice(["up", "down"])
            link_of(rig.replicas[0]).freeze(direction)  # statements are not heard of, or their outcome is not
            await asyncio.sleep(chance.uniform(0, 0.1))
            await asyncio.to_thread(postgres.stop, "immediate")
            link_of(rig.replicas[0]).thaw()
            await asyncio.to_thread(postgres.start)
            await until_ready(rig)
            await asyncio.gather(*running)

    async def test_a_gateway_that_starts_before_its_database_waits_for_it(self, rig: Rig) -> None:
        """CR-15."""
        upload = await begin(rig, DATA)
        await upload.send(MIB)
        await asyncio.to_thread(rig.gateway.kill)
        await link_of(rig.replicas[0]).down()

        rig.gateway._spawn()
        await rig.until(lambda: lives(rig))
        await is_refused_without_loss(rig, upload)
        assert rig.gateway.running
        await link_of(rig.replicas[0]).up()

        await until_ready(rig)
        await upload.run()

    async def test_what_was_being_finished_when_the_database_went_away_is_finished_after_it_came_back(
        self, rig: Rig, postgres: Postgres
    ) -> None:
        """I5: within ten seconds, although the lease of the attempt that was cut off lasts longer."""
        upload = await begin(rig, DATA)
        await upload.send(2 * PART)
        gate = Gate(before="answer")
        rig.proxy.on("CompleteMultipartUpload", gate, times=1)
        async with patch_running(rig, upload.path, 2 * PART, len(DATA) - 2 * PART) as last:
            last.connection.up.write(DATA[2 * PART :])
            await gate.reached.wait()

        await asyncio.to_thread(postgres.stop)
        gate.open()
        await rig.until(lambda: b'"completion.' in rig.gateway.log_path.read_bytes())
        await asyncio.to_thread(postgres.start)

        await rig.until(lambda: rig.row(upload.path)["state"] == "complete", READY_SECONDS)
        assert await upload.ask() == len(DATA)


def lives(rig: Rig) -> bool:
    return accepts_connections(rig.gateway.port)


class TestLostAnswers:
    @pytest.mark.parametrize("direction", ["up", "down"])
    async def test_a_commit_whose_answer_is_lost_is_counted_once(
        self, start_rig: StartRig, direction: Direction
    ) -> None:
        """DF-25: committed without the answer, the request goes on; not committed, the client is told where it is."""
        # A relay would use connections in between, and the next statement would be new to its session.
        no_relay = {"TUSGATE_SINKS": "[]", "TUSGATE_EVENT_STREAM": "on"}
        rig = await start_rig(PATIENT | no_relay, database="postgres")
        upload = await begin(rig, DATA)
        gate = Gate(before="answer")
        rig.proxy.on("UploadPart", gate, part=2, times=1)
        link = link_of(rig.replicas[0])
        async with patch_running(rig, upload.path, 0, len(DATA)) as running:
            await running.send(DATA[: 2 * PART + MIB])
            await gate.reached.wait()
            await rig.until_offset(upload.path, PART)  # the statement is known to the session: one round trip
            link.freeze(direction)
            gate.open()
            if direction == "down":
                await rig.until_offset(upload.path, 2 * PART)
            else:
                await rig.until(lambda: any(id_of(upload.path).encode() in chunk for chunk in link.held["up"]))
            link.end_all()
            link.thaw()
            running.connection.up.write(DATA[2 * PART + MIB :])
            answer = await running.end()

        assert answer is not None
        expected = (204, len(DATA)) if direction == "down" else (503, PART)
        assert (answer.status, answer.offset) == expected
        await upload.run()

    async def test_connections_that_break_after_any_byte_of_an_answer(self, rig: Rig) -> None:
        """DF-25, for each statement of an upload in turn."""
        link = link_of(rig.replicas[0])
        chance = random.Random(25)
        for _ in range(12):
            upload = await begin(rig, DATA[: 2 * PART])
            link.end_all()
            for _ in range(4):
                link.cut(chance.choice(["down", "up"]), chance.randrange(600, 9000))
            await upload.run(chance.choice([700 * KIB, None]))
            await link.heal()

    async def test_an_offset_is_told_or_nothing_at_all_while_every_second_statement_fails(self, rig: Rig) -> None:
        """DF-21: never 404, 410 or 403, after which clients throw their progress away."""
        upload = await begin(rig, DATA)
        await upload.send(MIB)
        link = link_of(rig.replicas[0])
        heads = asyncio.gather(*(rig.client.head(upload.path) for _ in range(100)))
        while not heads.done():
            link.end_all()
            await asyncio.sleep(0.02)
        for answer in await heads:
            assert (answer.status, answer.headers.get("Upload-Offset")) in ((200, str(MIB)), (423, None))
        await until_ready(rig)
        await upload.run()


class TestSilence:
    async def test_a_link_that_drops_every_packet_is_given_up_in_time(self, rig: Rig) -> None:
        """DF-24: nobody is told that the connection is dead."""
        upload = await begin(rig, DATA)
        await upload.send(PART + MIB)
        await asyncio.gather(*(rig.client.head(upload.path) for _ in range(30)))  # fills the pool

        link_of(rig.replicas[0]).freeze()
        await is_refused_without_loss(rig, upload)
        link_of(rig.replicas[0]).thaw()

        await until_ready(rig)
        await upload.run()

    async def test_a_running_request_is_answered_in_time_when_the_link_goes_silent(self, rig: Rig) -> None:
        """DF-24: what arrives is in the store, but nobody can commit it."""
        upload = await begin(rig, DATA)
        async with patch_running(rig, upload.path, 0, len(DATA)) as running:
            await running.send(DATA[: PART + MIB])
            await rig.until_offset(upload.path, PART)
            link_of(rig.replicas[0]).freeze()
            running.connection.up.write(DATA[PART + MIB : 2 * PART + MIB])
            async with asyncio.timeout(SILENCE_SECONDS):
                answer = await running.end()
        assert answer is not None
        assert (answer.status, answer.offset) == (503, PART)
        link_of(rig.replicas[0]).thaw()
        await until_ready(rig)
        await upload.run()

    async def test_a_server_that_hangs_is_given_up_in_time(self, rig: Rig, postgres: Postgres) -> None:
        """SIGSTOP: connections are accepted by the kernel and nobody answers."""
        upload = await begin(rig, DATA)
        await upload.send(PART + MIB)

        await asyncio.to_thread(postgres.pause)
        await is_refused_without_loss(rig, upload)
        await asyncio.to_thread(postgres.resume)

        await until_ready(rig)
        await upload.run()

    async def test_a_row_that_somebody_keeps_locked_holds_up_its_own_upload_only(self, rig: Rig) -> None:
        """A real statement time-out (57014)."""
        upload, other = await begin(rig, DATA), await begin(rig, DATA)
        await upload.send(MIB)
        connection = await asyncpg.connect(dsn_of(rig))
        async with connection.transaction():
            await connection.execute("SELECT FROM uploads WHERE id = $1 FOR UPDATE", id_of(upload.path))
            blocked = asyncio.create_task(rig.client.patch(upload.path, MIB, DATA[MIB:]))
            await other.run()
            async with asyncio.timeout(SILENCE_SECONDS):
                answer = await blocked
        await connection.close()
        assert answer.status == 503
        await upload.run()


def dsn_of(rig: Rig) -> str:
    assert isinstance(rig.books, PostgresBooks)
    return rig.books.dsn


REFUSALS = {
    "serialization": "40001",
    "deadlock": "40P01",
    "disk_full": "53100",
    "out_of_memory": "53200",
    "lock_not_available": "55P03",
    "cancelled": "57014",
    "io_error": "58030",
    "no_right": "42501",
}


class TestRefusals:
    @pytest.mark.parametrize("sqlstate", REFUSALS.values(), ids=REFUSALS.keys())
    async def test_a_server_that_refuses_changes_is_no_fault_of_the_clients(self, rig: Rig, sqlstate: str) -> None:
        """DF-26: one change in five; each of them is told to the client or made good, and none is made twice."""
        upload = await begin(rig, DATA)
        await upload.send(MIB)
        rig.books.change(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF random() < 0.2 THEN RAISE EXCEPTION 'not today' USING ERRCODE = '{sqlstate}'; END IF;"
            " RETURN NEW; END $$"
        )
        rig.books.change(
            "CREATE TRIGGER refusal BEFORE INSERT OR UPDATE ON uploads FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        await upload.run(700 * KIB)
        assert {*upload.turned_away} <= {409, 423, 503}
        rig.books.change("DROP TRIGGER refusal ON uploads")

    async def test_a_server_that_became_read_only_still_tells_offsets(self, rig: Rig, postgres: Postgres) -> None:
        """25006: readiness drops, and what cannot change nothing goes on."""
        upload = await begin(rig, DATA)
        await upload.send(PART + MIB)
        name = urlsplit(dsn_of(rig)).path[1:]

        await read_only(postgres, name, "on")
        await is_refused_without_loss(rig, upload, head=200)
        await read_only(postgres, name, "off", end_sessions=False)

        await until_ready(rig)
        await upload.run()

    async def test_a_server_without_free_connections_is_waited_for(self, rig: Rig, postgres: Postgres) -> None:
        """53300."""
        upload = await begin(rig, DATA)
        await upload.send(PART + MIB)
        others = [await asyncpg.connect(dsn_of(rig))]
        while await others[0].fetchval(SESSIONS_BUT_OURS, [other.get_server_pid() for other in others]):
            await others[0].execute(f"{END_SESSIONS} AND pid <> ALL($1)", [other.get_server_pid() for other in others])
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                while True:
                    others.append(await asyncpg.connect(dsn_of(rig)))

        await is_refused_without_loss(rig, upload)
        await asyncio.gather(*(connection.close() for connection in others))

        await until_ready(rig)
        await upload.run()

    async def test_a_disk_that_is_full_is_waited_for(self, disk: Path, start_rig: StartRig) -> None:
        """DF-26, 53100: a tablespace that really has no room. Offsets are still told."""
        rig = await start_rig(PATIENT, database="postgres")
        upload = await begin(rig, DATA)
        await upload.send(PART + SMALL)
        rig.books.change(f"CREATE TABLESPACE small LOCATION '{disk}'")
        rig.books.change("ALTER TABLE pieces SET TABLESPACE small")
        fill(disk)

        refused = None
        while refused is None:  # pages that the table has already may take some more
            offset = upload.acknowledged
            answer = await rig.client.patch(upload.path, offset, DATA[offset : offset + SMALL])
            assert answer.status in (204, 503)
            refused = answer if answer.status == 503 else None
            assert await upload.ask() == answer.offset
        assert b"No space left" in refused.body
        ballast_of(disk).unlink()

        await until_ready(rig)
        await upload.run(MIB)
        rig.books.change("ALTER TABLE pieces SET TABLESPACE pg_default")
        rig.books.change("DROP TABLESPACE small")

    async def test_sessions_that_are_ended_all_the_time_lose_nothing(self, rig: Rig) -> None:
        """DF-26, 57P01: ten random sessions a second."""
        uploads = [await begin(rig, DATA) for _ in range(4)]
        running = asyncio.gather(*(upload.run(700 * KIB, 120) for upload in uploads))
        connection = await asyncpg.connect(dsn_of(rig))
        while not running.done():
            await connection.execute(END_ONE_SESSION)
            await asyncio.sleep(0.1)
        await running
        await connection.close()
        await until_ready(rig)

    async def test_two_hundred_requests_share_five_connections(self, start_rig: StartRig) -> None:
        """RE-07: nobody holds one connection while waiting for another; all ask once a second how far they are."""
        rig = await start_rig(PATIENT | {"TUSGATE_DATABASE_CONNECTIONS": "5"}, database="postgres")
        bodies = [DATA[number : number + 30 * KIB] for number in range(200)]
        uploads = [await begin(rig, body) for body in bodies]
        for upload in uploads:
            upload.pause = 1.0

        await asyncio.gather(*(upload.run(10 * KIB) for upload in uploads))

        assert {status for upload in uploads for status in upload.turned_away} <= {503}


END_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
SESSIONS_BUT_OURS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> ALL($1)"
END_ONE_SESSION = f"{END_SESSIONS} AND pid IN (SELECT pid FROM pg_stat_activity ORDER BY random() LIMIT 1)"


async def read_only(postgres: Postgres, name: str, value: str, *, end_sessions: bool = True) -> None:
    dsn = urlunsplit(urlsplit(postgres.dsn)._replace(path=f"/{name}"))
    await asyncio.to_thread(postgres.execute, f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}')
    if end_sessions:
        await asyncio.to_thread(postgres.execute, END_SESSIONS, dsn)


@pytest.fixture
def disk(postgres: Postgres) -> Iterator[Path]:
    """A small disk that belongs to the server."""
    owner = psutil.Process(postgres.pid).uids().real
    with scratch_directory("small", in_memory=False) as place, small_disk(place, owner):
        yield place


class TestFailover:
    @pytest.fixture
    def pair(self) -> Iterator[Pair]:
        try:
            with tests.servers.postgres.pair() as pair:
                yield pair
        except acquire.MissingError as missing:
            pytest.skip(str(missing))

    @pytest.fixture
    def postgres_server(self, pair: Pair) -> Postgres:
        return pair.primary

    async def fail_over(self, rig: Rig, pair: Pair) -> None:
        """The primary dies, the standby is promoted, and the one name leads to it."""
        await asyncio.to_thread(pair.promote)
        address = urlsplit(pair.standby.dsn)
        assert address.hostname
        assert address.port
        rig.books = PostgresBooks(urlunsplit(address._replace(path=urlsplit(dsn_of(rig)).path)))
        for replica in rig.replicas:
            await link_of(replica).retarget(address.hostname, address.port)

    async def test_a_promoted_standby_takes_over_behind_one_name(self, pair: Pair, start_rig: StartRig) -> None:
        """With synchronous replication nothing that was acknowledged is missing there."""
        rig = await start_rig(PATIENT, database="postgres", replicas=2)
        upload = await begin(rig, DATA, [replica.client for replica in rig.replicas])
        async with sending(upload):
            await self.fail_over(rig, pair)
            await until_ready(rig)

    async def test_a_name_that_leads_to_a_standby_is_not_believed(self, pair: Pair, start_rig: StartRig) -> None:
        """Nothing is read there: its offsets may be of the past."""
        rig = await start_rig(PATIENT, database="postgres")
        upload = await begin(rig, DATA)
        await upload.send(PART + MIB)
        address = urlsplit(pair.standby.dsn)
        assert address.hostname
        assert address.port

        await link_of(rig.replicas[0]).retarget(address.hostname, address.port)
        await is_refused_without_loss(rig, upload)
        await self.fail_over(rig, pair)

        await until_ready(rig)
        await upload.run()
