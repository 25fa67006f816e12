"""RUFH: creating uploads, with and without bytes, in every dialect."""

from __future__ import annotations

import pytest

from tests.wire.client import V
from tests.wire.rig import LIFETIME, MIB
from tests.wire.rufh import IDENTIFIED, PROBLEMS, VERSIONS, RufhClient, limits, problem
from tusgate.core.model import CreatedVia, State

HELLO = b"hello world"


@pytest.fixture(params=VERSIONS, ids=lambda version: f"interop-{version}")
def rufh(rig, request):
    return RufhClient(rig.client, request.param)


@pytest.fixture
def final(rig):
    return RufhClient(rig.client, None)


@pytest.mark.spec("R-CRE-01", "R-CRE-05")
@pytest.mark.parametrize("size", [1, 11, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 10 * MIB, 11 * MIB + 3])
async def test_a_file_in_one_request_is_complete(rig, rufh, size):
    payload = (bytes(range(251)) * (size // 251 + 1))[:size]
    answer = await rufh.create(payload, ends=True)
    assert (answer.status, answer.offset) == (201, size)
    assert rufh.draft.says_complete(answer)
    assert "Upload-Limit" not in answer.headers
    row = await rig.row(answer.upload_path)
    assert (row.state, row.length, row.created_via) == (State.COMPLETE, size, CreatedVia.RUFH)
    assert await rig.stored(answer.upload_path) == payload


@pytest.mark.spec("R-CRE-01", "R-APP-12")
@pytest.mark.parametrize("size", [1, 5 * MIB, 11 * MIB])
async def test_a_file_of_unknown_size_in_one_request_is_complete(rig, final, size):
    payload = bytes(size)
    answer = await final.request("PUT", "/files", final.draft.creation(ends=True), payload, chunked=True)
    assert (answer.status, answer.offset) == (201, size)
    assert await rig.stored(answer.upload_path) == payload


@pytest.mark.spec("R-CRE-02")
async def test_a_creation_with_some_bytes_says_how_many(rig, rufh):
    answer = await rufh.create(HELLO)
    assert (answer.status, answer.offset) == (201, 11)
    assert not rufh.draft.says_complete(answer)
    assert answer.headers["Location"].startswith("http://gateway.test/files/")
    assert ("Upload-Limit" in answer.headers) == (rufh.draft.version not in (3, 5))
    row = await rig.row(answer.upload_path)
    assert (row.state, row.offset, row.length) == (State.UPLOADING, 11, None)


@pytest.mark.spec("R-CRE-03", "R-APP-09", "R-SEC-01")
@pytest.mark.parametrize("length", [None, 0, 11])
async def test_a_creation_without_bytes_has_a_location(rig, rufh, length):
    first, second = [await rufh.create(length=length) for _ in range(2)]
    assert (first.status, first.offset) == (201, 0)
    assert not rufh.draft.says_complete(first)
    assert len(first.upload_path.rsplit("/", 1)[1]) >= 22
    assert first.upload_path != second.upload_path
    assert (await rig.row(first.upload_path)).state is State.UPLOADING


@pytest.mark.spec("R-CRE-04")
@pytest.mark.parametrize("body", [None, b""])
async def test_no_bytes_and_the_end_are_an_empty_file(rig, rufh, body):
    answer = await rufh.create(body, ends=True)
    assert (answer.status, answer.offset) == (201, 0)
    assert rufh.draft.says_complete(answer)
    assert await rig.stored(answer.upload_path) == b""


@pytest.mark.spec("R-CRE-05", "R-HEAD-01")
async def test_a_stated_length_is_kept(rig, rufh):
    path = (await rufh.create(HELLO, length=30)).upload_path
    assert (await rufh.head(path)).headers["Upload-Length"] == "30"
    assert (await rig.row(path)).length == 30


@pytest.mark.spec("R-CRE-06")
@pytest.mark.parametrize(("ends", "length"), [(True, 10), (True, 12), (False, 10)])
async def test_lengths_that_do_not_agree_are_400_and_create_nothing(rig, rufh, ends, length):
    answer = await rufh.create(HELLO, ends=ends, length=length)
    assert answer.status == 400
    assert problem(answer)["type"] == PROBLEMS + "inconsistent-upload-length"
    assert not rufh.draft.says_complete(answer)
    assert await rig.count() == 0


@pytest.mark.spec("R-CRE-06")
async def test_a_chunked_body_that_ends_before_the_stated_length_does_not_complete(rig, final):
    fields = final.draft.creation(ends=True, length=12)
    answer = await final.request("POST", "/files", fields, HELLO, chunked=True)
    assert answer.status == 400
    assert problem(answer)["type"] == PROBLEMS + "inconsistent-upload-length"
    assert (await rig.database.count_by_state())[State.COMPLETE] == 0


@pytest.mark.spec("R-CRE-07", "R-LIM-02")
async def test_a_length_over_the_maximum_is_413_with_the_limit(start):
    rig = await start(max_size=10)
    rufh = RufhClient(rig.client, 8)
    for answer in (
        await rufh.create(length=11),
        await rufh.create(HELLO, ends=True),
        await rufh.create(HELLO),
        await rufh.append(await rufh.begin(), 0, HELLO),
        await rufh.append(await rufh.begin(), 0, HELLO, chunked=True),
    ):
        assert answer.status == 413
        assert limits(answer)["max-size"] == 10
    assert (await rufh.create(length=10)).status == 201


@pytest.mark.spec("R-CRE-08", "SH-04")
async def test_what_the_request_says_about_the_file_is_kept(rig, rufh):
    answer = await rufh.create(
        HELLO,
        ends=True,
        Content_Type="text/plain; charset=utf-8",
        Content_Encoding="gzip",
        Content_Disposition="inline; filename=\"n.txt\"; filename*=UTF-8''na%C3%AFve.txt",
    )
    row = await rig.row(answer.upload_path)
    assert (row.content_type, row.content_coding, row.filename) == ("text/plain; charset=utf-8", "gzip", "naïve.txt")
    assert await rig.stored(answer.upload_path) == HELLO


@pytest.mark.spec("R-CRE-08")
async def test_metadata_of_tus_counts_more_because_clients_of_both_protocols_send_it(rig, final):
    answer = await final.create(Upload_Metadata="filename YS50eHQ=,filetype aW1hZ2UvcG5n")
    row = await rig.row(answer.upload_path)
    assert (row.filename, row.content_type) == ("a.txt", "image/png")


@pytest.mark.spec("R-CRE-08", "R-CRE-01")
async def test_a_put_below_the_base_path_names_the_file(rig, final):
    fields = final.draft.creation(ends=True)
    answer = await final.request("PUT", "/files/caf%C3%A9.txt", fields, HELLO)
    assert answer.status == 201
    assert (await rig.row(answer.upload_path)).filename == "café.txt"


@pytest.mark.spec("R-CRE-09", "R-104-01", "R-HEAD-03")
@pytest.mark.parametrize("version", IDENTIFIED)
@pytest.mark.parametrize("sent", [7, 5 * MIB + 7])
async def test_what_arrived_of_a_broken_creation_is_kept_and_not_complete(rig, version, sent):
    rufh = RufhClient(rig.client, version)
    payload = bytes(range(256)) * (6 * MIB // 256)
    async with rig.client.connect() as connection:
        fields = rufh.draft.creation(ends=True) | {"Content-Length": str(len(payload))}
        connection.send_head("POST", "/files", fields)
        connection.up.write(payload[:sent])
        early = await connection.interim()
        assert early.status == 104
        await rig.until_row_taken_in(early.upload_path, sent)
    told = await rufh.head(early.upload_path)
    assert told.offset == sent
    assert not rufh.draft.says_complete(told)
    rest = await rufh.append(early.upload_path, sent, payload[sent:], ends=True)
    assert (rest.status, rest.offset) == (201, len(payload))
    assert rufh.draft.says_complete(rest)
    assert await rig.stored(early.upload_path) == payload


@pytest.mark.spec("R-CRE-09", "R-APP-11")
async def test_a_chunked_body_without_its_end_is_not_complete_though_all_its_bytes_are_there(rig, final):
    path = (await final.create(HELLO, length=22)).upload_path
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, final.draft.append(11, ends=True) | {"Transfer-Encoding": "chunked"})
        connection.send_chunk(HELLO)
        await rig.until_row_taken_in(path, 22)
    told = await final.head(path)
    assert (told.offset, told.headers["Upload-Complete"]) == (22, "?0")
    assert (await final.append(path, 22, ends=True)).status == 201
    assert await rig.stored(path) == HELLO * 2


@pytest.mark.spec("R-CRE-10", "R-HEAD-04")
@pytest.mark.parametrize("path", ["/files", "/files/"])
async def test_nothing_is_redirected(rufh, path):
    created = await rufh.request("POST", path, rufh.draft.creation(ends=False))
    assert created.status == 201
    assert (await rufh.head(created.upload_path)).status == 204


@pytest.mark.spec("R-CRE-11", "R-SF-01")
@pytest.mark.parametrize("text", ["true", "1", "?2", "", "?1, ?1", "yes", None])
async def test_a_creation_whose_flag_nobody_can_read_is_412(rig, text):
    fields = {"Upload-Draft-Interop-Version": "6"} | ({} if text is None else {"Upload-Complete": text})
    answer = await rig.client.request("POST", "/files", fields, HELLO)
    assert (answer.status, answer.headers["Tus-Version"]) == (412, "1.0.0")
    assert await rig.count() == 0


@pytest.mark.spec("R-SF-01")
@pytest.mark.parametrize("text", ["true", "?0, ?0", ""])
async def test_an_unreadable_upload_incomplete_is_not_taken_for_complete(rig, text):
    fields = {"Upload-Draft-Interop-Version": "3", "Upload-Incomplete": text}
    assert (await rig.client.request("POST", "/files", fields, HELLO)).status == 412
    assert await rig.count() == 0


@pytest.mark.spec("R-SF-01", "R-SF-02")
@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("20", 20),
        ("20;p=1", 20),
        ("999999999999999", 999_999_999_999_999),
        ("1000000000000000", None),
        ("-1", None),
        ("20.0", None),
        ("twenty", None),
        ("20, 20", None),
        ("?1", None),
    ],
)
async def test_a_malformed_length_counts_as_absent(rig, final, text, length):
    answer = await final.create(Upload_Length=text)
    if length is not None and length > 10**14:
        assert answer.status == 413  # more than the store can hold
        return
    assert answer.status == 201
    assert (await rig.row(answer.upload_path)).length == length


