"""RUFH: going on with uploads, asking where they stand, and ending them, in every dialect."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from tests.wire.rig import MIB
from tests.wire.rufh import IDENTIFIED, PROBLEMS, VERSIONS, RufhClient, limits, problem
from tusgate.core.model import State
from tusgate.web.config import WebConfig

HELLO = b"hello world"
UNKNOWN = "/files/unknown-upload-0123456789"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@pytest.fixture(params=VERSIONS, ids=lambda version: f"interop-{version}")
def rufh(rig, request):
    return RufhClient(rig.client, request.param)


@pytest.fixture
def final(rig):
    return RufhClient(rig.client, None)


@pytest.mark.spec("R-APP-01", "R-APP-02", "R-APP-12", "R-CRE-03")
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_in_several_requests_is_complete_when_the_last_one_says_so(rig, rufh, chunked):
    path = await rufh.begin()
    for at in (0, 11):
        answer = await rufh.append(path, at, HELLO, chunked=chunked)
        assert (answer.status, answer.offset) == (201 if rufh.draft.is_old else 204, at + 11)
        assert not rufh.draft.says_complete(answer)
    answer = await rufh.append(path, 22, HELLO, ends=True, chunked=chunked)
    assert (answer.status, answer.offset) == (201, 33)
    assert rufh.draft.says_complete(answer)
    row = await rig.row(path)
    assert (row.state, row.length) == (State.COMPLETE, 33)
    assert await rig.stored(path) == HELLO * 3


@pytest.mark.spec("R-APP-02", "R-APP-03", "R-APP-09")
@pytest.mark.parametrize("size", [1, 70_000, 5 * MIB - 1, 5 * MIB, 10 * MIB, 10 * MIB + 1])
@pytest.mark.parametrize("stated", [False, True])
async def test_reaching_the_length_ends_nothing_and_an_empty_append_with_the_end_does(rig, final, size, stated):
    payload = bytes(range(199)) * (size // 199 + 1)
    payload = payload[:size]
    path = await final.begin(length=size if stated else None)
    answer = await final.append(path, 0, payload)
    assert (answer.status, answer.headers["Upload-Complete"]) == (204, "?0")
    assert (await rig.row(path)).state is State.UPLOADING
    assert (await final.head(path)).headers["Upload-Complete"] == "?0"
    answer = await final.append(path, size, ends=True)
    assert (answer.status, answer.headers["Upload-Complete"]) == (201, "?1")
    assert await rig.stored(path) == payload


@pytest.mark.spec("R-APP-04", "R-RET-01")
@pytest.mark.parametrize("offset", [0, 10, 12, 10**14])
async def test_another_offset_is_409_with_the_current_one_and_changes_nothing(rig, rufh, offset):
    path = (await rufh.create(HELLO)).upload_path
    answer = await rufh.append(path, offset, HELLO, ends=True)
    assert (answer.status, answer.offset) == (409, 11)
    assert not rufh.draft.says_complete(answer)
    details = problem(answer)
    assert details["type"] == PROBLEMS + "mismatching-upload-offset"
    assert (details["expected-offset"], details["provided-offset"]) == (11, offset)
    assert (await rig.row(path)).offset == 11


@pytest.mark.spec("R-APP-05", "R-SF-01")
@pytest.mark.parametrize("text", [None, "", "eleven", "-1", "11.0", "1000000000000000", "11, 11", "?1"])
async def test_an_unreadable_offset_is_400(rig, final, text):
    path = (await final.create(HELLO)).upload_path
    fields = final.draft.append(11, ends=False)
    del fields["Upload-Offset"]
    answer = await final.request("PATCH", path, fields | ({} if text is None else {"Upload-Offset": text}), HELLO)
    assert answer.status == 400
    assert "Upload-Offset" in str(problem(answer)["detail"])
    assert (await rig.row(path)).offset == 11


@pytest.mark.spec("R-APP-06", "R-SF-01")
@pytest.mark.parametrize("text", [None, "true", "1", "", "?0, ?0"])
@pytest.mark.parametrize("version", [5, 6, 8, 9, None])
async def test_an_unreadable_flag_is_400(rig, version, text):
    rufh = RufhClient(rig.client, version)
    path = await rufh.begin()
    fields = rufh.draft.append(0, ends=False) | {"Content-Type": "application/partial-upload"}
    del fields["Upload-Complete"]
    answer = await rufh.request("PATCH", path, fields | ({} if text is None else {"Upload-Complete": text}), HELLO)
    assert answer.status == 400
    assert (await rig.row(path)).offset == 0


@pytest.mark.spec("R-APP-06")
async def test_in_interop_3_a_missing_flag_means_the_end(rig):
    rufh = RufhClient(rig.client, 3)
    path = await rufh.begin()
    fields = {"Upload-Draft-Interop-Version": "3", "Upload-Offset": "0"}
    assert (await rufh.request("PATCH", path, fields, HELLO)).headers["Upload-Incomplete"] == "?0"
    assert await rig.stored(path) == HELLO


@pytest.mark.spec("R-APP-07")
@pytest.mark.parametrize("media_type", ["application/octet-stream", "application/offset+octet-stream", ""])
async def test_another_media_type_is_415_where_the_draft_has_one(rig, rufh, media_type):
    path = await rufh.begin()
    fields = rufh.draft.append(0, ends=True) | {"Content-Type": media_type}
    answer = await rufh.request("PATCH", path, fields, HELLO)
    assert answer.status == (201 if rufh.draft.version in (3, 5) else 415)
    assert (await rig.row(path)).offset == (11 if rufh.draft.version in (3, 5) else 0)


@pytest.mark.spec("R-APP-07")
async def test_parameters_and_case_of_the_media_type_do_not_matter(final):
    path = await final.begin()
    answer = await final.append(path, 0, HELLO, Content_Type="Application/Partial-Upload; a=b")
    assert answer.status == 204


@pytest.mark.spec("R-APP-08")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("size", [6, 7 * MIB])
async def test_a_body_that_passes_the_length_makes_the_upload_invalid(rig, rufh, chunked, ends, size):
    path = await rufh.begin(length=size - 1)
    answer = await rufh.append(path, 0, bytes(size), ends=ends, chunked=chunked)
    assert answer.status == 400
    assert not rufh.draft.says_complete(answer)
    row = await rig.row(path)
    assert row.state is State.FAILED
    assert "more bytes" in row.reason
    assert (await rufh.head(path)).status == 404
    assert (await rufh.append(path, 0, b"x")).status == 404
    await rig.until_nobody_is_connected()


@pytest.mark.spec("R-CRE-06", "R-LIM-01")
async def test_a_second_other_length_is_400_and_the_first_one_stays(rig, rufh):
    path = await rufh.begin(length=30)
    for answer in (
        await rufh.append(path, 0, HELLO, Upload_Length="31"),
        await rufh.append(path, 0, HELLO, ends=True),
        await rufh.append(path, 0, HELLO, ends=True, Upload_Length="30"),
    ):
        assert answer.status == 400
        assert problem(answer)["type"] == PROBLEMS + "inconsistent-upload-length"
        assert not rufh.draft.says_complete(answer)
    row = await rig.row(path)
    assert (row.offset, row.length, row.state) == (0, 30, State.UPLOADING)
    assert (await rufh.append(path, 0, HELLO, Upload_Length="30")).offset == 11


@pytest.mark.spec("R-CRE-05")
async def test_an_append_may_state_the_length(rig, rufh):
    path = await rufh.begin()
    await rufh.append(path, 0, HELLO, Upload_Length="22")
    assert (await rufh.head(path)).headers["Upload-Length"] == "22"
    assert (await rufh.append(path, 11, HELLO + b"!")).status == 400


@pytest.mark.spec("R-APP-10")
@pytest.mark.parametrize(("offset", "body"), [(11, b""), (11, b"more"), (0, HELLO)])
async def test_an_append_to_a_complete_upload_gets_the_end_again(rig, rufh, offset, body):
    first = await rufh.create(HELLO, ends=True)
    answer = await rufh.append(first.upload_path, offset, body, ends=True)
    if rufh.draft.version in (9, None):
        assert (answer.status, answer.offset) == (201, 11)
        assert answer.headers["Location"] == first.headers["Location"]
    else:
        assert answer.status == 400
        assert problem(answer)["type"] == PROBLEMS + "completed-upload"
    assert rufh.draft.says_complete(answer)
    assert await rig.stored(first.upload_path) == HELLO


@pytest.mark.spec("R-APP-11", "R-HEAD-03")
@pytest.mark.parametrize("cut", ["end", "reset"])
@pytest.mark.parametrize("sent", [7, 5 * MIB + 7])
async def test_what_arrived_of_a_broken_append_is_kept_and_not_complete(rig, rufh, cut, sent):
    payload = bytes(range(256)) * (6 * MIB // 256)
    path = await rufh.begin()
    async with rig.client.connect() as connection:
        fields = rufh.draft.append(0, ends=True) | {"Content-Length": str(len(payload))}
        connection.send_head("PATCH", path, fields)
        connection.up.write(payload[:sent])
        await rig.until_row_taken_in(path, sent)
        if cut == "reset":
            raw = connection.up.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    told = await rufh.head(path)
    assert told.offset == sent
    assert not rufh.draft.says_complete(told)
    assert (await rufh.append(path, sent, payload[sent:], ends=True)).status == 201
    assert await rig.stored(path) == payload


@pytest.mark.spec("R-HEAD-01", "R-HEAD-02", "SH-07")
@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_head_and_get_tell_where_the_upload_stands(rufh, method):
    path = (await rufh.create(HELLO, length=20)).upload_path
    answer = await rufh.head(path, method)
    assert (answer.status, answer.offset, answer.headers["Upload-Length"]) == (204, 11, "20")
    assert answer.headers["Cache-Control"] == "no-store"
    assert not rufh.draft.says_complete(answer)
    assert ("Upload-Limit" in answer.headers) == (rufh.draft.version not in (3, 5))
    await rufh.append(path, 11, b"123456789", ends=True)
    answer = await rufh.head(path, method)
    assert (answer.status, answer.offset, answer.headers["Upload-Length"]) == (204, 20, "20")
    assert rufh.draft.says_complete(answer)
    assert "Upload-Limit" not in answer.headers


@pytest.mark.spec("R-HEAD-05")
@pytest.mark.parametrize("method", ["HEAD", "DELETE"])
@pytest.mark.parametrize("more", [{"Upload-Offset": "0"}, {"Upload-Complete": "?0"}])
async def test_a_position_in_head_or_delete_is_400_up_to_interop_6(rig, rufh, method, more):
    path = await rufh.begin()
    answer = await rufh.request(method, path, rufh.draft.identification | more)
    assert answer.status == (400 if rufh.draft.is_old else 204)
    assert ((await rig.row(path)).state is State.TERMINATED) == (method == "DELETE" and not rufh.draft.is_old)


@pytest.mark.spec("R-HEAD-06", "R-DEL-02")
@pytest.mark.parametrize("path", [UNKNOWN, "/files/x", "/files/a/b", "/files/%00"])
@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE", "PATCH"])
async def test_an_unknown_upload_is_404(rufh, path, method):
    fields = rufh.draft.append(0, ends=True) if method == "PATCH" else rufh.draft.identification
    answer = await rufh.request(method, path, fields, b"x" if method == "PATCH" else None)
    assert answer.status == 404
    assert "Upload-Offset" not in answer.headers


@pytest.mark.spec("R-HEAD-06")
async def test_an_expired_upload_is_404(rig, rufh):
    path = (await rufh.create(HELLO)).upload_path
    await rig.expire()
    assert (await rufh.head(path)).status == 404


@pytest.mark.spec("R-DEL-01")
async def test_a_cancelled_upload_is_gone(rig, rufh):
    path = (await rufh.create(HELLO)).upload_path
    assert (await rufh.delete(path)).status == 204
    assert (await rig.row(path)).state is State.TERMINATED
    for answer in (await rufh.delete(path), await rufh.head(path), await rufh.append(path, 11, b"x")):
        assert answer.status == 404


@pytest.mark.spec("R-DEL-01", "R-CON-02")
async def test_cancelling_cuts_a_running_append_off_and_nothing_comes_back(rig, rufh):
    path = await rufh.begin()
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, rufh.draft.append(0, ends=True) | {"Content-Length": "100"})
        connection.up.write(HELLO)
        await rig.until_taken_in(11)
        assert (await rufh.delete(path)).status == 204
        assert (await connection.answer()).status == 404
    assert (await rig.row(path)).state is State.TERMINATED


@pytest.mark.spec("R-CON-02", "R-HEAD-03")
async def test_asking_for_the_offset_ends_the_older_writer_and_keeps_its_bytes(rig, rufh):
    path = await rufh.begin()
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, rufh.draft.append(0, ends=True) | {"Content-Length": "100"})
        connection.up.write(HELLO)
        await rig.until_taken_in(11)
        told = await rufh.head(path)
        assert told.offset == 11
        assert (await connection.answer()).status == 503
    assert (await rufh.append(path, 11, bytes(89), ends=True)).status == 201
    assert await rig.stored(path) == HELLO + bytes(89)


@pytest.mark.spec("R-HEAD-03", "R-CON-02")
async def test_a_writer_of_another_process_can_commit_nothing_after_the_offset_was_told(rig, final):
    path = (await final.create(HELLO)).upload_path
    elsewhere, _ = await rig.database.claim(await rig.row(path), "another process")
    await final.head(path)
    assert (await rig.row(path)).epoch > elsewhere.epoch


@pytest.mark.spec("R-CON-01", "R-CON-02")
async def test_of_two_appends_at_one_offset_the_newer_one_wins(rig, rufh):
    path = await rufh.begin()
    async with rig.client.connect() as older:
        older.send_head("PATCH", path, rufh.draft.append(0, ends=True) | {"Content-Length": "12"})
        older.up.write(b"other bytes")
        await rig.until_taken_in(11)
        answer = await rufh.append(path, 0, HELLO, ends=True)
        assert (answer.status, answer.offset) == (201, 11)
        older.up.write(b"!")
        assert (await older.answer()).status in (400, 409)
    assert await rig.stored(path) == HELLO


@pytest.mark.spec("R-CON-01")
async def test_of_many_appends_at_once_at_most_one_counts(rig, final):
    path = await final.begin()
    bodies = [bytes([number]) * 1000 for number in range(8)]
    answers = await asyncio.gather(*[final.append(path, 0, body, ends=True) for body in bodies])
    assert await rig.stored(path) in bodies
    # A late one may be told of the end that another one has reached.
    assert {answer.status for answer in answers} <= {201, 409}


@pytest.mark.spec("R-RET-01", "R-APP-11")
@pytest.mark.parametrize("version", IDENTIFIED)
async def test_a_shutdown_keeps_the_bytes_and_breaks_the_connection_without_an_answer(rig, version):
    rufh = RufhClient(rig.client, version)
    path = await rufh.begin()
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, rufh.draft.append(0, ends=True) | {"Content-Length": "100"})
        connection.up.write(HELLO)
        await rig.until_taken_in(11)
        await rig.writers.drain()
        with pytest.raises(ConnectionError, match="closed without an answer"):
            await connection.answer()
    assert (await rig.row(path)).offset == 11


@pytest.mark.spec("R-RET-01")
async def test_without_a_database_an_append_may_be_tried_again(rig, final):
    path = await final.begin()
    await rig.database.close()
    answer = await final.append(path, 0, HELLO)
    assert (answer.status, answer.headers["Upload-Complete"]) == (503, "?0")
    assert answer.headers["Retry-After"]


@pytest.mark.spec("R-SEC-01", "R-APP-11")
async def test_a_stalled_append_is_ended_and_its_bytes_are_kept(start):
    rig = await start(WebConfig(idle_timeout=0.5))
    rufh = RufhClient(rig.client, 8)
    path = await rufh.begin()
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, rufh.draft.append(0, ends=True) | {"Content-Length": "100"})
        connection.up.write(HELLO)
        answer = await connection.answer()
    assert (answer.status, answer.offset, answer.headers["Upload-Complete"]) == (503, 11, "?0")
    assert problem(answer)["code"] == "client_stalled"


@pytest.mark.spec("R-HEAD-01")
async def test_an_unfinished_upload_survives_a_claim_of_its_offset_by_every_head(rig, rufh):
    path = (await rufh.create(HELLO)).upload_path
    for _ in range(3):
        assert (await rufh.head(path)).offset == 11
    assert (await rufh.append(path, 11, HELLO, ends=True)).status == 201


@pytest.mark.spec("R-LIM-03")
async def test_appends_of_single_bytes_are_taken(rig, final):
    path = await final.begin()
    assert "min-append-size" not in limits(await final.head(path))
    for at in range(5):
        assert (await final.append(path, at, HELLO[at : at + 1])).status == 204
    await final.append(path, 5, ends=True)
    assert await rig.stored(path) == HELLO[:5]


@pytest.mark.spec("R-APP-02")
async def test_what_many_appends_around_the_parts_have_brought_is_the_file(rig, final):
    payload = bytes(range(241)) * (13 * MIB // 241)
    path = await final.begin()
    at = 0
    for size in (3 * MIB, 2 * MIB, 1, 4 * MIB, MIB - 1, 70_000):
        assert (await final.append(path, at, payload[at : at + size])).offset == at + size
        at += size
    assert (await final.append(path, at, payload[at:], ends=True)).status == 201
    assert await rig.stored(path) == payload


@pytest.mark.spec("R-APP-02")
async def test_what_was_announced_in_vain_takes_nothing_of_the_file_along(rig, final):
    path = await final.begin()
    await final.append(path, 0, bytes(6 * MIB))
    await final.append(path, 6 * MIB, bytes(6 * MIB), ends=True)
    whole_cell = (await final.create(bytes(5 * MIB), ends=True)).upload_path
    garbage = await rig.database.due_garbage(100, 0.0)
    assert garbage  # the piece that became part of a part
    await rig.store.delete_objects([row.key for row in garbage if not row.multipart])
    assert await rig.stored(path) == bytes(12 * MIB)
    assert await rig.stored(whole_cell) == bytes(5 * MIB)
