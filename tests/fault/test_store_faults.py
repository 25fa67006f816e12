"""Every kind of S3 call x every way to fail x where in the upload: no word of the gateway is ever taken back.

Held by every test here: I1 (offsets never go back), I3 (the object is the file), I4 (HEAD shows the length only when
the object is there), I5 (it ends by itself), I20 (nobody has to mend anything). `honest.Upload` checks the first
three at every answer.

A fault comes once, which the gateway's own tries outlast, or in a row, so that it reaches the client.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.fault.honest import Upload, begin
from tests.fault.proxy import Drop, DropAnswer, FlipByte, Gate, Hold, Reply, s3_error
from tests.fault.rig import KIB, MIB, PART, Rig, id_of, pieces_of
from tusgate.s3.retry import TRIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fault.proxy import Fault, Rule

LARGE = random.Random(1).randbytes(5 * PART + 100 * KIB + 7)
SMALL = random.Random(2).randbytes(3 * MIB)
AWKWARD = 3 * MIB
"""PATCHes of this size end inside cells: 7 pieces and 7 read-backs for LARGE."""
IN_A_ROW = TRIES + 1

FAULTS: dict[str, Fault] = {
    "slow_down": Reply(503, s3_error(503, "SlowDown").body, {"Retry-After": "0"}),
    "reset": Drop(),
    "arrives_late": Hold(),  # a time-out as the gateway sees it; the store gets the request when all is over
    "answer_lost": DropAnswer(),
}
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


class Faulty:
    """An upload that is to meet a fault, and the rule that brings it."""

    def __init__(self, upload: Upload, rule: Rule, chunk: int | None) -> None:
        self.upload = upload
        self.rule = rule
        self.chunk = chunk

    async def run(self) -> None:
        """Upload through the fault; then let arrive what was held back."""
        await self.upload.run(self.chunk)
        assert self.rule.fired >= 1
        if isinstance(self.rule.fault, Hold):
            await self.rule.fault.deliver()
            await self.upload.check_object()


async def run_all(rig: Rig, *uploads: Faulty) -> None:
    """Upload side by side; then nothing may be left that nobody answers for."""
    async with asyncio.TaskGroup() as group:
        for upload in uploads:
            group.create_task(upload.run())


async def for_upload(
    rig: Rig,
    fault: Fault,
    kind: str,
    data: bytes = LARGE,
    chunk: int | None = None,
    *,
    pieces: bool = False,
    part: int | None = None,
    nth: int | None = None,
    times: int | None = None,
) -> Faulty:
    """Prepare an upload of `data` that meets `fault` at its own calls of `kind`, for its object or for its `pieces`."""
    upload = await begin(rig, data)
    address = pieces_of(upload.path) if pieces else id_of(upload.path)
    rule = rig.proxy.on(kind, copy.deepcopy(fault), under=address, part=part, nth=nth, times=times)
    return Faulty(upload, rule, chunk)


@faults
@pytest.mark.parametrize("times", [1, IN_A_ROW])
async def test_beginning_a_multipart_upload_fails(rig: Rig, fault: Fault, times: int) -> None:
    whole = await for_upload(rig, fault, "CreateMultipartUpload", times=times)
    chunked = await for_upload(rig, fault, "CreateMultipartUpload", chunk=AWKWARD, times=times)

    await run_all(rig, whole, chunked)


@faults
async def test_a_part_fails_whichever_it_is(rig: Rig, fault: Fault) -> None:
    """DF-03: it is sent again under its own number, once, and no other part is."""
    uploads = [await for_upload(rig, fault, "UploadPart", part=part, times=1) for part in (1, 3, 6)]

    await run_all(rig, *uploads)

    for faulty in uploads:
        sent = Counter(
            call.part for call in rig.proxy.history.of("UploadPart") if call.key == id_of(faulty.upload.path)
        )
        assert sent == {part: 2 if part == faulty.rule.part else 1 for part in range(1, 7)}


async def test_failed_attempts_use_up_no_part_numbers(rig: Rig) -> None:
    """RE-12: a dozen failures of each part, of each kind: there are 10,000 numbers, and a part only takes its own."""
    uploads = [await begin(rig, LARGE) for _ in FAULTS]
    for upload, fault in zip(uploads, FAULTS.values(), strict=True):
        for part in (1, 2, 5, 6):
            rig.proxy.on("UploadPart", copy.deepcopy(fault), key=id_of(upload.path), part=part, times=12)

    await asyncio.gather(*(upload.run() for upload in uploads))

    for upload in uploads:
        sent = Counter(call.part for call in rig.proxy.history.of("UploadPart") if call.key == id_of(upload.path))
        assert sent.keys() == {*range(1, 7)}
        assert min(sent[part] for part in (1, 2, 5, 6)) > 12


@pytest.mark.parametrize("times", [1, IN_A_ROW])
async def test_a_byte_that_flips_on_its_way_to_the_store_is_never_acknowledged(rig: Rig, times: int) -> None:
    """DF-13, I2, I5: in a part, in a piece, in a file that is stored whole, and in one that waits in pieces for that.

    A link that damages all tries is a fault that will pass: it costs no upload.
    """
    flipped = FlipByte(at=1000)
    uploads = [await for_upload(rig, flipped, "UploadPart", part=part, times=times) for part in (1, 3, 6)]
    uploads += [
        await for_upload(rig, flipped, "PutObject", chunk=AWKWARD, pieces=True, nth=nth, times=times) for nth in (1, 4)
    ]
    uploads += [await for_upload(rig, flipped, "PutObject", SMALL, chunk, times=times) for chunk in (None, 2 * MIB)]

    await run_all(rig, *uploads)

    refused = [call.store_status for call in rig.proxy.history.calls if call.fault]
    assert {*refused} == {400}
    assert len(refused) == times * len(uploads)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["whole", "last part"])
async def test_a_link_that_damages_all_tries_fails_no_upload_whose_bytes_are_all_there(rig: Rig, data: bytes) -> None:
    """DF-13, I1, I5: the end is said when the last bytes wait in a piece, so finishing has to send them again."""
    path = await rig.client.create(None)
    assert (await rig.client.patch(path, 0, data)).status == 204
    kind = "PutObject" if data is SMALL else "UploadPart"
    rule = rig.proxy.on(kind, FlipByte(at=1000), under=id_of(path), times=IN_A_ROW)

    answer = await rig.client.patch(path, len(data), b"", {"Upload-Length": str(len(data))})

    assert answer.status in (204, 423), answer
    await rig.until_state(path, "complete", "failed")
    assert rule.fired == IN_A_ROW
    assert await rig.stored(path) == data


@faults
async def test_a_part_fails_until_the_client_hears_of_it(rig: Rig, fault: Fault) -> None:
    uploads = [await for_upload(rig, fault, "UploadPart", part=part, times=IN_A_ROW) for part in (1, 3, 6)]

    await run_all(rig, *uploads)

    assert uploads[1].upload.turned_away


@faults
async def test_a_piece_fails_whichever_it_is(rig: Rig, fault: Fault) -> None:
    uploads = [
        await for_upload(rig, fault, "PutObject", chunk=AWKWARD, pieces=True, nth=nth, times=times)
        for nth, times in ((1, 1), (4, 1), (7, 1), (4, IN_A_ROW))
    ]

    await run_all(rig, *uploads)

    assert uploads[3].upload.turned_away


@faults
async def test_reading_a_piece_back_fails_whichever_it_is(rig: Rig, fault: Fault) -> None:
    uploads = [
        await for_upload(rig, fault, "GetObject", chunk=AWKWARD, pieces=True, nth=nth, times=times)
        for nth, times in ((1, 1), (4, 1), (7, 1), (4, IN_A_ROW))
    ]

    await run_all(rig, *uploads)


async def test_reading_a_piece_back_breaks_off_in_the_middle(rig: Rig) -> None:
    uploads = [
        await for_upload(rig, DropAnswer(after=MIB // 2), "GetObject", chunk=AWKWARD, pieces=True, nth=nth, times=times)
        for nth, times in ((1, 1), (4, 1), (7, 1), (4, IN_A_ROW))
    ]

    await run_all(rig, *uploads)


@faults
@pytest.mark.parametrize("times", [1, IN_A_ROW])
async def test_storing_a_small_file_whole_fails(rig: Rig, fault: Fault, times: int) -> None:
    at_once = await for_upload(rig, fault, "PutObject", SMALL, times=times)
    from_pieces = await for_upload(rig, fault, "PutObject", SMALL, 2 * MIB, times=times)

    await run_all(rig, at_once, from_pieces)


@faults
@pytest.mark.parametrize("times", [1, IN_A_ROW])
async def test_completing_fails(rig: Rig, fault: Fault, times: int) -> None:
    await run_all(
        rig,
        await for_upload(rig, fault, "CompleteMultipartUpload", times=times),
        await for_upload(rig, fault, "CompleteMultipartUpload", chunk=AWKWARD, times=times),
    )


@faults
@pytest.mark.parametrize("times", [1, IN_A_ROW])
async def test_looking_at_the_object_fails(rig: Rig, fault: Fault, times: int) -> None:
    await run_all(rig, await for_upload(rig, fault, "HeadObject", times=times))


@faults
async def test_looking_fails_after_the_answer_to_complete_was_lost(rig: Rig, fault: Fault) -> None:
    """The object is there, and the gateway hears neither that it was made nor, at first, that it exists."""
    upload = await for_upload(rig, fault, "HeadObject", times=IN_A_ROW)
    lost = rig.proxy.on("CompleteMultipartUpload", DropAnswer(), key=id_of(upload.upload.path), times=1)

    await run_all(rig, upload)

    assert lost.fired == 1


@faults
async def test_cleaning_up_fails(rig: Rig, fault: Fault) -> None:
    """I11, GC-09: what a terminated upload left behind is removed all the same, parts and pieces."""
    uploads = [await begin(rig, LARGE) for _ in range(2)]
    for upload, end in zip(uploads, (PART + 3 * MIB, MIB), strict=True):
        await upload.send(end, MIB)
    assert await rig.keys()
    assert await rig.multiparts(uploads[0].path)
    kinds = ("AbortMultipartUpload", "ListParts", "DeleteObjects")
    rules = [rig.proxy.on(kind, copy.deepcopy(fault), times=1) for kind in kinds]

    for upload in uploads:
        assert (await rig.client.delete(upload.path)).status == 204

    await rig.until_no_garbage()
    assert [rule.fired for rule in rules] == [1, 1, 1]
    assert await rig.keys() == []
    for upload in uploads:
        assert await rig.multiparts(upload.path) == []
        assert (await rig.client.head(upload.path)).status == 410


async def test_a_store_that_falls_silent_is_given_up_and_tried_again(start_rig: Callable[..., Awaitable[Rig]]) -> None:
    """Real time-outs, of all kinds of calls side by side because each takes a minute. Complete may take longer."""
    rig = await start_rig({"TUSGATE_PART_SIZE": "5MiB", "TUSGATE_WARM_CELL_TTL": "0", "TUSGATE_FINISH_WAIT": "1s"})
    uploads = [
        await for_upload(rig, Gate(), "CreateMultipartUpload", times=1),
        await for_upload(rig, Gate(), "UploadPart", part=3, times=1),
        await for_upload(rig, Gate(before="answer"), "UploadPart", part=6, times=1),
        await for_upload(rig, Gate(), "PutObject", chunk=AWKWARD, pieces=True, nth=2),
        await for_upload(rig, Gate(), "GetObject", chunk=AWKWARD, pieces=True, nth=2),
        await for_upload(rig, Gate(), "PutObject", SMALL, times=1),
        await for_upload(rig, Gate(), "HeadObject", times=1),
    ]
    await asyncio.gather(*(faulty.upload.run(faulty.chunk, deadline=150) for faulty in uploads))
    for faulty in uploads:
        assert isinstance(faulty.rule.fault, Gate)
        assert faulty.rule.fired == 1
        faulty.rule.fault.open()
