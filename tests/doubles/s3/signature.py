"""AWS Signature Version 4, verified from the outside: nothing here is shared with the code that signs.

Source: "Authenticating Requests (AWS Signature Version 4)" in the Amazon S3 API reference. Signed chunks and trailers
(`STREAMING-…`) are not offered.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from multidict import CIMultiDict, CIMultiDictProxy

from tests.doubles.s3.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
LARGEST_SKEW = 15 * 60
"""Seconds between the clocks of the two sides."""
LONGEST_LINK = 7 * 24 * 3600
"""Seconds that a presigned URL is good for at most."""
SIGNED_IF_PRESENT = ("content-md5", "content-type")

_FIELDS = re.compile(
    r"Credential=(?P<credential>[^,]+), ?SignedHeaders=(?P<names>[^,]+), ?Signature=(?P<signature>\w+)"
)
_STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass
class Key:
    """A secret access key.

    Attributes:
        secret: shared with the client.
        token: session token that must come along, of temporary credentials.
        expires: seconds since 1970 when temporary credentials end.
    """

    secret: str
    token: str | None = None
    expires: float | None = None


@dataclass
class _Claim:
    """What a request says about its own signature."""

    credential: str
    names: list[str]
    signature: str
    stamp: str
    payload: str
    token: str | None
    lifetime: int | None = None


class Gate:
    """Decides whether a request comes from somebody who has a key.

    Args:
        region: that scopes must name.
        now: seconds since 1970.
        takes_unsigned_fields: see `Behaviour`.

    Attributes:
        keys: by access key id; tests add, change and remove them.
        skew: seconds by which our clock is ahead.
    """

    def __init__(self, region: str, now: Callable[[], float], *, takes_unsigned_fields: bool = False) -> None:
        self.keys: dict[str, Key] = {}
        self.skew = 0.0
        self._region = region
        self._now = now
        self._takes_unsigned_fields = takes_unsigned_fields

    def admit(self, method: str, raw_path: str, headers: CIMultiDictProxy[str]) -> str:
        """Return the SHA-256 that the body must have, or UNSIGNED. Raises Refused."""
        address = urlsplit(raw_path)
        query = parse_qsl(address.query, keep_blank_values=True)
        claim = _claim_of(headers, dict(query))
        access_key, day = self._check_scope(claim)
        key = self._key(access_key, claim)
        self._check_time(claim)
        if self._takes_unsigned_fields:
            headers = _with_fields_of_query(claim, headers, dict(query))
        _check_names(claim, headers, "x-amz-meta-" if self._takes_unsigned_fields else "x-amz-")
        canonical = "\n".join(
            (
                method,
                quote(unquote(address.path), safe="/-_.~"),
                _canonical_query(query),
                "".join(f"{name}:{_value(headers, name)}\n" for name in claim.names),
                ";".join(claim.names),
                claim.payload,
            )
        )
        scope = claim.credential.partition("/")[2]
        wanted = f"{ALGORITHM}\n{claim.stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(_day_key(key.secret, day, self._region), wanted.encode(), "sha256").hex()
        if not hmac.compare_digest(signature, claim.signature):
            raise Refused("SignatureDoesNotMatch", f"the canonical request is\n{canonical}")
        return claim.payload

    def _check_scope(self, claim: _Claim) -> tuple[str, str]:
        try:
            access_key, day, region, service, end = claim.credential.split("/")
        except ValueError:
            raise Refused("AuthorizationHeaderMalformed", "the credential has not five fields") from None
        if (day, region, service, end) != (claim.stamp[:8], self._region, "s3", "aws4_request"):
            raise Refused("AuthorizationHeaderMalformed", f"the scope is not that of the request: {claim.credential}")
        return access_key, day

    def _key(self, access_key: str, claim: _Claim) -> Key:
        key = self.keys.get(access_key)
        if key is None:
            raise Refused("InvalidAccessKeyId", "no such key")
        if claim.token != key.token:
            raise Refused("InvalidToken", "another session token belongs to the key")
        if key.expires is not None and key.expires <= self._now():
            raise Refused("ExpiredToken", "the credentials have ended")
        return key

    def _check_time(self, claim: _Claim) -> None:
        signed = datetime.strptime(claim.stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        age = self._now() + self.skew - signed
        if claim.lifetime is not None:
            if not -LARGEST_SKEW <= age < claim.lifetime:
                raise Refused("AccessDenied", "the link has expired or is not valid yet")
        elif abs(age) > LARGEST_SKEW:
            raise Refused("RequestTimeTooSkewed", f"the clocks are {age:.0f} s apart")


def _claim_of(headers: CIMultiDictProxy[str], query: Mapping[str, str]) -> _Claim:
    if "X-Amz-Signature" in query:
        claim = _claim_of_link(query)
    elif "Authorization" in headers:
        claim = _claim_of_header(headers)
    else:
        raise Refused("AccessDenied", "the request is not signed")
    if not _STAMP.fullmatch(claim.stamp):
        raise Refused("AccessDenied", "the request has no date")
    if claim.payload != UNSIGNED and not _SHA256.fullmatch(claim.payload):
        raise Refused("NotImplemented", f"x-amz-content-sha256: {claim.payload}")
    return claim


def _claim_of_header(headers: CIMultiDictProxy[str]) -> _Claim:
    algorithm, _, rest = headers["Authorization"].partition(" ")
    fields = _FIELDS.fullmatch(rest.strip())
    if algorithm != ALGORITHM or fields is None:
        raise Refused("AuthorizationHeaderMalformed", "Authorization is not of AWS4-HMAC-SHA256")
    if "x-amz-content-sha256" not in headers:
        raise Refused("InvalidRequest", "x-amz-content-sha256 is missing")
    return _Claim(
        fields["credential"],
        fields["names"].split(";"),
        fields["signature"],
        headers.get("x-amz-date", ""),
        headers["x-amz-content-sha256"],
        headers.get("x-amz-security-token"),
    )


def _claim_of_link(query: Mapping[str, str]) -> _Claim:
    lifetime = query.get("X-Amz-Expires", "")
    if query.get("X-Amz-Algorithm") != ALGORITHM or not lifetime.isdecimal():
        raise Refused("AuthorizationQueryParametersError", "X-Amz-Algorithm or X-Amz-Expires is wrong")
    if not 1 <= int(lifetime) <= LONGEST_LINK:
        raise Refused("AuthorizationQueryParametersError", "X-Amz-Expires must be between a second and a week")
    return _Claim(
        query.get("X-Amz-Credential", ""),
        query.get("X-Amz-SignedHeaders", "").split(";"),
        query["X-Amz-Signature"],
        query.get("X-Amz-Date", ""),
        query.get("X-Amz-Content-Sha256", UNSIGNED),
        query.get("X-Amz-Security-Token"),
        int(lifetime),
    )


def _with_fields_of_query(
    claim: _Claim, headers: CIMultiDictProxy[str], query: Mapping[str, str]
) -> CIMultiDictProxy[str]:
    """Return `headers`, with what the query says of signed ones that did not come (extractSignedHeaders of MinIO)."""
    found = CIMultiDict(headers)
    found.update({name: query[name] for name in claim.names if name in query and name not in headers})
    return CIMultiDictProxy(found)


def _check_names(claim: _Claim, headers: CIMultiDictProxy[str], guarded: str) -> None:
    """Refuse a request that could have been changed on its way without the signature showing it."""
    present = {name.lower() for name in headers}
    due = {"host"} | {name for name in present if name.startswith(guarded) or name in SIGNED_IF_PRESENT}
    unsigned = due - {*claim.names}
    if unsigned:
        raise Refused("AccessDenied", f"headers that are not signed: {', '.join(sorted(unsigned))}")
    if claim.names != sorted({*claim.names}) or not present.issuperset(claim.names):
        raise Refused("SignatureDoesNotMatch", "SignedHeaders names no sorted set of the headers that came")


def _canonical_query(query: list[tuple[str, str]]) -> str:
    pairs = [(quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs) if name != "X-Amz-Signature")


def _value(headers: CIMultiDictProxy[str], name: str) -> str:
    return ",".join(" ".join(value.split()) for value in headers.getall(name))


def _day_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for step in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return key
