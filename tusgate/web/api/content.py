"""Downloads: the bytes of a file, by us or by a redirect to the store.

Nothing is sent before the store has given the first bytes, so that what is wrong with the object is still an answer.
After that the only way to say that the rest will not come is to break the connection: the Content-Length is not
reached, and every client knows.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from tusgate.core.errors import DownloadsOff, StoreUnavailable
from tusgate.telemetry import LogEvent
from tusgate.web.api.door import ROOT
from tusgate.web.api.models import ContentQuery
from tusgate.web.errors import Problem, add_shared_headers
from tusgate.web.headers import format_date
from tusgate.web.location import PublicAddress
from tusgate.web.preconditions import Validators, Verdict, judge, range_counts
from tusgate.web.presentation import SAFETY_HEADERS, coding_of, presentation_of
from tusgate.web.problem_json import problem_json
from tusgate.web.ranges import ByteRange, UnsatisfiableRangeError, wanted_range

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tusgate.core.model import Upload, UploadId
    from tusgate.ports import Presentation
    from tusgate.service.files import Files
    from tusgate.web.api.door import ApiCall
    from tusgate.web.config import WebConfig

LONGEST_LINK: Final = 300
"""Seconds that the URL of a redirect works: whoever has it needs no credentials, and it cannot be revoked."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Selected:
    """What a GET of a file is answered with.

    Attributes:
        headers: of the answer, but for those of all answers.
        part: the bytes; None: all of them.
    """

    headers: dict[str, str]
    part: ByteRange | None
    length: int

    @property
    def status(self) -> int:
        return 200 if self.part is None else 206

    @property
    def start(self) -> int:
        return 0 if self.part is None else self.part.start

    @property
    def size(self) -> int:
        return self.length if self.part is None else self.part.size


