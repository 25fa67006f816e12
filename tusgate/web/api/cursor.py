"""Where the next page begins, as a text that clients hand back and need not understand.

It is not signed: whoever makes one up sees another part of the files that they may see anyway.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from tusgate.core.errors import InvalidRequest
from tusgate.core.listing import Position
from tusgate.core.model import UploadId

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WRITTEN: Final = re.compile(r"([0-9]{1,17})\.([A-Za-z0-9_-]{22,64})", re.ASCII)
"""Microseconds since 1970 (17 digits reach the year 5138), and an id."""


def encode(position: Position) -> str:
    """Return `position` as a cursor."""
    microseconds = (position.created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{microseconds}.{position.id}".encode()).decode().rstrip("=")


def decode(cursor: str) -> Position:
    """Return the position of a cursor. Raises InvalidRequest for what `encode` has not made."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise InvalidRequest("cursor", "next_cursor of the page before")
    return Position(_EPOCH + timedelta(microseconds=int(written[1])), UploadId(written[2]))
