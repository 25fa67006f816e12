"""The two places around an answer, for a process that is to die there; see `tusgate.crash`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def watch_answers(app: web.Application, base_path: str, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call `before` when an answer below `base_path` is ready to be sent, and `after` when the kernel has taken it."""

    @web.middleware
    async def watched(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response = await handler(request)
        if request.path == base_path or request.path.startswith(f"{base_path}/"):
            before()
            if await _sent(request, response):
                after()
        return response

    app.middlewares.insert(0, watched)  # the outermost one: what it gets is the whole answer


async def _sent(request: web.Request, response: web.StreamResponse) -> bool:
    """Send the answer now; return whether the client was still there. aiohttp finds nothing left to send then."""
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        return False
    while request.transport is not None and request.transport.get_write_buffer_size():  # noqa: ASYNC110 # uvloop tells nobody
        await asyncio.sleep(0)
    return request.transport is not None
