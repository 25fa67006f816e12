"""Faults while partials become one object: of the store, of a replica, and the loss of what they share.

Held by every test here: I1, I3 (the final is its partials, in their order), I4, I5, I7, I11, by the audit at the end.
The three ways are those of ARCHITECTURE.md, "Concatenation".
"""

from __future__ import annotations

import asyncio
import copy
import random
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.fault.commands import command
from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import PAUSE
from tests.fault.joined import Final, begin_apart, begin_in_another_order, begin_in_place
from tests.fault.proxy import Drop, DropAnswer, Gate, Hold, Reply, s3_error
from tests.fault.rig import KIB, MIB, PART, id_of
from tusgate.s3.retry import TRIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fault.books import Row
    from tests.fault.proxy import Fault
    from tests.fault.rig import Rig
    from tests.wire.client import Answer

    Begin = Callable[[Rig], Awaitable[Final]]
    StartRig = Callable[..., Awaitable[Rig]]

DATA = random.Random(8).randbytes(4 * PART + 300 * KIB)
HALVES = [DATA[: 2 * PART + MIB], DATA[2 * PART + MIB :]]
WITH_A_SMALL_ONE = [HALVES[0], b"too small to be a part", HALVES[1]]
WITHOUT_COPIES = SMALLEST_PARTS_AND_COLD | {"TUSGATE_S3_PROFILE": "generic"}
IN_A_ROW = TRIES + 1
ROUNDS = 6
AWKWARD = 3 * MIB
COPYING = (
    "CreateMultipartUpload",
    "UploadPartCopy",
    "UploadPart",
    "GetObject",
    "CompleteMultipartUpload",
    "HeadObject",
)

FAULTS: dict[str, Fault] = {
    "slow_down": Reply(503, s3_error(503, "SlowDown").body, {"Retry-After": "0"}),
    "reset": Drop(),
    "arrives_late": Hold(),
    "answer_lost": DropAnswer(),
}
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
times = pytest.mark.parametrize("times", [1, IN_A_ROW], ids=["once", "in a row"])


async def apart(rig: Rig) -> Final:
    return await begin_apart(rig, WITH_A_SMALL_ONE)


async def in_place(rig: Rig) -> Final:
    return await begin_in_place(rig, str(uuid4()), HALVES)


async def in_another_order(rig: Rig) -> Final:
    return await begin_in_another_order(rig, str(uuid4()), HALVES)


async def fail_while_it_is_made(rig: Rig, begin: Begin, kind: str, fault: Fault, times: int) -> None:
    """Send the partials undisturbed, and ask for the final with the fault in the way; at last let it arrive."""
    final = await begin(rig)
    for partial in final.partials:
        await partial.run()
    await meet(rig, final, kind, fault, times, final.ask_until_there)


async def fail_while_partials_arrive(rig: Rig, begin: Begin, kind: str, fault: Fault, times: int) -> None:
    """Send the partials in chunks that end inside cells, with the fault in the way."""
    final = await begin(rig)
    await meet(rig, final, kind, fault, times, lambda: final.run(AWKWARD))


async def meet(rig: Rig, final: Final, kind: str, fault: Fault, times: int, act: Callable[[], Awaitable[str]]) -> None:
    rule = rig.proxy.on(kind, copy.deepcopy(fault), times=times)
    path = await act()
    assert rule.fired >= 1, kind
    if isinstance(rule.fault, Hold):
        await rule.fault.deliver()
        await final.check_object(path)
    rig.proxy.clear_rules()


@faults
@times
async def test_any_call_fails_while_partials_are_copied(rig: Rig, fault: Fault, times: int) -> None:
    """One partial is too small to be a part: it is read, and sent together with a part of the next one."""
    for kind in COPYING:
        await fail_while_it_is_made(rig, apart, kind, fault, times)


@faults
@times
async def test_any_call_fails_while_a_group_is_completed(rig: Rig, fault: Fault, times: int) -> None:
    """It becomes the final itself, or an object that the final copies."""
    for kind in ("CompleteMultipartUpload", "HeadObject"):
        await fail_while_it_is_made(rig, in_place, kind, fault, times)
        await fail_while_it_is_made(rig, in_another_order, kind, fault, times)
    await fail_while_it_is_made(rig, in_another_order, "UploadPartCopy", fault, times)


