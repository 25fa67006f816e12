"""What goes wrong, in the words of RUFH: problem details (RFC 9457) with the types of the drafts."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from tusgate.core import errors
from tusgate.web.errors import RUFH_STATUSES, problem_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_REGISTRY: Final = "https://iana.org/assignments/http-problem-types#"
_TYPES: Final[dict[type[errors.TusgateError], str]] = {
    errors.OffsetMismatch: _REGISTRY + "mismatching-upload-offset",
    errors.InconsistentLength: _REGISTRY + "inconsistent-upload-length",
    errors.Overrun: _REGISTRY + "inconsistent-upload-length",
    errors.AlreadyComplete: _REGISTRY + "completed-upload",
}


def problem_answer(error: errors.TusgateError, headers: Mapping[str, str], *, with_body: bool) -> web.Response:
    """Return the answer to a request that met `error`, with `headers` beside those of the error itself."""
    problem = problem_of(error, RUFH_STATUSES)
    details: dict[str, object] = {
        "type": _TYPES.get(type(error), "about:blank"),
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.message,
        "code": problem.code,
    }
    if isinstance(error, errors.OffsetMismatch):
        details |= {"expected-offset": error.expected, "provided-offset": error.provided}
    response = web.Response(
        status=problem.status,
        body=json.dumps(details).encode() if with_body else None,
        content_type="application/problem+json" if with_body else None,
        headers={**problem.headers, "Cache-Control": "no-store", **headers},
    )
    if problem.close:
        response.force_close()
    return response
