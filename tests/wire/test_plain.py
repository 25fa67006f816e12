"""Uploads without a protocol: the body of one request is the file."""

from __future__ import annotations

import pytest

from tests.wire.client import CT
from tests.wire.rig import MIB, until
from tests.wire.rufh import RufhClient
from tests.wire.test_rufh_digests import digest
from tusgate.core.model import CreatedVia, State
from tusgate.web.config import WebConfig

HELLO = b"hello world"


@pytest.fixture
def plain(rig):
    return RufhClient(rig.client, None)


@pytest.mark.spec("PLAIN-01")
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/files"), ("POST", "/files/"), ("PUT", "/files"), ("PUT", "/files/a.txt")]
)
@pytest.mark.parametrize("size", [1, 5 * MIB, 11 * MIB + 3])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_body_is_the_file(rig, plain, method, path, size, chunked):
    payload = bytes(size)
    answer = await plain.request(method, path, {"Content-Type": "image/png"}, payload, chunked=chunked)
    assert (answer.status, answer.early) == (201, [])
    assert answer.body.decode() == answer.headers["Location"] + "\n"
    row = await rig.row(answer.upload_path)
    assert (row.state, row.length, row.created_via) == (State.COMPLETE, size, CreatedVia.PLAIN)
    assert (row.content_type, row.filename) == ("image/png", "a.txt" if path.endswith("txt") else None)
    assert await rig.stored(answer.upload_path) == payload


@pytest.mark.spec("PLAIN-01")
async def test_an_empty_file_is_a_put(rig, plain):
    answer = await plain.request("PUT", "/files/empty", {}, b"")
    assert answer.status == 201
    assert await rig.stored(answer.upload_path) == b""


@pytest.mark.spec("PLAIN-01", "VER-03")
@pytest.mark.parametrize(
    "fields",
    [
        {"Upload-Length": "11"},
        {"Upload-Metadata": ""},
        {"Tus-Version": "1.0.0"},
        CT,
        {"X-HTTP-Method-Override": "PUT"},
    ],
)
async def test_a_sign_of_another_protocol_is_412(rig, fields):
    answer = await rig.client.request("POST", "/files", fields, HELLO)
    assert answer.status in (405, 412)
    assert await rig.count() == 0


@pytest.mark.spec("PLAIN-01", "VER-03")
async def test_a_post_without_a_body_is_412(rig):
    for body in (None, b""):
        assert (await rig.client.request("POST", "/files", {}, body)).status == 412


@pytest.mark.spec("PLAIN-01")
async def test_what_curl_calls_everything_is_not_kept_as_the_type(rig, plain):
    fields = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await plain.request("POST", "/files", fields, HELLO)
    assert (await rig.row(answer.upload_path)).content_type is None


@pytest.mark.spec("PLAIN-01")
async def test_two_of_one_name_are_two_uploads(rig, plain):
    first, second = [await plain.request("PUT", "/files/a.txt", {}, body) for body in (b"one", b"two")]
    assert await rig.stored(first.upload_path) == b"one"
    assert await rig.stored(second.upload_path) == b"two"


@pytest.mark.spec("PLAIN-01", "SH-09")
async def test_it_can_be_looked_at_and_deleted_but_not_appended_to(rig, plain):
    path = (await plain.request("PUT", "/files/a.txt", {}, HELLO)).upload_path
    seen = await plain.request("HEAD", path)
    assert (seen.status, seen.offset, seen.headers["Upload-Complete"]) == (204, 11, "?1")
    assert (await rig.client.head(path)).offset == 11
    refused = await plain.append(path, 11, HELLO)
    assert refused.status == 400
    assert (await plain.request("DELETE", path)).status == 204
    assert (await plain.request("HEAD", path)).status == 404


@pytest.mark.spec("PLAIN-02")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("sent", [7, 5 * MIB + 7])
async def test_a_body_that_breaks_off_leaves_nothing(rig, chunked, sent):
    framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(6 * MIB)}
    async with rig.client.connect() as connection:
        connection.send_head("PUT", "/files/a.bin", framing)
        if chunked:
            connection.send_chunk(bytes(sent))
        else:
            connection.up.write(bytes(sent))

        async def taken_in() -> bool:
            return bool(await rig.count() == 1 and rig.budget.used > 0)

        await until(taken_in)

    async def terminated() -> bool:
        return bool((await rig.database.count_by_state())[State.TERMINATED] == 1)

    await until(terminated)
    assert await rig.count() == 0


@pytest.mark.spec("PLAIN-02")
async def test_a_shutdown_leaves_nothing(rig):
    async with rig.client.connect() as connection:
        connection.send_head("PUT", "/files/a.bin", {"Content-Length": "100"})
        connection.up.write(HELLO)
        await rig.until_taken_in(11)
        await rig.writers.drain()
        assert (await connection.answer()).status == 503
    assert await rig.count() == 0


@pytest.mark.spec("PLAIN-03")
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Range": "bytes 5-9/10"}, 400),
        ({"Content-Encoding": "gzip, br"}, 415),
        ({"Content-Digest": digest("sha-256", b"other")}, 460),
        ({"Repr-Digest": digest("sha-256", b"other")}, 460),
        ({"Content-Digest": "sha-256=5"}, 400),
        ({"Host": "a b"}, 400),
    ],
)
async def test_what_would_not_be_the_file_is_refused(rig, fields, status):
    async with rig.client.connect() as connection:
        connection.send_head("PUT", "/files/a.bin", fields | {"Content-Length": "11"})
        connection.up.write(HELLO)
        answer = await connection.answer()
    assert answer.status == status
    assert await rig.count() == 0


@pytest.mark.spec("PLAIN-03")
async def test_a_file_over_the_maximum_is_413(start):
    rig = await start(max_size=10)
    plain = RufhClient(rig.client, None)
    for chunked in (False, True):
        async with rig.client.connect() as connection:
            framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": "11"}
            connection.send_head("PUT", "/files/a.bin", framing)
            if chunked:
                connection.send_chunk(HELLO)
            else:
                connection.up.write(HELLO)
            assert (await connection.answer()).status == 413
    assert await rig.count() == 0
    assert (await plain.request("PUT", "/files/a.bin", {}, HELLO[:10])).status == 201


@pytest.mark.spec("PLAIN-01")
async def test_the_right_digest_is_taken(rig, plain):
    answer = await plain.request("PUT", "/files/a", {"Content-Digest": digest("sha-512", HELLO)}, HELLO)
    assert await rig.stored(answer.upload_path) == HELLO


@pytest.mark.spec("PLAIN-01", "R-104-05")
async def test_100_continue_comes_after_the_checks(rig):
    for fields, status, interim in (({}, 201, [100]), ({"Content-Range": "bytes 0-1/2"}, 400, [])):
        async with rig.client.connect() as connection:
            connection.send_head("PUT", "/files/a", fields | {"Content-Length": "11", "Expect": "100-continue"})
            if interim:
                assert (await connection.interim()).status == 100
                connection.up.write(HELLO)
            answer = await connection.answer()
        assert (answer.status, answer.interim) == (status, [])


@pytest.mark.spec("COR-05")
async def test_a_page_of_another_origin_cannot_upload_past_the_list(start):
    rig = await start(WebConfig(cors_origins=("https://page.test",)))
    async with rig.client.connect() as connection:
        connection.send_head("POST", "/files", {"Origin": "https://evil.test", "Content-Length": "11"})
        connection.up.write(HELLO)
        assert (await connection.answer()).status == 403
    assert await rig.count() == 0