class Content:
    """Answers requests for the bytes of files, as the settings want it."""

    def __init__(self, config: WebConfig, files: Files) -> None:
        self._files = files
        self._mode = config.downloads
        self._own_url = config.download_url
        self._cache_control = config.download_cache_control
        self._min_rate = config.min_rate
        self._rate_window = config.rate_window
        self._address = PublicAddress(config)

    def url(self, request: web.Request, upload_id: UploadId) -> str | None:
        """Return where the bytes of a file are to be had; None where downloads are off."""
        path = f"{ROOT}/files/{upload_id}/content"
        if self._mode == "off":
            return None
        return self._own_url + path if self._own_url is not None else self._address.url(request, path)

    async def answer(self, call: ApiCall) -> web.StreamResponse:
        """Serve a GET or HEAD. They differ in the bytes only (RFC 9110, 9.3.2); Range is for GET."""
        if self._mode == "off":
            raise DownloadsOff
        if self._own_url is not None and self._is_elsewhere(call.request, self._own_url):
            return _see(f"{self._own_url}{call.request.rel_url.raw_path_qs}")
        upload = await self._files.finished(call.scope, call.file_id)
        presentation = self._presentation(call, upload)
        if self._mode == "redirect":
            method: Literal["GET", "HEAD"] = "HEAD" if call.request.method == "HEAD" else "GET"
            link = self._files.presigned(method, upload, presentation, LONGEST_LINK)
            if link is not None:
                return _see(link)
        return await self._answer_bytes(call.request, upload, presentation)

    def _presentation(self, call: ApiCall, upload: Upload) -> Presentation:
        assert isinstance(call.query, ContentQuery)
        inline = call.query.disposition == "inline"
        return presentation_of(upload, inline=inline, cache_control=self._cache_control)

    def _is_elsewhere(self, request: web.Request, own_url: str) -> bool:
        """Whether a request came by another host than that for downloads. Schemes are for proxies to get right."""
        return urlsplit(self._address.origin(request)).hostname != urlsplit(own_url).hostname

    async def _answer_bytes(
        self, request: web.Request, upload: Upload, presentation: Presentation
    ) -> web.StreamResponse:
        validators = Validators(f'"{upload.etag}"', upload.completed_at or upload.updated_at)
        verdict = judge(request.headers, validators)
        if verdict is Verdict.FAILED:
            return _problem(request, 412, "precondition_failed", "the file is not the one that was meant")
        if verdict is Verdict.NOT_MODIFIED:
            return web.Response(status=304, headers=_lasting_headers(validators, presentation))
        try:
            selected = _select(request, upload, validators, presentation)
        except UnsatisfiableRangeError:
            headers = {"Content-Range": f"bytes */{upload.offset}", "Accept-Ranges": "bytes"}
            return _problem(request, 416, "range_not_satisfiable", "Range: no such bytes", headers)
        if request.method == "HEAD" or selected.size == 0:
            return _head_of(selected)
        return await self._send(request, upload, selected)

    async def _send(self, request: web.Request, upload: Upload, selected: _Selected) -> web.StreamResponse:
        chunks = self._files.read(upload, selected.start, selected.size)
        async with aclosing(chunks):
            first = await anext(chunks)
            response = _head_of(selected)
            add_shared_headers(request, response)
            is_whole = False
            try:
                await response.prepare(request)
                await self._write(response, first)
                is_whole = await self._write_rest(request, upload, response, chunks)
            except ConnectionError:
                pass  # the client has gone, as it may
            finally:
                if not is_whole and request.transport is not None:
                    request.transport.abort()
        return response

    async def _write_rest(
        self, request: web.Request, upload: Upload, response: web.StreamResponse, chunks: AsyncGenerator[bytes]
    ) -> bool:
        """Send what is left; return whether all of it was."""
        try:
            async for chunk in chunks:
                await self._write(response, chunk)
        except StoreUnavailable as error:
            log.warning(LogEvent.DOWNLOAD_BROKEN, upload_id=upload.id, error=str(error))
            return False
        except TimeoutError:
            log.info(LogEvent.DOWNLOAD_STALLED, upload_id=upload.id, client=request.remote)
            return False
        return True

    async def _write(self, response: web.StreamResponse, chunk: bytes) -> None:
        """Send a chunk and wait until the client has taken most of it. Raises TimeoutError when it is too slow."""
        patience = self._rate_window + len(chunk) / self._min_rate if self._min_rate else None
        async with asyncio.timeout(patience):
            await response.write(chunk)


def _select(request: web.Request, upload: Upload, validators: Validators, presentation: Presentation) -> _Selected:
    """Return what a request gets. Raises UnsatisfiableRangeError."""
    length = upload.offset
    part = None
    if request.method == "GET" and range_counts(request.headers, validators):
        part = wanted_range(request.headers.get("Range"), length)
    headers = {
        **_lasting_headers(validators, presentation),
        "Content-Type": presentation.content_type,
        "Content-Disposition": presentation.disposition,
        "Accept-Ranges": "bytes",
        **SAFETY_HEADERS,
    }
    coding = coding_of(upload)
    if coding is not None:
        headers["Content-Encoding"] = coding
    if part is not None:
        headers["Content-Range"] = part.content_range(length)
    return _Selected(headers, part, length)


def _lasting_headers(validators: Validators, presentation: Presentation) -> dict[str, str]:
    """Return what a 304 has of the 200 (RFC 9110, 15.4.5)."""
    return {
        "ETag": validators.etag,
        "Last-Modified": format_date(validators.modified),
        "Cache-Control": presentation.cache_control,
    }


def _head_of(selected: _Selected) -> web.StreamResponse:
    response = web.StreamResponse(status=selected.status, headers=selected.headers)
    response.content_length = selected.size
    return response


def _see(url: str) -> web.Response:
    """Return a redirect that nobody keeps, and that nobody who is linked from there learns of."""
    return web.Response(
        status=302, headers={"Location": url, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    )


def _problem(
    request: web.Request, status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> web.Response:
    problem = Problem(status, code, message, headers or {})
    return problem_json(problem, with_body=request.method != "HEAD")
