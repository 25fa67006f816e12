"""How many clients may be connected at once, what the ones beyond that get, and how much is read of each at a time.

Every connection is a file, and one file table serves clients, database and store: clients may use up their share of
it and no more. The share is `Room.limit`. The next `SPARE` connections get an answer that says so: 503, or 423 to a
HEAD (after any other refusal tus-js-client starts a new upload), and balancers hear that we are alive and not ready.
Those beyond are closed without a word, which every client takes for a broken network and tries again.
"""

from __future__ import annotations

import asyncio
import resource
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from tusgate.core.errors import Overloaded, SettingsError
from tusgate.telemetry import LogEvent
from tusgate.web.errors import malformed_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp.web_request import BaseRequest

MOST_CONNECTIONS: Final = 10_000
"""Served by one process unless set otherwise, where it may open as many files."""
SPARE: Final = 32
"""Connections above the limit that are told that there is no room."""
RESERVED_FILES: Final = 352
"""Files for other things than clients and downloads: 192 connections to the store, the database's, `SPARE`, objects and
logs."""
SURPLUS_PATIENCE: Final = 5.0
"""Seconds that a connection above the limit may be idle or take to send its headers."""

HEAD_READ: Final = 16 * 1024
"""Bytes read at a time while no body is asked for: what comes right behind a head is there before it is paid for."""
BODY_READ: Final = 256 * 1024
"""Bytes read at a time, at most, while a request waits for its body."""
ALL_READS: Final = 16 * 1024 * 1024
"""Bytes that all requests which wait for their bodies may read in one round of the event loop, before any is paid."""

_log = structlog.get_logger(__name__)


def connections_allowed(wanted: int | None, downloads: int = 0) -> int:
    """Return how many connections one process may serve, after raising the limit of its open files as far as needed.

    Where few files may be open, half of them are for clients.

    Args:
        wanted: as the operator set it; None = `MOST_CONNECTIONS`, or as many as there can be.
        downloads: each of which needs one more file, or connection to the store.

    Raises:
        SettingsError: more are wanted than files may be open.
    """
    reserved = RESERVED_FILES + downloads
    files = _files_allowed((wanted or MOST_CONNECTIONS) + reserved)
    room = max(files // 2, files - reserved)
    if wanted is None:
        return min(MOST_CONNECTIONS, room)
    if wanted > room:
        raise SettingsError(
            f"TUSGATE_MAX_CONNECTIONS: expected at most {room}, because {files} files may be open (ulimit -n),"
            f" got {wanted}"
        )
    return wanted


def _files_allowed(needed: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return raised


class Room:
    """Counts the open connections of one server and makes the protocols for new ones.

    Args:
        limit: connections that are served.
        keepalive: seconds that a connection may be idle, or take to send the headers of a request.
        options: for aiohttp's `RequestHandler`.

    Attributes:
        open: connections now, those that are told that there is no room included.
    """

    def __init__(self, limit: int, keepalive: float, options: Mapping[str, object]) -> None:
        self.limit = limit
        self._keepalive = keepalive
        self._options = options
        self.open = 0
        self._was_full = False
        self._reads = _Reads()

    def protocols_for(self, server: web.Server) -> Callable[[], Reader | _TurnedAway]:
        """Return what `loop.create_server` calls for each connection that it has accepted."""
        loop = asyncio.get_running_loop()

        def protocol() -> Reader | _TurnedAway:
            if self.open >= self.limit + SPARE:
                return _TurnedAway()
            is_surplus = self.open >= self.limit
            if is_surplus:
                self._tell_full()
            self.open += 1
            keepalive = min(SURPLUS_PATIENCE, self._keepalive) if is_surplus else self._keepalive
            options = {**self._options, "keepalive_timeout": keepalive}
            return Reader(Connection(self._left, is_surplus, server, loop, options, self._reads), self._reads)

        return protocol

    def _left(self) -> None:
        self.open -= 1
        if self.open < self.limit * 0.9:
            self._was_full = False

    def _tell_full(self) -> None:
        """Log once, until there is room again: not once per connection of a flood."""
        if not self._was_full:
            self._was_full = True
            _log.warning(LogEvent.SERVER_FULL, connections=self.limit)


class Connection(web.RequestHandler):
    """One client's connection.

    Attributes:
        is_surplus: whether it came when there was no room.
        wanted: bytes of its body that a request waits for now, 0 when none does; set by `want_body`.
    """

    __slots__ = ("_leave", "_reads", "is_surplus", "wanted")

    def __init__(
        self,
        leave: Callable[[], None],
        is_surplus: bool,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        options: Mapping[str, object],
        reads: _Reads,
    ) -> None:
        super().__init__(server, loop=loop, **options)  # type: ignore[arg-type] # checked where they are written down
        self.is_surplus = is_surplus
        self.wanted = 0
        self._reads = reads
        self._leave: Callable[[], None] | None = leave

    def want_body(self, most: int) -> None:
        """Say how many bytes of its body a request waits for from now on, at most; 0 = it does not wait. Idempotent."""
        self._reads.waiting += (most > 0) - (self.wanted > 0)
        self.wanted = most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve it; one that broke before it began is not served and no longer counted."""
        try:
            super().connection_made(transport)
        except BaseException:
            self._leave_once()
            raise

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop counting it."""
        self._leave_once()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse what is not HTTP in our own words: aiohttp's repeat the input, name its version, and log each one."""
        if isinstance(exc, HttpProcessingError):
            return malformed_request()
        return super().handle_error(request, status, exc, message)

    def _leave_once(self) -> None:
        if self._leave is not None:
            self._leave()
            self._leave = None


class _Reads:
    """The buffer that all connections read through: each read is over before the next one begins.

    Left alone the event loop reads 250 KiB of each connection at a time, paid for or not: of a thousand clients that
    push, 250 MiB.

    Attributes:
        waiting: how many requests wait for bytes of their bodies now.
    """

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(BODY_READ))
        self.waiting = 0

    def size_for(self, connection: Connection) -> int:
        """Return how much may be read of `connection` at once."""
        if not connection.wanted:
            return HEAD_READ
        return min(BODY_READ, max(HEAD_READ, min(connection.wanted, ALL_READS // self.waiting)))


class Reader(asyncio.BufferedProtocol):
    """Reads for one connection, as much at a time as `_Reads` allows; passes on all else.

    Attributes:
        connection: that it reads for.
    """

    def __init__(self, connection: Connection, reads: _Reads) -> None:
        self.connection = connection
        self._reads = reads

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next read goes."""
        return self._reads.buffer[: self._reads.size_for(self.connection)]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read. It is copied once, as the event loop would have done."""
        self.connection.data_received(bytes(self._reads.buffer[:nbytes]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.connection.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has ended."""
        self.connection.connection_lost(exc)

    def eof_received(self) -> None:
        """The client sends no more."""
        self.connection.eof_received()

    def pause_writing(self) -> None:
        """The client takes answers too slowly."""
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        """It takes them again."""
        self.connection.resume_writing()


class _TurnedAway(asyncio.Protocol):
    """A connection that is closed as soon as it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


def refuse_surplus(request: web.Request) -> None:
    """Raise Overloaded when the request came over a connection for which there was no room."""
    if isinstance(request.protocol, Connection) and request.protocol.is_surplus:
        raise Overloaded
