"""An HTTP proxy before an S3 server that breaks exactly the call a test names, and remembers all of them.

    async with S3FaultProxy(minio.endpoint) as proxy:
        lost = proxy.on("CompleteMultipartUpload", DropAnswer(), nth=1)
        ...  # run the gateway with TUSGATE_S3_ENDPOINT = proxy.url
        assert lost.fired == 1
        assert proxy.history.count("HeadObject") == 1

Bodies stream through both ways. The Host header is passed on as it came, because the gateway has signed it. For
faults below HTTP put a TcpFaultProxy before or behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.fault.calls import Call, History
from tests.fault.tcp import reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

HOP_BY_HOP = frozenset(
    ("connection", "expect", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
NOT_OURS_TO_ADD = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


@dataclass
class Reply:
    """Answer in the place of S3, which never hears of the call. The request body is not read.

    Attributes:
        status: HTTP status.
        body: sent as it is; S3 errors are XML, see `s3_error`.
        headers: more response headers.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class ReplaceAnswer(Reply):
    """Let S3 do the call, then answer something else."""


@dataclass
class Drop:
    """Reset the connection without an answer; S3 never sees a whole request.

    Attributes:
        after: body bytes that still go to S3, whose connection is cut there too. None: S3 hears nothing at all.
    """

    after: int | None = None


@dataclass
class DropAnswer:
    """Let S3 do the call; then reset the connection instead of answering.

    Attributes:
        after: answer the status, the headers and so many bytes of the body, and end in the middle of it.
    """

    after: int | None = None


@dataclass
class Delay:
    """Wait so many seconds before the call goes on to S3. For order without clocks use Gate."""

    seconds: float


@dataclass
class Gate:
    """Stop the call until the test opens the gate; a gate that is never opened is a time-out.

    Attributes:
        before: stop before S3 hears of the call (`request`), or when S3 has answered (`answer`).
        reached: set when a call waits at the gate.
        opened: set to let the calls go on.
    """

    before: Literal["request", "answer"] = "request"
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Wait, as a call, until the gate is open."""
        self.reached.set()
        await self.opened.wait()

    def open(self) -> None:
        """Let all calls pass."""
        self.opened.set()


@dataclass
class FlipByte:
    """Flip all bits of one byte.

    Attributes:
        at: offset in the body.
        of: which body.
    """

    at: int
    of: Literal["request", "answer"] = "request"


@dataclass
class Hold:
    """Take the whole request, reset the connection, and give the request to S3 when the test says so.

    This is the packet that arrives late, after the sender has given up and done something else. The body is
    kept in memory.

    Attributes:
        taken: set when a request has been taken.
    """

    taken: asyncio.Event = field(default_factory=asyncio.Event)
    _send: Callable[[], asyncio.Task[int]] | None = None

    def take(self, send: Callable[[], asyncio.Task[int]]) -> None:
        """Keep what sends the request on; the latest one counts."""
        self._send = send
        self.taken.set()

    async def deliver(self) -> int | None:
        """Give the request to S3 and return its status. May be repeated: a duplicate.

        None when S3 reset the connection: it may refuse a large body before it has read all of it.
        """
        assert self._send is not None, "no request has been taken"
        try:
            return await self._send()
        except aiohttp.ClientOSError:
            return None


Fault = Reply | ReplaceAnswer | Drop | DropAnswer | Delay | Gate | FlipByte | Hold


def s3_error(status: int, code: str, message: str = "made by the fault proxy") -> Reply:
    """Return a Reply with the XML body that S3 sends for an error."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status, body.encode(), {"Content-Type": "application/xml"})


