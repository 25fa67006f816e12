"""Checksums of bytes: CRC64NVME for everything that is stored, and whatever a client announced for one request."""

from __future__ import annotations

import hashlib
import hmac
import zlib
from typing import TYPE_CHECKING, Final

from awscrt import checksums

from tusgate.core.checksum import DIGEST_SIZES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tusgate.core.checksum import Checksum
    from tusgate.core.model import ObjectKey, Part, Piece
    from tusgate.ports import Buffer, ObjectStore

crc64: Final[Callable[[Buffer, int], int]] = checksums.crc64nvme
"""CRC64NVME of a buffer, continued from an earlier value (20 GB/s). The value is its own state."""
_CRC: Final[dict[str, Callable[[bytes, int], int]]] = {
    "crc32": zlib.crc32,
    "crc32c": checksums.crc32c,
    "crc64nvme": checksums.crc64nvme,
}


def crc64_of(buffers: Iterable[Buffer], start: int = 0) -> int:
    """Return the CRC64NVME of all `buffers`, continued from `start`."""
    value = start
    for buffer in buffers:
        value = crc64(buffer, value)
    return value


async def crc64_in_store(store: ObjectStore, key: ObjectKey, start: int, size: int) -> int:
    """Return the CRC64NVME of `size` bytes of an object from `start`, which are read. Raises as `ObjectStore.read`."""
    value = 0
    async for chunk in store.read(key, start, size):
        value = crc64(chunk, value)
    return value


def combined_crc64(stored: Iterable[Part | Piece], start: int = 0) -> int:
    """Return the CRC64NVME of adjoining parts or pieces from their own CRCs, continued from `start`.

    -1 when that of one of them is unknown.
    """
    value = start
    for item in stored:
        if item.crc64 < 0:
            return -1
        value = checksums.combine_crc64nvme(value, item.crc64, item.size)
    return value


class RequestDigest:
    """The running digest of one request's body."""

    def __init__(self, announced: Checksum) -> None:
        self._announced = announced
        self._crc = _CRC.get(announced.algorithm)
        self._value = 0
        self._hash = None if self._crc else hashlib.new(announced.algorithm, usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        """Add the next bytes of the body."""
        if self._crc is not None:
            self._value = self._crc(chunk, self._value)
        elif self._hash is not None:
            self._hash.update(chunk)

    def matches(self) -> bool:
        """Return whether the bytes so far have the announced digest."""
        size = DIGEST_SIZES[self._announced.algorithm]
        digest = self._value.to_bytes(size, "big") if self._hash is None else self._hash.digest()
        return hmac.compare_digest(digest, self._announced.digest)
