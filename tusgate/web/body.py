"""The body of one request as a `ByteSource`, and the watch that ends bodies which stall.

Rule 1: the socket is read only while the service waits for bytes. A request that waits for memory holds no read
buffer beside what it has been given, and TCP pushes back on its client.
Rule 2: what has arrived is handed out before the end of a broken connection is reported, so that it can be kept.
Rule 3: time counts against a client only while we wait for it, not while it waits for us.
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, Self

from aiohttp import web

from tusgate.core.errors import ClientGone, ClientStalled, TooLarge
from tusgate.web.connections import BODY_READ, Connection
from tusgate.web.interim import awaits_continue, send_interim

if TYPE_CHECKING:
    from types import TracebackType

    from tusgate.ports import ByteSource

_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
"""What the kernel says of a connection whose other side has ended it; POLLRDHUP (half of it) is Linux only."""
TICK = 1.0
"""Seconds between two looks of the watch; the precision of its deadlines."""


class RequestBody:
    """A `ports.ByteSource` over aiohttp's request. Enter it; leaving gives the connection back to aiohttp.

    Reading after the block is an error. A cancelled `read` loses nothing.
    """

    def __init__(self, request: web.Request, watch: BodyWatch) -> None:
        self.size = announced_size(request)
        self._request = request
        self._content = request.content
        self._watch = watch
        self._error: Exception | None = None
        self._awaits_continue = awaits_continue(request)
        self.is_waiting = False
        """Whether a `read` is waiting for the client."""

    def __enter__(self) -> Self:
        if not self._content.is_eof():
            self._pause()
            self._watch.add(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.discard(self)
        if self._error is not None and self._content.exception() is self._error:
            # aiohttp reads on for a moment so that the client sees the answer; our error would end that early.
            self._content.set_exception(None)  # type: ignore[arg-type] # the way to clear it
        if not self._content.is_eof():
            self._resume()

    @property
    def received(self) -> int:
        """Bytes that have arrived so far."""
        return self._content.total_bytes

    @property
    def is_abandoned(self) -> bool:
        """See `ports.ByteSource.is_abandoned`. The kernel is asked: nobody reads from a paused socket."""
        return is_abandoned(self._request)

    async def read(self, paid: int = 0) -> bytes:
        """Return what has arrived, `b""` at the end; see `ports.ByteSource.read`."""
        if self._error is not None:
            raise self._error
        content = self._content
        if content.exception() is not None:
            return self._rest()
        if self._awaits_continue:
            self._send_continue()
        if content.is_eof():
            return await content.readany()
        self._want_body(paid or BODY_READ)
        self._resume()
        self.is_waiting = True
        try:
            # Cheaper than readchunk() by measurement, and tiny chunks come joined. With the socket paused between
            # reads there is one buffer to return as a rule, which costs no copy.
            chunk = await content.readany()
        except (OSError, RuntimeError, web.RequestPayloadError) as error:
            if self._is_connection_loss(error):
                raise ClientGone from error
            raise
        finally:
            self.is_waiting = False
            self._want_body(0)
        self._pause()
        return chunk

    def interrupt(self, error: Exception) -> None:
        """Make the pending and every later `read` raise `error`. Idempotent; the first error stays."""
        if self._error is None:
            self._error = error
            if self.is_waiting:
                self._content.set_exception(error)

    @property
    def is_broken(self) -> bool:
        """Whether the parser gave up on the body's framing.

        aiohttp (3.14.5) queues its 400 behind the running request and tells the body nothing: it would wait for
        ever. Nothing can be queued while a body is being read, except this.
        """
        return not self._content.is_eof() and bool(self._request.protocol._messages)  # noqa: SLF001

    def _is_connection_loss(self, error: Exception) -> bool:
        """Whether `error` is the client's end of the connection: no interrupt, and no misuse of the stream by us."""
        if error is self._error:
            return False
        return not isinstance(error, RuntimeError) or self._request.transport is None

    def _rest(self) -> bytes:
        """Return what arrived before the connection broke, then raise ClientGone."""
        content = self._content
        cause = content.exception()
        content.set_exception(None)  # type: ignore[arg-type] # else it refuses to hand out its buffer
        chunk = content.read_nowait()
        if cause is not None:
            content.set_exception(cause)
        if not chunk:
            raise ClientGone from cause
        return chunk

    def _send_continue(self) -> None:
        self._awaits_continue = False
        if self._content.total_bytes or self._content.is_eof():
            return
        if not send_interim(self._request, "100 Continue", {}):
            raise ClientGone

    def _want_body(self, most: int) -> None:
        connection = self._request.protocol
        if isinstance(connection, Connection):
            connection.want_body(most)

    def _pause(self) -> None:
        transport = self._request.transport
        if transport is not None and not transport.is_closing() and not self._content.is_eof():
            transport.pause_reading()

    def _resume(self) -> None:
        transport = self._request.transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()


