"""The checksum algorithms that tusgate offers, by their tus names, and what a client announced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DIGEST_SIZES: Final[dict[str, int]] = {
    "sha1": 20,
    "md5": 16,
    "sha256": 32,
    "sha512": 64,
    "crc32": 4,
    "crc32c": 4,
    "crc64nvme": 8,
}
"""Name to digest size in bytes; order = order in Tus-Checksum-Algorithm. tus 1.0 demands sha1."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """The digest that the body of one request must have (tus 1.0, Upload-Checksum)."""

    algorithm: str
    digest: bytes
