"""The double as a server on a port of its own, with a history and the faults that only the inside of a store has.

    async with S3Double(MINIO) as double:
        bucket = double.make_bucket("bucket")
        ...  # run the gateway with TUSGATE_S3_ENDPOINT = double.url
        double.advance(24 * HOUR)
        assert not bucket.multiparts
        assert double.count("AbortMultipartUpload") == 0

It runs on the loop of the test: blocking clients belong in a thread. A request takes effect in one step, when its
whole body has arrived.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn, Self

from aiohttp import web

from tests.doubles.s3 import signature, xml
from tests.doubles.s3.behaviour import AWS, Behaviour
from tests.doubles.s3.bucket import LARGEST_PART
from tests.doubles.s3.errors import Refused
from tests.doubles.s3.operations import Account, Asked, Told
from tests.fault.calls import read_call
from tests.servers.process import free_port
from tests.servers.s3 import REGION, S3Server

if TYPE_CHECKING:
    import signal
    from collections.abc import Coroutine
    from types import TracebackType

    from tests.doubles.s3.bucket import Bucket
    from tests.fault.calls import Call

LONGEST_REFUSED = 64 << 20
"""Bytes of a refused request that are read before it is answered."""
KEEP_ALIVE = b"  \n" * 8
"""White space that a Complete sends before its result."""
_TAKE_LONG = frozenset({"CompleteMultipartUpload", "UploadPartCopy"})
"""Operations that begin to answer before they are done."""
_IN_A_200 = frozenset({"InternalError", "InvalidPart", "InvalidPartOrder", "EntityTooSmall", "BadDigest"})
"""Errors that they find out when they have begun to answer."""


@dataclass(frozen=True)
class Served:
    """One call, as the store saw it.

    Attributes:
        call: kind, address, order of arrival, and what a Complete listed.
        size: bytes of the request body.
        status: what was answered; None when the body broke off, which changed nothing.
        code: S3 error code, empty for a success; with status 200 the error stood inside.
        etag: of what a success made or showed.
    """

    call: Call
    size: int
    status: int | None
    code: str = ""
    etag: str = ""

    @property
    def upload_id(self) -> str:
        """The multipart upload that the call is about, empty for none."""
        return self.call.query.get("uploadId", "")

    @property
    def succeeded(self) -> bool:
        """Whether the caller was told of a success."""
        return self.status is not None and self.status < 300 and not self.code


@dataclass
class Obstacle:
    """Completes that fail inside of the store.

    Attributes:
        left: how many still will.
        done: the object is made all the same.
    """

    left: int
    done: bool


class S3Double:
    """The server. Enter it to have it listen.

    Args:
        behaviour: whose habits it has.
        region: that requests must be signed for.

    Attributes:
        url: its address, the same over restarts.
        access_key, secret_key: the key that it knows from the start.
        gate: who may come in; tests change its keys and its clock.
        buckets: by name; tests look into them.
        history: every call in the order in which they took effect.
        loop: that it runs on.
    """

    _CLOSE_SECONDS: ClassVar[float] = 0.1

    def __init__(self, behaviour: Behaviour = AWS, region: str = REGION) -> None:
        self.behaviour = behaviour
        self.region = region
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.access_key, self.secret_key = f"double{secrets.token_hex(6)}", secrets.token_hex(20)
        self.gate = signature.Gate(region, time.time, takes_unsigned_fields=behaviour.takes_unsigned_fields)
        self.gate.keys[self.access_key] = signature.Key(self.secret_key)
        self.history: list[Served] = []
        self._advanced = 0.0
        self._account = Account(behaviour, region, self.now)
        self.buckets = self._account.buckets
        self._arrived = 0
        self._obstacle = Obstacle(0, done=False)
        self._running = asyncio.Event()
        self._running.set()
        self._runner: web.ServerRunner | None = None
        self.loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def now(self) -> float:
        """Return the seconds since 1970 by the clock that ages are counted with."""
        return time.time() + self._advanced

    def advance(self, seconds: float) -> None:
        """Let time pass for what lies in the store, and sweep what has become too old.

        The clock that signatures are held against stays: the other side has not moved.
        """
        self._advanced += seconds
        for bucket in self.buckets.values():
            bucket.sweep()

    def make_bucket(self, name: str = "bucket") -> Bucket:
        """Make an empty bucket."""
        return self._account.make_bucket(name)

    def as_server(self) -> S3Server:
        """Return what a test knows of any S3 server; its blocking methods work from other threads only."""
        return S3Server(self.url, self.access_key, self.secret_key, _Power(self), self.region)

    def of(self, *kinds: str) -> list[Served]:
        """Return the calls of these kinds, or all of them without kinds."""
        return [served for served in self.history if not kinds or served.call.kind in kinds]

    def count(self, *kinds: str) -> int:
        """Return how many calls of these kinds were served, or of all kinds."""
        return len(self.of(*kinds))

    def fail_completes(self, times: int, *, done: bool = False) -> None:
        """Answer the next `times` Completes with InternalError; `done`: after the object was made."""
        self._obstacle = Obstacle(times, done)

    async def start(self) -> None:
        """Listen. No-op when it does."""
        if self._runner is None:
            self.loop = asyncio.get_running_loop()
            server = web.Server(self._serve, access_log=None, auto_decompress=False, lingering_time=1)
            runner = web.ServerRunner(server, shutdown_timeout=self._CLOSE_SECONDS)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self._runner = runner

    async def stop(self) -> None:
        """Stop listening, break all connections, and lose what a restart loses. What is stored stays."""
        self._running.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        for bucket in self.buckets.values():
            bucket.forget()

    async def restart(self) -> None:
        """Stop and start again."""
        await self.stop()
        await self.start()

    def pause(self) -> None:
        """Take requests and do nothing."""
        self._running.clear()

    def resume(self) -> None:
        """Go on with all requests."""
        self._running.set()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self._arrived += 1
        order = self._arrived
        await self._running.wait()
        try:
            call = read_call(request.method, request.raw_path, request.headers, order)
        except ValueError:  # a part number that is none
            return await self._answer(request, _told(Refused("InvalidArgument", "partNumber")))
        try:
            body = await self._admitted_body(request, call)
        except (ConnectionError, web.RequestPayloadError):
            self.history.append(Served(call, call.received, None))
            return web.Response()  # for aiohttp: nobody is there to receive it
        except Refused as refusal:
            self.history.append(Served(call, call.received, refusal.status, refusal.code))
            return await self._answer(request, _told(refusal))
        return await self._do(request, call, body)

    async def _admitted_body(self, request: web.BaseRequest, call: Call) -> bytes:
        """Return the body of a request that may come in and arrived as it was signed."""
        try:
            payload = self._admit(request)
        except Refused:
            if not _expects(request) and (request.content_length or 0) <= LONGEST_REFUSED:
                async for _ in request.content.iter_any():  # else who still sends may not see the answer
                    pass
            raise
        if _expects(request):
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunks = []
        async for chunk in request.content.iter_any():
            chunks.append(chunk)
            call.received += len(chunk)
        body = b"".join(chunks)
        if payload not in (signature.UNSIGNED, hashlib.sha256(body).hexdigest()):
            raise Refused("XAmzContentSHA256Mismatch", "the body is not the one that was signed")
        return body

    def _admit(self, request: web.BaseRequest) -> str:
        payload = self.gate.admit(request.method, request.raw_path, request.headers)
        if request.method == "PUT" and request.content_length is None:
            raise Refused("MissingContentLength", "the size is not announced")
        if (request.content_length or 0) > LARGEST_PART:
            raise Refused("EntityTooLarge", f"{request.content_length} bytes")
        return payload

    async def _do(self, request: web.BaseRequest, call: Call, body: bytes) -> web.StreamResponse:
        asked = Asked(call.kind, call.bucket, call.key, call.query, request.headers, body)
        completes = call.kind == "CompleteMultipartUpload"
        call.document = body if completes else b""
        code = ""
        try:
            told = self._complete(asked) if completes else self._account.do(asked)
        except Refused as refusal:
            code, told = refusal.code, _told(refusal)
        takes_long = call.kind in _TAKE_LONG
        in_a_200 = takes_long and self.behaviour.keeps_alive and (not code or code in _IN_A_200)
        status = 200 if in_a_200 else told.status
        etag = told.headers.get("ETag", "").strip('"')
        self.history.append(Served(call, len(body), status, code, etag))
        return await (self._answer_slowly(request, told) if in_a_200 else self._answer(request, told))

    def _complete(self, asked: Asked) -> Told:
        if not self._obstacle.left:
            return self._account.do(asked)
        self._obstacle.left -= 1
        if self._obstacle.done:
            self._account.do(asked)
        raise Refused("InternalError", "we encountered an internal error, please try again")

    async def _answer(self, request: web.BaseRequest, told: Told) -> web.StreamResponse:
        body = xml.DECLARATION + told.body if told.headers.get("Content-Type") == "application/xml" else told.body
        response = web.StreamResponse(status=told.status, headers=told.headers)
        if told.status != 204:
            response.content_length = len(body) if told.length is None else told.length
        await response.prepare(request)
        if body and request.method != "HEAD":
            await response.write(body)
        await response.write_eof()
        return response

    async def _answer_slowly(self, request: web.BaseRequest, told: Told) -> web.StreamResponse:
        """Say 200, keep the connection alive with white space, and then what became of it."""
        response = web.StreamResponse(headers={"Content-Type": "application/xml"})
        await response.prepare(request)
        await response.write(xml.DECLARATION + KEEP_ALIVE)
        await response.write(told.body)
        await response.write_eof()
        return response


class _Power:
    """Stops and starts a double from another thread, as if it were a process."""

    def __init__(self, double: S3Double) -> None:
        self._double = double

    @property
    def pid(self) -> NoReturn:
        raise NotImplementedError("it is no process of its own")

    def start(self) -> None:
        self._do(self._double.start())

    def stop(self, how: signal.Signals | None = None) -> None:
        self._do(self._double.stop())

    def kill(self) -> None:
        self._do(self._double.stop())

    def pause(self) -> None:
        self._double.loop.call_soon_threadsafe(self._double.pause)

    def resume(self) -> None:
        self._double.loop.call_soon_threadsafe(self._double.resume)

    def log(self) -> str:
        return "\n".join(
            f"{served.call.method} {served.call.bucket}/{served.call.key} {served.call.kind} part={served.call.part}"
            f" {served.size} bytes: {served.status} {served.code}"
            for served in self._double.history[-200:]
        )

    def _do(self, work: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._double.loop).result()


def _told(refusal: Refused) -> Told:
    return Told(refusal.status, {"Content-Type": "application/xml"}, xml.error(refusal.code, refusal.message))


def _expects(request: web.BaseRequest) -> bool:
    return request.headers.get("Expect", "").lower() == "100-continue"