def announced_size(request: web.Request) -> int | None:
    """Return how many bytes the body has: Content-Length, None when chunked, 0 when there is no body."""
    if "Transfer-Encoding" in request.headers:
        return None
    return request.content_length or 0


async def leave_expect_to_the_body(request: web.Request) -> None:
    """Do nothing on Expect: `100 Continue` goes out with the first read, after all checks have passed."""


class _Patience:
    """How long one body has kept us waiting."""

    def __init__(self, received: int) -> None:
        self.received = received
        self.idle = 0.0
        self.window = 0.0
        self.window_start = received


async def small_body(request: web.Request, watch: BodyWatch, most: int) -> bytes:
    """Return all of a body of up to `most` bytes. Raises TooLarge, and what `RequestBody.read` raises."""
    received = bytearray()
    with RequestBody(request, watch) as body:
        if (body.size or 0) > most:
            raise TooLarge(f"the body has more than {most} bytes")
        while chunk := await body.read():
            received += chunk
            if len(received) > most:
                raise TooLarge(f"the body has more than {most} bytes")
    return bytes(received)


class BodyWatch:
    """Ends bodies that stall: one timer for all of them, so that nothing is armed or cancelled per chunk.

    A body must bring a byte within `idle_timeout` seconds, and `min_rate` bytes per second on average over every
    `window` seconds of waiting: an idle time-out alone is beaten by one byte per second.
    """

    def __init__(self, idle_timeout: float, min_rate: int, window: float) -> None:
        self._idle_timeout = idle_timeout
        self._min_rate = min_rate
        self._window = window
        self._bodies: dict[RequestBody, _Patience] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0

    def add(self, body: RequestBody) -> None:
        """Watch `body` until `discard`."""
        self._bodies[body] = _Patience(body.received)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._last = loop.time()
            self._timer = loop.call_later(TICK, self._tick)

    def discard(self, body: RequestBody) -> None:
        """Watch `body` no longer. Idempotent."""
        self._bodies.pop(body, None)

    def close(self) -> None:
        """Stop the timer; bodies are no longer watched."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self, elapsed: float) -> None:
        """Judge every body, `elapsed` seconds after the last look."""
        for body, patience in list(self._bodies.items()):
            if body.is_broken:
                body.interrupt(ClientGone("the framing of the request body is malformed"))
            elif body.is_waiting:
                self._judge(body, patience, elapsed)
            else:
                patience.received, patience.idle = body.received, 0.0

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.look(now - self._last)
        self._last = now
        self._timer = loop.call_later(TICK, self._tick) if self._bodies else None

    def _judge(self, body: RequestBody, patience: _Patience, elapsed: float) -> None:
        patience.idle = patience.idle + elapsed if body.received == patience.received else 0.0
        patience.received = body.received
        patience.window += elapsed
        if patience.idle >= self._idle_timeout:
            body.interrupt(ClientStalled(f"no byte of the request body for {self._idle_timeout:g} seconds"))
        elif patience.window >= self._window:
            if body.received - patience.window_start < self._min_rate * patience.window:
                body.interrupt(ClientStalled(f"less than {self._min_rate} bytes per second"))
            patience.window, patience.window_start = 0.0, body.received


if TYPE_CHECKING:
    _: type[ByteSource] = RequestBody


def is_abandoned(request: web.Request) -> bool:
    """Return whether the client of `request` has left."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return True
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), _HUNG_UP)
    return bool(poll.poll(0))
