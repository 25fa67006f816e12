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
    from collections.abc import Awaitable, Callable, Mapping

STATUSES: Final[dict[type[errors.TusgateError], int]] = {
    errors.InvalidRequest: 400,
    errors.AlreadyComplete: 400,
    errors.HookRefused: 400,  # unless the hook says another one
    errors.WrongProtocol: 400,  # not 409: tus-js-client would try that again for ever
    errors.NotDirect: 409,
    errors.OnlyDirect: 409,
    errors.PartsRefused: 409,
    errors.PartsFixed: 409,
    errors.Unauthenticated: 401,
    errors.OriginForbidden: 403,
    errors.TenantUnknown: 403,
    errors.FinalIsFixed: 403,  # tus 1.0, concatenation: MUST respond with 403
    errors.Forbidden: 403,
    errors.DownloadsOff: 403,
    errors.OriginTokenMissing: 403,
    errors.SharingOff: 403,
    errors.UploadNotFound: 404,
    errors.UnsupportedMethod: 405,
    errors.OffsetMismatch: 409,
    errors.StillNeeded: 409,
    errors.Retained: 409,
    errors.Fenced: 409,
    errors.NotComplete: 409,
    errors.StillProcessing: 409,
    errors.JobLost: 409,
    errors.NotClean: 403,
    errors.TooManyShares: 409,
    errors.UploadGone: 410,
    errors.MultipartLost: 410,
    errors.UnsupportedVersion: 412,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Finishing: 423,
    errors.TooManyRequests: 429,  # creations only: nothing is lost, and no client forgets anything
    errors.TooManyUploads: 429,
    errors.UnknownHost: 421,  # RFC 9110, 15.5.20
    errors.TooManyTries: 429,
    errors.MetadataTooLarge: 431,
    errors.ChecksumMismatch: 460,
    errors.SettingsError: 500,
    errors.DirectOff: 501,
    errors.InstantOff: 501,
    errors.StoreRefused: 502,
    errors.ObjectLost: 502,
    errors.DeliveryFailed: 502,  # no request meets these two: they are between relays and sinks
    errors.SinkGone: 502,
    errors.HookFailed: 502,  # nor this one: it becomes HookUnavailable, or nothing
    errors.ProcessingFailed: 502,  # nor this one: it is between workers and jobs
    errors.Interrupted: 503,
    errors.Unavailable: 503,
}
"""Exception to status; a class without a row has that of its nearest ancestor."""
RUFH_STATUSES: Final[dict[type[errors.TusgateError], int]] = STATUSES | {
    errors.Overrun: 400,
    errors.ChecksumMismatch: 400,  # 460 is a status of tus
    errors.UploadGone: 404,
    errors.MultipartLost: 404,
    errors.Finishing: 503,  # its clients stop at a 4xx and try a 5xx again
}
"""The same for RUFH."""
LOCKED: Final = 423
"""Instead of 503 on a tus HEAD."""
RETRY_AFTER: Final[dict[type[errors.TusgateError], int]] = {
    errors.Finishing: 2,
    errors.Draining: 1,
    errors.TooManyRequests: 1,
    errors.TooManyUploads: 30,
    errors.Throttled: 1,
    errors.StillProcessing: 5,
    errors.Unavailable: 5,
    errors.TooManyTries: 60,
}
"""Seconds after which trying again makes sense."""
_BAD_REQUEST: Final = 400
_INTERNAL: Final = 500
_HTTP_VERSION_NOT_SUPPORTED: Final = 505
_SCHEME: Final = 'Bearer realm="tusgate"'
_REASONS: Final = {460: "Checksum Mismatch"}
_ROUTING_CODES: Final = {404: "not_found", 405: "unsupported_method"}
_UNREAD_LIMIT: Final = 64 * 1024
"""Bytes of a refused body that are worth reading to keep the connection."""

