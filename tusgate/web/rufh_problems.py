"""What goes wrong, in the words of RUFH: problem details (RFC 9457) with the types of the drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tusgate.core import errors
from tusgate.web.errors import RUFH_STATUSES, problem_of
from tusgate.web.problem_json import NO_TYPE, problem_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

_REGISTRY: Final = "https://iana.org/assignments/http-problem-types#"
_TYPES: Final[dict[type[errors.TusgateError], str]] = {
    errors.OffsetMismatch: _REGISTRY + "mismatching-upload-offset",
    errors.InconsistentLength: _REGISTRY + "inconsistent-upload-length",
    errors.Overrun: _REGISTRY + "inconsistent-upload-length",
    errors.AlreadyComplete: _REGISTRY + "completed-upload",
}


def problem_answer(error: errors.TusgateError, headers: Mapping[str, str], *, with_body: bool) -> web.Response:
    """Return the answer to a request that met `error`, with `headers` beside those of the error itself."""
    more = {}
    if isinstance(error, errors.OffsetMismatch):
        more = {"expected-offset": error.expected, "provided-offset": error.provided}
    type_uri = _TYPES.get(type(error), NO_TYPE)
    problem = problem_of(error, RUFH_STATUSES)
    return problem_json(problem, with_body=with_body, type_uri=type_uri, more=more, headers=headers)
