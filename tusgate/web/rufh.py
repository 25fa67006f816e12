"""RUFH, the IETF draft "Resumable Uploads for HTTP": parse, one service call, render.

One module for all drafts that clients speak; what differs stands in `rufh_dialects`. An upload is complete when a
request says that it is the last one, never by reaching a length. Header fields are structured fields: malformed ones
count as absent. Checks come in the order of tus: room, credentials, path and method, fields; then the service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from tusgate.core import errors
from tusgate.core.access import Permission
from tusgate.core.lifecycle import Append
from tusgate.core.model import UPLOAD_ID, CreatedVia, State, UploadId
from tusgate.service.uploads import Creation
from tusgate.web import headers, structured
from tusgate.web.body import RequestBody
from tusgate.web.connections import refuse_surplus
from tusgate.web.content import announced_digest, describe
from tusgate.web.errors import REPLY_HEADERS
from tusgate.web.hooks import exchange_of
from tusgate.web.interim import MOST, awaits_continue, send_interim, takes_interim
from tusgate.web.rufh_dialects import COMPLETE, FINAL, INCOMPLETE, VERSION, dialect_of
from tusgate.web.rufh_problems import problem_answer

if TYPE_CHECKING:
    from tusgate.core.access import Principal
    from tusgate.core.model import Upload
    from tusgate.service.uploads import Uploads
    from tusgate.web.body import BodyWatch
    from tusgate.web.config import WebConfig
    from tusgate.web.dispatch import Call
    from tusgate.web.gate import Gate
    from tusgate.web.location import PublicAddress
    from tusgate.web.rufh_dialects import Dialect

CONTENT_TYPE: Final = "application/partial-upload"
INTERIM: Final = "104 Upload Resumption Supported"
_CREATING: Final = ("POST", "PUT")
_WRITING: Final = frozenset({*_CREATING, "PATCH"})
_UPLOAD_METHODS: Final = ("HEAD", "GET", "PATCH", "DELETE", "OPTIONS")
_HEADERLESS: Final = frozenset({"HEAD", "GET", "DELETE"})
_OFFSET_TELLING: Final = (errors.OffsetMismatch, errors.Fenced, errors.Interrupted, errors.Unavailable)
"""Errors after which the client may go on at the committed offset."""
_UNKNOWN_SIZE_STEP: Final = 64 << 20
"""Bytes until the first word about the progress of a body whose size is not known; each later one takes 8 times as
long, because there may be only `interim.MOST` of them."""


class Rufh:
    """RUFH over the upload service; a `dispatch.UploadProtocol`."""

    reply_headers: Final[dict[str, str]] = {}

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
        self._limits = {"min-size": 0} if uploads.max_size is None else {"max-size": uploads.max_size}

    def speaks(self, request: web.Request) -> bool:
        """Whether a field of ours is there; a creation also needs the flag, without which nobody knows its end."""
        fields = request.headers
        if "Tus-Resumable" in fields:
            return False
        if not any(name in fields for name in (VERSION, COMPLETE, INCOMPLETE)) and not _is_partial_upload(fields):
            return False
        is_creation = request.method in _CREATING and "X-HTTP-Method-Override" not in fields
        return not is_creation or dialect_of(fields).ends(fields) is not None

    async def owns(self, request: web.Request) -> bool:
        """Whether a HEAD, GET or DELETE that names no protocol is about an upload that tus does not own.

        So is one about an unknown upload: a client of tus would have named tus.
        """
        tail = request.match_info.get("tail", "")
        if request.method not in _HEADERLESS or tail == "":
            return False
        try:
            upload = await self._uploads.look((await self._gate.identify(request)).scope, _upload_id(tail))
        except errors.TusgateError:
            return True
        return upload.created_via is not CreatedVia.TUS

    def options(self) -> dict[str, str]:
        """Return the limits, and the media type of appends (demanded by -10 and -11)."""
        return {**FINAL.limits(self._limits, self._uploads.lifetime), "Accept-Patch": CONTENT_TYPE}

    async def answer(self, call: Call) -> web.StreamResponse:
        """Serve one request; every TusgateError becomes its answer here."""
        dialect = dialect_of(call.request.headers)
        call.request[REPLY_HEADERS].update(dialect.identification)
        try:
            refuse_surplus(call.request)
            principal = await self._gate.admit(call.request, call.method, call.tail)
            headers.refuse_oversize(call.request.headers)
            if call.method == "PUT" or call.tail == "":
                return await self._answer_creation(call, principal, dialect)
            return await self._answer_upload(call, principal, dialect)
        except errors.TusgateError as error:
            return self._render_error(call, dialect, error)

    async def _answer_creation(self, call: Call, principal: Principal, dialect: Dialect) -> web.Response:
        if call.method not in _CREATING:
            raise errors.UnsupportedMethod(call.method, (*_CREATING, "OPTIONS"))
        return await self._create(call.request, call.tail, principal, dialect)

    async def _answer_upload(self, call: Call, principal: Principal, dialect: Dialect) -> web.Response:
        upload_id = _upload_id(call.tail)
        match call.method:
            case "HEAD" | "GET":
                return await self._tell_offset(call.request, principal, upload_id, dialect)
            case "PATCH":
                return await self._append(call.request, principal, upload_id, dialect)
            case "DELETE":
                return await self._cancel(call.request, principal, upload_id, dialect)
            case _:
                raise errors.UnsupportedMethod(call.method, _UPLOAD_METHODS)

    async def _create(self, request: web.Request, path: str, principal: Principal, dialect: Dialect) -> web.Response:
        fields = request.headers
        ends = _end_of(fields, dialect)
        content = describe(fields, path)
        # RUFH has no metadata, but tus-js-client sends it in this protocol too.
        metadata = headers.parse_metadata(fields.get("Upload-Metadata"), self._max_metadata, principal.limits)
        checksum = announced_digest(fields, whole=ends)
        creation = Creation(
            created_via=CreatedVia.RUFH,
            length=structured.number(fields, "Upload-Length"),
            metadata=metadata.raw,
            filename=metadata.filename or content.filename,
            content_type=metadata.content_type or content.content_type,
            content_coding=content.content_coding,
            checksum=checksum,
            ends=ends,
            fingerprint=metadata.fingerprint,
        )
        # Found out before anything is created: a malformed Host must not leave an upload that nobody can reach.
        location = self._address.upload_url(request, "")
        with RequestBody(request, self._watch) as body:
            source = body if ends or body.size != 0 or checksum is not None else None
            interim = _Interim(self, request, dialect, 0, body.size, location)
            upload = await self._uploads.create(principal, creation, source, interim.tell, exchange_of(request))
        return self._stored(dialect, upload, location + upload.id, 201)

    async def _append(
        self, request: web.Request, principal: Principal, upload_id: UploadId, dialect: Dialect
    ) -> web.Response:
        fields = request.headers
        if dialect.typed and not _is_partial_upload(fields):
            raise errors.UnsupportedMediaType(f"Content-Type: expected {CONTENT_TYPE}")
        offset = structured.number(fields, "Upload-Offset")
        if offset is None:
            raise errors.InvalidRequest("Upload-Offset", "a number of at most 15 digits")
        ends = _end_of(fields, dialect)
        checksum = announced_digest(fields, whole=ends and offset == 0)
        location = self._address.upload_url(request, upload_id)
        with RequestBody(request, self._watch) as body:
            append = Append(
                offset=offset,
                size=body.size,
                length=structured.number(fields, "Upload-Length"),
                ends=ends,
                via=CreatedVia.RUFH,
            )
            interim = _Interim(self, request, dialect, offset, body.size, None)
            try:
                upload = await self._uploads.append(
                    principal, upload_id, append, body, checksum, interim.tell, exchange_of(request)
                )
            except errors.AlreadyComplete as error:
                if error.upload is None or not dialect.replays_end:
                    raise
                upload = error.upload
        return self._stored(dialect, upload, location, dialect.appended_status)

    def _stored(self, dialect: Dialect, upload: Upload, location: str, unfinished_status: int) -> web.Response:
        """Return the answer to a body that was taken in; for the last one that is 201, as for a file sent at once."""
        is_complete = upload.state is not State.UPLOADING
        status = 201 if is_complete else unfinished_status
        answer = {"Upload-Offset": str(upload.offset), **dialect.completeness(is_complete)}
        if status == 201 and (is_complete or unfinished_status == 201):
            answer["Location"] = location
        return web.Response(status=status, headers=answer | self.limits(dialect, upload))

    async def _tell_offset(
        self, request: web.Request, principal: Principal, upload_id: UploadId, dialect: Dialect
    ) -> web.Response:
        _refuse_positions(request.headers, dialect)
        # Who cannot continue the upload has no need to end its writer.
        ask = self._uploads.settle if Permission.APPEND in principal.permissions else self._uploads.head
        upload = await ask(principal.scope, upload_id)
        answer = {
            "Cache-Control": "no-store",
            "Upload-Offset": str(upload.offset),
            **dialect.completeness(upload.state is State.COMPLETE),
            **self.limits(dialect, upload),
        }
        if upload.length is not None:
            answer["Upload-Length"] = str(upload.length)
        return web.Response(status=204, headers=answer)

    async def _cancel(
        self, request: web.Request, principal: Principal, upload_id: UploadId, dialect: Dialect
    ) -> web.Response:
        _refuse_positions(request.headers, dialect)
        await self._uploads.terminate(principal.scope, upload_id, exchange_of(request), by=principal.proof)
        return web.Response(status=204)

    def limits(self, dialect: Dialect, upload: Upload) -> dict[str, str]:
        """Return the limits of an upload; a complete one has none."""
        if upload.state is not State.UPLOADING:
            return {}
        return dialect.limits(self._limits, self._uploads.seconds_left(upload))

    def _render_error(self, call: Call, dialect: Dialect, error: errors.TusgateError) -> web.Response:
        answer: dict[str, str] = {}
        if call.method in _WRITING:
            answer |= dialect.completeness(isinstance(error, errors.AlreadyComplete))
            if call.method == "PATCH" and error.upload is not None and isinstance(error, _OFFSET_TELLING):
                answer["Upload-Offset"] = str(error.upload.offset)
            if isinstance(error, errors.TooLarge):
                answer |= dialect.limits(self._limits, self._uploads.lifetime)
            if isinstance(error, errors.Draining) and call.request.transport is not None:
                # URLSession goes on after a broken connection, and gives up after an answer of 5xx (R-RET-01).
                call.request.transport.close()
        with_body = "HEAD" not in (call.method, call.request.method)
        return problem_answer(error, answer, with_body=with_body)


class _Interim:
    """The 104s of one request: where the upload is, and how far.

    Few: see `interim.MOST`. A body of known size is told of in quarters.

    Args:
        location: the start of the upload's URL; None for an append, whose 104s never carry it (R-104-04).
    """

    def __init__(
        self,
        rufh: Rufh,
        request: web.Request,
        dialect: Dialect,
        start: int,
        size: int | None,
        location: str | None,
    ) -> None:
        self._rufh = rufh
        self._request = request
        self._dialect = dialect
        self._location = location
        self._end = None if size is None else start + size
        self._step = _UNKNOWN_SIZE_STEP if size is None else max(size // 4, 1)
        self._next = start + self._step
        silent = dialect.version is None or not takes_interim(request)
        self._left = 0 if silent else MOST - awaits_continue(request)

    def tell(self, upload: Upload) -> None:
        """Send what is new about `upload`, if it is worth an answer."""
        if self._left == 0:
            return
        if self._location is not None:
            location, self._location = self._location + upload.id, None
            self._send({"Location": location, **self._rufh.limits(self._dialect, upload)})
        elif upload.offset >= self._next and upload.offset != self._end:
            self._send({"Upload-Offset": str(upload.offset)})
            self._step *= 8 if self._end is None else 1
            self._next = upload.offset + self._step

    def _send(self, fields: dict[str, str]) -> None:
        self._left -= 1
        send_interim(self._request, INTERIM, self._dialect.identification | fields)


def _upload_id(tail: str) -> UploadId:
    if UPLOAD_ID.fullmatch(tail) is None:
        raise errors.UploadNotFound
    return UploadId(tail)


def _is_partial_upload(fields: structured.Fields) -> bool:
    return fields.get("Content-Type", "").partition(";")[0].strip().lower() == CONTENT_TYPE


def _end_of(fields: structured.Fields, dialect: Dialect) -> bool:
    ends = dialect.ends(fields)
    if ends is None:
        raise errors.InvalidRequest(INCOMPLETE if dialect.speaks_of_incomplete else COMPLETE, "?0 or ?1")
    return ends


def _refuse_positions(fields: structured.Fields, dialect: Dialect) -> None:
    """Raise for a HEAD, GET or DELETE that says where it believes the upload to be (R-HEAD-05)."""
    for name in ("Upload-Offset", COMPLETE, INCOMPLETE):
        if dialect.refuses_positions and name in fields:
            raise errors.InvalidRequest(name, "no such field in this method")
