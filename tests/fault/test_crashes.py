"""What a client sees of one crash at one place, and of an object that cannot be finished for a while."""

from __future__ import annotations

import asyncio
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.fault.dying import MORTAL, death, doom, let_leases_run_out, live, until_nothing_is_left
from tests.fault.honest import LOST, begin, heard
from tests.fault.proxy import Gate, s3_error
from tests.fault.rig import KIB, MIB, PART
from tests.wire.client import CT
from tusgate.telemetry import LogEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fault.honest import Upload
    from tests.fault.rig import Rig

    StartRig = Callable[..., Awaitable[Rig]]

DATA = random.Random(4).randbytes(3 * PART + 100 * KIB)
LENGTH = len(DATA)


async def killed_by_a_patch(start_rig: StartRig, place: str, end: int) -> tuple[Rig, Upload]:
    """Send `DATA[:end]` to a gateway that dies at `place`, and start it again."""
    rig = await start_rig(MORTAL | {"TUSGATE_CRASH": place})
    upload = await begin(rig, DATA)
    with pytest.raises(LOST):
        await rig.client.patch(upload.path, 0, DATA[:end])
    await death(rig)
    await live(rig)
    return rig, upload


async def test_a_part_that_was_stored_but_not_committed_was_never_received(start_rig: StartRig) -> None:
    """I1, I2, I7 (CR-02)."""
    rig, upload = await killed_by_a_patch(start_rig, "after-put-part", PART)

    assert await upload.ask() == 0

    await upload.run()
    assert await rig.multiparts(upload.path) == []


async def test_a_commit_that_was_not_answered_counts(start_rig: StartRig) -> None:
    """I1 (CR-04)."""
    rig, upload = await killed_by_a_patch(start_rig, "after-commit", MIB)

    assert await upload.ask() == MIB
    refused = await rig.client.patch(upload.path, 0, DATA[:MIB])
    assert (refused.status, refused.offset) == (409, MIB)

    await upload.run()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("step", "tail"), [("put-object", 2 * MIB + 100 * KIB), ("commit", 100)], ids=["in an object", "in a row"]
)
async def test_the_end_of_a_request_is_there_once_or_not_at_all(
    start_rig: StartRig, moment: str, step: str, tail: int
) -> None:
    """I2, I3 (CR-10): it dies over what is less than a part."""
    rig, upload = await killed_by_a_patch(start_rig, f"{moment}-{step}", PART + tail)

    offset = await upload.ask()
    assert offset == rig.row(upload.path)["upload_offset"]
    assert offset in (0, PART, PART + tail)
    assert step == "commit" or offset != PART + tail

    await upload.send(PART + tail)
    await upload.run()


async def test_an_upload_whose_creation_was_never_answered_leaves_nothing(start_rig: StartRig) -> None:
    """I11 (CR-05): nobody knows its URL. Death comes before there is a multipart upload, and when only S3 knows it."""
    rig = await start_rig(MORTAL | {"TUSGATE_CRASH": "before-create-multipart"})
    with pytest.raises(LOST):
        await rig.client.post({"Upload-Length": str(LENGTH), **CT}, DATA)
    await death(rig)
    await doom(rig, "after-create-multipart")
    posting = asyncio.create_task(heard(lambda: rig.client.post({"Upload-Length": str(LENGTH), **CT}, DATA)))
    await death(rig)
    posting.cancel()
    await live(rig)

    unheard = [row["id"] for row in rig.rows("SELECT id FROM uploads ORDER BY created_at")]
    assert [len(await rig.multiparts(upload_id)) for upload_id in unheard] == [0, 1]

    await asyncio.gather(*(until_nothing_is_left(rig, upload_id) for upload_id in unheard))


async def test_an_object_that_cannot_be_made_is_not_promised_and_is_made_later_without_the_client(
    start_rig: StartRig,
) -> None:
    """I4, I5, I20 (CR-06)."""
    rig = await start_rig(MORTAL | {"TUSGATE_FINISH_WAIT": "1s"})
    upload = await begin(rig, DATA)
    rule = rig.proxy.on("CompleteMultipartUpload", s3_error(500, "InternalError"))

    assert (await rig.client.patch(upload.path, 0, DATA)).status in (423, 503)
    assert (await rig.client.head(upload.path)).status == 423
    assert (await rig.client.patch(upload.path, LENGTH)).status == 423
    assert rule.fired
    rig.proxy.clear_rules()

    await rig.until_state(upload.path, "complete")
    assert (await rig.client.patch(upload.path, LENGTH)).offset == LENGTH
    await upload.run()


@pytest.mark.parametrize("end", ["told to stop", "told to stop twice", "killed"])
async def test_an_object_that_one_replica_was_making_is_made_once_by_another(start_rig: StartRig, end: str) -> None:
    """I4, I5 (CR-08): and what the first one had asked the store for arrives when all is over."""
    rig = await start_rig(MORTAL | {"TUSGATE_DRAIN_TIMEOUT": "1s"}, database="postgres", replicas=2)
    first, second = rig.replicas
    upload = await begin(rig, DATA, [first.client, second.client])
    gate = Gate()
    first.store_link.on("CompleteMultipartUpload", gate, times=1)
    sending = asyncio.create_task(first.client.patch(upload.path, 0, DATA))
    await gate.reached.wait()

    if end == "killed":
        await asyncio.to_thread(first.gateway.kill)
    else:
        first.gateway.terminate()
        if end == "told to stop twice":
            await rig.until(lambda: LogEvent.SERVER_DRAINING in first.gateway.log())
            first.gateway.terminate()
        code = await asyncio.to_thread(first.gateway.exit_code)
        assert code == (0 if end == "told to stop" else -signal.SIGTERM)
    if end != "told to stop":
        let_leases_run_out(rig)
    await asyncio.gather(sending, return_exceptions=True)

    await rig.until_state(upload.path, "complete")
    gate.open()
    await rig.until(lambda: all(call.finished for call in first.store_link.history.calls))
    await upload.check_object()
    assert second.store_link.history.count("CompleteMultipartUpload") == 1
