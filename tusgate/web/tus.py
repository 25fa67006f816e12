"""tus 1.0.0 and its extensions on the wire: parse, one service call, render.

Checks come in this order: room 503, version 412, credentials 401, permission 403, path and method 404/405, header
syntax 400/415; the service goes on with look-up 404/410, state 409/400/413, and reads the body last.
`checksum-trailer` is not offered: aiohttp's parsers drop trailers before anybody can see them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import web

from tusgate.core import errors
from tusgate.core.checksum import DIGEST_SIZES
from tusgate.core.lifecycle import Append, check_append
from tusgate.core.model import UPLOAD_ID, CreatedVia, Role, State, UploadId
from tusgate.service.uploads import Creation
from tusgate.web import concat, headers
from tusgate.web.body import RequestBody, announced_size
from tusgate.web.connections import refuse_surplus
from tusgate.web.errors import LOCKED, plain_text, problem_of
from tusgate.web.hooks import exchange_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusgate.core.access import Principal
    from tusgate.core.checksum import Checksum
    from tusgate.core.metadata import Metadata
    from tusgate.core.model import Scope, Upload
    from tusgate.service.uploads import Uploads
    from tusgate.web.body import BodyWatch
    from tusgate.web.config import WebConfig
    from tusgate.web.dispatch import Call
    from tusgate.web.gate import Gate
    from tusgate.web.location import PublicAddress

VERSION: Final = "1.0.0"
EXTENSIONS: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "termination",
    "checksum",
    "concatenation",
)
_CREATION_METHODS: Final = ("POST", "OPTIONS")
_UPLOAD_METHODS: Final = ("HEAD", "PATCH", "DELETE", "OPTIONS")
_VERSIONED_METHODS: Final = frozenset({"POST", "HEAD", "PATCH", "DELETE"})
_OFFSET_TELLING: Final = (errors.OffsetMismatch, errors.Fenced, errors.Interrupted, errors.Unavailable)
"""Errors whose answer shows the committed offset. Never others: TUSKit takes Upload-Offset from any PATCH answer."""
_PASSING: Final = (errors.Unavailable, errors.Interrupted, errors.CredentialsExpired)
"""Errors after which the upload is still there and can be continued, by the same client."""
_EXPIRY_TELLING: Final = (*_OFFSET_TELLING, errors.TooLarge, errors.ChecksumMismatch)


class Tus:
    """tus 1.0.0 over the upload service; a `dispatch.UploadProtocol`."""

    reply_headers: Final = {"Tus-Resumable": VERSION}

    def __init__(
        self,
        config: WebConfig,
        uploads: Uploads,
        gate: Gate,
        address: PublicAddress,
        watch: BodyWatch,
    ) -> None:
        self._uploads = uploads
        self._gate = gate
        self._address = address
        self._watch = watch
        self._max_metadata = config.max_metadata
        self._gone_status = config.gone_status
        self._options = _abilities(uploads.max_size, expires=config.expires)

    def speaks(self, request: web.Request) -> bool:
        """Whether the client says that it speaks tus; header-less requests are tus too, as the last resort."""
        return "Tus-Resumable" in request.headers

    async def owns(self, _request: web.Request) -> bool:
        """Return False: a request about an upload of tus says that it is tus, or is refused for not saying so."""
        return False

    def options(self) -> dict[str, str]:
        """Return versions, extensions (without blanks: TUSKit does not trim), limits and checksum algorithms."""
        return self._options

    async def answer(self, call: Call) -> web.StreamResponse:
        """Serve one tus request; every TusgateError becomes its answer here."""
        try:
            refuse_surplus(call.request)
            if call.method in _VERSIONED_METHODS:
                check_version(call.request)
            principal = await self._gate.admit(call.request, call.method, call.tail)
            if call.tail == "":
                return await self._answer_creation(call, principal)
            return await self._answer_upload(call, principal)
        except errors.TusgateError as error:
            return self._render_error(call, error)

    async def _answer_creation(self, call: Call, principal: Principal) -> web.Response:
        if call.method != "POST":
            raise errors.UnsupportedMethod(call.method, _CREATION_METHODS)
        return await self._post(call.request, principal)

    async def _answer_upload(self, call: Call, principal: Principal) -> web.Response:
        if UPLOAD_ID.fullmatch(call.tail) is None:
            raise errors.UploadNotFound
        upload_id = UploadId(call.tail)
        match call.method:
            case "HEAD":
                return await self._head(call.request, principal.scope, upload_id)
            case "PATCH":
                return await self._patch(call.request, principal, upload_id)
            case "DELETE":
                return await self._delete(call.request, principal, upload_id)
            case _:
                raise errors.UnsupportedMethod(call.method, _UPLOAD_METHODS)

    async def _post(self, request: web.Request, principal: Principal) -> web.Response:
        check_syntax(request)
        fields = request.headers
        metadata = headers.parse_metadata(fields.get("Upload-Metadata"), self._max_metadata, principal.limits)
        urls = concat.final_urls(fields)
        if urls is not None:
            return await self._post_final(request, principal, metadata, urls)
        is_partial = concat.is_partial(fields)
        length = headers.creation_length(fields)
        brings_bytes = check_creation_body(request)
        checksum = announced_checksum(fields)
        creation = Creation(
            created_via=CreatedVia.TUS,
            length=length,
            metadata=metadata.raw,
            filename=metadata.filename,
            content_type=metadata.content_type,
            checksum=checksum,
            role=Role.PARTIAL if is_partial else None,
            group=concat.group_wish(fields.get("Upload-Metadata")) if is_partial else None,
            fingerprint=None if is_partial else metadata.fingerprint,
        )
        # Found out before anything is created: a malformed Host must not leave an upload that nobody can reach.
        location = self._address.upload_url(request, "")
        with RequestBody(request, self._watch) as body:
            source = body if brings_bytes or checksum is not None else None
            upload = await self._uploads.create(principal, creation, source, exchange=exchange_of(request))
        answer = {"Location": location + upload.id} | expiry(upload)
        if source is not None:
            answer["Upload-Offset"] = str(upload.offset)
        return web.Response(status=201, headers=answer)

    async def _post_final(
        self, request: web.Request, principal: Principal, metadata: Metadata, urls: list[str]
    ) -> web.Response:
        if announced_size(request) != 0:
            raise errors.FinalIsFixed
        partials = [self._address.upload_id(request, url) for url in urls]
        creation = Creation(
            created_via=CreatedVia.TUS,
            length=None,
            metadata=metadata.raw,
            filename=metadata.filename,
            content_type=metadata.content_type,
        )
        field, exchange = request.headers[concat.FIELD], exchange_of(request)
        upload = await self._uploads.concatenate(principal, creation, field, partials, exchange)
        return web.Response(status=201, headers={"Location": self._address.upload_url(request, upload.id)})

    async def _head(self, request: web.Request, scope: Scope, upload_id: UploadId) -> web.Response:
        check_syntax(request)
        upload = await self._uploads.head(scope, upload_id)
        answer = {"Cache-Control": "no-store"} | expiry(upload)
        if upload.state is not State.SEALED:  # tus 1.0: no offset before a concatenation is finished (CAT-20)
            answer["Upload-Offset"] = str(upload.offset)
        if upload.role is not None:
            answer[concat.FIELD] = upload.concat or upload.role
        if upload.final_length is None:
            answer["Upload-Defer-Length"] = "1"
        else:
            answer["Upload-Length"] = str(upload.length)
        if upload.metadata is not None:
            answer["Upload-Metadata"] = upload.metadata.decode("ascii")
        return web.Response(status=200, headers=answer)

    async def _patch(self, request: web.Request, principal: Principal, upload_id: UploadId) -> web.Response:
        check_syntax(request)
        fields = request.headers
        check_append_type(fields)
        append = Append(
            offset=headers.required_number(fields, "Upload-Offset"),
            size=announced_size(request),
            length=headers.optional_number(fields, "Upload-Length"),
        )
        try:
            checksum = announced_checksum(fields)
        except errors.ChecksumUnsupported:
            # The state of the upload speaks first: a 409 heals the client, this 400 does not.
            check_append(await self._uploads.head(principal.scope, upload_id), append, self._uploads.max_size)
            raise
        with RequestBody(request, self._watch) as body:
            exchange = exchange_of(request)
            upload = await self._uploads.append(principal, upload_id, append, body, checksum, exchange=exchange)
        return web.Response(status=204, headers={"Upload-Offset": str(upload.offset)} | expiry(upload))

    async def _delete(self, request: web.Request, principal: Principal, upload_id: UploadId) -> web.Response:
        check_syntax(request)
        await self._uploads.terminate(principal.scope, upload_id, exchange_of(request), by=principal.proof)
        return web.Response(status=204)

    def _render_error(self, call: Call, error: errors.TusgateError) -> web.Response:
        problem = problem_of(error)
        status, answer = problem.status, dict(problem.headers)
        if isinstance(error, errors.UnsupportedVersion):
            answer["Tus-Version"] = VERSION
        elif isinstance(error, errors.UploadGone):
            status = self._gone_status
        elif call.method == "HEAD" and isinstance(error, _PASSING):
            # tus-js-client starts a new upload after a HEAD with any other status than 2xx and 423.
            status = LOCKED
        if call.method == "PATCH" and error.upload is not None:
            # An offset equal to the length says that the object is there, to clients that look no further.
            if isinstance(error, _OFFSET_TELLING) and error.upload.state is not State.SEALED:
                answer["Upload-Offset"] = str(error.upload.offset)
            if isinstance(error, _EXPIRY_TELLING):
                answer |= expiry(error.upload)
        with_body = "HEAD" not in (call.method, call.request.method)
        return plain_text(replace(problem, status=status, headers=answer), with_body=with_body)


def check_version(request: web.Request) -> None:
    """Raise UnsupportedVersion unless the client says `Tus-Resumable: 1.0.0`, once.

    tus 1.0: the server MUST respond with 412 and MUST NOT process the request.
    """
    if request.headers.getall("Tus-Resumable", []) != [VERSION]:
        raise errors.UnsupportedVersion


def check_syntax(request: web.Request) -> None:
    """Raise for what is malformed in any request: doubled fields, too large headers, encoded or odd bodies."""
    fields = request.headers
    headers.refuse_oversize(fields)
    headers.refuse_duplicates(fields)
    if "upload-checksum" in fields.get("Trailer", "").lower():
        raise errors.InvalidRequest("Trailer", "no Upload-Checksum: the checksum-trailer extension is not offered")
    encoding = fields.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and announced_size(request) != 0:
        raise errors.UnsupportedMediaType("Content-Encoding: expected none, offsets count the bytes as sent")


def check_append_type(fields: Mapping[str, str]) -> None:
    """Raise UnsupportedMediaType unless the body is announced as tus bytes. tus 1.0: SHOULD be 415."""
    if not headers.is_tus_content_type(fields.get("Content-Type")):
        raise errors.UnsupportedMediaType(f"Content-Type: expected {headers.TUS_CONTENT_TYPE}")


def check_creation_body(request: web.Request) -> bool:
    """Return whether a creation request brings bytes (creation-with-upload), even none of them.

    Raises UnsupportedMediaType for a body of another type. Without a body the type means nothing.
    """
    if headers.is_tus_content_type(request.headers.get("Content-Type")):
        return True
    if announced_size(request) != 0:
        check_append_type(request.headers)
    return False


def announced_checksum(fields: Mapping[str, str]) -> Checksum | None:
    """Return the digest that the body must have, if the client announced one."""
    text = fields.get("Upload-Checksum")
    return None if text is None else headers.parse_checksum(text)


def expiry(upload: Upload) -> dict[str, str]:
    """Return Upload-Expires for an unfinished upload, or a partial, that expires: others stay."""
    if upload.expires_at is None or (upload.state is State.COMPLETE and upload.role is not Role.PARTIAL):
        return {}
    return {"Upload-Expires": headers.format_date(upload.expires_at)}


def _abilities(max_size: int | None, *, expires: bool) -> dict[str, str]:
    extensions = (*EXTENSIONS, "expiration") if expires else EXTENSIONS
    abilities = {
        "Tus-Version": VERSION,
        "Tus-Extension": ",".join(extensions),
        "Tus-Checksum-Algorithm": ",".join(DIGEST_SIZES),
    }
    if max_size is not None:
        abilities["Tus-Max-Size"] = str(max_size)
    return abilities
