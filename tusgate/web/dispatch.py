"""The door to all uploads: one catch-all route that finds out which protocol, method and resource are meant.

The order is fixed, so that a request with several faults always gets the same answer: protocol; cross-origin rules,
so early that pages can read every refusal; method override; OPTIONS. The protocol goes on with version, credentials
and permission (`gate`), path and method, syntax, and only then asks the service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from tusgate.core.errors import InvalidRequest
from tusgate.web.body import leave_expect_to_the_body
from tusgate.web.cors import is_preflight
from tusgate.web.errors import REPLY_HEADERS
from tusgate.web.hooks import add_replies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.web.cors import Cors

_OVERRIDE: Final = "X-HTTP-Method-Override"


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the protocols see it.

    Attributes:
        method: the effective one, after X-HTTP-Method-Override.
        tail: the decoded path below the base path; empty for the creation URL. Client input, unchecked.
    """

    request: web.Request
    method: str
    tail: str


class UploadProtocol(Protocol):
    """One upload protocol: parse, one service call, render."""

    @property
    def reply_headers(self) -> dict[str, str]:
        """What every answer of this protocol carries."""

    def speaks(self, request: web.Request) -> bool:
        """Whether the request's header fields are of this protocol."""

    async def owns(self, request: web.Request) -> bool:
        """Whether a request in the language of none is about an upload of this protocol. May look it up."""

    def options(self) -> dict[str, str]:
        """Return the abilities to announce on OPTIONS, from constants: no database, no store, no credentials."""

    async def answer(self, call: Call) -> web.StreamResponse:
        """Serve `call`; TusgateErrors have been rendered already."""


class UploadDispatch:
    """Hands each request to the first of `protocols` that speaks its language, else to the owner of the upload.

    What nobody wants is the first one's to refuse.
    """

    def __init__(self, protocols: Sequence[UploadProtocol], cors: Cors) -> None:
        self._protocols = tuple(protocols)
        self._cors = cors

    def add_routes(self, app: web.Application, base_path: str) -> None:
        """Register every method on `base_path` and all below it; nothing is ever redirected.

        A redirect would turn a POST into a GET, and `*` is needed because the method may be overridden.
        """
        for path in (base_path, base_path + "/{tail:.*}"):
            app.router.add_route("*", path, self.handle, expect_handler=leave_expect_to_the_body)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request below the base path."""
        protocol = next((p for p in self._protocols if p.speaks(request)), None) or await self._owner(request)
        reply = request[REPLY_HEADERS]
        reply.update(protocol.reply_headers)
        reply.update(self._cors.headers(request))
        method = effective_method(request)
        if method == "OPTIONS":
            return self._options(request)
        response = await protocol.answer(Call(request, method, request.match_info.get("tail", "")))
        add_replies(request, response)
        return response

    async def _owner(self, request: web.Request) -> UploadProtocol:
        for protocol in self._protocols:
            if await protocol.owns(request):
                return protocol
        return self._protocols[0]

    def _options(self, request: web.Request) -> web.Response:
        headers: dict[str, str] = {}
        for protocol in self._protocols:
            headers |= protocol.reply_headers | protocol.options()
        if is_preflight(request):
            headers |= self._cors.preflight_headers()
        return web.Response(status=200, headers=headers)


def effective_method(request: web.Request) -> str:
    """Return the method that is meant.

    tus 1.0: X-HTTP-Method-Override, if present, MUST be interpreted as the method. Never for a preflight: that asks
    about a request which the browser has not sent.
    """
    overrides = request.headers.getall(_OVERRIDE, [])
    if not overrides or is_preflight(request):
        return request.method
    if len(overrides) > 1:
        raise InvalidRequest(_OVERRIDE, "the field once")
    return overrides[0].upper()
