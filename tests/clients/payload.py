"""What the clients upload: files whose every byte depends on its place, so that no mix-up keeps the digest."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
PART = 8 * MIB
"""The default part size of the gateway: sizes around it are where parts and pieces begin and end."""

BOUNDARY_SIZES = (0, 1, PART - 1, PART, PART + 1, 3 * PART + 7)
LARGE = 200 * MIB


@dataclass(frozen=True)
class Payload:
    """A file and the digest that its stored object must have."""

    path: Path
    size: int
    sha256: str

    def bytes(self, start: int = 0, end: int | None = None) -> bytes:
        """Return the bytes of `[start, end)`."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(end - start)


def write_payload(directory: Path, size: int) -> Payload:
    """Write a file of `size` pseudo-random bytes, the same for every run."""
    path = directory / f"{size}-bytes.bin"
    source = random.Random(size)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            block = source.randbytes(min(MIB, size - start))
            file.write(block)
            digest.update(block)
    return Payload(path, size, digest.hexdigest())
