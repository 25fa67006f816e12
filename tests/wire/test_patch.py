from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from tests.wire.client import CT, V
from tests.wire.rig import MIB, until
from tusgate.core.model import State
from tusgate.web.config import WebConfig

UNKNOWN = "/files/unknown-upload-0123456789"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@pytest.mark.spec("PATCH-01")
async def test_bytes_at_the_offset_are_taken(rig):
    path = await rig.client.create(10)
    first = await rig.client.patch(path, 0, b"hello")
    assert (first.status, first.offset, first.body) == (204, 5, b"")
    last = await rig.client.patch(path, 5, b"world")
    assert (last.status, last.offset) == (204, 10)
    assert await rig.stored(path) == b"helloworld"


@pytest.mark.spec("PATCH-12", "PATCH-16")
@pytest.mark.parametrize("size", [1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 11 * MIB])
async def test_a_chunked_body_is_taken_whole(rig, size):
    payload = bytes(range(251)) * (size // 251 + 1)
    payload = payload[:size]
    path = await rig.client.create(size)
    answer = await rig.client.patch(path, 0, payload, chunked=True)
    assert (answer.status, answer.offset) == (204, size)
    assert await rig.stored(path) == payload


@pytest.mark.spec("PATCH-02", "PATCH-03")
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/octet-stream", "", "application/offset"])
async def test_another_content_type_is_415_and_changes_nothing(client, content_type):
    path = await client.create(5)
    fields = {**V, "Upload-Offset": "0"} | ({} if content_type is None else {"Content-Type": content_type})
    answer = await client.request("PATCH", path, fields, b"hello")
    assert answer.status == 415
    assert b"Content-Type" in answer.body
    assert await client.offset(path) == 0


@pytest.mark.spec("PATCH-04")
@pytest.mark.parametrize(
    "content_type", ["application/offset+octet-stream; charset=utf-8", "Application/Offset+Octet-Stream"]
)
async def test_the_content_type_may_have_parameters_and_any_case(client, content_type):
    path = await client.create(5)
    fields = {**V, "Upload-Offset": "0", "Content-Type": content_type}
    assert (await client.request("PATCH", path, fields, b"hello")).status == 204


@pytest.mark.spec("PATCH-05", "PATCH-06", "NUM-02")
@pytest.mark.parametrize(
    "offset", [None, "", "-1", "-0", "+0", "0.0", "1e0", "0x0", "0_0", "\u0660", "abc", "0,0", str(2**63), "0" * 5000]
)
async def test_a_missing_or_malformed_offset_is_400_and_changes_nothing(client, offset):
    """PA-03."""
    path = await client.create(5)
    fields = {**V, **CT} | ({} if offset is None else {"Upload-Offset": offset})
    answer = await client.request("PATCH", path, fields, b"hello")
    assert answer.status == 400
    assert b"Upload-Offset" in answer.body
    assert await client.offset(path) == 0


@pytest.mark.spec("NUM-02")
async def test_two_offsets_are_400(client):
    path = await client.create(5)
    fields = [*V.items(), *CT.items(), ("Upload-Offset", "0"), ("Upload-Offset", "0")]
    assert (await client.request("PATCH", path, fields, b"hello")).status == 400
    assert await client.offset(path) == 0


@pytest.mark.spec("PATCH-07", "EXP-03", "Z-03")
@pytest.mark.parametrize("offset", [0, 4, 6, 10, 11, 2**63 - 1])
async def test_another_offset_is_409_with_the_current_one_and_changes_nothing(client, offset):
    """PA-02."""
    path = await client.create(10)
    await client.patch(path, 0, b"hello")
    answer = await client.patch(path, offset, b"x")
    assert (answer.status, answer.offset) == (409, 5)
    assert "Upload-Expires" in answer.headers
    assert await client.offset(path) == 5


@pytest.mark.spec("PATCH-08")
async def test_an_unknown_upload_is_404(client):
    assert (await client.patch(UNKNOWN, 0, b"x")).status == 404


@pytest.mark.spec("PATCH-09", "EXP-03", "Z-04")
async def test_an_announced_overrun_is_413_before_the_body_is_read(client):
    """PA-08."""
    path = await client.create(10)
    async with client.connect() as connection:
        connection.send_head("PATCH", path, {**V, **CT, "Upload-Offset": "0", "Content-Length": "11000000"})
        answer = await connection.answer()
    assert answer.status == 413
    assert answer.headers["Connection"] == "close"
    assert "Upload-Expires" in answer.headers
    assert await client.offset(path) == 0


@pytest.mark.spec("PATCH-10")
async def test_a_chunked_overrun_is_413_and_nothing_of_it_is_kept(rig):
    """PA-08."""
    path = await rig.client.create(10)
    await rig.client.patch(path, 0, b"hello")
    answer = await rig.client.patch(path, 5, b"world!", chunked=True)
    assert answer.status == 413
    assert await rig.client.offset(path) == 5
    assert (await rig.row(path)).state is State.UPLOADING
    assert (await rig.client.patch(path, 5, b"world")).status == 204
    assert await rig.stored(path) == b"helloworld"


@pytest.mark.spec("PATCH-11")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [5, 10])
async def test_an_empty_body_at_the_offset_changes_nothing_and_succeeds(client, length, chunked):
    """PA-21."""
    path = await client.create(length)
    await client.patch(path, 0, b"hello")
    answer = await client.patch(path, 5, chunked=chunked)
    assert (answer.status, answer.offset) == (204, 5)


