"""The HTTP server: the application put together, its socket, its start and its end."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final

from aiohttp import http_parser, web

from tusgate.core.errors import SettingsError
from tusgate.web.body import BodyWatch
from tusgate.web.connections import HEAD_READ, MOST_CONNECTIONS, Room
from tusgate.web.cors import Cors
from tusgate.web.dispatch import UploadDispatch
from tusgate.web.errors import finish_answers
from tusgate.web.gate import Gate, OpenToAll
from tusgate.web.headers import MAX_HEADER_BLOCK
from tusgate.web.health import add_health
from tusgate.web.location import PublicAddress, TrustedProxies
from tusgate.web.plain import Plain
from tusgate.web.rufh import Rufh
from tusgate.web.tus import Tus

if TYPE_CHECKING:
    from tusgate.ports import Authority
    from tusgate.service.uploads import Uploads
    from tusgate.web.config import WebConfig

PROTOCOLS: Final = (Tus, Rufh, Plain)
"""Spoken at the base path, all of them on the same uploads."""
BACKLOG: Final = 1024
LINGER: Final = 2.0
"""Seconds that an unread body is read on after an early answer, so that the client sees the answer."""
READ_BUFFER: Final = HEAD_READ
"""Bytes of a body that aiohttp holds while nobody asks for them: up to twice as many, and one read."""
LAST_GRACE: Final = 2.0
"""Seconds that requests have to end once the server closes. They have been asked to before, by the service."""

_CONNECTION_OPTIONS: Final[dict[str, object]] = {
    "logger": logging.getLogger(__name__),
    "access_log": None,
    # Bodies are stored as sent; inflated ones would have other offsets, and grow a thousandfold.
    "auto_decompress": False,
    "lingering_time": LINGER,
    "read_bufsize": READ_BUFFER,
    # Above our own limits, so that the answer to too much is ours, with the headers that browsers need.
    "max_line_size": MAX_HEADER_BLOCK,
    "max_field_size": 2 * MAX_HEADER_BLOCK,
}


def make_app(config: WebConfig, uploads: Uploads, authority: Authority | None = None) -> web.Application:
    """Return the application: uploads below the base path, and health. Other rooms may add routes of their own.

    Args:
        config: of the web room.
        uploads: the service.
        authority: knows who sends a request; None = everybody may do everything, as one owner.
    """
    app = web.Application(middlewares=[finish_answers])
    address = PublicAddress(config)
    watch = BodyWatch(config.idle_timeout, config.min_rate, config.rate_window)
    gate = Gate(authority or OpenToAll(), TrustedProxies(config.trusted_proxies))
    protocols = [kind(config, uploads, gate, address, watch) for kind in PROTOCOLS]
    UploadDispatch(protocols, Cors(config, address)).add_routes(app, config.base_path)
    add_health(app, uploads)

    async def stop_watch(_app: web.Application) -> None:
        watch.close()

    app.on_cleanup.append(stop_watch)
    return app


def check_interpreter() -> None:
    """Raise SettingsError where aiohttp would not be safe in front of the public.

    Request smuggling was found again and again in its pure-Python parser only, and some of its limits are asserts.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise SettingsError("aiohttp runs without its C parser (AIOHTTP_NO_EXTENSIONS, or no wheel): not safe")
    if not __debug__:
        raise SettingsError("python -O removes checks that aiohttp relies on: start without it")


def listen(host: str, port: int, *, shared: bool = False, setting: str = "TUSGATE_HOST, TUSGATE_PORT") -> socket.socket:
    """Return a listening socket; port 0 = any free one.

    Args:
        shared: several processes listen on the port, each with a socket of its own (SO_REUSEPORT).
        setting: what says the address, for the error.

    Raises:
        SettingsError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise SettingsError(f"{setting}: cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


class WebServer:
    """Serves one application on one listening socket, which it owns.

    Args:
        max_connections: that are served at once; see `connections.Room`.
        keepalive: seconds that a connection may be idle, or take to send the headers of a request.
        answer_patience: seconds after which a client that takes no byte of its answer is disconnected (Linux).

    Attributes:
        port: that clients connect to.
    """

    def __init__(
        self,
        app: web.Application,
        listener: socket.socket,
        *,
        max_connections: int = MOST_CONNECTIONS,
        keepalive: float = 30.0,
        answer_patience: float = 30.0,
    ) -> None:
        check_interpreter()
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        _give_up_on_stalled_readers(listener, answer_patience)
        self._room = Room(max_connections, keepalive, _CONNECTION_OPTIONS)
        # A client that leaves must not cancel a commit: it is noticed at the next read.
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=LAST_GRACE, handler_cancellation=False)
        self._acceptor: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._room.open

    @property
    def max_connections(self) -> int:
        """How many are served at once."""
        return self._room.limit

    async def start(self) -> None:
        """Begin to accept connections."""
        await self._runner.setup()
        assert self._runner.server is not None
        protocols = self._room.protocols_for(self._runner.server)
        loop = asyncio.get_running_loop()
        self._acceptor = await loop.create_server(protocols, sock=self._listener, backlog=BACKLOG)

    async def stop_accepting(self) -> None:
        """Close the listening socket; open connections go on. Idempotent."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None

    async def close(self) -> None:
        """End everything: idle connections at once, running requests after `LAST_GRACE` seconds. Idempotent."""
        await self.stop_accepting()
        await self._runner.cleanup()
        self._listener.close()


def _give_up_on_stalled_readers(listener: socket.socket, seconds: float) -> None:
    """Have the kernel end each accepted connection on which nothing that we sent is taken for `seconds`.

    Nothing else does: a client that sends requests and never reads would hold its connection for ever. Accepted
    sockets inherit the option.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(seconds * 1000)))
