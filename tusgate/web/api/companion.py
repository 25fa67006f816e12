"""Direct uploads for Uppy: the S3 routes of its Companion, so that `@uppy/aws-s3` 5 and 6 work as they are.

`endpoint` (5) or `companionEndpoint` (6) is `/api/v1/companion`; the client appends `/s3/...`. Version 6 sends no
fields of its own, so a token may stand in the path: `/api/v1/companion/u/TOKEN`. Answers are Companion's, and so are
refusals: JSON with `message` and `error`, and the message as the reason phrase, which is all that version 6 shows.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, Field

from tusgate.core.access import Route
from tusgate.core.errors import InvalidRequest
from tusgate.core.metadata import clean_content_type, clean_filename, encoded_metadata, metadata_key
from tusgate.web.api.direct_models import MOST_PARTS, MOST_URLS
from tusgate.web.api.door import Operation
from tusgate.web.api.uppy import BUCKET, LARGEST_COMPLETION, LENIENT, NamedParts, UppyDoor, as_json, refusal

if TYPE_CHECKING:
    from aiohttp import web

    from tusgate.service.direct import Tickets
    from tusgate.web.api.door import ApiCall


class _Wanted(BaseModel):
    model_config = LENIENT
    filename: str | None = None
    type: str | None = None
    metadata: dict[Annotated[str, AfterValidator(metadata_key)], Any] = Field(default={}, max_length=100)


class Companion(UppyDoor):
    """The routes of Companion."""

    def _offered(self) -> tuple[Operation, ...]:
        operation = partial(Operation, summary="", refuse=refusal)
        one, signing = "/multipart/{id}", partial(operation, method="GET", route=Route.PART_URLS, asked_as="POST")
        return (
            operation(
                method="GET",
                path="/params",
                route=Route.DIRECT_UPLOADS,
                name="companionParams",
                answer=self.params,
                asked_as="POST",
            ),
            operation(
                method="POST",
                path="/multipart",
                route=Route.DIRECT_UPLOADS,
                name="companionCreate",
                answer=self.create,
                body=_Wanted,
            ),
            operation(method="GET", path=one, route=Route.PARTS, name="companionList", answer=self.list),
            operation(method="DELETE", path=one, route=Route.DIRECT_UPLOAD, name="companionAbort", answer=self.abort),
            signing(path=f"{one}/batch", name="companionSignMany", answer=self.sign_many),
            signing(path=f"{one}/{{number}}", name="companionSign", answer=self.sign),
            operation(
                method="POST",
                path=f"{one}/complete",
                route=Route.COMPLETION,
                name="companionComplete",
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
        return as_json({"method": "PUT", "url": url, "fields": {}, "headers": fields})

    async def create(self, call: ApiCall) -> web.Response:
        """Make an upload, with the metadata that Uppy has of the file."""
        wanted = call.body
        assert isinstance(wanted, _Wanted)
        given = {key: str(value) for key, value in wanted.metadata.items() if value is not None}
        filename = None if wanted.filename is None else clean_filename(wanted.filename.encode("utf-8", "replace"))
        kind = None if wanted.type is None else clean_content_type(wanted.type.encode("utf-8", "replace"))
        upload = await self._begin(call, filename, kind, encoded_metadata(given))
        return as_json({"key": upload.object_key, "uploadId": upload.id, "bucket": BUCKET})

    async def sign(self, call: ApiCall) -> web.Response:
        """Answer with the URL of one part."""
        page = await self._direct.sign(call.scope, call.file_id, [_number(call.path["number"])])
        return as_json({"url": page.tickets[0].signed.url, "headers": {}, "expires": page.seconds, "method": "PUT"})

    async def sign_many(self, call: ApiCall) -> web.Response:
        """Answer with the URLs of some parts."""
        numbers = [_number(text) for text in call.request.query.get("partNumbers", "").split(",")][: MOST_URLS + 1]
        if len(numbers) > MOST_URLS:
            raise InvalidRequest("partNumbers", f"at most {MOST_URLS}")
        page: Tickets = await self._direct.sign(call.scope, call.file_id, numbers)
        return as_json({"presignedUrls": {str(each.slot.number): each.signed.url for each in page.tickets}})

    async def list(self, call: ApiCall) -> web.Response:
        """Answer with the parts that the store has."""
        return as_json(await self._listed(call))

    async def complete(self, call: ApiCall) -> web.Response:
        """Make the file of the parts that the client names."""
        upload, location = await self._complete(call)
        return as_json({"location": location, "key": upload.object_key, "bucket": BUCKET})

    async def abort(self, call: ApiCall) -> web.Response:
        """End one upload, if it is unfinished."""
        await self._abandon(call)
        return as_json({})


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:6]) <= MOST_PARTS:
        raise InvalidRequest("partNumber", f"a number from 1 to {MOST_PARTS}")
    return int(text[:6])
