"""What a file is told by, part by part, before it is sent: the gateway gives no URLs for parts that it knows.

Parts are found again by their bytes, so those of the next version of a file have to begin where those of this one did.
The size of parts therefore depends as little on that of the file as it can.
"""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

SMALLEST_PART: Final = 8 << 20
LEAST_PART: Final = 5 << 20
"""What every store takes; a gateway makes smaller ones that large."""
MOST_PARTS: Final = 1000
"""Digests that a gateway takes."""
_BLOCK: Final = 1 << 20


def part_size_for(size: int, wish: int | None) -> int:
    """Return the bytes of a part of a file of `size` bytes: as wished for, doubled until the parts are few enough."""
    part_size = SMALLEST_PART if wish is None else max(wish, LEAST_PART)
    while part_size * MOST_PARTS < size:
        part_size *= 2
    return part_size


def part_digests(path: Path, size: int, part_size: int) -> list[str]:
    """Return the SHA-256 of each part of the file, in base64. Reads all of it. Raises OSError."""
    with path.open("rb") as file:
        return [_digest(file.fileno(), start, min(start + part_size, size)) for start in range(0, size, part_size)]


def _digest(descriptor: int, start: int, end: int) -> str:
    digest = hashlib.sha256()
    while start < end and (block := os.pread(descriptor, min(_BLOCK, end - start), start)):
        digest.update(block)
        start += len(block)
    return base64.b64encode(digest.digest()).decode("ascii")
