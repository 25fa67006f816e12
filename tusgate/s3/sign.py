"""AWS Signature Version 4 for requests whose body is not hashed: in the Authorization header, or in a URL.

Source: "Signature Calculations for the Authorization Header" and "Authenticating Requests: Using Query Parameters" in
the Amazon S3 API reference. All headers that are
given are signed: S3 demands it of Host and Content-Type, rclone of every `x-amz-*`. Headers that proxies rewrite
(Accept-Encoding, User-Agent, Connection, Expect) are for the HTTP client to add afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]*")


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key. Secrets are kept out of `repr`."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def encode_path(path: str) -> str:
    """Percent-encode a path the way S3 canonicalises it: once, leaving `/` and unreserved characters."""
    return quote(path, safe="/-_.~")


def encode_query(parameters: Mapping[str, str]) -> str:
    """Return the canonical query string: sorted, with everything but unreserved characters encoded."""
    pairs = sorted((_encoded(name), _encoded(value)) for name, value in parameters.items())
    return "&".join([f"{name}={value}" for name, value in pairs])


def _encoded(text: str) -> str:
    """Return `text` percent-encoded. Most of it needs that not, and quote() takes four times as long to see it."""
    return text if _UNRESERVED.fullmatch(text) else quote(text, safe="-_.~")


class Signer:
    """Signs requests with one key for one region. The derived key of the day is kept."""

    def __init__(self, credentials: Credentials, region: str, service: str = "s3") -> None:
        self._credentials = credentials
        self._region = region
        self._service = service
        self._day = ""
        self._day_key = b""

    def sign(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        now: datetime,
        payload_hash: str = UNSIGNED_PAYLOAD,
    ) -> dict[str, str]:
        """Return `headers` with x-amz-date, x-amz-content-sha256, the session token and Authorization added.

        Args:
            method: HTTP method.
            path: from `encode_path`, starting with `/`.
            query: from `encode_query`.
            headers: with lower-case names; must contain `host`.
            now: in UTC.
            payload_hash: hexadecimal SHA-256 of the body, or UNSIGNED-PAYLOAD.
        """
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        complete = {**headers, "x-amz-date": stamp, "x-amz-content-sha256": payload_hash}
        if self._credentials.session_token:
            complete["x-amz-security-token"] = self._credentials.session_token
        signed_names = ";".join(sorted(complete))
        signature = self._signature(method, path, query, complete, stamp, payload_hash)
        complete["authorization"] = (
            f"{_ALGORITHM} Credential={self._credentials.access_key}/{self._scope(stamp)}, "
            f"SignedHeaders={signed_names}, Signature={signature}"
        )
        return complete

    def presign(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        host: str,
        now: datetime,
        seconds: int,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Return a query string that lets whoever has it make one kind of request.

        Args:
            method: HTTP method.
            path: from `encode_path`, starting with `/`.
            parameters: of the query, decoded.
            host: value of the Host header.
            now: in UTC; from then on it is good.
            seconds: for so long; a session token may end earlier.
            headers: with lower-case names, that the request must have, with these values, beside Host.
        """
        signed = {"host": host, **(headers or {})}
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        complete = {
            **parameters,
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{self._credentials.access_key}/{self._scope(stamp)}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": ";".join(sorted(signed)),
        }
        if self._credentials.session_token:
            complete["X-Amz-Security-Token"] = self._credentials.session_token
        query = encode_query(complete)
        signature = self._signature(method, path, query, signed, stamp, UNSIGNED_PAYLOAD)
        return f"{query}&X-Amz-Signature={signature}"

    def _signature(
        self, method: str, path: str, query: str, headers: Mapping[str, str], stamp: str, payload_hash: str
    ) -> str:
        names = sorted(headers)
        canonical_headers = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
        canonical = "\n".join((method, path, query, canonical_headers, ";".join(names), payload_hash))
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"{_ALGORITHM}\n{stamp}\n{self._scope(stamp)}\n{digest}"
        return hmac.digest(self._signing_key(stamp[:8]), to_sign.encode(), "sha256").hex()

    def _scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"

    def _signing_key(self, day: str) -> bytes:
        if day != self._day:
            key = f"AWS4{self._credentials.secret_key}".encode()
            for step in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._day, self._day_key = day, key
        return self._day_key