@pytest.mark.spec("R-SF-02")
async def test_parameters_on_the_flag_do_not_matter(final):
    fields = {"Upload-Complete": '?1;a=b;c="d"'}
    assert (await final.request("POST", "/files", fields, HELLO)).headers["Upload-Complete"] == "?1"


@pytest.mark.spec("R-OPT-01", "R-OPT-02", "R-LIM-03", "SH-08")
async def test_options_announces_the_limits_of_both_protocols(start):
    unlimited, limited = await start(), await start(max_size=1000)
    answer = await unlimited.client.request("OPTIONS", "/files")
    assert limits(answer) == {"min-size": 0, "max-age": int(LIFETIME)}
    assert answer.headers["Accept-Patch"] == "application/partial-upload"
    assert answer.headers["Tus-Version"] == "1.0.0"
    answer = await limited.client.request("OPTIONS", "/files")
    announced = limits(answer)
    assert (announced["max-size"], answer.headers["Tus-Max-Size"]) == (1000, "1000")
    later = limits(await RufhClient(limited.client, 8).create(HELLO))
    assert later["max-size"] >= announced["max-size"]
    assert later["max-age"] >= announced["max-age"]


@pytest.mark.spec("R-OPT-03")
async def test_options_with_a_flag_creates_nothing(rig):
    answer = await rig.client.request("OPTIONS", "/files", {"Upload-Complete": "?0"})
    assert answer.status == 200
    assert await rig.count() == 0


