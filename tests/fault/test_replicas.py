"""Two gateways over one PostgreSQL and one bucket, without sticky routing: who writes, whatever happens to a replica.

Writer A sends A's and writer B sends B's where a mix must show; an honest client sends the same bytes everywhere.
Held by every test here: I1, I3, I6 and what else the audit looks at.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import LOST, begin
from tests.fault.proxy import Gate, Hold
from tests.fault.rig import KIB, MIB, PART, Rig, id_of, lettered
from tests.fault.running import patch_running
from tests.wire.client import CT, V

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fault.honest import Upload
    from tests.fault.rig import Replica
    from tests.servers.pgbouncer import PgBouncer

    StartRig = Callable[..., Awaitable[Rig]]

LENGTH = 3 * PART + 100 * KIB + 7
A = lettered("A", LENGTH)
B = lettered("B", LENGTH)
RIVALRIES = int(os.environ.get("TUSGATE_TEST_ROUNDS", "20"))
"""How often two writers meet at one offset; CC-02 asks for 1,000 now and then."""
DELETIONS = int(os.environ.get("TUSGATE_TEST_ROUNDS", "40"))
"""How often an upload is deleted at a moment that is drawn; CC-06 asks for 200 now and then."""


@pytest.fixture
async def pair(start_rig: StartRig) -> Rig:
    """Two replicas; parts are small, cells do not stay warm, and a request that stalls is not ended for that."""
    settings = SMALLEST_PARTS_AND_COLD | {"TUSGATE_IDLE_TIMEOUT": "300s", "TUSGATE_MIN_RATE": "0"}
    return await start_rig(settings, database="postgres", replicas=2)


async def begin_at(rig: Rig, data: bytes, *replicas: Replica) -> Upload:
    """Begin an upload whose client talks to `replicas` in turn."""
    return await begin(rig, data, [replica.client for replica in replicas])


async def test_requests_of_one_upload_may_meet_any_replica(pair: Rig) -> None:
    """No sticky routing: small chunks, each at the other replica, with warm cells of no use."""
    uploads = [await begin_at(pair, A, *pair.replicas) for _ in range(3)]

    await asyncio.gather(
        *(upload.run(chunk) for upload, chunk in zip(uploads, (700 * KIB, 3 * MIB, PART), strict=True))
    )

    assert [upload.turned_away for upload in uploads] == [[], [], []]


async def test_warm_cells_of_two_replicas_do_not_contradict_each_other(start_rig: StartRig) -> None:
    """A cell that stayed in memory is used only if nobody else has written meanwhile."""
    rig = await start_rig(
        {"TUSGATE_PART_SIZE": "5MiB", "TUSGATE_WARM_CELL_TTL": "60s"}, database="postgres", replicas=2
    )
    upload = await begin_at(rig, A, rig.replicas[0], rig.replicas[0], rig.replicas[1])

    await upload.run(300 * KIB)


async def test_the_client_of_a_dead_link_goes_on_at_the_other_replica_at_once(pair: Rig) -> None:
    """CC-03: the first replica never hears that its client is gone."""
    first, second = pair.replicas
    upload = await begin_at(pair, A, second)
    async with first.far_client.connect() as dead:
        fields = {"Upload-Offset": "0", "Content-Length": str(LENGTH)}
        dead.send_head("PATCH", upload.path, {**V, **CT, **fields})
        dead.up.write(A[: 2 * PART + MIB])
        await pair.until_offset(upload.path, 2 * PART)
        first.client_link.freeze()

        assert await upload.ask() == 2 * PART
        await upload.run()

    assert upload.turned_away == []


async def test_a_replica_that_was_frozen_and_wakes_up_changes_nothing(pair: Rig) -> None:
    """SIGSTOP in the middle of its parts; it wakes up while the newcomer writes, and is fenced by its epoch."""
    first, second = pair.replicas
    upload = await begin_at(pair, B, second)
    gate = Gate()
    first.store_link.on("UploadPart", gate, part=2, times=1)
    async with patch_running(pair, upload.path, 0, LENGTH, first) as frozen:
        await frozen.send(B[: 2 * PART + MIB])
        await gate.reached.wait()
        await asyncio.to_thread(first.gateway.pause)

        await upload.send(PART + 2 * MIB)
        gate.open()
        await asyncio.to_thread(first.gateway.resume)
        answer = await frozen.end()

        assert answer is None or answer.status == 409
    await upload.run()


async def test_a_replica_that_wakes_up_after_the_end_changes_nothing(pair: Rig) -> None:
    """The stale writer holds other bytes, and finds the upload complete."""
    first, second = pair.replicas
    upload = await begin_at(pair, B, second)
    async with patch_running(pair, upload.path, 0, LENGTH, first) as frozen:
        await frozen.send(A[: 2 * MIB])
        await asyncio.to_thread(first.gateway.pause)

        await upload.run()
        await asyncio.to_thread(first.gateway.resume)
        frozen.connection.up.write(A[2 * MIB :])
        answer = await frozen.end()

        assert answer is None or answer.status == 409
    await upload.check_object()


async def test_a_part_of_the_stale_writer_that_lands_last_never_makes_a_mixed_object(pair: Rig) -> None:
    """I3, I7: a writer with other bytes is cut off from the database, and its part replaces that of the newcomer."""
    first, second = pair.replicas
    path = await second.client.create(LENGTH)
    held = Hold()
    first.store_link.on("UploadPart", held, part=1)
    async with patch_running(pair, path, 0, LENGTH, first) as stale:
        await stale.send(A[: PART + MIB])
        await held.taken.wait()
        assert first.database_link is not None
        first.database_link.freeze()
        assert (await second.client.patch(path, 0, B[: 2 * PART])).status == 204
        assert await held.deliver() == 200

        pair.expect_loss(path)  # of this part: it has other bytes now than those that were acknowledged
        answer = await second.client.patch(path, 2 * PART, B[2 * PART :])

        assert answer.status in (410, 423), answer
        await pair.until_state(path, "failed")
    assert await pair.finished_keys() == []


@pytest.mark.parametrize("link", ["clients", "store", "database"])
async def test_a_writer_that_is_partitioned_is_replaced(pair: Rig, link: str) -> None:
    """From its clients, from the store or from the database: the upload goes on elsewhere, and nothing comes back."""
    first, second = pair.replicas
    upload = await begin_at(pair, B, second)
    async with first.far_client.connect() as old:
        fields = {"Upload-Offset": "0", "Content-Length": str(LENGTH), "Expect": "100-continue"}
        old.send_head("PATCH", upload.path, {**V, **CT, **fields})
        assert (await old._read_head()).status == 100
        match link:
            case "clients":
                first.client_link.freeze()
            case "store":
                first.store_link.on("*", Gate())
            case _:
                assert first.database_link is not None
                first.database_link.freeze()
        old.up.write(B[: 2 * PART + MIB])

        await upload.run()

        await first.heal()
    await upload.check_object()


async def test_replicas_behind_a_pooler_that_gives_each_transaction_another_session(
    pair: Rig, pgbouncer: PgBouncer
) -> None:
    """DF-28: takeovers, finishing and deletion, with nothing that needs a session of its own."""
    for replica in pair.replicas:
        settings = replica.gateway.environment
        settings["TUSGATE_DATABASE_URL"] = pgbouncer.way_to(settings["TUSGATE_DATABASE_URL"])
        settings["TUSGATE_DATABASE_POOLING"] = "transaction"
        await asyncio.to_thread(replica.gateway.restart)
    uploads = [await begin_at(pair, A, *pair.replicas) for _ in range(6)]

    await asyncio.gather(
        *(upload.run(chunk) for upload, chunk in zip(uploads, (700 * KIB, 3 * MIB, PART) * 2, strict=True))
    )
    first, second = pair.replicas
    assert (await first.client.delete(uploads[0].path)).status == 204
    uploads[0].journal.deleted = True
    assert (await second.client.head(uploads[0].path)).status == 410


async def test_of_two_writers_at_one_offset_on_two_replicas_one_is_believed(pair: Rig) -> None:
    """CC-01, CC-02: the object is the bytes of one of them, or the prefix of one and the rest of the other.

    Or there is none: a part of the loser that landed last has other bytes, and Complete refuses it.
    """
    rounds = random.Random(21)
    for _ in range(RIVALRIES):
        path = await pair.client.create(LENGTH)
        end = rounds.choice([100 * KIB, PART, PART + MIB, LENGTH])
        told = await asyncio.gather(
            *(offset_told(each, path, data[:end]) for data, each in zip((A, B), pair.replicas, strict=True))
        )
        committed = pair.committed(path)
        assert committed is not None
        assert max(told) <= committed
        if committed < LENGTH:
            answer = await pair.replicas[1].client.patch(path, committed, B[committed:])
            assert answer.status in (204, 410), answer
        await pair.until_state(path, "complete", "failed")
        if pair.row(path)["state"] == "failed":
            continue
        stored = await pair.stored(path)
        letters = stored[::16].decode()
        assert stored in {_joined(first, second, letters.count(first)) for first, second in ("AB", "BA")} | {A, B}


async def offset_told(replica: Replica, path: str, data: bytes) -> int:
    """PATCH from 0 and return the offset that is acknowledged by it; 0 when it is refused or cut off."""
    try:
        answer = await replica.client.patch(path, 0, data)
    except LOST:
        return 0
    assert answer.status in (204, 409, 410, 423), answer  # 410: the loser's part landed last
    return answer.offset if answer.status == 204 else 0


def _joined(first: str, second: str, blocks: int) -> bytes:
    texts = {"A": A, "B": B}
    return texts[first][: 16 * blocks] + texts[second][16 * blocks :]


async def test_an_upload_that_is_deleted_at_one_replica_ends_its_writer_at_another(pair: Rig) -> None:
    """CC-05, I9, I11: the running request hears of it at once, though no byte of it comes any more."""
    first, second = pair.replicas
    upload = await begin(pair, A)
    async with patch_running(pair, upload.path, 0, LENGTH, first) as running:
        await running.send(A[: 2 * PART + MIB])
        await pair.until_offset(upload.path, 2 * PART)

        assert (await second.client.delete(upload.path)).status == 204
        upload.journal.deleted = True
        answer = await running.end()

        assert answer is None or answer.status == 410
    await pair.until_no_garbage()
    assert await pair.multiparts(upload.path) == []
    assert await pair.keys() == []


async def test_what_a_killed_replica_was_finishing_is_finished_by_another(pair: Rig) -> None:
    """I5, CR-08: its answer to Complete never came; the lease of the dead one runs out first."""
    first, second = pair.replicas
    upload = await begin_at(pair, A, second)
    gate = Gate(before="answer")
    first.store_link.on("CompleteMultipartUpload", gate)
    async with patch_running(pair, upload.path, 0, LENGTH, first) as running:
        running.connection.up.write(A)
        await gate.reached.wait()
        await asyncio.to_thread(first.gateway.kill)

        await pair.until_state(upload.path, "complete")
    assert await upload.ask() == LENGTH


async def test_many_who_ask_for_the_end_get_one_object(pair: Rig) -> None:
    """CC-07: empty PATCHes at two replicas while Complete takes long."""
    first, second = pair.replicas
    upload = await begin_at(pair, A, first, second)
    gate = Gate()
    first.store_link.on("CompleteMultipartUpload", gate)
    second.store_link.on("CompleteMultipartUpload", gate)
    sending = asyncio.create_task(upload.send(LENGTH))
    await gate.reached.wait()

    asking = [
        asyncio.create_task(replica.client.patch(upload.path, LENGTH)) for _ in range(10) for replica in pair.replicas
    ]
    gate.open()
    answers = [await each for each in asking]
    await sending

    assert {answer.status for answer in answers} <= {204, 423}
    done = [call for replica in pair.replicas for call in replica.store_link.history.of("CompleteMultipartUpload")]
    assert len([call for call in done if call.store_status == 200]) == 1
    await upload.run()


async def test_a_deletion_during_complete_leaves_no_object_without_an_upload(pair: Rig) -> None:
    """CC-06, I4: before, in the middle of, and after Complete; then at any moment, with a file of two parts."""
    first, second = pair.replicas
    for before in ("request", "answer", None):
        gate = Gate(before=before) if before is not None else None
        upload = await begin(pair, A)
        if gate is not None:
            first.store_link.on("CompleteMultipartUpload", gate, key=id_of(upload.path))
        sending = asyncio.create_task(first.client.patch(upload.path, 0, A))
        if gate is not None:
            await gate.reached.wait()
        else:
            await sending
        assert (await second.client.delete(upload.path)).status == 204
        upload.journal.deleted = True
        if gate is not None:
            gate.open()
        assert (await sending).status in (204, 410)
        assert (await second.client.head(upload.path)).status == 410
    chance = random.Random(DELETIONS)
    for _ in range(DELETIONS):
        upload = await begin(pair, A[: PART + 1])
        await upload.send(PART)
        sending = asyncio.create_task(first.client.patch(upload.path, PART, A[PART : PART + 1]))
        await asyncio.sleep(chance.uniform(0, 0.06))  # the moment of the deletion, not a wait for something
        assert (await second.client.delete(upload.path)).status == 204
        upload.journal.deleted = True
        assert (await sending).status in (204, 409, 410)
        assert (await second.client.head(upload.path)).status == 410
    await pair.until_no_garbage()
    assert await pair.finished_keys() == []


async def test_uploads_with_the_same_name_are_different_uploads(pair: Rig) -> None:
    """CC-14."""
    bodies = [random.Random(number).randbytes(60 * KIB) for number in range(100)]
    uploads = [await begin_at(pair, body, *pair.replicas) for body in bodies]

    await asyncio.gather(*(upload.run(25 * KIB) for upload in uploads))
