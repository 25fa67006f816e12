"""The fault proxies break what they are told to break, and pass everything else on unchanged."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.fault.calls import read_call
from tests.fault.proxy import (
    Delay,
    Drop,
    DropAnswer,
    FlipByte,
    Gate,
    Hold,
    ReplaceAnswer,
    Reply,
    S3FaultProxy,
    s3_error,
)
from tests.fault.tcp import TcpFaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 1 << 20
PART = "/bucket/key?partNumber=3&uploadId=u"


@dataclass
class Store:
    """A small HTTP server that keeps what it is sent: stands where S3 stands, so that the proxy is tested alone."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    cut_off: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path, dict(request.headers)))
        if request.method in ("GET", "HEAD"):
            return await self._give(request)
        try:
            self.bodies[request.raw_path] = await request.content.read()
        except (aiohttp.ClientError, OSError):
            self.cut_off.set()
            raise
        return web.Response(body=b"stored", headers={"ETag": '"tag"'})

    async def _give(self, request: web.BaseRequest) -> web.StreamResponse:
        body = self.bodies.get(request.raw_path, b"")
        response = web.StreamResponse(headers={"ETag": '"tag"'})
        if "chunked" in request.raw_path:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(body)
        await response.prepare(request)
        if request.method == "GET":
            await response.write(body)
        await response.write_eof()
        return response


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = Store()
    runner = web.ServerRunner(web.Server(store.handle, access_log=None, auto_decompress=False))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    store.url = "http://{}:{}".format(*runner.addresses[0][:2])
    yield store
    await runner.cleanup()


@pytest.fixture
async def proxy(store: Store) -> AsyncIterator[S3FaultProxy]:
    async with S3FaultProxy(store.url) as proxy:
        yield proxy


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
        client._retry_connection = False  # else it repeats a broken PUT by itself, and the test counts two calls
        yield client


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


def the_body(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("PUT", "/b/k?partNumber=1&uploadId=u", "UploadPart"),
        ("PUT", "/b/k", "PutObject"),
        ("POST", "/b/k?uploads", "CreateMultipartUpload"),
        ("POST", "/b/k?uploadId=u", "CompleteMultipartUpload"),
        ("DELETE", "/b/k?uploadId=u", "AbortMultipartUpload"),
        ("DELETE", "/b/k", "DeleteObject"),
        ("POST", "/b?delete=", "DeleteObjects"),
        ("POST", "/b/?delete", "DeleteObjects"),
        ("GET", "/b/k?uploadId=u&max-parts=2", "ListParts"),
        ("GET", "/b?uploads&prefix=k", "ListMultipartUploads"),
        ("GET", "/b?list-type=2", "ListObjectsV2"),
        ("HEAD", "/b/k", "HeadObject"),
        ("HEAD", "/b", "HeadBucket"),
        ("GET", "/b/k?versionId=1", "GetObject"),
        ("GET", "/", "ListBuckets"),
        ("PATCH", "/b/k", "Other"),
    ],
)
def test_a_request_is_recognised_as_its_s3_operation(method: str, path: str, kind: str) -> None:
    assert read_call(method, path, {}, 1).kind == kind


def test_a_put_with_a_copy_source_is_a_copy() -> None:
    assert read_call("PUT", PART, {"x-amz-copy-source": "/b/other"}, 1).kind == "UploadPartCopy"