@pytest.mark.spec("PATCH-13")
@pytest.mark.parametrize("way", ["close", "half-close", "reset"])
async def test_what_arrived_before_the_client_vanished_is_kept(rig, way):
    """PA-09, I1, I2."""
    path = await rig.client.create(10 * MIB)
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, {**V, **CT, "Upload-Offset": "0", "Content-Length": str(10 * MIB)})
        connection.up.write(b"x" * 5120)
        if way == "reset":
            await rig.until_taken_in(5120)
            sock = connection.up.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            connection.up.transport.abort()
        elif way == "half-close":
            connection.up.write_eof()
            await connection.rest()

    async def is_kept() -> bool:
        offset: int = await rig.client.offset(path)
        return offset == 5120

    await until(is_kept)
    assert (await rig.client.patch(path, 5120, b"y" * (10 * MIB - 5120))).status == 204
    assert await rig.stored(path) == b"x" * 5120 + b"y" * (10 * MIB - 5120)


@pytest.mark.spec("PATCH-14")
async def test_a_body_that_stalls_is_ended_and_what_arrived_is_kept(start):
    rig = await start(WebConfig(idle_timeout=0.5))
    path = await rig.client.create(100)
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, {**V, **CT, "Upload-Offset": "0", "Content-Length": "100"})
        connection.up.write(b"hello")
        answer = await connection.answer()
    assert (answer.status, answer.offset) == (503, 5)
    assert answer.headers["Connection"] == "close"
    assert answer.body.startswith(b"client_stalled: ")
    assert (await rig.client.patch(path, 5, b"x")).status == 204


@pytest.mark.spec("PATCH-15")
async def test_more_bytes_for_a_complete_upload_are_413_and_another_offset_409(client):
    """PA-21."""
    path = await client.create(5)
    await client.patch(path, 0, b"hello")
    assert (await client.patch(path, 5, b"!")).status == 413
    assert (await client.patch(path, 5, b"!", chunked=True)).status == 413
    answer = await client.patch(path, 0, b"hello")
    assert (answer.status, answer.offset) == (409, 5)


@pytest.mark.spec("PATCH-17")
async def test_the_same_length_again_is_ignored_and_another_is_400(client):
    path = await client.create(10)
    assert (await client.patch(path, 0, b"a", {"Upload-Length": "10"})).status == 204
    answer = await client.patch(path, 1, b"b", {"Upload-Length": "11"})
    assert answer.status == 400
    assert answer.body.startswith(b"inconsistent_length: Upload-Length")
    head = await client.head(path)
    assert (head.offset, head.headers["Upload-Length"]) == (1, "10")


@pytest.mark.spec("PATCH-18")
async def test_concatenation_and_metadata_on_patch_are_ignored(client):
    path = await client.create(10)
    answer = await client.patch(path, 0, b"hello", {"Upload-Concat": "partial", "Upload-Metadata": "a !!!"})
    assert answer.status == 204
    assert "Upload-Metadata" not in (await client.head(path)).headers


@pytest.mark.spec("PATCH-19")
@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ({"Upload-Offset": "1"}, 409),
        ({"Tus-Resumable": "0.2"}, 412),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Length": "6"}, 413),
        ({"Upload-Checksum": "md4 x"}, 400),
    ],
)
async def test_a_refused_request_gets_no_100_continue(client, bad, status):
    """PA-12."""
    path = await client.create(5)
    fields = {**V, **CT, "Upload-Offset": "0", "Content-Length": "5", "Expect": "100-continue"} | bad
    async with client.connect() as connection:
        connection.send_head("PATCH", path, fields)
        answer = await connection.answer()
    assert (answer.status, answer.interim) == (status, [])
    assert answer.headers["Connection"] == "close"


