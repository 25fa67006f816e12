"""Direct uploads for clients that speak S3 and have each request signed: `signRequest` of `@uppy/aws-s3` 6.

The URL of a part leads to the store. All else leads back to us: we answer in the XML of S3, and so no request reaches
the store that would make a file past the gateway. Small and empty files, which are one PUT, come through the gateway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from tusgate.core.access import Route
from tusgate.core.direct import Plan
from tusgate.core.errors import InvalidRequest, UploadNotFound
from tusgate.core.metadata import clean_content_type, clean_filename
from tusgate.core.model import UPLOAD_ID, CreatedVia, UploadId
from tusgate.service.uploads import Creation
from tusgate.web.api.companion import BASES, BUCKET, LARGEST_COMPLETION, NamedParts, refusal
from tusgate.web.api.direct_models import MOST_PARTS
from tusgate.web.api.door import ROOT, Operation, dump
from tusgate.web.errors import problem_of
from tusgate.web.headers import parse_metadata
from tusgate.web.hooks import exchange_of
from tusgate.web.location import PublicAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusgate.core.access import Principal
    from tusgate.core.errors import TusgateError
    from tusgate.service.direct import DirectUploads
    from tusgate.web.api.door import ApiCall
    from tusgate.web.config import WebConfig

_LONGEST_KEY: Final = 1024
_QUOTES: Final = {'"': "&quot;"}
_XML_TYPES: Final = frozenset({"application/xml", "text/xml", ""})


class _Wish(BaseModel):
    """A request to S3 that the client is about to send."""

    model_config = ConfigDict(extra="ignore")
    method: Literal["GET", "PUT", "POST", "DELETE"]
    key: str = Field(min_length=1, max_length=_LONGEST_KEY)
    upload_id: str | None = Field(default=None, alias="uploadId")
    part_number: int | None = Field(default=None, alias="partNumber", ge=1, le=MOST_PARTS)


class SignedS3:
    """What signs, and what the URLs lead to, below each of the bases of Companion."""

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
            more = {"refuse": xml_refusal, **more}
            return Operation(
                method=method,
                path=base + path,
                route=route,
                name=f"signedS3{name}{with_token}",
                summary="",
                is_described=False,
                **more,
            )

        one = "/objects/{id}"
        return (
            operation("POST", "/sign", Route.PART_URLS, "Sign", answer=self.sign, body=_Wish, refuse=refusal),
            # Its type is that of the file, as clients of S3 say it.
            operation(
                "POST", "/objects", Route.DIRECT_UPLOADS, "Create", answer=self.create, body_types=frozenset[str]()
            ),
            operation("GET", one, Route.PARTS, "List", answer=self.list),
            operation("DELETE", one, Route.DIRECT_UPLOAD, "Abort", answer=self.abort),
            operation(
                "POST",
                one,
                Route.COMPLETION,
                "Complete",
                answer=self.complete,
                body=NamedParts,
                body_types=_XML_TYPES,
                read_body=_parts_in,
                largest_body=LARGEST_COMPLETION,
            ),
        )

    async def sign(self, call: ApiCall) -> web.Response:
        """Answer with where a request goes, and what it has to bring."""
        wish = call.body
        assert isinstance(wish, _Wish)
        if wish.method == "PUT" and wish.upload_id is not None and wish.part_number is not None:
            page = await self._direct.sign(call.scope, _upload_id(wish.upload_id), [wish.part_number])
            signed = page.tickets[0].signed
            return _json({"url": signed.url, "headers": signed.headers})
        return _json(
            {"url": self._address.url(call.request, self._path_for(call, wish)), "headers": _credentials(call)}
        )

    def _path_for(self, call: ApiCall, wish: _Wish) -> str:
        base = BASES[1].replace("{token}", call.path["token"]) if "token" in call.path else BASES[0]
        objects = f"{ROOT}{base}/objects"
        if wish.upload_id is not None and wish.method != "PUT":
            return f"{objects}/{_upload_id(wish.upload_id)}"
        match wish.method:
            case "POST":
                return f"{objects}?key={quote(wish.key, safe='')}"
            case "PUT" if wish.upload_id is None:
                return f"{self._base_path}/{quote(_filename(wish.key) or 'file', safe='')}"
        raise InvalidRequest("method", "a request about a multipart upload, or the PUT of a whole file")

    async def create(self, call: ApiCall) -> web.Response:
        """Make an upload; the client says nothing of its size, and cuts the file as it likes."""
        key = call.request.query.get("key", "")
        creation = self._creation(call.principal, key, call.request.headers.get("Content-Type", ""))
        upload, _ = await self._direct.begin(call.principal, creation, exchange_of(call.request))
        told = {"Bucket": BUCKET, "Key": key, "UploadId": upload.id}
        return _xml("InitiateMultipartUploadResult", _elements(told))

    async def list(self, call: ApiCall) -> web.Response:
        """Answer with the parts that the store has."""
        _, standings = await self._direct.parts(call.scope, call.file_id)
        found = [each.found for each in standings if each.found is not None]
        parts = [{"PartNumber": part.number, "Size": part.size, "ETag": f'"{part.etag}"'} for part in found]
        return _xml("ListPartsResult", "".join(f"<Part>{_elements(part)}</Part>" for part in parts))

    async def complete(self, call: ApiCall) -> web.Response:
        """Make the file of the parts that the client names."""
        assert isinstance(call.body, NamedParts)
        upload = await self._direct.complete(call.principal, call.file_id, call.body.named())
        location = self._address.url(call.request, f"{ROOT}/files/{upload.id}/content")
        told = {"Location": location, "Bucket": BUCKET, "Key": upload.filename or upload.id}
        return _xml("CompleteMultipartUploadResult", _elements(told))

    async def abort(self, call: ApiCall) -> web.Response:
        """End one upload, if it is unfinished: clients abort also when they have missed the answer to Complete."""
        await self._direct.abandon(call.principal, call.file_id, exchange_of(call.request))
        return web.Response(status=204)

    def _creation(self, principal: Principal, key: str, kind: str) -> Creation:
        metadata = parse_metadata("", self._max_metadata, principal.limits)
        return Creation(
            created_via=CreatedVia.DIRECT,
            length=None,
            metadata=metadata.raw,
            filename=_filename(key) or metadata.filename,
            content_type=clean_content_type(kind.encode("utf-8", "surrogateescape")) or metadata.content_type,
            plan=Plan(),
        )


def xml_refusal(error: TusgateError, *, with_body: bool) -> web.Response:
    """Return what S3 would answer: code and message are ours."""
    problem = problem_of(error)
    told = {"Code": problem.code, "Message": " ".join(problem.message.split())}
    response = _xml("Error", _elements(told) if with_body else "", problem.status)
    response.headers.update(problem.headers)
    if problem.close:
        response.force_close()
    return response


def _parts_in(received: bytes) -> NamedParts:
    """Return the parts that the body of a Complete names. Raises InvalidRequest."""
    try:
        if b"<!" in received:
            raise InvalidRequest("body", "XML without declarations")  # so there are no entities to be expanded
        root = ElementTree.fromstring(received)  # noqa: S314 - see the line above
        parts = [
            {"PartNumber": int(part.findtext("{*}PartNumber", "")), "ETag": part.findtext("{*}ETag", "")}
            for part in root.findall("{*}Part")
        ]
    except (ElementTree.ParseError, ValueError):
        raise InvalidRequest("body", "the XML of CompleteMultipartUpload") from None
    return NamedParts.model_validate({"parts": parts})


def _credentials(call: ApiCall) -> Mapping[str, str]:
    """Return what brings the credentials of this request along with the next one."""
    given = call.request.headers.get("Authorization")
    if "token" in call.path:
        given = f"Bearer {call.path['token']}"
    return {} if given is None else {"Authorization": given}


def _upload_id(text: str) -> UploadId:
    if UPLOAD_ID.fullmatch(text) is None:
        raise UploadNotFound
    return UploadId(text)


def _filename(key: str) -> str | None:
    return clean_filename(key.encode("utf-8", "replace"))


def _elements(values: Mapping[str, object]) -> str:
    return "".join(f"<{name}>{escape(str(value), _QUOTES)}</{name}>" for name, value in values.items())


def _xml(root: str, inner: str, status: int = 200) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{inner}</{root}>'
    headers = {"Cache-Control": "no-store"}
    return web.Response(status=status, body=text.encode(), content_type="application/xml", headers=headers)


def _json(document: object) -> web.Response:
    return web.Response(body=dump(document), content_type="application/json", headers={"Cache-Control": "no-store"})