@pytest.mark.spec("R-SF-02", "SH-04", "R-LIM-01")
@pytest.mark.parametrize(("version", "name"), [(6, "expires"), (8, "max-age"), (9, "max-age"), (None, "max-age")])
async def test_the_time_that_is_left_is_a_limit_and_starts_again_with_new_bytes(rig, version, name):
    rufh = RufhClient(rig.client, version)
    path = (await rufh.create(HELLO)).upload_path
    rig.clock.now += 600
    assert limits(await rufh.head(path)) == {"min-size": 0, name: int(LIFETIME) - 600}
    assert limits(await rufh.append(path, 11, HELLO)) == {"min-size": 0, name: int(LIFETIME)}


@pytest.mark.spec("R-RET-01")
async def test_a_creation_during_a_shutdown_is_broken_off_without_an_answer(rig, final):
    rig.writers.draining = True
    with pytest.raises(ConnectionError):
        await final.create(HELLO, ends=True)
    assert (await rig.client.post({"Upload-Length": "5"})).status == 503


@pytest.mark.spec("SH-05")
async def test_a_request_that_names_tus_is_tus_whatever_else_it_says(rig):
    fields = {**V, "Upload-Length": "5", "Upload-Complete": "?1", "Upload-Draft-Interop-Version": "6"}
    answer = await rig.client.request("POST", "/files", fields)
    assert answer.status == 201
    assert (await rig.row(answer.upload_path)).created_via is CreatedVia.TUS
    assert "Upload-Complete" not in answer.headers
    assert "Upload-Limit" not in answer.headers
