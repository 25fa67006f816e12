"""What both doors of Uppy have in common: where they stand, what they do with direct uploads, and how they refuse.

Uppy speaks either to a Companion (`companion.py`) or to S3 by signed requests (`signed_s3.py`). The uploads are the
same, and so is what becomes of them; each door says it in the words of its protocol.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from tusgate.core.direct import Plan
from tusgate.core.model import CreatedVia
from tusgate.service.uploads import Creation
from tusgate.web.api.direct_models import MOST_PARTS
from tusgate.web.api.door import ROOT, dump
from tusgate.web.errors import problem_of
from tusgate.web.headers import parse_metadata
from tusgate.web.hooks import exchange_of
from tusgate.web.location import PublicAddress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.core.errors import TusgateError
    from tusgate.core.model import Upload
    from tusgate.service.direct import DirectUploads
    from tusgate.web.api.door import ApiCall, Operation
    from tusgate.web.config import WebConfig

BASES: Final = ("/companion/s3", "/companion/u/{token}/s3")
"""Where the doors stand, below the API: the second one for clients that send no fields of their own."""
BUCKET: Final = "tusgate"
"""What clients are told instead of the name of ours, which is none of their business."""
LARGEST_COMPLETION: Final = 2 * 1024 * 1024
"""Bytes of a body that names 10,000 parts, and some more."""
LENIENT: Final = ConfigDict(extra="ignore")
"""Of models of what Uppy sends: a later version may say more."""
_LONGEST_REASON: Final = 120


class _NamedPart(BaseModel):
    model_config = LENIENT
    PartNumber: int = Field(ge=1, le=MOST_PARTS)
    ETag: str = Field(max_length=128)


class NamedParts(BaseModel):
    """The parts that a Complete names, by the words of S3."""

    model_config = LENIENT
    parts: list[_NamedPart] = Field(max_length=MOST_PARTS)

    def named(self) -> dict[int, str]:
        """Return ETag by number."""
        return {part.PartNumber: part.ETag for part in self.parts}


class UppyDoor(ABC):
    """A door of Uppy to direct uploads: each of its operations stands below each of `BASES`."""

    def __init__(self, config: WebConfig, direct: DirectUploads) -> None:
        self._direct = direct
        self._address = PublicAddress(config)
        self._max_metadata = config.max_metadata

    def operations(self) -> tuple[Operation, ...]:
        """Return all of them."""
        return tuple(_below(base, operation) for base in BASES for operation in self._offered())

    @abstractmethod
    def _offered(self) -> Sequence[Operation]:
        """Return the operations, with paths below a base."""

    async def _begin(self, call: ApiCall, filename: str | None, content_type: str | None, metadata: str = "") -> Upload:
        """Make an upload; Uppy says nothing of its size, and cuts the file as it likes.

        Args:
            call: the request.
            filename: clean, if the client tells one; else that of the metadata.
            content_type: likewise.
            metadata: what else the client tells, in the form of `Upload-Metadata`.

        Raises:
            TusgateError: see `parse_metadata` and `DirectUploads.begin`.
        """
        told = parse_metadata(metadata, self._max_metadata, call.principal.limits)
        creation = Creation(
            created_via=CreatedVia.DIRECT,
            length=None,
            metadata=told.raw,
            filename=filename or told.filename,
            content_type=content_type or told.content_type,
            plan=Plan(),
        )
        return (await self._direct.begin(call.principal, creation, exchange_of(call.request))).upload

    async def _listed(self, call: ApiCall) -> list[dict[str, object]]:
        """Return the parts that the store has, by the words of S3."""
        _, standings = await self._direct.parts(call.scope, call.file_id)
        found = [each.found for each in standings if each.found is not None]
        return [{"PartNumber": part.number, "Size": part.size, "ETag": f'"{part.etag}"'} for part in found]

    async def _complete(self, call: ApiCall) -> tuple[Upload, str]:
        """Make the file of the parts that the client names. Returns it, and its address."""
        assert isinstance(call.body, NamedParts)
        exchange = exchange_of(call.request)
        upload = await self._direct.complete(call.principal, call.file_id, call.body.named(), exchange)
        return upload, self._address.url(call.request, f"{ROOT}/files/{upload.id}/content")

    async def _abandon(self, call: ApiCall) -> None:
        """End one upload, if it is unfinished: clients abort also when they have missed the answer to Complete."""
        await self._direct.abandon(call.principal, call.file_id, exchange_of(call.request))


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


def as_json(document: object) -> web.Response:
    """Return `document` as an answer."""
    return web.Response(body=dump(document), content_type="application/json", headers={"Cache-Control": "no-store"})


def _below(base: str, operation: Operation) -> Operation:
    with_token = "WithToken" if "{token}" in base else ""
    return replace(operation, path=base + operation.path, name=operation.name + with_token, is_described=False)