@pytest.mark.spec("PATCH-19", "PATCH-12")
@pytest.mark.parametrize("payload", [b"hello", b""])
async def test_an_accepted_chunked_request_gets_100_continue_first(client, payload):
    """PA-12."""
    path = await client.create(5)
    fields = {**V, **CT, "Upload-Offset": "0", "Transfer-Encoding": "chunked", "Expect": "100-continue"}
    async with client.connect() as connection:
        connection.send_head("PATCH", path, fields)
        answering = asyncio.ensure_future(connection.answer())
        done, _ = await asyncio.wait([answering], timeout=0.3)
        assert not done
        if payload:
            connection.send_chunk(payload)
        connection.send_chunk(b"")
        answer = await answering
    assert (answer.status, answer.interim, answer.offset) == (204, [100], len(payload))


@pytest.mark.spec("PATCH-20")
async def test_a_patch_to_the_creation_url_is_405(client):
    answer = await client.request("PATCH", "/files", {**V, **CT, "Upload-Offset": "0"}, b"x")
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST, OPTIONS"


@pytest.mark.spec("PATCH-22")
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP", "gzip, identity"])
async def test_an_encoded_body_is_415_because_offsets_count_bytes_as_sent(client, encoding):
    path = await client.create(5)
    assert (await client.patch(path, 0, b"hello", {"Content-Encoding": encoding})).status == 415
    assert (await client.post({**CT, "Upload-Length": "5", "Content-Encoding": encoding}, b"hello")).status == 415
    assert await client.offset(path) == 0
    assert (await client.patch(path, 0, b"hello", {"Content-Encoding": "identity"})).status == 204


@pytest.mark.spec("PATCH-21")
async def test_acknowledged_bytes_survive_a_restart(start):
    before = await start()
    path = await before.client.create(10)
    assert (await before.client.patch(path, 0, b"hello")).status == 204
    await before.server.close()
    after = await start()
    assert await after.client.offset(path) == 5


async def test_a_drain_answers_503_with_the_offset_and_closes(rig):
    path = await rig.client.create(100)
    async with rig.client.connect() as connection:
        connection.send_head("PATCH", path, {**V, **CT, "Upload-Offset": "0", "Content-Length": "100"})
        connection.up.write(b"hello")
        await rig.until_taken_in(5)
        await rig.server.stop_accepting()
        await rig.writers.drain()
        answer = await connection.answer()
    assert (answer.status, answer.offset) == (503, 5)
    assert answer.headers["Connection"] == "close"
    assert int(answer.headers["Retry-After"]) > 0
    assert (await rig.row(path)).offset == 5


async def test_a_draining_server_refuses_new_writes_on_open_connections(rig):
    path = await rig.client.create(100)
    async with rig.client.connect() as connection:
        connection.send_head("HEAD", path, V)
        await connection.answer(to_head=True)
        await rig.server.stop_accepting()
        await rig.writers.drain()
        connection.send_head("PATCH", path, {**V, **CT, "Upload-Offset": "0", "Content-Length": "5"})
        connection.up.write(b"hello")
        assert (await connection.answer()).status == 503


async def test_patch_without_a_database_is_503(rig):
    path = await rig.client.create(5)
    await rig.database.close()
    answer = await rig.client.patch(path, 0, b"hello")
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.body.startswith(b"database_unavailable: ")


async def test_a_small_refused_body_does_not_cost_the_connection(client):
    path = await client.create(5)
    async with client.connect() as connection:
        for _ in range(3):
            connection.send_head("PATCH", path, {**V, **CT, "Upload-Offset": "9", "Content-Length": "1000"})
            connection.up.write(bytes(1000))
            assert (await connection.answer()).status == 409


async def test_smuggled_requests_are_never_executed(rig):
    path = await rig.client.create(5)
    inner = f"DELETE {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n".encode()
    for framing in (
        f"Content-Length: {len(inner)}\r\nTransfer-Encoding: chunked",
        f"Content-Length: 0\r\nContent-Length: {len(inner)}",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding : chunked",
    ):
        head = f"POST /files HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n{framing}\r\n\r\n"
        async with rig.client.connect() as connection:
            connection.up.write(head.encode() + b"0\r\n\r\n" + inner)
            assert (await connection.answer()).status in (400, 415)
            await connection.rest()
        assert (await rig.row(path)).state is State.UPLOADING
