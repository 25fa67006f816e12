"""What hooks get to know of a request, and what becomes of what they want to have answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from tusgate.core.hooks import RequestSeen
from tusgate.service.hooks import Exchange
from tusgate.telemetry import redact_text
from tusgate.web.body import is_abandoned
from tusgate.web.errors import REPLY_HEADERS

if TYPE_CHECKING:
    from tusgate.core.hooks import Reply

_EXCHANGE: Final = web.RequestKey("exchange", Exchange)
_FIRST_ERROR: Final = web.HTTPBadRequest.status_code
_EXPOSED: Final = "Access-Control-Expose-Headers"


def exchange_of(request: web.Request) -> Exchange:
    """Return `request` as hooks see it; the same each time."""
    if _EXCHANGE not in request:
        request[_EXCHANGE] = Exchange(lambda: _seen(request), lambda: is_abandoned(request))
    return request[_EXCHANGE]


def add_replies(request: web.Request, response: web.StreamResponse) -> None:
    """Give a success what hooks want to be told with it, and let pages see their headers, those of refusals too."""
    exchange = request.get(_EXCHANGE)
    if exchange is None or response.prepared or not isinstance(response, web.Response):
        return
    is_success = response.status < _FIRST_ERROR
    if is_success and exchange.reply is not None:
        _add(exchange.reply, response)
    if exchange.reply is not None or not is_success:
        _expose(request, [name for name in response.headers if name.lower().startswith("x-")])


def _add(reply: Reply, response: web.Response) -> None:
    """Let a hook speak; what an answer says already, such as where a new upload is, the client needs to go on."""
    if response.body:
        response.headers.update({name: value for name, value in reply.headers.items() if not _is_of_content(name)})
        return
    if reply.status is not None:
        response.set_status(reply.status)
    if reply.body and response.status != web.HTTPNoContent.status_code:
        response.text = reply.body
    response.headers.update(reply.headers)


def _is_of_content(name: str) -> bool:
    return name.lower().startswith("content-")


def _expose(request: web.Request, names: list[str]) -> None:
    """Name headers among those that browsers show to pages of other origins."""
    exposed = request[REPLY_HEADERS].get(_EXPOSED)
    if exposed is not None and names:
        request[REPLY_HEADERS][_EXPOSED] = ", ".join([exposed, *names])


def _seen(request: web.Request) -> RequestSeen:
    name = None if request.transport is None else request.transport.get_extra_info("peername")
    peer = _joined(*name[:2]) if isinstance(name, tuple) else ""
    headers = tuple((name, _as_text(value)) for name, value in request.headers.items())
    return RequestSeen(request.method, redact_text(request.raw_path), peer, headers)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _as_text(value: str) -> str:
    """Return a field of a request without the bytes of it that are no text.

    Hook servers would take such a question for nonsense, and a client could so pass by those that are open.
    """
    return value.encode("utf-8", "replace").decode()
