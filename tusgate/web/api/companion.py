"""Direct uploads for Uppy: the S3 routes of its Companion, so that `@uppy/aws-s3` 5 and 6 work as they are.

`endpoint` (5) or `companionEndpoint` (6) is `/api/v1/companion`; the client appends `/s3/...`. Version 6 sends no
fields of its own, so a token may stand in the path: `/api/v1/companion/u/TOKEN`. Answers are Companion's, and so are
refusals: JSON with `message` and `error`, and the message as the reason phrase, which is all that version 6 shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tusgate.core.access import Route
from tusgate.core.direct import Plan
from tusgate.core.errors import InvalidRequest
from tusgate.core.metadata import clean_content_type, clean_filename, encoded_metadata, metadata_key
from tusgate.core.model import CreatedVia
from tusgate.service.uploads import Creation
from tusgate.web.api.direct_models import MOST_PARTS, MOST_URLS
from tusgate.web.api.door import ROOT, Operation, dump
from tusgate.web.errors import problem_of
from tusgate.web.headers import parse_metadata
from tusgate.web.hooks import exchange_of
from tusgate.web.location import PublicAddress

if TYPE_CHECKING:
    from tusgate.core.access import Principal
    from tusgate.core.errors import TusgateError
    from tusgate.service.direct import DirectUploads, Tickets
    from tusgate.web.api.door import ApiCall
    from tusgate.web.config import WebConfig

BUCKET: Final = "tusgate"
"""What clients are told instead of the name of ours, which is none of their business."""
BASES: Final = ("/companion/s3", "/companion/u/{token}/s3")
LARGEST_COMPLETION: Final = 2 * 1024 * 1024
_LONGEST_REASON: Final = 120
_LENIENT: Final = ConfigDict(extra="ignore")


class _Wanted(BaseModel):
    model_config = _LENIENT
    filename: str | None = None
    type: str | None = None
    metadata: dict[Annotated[str, AfterValidator(metadata_key)], Any] = Field(default={}, max_length=100)


class _NamedPart(BaseModel):
    model_config = _LENIENT
    PartNumber: int = Field(ge=1, le=MOST_PARTS)
    ETag: str = Field(max_length=128)


class NamedParts(BaseModel):
    """The parts that a Complete names, by the words of S3."""

    model_config = _LENIENT
    parts: list[_NamedPart] = Field(max_length=MOST_PARTS)

    def named(self) -> dict[int, str]:
        """Return ETag by number."""
        return {part.PartNumber: part.ETag for part in self.parts}


class Companion:
    """The routes of Companion below each of `BASES`."""

    def __init__(self, config: WebConfig, direct: DirectUploads) -> None:
        self._direct = direct
        self._address = PublicAddress(config)
        self._base_path = config.base_path
        self._max_metadata = config.max_metadata

    def operations(self) -> tuple[Operation, ...]:
        """Return all of them."""
        return tuple(operation for base in BASES for operation in self._operations_below(base))

    def _operations_below(self, base: str) -> tuple[Operation, ...]:
        def operation(method: str, path: str, route: Route, name: str, **more: Any) -> Operation:
            with_token = "WithToken" if "{token}" in base else ""
            return Operation(
                method=method,
                path=base + path,
                route=route,
                name=f"companion{name}{with_token}",
                summary="",
                refuse=refusal,
                is_described=False,
                **more,
            )

        return (
            operation("GET", "/params", Route.DIRECT_UPLOADS, "Params", answer=self.params, asked_as="POST"),
            operation("POST", "/multipart", Route.DIRECT_UPLOADS, "Create", answer=self.create, body=_Wanted),
            operation("GET", "/multipart/{id}", Route.PARTS, "List", answer=self.list),
            operation("DELETE", "/multipart/{id}", Route.DIRECT_UPLOAD, "Abort", answer=self.abort),
            operation(
                "GET", "/multipart/{id}/batch", Route.PART_URLS, "SignMany", answer=self.sign_many, asked_as="POST"
            ),
            operation("GET", "/multipart/{id}/{number}", Route.PART_URLS, "Sign", answer=self.sign, asked_as="POST"),
            operation(
                "POST",
                "/multipart/{id}/complete",
                Route.COMPLETION,
                "Complete",
                answer=self.complete,
                body=NamedParts,
                largest_body=LARGEST_COMPLETION,
            ),
        )

    async def params(self, call: ApiCall) -> web.Response:
        """Tell how a small file is sent in one request: by a PUT to the gateway; nothing is written past it at once."""
        name = clean_filename(call.request.query.get("filename", "").encode("utf-8", "surrogateescape")) or "file"
        fields = {}
        if kind := clean_content_type(call.request.query.get("type", "").encode("utf-8", "surrogateescape")):
            fields["Content-Type"] = kind
        if authorization := call.request.headers.get("Authorization"):
            fields["Authorization"] = authorization
        url = self._address.url(call.request, f"{self._base_path}/{quote(name, safe='')}")
        return _answer({"method": "PUT", "url": url, "fields": {}, "headers": fields})

    async def create(self, call: ApiCall) -> web.Response:
        """Make an upload; Uppy says nothing of its size, and cuts the file as it likes."""
        assert isinstance(call.body, _Wanted)
        creation = self._creation(call.principal, call.body)
        upload, _ = await self._direct.begin(call.principal, creation, exchange_of(call.request))
        return _answer({"key": upload.object_key, "uploadId": upload.id, "bucket": BUCKET})

    async def sign(self, call: ApiCall) -> web.Response:
        """Answer with the URL of one part."""
        page = await self._direct.sign(call.scope, call.file_id, [_number(call.path["number"])])
        return _answer({"url": page.tickets[0].signed.url, "headers": {}, "expires": page.seconds, "method": "PUT"})

    async def sign_many(self, call: ApiCall) -> web.Response:
        """Answer with the URLs of some parts."""
        numbers = [_number(text) for text in call.request.query.get("partNumbers", "").split(",")][: MOST_URLS + 1]
        if len(numbers) > MOST_URLS:
            raise InvalidRequest("partNumbers", f"at most {MOST_URLS}")
        page: Tickets = await self._direct.sign(call.scope, call.file_id, numbers)
        return _answer({"presignedUrls": {str(each.slot.number): each.signed.url for each in page.tickets}})

    async def list(self, call: ApiCall) -> web.Response:
        """Answer with the parts that the store has."""
        _, standings = await self._direct.parts(call.scope, call.file_id)
        found = [each.found for each in standings if each.found is not None]
        return _answer([{"PartNumber": part.number, "Size": part.size, "ETag": f'"{part.etag}"'} for part in found])

    async def complete(self, call: ApiCall) -> web.Response:
        """Make the file of the parts that the client names."""
        assert isinstance(call.body, NamedParts)
        upload = await self._direct.complete(call.principal, call.file_id, call.body.named())
        location = self._address.url(call.request, f"{ROOT}/files/{upload.id}/content")
        return _answer({"location": location, "key": upload.object_key, "bucket": BUCKET})

    async def abort(self, call: ApiCall) -> web.Response:
        """End one upload, if it is unfinished: clients abort also when they have missed the answer to Complete."""
        await self._direct.abandon(call.principal, call.file_id, exchange_of(call.request))
        return _answer({})

    def _creation(self, principal: Principal, wanted: _Wanted) -> Creation:
        given = {key: str(value) for key, value in wanted.metadata.items() if value is not None}
        metadata = parse_metadata(encoded_metadata(given), self._max_metadata, principal.limits)
        filename = None if wanted.filename is None else clean_filename(wanted.filename.encode("utf-8", "replace"))
        kind = None if wanted.type is None else clean_content_type(wanted.type.encode("utf-8", "replace"))
        return Creation(
            created_via=CreatedVia.DIRECT,
            length=None,
            metadata=metadata.raw,
            filename=filename or metadata.filename,
            content_type=kind or metadata.content_type,
            plan=Plan(),
        )


def refusal(error: TusgateError, *, with_body: bool) -> web.Response:
    """Return what Uppy makes a message of."""
    problem = problem_of(error)
    told = " ".join(problem.message.split())
    response = web.Response(
        status=problem.status,
        reason=told.encode("ascii", "replace").decode()[:_LONGEST_REASON],
        body=dump({"message": told, "error": told, "code": problem.code}) if with_body else None,
        content_type="application/json",
        headers={**problem.headers, "Cache-Control": "no-store"},
    )
    if problem.close:
        response.force_close()
    return response


def _answer(document: object) -> web.Response:
    return web.Response(body=dump(document), content_type="application/json", headers={"Cache-Control": "no-store"})


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:6]) <= MOST_PARTS:
        raise InvalidRequest("partNumber", f"a number from 1 to {MOST_PARTS}")
    return int(text[:6])
