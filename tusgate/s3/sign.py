"""AWS Signature Version 4 in the Authorization header, for requests whose body is not hashed.

Source: "Signature Calculations for the Authorization Header" in the Amazon S3 API reference. All headers that are
given are signed: S3 demands it of Host and Content-Type, rclone of every `x-amz-*`. Headers that proxies rewrite
(Accept-Encoding, User-Agent, Connection, Expect) are for the HTTP client to add afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


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
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


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
        names = sorted(complete)
        signed_names = ";".join(names)
        canonical_headers = "".join(f"{name}:{' '.join(complete[name].split())}\n" for name in names)
        canonical = "\n".join((method, path, query, canonical_headers, signed_names, payload_hash))
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"
        signature = hmac.digest(self._signing_key(stamp[:8]), to_sign.encode(), "sha256").hex()
        complete["authorization"] = (
            f"{_ALGORITHM} Credential={self._credentials.access_key}/{scope}, "
            f"SignedHeaders={signed_names}, Signature={signature}"
        )
        return complete

    def _signing_key(self, day: str) -> bytes:
        if day != self._day:
            key = f"AWS4{self._credentials.secret_key}".encode()
            for step in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._day, self._day_key = day, key
        return self._day_key
