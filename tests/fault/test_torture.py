"""What comparable servers get wrong (L1 to L5), and what they waste (L6), done to this one on MinIO.

The files are blocks of letters, so that a wrong object says what went wrong: a well-known server turned `ABCDEFz`
into `ACDDEFz`, at the right size and with success in every answer.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from tests.fault.honest import Upload, begin, letters_of
from tests.fault.proxy import Gate, Reply, s3_error
from tests.fault.rig import KIB, MIB, PART, Rig, id_of, pieces_of
from tests.wire.client import CT, V
from tusgate.s3.retry import TRIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ALPHABET = b"".join(letter.encode() * PART for letter in "ABCDEF") + b"zzz"
SLOW_DOWN = Reply(503, s3_error(503, "SlowDown").body, {"Retry-After": "0"})
IN_A_ROW = TRIES + 1
once_and_in_a_row = pytest.mark.parametrize("times", [1, IN_A_ROW])
TUSGATE_DEFAULTS: dict[str, str] = {}
COLD = {"TUSGATE_WARM_CELL_TTL": "0"}


async def upload_while_part_2_fails(rig: Rig, chunk: int | None, times: int) -> Upload:
    upload = await begin(rig, ALPHABET)
    rule = rig.proxy.on("UploadPart", SLOW_DOWN, key=id_of(upload.path), part=2, times=times)

    await upload.run(chunk)

    assert rule.fired == times
    return upload


@once_and_in_a_row
async def test_l1_a_failed_part_between_others_leaves_no_gap(rig: Rig, times: int) -> None:
    """I1, I3, I7: with 20 MiB per PATCH, parts 3 and 4 arrive while part 2 fails."""
    upload = await upload_while_part_2_fails(rig, 20 * MIB, times)

    assert letters_of(await rig.stored(upload.path), PART) == "ABCDEFz"


@once_and_in_a_row
async def test_l2_a_failed_part_of_a_single_patch_never_looks_complete(rig: Rig, times: int) -> None:
    """I3, I4, I5: `run` asks for the offset all the while, and looks into the store when it equals the length."""
    upload = await upload_while_part_2_fails(rig, None, times)

    assert letters_of(await rig.stored(upload.path), PART) == "ABCDEFz"


async def test_l3_a_multipart_upload_that_the_store_threw_away_is_a_loss_and_no_success(rig: Rig) -> None:
    """I4, I9: NoSuchUpload does not mean that the upload was finished."""
    upload = await begin(rig, ALPHABET[: 4 * PART])
    await upload.send(2 * PART)
    await rig.abort_behind_its_back(upload.path)

    assert (await rig.client.head(upload.path)).offset == 2 * PART
    assert (await rig.client.patch(upload.path, 2 * PART, upload.data[2 * PART :])).status == 410
    assert (await rig.client.head(upload.path)).status == 410
    assert rig.row(upload.path)["state"] == "failed"
    assert await rig.keys() == []


async def test_l3_a_multipart_upload_thrown_away_before_complete_is_a_loss_and_no_success(rig: Rig) -> None:
    """I4, I9: the same with all bytes committed already."""
    upload = await begin(rig, ALPHABET)
    gate = Gate()
    rig.proxy.on("CompleteMultipartUpload", gate, times=1)
    sending = asyncio.create_task(rig.client.patch(upload.path, 0, upload.data))
    await gate.reached.wait()
    await rig.abort_behind_its_back(upload.path)
    gate.open()

    answer = await sending
    assert answer.status == 410
    assert (await rig.client.head(upload.path)).status == 410
    assert await rig.finished_keys() == []


async def test_l4_a_failed_tail_does_not_take_acknowledged_bytes_with_it(rig: Rig) -> None:
    """I1, I2: the new piece is stored before anything happens to the old one."""
    upload = await begin(rig, ALPHABET)
    await upload.send(MIB)
    rule = rig.proxy.on("PutObject", SLOW_DOWN, under=pieces_of(upload.path), times=IN_A_ROW - 1)

    refused = await rig.client.patch(upload.path, MIB, upload.data[MIB : 2 * MIB])

    assert (refused.status, refused.offset) == (503, MIB)
    assert rule.fired == IN_A_ROW - 1
    assert (await rig.client.head(upload.path)).offset == MIB
    await upload.run(MIB)
    assert letters_of(await rig.stored(upload.path), PART) == "ABCDEFz"


async def test_l5_asking_for_the_offset_neither_waits_for_a_running_patch_nor_ends_it(rig: Rig) -> None:
    """HEAD is a look at what is committed: here the PATCH cannot go on before HEAD was answered."""
    upload = await begin(rig, ALPHABET)
    async with rig.client.connect() as connection:
        connection.send_head(
            "PATCH", upload.path, {**V, **CT, "Upload-Offset": "0", "Content-Length": str(len(ALPHABET))}
        )
        for start in range(0, len(ALPHABET), PART):
            connection.up.write(ALPHABET[start : start + PART])
            await connection.up.drain()
            await rig.until_offset(upload.path, start - PART)
            if start + PART < len(ALPHABET):
                assert await upload.ask() is not None
        answer = await connection.answer()

    assert (answer.status, answer.offset) == (204, len(ALPHABET))
    await upload.check_object()


@pytest.mark.parametrize("settings", [TUSGATE_DEFAULTS, COLD], ids=["warm", "cold"])
async def test_l6_twenty_patches_of_1_mib_stay_cheap(
    start_rig: Callable[..., Awaitable[Rig]], settings: dict[str, str]
) -> None:
    """At most 2.1 bytes to S3 for each received, 60 calls with all cleaning up, and none of them for a HEAD."""
    rig = await start_rig(settings)
    upload = await begin(rig, random.Random(6).randbytes(20 * MIB))
    for end in range(MIB, 21 * MIB, MIB):
        await upload.send(end)
        before = rig.proxy.history.count()
        assert await upload.ask() == end
        if end < 20 * MIB:
            assert rig.proxy.history.count() == before
    await upload.check_object()
    before = rig.proxy.history.count("HeadObject", "GetObject", "ListParts")
    assert await upload.ask() == len(upload.data)
    assert rig.proxy.history.count("HeadObject", "GetObject", "ListParts") == before
    await rig.until_no_garbage()

    assert await rig.keys() == [id_of(upload.path)]
    assert rig.proxy.history.bytes_put <= 2.1 * len(upload.data)
    assert rig.proxy.history.count() <= 60


@pytest.mark.parametrize("settings", [TUSGATE_DEFAULTS, COLD], ids=["warm", "cold"])
async def test_l6_chunks_of_any_size_cost_at_most_twice_their_bytes(
    start_rig: Callable[..., Awaitable[Rig]], settings: dict[str, str]
) -> None:
    rig = await start_rig(settings)
    choose = random.Random(60)
    small, mixed, large = (range(1, 3 * KIB), range(KIB, 3 * MIB), range(MIB, 3 * MIB))
    for sizes, length in ((small, 150 * KIB), (mixed, 20 * MIB + 7), (large, 30 * MIB + 7)):
        rig.proxy.history.clear()
        upload = await begin(rig, choose.randbytes(length))
        while upload.acknowledged < length:
            await upload.send(min(length, upload.acknowledged + choose.choice(sizes)))
        await upload.check_object()

        assert rig.proxy.history.bytes_put <= 2.1 * length
