"""The gateway dies at every named place, before and after, and whoever comes next makes good what it left.

For every step of the ports, and the answer: stories are told to a gateway that dies before the step, to its successor,
which dies after it, and to that one's successor, which lives. Clients do what honest clients do: they ask, and go on.
Held by all of it: I1 (offsets never go back), I2, I3 (the object is the file), I4, I5, I9, I11. A step that no story
reaches fails its test, so a new method of a port wants a story here.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
from base64 import b64encode
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.fault.dying import MORTAL, death, doom, live, until_nothing_is_left
from tests.fault.honest import LOST, PAUSE, Upload, heard
from tests.fault.joined import begin_apart, begin_in_another_order, begin_in_place
from tests.fault.past_the_gateway import change_past_the_gateway, send_past_the_gateway
from tests.fault.proxy import DropAnswer, Gate, s3_error
from tests.fault.rig import KIB, MIB, PART, Rig, id_of
from tests.wire.client import CT, Client
from tusgate.crash import STEPS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tests.wire.client import Answer

    Story = Callable[[Rig], Coroutine[None, None, object]]

SMALL = random.Random(1).randbytes(MIB)
LARGE = random.Random(2).randbytes(3 * PART + 100 * KIB)
PARTIALS = [LARGE[: PART + MIB], LARGE[-2 * PART :]]
AWKWARD = 7 * MIB
"""PATCHes of this size end inside cells."""


async def begun(rig: Rig, length: int | None) -> str:
    """Create an upload; one whose URL was never heard is left to expire."""
    declared = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
    answer = await heard(lambda: rig.client.post(declared))
    assert answer.status == 201, answer
    return answer.upload_path


class CheckedUpload(Upload):
    """Every PATCH announces the digest of its body."""

    def fields(self, offset: int, end: int) -> dict[str, str]:
        digest = hashlib.sha256(self.data[offset:end]).digest()
        return {"Upload-Checksum": f"sha256 {b64encode(digest).decode()}"}


class DeferredUpload(Upload):
    """The last PATCH says how long the file is."""

    def fields(self, offset: int, end: int) -> dict[str, str]:
        return {"Upload-Length": str(end)} if end == len(self.data) else {}


async def a_small_file_in_its_post(rig: Rig) -> None:
    answer = await heard(lambda: rig.client.post({"Upload-Length": str(len(SMALL)), **CT}, SMALL))
    assert answer.status == 201, answer
    await Upload(rig, answer.upload_path, SMALL).run()


async def a_small_file_in_two_pieces(rig: Rig) -> None:
    await Upload(rig, await begun(rig, len(SMALL)), SMALL).run(len(SMALL) // 2)


async def a_large_file_in_one_request(rig: Rig) -> None:
    await Upload(rig, await begun(rig, len(LARGE)), LARGE).run()


async def a_large_file_in_several_requests(rig: Rig) -> None:
    await Upload(rig, await begun(rig, len(LARGE)), LARGE).run(AWKWARD)


async def a_file_with_checksums(rig: Rig) -> None:
    data = LARGE[: PART + MIB]
    await CheckedUpload(rig, await begun(rig, len(data)), data).run(4 * MIB)


async def a_file_of_unknown_length(rig: Rig) -> None:
    data = LARGE[: 10 * MIB]
    await DeferredUpload(rig, await begun(rig, None), data, deferred=True).run(4 * MIB)


async def a_file_whose_length_is_told_last(rig: Rig, data: bytes = LARGE[: 9 * MIB]) -> None:
    """The upload is sealed by a request without bytes: what its last part consists of is in pieces."""
    path = await begun(rig, None)
    await Upload(rig, path, data + b"and more, for all one knows", deferred=True).send(len(data), 4 * MIB)
    while (answer := await heard(lambda: tell_length(rig, path, len(data)))).status != 204:
        assert answer.status in (423, 503), answer
    await Upload(rig, path, data, len(data)).run()


async def a_small_file_whose_length_is_told_last(rig: Rig) -> None:
    await a_file_whose_length_is_told_last(rig, SMALL)


def tell_length(rig: Rig, path: str, length: int) -> Awaitable[Answer]:
    return rig.client.patch(path, length, more={"Upload-Length": str(length)})


async def a_file_that_the_store_puts_together_at_the_third_attempt(rig: Rig) -> None:
    """CR-06: and the store says, of an upload that it has, that there is none."""
    data = LARGE[: PART + MIB]
    upload = Upload(rig, await begun(rig, len(data)), data)
    rig.proxy.on("CompleteMultipartUpload", s3_error(404, "NoSuchUpload"), key=id_of(upload.path), times=3)
    await upload.run()


async def a_file_that_the_store_refuses_for_good(rig: Rig) -> None:
    """I4, I9: what cannot become an object ends as a failure, which stays one."""
    data = LARGE[: PART + MIB]
    path = await begun(rig, len(data))
    rig.proxy.on("CompleteMultipartUpload", s3_error(400, "InvalidPart"), key=id_of(path))
    upload = Upload(rig, path, data)
    await upload.send(PART)
    with suppress(*LOST):
        assert (await rig.client.patch(path, PART, data[PART:])).status in (410, 423)
    while (answer := await heard(lambda: rig.client.head(path))).status != 410:
        assert answer.status == 423 or answer.offset == PART, answer
        if answer.status == 200:
            await asyncio.gather(rig.client.patch(path, PART, data[PART:]), return_exceptions=True)
    assert rig.row(path)["state"] == "failed"


async def a_file_that_is_terminated(rig: Rig) -> str:
    path = await begun_half(rig)
    answer = await heard(lambda: rig.client.delete(path))
    assert answer.status in (204, 410), answer
    assert (await heard(lambda: rig.client.head(path))).status == 410
    return path


async def a_terminated_file_is_removed(rig: Rig) -> None:
    await until_nothing_is_left(rig, await a_file_that_is_terminated(rig))


async def an_abandoned_file_is_removed(rig: Rig) -> None:
    path = await begun_half(rig)
    await until_nothing_is_left(rig, path)
    assert (await heard(lambda: rig.client.head(path))).status == 410


async def a_file_of_partials_in_place(rig: Rig) -> None:
    await (await begin_in_place(rig, "in place", PARTIALS)).run(AWKWARD)


async def a_file_of_partials_in_another_order(rig: Rig) -> None:
    await (await begin_in_another_order(rig, "backwards", PARTIALS)).run()


async def a_file_of_partials_apart(rig: Rig) -> None:
    """The second one is too small for a part, and is streamed with what follows it."""
    first, second = PARTIALS
    await (await begin_apart(rig, [first, second[: 100 * KIB], second])).run()


async def a_file_past_the_gateway(rig: Rig) -> None:
    await send_past_the_gateway(rig, LARGE)


async def a_changed_file_past_the_gateway(rig: Rig) -> None:
    """One part is sent, and the store copies the others, unless the gateway dies over it."""
    await send_past_the_gateway(rig, LARGE, declares_parts=True)
    await send_past_the_gateway(rig, LARGE[:-1] + bytes([LARGE[-1] ^ 1]), declares_parts=True)


async def a_file_that_changes_past_the_gateway(rig: Rig) -> None:
    await change_past_the_gateway(rig, LARGE, LARGE[: -2 * MIB] + b"another end")


async def a_file_that_is_shared(rig: Rig) -> None:
    """A download that died is counted, as it may have begun, and none is ever given away beyond the limit."""
    path = await begun(rig, len(SMALL))
    await Upload(rig, path, SMALL).run()
    shares = f"/api/v1/files/{id_of(path)}/shares"
    wanted = json.dumps({"password": "sesame", "max_downloads": 3}).encode()
    made = await heard(lambda: rig.client.request("POST", shares, {"Content-Type": "application/json"}, wanted))
    assert made.status == 201, made
    shown = json.loads(made.body)
    link = "/" + shown["url"].split("/", 3)[3]
    assert (await heard(lambda: rig.client.request("GET", link, password("wrong")))).status == 401
    answer = await heard(lambda: rig.client.request("GET", link, password("sesame")))
    assert (answer.status, answer.body) == (200, SMALL)
    session = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
    answer = await heard(lambda: rig.client.request("GET", link, session))
    assert (answer.status, answer.body) == (200, SMALL)
    counted = rig.rows("SELECT downloads FROM shares WHERE id = ?", shown["id"])[0]["downloads"]
    assert 1 <= counted <= 3
    answer = await heard(lambda: rig.client.request("DELETE", f"{shares}/{shown['id']}"))
    assert answer.status == 204, answer
    assert (await heard(lambda: rig.client.request("GET", link, session))).status == 404


async def a_file_that_is_read(rig: Rig) -> None:
    """By somebody who comes back until it is written down how one of the readings has ended."""
    path = await begun(rig, len(SMALL))
    await Upload(rig, path, SMALL).run()
    while not any(row["ended_at"] for row in rig.rows("SELECT ended_at FROM accesses")):
        answer = await heard(lambda: rig.client.request("GET", f"/api/v1/files/{id_of(path)}/content"))
        assert (answer.status, answer.body) == (200, SMALL)
        await asyncio.sleep(PAUSE)


async def a_file_that_is_digested(rig: Rig) -> None:
    """The store does not give the file as long as the gateway is to die over that."""
    path = await begun(rig, len(SMALL))
    refusal = rig.proxy.on("GetObject", s3_error(503, "SlowDown"), key=id_of(path))
    await Upload(rig, path, SMALL).run()

    def digested() -> bool:
        if "postpone" not in rig.gateway.environment.get("TUSGATE_CRASH", ""):
            refusal.times = 0
        rig.books.change("UPDATE uploads SET digest_due_at = 0 WHERE digest_due_at IS NOT NULL")
        return bool(rig.row(path)["sha256"] == hashlib.sha256(SMALL).digest())

    await rig.until(digested)


async def two_files_that_share_an_object(rig: Rig) -> None:
    files = [await begun(rig, len(SMALL)) for _ in range(2)]
    for path in files:
        await Upload(rig, path, SMALL).run()

    def are_shared() -> bool:
        rig.books.change("UPDATE uploads SET digest_due_at = 0 WHERE digest_due_at IS NOT NULL")
        rows = [rig.row(path) for path in files]
        return all(row["sha256"] and row["digest_due_at"] is None for row in rows) and (
            len({row["object_key"] for row in rows}) == 1
        )

    await rig.until(are_shared)
    for path in files:
        answer = await heard(lambda path=path: rig.client.request("GET", f"/api/v1/files/{id_of(path)}/content"))  # type: ignore[misc]  # mypy knows no type of a default
        assert (answer.status, answer.body == SMALL) == (200, True)


async def a_file_that_need_not_be_sent(rig: Rig) -> None:
    """Asked for with one challenge until there is an answer: that makes one file."""
    path = await begun(rig, len(SMALL))
    await Upload(rig, path, SMALL).run()

    def is_known() -> bool:
        rig.books.change("UPDATE uploads SET digest_due_at = 0 WHERE digest_due_at IS NOT NULL")
        row = rig.row(path)
        return bool(row["sha256"]) and row["digest_due_at"] is None

    await rig.until(is_known)
    file: dict[str, object] = {"sha256": hashlib.sha256(SMALL).hexdigest(), "size": len(SMALL)}
    given = json.loads((await heard(lambda: instantly(rig, "/challenge", file))).body)
    ranges = [SMALL[each["start"] : each["start"] + each["size"]] for each in given["ranges"]]
    answer = hmac.digest(bytes.fromhex(given["nonce"]), b"".join(ranges), "sha256").hex()
    proof = {**file, "challenge": given["challenge"], "answer": answer}
    made = await heard(lambda: instantly(rig, "", proof))
    assert made.status in (200, 201), made
    file_id = json.loads(made.body)["id"]
    answered = await heard(lambda: rig.client.request("GET", f"/api/v1/files/{file_id}/content"))
    assert (answered.status, answered.body == SMALL) == (200, True)
    assert len(rig.rows("SELECT 1 FROM uploads WHERE fingerprint = ?", f"sha256:{file['sha256']}")) == 1


def instantly(rig: Rig, path: str, question: dict[str, object]) -> Awaitable[Answer]:
    body = json.dumps(question).encode()
    return rig.client.request("POST", f"/api/v1/uploads/instant{path}", {"Content-Type": "application/json"}, body)


def password(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f":{text}".encode()).decode()}


async def begun_half(rig: Rig) -> str:
    """Upload a part and a piece. There is a second multipart upload, of which the gateway never got to know (CR-05)."""
    path = await begun(rig, len(LARGE))
    rig.proxy.on("CreateMultipartUpload", DropAnswer(), key=id_of(path), times=1)
    await Upload(rig, path, LARGE).send(PART + MIB)
    return path


SMOOTH_STORIES: list[Story] = [
    a_small_file_in_its_post,
    a_small_file_in_two_pieces,
    a_large_file_in_one_request,
    a_large_file_in_several_requests,
    a_file_with_checksums,
    a_file_of_unknown_length,
    a_file_whose_length_is_told_last,
    a_small_file_whose_length_is_told_last,
    a_file_of_partials_in_place,
    a_file_of_partials_in_another_order,
    a_file_of_partials_apart,
    a_file_past_the_gateway,
]
STORIES: list[Story] = [
    *SMOOTH_STORIES,
    a_file_that_is_terminated,
    a_file_that_the_store_puts_together_at_the_third_attempt,
    a_file_that_the_store_refuses_for_good,
]
CLEANING_UP = (
    "due-garbage",
    "drop-garbage",
    "postpone-garbage",
    "delete-objects",
    "abort-multipart",
    "list-multiparts",
)
DIGESTING = ("claim-undigested", "postpone-digest", "record-digest")
DEDUPLICATING = ("find-twin", "adopt")
INSTANT = ("find-equal", "create-equal")
KNOWING_PARTS = ("find-known-parts", "find-proved-etags")
SHARING = (
    "create-share",
    "list-shares",
    "find-share",
    "begin-try",
    "take-try-back",
    "count-download",
    "revoke-share",
    "begin-accesses",
    "begin-counted-access",
)
SLOW_STORIES: dict[str, Story] = {
    **dict.fromkeys(CLEANING_UP, a_terminated_file_is_removed),
    "expire": an_abandoned_file_is_removed,
    **dict.fromkeys(SHARING, a_file_that_is_shared),
    **dict.fromkeys(DIGESTING, a_file_that_is_digested),
    **dict.fromkeys(DEDUPLICATING, two_files_that_share_an_object),
    **dict.fromkeys(INSTANT, a_file_that_need_not_be_sent),
    **dict.fromkeys(KNOWING_PARTS, a_changed_file_past_the_gateway),
    "replan": a_file_that_changes_past_the_gateway,
    "end-accesses": a_file_that_is_read,
}
"""Told only where they are needed: the gateway cleans up every 5 s, looks every 20 s for what has expired, and takes
its time over passwords."""
AT_START = ("migrate", "listen")
AT_THE_END = ("release-sealed",)
NEVER = (
    *("list-files", "describe", "limit-usage", "usage", "get-any"),
    *("forget-shares", "list-accesses", "list-all-accesses", "forget-accesses", "forget-ended"),
)
"""The API of finished files reads, or changes a description in one statement; usage is counted by triggers.
What the store reports is no more than a reason to look; and nobody waits for what is forgotten."""
WITH_KEY = {"TUSGATE_SHARE_KEYS": "k" * 32}
EQUAL_PARTS = {"TUSGATE_S3_PROFILE": "r2"}
WITH_SETTINGS = {"read": EQUAL_PARTS, **dict.fromkeys(SHARING, WITH_KEY)}
WITH_SETTINGS |= {step: {"TUSGATE_FILE_DIGEST": "sha256"} for step in DIGESTING}
WITH_SETTINGS |= {step: {"TUSGATE_DEDUP": "on"} for step in DEDUPLICATING}
AS_KNOWN = {"TUSGATE_DEDUP": "on", "TUSGATE_INSTANT_UPLOAD": "on", "TUSGATE_INSTANT_KEYS": "k" * 32}
WITH_SETTINGS |= dict.fromkeys(INSTANT, AS_KNOWN)
WITH_SETTINGS["count-download"] = WITH_KEY | {"TUSGATE_ACCESS_RETENTION": "none"}
"""Only where all parts have one size are finals cut within parts of their partials, whose checksums must be read then.
All else that is read back is read inside of other steps of the store."""
IN_SERVICE = [step for step in STEPS if step not in (*AT_START, *AT_THE_END, *NEVER)]


@pytest.mark.parametrize("step", IN_SERVICE)
async def test_a_gateway_that_dies_at_a_step_leaves_nothing_that_its_successor_cannot_finish(
    start_rig: Callable[..., Awaitable[Rig]], step: str
) -> None:
    rig = await start_rig(MORTAL | WITH_SETTINGS.get(step, {}) | {"TUSGATE_CRASH": f"before-{step}"})
    deletions = ("DeleteObjects", "DeleteObject") if step == "postpone-garbage" else ()
    refusals = [rig.proxy.on(kind, s3_error(503, "SlowDown")) for kind in deletions]
    stories = [*STORIES, SLOW_STORIES[step]] if step in SLOW_STORIES else STORIES
    async with asyncio.TaskGroup() as told:
        for story in stories:
            told.create_task(story(rig))
        await death(rig)
        await doom(rig, f"after-{step}")
        await death(rig)
        for refusal in refusals:
            refusal.times = 0
        await live(rig)


@pytest.mark.parametrize("step", AT_START)
async def test_a_gateway_that_dies_while_it_starts_starts_the_next_time(rig: Rig, step: str) -> None:
    upload = Upload(rig, await begun(rig, len(LARGE)), LARGE)
    await upload.send(AWKWARD)
    rig.gateway.kill()

    rig.gateway.environment["TUSGATE_ENVIRONMENT"] = "development"
    for place in (f"before-{step}", f"after-{step}"):
        await doom(rig, place)
        await death(rig)
    await live(rig)

    await upload.run()


@pytest.mark.parametrize("step", AT_THE_END)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_gateway_that_dies_while_it_hands_work_over_has_handed_it_over(
    start_rig: Callable[..., Awaitable[Rig]], step: str, moment: str
) -> None:
    """I5 (CR-08): it was told to stop while the store put an object together."""
    rig = await start_rig(MORTAL | {"TUSGATE_CRASH": f"{moment}-{step}"})
    path = await begun(rig, len(LARGE))
    gate = Gate()
    rig.proxy.on("CompleteMultipartUpload", gate, times=1)
    sending = asyncio.create_task(rig.client.patch(path, 0, LARGE))
    await gate.reached.wait()

    rig.gateway.terminate()
    await death(rig)
    await asyncio.gather(sending, return_exceptions=True)
    await live(rig)

    await Upload(rig, path, LARGE).run()


@pytest.mark.parametrize(
    "place",
    [
        "after-create-multipart",
        "after-put-part",
        "before-commit",
        "after-commit",
        "after-complete-multipart",
        "before-answer",
    ],
)
async def test_another_replica_finishes_what_one_has_died_over(
    start_rig: Callable[..., Awaitable[Rig]], place: str
) -> None:
    """I5, I6: on PostgreSQL, while the dead one does not come back."""
    rig = await start_rig(MORTAL, database="postgres", replicas=2)
    doomed, survivor = rig.replicas
    client = Client(doomed.gateway.port)
    await asyncio.to_thread(doomed.gateway.kill)
    await doom(rig, place)
    async with asyncio.TaskGroup() as told:
        for story in SMOOTH_STORIES:
            told.create_task(story(replace(rig, replicas=[replace(doomed, client=client), survivor])))
        await death(rig)
        client.port = survivor.gateway.port
    del doomed.gateway.environment["TUSGATE_CRASH"]
