"""Direct uploads over HTTP: clients send the parts to the store by signed URLs, and tell us when all are there.

Only this API knows them: the protocols refuse to write to such an upload, and this API to sign parts of any other one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from aiohttp import web

from tusgate.core.access import Route
from tusgate.core.fingerprint import Fingerprint, fingerprint, fingerprint_of, parse_fingerprint
from tusgate.core.metadata import encoded_metadata
from tusgate.core.model import CreatedVia, State
from tusgate.service.uploads import Creation
from tusgate.web.api.direct_models import (
    BegunDirectUpload,
    DirectCompletion,
    DirectLinks,
    DirectUpload,
    FoundFile,
    NewDirectUpload,
    NewPlan,
    PartsPage,
    PartsQuery,
    PartStanding,
    PartUrls,
    UrlWish,
)
from tusgate.web.api.door import ROOT, Operation, json_answer
from tusgate.web.headers import parse_metadata
from tusgate.web.hooks import exchange_of
from tusgate.web.location import PublicAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.core.access import Principal
    from tusgate.core.direct import Plan
    from tusgate.core.model import Upload
    from tusgate.service.direct import Begun, DirectUploads
    from tusgate.web.api.door import ApiCall
    from tusgate.web.api.models import File
    from tusgate.web.config import WebConfig

_LARGEST_CREATION: Final = 256 * 1024
_LARGEST_COMPLETION: Final = 2 * 1024 * 1024
"""Bytes of 10,000 parts with their ETags."""
_OK: Final = 200
_CREATED: Final = 201
_ACCEPTED: Final = 202


class DirectApi:
    """The operations on direct uploads."""

    def __init__(self, config: WebConfig, direct: DirectUploads, show_file: Callable[[ApiCall, Upload], File]) -> None:
        self._direct = direct
        self._show_file = show_file
        self._address = PublicAddress(config)
        self._max_metadata = config.max_metadata

    def operations(self) -> tuple[Operation, ...]:
        """Return all of them."""
        return (
            Operation(
                method="POST",
                path="/uploads",
                route=Route.DIRECT_UPLOADS,
                name="beginDirectUpload",
                summary="Begin an upload whose parts you send to the store yourself",
                description=(
                    "The answer has the size of the parts and the URLs of the first ones. A file of no bytes is"
                    " complete at once. 200 with an unfinished upload of the same `fingerprint`. 501 where the server"
                    " has no direct uploads. With `part_checksums` of sha256, parts that files of yours have are copied"
                    " before the answer, for 20 s at most, and have no URLs."
                ),
                answer=self.begin,
                body=NewDirectUpload,
                largest_body=_LARGEST_CREATION,
                result=BegunDirectUpload,
                status=_CREATED,
                problems=(200, 400, 403, 413, 415, 429, 431, 501),
            ),
            Operation(
                method="GET",
                path="/fingerprints/{algorithm}/{value}",
                route=Route.FINGERPRINT,
                name="findByFingerprint",
                summary="Find a file of yours, or an unfinished upload of it, by its digest",
                description=(
                    "A finished file only by a digest that was verified; an unfinished upload, by whatever protocol, by"
                    " what it was created with. `client` finds unfinished ones only."
                ),
                answer=self.find,
                result=FoundFile,
                problems=(400, 404),
            ),
            Operation(
                method="GET",
                path="/uploads/{id}",
                route=Route.DIRECT_UPLOAD,
                name="getDirectUpload",
                summary="Show a direct upload",
                description="In any state; after a reload, or on another device, the way back to it.",
                answer=self.get,
                result=DirectUpload,
                problems=(404, 409),
            ),
            Operation(
                method="PUT",
                path="/uploads/{id}/plan",
                route=Route.PLAN,
                name="replanDirectUpload",
                summary="Let an unfinished upload be of a file that has changed",
                description=(
                    "Parts keep their size. Those that are in the store with the checksums of now stay, others are to"
                    " be sent; the answer has their first URLs. For uploads that were begun with SHA-256 of their"
                    " parts. Where hooks are asked about new uploads the size stays as it was."
                ),
                answer=self.replan,
                body=NewPlan,
                largest_body=_LARGEST_CREATION,
                result=BegunDirectUpload,
                problems=(400, 404, 409, 410, 413, 415),
            ),
            Operation(
                method="GET",
                path="/uploads/{id}/parts",
                route=Route.PARTS,
                name="listDirectParts",
                summary="Show which parts are in the store, and which are still to be sent",
                description="Asked of the store each time; once all are there, those that the file is made of.",
                answer=self.parts,
                query=PartsQuery,
                result=PartsPage,
                problems=(400, 404, 409, 410),
            ),
            Operation(
                method="POST",
                path="/uploads/{id}/urls",
                route=Route.PART_URLS,
                name="signDirectParts",
                summary="Make URLs for parts",
                description=(
                    "For parts named by number, or page by page for all that are not in the store as planned. URLs that"
                    " have expired are made again by the same request. The upload lives on as if bytes had come. Once"
                    " all parts are there a page has no URLs, and parts named by number are 409."
                ),
                answer=self.sign,
                body=UrlWish,
                result=PartUrls,
                problems=(400, 404, 409, 410, 413, 415),
            ),
            Operation(
                method="POST",
                path="/uploads/{id}/complete",
                route=Route.COMPLETION,
                name="completeDirectUpload",
                summary="Say that all parts are there",
                description=(
                    "What the store has is compared with what was declared; 409 names all that is wrong in `parts`,"
                    " nothing has changed then, and wrong parts can be sent again. 202 means that the file is still"
                    " being put together: ask for the upload until it is complete. Asking again is harmless: it is"
                    " answered alike, as long as the parts named are those that the file is made of."
                ),
                answer=self.complete,
                body=DirectCompletion,
                largest_body=_LARGEST_COMPLETION,
                result=DirectUpload,
                problems=(202, 400, 404, 409, 410, 413, 415),
            ),
            Operation(
                method="DELETE",
                path="/uploads/{id}",
                route=Route.DIRECT_UPLOAD,
                name="abortDirectUpload",
                summary="End a direct upload",
                description="At once, for good, whether complete or not; its URLs are worth nothing any more.",
                answer=self.abort,
                status=204,
                problems=(404, 409, 410),
            ),
        )

    async def begin(self, call: ApiCall) -> web.Response:
        """Make an upload, and the URLs of its first parts."""
        wanted = call.body
        assert isinstance(wanted, NewDirectUpload)
        creation = self._creation(call.principal, wanted)
        begun = await self._direct.begin(call.principal, creation, exchange_of(call.request))
        answer = json_answer(await self._ready(call, begun, wanted.urls))
        answer.set_status(_CREATED if begun.is_new else _OK)
        answer.headers["Location"] = self._links(call, begun.upload).self
        return answer

    async def replan(self, call: ApiCall) -> web.Response:
        """Change what is declared, and answer as to a new upload."""
        wanted = call.body
        assert isinstance(wanted, NewPlan)
        plan = wanted.plan()
        begun = await self._direct.replan(
            call.principal, call.file_id, wanted.size, plan, _fingerprint_of(wanted, plan)
        )
        return json_answer(await self._ready(call, begun, wanted.urls))

    async def find(self, call: ApiCall) -> web.Response:
        """Answer with what there is of a file."""
        wanted = fingerprint(call.path["algorithm"], call.path["value"])
        upload, missing = await self._direct.find(call.scope, wanted)
        is_finished = upload.state is State.COMPLETE
        return json_answer(
            FoundFile(file=self._show_file(call, upload), is_finished=is_finished, missing_parts=missing)
        )

    async def get(self, call: ApiCall) -> web.Response:
        """Answer with one upload."""
        return self._shown(call, await self._direct.look(call.scope, call.file_id))

    async def parts(self, call: ApiCall) -> web.Response:
        """Answer with a page of parts."""
        assert isinstance(call.query, PartsQuery)
        after, limit = call.query.after, call.query.limit
        upload, standings = await self._direct.parts(call.scope, call.file_id)
        found = [each for each in standings if each.slot.number > after]
        algorithm = None if upload.plan is None else upload.plan.algorithm
        page = [PartStanding.of(each, algorithm) for each in found[:limit]]
        return json_answer(PartsPage(parts=page, next_after=page[-1].number if len(found) > limit else None))

    async def sign(self, call: ApiCall) -> web.Response:
        """Answer with URLs."""
        wish = call.body
        assert isinstance(wish, UrlWish)
        if wish.parts is not None:
            numbers = list(dict.fromkeys(wish.parts))
            page = await self._direct.sign(call.scope, call.file_id, numbers, wish.seconds)
        else:
            page = await self._direct.sign_page(call.scope, call.file_id, wish.after, wish.limit, wish.seconds)
        return json_answer(PartUrls.of(page))

    async def complete(self, call: ApiCall) -> web.Response:
        """Make the file of the parts."""
        assert isinstance(call.body, DirectCompletion)
        upload = await self._direct.complete(call.principal, call.file_id, call.body.named())
        answer = self._shown(call, upload)
        if upload.state is State.SEALED:
            answer.set_status(_ACCEPTED)
        return answer

    async def abort(self, call: ApiCall) -> web.Response:
        """End one upload."""
        await self._direct.abort(call.principal, call.file_id, exchange_of(call.request))
        return web.Response(status=204)

    def _creation(self, principal: Principal, wanted: NewDirectUpload) -> Creation:
        header = encoded_metadata(wanted.metadata)
        metadata = parse_metadata(header, self._max_metadata, principal.limits)
        plan = wanted.plan()
        return Creation(
            created_via=CreatedVia.DIRECT,
            length=wanted.size,
            metadata=metadata.raw,
            filename=wanted.filename or metadata.filename,
            content_type=wanted.content_type or metadata.content_type,
            plan=plan,
            part_size=wanted.part_size,
            fingerprint=_fingerprint_of(wanted, plan) or metadata.fingerprint,
        )

    async def _ready(self, call: ApiCall, begun: Begun, limit: int) -> BegunDirectUpload:
        """Return what is answered of an upload that waits for its parts, with up to `limit` URLs."""
        shown = DirectUpload.of(begun.upload, self._links(call, begun.upload))
        urls = await self._first_urls(call, begun.upload, limit)
        return BegunDirectUpload(upload=shown, parts=urls, copies_left=begun.copies_left)

    async def _first_urls(self, call: ApiCall, upload: Upload, limit: int) -> PartUrls:
        """Return URLs where it is known which parts there are: a new upload has none of them yet."""
        if upload.state is not State.UPLOADING or upload.length is None or limit == 0:
            return PartUrls(urls=[], expires_at=datetime.now(UTC), next_after=None)
        return PartUrls.of(await self._direct.sign_page(call.scope, upload.id, 0, limit))

    def _shown(self, call: ApiCall, upload: Upload) -> web.Response:
        return json_answer(DirectUpload.of(upload, self._links(call, upload)))

    def _links(self, call: ApiCall, upload: Upload) -> DirectLinks:
        own = self._address.url(call.request, f"{ROOT}/uploads/{upload.id}")
        return DirectLinks(
            self=own,
            file=self._address.url(call.request, f"{ROOT}/files/{upload.id}"),
            parts=f"{own}/parts",
            urls=f"{own}/urls",
            complete=f"{own}/complete",
            plan=f"{own}/plan",
        )


def _fingerprint_of(wanted: NewDirectUpload | NewPlan, plan: Plan) -> Fingerprint | None:
    """Return what the client tells the file by: as it says, or the digest that it has declared."""
    if wanted.fingerprint is not None:
        return parse_fingerprint(wanted.fingerprint)
    return None if plan.whole is None else fingerprint_of(plan.whole)
