"""Downloads: the bytes of a file, by us or by a redirect to the store.

Nothing is sent before the store has given the first bytes, so that what is wrong with the object is still an answer.
After that the only way to say that the rest will not come is to break the connection: the Content-Length is not
reached, and every client knows.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from tusgate.core.audit import How
from tusgate.core.errors import DownloadsOff, StoreUnavailable
from tusgate.telemetry import LogEvent
from tusgate.web.api.door import ROOT
from tusgate.web.api.models import ContentQuery
from tusgate.web.errors import Problem, add_shared_headers
from tusgate.web.headers import format_date
from tusgate.web.location import PublicAddress, TrustedProxies
from tusgate.web.origin_tokens import OriginTokens
from tusgate.web.preconditions import Validators, Verdict, judge, range_counts
from tusgate.web.presentation import SAFETY_HEADERS, coding_of, presentation_of
from tusgate.web.problem_json import problem_json
from tusgate.web.ranges import ByteRange, UnsatisfiableRangeError, wanted_range

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from tusgate.core.audit import NewAccess
    from tusgate.core.model import Upload, UploadId
    from tusgate.ports import Presentation
    from tusgate.service.audit import Audit
    from tusgate.service.files import Files
    from tusgate.web.api.door import ApiCall
    from tusgate.web.config import WebConfig

LONGEST_LINK: Final = 300
"""Seconds that the URL of a redirect works: whoever has it needs no credentials, and it cannot be revoked."""

NO_FIELDS: Final[Mapping[str, str]] = MappingProxyType({})

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


class Visit(Protocol):
    """Whoever is about to read a file."""

    async def begin(self, part: tuple[int, int] | None) -> Mapping[str, str]:
        """Let the bytes go, or raise why not; asked once, before the first one leaves.

        Args:
            part: the first byte, and how many; None: the store will send them.

        Returns:
            Header fields that the answer has beside all others.
        """

    def end(self, sent: int) -> None:
        """Take note that it is over, after so many bytes were handed to the network."""


class Login:
    """A visit by somebody who may read the file."""

    def __init__(self, audit: Audit, call: ApiCall, upload: Upload, client: str | None) -> None:
        self._audit = audit
        self._principal = call.principal
        self._upload = upload
        self._client = client
        self._begun: NewAccess | None = None

    async def begin(self, part: tuple[int, int] | None) -> Mapping[str, str]:
        """Write down who reads."""
        self._begun = await self._audit.begin(
            self._upload,
            reader=self._principal.scope.owner,
            proof=self._principal.proof,
            how=How.REDIRECT if part is None else How.CONTENT,
            client=self._client,
            part=part,
            is_over=part is None,
        )
        return NO_FIELDS

    def end(self, sent: int) -> None:
        """Have it written down."""
        self._audit.end(self._begun, sent)


class Content:
    """The bytes of files in the API."""

    def __init__(self, config: WebConfig, files: Files, audit: Audit) -> None:
        self._files = files
        self._audit = audit
        self._proxies = TrustedProxies(config.trusted_proxies)
        self._delivery = Delivery(config, files)
        self._cache_control = config.download_cache_control

    def url(self, request: web.Request, upload_id: UploadId) -> str | None:
        """Return where the bytes of a file are to be had; None where downloads are off."""
        return self._delivery.url(request, f"{ROOT}/files/{upload_id}/content")

    async def answer(self, call: ApiCall) -> web.StreamResponse:
        """Serve a GET or HEAD. They differ in the bytes only (RFC 9110, 9.3.2); Range is for GET."""
        elsewhere = self._delivery.elsewhere(call.request)
        if elsewhere is not None:
            return elsewhere
        assert isinstance(call.query, ContentQuery)
        upload = await self._files.finished(call.scope, call.file_id)
        inline = call.query.disposition == "inline"
        presentation = presentation_of(upload, inline=inline, cache_control=self._cache_control)
        visit = Login(self._audit, call, upload, self._proxies.client_of(call.request))
        return await self._delivery.answer(call.request, upload, presentation, visit)


class Delivery:
    """Hands out the bytes of files to whoever may have them, as the settings want it."""

    def __init__(self, config: WebConfig, files: Files) -> None:
        self._files = files
        self._mode = config.downloads
        self._own_url = config.download_url
        self._tokens = OriginTokens(config.origin_tokens)
        self._min_rate = config.min_rate
        self._rate_window = config.rate_window
        self._address = PublicAddress(config)

    def url(self, request: web.Request, path: str) -> str | None:
        """Return the address of `path` for downloads; None where they are off."""
        if self._mode == "off":
            return None
        return self._own_url + path if self._own_url is not None else self._address.url(request, path)

    def elsewhere(self, request: web.Request) -> web.Response | None:
        """Return where a request has to go that came by another host than that for downloads.

        Raises:
            DownloadsOff: there are none.
            OriginTokenMissing: it came by that host, but not through the CDN.
        """
        if self._mode == "off":
            raise DownloadsOff
        if self._own_url is None:
            return None
        # Schemes are for proxies to get right.
        if self._address.host_asked(request) == urlsplit(self._own_url).hostname:
            self._tokens.check(request)
            return None
        return _see(f"{self._own_url}{request.rel_url.raw_path_qs}")

    async def answer(
        self, request: web.Request, upload: Upload, presentation: Presentation, visit: Visit
    ) -> web.StreamResponse:
        """Serve a GET or HEAD of a finished file. `visit` is asked before bytes leave, or leave from the store."""
        is_head = request.method == "HEAD"
        if self._mode == "redirect":
            link = self._files.presigned("HEAD" if is_head else "GET", upload, presentation, LONGEST_LINK)
            if link is not None:
                return _see(link, NO_FIELDS if is_head else await visit.begin(None))
        return await self._answer_bytes(request, upload, presentation, visit)

    async def _answer_bytes(
        self, request: web.Request, upload: Upload, presentation: Presentation, visit: Visit
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
        if request.method == "HEAD":
            return _head_of(selected)
        if selected.size == 0:
            fields = await visit.begin((0, 0))
            visit.end(0)
            return _head_of(selected, fields)
        return await self._send(request, upload, selected, visit)

    async def _send(
        self, request: web.Request, upload: Upload, selected: _Selected, visit: Visit
    ) -> web.StreamResponse:
        chunks = self._files.read(upload, selected.start, selected.size)
        async with aclosing(chunks):
            first = await anext(chunks)
            response = _head_of(selected, await visit.begin((selected.start, selected.size)))
            add_shared_headers(request, response)
            sent = 0
            try:
                await response.prepare(request)
                async for chunk in self._unbroken(upload, first, chunks):
                    await self._write(response, chunk)
                    sent += len(chunk)
            except ConnectionError:
                pass  # the client has gone, as it may
            except TimeoutError:
                log.info(LogEvent.DOWNLOAD_STALLED, upload_id=upload.id, client=request.remote)
            finally:
                visit.end(sent)
                if sent != selected.size and request.transport is not None:
                    request.transport.abort()
        return response

    async def _unbroken(self, upload: Upload, first: bytes, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """Pass on what the store gives, until it fails."""
        yield first
        try:
            async for chunk in chunks:
                yield chunk
        except StoreUnavailable as error:
            log.warning(LogEvent.DOWNLOAD_BROKEN, upload_id=upload.id, error=str(error))

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


def _head_of(selected: _Selected, more: Mapping[str, str] = NO_FIELDS) -> web.StreamResponse:
    response = web.StreamResponse(status=selected.status, headers={**selected.headers, **more})
    response.content_length = selected.size
    return response


def _see(url: str, more: Mapping[str, str] = NO_FIELDS) -> web.Response:
    """Return a redirect that nobody keeps, and that nobody who is linked from there learns of."""
    headers = {"Location": url, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", **more}
    return web.Response(status=302, headers=headers)


def _problem(
    request: web.Request, status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> web.Response:
    problem = Problem(status, code, message, headers or {})
    return problem_json(problem, with_body=request.method != "HEAD")