@faults
async def test_any_call_fails_where_the_store_does_not_copy(start_rig: StartRig, fault: Fault) -> None:
    rig = await start_rig(WITHOUT_COPIES)
    for kind in ("GetObject", "UploadPart"):
        await fail_while_it_is_made(rig, apart, kind, fault, IN_A_ROW)


@faults
@times
async def test_any_call_fails_while_partials_arrive_in_place(rig: Rig, fault: Fault, times: int) -> None:
    """They share a multipart upload, and begin it side by side."""
    for kind in ("CreateMultipartUpload", "UploadPart", "PutObject", "GetObject"):
        await fail_while_partials_arrive(rig, in_place, kind, fault, times)


async def test_reading_a_partial_breaks_off_in_the_middle(start_rig: StartRig) -> None:
    rig = await start_rig(WITHOUT_COPIES)
    await fail_while_it_is_made(rig, apart, "GetObject", DropAnswer(after=MIB), IN_A_ROW)


async def test_a_copy_that_the_store_refuses_is_read_and_sent_instead(rig: Rig) -> None:
    final = await apart(rig)
    for partial in final.partials:
        await partial.run()
    refused = rig.proxy.on("UploadPartCopy", s3_error(501, "NotImplemented"))
    await final.ask_until_there()
    assert refused.fired >= 1
    assert not [call for call in rig.proxy.history.of("UploadPartCopy") if call.store_status == 200]


async def test_another_replica_goes_on_copying_where_one_has_died(start_rig: StartRig) -> None:
    """I5: after `kill -9` in the middle; what the dead one has copied and committed is not copied again."""
    rig = await start_rig(SMALLEST_PARTS_AND_COLD, database="postgres", replicas=2)
    doomed, survivor = rig.replicas
    final = await begin_apart(rig, [HALVES[0], HALVES[1], HALVES[0]])
    for partial in final.partials:
        await partial.run()
    gate = Gate()
    doomed.store_link.on("UploadPartCopy", gate, part=2)
    asking = asyncio.create_task(final.ask())
    await gate.reached.wait()
    await rig.until(lambda: [row["number"] for row in parts_of_finals(rig)] == [1, 3])
    await asyncio.to_thread(doomed.gateway.kill)
    rig.books.change("UPDATE uploads SET finisher_until = NULL")

    final.clients = [survivor.client]
    for partial in final.partials:
        partial.clients = [survivor.client]
    await final.until_there(await asking)

    assert [call.part for call in survivor.store_link.history.of("UploadPartCopy")] == [2]
    assert len({*final.paths}) == 1


def parts_of_finals(rig: Rig) -> list[Row]:
    return rig.rows(
        "SELECT parts.number FROM parts JOIN uploads ON id = upload_id WHERE role = 'final' ORDER BY parts.number"
    )


@pytest.mark.parametrize("begin", [apart, in_place, in_another_order])
async def test_two_finals_and_the_deletion_of_a_partial_at_once_leave_finals_that_are_whole(
    rig: Rig, begin: Begin
) -> None:
    """CC-09, I3, I4: one list is the other one backwards, so that what one of them uses cannot do for the other."""
    for last in range(ROUNDS):
        final = await begin(rig)
        for partial in final.partials:
            await partial.run()
        backwards = Final(rig, final.partials[::-1])
        victim = final.partials[last % len(final.partials)]
        made, mirrored, deleted = await asyncio.gather(final.post(), backwards.post(), rig.client.delete(victim.path))
        assert {made.status, mirrored.status} <= {201, 404, 409, 410}, (made, mirrored)
        assert deleted.status in (204, 409), deleted
        victim.journal.deleted = deleted.status == 204
        for one, answer in ((final, made), (backwards, mirrored)):
            if answer.status == 201:
                await one.until_there(answer.upload_path)


