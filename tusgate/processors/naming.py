"""What derived files are called."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tusgate.processors.contract import Source

_LONGEST: Final = 150
_UNFIT: Final = re.compile(r"[/\\\x00-\x1f\x7f]")


def named_after(source: Source, suffix: str) -> str:
    """Return the name of the source with another suffix; `file` where the source has none that would do."""
    own = (source.filename or "").replace("\\", "/")
    stem = _UNFIT.sub("", PurePosixPath(own).stem)[:_LONGEST].strip(". ")
    return f"{stem or 'file'}.{suffix}"
