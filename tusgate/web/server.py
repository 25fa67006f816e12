"""The HTTP server: the application put together, its socket, its start and its end."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Final

from aiohttp import http_parser, web
from aiohttp.http import HttpProcessingError

from tusgate.core.errors import SettingsError
from tusgate.web.body import BodyWatch
from tusgate.web.cors import Cors
from tusgate.web.dispatch import UploadDispatch, open_to_all
from tusgate.web.errors import finish_answers
from tusgate.web.headers import MAX_HEADER_BLOCK
from tusgate.web.health import add_health
from tusgate.web.location import PublicAddress
from tusgate.web.tus import Tus

if TYPE_CHECKING:
    from tusgate.service.uploads import Uploads
    from tusgate.web.config import WebConfig
    from tusgate.web.dispatch import Authenticate

BACKLOG: Final = 1024
KEEPALIVE: Final = 30.0
"""Seconds that an idle connection, or one whose headers do not come, stays open."""
LINGER: Final = 2.0
"""Seconds that an unread body is read on after an early answer, so that the client sees the answer."""
READ_BUFFER: Final = 64 * 1024
LAST_GRACE: Final = 2.0
"""Seconds that requests have to end once the server closes. They have been asked to before, by the service."""

_log = logging.getLogger(__name__)


def make_app(config: WebConfig, uploads: Uploads, authenticate: Authenticate = open_to_all) -> web.Application:
    """Return the application: uploads below the base path, and health. Other rooms may add routes of their own."""
    app = web.Application(middlewares=[finish_answers])
    address = PublicAddress(config)
    watch = BodyWatch(config.idle_timeout, config.min_rate, config.rate_window)
    tus = Tus(config, uploads, authenticate, address, watch)
    UploadDispatch([tus], Cors(config, address)).add_routes(app, config.base_path)
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


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a listening socket; port 0 = any free one.

    Args:
        shared: several processes listen on the port, each with a socket of its own (SO_REUSEPORT).

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
        raise SettingsError(f"HOST, PORT: cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


class WebServer:
    """Serves one application on one listening socket, which it owns.

    Attributes:
        port: that clients connect to.
    """

    def __init__(self, app: web.Application, listener: socket.socket) -> None:
        check_interpreter()
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            shutdown_timeout=LAST_GRACE,
            access_log=None,
            logger=_log,
            # Bodies are stored as sent; inflated ones would have other offsets, and grow a thousandfold.
            auto_decompress=False,
            # A client that leaves must not cancel a commit: it is noticed at the next read.
            handler_cancellation=False,
            keepalive_timeout=KEEPALIVE,
            lingering_time=LINGER,
            read_bufsize=READ_BUFFER,
            # Above our own limits, so that the answer to too much is ours, with the headers that browsers need.
            max_line_size=MAX_HEADER_BLOCK,
            max_field_size=2 * MAX_HEADER_BLOCK,
        )
        self._site: web.SockSite | None = None

    async def start(self) -> None:
        """Begin to accept connections."""
        await self._runner.setup()
        self._site = web.SockSite(self._runner, self._listener, backlog=BACKLOG)
        await self._site.start()

    async def stop_accepting(self) -> None:
        """Close the listening socket; open connections go on. Idempotent."""
        if self._site is not None:
            await self._site.stop()
            self._site = None

    async def close(self) -> None:
        """End everything: idle connections at once, running requests after `LAST_GRACE` seconds. Idempotent."""
        self._site = None
        await self._runner.cleanup()
        self._listener.close()


class _MalformedRequestsQuietly(logging.Filter):
    """Drops what aiohttp logs, with a traceback, for each piece of noise that reaches a public port."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep everything but requests that are not HTTP."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


_log.addFilter(_MalformedRequestsQuietly())
