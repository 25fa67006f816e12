"""Who writes, and what is left when a writer is taken over, cut off, told to stop, or killed.

Writer A sends A's and writer B sends B's, each with its place, so that no mix of the two can pass for either.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from tests.fault.honest import begin
from tests.fault.proxy import Gate
from tests.fault.rig import KIB, MIB, PART, PATIENCE, Rig, id_of, lettered, pieces_of
from tests.fault.running import patch_running

LENGTH = 3 * PART + 100 * KIB + 7
A = lettered("A", LENGTH)
B = lettered("B", LENGTH)
ROUNDS = int(os.environ.get("TUSGATE_TEST_ROUNDS", "1000"))
"""How often two writers race."""


async def test_a_patch_at_the_committed_offset_takes_over_from_a_stalled_one(rig: Rig) -> None:
    """I1, I3, I6."""
    upload = await begin(rig, B)
    async with patch_running(rig, upload.path, 0, LENGTH) as stalled:
        await stalled.send(A[: 2 * MIB])

        await upload.run()

        answer = await stalled.end()
        assert answer is None or answer.status == 409
    assert await rig.stored(upload.path) == B


async def test_what_the_taken_over_patch_had_committed_stays(rig: Rig) -> None:
    """I1, I3, I6: the offset that the newcomer was told holds, and the part behind it too."""
    upload = await begin(rig, A[: 2 * PART] + B[2 * PART :])
    async with patch_running(rig, upload.path, 0, LENGTH) as stalled:
        await stalled.send(A[: 2 * PART + MIB])
        await rig.until_offset(upload.path, 2 * PART)

        assert await upload.ask() == 2 * PART
        await upload.run()

        answer = await stalled.end()
        assert answer is None or answer.status == 409
    assert await rig.stored(upload.path) == upload.data


async def test_a_patch_at_another_offset_does_not_take_over(rig: Rig) -> None:
    """I6, I9."""
    upload = await begin(rig, A)
    async with patch_running(rig, upload.path, 0, LENGTH) as running:
        await running.send(A[: 2 * PART + MIB])
        await rig.until_offset(upload.path, 2 * PART)

        for wrong in (0, PART, 2 * PART + MIB, LENGTH):
            refused = await rig.client.patch(upload.path, wrong, B[wrong : wrong + 7])
            assert (refused.status, refused.offset) == (409, 2 * PART)

        await running.send(A[2 * PART + MIB :])
        answer = await running.end()
    assert answer is not None
    assert (answer.status, answer.offset) == (204, LENGTH)
    assert await rig.stored(upload.path) == A


async def test_a_part_of_the_taken_over_patch_that_arrives_late_changes_nothing(rig: Rig) -> None:
    """I3, I6, I7, with an honest client: both writers have the same bytes."""
    upload = await begin(rig, A)
    gate = Gate()
    rig.proxy.on("UploadPart", gate, part=1, times=1)
    async with patch_running(rig, upload.path, 0, LENGTH) as old:
        await old.send(A[: PART + MIB])
        await gate.reached.wait()

        await upload.send(2 * PART + MIB)
        gate.open()
        answer = await old.end()

        assert answer is None or (answer.status, answer.offset) == (409, 2 * PART + MIB)
    await upload.run()
    assert await rig.stored(upload.path) == A


async def test_a_patch_that_was_taken_over_commits_nothing_more(rig: Rig) -> None:
    """I6: not even where it would leave no gap, because the newcomer has not committed anything yet."""
    upload = await begin(rig, B)
    gate = Gate()
    rig.proxy.on("UploadPart", gate, part=1, times=1)
    async with patch_running(rig, upload.path, 0, LENGTH) as old:
        await old.send(A[: PART + MIB])
        await gate.reached.wait()
        async with patch_running(rig, upload.path, 0, LENGTH) as new:
            gate.open()
            refused = await old.end()
            assert refused is None or (refused.status, refused.offset) == (409, 0)
            assert await upload.ask() == 0

            await new.send(B)
            answer = await new.end()
    assert answer is not None
    assert (answer.status, answer.offset) == (204, LENGTH)
    await upload.check_object()


async def test_two_clients_with_different_files_never_make_a_mixed_object(rig: Rig) -> None:
    """I4, I6, I7: the late part of A takes the place of B's in the store. Only a failure is honest then."""
    path = await rig.client.create(LENGTH)
    gate = Gate()
    rig.proxy.on("UploadPart", gate, part=1, times=1)
    async with patch_running(rig, path, 0, LENGTH) as old:
        await old.send(A[: PART + MIB])
        await gate.reached.wait()

        assert (await rig.client.patch(path, 0, B[: 2 * PART])).status == 204
        gate.open()
        answer = await old.end()
        assert answer is None or (answer.status, answer.offset) == (409, 2 * PART)

    assert (await rig.client.patch(path, 2 * PART, B[2 * PART :])).status == 410
    assert (await rig.client.head(path)).status == 410
    assert rig.row(path)["state"] == "failed"
    assert await rig.finished_keys() == []


