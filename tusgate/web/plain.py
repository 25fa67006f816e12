"""A plain HTTP upload: the body of one POST or PUT is the file. `curl -T file URL/` is all that a client needs.

It cannot be resumed: of a body that breaks off nothing is left.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web

from tusgate.core import errors
from tusgate.core.model import CreatedVia
from tusgate.service.uploads import Creation
from tusgate.web import headers
from tusgate.web.body import RequestBody, announced_size
from tusgate.web.connections import refuse_surplus
from tusgate.web.content import announced_digest, describe
from tusgate.web.errors import plain_text, problem_of
from tusgate.web.hooks import exchange_of

if TYPE_CHECKING:
    from tusgate.core.access import Principal
    from tusgate.core.model import Upload
    from tusgate.service.hooks import Exchange
    from tusgate.service.uploads import Uploads
    from tusgate.web.body import BodyWatch
    from tusgate.web.config import WebConfig
    from tusgate.web.dispatch import Call
    from tusgate.web.gate import Gate
    from tusgate.web.location import PublicAddress

_OTHER_PROTOCOLS: Final = ("upload-", "tus-", "x-http-method-override")
_OTHER_TYPES: Final = (headers.TUS_CONTENT_TYPE, "application/partial-upload")


class Plain:
    """Uploads without a protocol; a `dispatch.UploadProtocol`."""

    reply_headers: Final[dict[str, str]] = {}

    def __init__(
        self,
        _config: WebConfig,
        uploads: Uploads,
        gate: Gate,
        address: PublicAddress,
        watch: BodyWatch,
    ) -> None:
        self._uploads = uploads
        self._gate = gate
        self._address = address
        self._watch = watch

    def speaks(self, request: web.Request) -> bool:
        """Whether it is a PUT, or a POST with a body, without a sign of any upload protocol."""
        if request.method != "PUT" and not (request.method == "POST" and announced_size(request) != 0):
            return False
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return media_type not in _OTHER_TYPES and not any(
            name.lower().startswith(_OTHER_PROTOCOLS) for name in request.headers
        )

    async def owns(self, _request: web.Request) -> bool:
        """Return False: once it is there, an upload is asked for and deleted by the other protocols."""
        return False

    def options(self) -> dict[str, str]:
        """Return nothing: there is nothing to negotiate."""
        return {}

    async def answer(self, call: Call) -> web.StreamResponse:
        """Serve one upload; every TusgateError becomes its answer here."""
        try:
            refuse_surplus(call.request)
            principal = await self._gate.admit(call.request, call.method, call.tail)
            headers.refuse_oversize(call.request.headers)
            if call.method != "PUT" and call.tail != "":
                raise errors.UnsupportedMethod(call.method, ("PUT", "OPTIONS"))
            return await self._store(call.request, call.tail, principal)
        except errors.TusgateError as error:
            return plain_text(problem_of(error), with_body=True)

    async def _store(self, request: web.Request, path: str, principal: Principal) -> web.Response:
        content = describe(request.headers, path)
        imposed = headers.parse_metadata(None, 0, principal.limits)
        creation = Creation(
            created_via=CreatedVia.PLAIN,
            length=None,
            metadata=imposed.raw,
            filename=imposed.filename or content.filename,
            content_type=imposed.content_type or content.content_type,
            content_coding=content.content_coding,
            checksum=announced_digest(request.headers, whole=True),
            ends=True,
        )
        location = self._address.upload_url(request, "")
        with RequestBody(request, self._watch) as body:
            upload = await self._create(principal, creation, body, exchange_of(request))
        url = location + upload.id
        return web.Response(status=201, text=url + "\n", headers={"Location": url})

    async def _create(self, principal: Principal, creation: Creation, body: RequestBody, exchange: Exchange) -> Upload:
        """Store the body, or nothing: nobody can go on with the rest. What a crash leaves expires."""
        begun: Upload | None = None

        def note(upload: Upload) -> None:
            nonlocal begun
            begun = upload

        try:
            return await self._uploads.create(principal, creation, body, note, exchange)
        except errors.TusgateError:
            if begun is not None:
                with suppress(errors.TusgateError):
                    await self._uploads.end(begun.scope, begun.id)
            raise
