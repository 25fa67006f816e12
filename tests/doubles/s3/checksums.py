"""Checksums as S3 takes, compares, combines and shows them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from functools import partial
from typing import TYPE_CHECKING

from awscrt import checksums as crt

from tests.doubles.s3.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FULL_OBJECT = "FULL_OBJECT"
COMPOSITE = "COMPOSITE"
HEADER = "x-amz-checksum-"


def _crc(function: Callable[[bytes], int], size: int, data: bytes) -> bytes:
    return function(data).to_bytes(size, "big")


DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "crc32": partial(_crc, crt.crc32, 4),
    "crc32c": partial(_crc, crt.crc32c, 4),
    "crc64nvme": partial(_crc, crt.crc64nvme, 8),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}
_COMBINE: dict[str, Callable[[int, int, int], int]] = {
    "crc32": crt.combine_crc32,
    "crc32c": crt.combine_crc32c,
    "crc64nvme": crt.combine_crc64nvme,
}


def encoded(digest: bytes) -> str:
    """Return a digest as it stands in headers and documents."""
    return base64.b64encode(digest).decode("ascii")


def claimed(headers: Mapping[str, str]) -> dict[str, bytes]:
    """Return the digests in the `x-amz-checksum-*` headers, at most one. Raises Refused."""
    found = {name: headers[HEADER + name] for name in DIGESTS if HEADER + name in headers}
    if len(found) > 1:
        raise Refused("InvalidRequest", "more than one x-amz-checksum header")
    return {name: _decoded("InvalidRequest", value, len(DIGESTS[name](b""))) for name, value in found.items()}


def check_body(data: bytes, headers: Mapping[str, str], *, additional: bool) -> dict[str, bytes]:
    """Compare a body with the digests that came with it and return the additional one, as it is kept.

    Args:
        data: the body.
        headers: of the request.
        additional: False: only Content-MD5 is looked at.

    Raises:
        Refused: InvalidDigest, BadDigest or InvalidRequest.
    """
    if "Content-MD5" in headers:
        wanted = _decoded("InvalidDigest", headers["Content-MD5"], 16)
        if wanted != hashlib.md5(data).digest():
            raise Refused("BadDigest", "Content-MD5 is that of other bytes")
    if not additional:
        return {}
    found = claimed(headers)
    for name, digest in found.items():
        if DIGESTS[name](data) != digest:
            raise Refused("BadDigest", f"{HEADER}{name} is that of other bytes")
    return found


def of_object(algorithm: str, kind: str, parts: Sequence[tuple[bytes, int]]) -> str:
    """Return the checksum of an object made of `parts` (digest and size), as it is shown."""
    if kind == COMPOSITE:
        return f"{encoded(DIGESTS[algorithm](b''.join(digest for digest, _ in parts)))}-{len(parts)}"
    combine = _COMBINE[algorithm]
    total = int.from_bytes(DIGESTS[algorithm](b""), "big")
    for digest, size in parts:
        total = combine(total, int.from_bytes(digest, "big"), size)
    return encoded(total.to_bytes(len(DIGESTS[algorithm](b"")), "big"))


def kind_of(algorithm: str, wanted: str | None) -> str:
    """Return the checksum type of a multipart upload that asks for `wanted`. Raises Refused for what S3 has not."""
    kind = wanted or (FULL_OBJECT if algorithm == "crc64nvme" else COMPOSITE)
    possible = {"crc64nvme": {FULL_OBJECT}, "sha1": {COMPOSITE}, "sha256": {COMPOSITE}}
    if kind not in possible.get(algorithm, {FULL_OBJECT, COMPOSITE}):
        raise Refused("InvalidRequest", f"{algorithm} cannot be {kind}")
    return kind


def _decoded(code: str, value: str, size: int) -> bytes:
    try:
        digest = base64.b64decode(value, validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != size:
        raise Refused(code, f"{value!r} is no base64 of {size} bytes")
    return digest
