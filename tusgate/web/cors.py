"""Cross-origin rules: which pages may call us, and what browsers let them see.

A listed origin is echoed, with credentials. With `*` any page may upload, but without credentials: echoing every
origin together with them would let any page act with the cookies of a proxy in front of us.
Every answer carries these headers, errors too: without them browsers show status 0 and clients retry blindly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tusgate.core.errors import InvalidRequest, OriginForbidden

if TYPE_CHECKING:
    from aiohttp import web

    from tusgate.web.config import WebConfig
    from tusgate.web.location import PublicAddress

ALLOW_METHODS: Final = "POST, PUT, HEAD, PATCH, DELETE, OPTIONS, GET"
ALLOW_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "Last-Event-ID",
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Checksum",
    "X-HTTP-Method-Override",
    "X-Request-ID",
    "X-Requested-With",
    "Uppy-Auth-Token",
    "Uppy-Credentials-Params",
    "Upload-Complete",
    "Upload-Incomplete",
    "Upload-Draft-Interop-Version",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Digest",
    "Repr-Digest",
    "Range",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "If-Range",
)
EXPOSE_HEADERS: Final = (
    "Location, Upload-Offset, Upload-Length, Upload-Metadata, Upload-Defer-Length, Upload-Concat, Upload-Expires, "
    "Tus-Version, Tus-Resumable, Tus-Max-Size, Tus-Extension, Tus-Checksum-Algorithm, Upload-Complete, "
    "Upload-Incomplete, Upload-Limit, Upload-Draft-Interop-Version, Retry-After, WWW-Authenticate, X-Request-ID, ETag, "
    "Accept-Ranges, Content-Range, Content-Disposition, Content-Encoding, Allow"
)
MAX_AGE: Final = "86400"
"""Seconds that a browser may remember a preflight."""


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks for permission rather than a client for our abilities."""
    return (
        request.method == "OPTIONS"
        and "Origin" in request.headers
        and "Access-Control-Request-Method" in request.headers
    )


class Cors:
    """The rules of one configuration."""

    def __init__(self, config: WebConfig, address: PublicAddress) -> None:
        self._any_origin = "*" in config.cors_origins
        self._origins = frozenset(origin.lower() for origin in config.cors_origins)
        self._allow_headers = ", ".join((*ALLOW_HEADERS, *config.cors_headers))
        self._address = address

    def headers(self, request: web.Request) -> dict[str, str]:
        """Return what every answer to `request` carries.

        Raises:
            OriginForbidden: the page's origin is neither listed nor our own.
        """
        origin = request.headers.get("Origin")
        if self._any_origin:
            return {} if origin is None else self._granted("*")
        if origin is None:
            return {"Vary": "Origin"}
        if origin.lower() not in self._origins and not self._is_own(request, origin):
            raise OriginForbidden
        return self._granted(origin) | {"Access-Control-Allow-Credentials": "true", "Vary": "Origin"}

    def preflight_headers(self) -> dict[str, str]:
        """Return what the answer to a preflight carries beside `headers`."""
        return {
            "Access-Control-Allow-Methods": ALLOW_METHODS,
            "Access-Control-Allow-Headers": self._allow_headers,
            "Access-Control-Max-Age": MAX_AGE,
        }

    def _granted(self, origin: str) -> dict[str, str]:
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSE_HEADERS}

    def _is_own(self, request: web.Request, origin: str) -> bool:
        try:
            return origin.lower() == self._address.origin(request)
        except InvalidRequest:
            return False