async def test_a_small_file_of_the_taken_over_patch_that_arrives_late_changes_nothing(rig: Rig) -> None:
    """I3, I4, I6: each attempt to store a whole file has a key of its own."""
    size = 2 * MIB
    upload = await begin(rig, B[:size])
    gate = Gate()
    rig.proxy.on("PutObject", gate, key=id_of(upload.path), times=1)
    async with patch_running(rig, upload.path, 0, size) as old:
        await old.send(A[:size])
        await gate.reached.wait()

        await upload.run()
        gate.open()
        answer = await old.end()

        assert answer is None or answer.status == 409
    assert await rig.stored(upload.path) == B[:size]


async def test_looking_does_not_disturb_a_running_patch(rig: Rig) -> None:
    """I1: many clients ask for the offset before the PATCH may go on."""
    upload = await begin(rig, A)
    async with patch_running(rig, upload.path, 0, LENGTH) as running:
        for start in range(0, LENGTH, MIB):
            await running.send(A[start : start + MIB])
            if start + MIB < LENGTH:
                told = await asyncio.gather(*(upload.ask() for _ in range(5)))
                assert None not in told
        answer = await running.end()
    assert answer is not None
    assert (answer.status, answer.offset) == (204, LENGTH)
    await upload.check_object()


async def test_deleting_ends_a_running_patch_and_leaves_nothing(rig: Rig) -> None:
    """I9, I11."""
    upload = await begin(rig, A)
    await upload.send(MIB)
    async with patch_running(rig, upload.path, MIB, LENGTH - MIB) as running:
        await running.send(A[MIB : 2 * PART + MIB])
        await rig.until_offset(upload.path, 2 * PART)

        assert (await rig.client.delete(upload.path)).status == 204

        answer = await running.end()
        assert answer is None or answer.status == 410
    assert (await rig.client.head(upload.path)).status == 410
    await rig.until_empty()
    await rig.until_no_multiparts(upload.path)


async def test_deleting_while_a_part_is_on_its_way_leaves_nothing(rig: Rig) -> None:
    """I9, I10, I11: the part arrives after the upload was thrown away."""
    upload = await begin(rig, A)
    gate = Gate()
    held = rig.proxy.on("UploadPart", gate, part=2, times=1)
    async with patch_running(rig, upload.path, 0, LENGTH) as running:
        await running.send(A[: 2 * PART + MIB])
        await gate.reached.wait()

        assert (await rig.client.delete(upload.path)).status == 204
        await rig.until_no_multiparts(upload.path)
        gate.open()

        answer = await running.end()
        assert answer is None or answer.status == 410
    assert held.fired == 1
    await rig.until_empty()
    assert await rig.multiparts(upload.path) == []


