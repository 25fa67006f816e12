"""The secret by which a CDN shows that a request for a file came through it, and not around it."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import OriginTokenMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

FIELD: Final = "X-Origin-Token"
"""Field that the CDN adds to what it asks its origin."""


class OriginTokens:
    """The tokens that count; several at once, so that one can be replaced while both are in use.

    Args:
        tokens: without any, nobody is asked for one.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tuple(token.encode() for token in tokens)

    def check(self, request: web.Request) -> None:
        """Raise OriginTokenMissing unless `request` shows one. How long it takes tells nothing about the tokens."""
        if not self._tokens:
            return
        values = request.headers.getall(FIELD, [])
        shown = values[0].encode("utf-8", "surrogateescape") if len(values) == 1 else b""
        if True not in [hmac.compare_digest(shown, token) for token in self._tokens]:  # a list: all are compared
            raise OriginTokenMissing
