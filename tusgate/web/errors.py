"""The one table from errors to statuses, the one renderer, and the middleware through which every answer passes.

Statuses follow what clients do with them: tus-js-client gives up on every 4xx but 409 and 423, and starts a new
upload when a HEAD is answered with anything but 2xx and 423. So nothing that may pass is a 4xx other than 423, and
nothing that may pass is a 5xx on HEAD.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11

from tusgate.core import errors
from tusgate.telemetry import LogEvent, bind_request, request_id_from

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STATUSES: Final[dict[type[errors.TusgateError], int]] = {
    errors.InvalidRequest: 400,
    errors.WrongProtocol: 400,  # not 409: tus-js-client would try that again for ever
    errors.OriginForbidden: 403,
    errors.UploadNotFound: 404,
    errors.UnsupportedMethod: 405,
    errors.OffsetMismatch: 409,
    errors.Fenced: 409,
    errors.UploadGone: 410,
    errors.MultipartLost: 410,
    errors.UnsupportedVersion: 412,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Finishing: 423,
    errors.MetadataTooLarge: 431,
    errors.ChecksumMismatch: 460,
    errors.SettingsError: 500,
    errors.StoreRefused: 502,
    errors.Interrupted: 503,
    errors.Unavailable: 503,
}
"""Exception to status; a class without a row has that of its nearest ancestor."""
LOCKED: Final = 423
"""Instead of 503 on a tus HEAD."""
RETRY_AFTER: Final[dict[type[errors.TusgateError], int]] = {
    errors.Finishing: 2,
    errors.Draining: 1,
    errors.Unavailable: 5,
}
"""Seconds after which trying again makes sense."""
_INTERNAL: Final = 500
_HTTP_VERSION_NOT_SUPPORTED: Final = 505
_REASONS: Final = {460: "Checksum Mismatch"}
_ROUTING_CODES: Final = {404: "not_found", 405: "unsupported_method"}
_UNREAD_LIMIT: Final = 64 * 1024
"""Bytes of a refused body that are worth reading to keep the connection."""

REPLY_HEADERS: Final = web.RequestKey("reply_headers", dict[str, str])
"""Headers that the answer to this request carries whatever happens; filled in while the request is understood."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client is told about an error.

    Attributes:
        code: stable name of the kind of error.
        message: one line, naming the field where there is one.
        headers: that go with the status.
        close: whether the connection ends with this answer.
    """

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False


def status_of(error: errors.TusgateError) -> int:
    """Return the status of the nearest class in `STATUSES`; 500 for an error that nobody should let out."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), _INTERNAL)


def problem_of(error: errors.TusgateError) -> Problem:
    """Return what `error` means in HTTP, before a protocol adds its own headers."""
    headers: dict[str, str] = {}
    if isinstance(error, errors.UnsupportedMethod):
        headers["Allow"] = ", ".join(error.allowed)
    seconds = next((RETRY_AFTER[kind] for kind in type(error).__mro__ if kind in RETRY_AFTER), None)
    if seconds is not None:
        headers["Retry-After"] = str(seconds)
    close = isinstance(error, errors.Interrupted | errors.Fenced)
    return Problem(status_of(error), error.code, str(error), headers, close)


def plain_text(problem: Problem, *, with_body: bool) -> web.Response:
    """Return `code: message` as one line of text; no body where the answer is to a HEAD (keep-alive would desync)."""
    line = " ".join(f"{problem.code}: {problem.message}".split())
    response = web.Response(
        status=problem.status,
        reason=_REASONS.get(problem.status),
        text=line + "\n" if with_body else None,
        headers=problem.headers | {"Cache-Control": "no-store"},
    )
    if problem.close:
        response.force_close()
    return response


@web.middleware
async def finish_answers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn what handlers raise into answers, and give all answers the headers that they share.

    The only place that catches every exception and logs errors.
    """
    request_id = request_id_from(request.headers.get("X-Request-ID"))
    bind_request(request_id)
    request[REPLY_HEADERS] = {"X-Content-Type-Options": "nosniff", "Server": "tusgate"}
    with_body = request.method != "HEAD"
    try:
        response = await handler(request) if _is_http_1(request) else _wrong_http_version(request)
    except errors.TusgateError as error:
        response = plain_text(problem_of(error), with_body=with_body)
    except web.HTTPException as error:
        response = plain_text(_routing_problem(error), with_body=with_body)
    except Exception:  # noqa: BLE001 # the last resort: nothing may pass without an answer
        _log.exception(LogEvent.REQUEST_FAILED, method=request.method, path=request.path)
        problem = Problem(_INTERNAL, "internal", f"request {request_id}", {"X-Request-ID": request_id}, close=True)
        response = plain_text(problem, with_body=with_body)
    if not response.prepared:
        for name, value in request[REPLY_HEADERS].items():
            response.headers.setdefault(name, value)
        if _leaves_much_unread(request):
            response.force_close()
    return response


def _is_http_1(request: web.Request) -> bool:
    """Whether the request is HTTP/1.0 or 1.1: aiohttp takes and echoes any version."""
    return request.version in (HttpVersion10, HttpVersion11)


def _wrong_http_version(request: web.Request) -> web.Response:
    version = f"HTTP/{request.version.major}.{request.version.minor}"
    problem = Problem(_HTTP_VERSION_NOT_SUPPORTED, "http_version", f"expected HTTP/1.1, got {version}", close=True)
    return plain_text(problem, with_body=request.method != "HEAD")


def _routing_problem(error: web.HTTPException) -> Problem:
    code = _ROUTING_CODES.get(error.status, "refused")
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return Problem(error.status, code, error.reason, headers)


def _leaves_much_unread(request: web.Request) -> bool:
    """Whether so much of the body was not read that closing is better than reading on.

    So it is too when the client waits for `100 Continue`: it may leave the body out, or send it after all.
    """
    content = request.content
    if content.is_eof():
        return False
    announced = request.content_length
    if announced is None or "Expect" in request.headers:
        return True
    return announced - content.total_bytes > _UNREAD_LIMIT
