"""Files over HTTP: each operation is parsed by its models, makes one service call, and renders the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from tusgate.core.access import Route
from tusgate.core.model import CreatedVia, State, UploadId
from tusgate.service.files import Work
from tusgate.web.api import cursor
from tusgate.web.api.content import Content
from tusgate.web.api.door import ROOT, Operation, json_answer
from tusgate.web.api.models import (
    ContentQuery,
    Deleted,
    Deletion,
    DeletionReport,
    DerivedShown,
    File,
    FileChange,
    FilePage,
    FileProcessing,
    FileQuery,
    JobShown,
    Links,
    TenantUsage,
    Undelivered,
)
from tusgate.web.hooks import exchange_of
from tusgate.web.location import PublicAddress

if TYPE_CHECKING:
    from tusgate.core.model import Upload
    from tusgate.service.audit import Audit
    from tusgate.service.files import Files
    from tusgate.web.api.door import ApiCall
    from tusgate.web.config import WebConfig


class FilesApi:
    """The operations on files."""

    def __init__(self, config: WebConfig, files: Files, audit: Audit) -> None:
        self._files = files
        self._address = PublicAddress(config)
        self._content = Content(config, files, audit)

    def operations(self) -> tuple[Operation, ...]:
        """Return all of them."""
        return (*self._on_many(), *self._on_one(), self._on_bytes(), self._on_the_tenant())

    def _on_many(self) -> tuple[Operation, ...]:
        """Return what is done with files at once."""
        return (
            Operation(
                method="GET",
                path="/files",
                route=Route.FILES,
                name="listFiles",
                summary="List files, the newest first",
                description=(
                    "Follow `next_cursor` with the same filters. Files that come or go meanwhile move no others: each"
                    " file that is there all the time is seen once. Unfinished uploads are"
                    " `?state=uploading&state=sealed`."
                ),
                answer=self.list,
                query=FileQuery,
                result=FilePage,
                problems=(400,),
            ),
            Operation(
                method="POST",
                path="/files/delete",
                route=Route.DELETIONS,
                name="deleteFiles",
                summary="Delete up to 100 files",
                description="One after the other: asked again after a failure it does the rest.",
                answer=self.delete_many,
                body=Deletion,
                result=DeletionReport,
                problems=(400, 413, 415),
            ),
        )

    def _on_one(self) -> tuple[Operation, ...]:
        """Return what is done with one file, and what is known of it."""
        return (
            Operation(
                method="GET",
                path="/files/{id}",
                route=Route.FILE,
                name="getFile",
                summary="Show a file",
                description="In any state; 410 once it was deleted.",
                answer=self.get,
                result=File,
                problems=(404, 410),
            ),
            Operation(
                method="PATCH",
                path="/files/{id}",
                route=Route.FILE,
                name="changeFile",
                summary="Change the name, the type or the times of a file",
                description=(
                    "The bytes stay, and so does the `Upload-Metadata` that clients of tus are told. Only an"
                    " administrator brings `retain_until` forward."
                ),
                answer=self.change,
                body=FileChange,
                result=File,
                problems=(400, 404, 409, 410, 413, 415),
            ),
            Operation(
                method="DELETE",
                path="/files/{id}",
                route=Route.FILE,
                name="deleteFile",
                summary="Delete a file, or end an upload",
                description="It is gone at once, for good; its bytes are removed from the store in the background.",
                answer=self.delete,
                status=204,
                problems=(404, 409, 410),
            ),
            Operation(
                method="POST",
                path="/files/{id}/processing",
                route=Route.PROCESSING,
                name="processAgain",
                summary="Process a file again",
                description="Jobs that were given up are tried again, as if they never had been; others stay.",
                answer=self.process_again,
                result=File,
                problems=(404, 409, 410),
            ),
        )

    def _on_bytes(self) -> Operation:
        """Return what reads a file."""
        return Operation(
            method="GET",
            path="/files/{id}/content",
            route=Route.CONTENT,
            name="downloadFile",
            summary="Download a file",
            description=(
                "One range (206), `If-Range`, `If-Match`, `If-None-Match` and their dates work; several ranges are"
                " answered with the whole file unless they adjoin. When the store fails in the middle the"
                " connection breaks. Where the server is set so, it is a redirect (302) to the store."
            ),
            answer=self._content.answer,
            query=ContentQuery,
            problems=(302, 304, 400, 403, 404, 409, 410, 412, 416, 502),
        )

    def _on_the_tenant(self) -> Operation:
        """Return what tells of all files of the tenant together."""
        return Operation(
            method="GET",
            path="/usage",
            route=Route.USAGE,
            name="getUsage",
            summary="Show what the tenant has and may have",
            description="Exact: what has been declared counts, what has ended does not.",
            answer=self.usage,
            result=TenantUsage,
        )

    async def list(self, call: ApiCall) -> web.Response:
        """Answer with a page of files."""
        query = call.query
        assert isinstance(query, FileQuery)
        after = None if query.cursor is None else cursor.decode(query.cursor)
        uploads, following = await self._files.page(call.scope, query.filter(), after, query.limit)
        work = await self._files.work_on(uploads)
        files = [self.show(call, upload, work.get(upload.id)) for upload in uploads]
        return json_answer(FilePage(files=files, next_cursor=None if following is None else cursor.encode(following)))

    async def get(self, call: ApiCall) -> web.Response:
        """Answer with one file."""
        return json_answer(await self._in_full(call, await self._files.find(call.scope, call.file_id)))

    async def change(self, call: ApiCall) -> web.Response:
        """Change what a file is called or said to be, and answer with it."""
        assert isinstance(call.body, FileChange)
        upload = await self._files.describe(call.principal, call.file_id, call.body.changes())
        return json_answer(await self._in_full(call, upload))

    async def process_again(self, call: ApiCall) -> web.Response:
        """Have what was given up tried again, and answer with the file."""
        upload = await self._files.process_again(call.scope, call.file_id)
        return json_answer(await self._in_full(call, upload))

    async def _in_full(self, call: ApiCall, upload: Upload) -> File:
        """Return what is shown of one file, but not of each in a list."""
        work = await self._files.work_on([upload])
        undelivered = [Undelivered.of(each) for each in await self._files.undelivered(upload)]
        return self.show(call, upload, work.get(upload.id)).model_copy(update={"undelivered": undelivered})

    async def delete(self, call: ApiCall) -> web.Response:
        """Delete one file."""
        await self._files.delete(call.principal, call.file_id, exchange_of(call.request))
        return web.Response(status=204)

    async def delete_many(self, call: ApiCall) -> web.Response:
        """Delete files and answer with what became of each."""
        assert isinstance(call.body, Deletion)
        ids = [UploadId(each) for each in dict.fromkeys(call.body.ids)]
        outcomes = await self._files.delete_many(call.principal, ids, exchange_of(call.request))
        results = [Deleted(id=file_id, outcome=outcome) for file_id, outcome in outcomes.items()]
        return json_answer(DeletionReport(results=results))

    async def usage(self, call: ApiCall) -> web.Response:
        """Answer with what the tenant has."""
        usage, quota = await self._files.usage(call.scope)
        return json_answer(TenantUsage.of(call.scope.tenant, usage, quota))

    def show(self, call: ApiCall, upload: Upload, work: Work | None = None) -> File:
        """Return what the API shows of `upload`, and of the work on it."""
        content = self._content.url(call.request, upload.id) if upload.state is State.COMPLETE else None
        links = Links(
            self=self._address.url(call.request, f"{ROOT}/files/{upload.id}"),
            upload=self._upload_url(call, upload),
            content=content,
        )
        return File.of(upload, links, self._processing(call, upload, work or Work()))

    def _processing(self, call: ApiCall, upload: Upload, work: Work) -> FileProcessing | None:
        if upload.processing is None:
            return None
        derived = [
            DerivedShown(
                id=each.id,
                derivation=each.derivation or "",
                filename=each.filename,
                content_type=each.content_type,
                size=each.length,
                content=self._content.url(call.request, each.id),
            )
            for each in work.derived
        ]
        jobs = [JobShown.of(job) for job in work.jobs]
        return FileProcessing(state=upload.processing, withheld=upload.withheld, jobs=jobs, derived=derived)

    def _upload_url(self, call: ApiCall, upload: Upload) -> str:
        if upload.created_via is CreatedVia.DIRECT:
            return self._address.url(call.request, f"{ROOT}/uploads/{upload.id}")
        return self._address.upload_url(call.request, upload.id)
