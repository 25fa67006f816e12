"""Requests that are wrong in one thing, at an upload that has bytes: they change nothing, and nothing of them is read.

A body is announced and never sent, so an answer that comes did not wait for it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.abuse.crowd import PATIENCE
from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.rig import MIB, PART, lettered
from tests.wire.client import CT, V
from tusgate.core.grid import Grid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.fault.rig import Rig

    StartVictim = Callable[..., Awaitable[Rig]]

TIB = 1 << 40
LENGTH = 2 * PART
CONTENT = lettered("r", LENGTH)


@pytest.fixture
async def victim(start_victim: StartVictim) -> Rig:
    return await start_victim(SMALLEST_PARTS_AND_COLD)


async def half_sent(victim: Rig) -> str:
    """Create an upload that has its first part, and no more; return its path."""
    path = await victim.client.create(LENGTH)
    assert (await victim.client.patch(path, 0, CONTENT[:PART])).offset == PART
    return path


@dataclass
class Refused:
    """A PATCH of the rest that is wrong in what `fields` replaces; a value of None leaves that field out."""

    status: int
    fields: Mapping[str, str | None]
    offset: int | None = None


def digest(algorithm: str, data: bytes) -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


REFUSED = {
    "no version": Refused(412, {"Tus-Resumable": None, "Upload-Offset": str(PART)}),
    "an old version": Refused(412, {"Tus-Resumable": "0.2.2"}),
    "a list of versions": Refused(412, {"Tus-Resumable": "1.0.0,2.0"}),
    "the first offset": Refused(409, {"Upload-Offset": "0"}, PART),
    "an offset within": Refused(409, {"Upload-Offset": str(PART - 1)}, PART),
    "an offset beyond": Refused(409, {"Upload-Offset": str(PART + 1)}, PART),
    "the last offset": Refused(409, {"Upload-Offset": str(LENGTH)}, PART),
    "an offset past the length": Refused(409, {"Upload-Offset": str(LENGTH + 1)}, PART),
    "too many bytes": Refused(413, {"Content-Length": str(PART + MIB)}),
    "another type": Refused(415, {"Content-Type": "application/octet-stream"}),
    "an encoding": Refused(415, {"Content-Encoding": "gzip"}),
    "another length": Refused(400, {"Upload-Length": str(LENGTH + 1)}),
    "an unknown algorithm": Refused(400, {"Upload-Checksum": "md4 MdbP4NFq6TG3PFnX4MCJwA=="}),
    "no base64": Refused(400, {"Upload-Checksum": "sha1 *"}),
    "a digest of another size": Refused(400, {"Upload-Checksum": digest("md5", b"").replace("md5", "sha1")}),
}


@pytest.mark.parametrize("expect", [{}, {"Expect": "100-continue"}], ids=["", "asking"])
async def test_a_patch_that_is_wrong_in_one_thing_is_refused_unread_and_changes_nothing(
    victim: Rig, expect: dict[str, str]
) -> None:
    """PA-01, PA-02, PA-08, PA-12, PA-15, I1, I9: no `100 Continue`, no call to the store, the row as it was."""
    path = await half_sent(victim)
    victim.proxy.history.clear()
    before = victim.row(path)
    right = {**V, **CT, "Upload-Offset": str(PART), "Content-Length": str(PART), **expect}
    for name, refused in REFUSED.items():
        fields = {field: value for field, value in (right | dict(refused.fields)).items() if value is not None}
        async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
            connection.send_head("PATCH", path, fields)
            answer = await connection.answer()
        assert (answer.status, answer.interim) == (refused.status, []), name
        assert answer.headers.get("Upload-Offset") == (None if refused.offset is None else str(refused.offset)), name
        assert (answer.status != 412) or answer.headers["Tus-Version"] == "1.0.0"
    assert victim.row(path) == before
    assert victim.proxy.history.calls == []

    async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
        connection.send_head("PATCH", path, right)
        if expect:  # who does not wait may get none: RFC 9110, 10.1.1
            assert (await connection.interim()).status == 100
        connection.up.write(CONTENT[PART:])
        assert (await connection.answer()).offset == LENGTH
    assert await victim.stored(path) == CONTENT


async def test_a_body_that_turns_out_too_long_completes_nothing(victim: Rig) -> None:
    """PA-08, I3, I4: chunked, so it shows only when the length is passed; the answer does not wait for the rest."""
    path = await half_sent(victim)
    async with victim.client.connect() as connection, asyncio.timeout(PATIENCE):
        connection.send_head(
            "PATCH", path, [*V.items(), *CT.items(), ("Upload-Offset", str(PART)), ("Transfer-Encoding", "chunked")]
        )
        connection.send_chunk(CONTENT[PART:] + b"!")
        answer = await connection.answer()
        assert answer.status == 413
        assert answer.headers["Connection"] == "close"
    row = victim.row(path)
    assert (row["state"], row["upload_length"]) == ("uploading", LENGTH)
    assert PART <= row["upload_offset"] < LENGTH
    assert await victim.finished_keys() == []
    offset = await victim.client.offset(path)
    assert (await victim.client.patch(path, offset, CONTENT[offset:])).offset == LENGTH
    assert await victim.stored(path) == CONTENT


async def test_a_wrong_digest_of_a_mebibyte_keeps_nothing_of_it(victim: Rig) -> None:
    """PA-15, I9."""
    path = await half_sent(victim)
    chunk = CONTENT[PART : PART + MIB]
    wrong = await victim.client.patch(path, PART, chunk, {"Upload-Checksum": digest("sha1", chunk[:-1])})
    assert wrong.status == 460
    assert await victim.client.offset(path) == PART
    right = await victim.client.patch(path, PART, chunk, {"Upload-Checksum": digest("sha1", chunk)})
    assert right.offset == PART + MIB
    assert (await victim.client.patch(path, PART + MIB, CONTENT[PART + MIB :])).offset == LENGTH
    assert await victim.stored(path) == CONTENT


async def test_a_complete_upload_takes_nothing_any_more(victim: Rig) -> None:
    """PA-21, I9: an empty PATCH at its end asks whether it is complete; nothing else is answered with success."""
    path = await half_sent(victim)
    assert (await victim.client.patch(path, PART, CONTENT[PART:])).offset == LENGTH
    before = victim.row(path)
    victim.proxy.history.clear()
    for offset, body, status in ((LENGTH, b"", 204), (LENGTH, b"!", 413), (0, CONTENT, 409), (PART, b"", 409)):
        for chunked in (False, True):
            answer = await victim.client.patch(path, offset, body, chunked=chunked)
            assert answer.status == status, (offset, body[:1], chunked)
    assert {call.method for call in victim.proxy.history.calls} <= {"HEAD"}
    assert victim.row(path) == before
    assert await victim.stored(path) == CONTENT


async def test_a_length_that_comes_late_is_believed_once_and_never_below_what_is_there(victim: Rig) -> None:
    """PA-07, I3, I9: declared after 7 MiB of 20, and the last byte comes alone."""
    content = lettered("d", 20 * MIB)
    path = await victim.client.create(None)
    assert (await victim.client.patch(path, 0, content[: 7 * MIB])).offset == 7 * MIB
    for length, end, status in ((3 * MIB, 8, 400), (20 * MIB, 8, 204), (21 * MIB, 9, 400), (3 * MIB, 9, 400)):
        offset = await victim.client.offset(path)
        body = content[offset : end * MIB]
        answer = await victim.client.patch(path, offset, body, {"Upload-Length": str(length)})
        assert answer.status == status, length
        assert victim.row(path)["upload_length"] == (None if status == 400 and offset == 7 * MIB else 20 * MIB)
    assert (await victim.client.patch(path, 8 * MIB, content[8 * MIB : -1])).offset == 20 * MIB - 1
    assert (await victim.client.patch(path, 20 * MIB - 1, content[-1:])).offset == 20 * MIB
    assert await victim.stored(path) == content


async def test_the_largest_file_that_s3_knows_is_planned_and_no_larger_one(start_victim: StartVictim) -> None:
    """RE-09: within 10,000 parts; what fails uses up none of them (RE-12)."""
    victim = await start_victim({"TUSGATE_MAX_SIZE": "5TiB"})
    path = await victim.client.create(5 * TIB)
    grid = Grid.decode(victim.row(path)["grid"])
    assert grid.capacity >= 5 * TIB
    assert sum(cells for cells, _ in grid.runs) <= 10_000
    assert (await victim.client.patch(path, 0, b"first")).offset == 5
    for length in (5 * TIB + 1, 2**63 - 1):
        assert (await victim.client.post({"Upload-Length": str(length)})).status == 413
    assert (await victim.client.post({"Upload-Length": str(2**63)})).status == 400
    assert [row["upload_length"] for row in victim.rows("SELECT upload_length FROM uploads")] == [5 * TIB]