SHARED_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Server": "tusgate"}
"""Headers of all answers."""
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
        body: instead of the form in which the protocol tells problems.
    """

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False
    body: str | None = None


def status_of(error: errors.TusgateError, statuses: Mapping[type[errors.TusgateError], int] = STATUSES) -> int:
    """Return the status of the nearest class in `statuses`; 500 for an error that nobody should let out."""
    return next((statuses[kind] for kind in type(error).__mro__ if kind in statuses), _INTERNAL)


def problem_of(error: errors.TusgateError, statuses: Mapping[type[errors.TusgateError], int] = STATUSES) -> Problem:
    """Return what `error` means in HTTP, before a protocol adds its own headers."""
    if isinstance(error, errors.HookRefused):
        return _refusal_by_hook(error)
    headers: dict[str, str] = {}
    if isinstance(error, errors.UnsupportedMethod):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, errors.Unauthenticated | errors.PermissionMissing):
        headers["WWW-Authenticate"] = _challenge(error)
    seconds = next((RETRY_AFTER[kind] for kind in type(error).__mro__ if kind in RETRY_AFTER), None)
    if seconds is not None:
        headers["Retry-After"] = str(seconds)
    close = isinstance(error, errors.Interrupted | errors.Fenced | errors.Overloaded)
    return Problem(status_of(error, statuses), error.code, str(error), headers, close)


def _refusal_by_hook(error: errors.HookRefused) -> Problem:
    """Return what the hook wants to be told; without a body of its own, the error in the form of the protocol."""
    reply = error.reply
    headers = {name: value for name, value in reply.headers.items() if reply.body or name.lower() != "content-type"}
    return Problem(reply.status or 400, error.code, str(error), headers, body=reply.body or None)


def _challenge(error: errors.Unauthenticated | errors.PermissionMissing) -> str:
    """Return what credentials are expected, and what is wrong with those that came (RFC 6750, 3)."""
    if isinstance(error, errors.PermissionMissing):
        return f'{_SCHEME}, error="insufficient_scope", scope="{" ".join(error.needed)}"'
    if isinstance(error, errors.InvalidCredentials | errors.CredentialsExpired):
        return f'{_SCHEME}, error="invalid_token", error_description="{error.code}"'
    return _SCHEME


def plain_text(problem: Problem, *, with_body: bool) -> web.Response:
    """Return `code: message` as one line of text; no body where the answer is to a HEAD (keep-alive would desync)."""
    if problem.body is not None:
        return body_of_hook(problem, with_body=with_body)
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


def body_of_hook(problem: Problem, *, with_body: bool) -> web.Response:
    """Return a problem in the words of a hook."""
    headers = {"Content-Type": "text/plain; charset=utf-8", **_titled(problem.headers), "Cache-Control": "no-store"}
    return web.Response(
        status=problem.status,
        body=(problem.body or "").encode("utf-8", "replace") if with_body else None,
        headers=headers,
    )


def _titled(headers: Mapping[str, str]) -> dict[str, str]:
    """Return `headers` by names written as usual, so that one that is there in another case is replaced."""
    return {"-".join(word.capitalize() for word in name.split("-")): value for name, value in headers.items()}


def malformed_request() -> web.Response:
    """Return the answer to what is not HTTP: there is no request, so nothing of it can be repeated."""
    response = plain_text(
        Problem(_BAD_REQUEST, "malformed_request", "the request is not valid HTTP/1.1", close=True), with_body=True
    )
    response.headers.update(SHARED_HEADERS)
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
    request[REPLY_HEADERS] = {**SHARED_HEADERS}
    with_body = request.method != "HEAD"
    try:
        refusal = _refusal_of_framing(request)
        response = await handler(request) if refusal is None else plain_text(refusal, with_body=with_body)
    except errors.TusgateError as error:
        response = plain_text(problem_of(error), with_body=with_body)
    except web.HTTPException as error:
        response = plain_text(_routing_problem(error), with_body=with_body)
    except Exception:  # noqa: BLE001 # the last resort: nothing may pass without an answer
        _log.exception(LogEvent.REQUEST_FAILED, method=request.method, path=request.path)
        problem = Problem(_INTERNAL, "internal", f"request {request_id}", {"X-Request-ID": request_id}, close=True)
        response = plain_text(problem, with_body=with_body)
    if not response.prepared:
        add_shared_headers(request, response)
    return response


def add_shared_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Give an answer what all answers have; called by handlers that send theirs themselves, before they begin."""
    for name, value in request[REPLY_HEADERS].items():
        response.headers.setdefault(name, value)
    if _may_leave_trailers(request) or _leaves_much_unread(request):
        response.force_close()


def _refusal_of_framing(request: web.Request) -> Problem | None:
    """Return what is wrong with the frame of a request, after which nothing on its connection can be trusted.

    aiohttp takes any version, and any transfer coding whose last one is chunked. RFC 9112, 6.1: a coding that the
    server does not know is refused, and HTTP/1.0 has none: a proxy that ignores it there sees another request.
    """
    version = request.version
    if version not in (HttpVersion10, HttpVersion11):
        got = f"HTTP/{version.major}.{version.minor}"
        return Problem(_HTTP_VERSION_NOT_SUPPORTED, "http_version", f"expected HTTP/1.1, got {got}", close=True)
    coding = request.headers.get("Transfer-Encoding")
    if coding is None or (version == HttpVersion11 and coding.lower() == "chunked"):
        return None
    return Problem(_BAD_REQUEST, "invalid_request", "Transfer-Encoding: expected chunked, in HTTP/1.1", close=True)


def _routing_problem(error: web.HTTPException) -> Problem:
    code = _ROUTING_CODES.get(error.status, "refused")
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return Problem(error.status, code, error.reason, headers)


def _may_leave_trailers(request: web.Request) -> bool:
    """Whether the body may have had trailers.

    aiohttp (3.14.5) takes the last trailer of a request for the first header field of the next one on the connection,
    which a proxy may have sent for another client. Nobody can see whether there was one.
    """
    return "Transfer-Encoding" in request.headers


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