@pytest.mark.parametrize("begin", [in_place, in_another_order])
async def test_partials_whose_multipart_upload_the_store_threw_away_fail_together(rig: Rig, begin: Begin) -> None:
    """As MinIO does 24 hours after it began. I3, I4: nothing is made of what is left."""
    final = await begin(rig)
    first, second = final.partials
    await first.run()
    await second.send(AWKWARD)
    await lose_the_group(rig, final)

    answer = await rig.client.patch(second.path, AWKWARD, second.data[AWKWARD:])
    assert answer.status in (410, 423), answer
    await rig.until_state(first.path, "failed")

    for partial in final.partials:
        assert "threw" in rig.row(partial.path)["reason"]
        assert (await rig.client.head(partial.path)).status == 410
    assert (await ask_once(rig, final)).status == 410
    assert await rig.finished_keys() == []


@pytest.mark.parametrize("begin", [in_place, in_another_order])
async def test_a_final_whose_multipart_upload_the_store_threw_away_fails(rig: Rig, begin: Begin) -> None:
    """All its bytes were acknowledged, and the loss shows at Complete only."""
    final = await begin(rig)
    for partial in final.partials:
        await partial.run()
    group = await lose_the_group(rig, final)

    assert (await ask_until_decided(rig, final)).status == 410
    row = rig.row(group)
    assert (row["state"], "threw" in row["reason"]) == ("failed", True)
    assert [rig.row(partial.path)["state"] for partial in final.partials] == ["failed"] * 2
    assert (await ask_once(rig, final)).status == 410
    assert await rig.finished_keys() == []


async def test_a_final_fails_when_somebody_has_removed_the_object_of_a_partial(rig: Rig) -> None:
    rig.spoiled = True
    final = await apart(rig)
    for partial in final.partials:
        await partial.run()
    client, key = rig.minio.client(), id_of(final.partials[0].path)
    await asyncio.to_thread(client.remove_object, bucket_name=rig.bucket, object_name=key)

    assert (await ask_until_decided(rig, final)).status == 410
    (row,) = rig.rows("SELECT * FROM uploads WHERE role = 'final'")
    assert (row["state"], "lost" in row["reason"]) == ("failed", True)
    assert row["object_key"] not in await rig.keys()


async def test_reconcile_finds_nothing_wrong_with_partials_groups_and_finals(rig: Rig) -> None:
    """I10: of each kind of final one, one that was deleted, and partials that wait. Repairing breaks none."""
    waiting, deleted = await in_place(rig), await in_place(rig)
    for final in (await apart(rig), await in_place(rig), await in_another_order(rig)):
        await final.run()
    assert (await rig.client.delete(await deleted.run())).status == 204
    for partial in waiting.partials:
        await partial.run(AWKWARD)

    code, lines = await command(rig, "reconcile", "--min-age", "0s", "--repair", "--delete-objects")

    assert (code, [line for line in lines if "trouble" in line]) == (0, [])
    for final in (waiting, deleted):
        await final.ask_until_there()


@pytest.mark.parametrize("repair", [True, False])
async def test_reconcile_notices_that_the_parts_of_partials_are_lost(rig: Rig, repair: bool) -> None:
    final = await in_place(rig)
    for partial in final.partials:
        await partial.run()
    group = await lose_the_group(rig, final)

    code, lines = await command(rig, "reconcile", "--min-age", "0s", *(["--repair"] if repair else []))

    assert ("parts lost", group) in {(line.get("trouble"), line.get("upload")) for line in lines}
    assert code == (0 if repair else 1)
    states = {rig.row(path)["state"] for path in (group, *(partial.path for partial in final.partials))}
    assert states == ({"failed"} if repair else {"uploading"})


async def lose_the_group(rig: Rig, final: Final) -> str:
    """Abort what the partials share behind the gateway's back, and return the group's id."""
    group = str(rig.row(final.partials[0].path)["group_id"])
    for partial in final.partials:
        rig.expect_loss(partial.path)
    await rig.abort_behind_its_back(group)
    return group


async def ask_once(rig: Rig, final: Final) -> Answer:
    listed = "final;" + " ".join(partial.path for partial in final.partials)
    return await rig.client.post({"Upload-Concat": listed})


async def ask_until_decided(rig: Rig, final: Final) -> Answer:
    while (answer := await ask_once(rig, final)).status == 423:  # noqa: ASYNC110 # a client has no event to wait for
        await asyncio.sleep(PAUSE)
    return answer
