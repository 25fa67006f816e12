"""Direct uploads for Uppy: the S3 routes of its Companion, so that `@uppy/aws-s3` 5 and 6 work as they are.

`endpoint` (5) or `companionEndpoint` (6) is `/api/v1/companion`; the client appends `/s3/...`. Version 6 sends no
fields of its own, so a token may stand in the path: `/api/v1/companion/u/TOKEN`. Answers are Companion's, and so are
refusals: JSON with `message` and `error`, and the message as the reason phrase, which is all that version 6 shows.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, BaseModel, Field

from tusgate.core.access import Route
from tusgate.core.errors import Interrupted, InvalidRequest, OriginForbidden, TusgateError
from tusgate.core.lifecycle import Append
from tusgate.core.metadata import clean_content_type, clean_filename, encoded_metadata, metadata_key
from tusgate.core.model import CreatedVia
from tusgate.service.uploads import Creation
from tusgate.web.api.direct_models import MOST_PARTS, MOST_URLS
from tusgate.web.api.door import Operation
from tusgate.web.api.uppy import BUCKET, LARGEST_COMPLETION, LENIENT, NamedParts, UppyDoor, as_json, refusal
from tusgate.web.body import RequestBody
from tusgate.web.form import opened_form
from tusgate.web.headers import parse_metadata
from tusgate.web.hooks import exchange_of

if TYPE_CHECKING:
    from multidict import MultiMapping

    from tusgate.service.direct import DirectUploads, Tickets
    from tusgate.service.uploads import Uploads
    from tusgate.web.api.door import ApiCall
    from tusgate.web.config import WebConfig


class _Wanted(BaseModel):
    model_config = LENIENT
    filename: str | None = None
    type: str | None = None
    metadata: dict[Annotated[str, AfterValidator(metadata_key)], Any] = Field(default={}, max_length=100)


class Companion(UppyDoor):
    """The routes of Companion.

    Args:
        config: of the web room.
        direct: uploads of which clients send the parts themselves.
        uploads: those of small files, which come in forms.
    """

    def __init__(self, config: WebConfig, direct: DirectUploads, uploads: Uploads) -> None:
        super().__init__(config, direct)
        self._uploads = uploads

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
                admit=_refuse_pictures_and_links,
            ),
            operation(
                method="POST",
                path="/form/{id}",
                route=Route.COMPLETION,
                name="companionSend",
                answer=self.send,
                body_types=frozenset({"multipart/form-data"}),
            ),
            operation(
                method="GET", path="/form/{id}/{key}", route=Route.CONTENT, name="companionFind", answer=self.find
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
        """Tell how a small file is sent in one request: in a form, to the gateway; nothing is written past it at once.

        Version 6 knows no other way, takes `key` for the name of the object, and looks for the file behind the URL.
        """
        query = call.request.query
        told = encoded_metadata(_metadata_in(query))
        metadata = parse_metadata(told, self._max_metadata, call.principal.limits)
        creation = Creation(
            created_via=CreatedVia.PLAIN,
            length=None,
            metadata=metadata.raw,
            filename=clean_filename(_raw(query.get("filename", ""))) or metadata.filename,
            content_type=clean_content_type(_raw(query.get("type", ""))) or metadata.content_type,
        )
        upload = await self._uploads.create(call.principal, creation, exchange=exchange_of(call.request))
        here = call.request.rel_url.raw_path.removesuffix("/params")
        url = self._address.url(call.request, f"{here}/form/{upload.id}")
        authorization = call.request.headers.get("Authorization")
        headers = {} if authorization is None else {"Authorization": authorization}  # that version 5 sends on
        return as_json({"method": "POST", "url": url, "fields": {"key": upload.id}, "headers": headers})

    async def send(self, call: ApiCall) -> web.Response:
        """Store the file of a form. It cannot be resumed: of one that breaks off nothing is left."""
        with RequestBody(call.request, call.watch) as body:
            form = await opened_form(body, call.request.headers["Content-Type"])
            append = Append(offset=0, size=form.size, length=None, ends=True, via=CreatedVia.PLAIN)
            exchange = exchange_of(call.request)
            try:
                upload = await self._uploads.append(call.principal, call.file_id, append, form, exchange=exchange)
            except (Interrupted, InvalidRequest) as error:
                if error.upload is not None:
                    with suppress(TusgateError):  # the client may have sent it again, to another process
                        await self._uploads.end_unfinished(error.upload, "its form broke off")
                raise
        url = self._address.upload_url(call.request, upload.id)
        return web.Response(status=201, headers={"Location": url, "ETag": f'"{upload.etag}"'})

    async def find(self, call: ApiCall) -> web.Response:
        """Lead to the file that was sent in a form."""
        return web.Response(status=307, headers={"Location": self._address.upload_url(call.request, call.file_id)})

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


def _metadata_in(query: MultiMapping[str]) -> dict[str, str]:
    """Return what stands in the query as `metadata[key]=value`. Raises InvalidRequest."""
    named = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[") and name[-1] == "]"}
    try:
        return {metadata_key(name): value for name, value in named.items()}
    except ValueError as error:
        raise InvalidRequest("metadata", str(error)) from error


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _refuse_pictures_and_links(request: web.Request) -> None:
    """Raise OriginForbidden for a GET that any page can cause: this one makes something.

    What a script asks for has an Origin, unless it is of the same one. https://www.w3.org/TR/fetch-metadata/
    """
    if "Origin" not in request.headers and request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}:
        raise OriginForbidden


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:6]) <= MOST_PARTS:
        raise InvalidRequest("partNumber", f"a number from 1 to {MOST_PARTS}")
    return int(text[:6])
