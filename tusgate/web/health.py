"""`/livez` and `/readyz` for whoever starts, restarts and balances this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from tusgate.web.connections import refuse_surplus

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Readiness(Protocol):
    """Something that knows whether uploads can be served now."""

    def check_ready(self) -> Awaitable[None]:
        """Raise Unavailable or Draining with the reason why not."""


def add_health(app: web.Application, readiness: Readiness) -> None:
    """Register `/livez`: the event loop runs; and `/readyz`: there is room, dependencies answer, no draining."""

    async def livez(_request: web.Request) -> web.Response:
        return _fine()

    async def readyz(request: web.Request) -> web.Response:
        refuse_surplus(request)
        await readiness.check_ready()
        return _fine()

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)


def _fine() -> web.Response:
    return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})