@dataclass
class Rule:
    """When to apply a fault. Build it by `S3FaultProxy.on`.

    Attributes:
        fired: how often it was applied: a test asserts it, so that it cannot pass without its fault.
    """

    kind: str
    fault: Fault
    nth: int | None
    times: int | None
    key: str | None
    under: str
    part: int | None
    seen: int = 0
    fired: int = 0

    def is_due(self, call: Call) -> bool:
        """Count the call if it is of the rule's kind; tell whether the fault is to be applied to it."""
        if self.kind not in ("*", call.kind) or self.key not in (None, call.key):
            return False
        if self.part not in (None, call.part) or not call.key.startswith(self.under):
            return False
        self.seen += 1
        if self.nth is not None:
            return self.nth <= self.seen < self.nth + (self.times or 1)
        return self.times is None or self.fired < self.times


class S3FaultProxy:
    """The proxy: rules in, history out.

    Attributes:
        url: what the gateway takes for its S3 endpoint.
        history: every call.
    """

    _CLOSE_SECONDS: ClassVar[float] = 0.1

    def __init__(self, target: str) -> None:
        self.url = ""
        self.history = History()
        self._target = target.rstrip("/")
        self._rules: list[Rule] = []
        self._sending: set[asyncio.Task[int]] = set()

    async def __aenter__(self) -> Self:
        # A new connection for each call, so that no call meets a kept one that the store has closed meanwhile.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._session._retry_connection = False  # else it repeats broken calls behind the history's back
        server = web.Server(self._serve, access_log=None, auto_decompress=False, lingering_time=1)
        self._runner = web.ServerRunner(server, shutdown_timeout=self._CLOSE_SECONDS)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open_gates()
        await self._runner.cleanup()
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._session.close()

    def on(
        self,
        kind: str,
        do: Fault,
        *,
        nth: int | None = None,
        times: int | None = None,
        key: str | None = None,
        under: str = "",
        part: int | None = None,
    ) -> Rule:
        """Add a rule; the first rule that applies to a call decides.

        Args:
            kind: an S3 operation such as `UploadPart`, or `*`.
            do: the fault.
            nth: apply to the nth matching call from now on, counted from 1, and to `times - 1` more (default 0).
            times: without `nth`: apply to so many matching calls, default all.
            key: match this object key only.
            under: match object keys that begin so.
            part: match this part number only.
        """
        rule = Rule(kind, do, nth, times, key, under, part)
        self._rules.append(rule)
        return rule

    def clear_rules(self) -> None:
        """Forget all rules: from now on nothing fails, and nothing waits at a gate."""
        self._open_gates()
        self._rules.clear()

    def _open_gates(self) -> None:
        for rule in self._rules:
            if isinstance(rule.fault, Gate):
                rule.fault.open()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        call = self.history.arrived(request.method, request.raw_path, request.headers)
        fault = self._fault_for(call)
        call.fault = type(fault).__name__ if fault else ""
        exchange = _Exchange(request, call, fault, self._session, self._target)
        try:
            return await self._apply(exchange, fault)
        except (aiohttp.ClientError, OSError, _Cut):
            return exchange.broken()
        finally:
            self.history.ended(call)

    def _fault_for(self, call: Call) -> Fault | None:
        due = [rule for rule in self._rules if rule.is_due(call)]  # all of them: each rule counts every call
        if not due:
            return None
        due[0].fired += 1
        return due[0].fault

    async def _apply(self, exchange: _Exchange, fault: Fault | None) -> web.StreamResponse:
        match fault:
            case ReplaceAnswer():
                await exchange.ask_and_discard()
                return exchange.answer(fault)
            case Reply():
                return exchange.answer(fault)
            case Drop(after=None):
                return exchange.broken()
            case DropAnswer(after=None):
                await exchange.ask_and_discard()
                return exchange.broken()
            case Hold():
                body = await exchange.whole_body()
                fault.take(lambda: self._send(exchange, body))
                return exchange.broken()
            case Delay():
                await asyncio.sleep(fault.seconds)
            case Gate(before="request"):
                await fault.wait()
            case _:
                pass  # these act on the bytes that pass
        return await exchange.pass_on()

    def _send(self, exchange: _Exchange, body: bytes) -> asyncio.Task[int]:
        task = asyncio.create_task(exchange.ask_and_discard(body))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task