async def test_the_request_arrives_as_it_was_signed(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    headers = {"Host": "s3.example:9000", "Authorization": "AWS4-HMAC-SHA256 x", "Content-Encoding": "gzip"}
    path = "/bucket/a%20b%2Fc+d?x=%2F&y"
    async with client.put(URL(proxy.url + path, encoded=True), data=b"x" * 7, headers=headers):
        pass

    method, raw_path, received = store.requests[0]
    assert (method, raw_path) == ("PUT", path)
    assert headers.items() <= received.items()
    assert received["Content-Length"] == "7"
    assert "Accept-Encoding" in received  # the client's own
    assert store.bodies[path] == b"x" * 7


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("expect", [False, True])
async def test_a_body_passes_unchanged_with_either_framing(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession, chunked: bool, expect: bool
) -> None:
    body = the_body(3 * MIB + 7)
    headers = {} if chunked else {"Content-Length": str(len(body))}
    async with client.put(proxy.url + PART, data=pieces(body), headers=headers, expect100=expect) as answer:
        assert (answer.status, answer.headers["ETag"], await answer.read()) == (200, '"tag"', b"stored")

    assert store.bodies[PART] == body
    assert ("Transfer-Encoding" in store.requests[0][2]) is chunked
    call = proxy.history.of("UploadPart")[0]
    assert (call.bucket, call.key, call.part) == ("bucket", "key", 3)
    assert (call.received, call.forwarded, call.store_status, call.status) == (len(body), len(body), 200, 200)
    assert proxy.history.bytes_put == len(body)


@pytest.mark.parametrize("path", ["/bucket/plain", "/bucket/chunked"])
async def test_an_answer_passes_unchanged_with_either_framing(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession, path: str
) -> None:
    store.bodies[path] = the_body(2 * MIB)
    async with client.get(proxy.url + path) as answer:
        assert await answer.read() == store.bodies[path]
        assert ("Content-Length" in answer.headers) is (path == "/bucket/plain")


async def test_the_length_of_an_object_survives_a_head(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    store.bodies["/bucket/key"] = b"x" * 12345
    async with client.head(proxy.url + "/bucket/key") as answer:
        assert answer.headers["Content-Length"] == "12345"


async def test_an_empty_put_keeps_its_content_length(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    async with client.put(proxy.url + "/bucket/empty", headers={"Content-Length": "0"}):
        pass
    assert store.requests[0][2]["Content-Length"] == "0"
    assert store.bodies["/bucket/empty"] == b""


async def test_a_gateway_keeps_its_connection_over_calls(proxy: S3FaultProxy, client: aiohttp.ClientSession) -> None:
    host, port = URL(proxy.url).host, URL(proxy.url).port
    assert host
    assert port
    async with TcpFaultProxy(host, port) as link:
        for _ in range(3):
            assert await _status(client, f"http://{link.host}:{link.port}/bucket/key") == 200
    assert link.accepted == 1
    assert proxy.history.count("PutObject") == 3


async def test_a_reply_takes_the_place_of_the_nth_call_only(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    rule = proxy.on("UploadPart", s3_error(503, "SlowDown"), nth=2)
    statuses = []
    for _ in range(3):
        async with client.put(proxy.url + PART, data=b"x") as answer:
            statuses.append(answer.status)
            if answer.status == 503:
                assert b"<Code>SlowDown</Code>" in await answer.read()

    assert statuses == [200, 503, 200]
    assert len(store.requests) == 2
    assert (rule.seen, rule.fired) == (3, 1)
    assert [call.fault for call in proxy.history.of()] == ["", "Reply", ""]
    assert [call.store_status for call in proxy.history.of()] == [200, None, 200]


async def test_a_reply_comes_before_the_body_when_the_client_asks_first(
    proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    proxy.on("PutObject", Reply(403))
    async with client.put(proxy.url + "/bucket/key", data=b"x" * MIB, expect100=True) as answer:
        assert answer.status == 403
    assert proxy.history.bytes_put == 0


async def test_rules_can_name_a_key_and_a_part(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    proxy.on("*", Reply(503), key="other")
    proxy.on("UploadPart", Reply(503), part=4, times=1)

    async def put(path: str) -> int:
        async with client.put(proxy.url + path, data=b"x") as answer:
            return answer.status

    assert await put("/bucket/other") == 503
    assert await put(PART) == 200
    assert await put("/bucket/key?partNumber=4&uploadId=u") == 503
    assert await put("/bucket/key?partNumber=4&uploadId=u") == 200


async def test_a_replaced_answer_leaves_the_call_done(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    proxy.on("PutObject", ReplaceAnswer(500, b"<Error/>"))
    async with client.put(proxy.url + "/bucket/key", data=b"body") as answer:
        assert (answer.status, await answer.read()) == (500, b"<Error/>")
    assert store.bodies["/bucket/key"] == b"body"
    call = proxy.history.of()[0]
    assert (call.store_status, call.status) == (200, 500)


async def test_a_dropped_answer_leaves_the_call_done(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    proxy.on("UploadPart", DropAnswer())
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await client.put(proxy.url + PART, data=the_body(MIB))
    assert store.bodies[PART] == the_body(MIB)
    call = proxy.history.of()[0]
    assert (call.store_status, call.status, call.finished) == (200, None, True)


async def test_an_answer_can_end_in_the_middle(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    store.bodies["/bucket/key"] = the_body(MIB)
    proxy.on("GetObject", DropAnswer(after=1000))
    received = bytearray()
    with pytest.raises(aiohttp.ClientPayloadError):
        await read_into(received, client, proxy.url + "/bucket/key")
    assert received == store.bodies["/bucket/key"][:1000]


async def read_into(received: bytearray, client: aiohttp.ClientSession, url: str) -> None:
    async with client.get(url) as answer:
        async for chunk in answer.content.iter_any():
            received += chunk


async def test_a_dropped_call_never_reaches_the_store(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    proxy.on("UploadPart", Drop())
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await client.put(proxy.url + PART, data=b"x")
    assert store.requests == []


async def test_a_call_can_be_cut_in_the_middle_of_its_body(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    proxy.on("UploadPart", Drop(after=100_000))
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await client.put(proxy.url + PART, data=the_body(MIB))
    async with asyncio.timeout(10):
        await store.cut_off.wait()
    assert PART not in store.bodies


async def test_one_byte_can_be_flipped_on_the_way_to_the_store(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    body = the_body(MIB)
    proxy.on("UploadPart", FlipByte(at=300_000))
    async with client.put(proxy.url + PART, data=body):
        pass
    wrong = [i for i, (sent, kept) in enumerate(zip(body, store.bodies[PART], strict=True)) if sent != kept]
    assert wrong == [300_000]


async def test_one_byte_can_be_flipped_on_the_way_back(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    store.bodies["/bucket/key"] = b"abc"
    proxy.on("GetObject", FlipByte(at=1, of="answer"))
    async with client.get(proxy.url + "/bucket/key") as answer:
        assert await answer.read() == bytes([97, 98 ^ 0xFF, 99])


async def test_a_call_waits_at_a_gate_until_it_is_opened(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    gate = Gate()
    proxy.on("PutObject", gate)
    async with asyncio.TaskGroup() as tasks:
        put = tasks.create_task(_status(client, proxy.url + "/bucket/key"))
        await gate.reached.wait()
        assert store.requests == []
        assert not put.done()
        gate.open()
    assert put.result() == 200


async def test_an_answer_waits_at_a_gate_after_the_store_has_acted(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    gate = Gate(before="answer")
    proxy.on("PutObject", gate)
    async with asyncio.TaskGroup() as tasks:
        put = tasks.create_task(_status(client, proxy.url + "/bucket/key"))
        await gate.reached.wait()
        assert store.bodies["/bucket/key"] == b"body"
        assert not put.done()
        gate.open()
    assert put.result() == 200


async def test_calls_are_remembered_by_arrival_and_by_end(proxy: S3FaultProxy, client: aiohttp.ClientSession) -> None:
    gate = Gate()
    proxy.on("PutObject", gate, nth=1)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_status(client, proxy.url + "/bucket/first"))
        await gate.reached.wait()
        await _status(client, proxy.url + "/bucket/second")
        gate.open()
    first, second = proxy.history.of("PutObject")
    assert (first.key, first.order, first.finished_order) == ("first", 1, 2)
    assert (second.key, second.order, second.finished_order) == ("second", 2, 1)


async def test_a_held_call_is_delivered_late_and_twice(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    hold = Hold()
    proxy.on("UploadPart", hold, nth=1)
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await client.put(proxy.url + PART, data=b"old")
    async with client.put(proxy.url + PART, data=b"new"):
        pass
    assert store.bodies[PART] == b"new"

    assert await hold.deliver() == 200
    assert store.bodies[PART] == b"old"
    assert await hold.deliver() == 200
    assert len(store.requests) == 3


async def test_a_delayed_call_still_arrives(store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession) -> None:
    rule = proxy.on("PutObject", Delay(0.01))
    assert await _status(client, proxy.url + "/bucket/key") == 200
    assert rule.fired == 1


async def test_a_store_that_is_away_is_a_broken_connection_to_the_gateway(
    client: aiohttp.ClientSession, unused_tcp_port: int
) -> None:
    async with S3FaultProxy(f"http://127.0.0.1:{unused_tcp_port}") as proxy:
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await client.get(proxy.url + "/bucket/key")
        assert proxy.history.of()[0].store_status is None


async def test_a_big_body_is_not_collected_by_the_proxy(
    store: Store, proxy: S3FaultProxy, client: aiohttp.ClientSession
) -> None:
    arrived = asyncio.Event()

    async def endless_until_seen() -> AsyncIterator[bytes]:
        while not arrived.is_set():
            yield b"x" * 65536
            if proxy.history.calls and proxy.history.calls[0].forwarded > MIB:
                arrived.set()

    async with asyncio.timeout(20), client.put(proxy.url + PART, data=endless_until_seen()) as answer:
        assert answer.status == 200
    assert len(store.bodies[PART]) == proxy.history.bytes_put > MIB


async def _status(client: aiohttp.ClientSession, url: str) -> int:
    async with client.put(url, data=b"body") as answer:
        return answer.status


class Echo:
    """Sends back what it receives; remembers how each connection ended."""

    def __init__(self) -> None:
        self.received = 0
        self.endings: asyncio.Queue[str] = asyncio.Queue()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65536):
                self.received += len(chunk)
                writer.write(chunk)
                await writer.drain()
            self.endings.put_nowait("end")
        except OSError:
            self.endings.put_nowait("reset")
        finally:
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()


@pytest.fixture
async def link(echo: Echo) -> AsyncIterator[TcpFaultProxy]:
    async with TcpFaultProxy("127.0.0.1", echo.port) as link:
        yield link


@contextlib.asynccontextmanager
async def connected(link: TcpFaultProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(link.host, link.port)
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()


async def test_tcp_passes_both_ways_and_ends_in_good_order(echo: Echo, link: TcpFaultProxy) -> None:
    link.latency, link.bandwidth, link.slow_close = 0.001, 100 * MIB, 0.001
    body = the_body(MIB)
    async with connected(link) as (reader, writer):
        sending = asyncio.create_task(_send(writer, body))
        received = await reader.read(-1)
        await sending
    assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()
    assert link.passed == {"up": MIB, "down": MIB}
    assert await echo.endings.get() == "end"


async def _send(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(body)
    await writer.drain()
    writer.write_eof()


async def test_a_connection_is_cut_after_the_exact_byte_upwards(echo: Echo, link: TcpFaultProxy) -> None:
    link.cut("up", after=100_000, how="close")
    async with connected(link) as (_, writer):
        writer.write(b"x" * 200_000)
        await echo.endings.get()
    assert echo.received == 100_000
    assert link.passed["up"] == 100_000


async def test_a_connection_is_cut_after_the_exact_byte_downwards(link: TcpFaultProxy) -> None:
    cut = link.cut("down", after=1000, how="close")
    async with connected(link) as (reader, writer):
        writer.write(b"x" * 5000)
        assert len(await reader.read(-1)) == 1000
    assert cut.times == 0
    async with connected(link) as (reader, writer):
        writer.write(b"x" * 5000)
        assert len(await reader.readexactly(5000)) == 5000


async def test_a_reset_reaches_both_sides(echo: Echo, link: TcpFaultProxy) -> None:
    async with connected(link) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        link.end_all("reset")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
    assert await echo.endings.get() == "reset"


async def test_a_frozen_link_hides_data_and_the_end_of_the_client(echo: Echo, link: TcpFaultProxy) -> None:
    async with connected(link) as (reader, writer):
        link.freeze()
        writer.write(b"x" * 10)
        writer.write_eof()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        assert echo.received == 0
        assert echo.endings.empty()
        link.thaw()
        assert await reader.read(-1) == b"x" * 10


async def test_a_link_that_is_down_refuses_and_comes_back_on_its_port(link: TcpFaultProxy) -> None:
    port = link.port
    async with connected(link) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        await link.down()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection(link.host, port)
    await link.up()
    assert link.port == port
    async with connected(link) as (reader, writer):
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
    assert link.accepted == 2


async def test_a_target_that_is_away_resets_the_client(unused_tcp_port: int) -> None:
    async with TcpFaultProxy("127.0.0.1", unused_tcp_port) as link, connected(link) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
