"""Direct uploads for clients that speak S3 and have each request signed: `signRequest` of `@uppy/aws-s3` 6.

The URL of a part leads to the store. All else leads back to us: we answer in the XML of S3, and so no request reaches
the store that would make a file past the gateway. Small and empty files, which are one PUT, come through the gateway.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web
from pydantic import BaseModel, Field

from tusgate.core.access import Route
from tusgate.core.errors import InvalidRequest, UploadNotFound
from tusgate.core.metadata import clean_content_type, clean_filename
from tusgate.core.model import UPLOAD_ID, UploadId
from tusgate.web.api.direct_models import MOST_PARTS
from tusgate.web.api.door import ROOT, Operation
from tusgate.web.api.uppy import (
    BASES,
    BUCKET,
    LARGEST_COMPLETION,
    LENIENT,
    UPPY_STATUSES,
    NamedParts,
    UppyDoor,
    as_json,
    refusal,
)
from tusgate.web.errors import problem_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusgate.core.errors import TusgateError
    from tusgate.service.direct import DirectUploads
    from tusgate.web.api.door import ApiCall
    from tusgate.web.config import WebConfig

_LONGEST_KEY: Final = 1024
_QUOTES: Final = {'"': "&quot;"}
_XML_TYPES: Final = frozenset({"application/xml", "text/xml", ""})


class _Wish(BaseModel):
    """A request to S3 that the client is about to send."""

    model_config = LENIENT
    method: Literal["GET", "PUT", "POST", "DELETE"]
    key: str = Field(min_length=1, max_length=_LONGEST_KEY)
    upload_id: str | None = Field(default=None, alias="uploadId")
    part_number: int | None = Field(default=None, alias="partNumber", ge=1, le=MOST_PARTS)


class SignedS3(UppyDoor):
    """What signs, and what the URLs lead to."""

    def __init__(self, config: WebConfig, direct: DirectUploads) -> None:
        super().__init__(config, direct)
        self._base_path = config.base_path

    def _offered(self) -> tuple[Operation, ...]:
        operation = partial(Operation, summary="", refuse=xml_refusal)
        one = "/objects/{id}"
        return (
            operation(
                method="POST",
                path="/sign",
                route=Route.PART_URLS,
                name="signedS3Sign",
                answer=self.sign,
                body=_Wish,
                refuse=refusal,
            ),
            operation(
                method="POST",
                path="/objects",
                route=Route.DIRECT_UPLOADS,
                name="signedS3Create",
                answer=self.create,
                body_types=frozenset(),  # its type is that of the file, as clients of S3 say it
            ),
            operation(method="GET", path=one, route=Route.PARTS, name="signedS3List", answer=self.list),
            operation(method="DELETE", path=one, route=Route.DIRECT_UPLOAD, name="signedS3Abort", answer=self.abort),
            operation(
                method="POST",
                path=one,
                route=Route.COMPLETION,
                name="signedS3Complete",
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
            return as_json({"url": signed.url, "headers": signed.headers})
        return as_json(
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
        """Make an upload. Its name is the key that the client has chosen."""
        key = call.request.query.get("key", "")
        kind = call.request.headers.get("Content-Type", "").encode("utf-8", "surrogateescape")
        upload = await self._begin(call, _filename(key), clean_content_type(kind))
        told = {"Bucket": BUCKET, "Key": key, "UploadId": upload.id}
        return _xml("InitiateMultipartUploadResult", _elements(told))

    async def list(self, call: ApiCall) -> web.Response:
        """Answer with the parts that the store has."""
        parts = await self._listed(call)
        return _xml("ListPartsResult", "".join(f"<Part>{_elements(part)}</Part>" for part in parts))

    async def complete(self, call: ApiCall) -> web.Response:
        """Make the file of the parts that the client names."""
        upload, location = await self._complete(call)
        told = {"Location": location, "Bucket": BUCKET, "Key": upload.filename or upload.id}
        return _xml("CompleteMultipartUploadResult", _elements(told))

    async def abort(self, call: ApiCall) -> web.Response:
        """End one upload, if it is unfinished."""
        await self._abandon(call)
        return web.Response(status=204)


def xml_refusal(error: TusgateError, *, with_body: bool) -> web.Response:
    """Return what S3 would answer: code and message are ours."""
    problem = problem_of(error, UPPY_STATUSES)
    told = {"Code": problem.code, "Message": " ".join(problem.message.split())}
    response = _xml("Error", _elements(told) if with_body else "", problem.status)
    response.headers.update({**problem.headers, "Content-Type": "application/xml"})
    if problem.close:
        response.force_close()
    return response


def _parts_in(received: bytes) -> NamedParts:
    """Return the parts that the body of a Complete names. Raises InvalidRequest."""
    try:
        text = received.decode("utf-8-sig")  # and no other encoding, in which the next line would find nothing
        if "<!" in text:
            raise InvalidRequest("body", "XML without declarations")  # so there are no entities to be expanded
        root = ElementTree.fromstring(text)  # noqa: S314 - see the line above; of text the encoding is settled
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
