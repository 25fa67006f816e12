"""What a file is told by."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from tusgate.processors.contract import Result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tusgate.processors.contract import Source

_CHUNK: Final = 1 << 20


class Sha256:
    """The fact is the SHA-256 of the file as it is stored, in hexadecimal."""

    name = "sha256"
    version = 1
    types = ("*/*",)
    largest = 1 << 40
    seconds = 4 * 3600.0
    memory = 256 << 20

    def process(self, source: Source, workspace: Path, progress: Callable[[float], None]) -> Result:
        """Read all of it."""
        digest, read = hashlib.sha256(), 0
        with source.path.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
                read += len(chunk)
                progress(read / max(read, source.size))
        return Result(facts={"sha256": digest.hexdigest()})