class _Cut(Exception):
    """The connection to S3 ends here, on purpose."""


class _Exchange:
    """One request on its way to S3 and back."""

    def __init__(
        self,
        request: web.BaseRequest,
        call: Call,
        fault: Fault | None,
        session: aiohttp.ClientSession,
        target: str,
    ) -> None:
        self._request = request
        self._call = call
        self._fault = fault
        self._session = session
        self._url = URL(target + request.raw_path, encoded=True)

    def answer(self, reply: Reply) -> web.Response:
        self._call.status = reply.status
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    def broken(self) -> web.Response:
        """End the gateway's connection. The response is for aiohttp, nobody receives it."""
        self._call.status = None
        transport = self._request.transport
        if transport is not None and isinstance(self._fault, DropAnswer) and self._fault.after is not None:
            transport.close()  # a reset could overtake the bytes that are to arrive
        elif transport is not None:
            reset(transport)
        return web.Response()

    async def pass_on(self) -> web.StreamResponse:
        """Stream the request to S3 and its answer back."""
        async with self._ask(self._body()) as answer:
            if isinstance(self._fault, Gate) and self._fault.before == "answer":
                await self._fault.wait()
            response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=_end_to_end(answer.headers)
            )
            if "chunked" in answer.headers.get("Transfer-Encoding", ""):
                response.enable_chunked_encoding()
            await response.prepare(self._request)
            async for chunk in self._answer_body(answer):
                await response.write(chunk)
            await response.write_eof()
        self._call.status = answer.status
        return response

    async def ask_and_discard(self, body: bytes | None = None) -> int:
        """Give the request to S3 (with `body` when it was read before), read the whole answer, return its status."""
        async with self._ask(self._body() if body is None else io.BytesIO(body)) as answer:
            async for _ in answer.content.iter_any():
                pass
        return answer.status

    async def whole_body(self) -> bytes:
        await self._continue()
        chunks = [chunk async for chunk in self._request.content.iter_any()]
        self._call.received = sum(map(len, chunks))
        return b"".join(chunks)

    @contextlib.asynccontextmanager
    async def _ask(self, body: AsyncIterator[bytes] | io.BytesIO) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._session.request(
            self._request.method,
            self._url,
            headers=_end_to_end(self._request.headers),
            skip_auto_headers=NOT_OURS_TO_ADD,
            data=body if self._request.body_exists else None,
            allow_redirects=False,
        ) as answer:
            self._call.store_status = answer.status
            yield answer

    async def _body(self) -> AsyncIterator[bytes]:
        await self._continue()
        flip = self._fault.at if isinstance(self._fault, FlipByte) and self._fault.of == "request" else None
        cut = self._fault.after if isinstance(self._fault, Drop) else None
        async for chunk in self._request.content.iter_any():
            start = self._call.received
            self._call.received += len(chunk)
            if self._call.kind == "CompleteMultipartUpload":
                self._call.document += chunk
            if cut is not None and self._call.received > cut:
                yield chunk[: cut - start]
                raise _Cut
            yield _flipped(chunk, start, flip)
            self._call.forwarded += len(chunk)

    async def _answer_body(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        flip = self._fault.at if isinstance(self._fault, FlipByte) and self._fault.of == "answer" else None
        cut = self._fault.after if isinstance(self._fault, DropAnswer) else None
        sent = 0
        async for chunk in answer.content.iter_any():
            if cut is not None and sent + len(chunk) > cut:
                yield chunk[: cut - sent]
                raise _Cut
            yield _flipped(chunk, sent, flip)
            sent += len(chunk)

    async def _continue(self) -> None:
        if self._request.headers.get("Expect", "").lower() == "100-continue":
            assert self._request.transport is not None
            self._request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)


def _flipped(chunk: bytes, start: int, at: int | None) -> bytes:
    if at is None or not start <= at < start + len(chunk):
        return chunk
    place = at - start
    return b"".join((chunk[:place], bytes([chunk[place] ^ 0xFF]), chunk[place + 1 :]))
