"""RUFH: who gets 104s, when, and with what in them."""

from __future__ import annotations

import pytest

from tests.wire.client import CT, V
from tests.wire.rig import MIB
from tests.wire.rufh import IDENTIFIED, RufhClient, limits

HELLO = b"hello world"
BODY = bytes(range(256)) * (18 * MIB // 256)
"""A quarter of it is less than a part."""


@pytest.fixture(params=IDENTIFIED, ids=lambda version: f"interop-{version}")
def rufh(rig, request):
    return RufhClient(rig.client, request.param)


@pytest.mark.spec("R-104-01", "R-104-02", "R-VER-02", "R-VER-03")
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_creation_is_told_its_location_before_its_body_is_read(rig, rufh, method):
    async with rig.client.connect() as connection:
        fields = rufh.draft.creation(ends=False) | {"Content-Length": "11"}
        connection.send_head(method, "/files", fields)
        early = await connection.interim()  # not a byte of the body has been sent
        assert (early.status, early.reason) == (104, "Upload Resumption Supported")
        assert early.headers["Upload-Draft-Interop-Version"] == str(rufh.draft.version)
        if rufh.draft.version not in (3, 5):
            assert limits(early)["min-size"] == 0
        assert (await rig.row(early.upload_path)).offset == 0
        connection.up.write(HELLO)
        answer = await connection.answer()
    rufh.check(answer)
    assert (answer.status, answer.early) == (201, [])
    assert answer.headers["Location"] == early.headers["Location"]


@pytest.mark.spec("R-104-01")
@pytest.mark.parametrize("body", [None, b""])
async def test_a_creation_without_bytes_is_told_too(rufh, body):
    answer = await rufh.create(body)
    assert answer.interim == [104]
    assert answer.early[0].headers["Location"] == answer.headers["Location"]


async def in_two_goes(rufh, method, path, fields, *, early, chunked=False):
    """Send BODY, the rest of it after so many 104s: all at once it may be committed at once, without a word before."""
    size = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(BODY))}
    async with rufh.http.connect() as connection:
        send = connection.send_chunk if chunked else connection.up.write
        connection.send_head(method, path, fields | size)
        send(BODY[: 12 * MIB])
        seen = [await connection.interim() for _ in range(early)]
        send(BODY[12 * MIB :])
        if chunked:
            send(b"")
        answer = await connection.answer()
    rufh.check(answer)
    answer.early[:0] = seen
    return answer


@pytest.mark.spec("R-104-03", "R-104-02", "R-104-07")
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_creation_is_told_of_its_progress(rufh, chunked, monkeypatch):
    monkeypatch.setattr("tusgate.web.rufh._UNKNOWN_SIZE_STEP", 4 * MIB)
    answer = await in_two_goes(rufh, "POST", "/files", rufh.draft.creation(ends=True), early=2, chunked=chunked)
    assert answer.status == 201
    first, *more = answer.early
    assert "Upload-Offset" not in first.headers
    told = [early.offset for early in more]
    assert told == sorted(set(told))
    # A quarter of the body at least lies between two of them; of an unknown size, eight times as much each time.
    assert len(told) == 1 if chunked else 1 <= len(told) <= 3
    assert all(early.headers.get("Location", first.headers["Location"]) == answer.headers["Location"] for early in more)


@pytest.mark.spec("R-104-03", "R-104-04", "R-104-07")
async def test_an_append_is_told_of_its_progress_and_never_of_a_location(rig, rufh):
    path = (await rufh.create(HELLO)).upload_path
    answer = await in_two_goes(rufh, "PATCH", path, rufh.draft.append(11, ends=True), early=1)
    assert 1 <= len(answer.early) <= 3
    for early in answer.early:
        assert early.status == 104
        assert "Location" not in early.headers
        assert 11 < early.offset < 11 + len(BODY)
    assert await rig.stored(path) == HELLO + BODY


@pytest.mark.spec("R-104-03")
async def test_the_offset_in_a_104_is_committed(rig, rufh):
    path = await rufh.begin()
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, rufh.draft.append(0, ends=True) | {"Content-Length": str(len(BODY))})
        connection.up.write(BODY[: 12 * MIB])
        early = await connection.interim()
        assert (await rig.row(path)).offset >= early.offset >= len(BODY) // 4


@pytest.mark.spec("R-104-05")
async def test_100_continue_is_sent_although_a_104_was(rufh):
    async with rufh.http.connect() as connection:
        fields = rufh.draft.creation(ends=True) | {"Content-Length": "11", "Expect": "100-continue"}
        connection.send_head("POST", "/files", fields)
        assert (await connection.interim()).status == 104
        assert (await connection.interim()).status == 100
        connection.up.write(HELLO)
        assert (await connection.answer()).status == 201


@pytest.mark.spec("R-104-07")
async def test_no_request_gets_more_than_five_interim_answers(rufh):
    async with rufh.http.connect() as connection:
        size = 60 * MIB
        fields = rufh.draft.creation(ends=True) | {"Content-Length": str(size), "Expect": "100-continue"}
        connection.send_head("POST", "/files", fields)
        assert [(await connection.interim()).status for _ in range(2)] == [104, 100]
        for _ in range(60):
            connection.up.write(bytes(MIB))
            await connection.up.drain()
        answer = await connection.answer()
    assert answer.status == 201
    assert len(answer.early) <= 3


@pytest.mark.spec("R-VER-01", "R-104-06")
@pytest.mark.parametrize("version", [None, "4", "7", "10", "0", "-3", "six", "6, 6", "?1", "6.0", ""])
async def test_without_a_known_version_there_is_no_104_and_the_upload_works(rig, version):
    final = RufhClient(rig.client, None)
    identification = {} if version is None else {"Upload-Draft-Interop-Version": version}
    answer = await final.request("POST", "/files", identification | {"Upload-Complete": "?0"}, HELLO)
    assert (answer.status, answer.early) == (201, [])
    path = answer.upload_path
    answer = await final.request("PATCH", path, identification | final.draft.append(11, ends=True), BODY)
    assert (answer.status, answer.early, answer.headers["Upload-Complete"]) == (201, [], "?1")
    assert await rig.stored(path) == HELLO + BODY


@pytest.mark.spec("R-104-06")
async def test_an_http_1_0_client_gets_no_104(rig):
    fields = {"Upload-Draft-Interop-Version": "6", "Upload-Complete": "?1", "Content-Length": "11"}
    async with rig.client.connect() as connection:
        connection.send_head("POST", "/files", fields, version="HTTP/1.0")
        connection.up.write(HELLO)
        answer = await connection.answer()
    assert (answer.status, answer.early) == (201, [])


@pytest.mark.spec("R-104-06", "SH-05")
async def test_a_tus_request_gets_no_104_whatever_else_it_says(rig):
    fields = {**V, **CT, "Upload-Length": "11", "Upload-Draft-Interop-Version": "6", "Upload-Complete": "?1"}
    answer = await rig.client.request("POST", "/files", fields, HELLO)
    assert (answer.status, answer.early) == (201, [])


@pytest.mark.spec("R-104-01", "R-VER-03")
async def test_a_refused_creation_gets_no_104(rufh):
    answer = await rufh.create(HELLO, ends=True, length=12)
    assert (answer.status, answer.early) == (400, [])


@pytest.mark.spec("R-VER-01")
async def test_upload_incomplete_without_a_version_is_read_as_the_first_draft(rig):
    answer = await RufhClient(rig.client, None).request("POST", "/files", {"Upload-Incomplete": "?1"}, HELLO)
    assert (answer.status, answer.early, answer.headers["Upload-Incomplete"]) == (201, [], "?1")
