"""Problem details (RFC 9457), as the protocols and the API that speak JSON answer with them."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from tusgate.web.errors import body_of_hook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusgate.web.errors import Problem

MEDIA_TYPE: Final = "application/problem+json"
NO_TYPE: Final = "about:blank"
"""The problem is no more than its status; `code` tells our errors apart."""


def problem_json(
    problem: Problem,
    *,
    with_body: bool,
    type_uri: str = NO_TYPE,
    more: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return the answer that tells `problem`.

    Args:
        problem: what went wrong.
        with_body: False for the answer to a HEAD.
        type_uri: of the kind of problem.
        more: members beside those of all problems.
        headers: beside those of `problem`.
    """
    if problem.body is not None:
        response = body_of_hook(problem, with_body=with_body)
        response.headers.update(headers or {})
        return response
    details: dict[str, object] = {
        "type": type_uri,
        "title": _phrase(problem.status),
        "status": problem.status,
        "detail": problem.message,
        "code": problem.code,
        **(more or {}),
    }
    response = web.Response(
        status=problem.status,
        body=json.dumps(details).encode() if with_body else None,
        content_type=MEDIA_TYPE if with_body else None,
        headers={**problem.headers, "Cache-Control": "no-store", **(headers or {})},
    )
    if problem.close:
        response.force_close()
    return response


def _phrase(status: int) -> str:
    """Return the usual words for a status; a hook may answer with one that has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"
