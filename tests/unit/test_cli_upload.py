"""`tusgate upload` against a tus server that misbehaves on request: what is retried, resumed, begun anew, given up."""

from __future__ import annotations

import base64
import io
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from tusgate.cli.resume import Fingerprint, ResumeStore
from tusgate.cli.sending import TransferError
from tusgate.cli.transfer import Plan, upload_file, upload_stream
from tusgate.cli.tus_client import TusClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAYLOAD = bytes(range(256)) * 4000
PLAN = Plan(chunk_size=None, retries=3, metadata={}, first_pause=0.001)


@dataclass
class Stored:
    length: int | None
    metadata: str | None
    data: bytearray = field(default_factory=bytearray)


class StrictTusServer:
    """tus 1.0.0 in memory, for clients only: what the protocol forbids it refuses; `faults` answer first, in order.

    Attributes:
        faults: method and what to do with its next request.
        requests: method of every request that came.
    """

    def __init__(self) -> None:
        self.uploads: dict[str, Stored] = {}
        self.faults: deque[tuple[str, Fault]] = deque()
        self.requests: list[str] = []
        self.app = web.Application()
        self.app.router.add_route("*", "/tus/{id:.*}", self._serve)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.method)
        if self.faults and self.faults[0][0] == request.method:
            return await self.faults.popleft()[1](request)
        if request.headers.get("Tus-Resumable") != "1.0.0":
            raise web.HTTPPreconditionFailed
        if request.method == "POST":
            return self._create(request)
        upload = self.uploads.get(request.match_info["id"])
        if upload is None:
            raise web.HTTPNotFound
        return self._head(upload) if request.method == "HEAD" else await self._append(request, upload)

    def _create(self, request: web.Request) -> web.Response:
        length, deferred = request.headers.get("Upload-Length"), request.headers.get("Upload-Defer-Length")
        if (length is None) == (deferred != "1"):
            raise web.HTTPBadRequest
        name = f"u{len(self.uploads)}"
        self.uploads[name] = Stored(int(length) if length else None, request.headers.get("Upload-Metadata"))
        return web.Response(status=201, headers={"Location": f"/tus/{name}"})

    def _head(self, upload: Stored) -> web.Response:
        length = {"Upload-Defer-Length": "1"} if upload.length is None else {"Upload-Length": str(upload.length)}
        return web.Response(headers={"Upload-Offset": str(len(upload.data)), **length})

    async def _append(self, request: web.Request, upload: Stored) -> web.Response:
        if request.headers["Content-Type"] != "application/offset+octet-stream":
            raise web.HTTPUnsupportedMediaType
        if int(request.headers["Upload-Offset"]) != len(upload.data):
            raise web.HTTPConflict
        declared = request.headers.get("Upload-Length")
        if declared is not None:
            assert upload.length in {None, int(declared)}
            upload.length = int(declared)
        async for chunk in request.content.iter_any():
            upload.data += chunk
        assert upload.length is None or len(upload.data) <= upload.length
        return web.Response(status=204, headers={"Upload-Offset": str(len(upload.data))})

    def fail_next(self, method: str, fault: Fault) -> None:
        self.faults.append((method, fault))


def status(code: int, **headers: str) -> Fault:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers=headers, text="because\nof a test")

    return answer


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def keep_then_hang_up(server: StrictTusServer, name: str, count: int) -> Fault:
    """Store the next `count` bytes of the upload, as a server does whose client's network breaks."""

    async def fault(request: web.Request) -> web.StreamResponse:
        server.uploads[name].data += await request.content.readexactly(count)
        return await hang_up(request)

    return fault


@dataclass
class Seen:
    moves: list[int] = field(default_factory=list)
    waits: list[tuple[float, str]] = field(default_factory=list)

    def moved(self, offset: int) -> None:
        self.moves.append(offset)

    def waiting(self, seconds: float, reason: str) -> None:
        self.waits.append((seconds, reason))


def rewrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def content(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def server() -> StrictTusServer:
    return StrictTusServer()


@pytest.fixture
async def client(server: StrictTusServer) -> AsyncIterator[TusClient]:
    runner = web.AppRunner(server.app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        yield TusClient(session, f"http://127.0.0.1:{port}/tus/")
    await runner.cleanup()


@pytest.fixture
def store(tmp_path: Path) -> ResumeStore:
    return ResumeStore("http://any/tus/", tmp_path / "state")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "Füße.bin"
    file.write_bytes(PAYLOAD)
    return file


async def test_a_file_arrives_whole_with_its_name(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    seen = Seen()
    url = await upload_file(client, path, Plan(None, 0, {"kind": "test", "flag": ""}), store, seen)
    assert url.endswith("/tus/u0")
    assert server.uploads["u0"].data == PAYLOAD
    assert server.requests == ["POST", "PATCH"]
    assert seen.moves == sorted(seen.moves)
    assert seen.moves[-1] == len(PAYLOAD)
    name = base64.b64encode("Füße.bin".encode()).decode()
    assert server.uploads["u0"].metadata == f"filename {name},kind dGVzdA==,flag"


@pytest.mark.parametrize("size", [1, len(PAYLOAD) - 1, len(PAYLOAD), len(PAYLOAD) + 1, 300_000])
async def test_chunks_of_any_size_make_the_same_file(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path, size: int
) -> None:
    rewrite(path, PAYLOAD[:20] if size == 1 else PAYLOAD)
    await upload_file(client, path, Plan(size, 0, {}), store, Seen())
    assert server.uploads["u0"].data == content(path)
    assert server.requests.count("PATCH") == -(-len(content(path)) // size)


async def test_an_empty_file_needs_no_patch(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    rewrite(path, b"")
    await upload_file(client, path, PLAN, store, Seen())
    assert server.requests == ["POST"]
    assert server.uploads["u0"].length == 0


@pytest.mark.parametrize("fault", [*map(status, (409, 423, 429, 500, 503)), hang_up])
async def test_a_passing_failure_of_a_patch_is_asked_about_and_continued(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path, fault: Fault
) -> None:
    server.fail_next("PATCH", fault)
    seen = Seen()
    await upload_file(client, path, PLAN, store, seen)
    assert server.uploads["u0"].data == PAYLOAD
    assert server.requests == ["POST", "PATCH", "HEAD", "PATCH"]
    assert len(seen.waits) == 1


async def test_bytes_that_arrived_before_a_cut_are_not_sent_again(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    server.fail_next("PATCH", keep_then_hang_up(server, "u0", 5000))
    seen = Seen()
    await upload_file(client, path, PLAN, store, seen)
    assert server.uploads["u0"].data == PAYLOAD
    assert 5000 in seen.moves


async def test_failures_of_create_and_head_are_tried_again(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    for method in ("POST", "POST", "PATCH", "HEAD"):
        server.fail_next(method, status(503))
    await upload_file(client, path, PLAN, store, Seen())
    assert server.requests == ["POST", "POST", "POST", "PATCH", "HEAD", "HEAD", "PATCH"]


async def test_the_wait_that_the_server_asks_for_is_kept(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    server.fail_next("PATCH", status(503, **{"Retry-After": "1"}))
    seen = Seen()
    await upload_file(client, path, PLAN, store, seen)
    assert seen.waits == [(1.0, "the server refused: 503 Service Unavailable (because)")]


async def test_it_gives_up_after_tries_without_progress_and_keeps_the_url(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    server.fail_next("PATCH", status(503))
    for _ in range(3):
        server.fail_next("HEAD", status(503))
    with pytest.raises(TransferError, match="given up after 4 tries without progress"):
        await upload_file(client, path, PLAN, store, Seen())
    assert store.url_of(Fingerprint.of(path)) is not None


async def test_progress_makes_the_tries_count_anew(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    for _ in range(10):
        server.fail_next("PATCH", keep_then_hang_up(server, "u0", 1000))
    await upload_file(client, path, Plan(None, 1, {}, 0.001), store, Seen())
    assert server.uploads["u0"].data == PAYLOAD


@pytest.mark.parametrize("code", [400, 401, 403, 412, 413, 415])
async def test_a_refusal_is_final_and_told_with_the_servers_words(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path, code: int
) -> None:
    server.fail_next("POST", status(code))
    with pytest.raises(TransferError, match=rf"the server refused: {code} .*\(because\)$"):
        await upload_file(client, path, PLAN, store, Seen())
    assert server.requests == ["POST"]


async def test_a_later_command_goes_on_where_the_last_one_stopped(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    server.fail_next("PATCH", keep_then_hang_up(server, "u0", 70_000))
    with pytest.raises(TransferError):
        await upload_file(client, path, Plan(None, 0, {}), store, Seen())
    seen = Seen()
    await upload_file(client, path, PLAN, store, seen)
    assert list(server.uploads) == ["u0"]
    assert server.uploads["u0"].data == PAYLOAD
    assert seen.moves[0] == 70_000
    assert store.url_of(Fingerprint.of(path)) is None


@pytest.mark.parametrize("code", [403, 404, 410])
async def test_an_upload_that_the_server_forgot_is_begun_anew(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path, code: int
) -> None:
    store.remember(Fingerprint.of(path), await client.create(len(PAYLOAD), {}))
    server.fail_next("HEAD", status(code))
    await upload_file(client, path, PLAN, store, Seen())
    assert server.uploads["u1"].data == PAYLOAD


async def test_a_changed_file_is_a_new_upload(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    store.remember(Fingerprint.of(path), await client.create(len(PAYLOAD), {}))
    rewrite(path, PAYLOAD[::-1] + b"!")
    await upload_file(client, path, PLAN, store, Seen())
    assert server.uploads["u1"].data == content(path)
    assert "HEAD" not in server.requests


async def test_a_file_that_changes_meanwhile_is_an_error_and_not_a_mixture(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    async def change(request: web.Request) -> web.StreamResponse:
        server.uploads["u0"].data += await request.read()
        rewrite(path, b"short")
        return web.Response(status=204, headers={"Upload-Offset": str(len(server.uploads["u0"].data))})

    server.fail_next("PATCH", change)
    with pytest.raises(TransferError, match="changed while it was being uploaded"):
        await upload_file(client, path, Plan(100_000, 3, {}), store, Seen())
    assert len(server.uploads["u0"].data) == 100_000


@pytest.mark.parametrize("data", [b"short", PAYLOAD[::-1], PAYLOAD + b"longer"])
async def test_a_file_that_changes_during_its_only_request_never_completes(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path, data: bytes
) -> None:
    class Changing(Seen):
        def moved(self, offset: int) -> None:
            if offset and content(path) == PAYLOAD:
                rewrite(path, data)

    with pytest.raises(TransferError, match="changed while it was being uploaded"):
        await upload_file(client, path, PLAN, store, Changing())
    assert len(server.uploads["u0"].data) < len(PAYLOAD)


@pytest.mark.parametrize("answer", [{}, {"Upload-Offset": "-1"}, {"Upload-Offset": "99999999"}])
async def test_a_server_that_makes_no_sense_is_not_believed(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path, answer: dict[str, str]
) -> None:
    server.fail_next("PATCH", status(204, **answer))
    with pytest.raises(TransferError):
        await upload_file(client, path, PLAN, store, Seen())


async def test_lost_bytes_are_noticed(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    async def lose(request: web.Request) -> web.StreamResponse:
        server.uploads["u0"].data.clear()
        return await hang_up(request)

    async def take(request: web.Request) -> web.StreamResponse:
        server.uploads["u0"].data += await request.read()
        return web.Response(status=204, headers={"Upload-Offset": "100000"})

    server.fail_next("PATCH", take)
    server.fail_next("PATCH", lose)
    with pytest.raises(TransferError, match="the server lost bytes: it had 100000 and says 0 now"):
        await upload_file(client, path, Plan(100_000, 3, {}, 0.001), store, Seen())


async def test_a_page_that_is_no_tus_server_is_told_apart(
    server: StrictTusServer, client: TusClient, store: ResumeStore, path: Path
) -> None:
    server.fail_next("POST", status(200))
    with pytest.raises(TransferError, match="does not answer like a tus server"):
        await upload_file(client, path, PLAN, store, Seen())


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 3000])
async def test_a_stream_arrives_whole_and_its_length_is_told_at_the_end(
    server: StrictTusServer, client: TusClient, size: int
) -> None:
    await upload_stream(client, io.BytesIO(PAYLOAD[:size]), Plan(1000, 0, {}), Seen())
    assert server.uploads["u0"].data == PAYLOAD[:size]
    assert server.uploads["u0"].length == size


async def test_a_stream_survives_a_cut_inside_a_block(server: StrictTusServer, client: TusClient) -> None:
    for count in (300, 500):
        server.fail_next("PATCH", keep_then_hang_up(server, "u0", count))
    await upload_stream(client, io.BytesIO(PAYLOAD[:2500]), Plan(1000, 3, {}, 0.001), Seen())
    assert server.uploads["u0"].data == PAYLOAD[:2500]


def test_what_is_remembered_is_for_the_owner_only(store: ResumeStore, path: Path, tmp_path: Path) -> None:
    store.remember(Fingerprint.of(path), "http://any/tus/secret")
    (entry,) = (tmp_path / "state").iterdir()
    assert entry.stat().st_mode & 0o077 == 0
    assert entry.parent.stat().st_mode & 0o077 == 0


def test_another_endpoint_has_uploads_of_its_own(store: ResumeStore, path: Path, tmp_path: Path) -> None:
    store.remember(Fingerprint.of(path), "http://any/tus/1")
    assert ResumeStore("http://other/tus/", tmp_path / "state").url_of(Fingerprint.of(path)) is None


def test_a_damaged_entry_counts_as_none(store: ResumeStore, path: Path, tmp_path: Path) -> None:
    store.remember(Fingerprint.of(path), "http://any/tus/1")
    (entry,) = (tmp_path / "state").iterdir()
    for text in ("", "{", "[]", "{}", '{"file": 1, "url": 2}'):
        entry.write_text(text)
        assert store.url_of(Fingerprint.of(path)) is None