async def test_a_patch_that_is_told_to_stop_keeps_all_its_bytes(rig: Rig) -> None:
    """I1, I3, I20: SIGTERM in the middle of a PATCH, in the middle of a part."""
    upload = await begin(rig, A)
    arrived = PART + 2 * MIB
    async with patch_running(rig, upload.path, 0, LENGTH) as running:
        await running.send(A[:arrived])

        rig.gateway.terminate()

        answer = await running.end()
    assert answer is not None
    assert (answer.status, answer.offset) == (503, arrived)
    assert answer.headers["Connection"].lower() == "close"
    assert await asyncio.to_thread(rig.gateway.exit_code) == 0
    await asyncio.to_thread(rig.gateway.start)
    assert await upload.ask() == arrived
    await upload.run()


async def test_what_was_acknowledged_survives_a_kill_in_the_middle_of_a_patch(rig: Rig) -> None:
    """I1, I2, I3: by an answer (3 MiB), and by HEAD during the PATCH that dies (two parts)."""
    upload = await begin(rig, A)
    await upload.send(3 * MIB)
    async with patch_running(rig, upload.path, 3 * MIB, LENGTH - 3 * MIB) as running:
        await running.send(A[3 * MIB : 2 * PART + MIB])
        await rig.until_offset(upload.path, 2 * PART)
        assert await upload.ask() == 2 * PART

        await asyncio.to_thread(rig.gateway.crash_and_start)

        assert await running.end() is None
    assert await upload.ask() == 2 * PART
    await upload.run()


@pytest.mark.parametrize("before", ["request", "answer"])
@pytest.mark.parametrize("kind", ["CreateMultipartUpload", "UploadPart", "piece"])
async def test_a_kill_around_a_call_to_the_store_loses_nothing(rig: Rig, kind: str, before: str) -> None:
    """I1, I3, I4, I5: just before the store hears of the call, and just after it has done it."""
    upload = await begin(rig, A)
    gate = Gate("request" if before == "request" else "answer")
    if kind == "piece":
        rig.proxy.on("PutObject", gate, under=pieces_of(upload.path), nth=2)
    else:
        rig.proxy.on(kind, gate, key=id_of(upload.path), times=1)
    uploading = asyncio.create_task(upload.run(3 * MIB))
    await gate.reached.wait()

    await asyncio.to_thread(rig.gateway.crash_and_start)

    await uploading
    gate.open()
    await upload.check_object()


async def test_uploads_whose_completion_a_kill_cut_off_are_completed_without_their_clients(rig: Rig) -> None:
    """I4, I5: with Complete not yet heard by the store, done by it, and with the object already there but not seen."""
    cuts = {
        "CompleteMultipartUpload": (Gate("request"), Gate("answer")),
        "HeadObject": (Gate("request"),),
    }
    uploads = []
    for kind, gates in cuts.items():
        for gate in gates:
            upload = await begin(rig, A)
            rig.proxy.on(kind, gate, key=id_of(upload.path), times=1)
            uploads.append(upload)
            with_client = asyncio.create_task(rig.client.patch(upload.path, 0, A))
            await gate.reached.wait()
            assert rig.row(upload.path)["state"] == "sealed"
            with_client.cancel()

    await asyncio.to_thread(rig.gateway.crash_and_start)

    async with asyncio.timeout(PATIENCE):
        for upload in uploads:
            await rig.until_state(upload.path, "complete")
    for upload in uploads:
        assert await upload.ask() == LENGTH


@pytest.mark.slow
async def test_of_two_writers_at_one_offset_exactly_one_is_believed_again_and_again(rig: Rig) -> None:
    """CC-01, I3, I6: small files, so that nearly everything is the race; an answer of success names the winner."""
    chance = random.Random(ROUNDS)
    for _ in range(ROUNDS):
        length = chance.choice([16, 4 * KIB, 100 * KIB])
        path = await rig.client.create(length)
        answers = await asyncio.gather(*(rig.client.patch(path, 0, data[:length]) for data in (A, B)))
        statuses = [answer.status for answer in answers]
        assert 204 in statuses
        assert {*statuses} <= {204, 409, 423}
        assert statuses.count(204) == 1
        assert await rig.stored(path) == (A, B)[statuses.index(204)][:length]
