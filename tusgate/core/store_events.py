"""Event notifications of S3: which objects they are about. Amazon S3, MinIO and what speaks as they do; by SNS, too."""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import unquote_plus

MOST_RECORDS: Final = 1000
LONGEST_KEY: Final = 3 * 1024
"""Characters of an object key of 1,024 bytes in the encoding of events."""
_DEPTH: Final = 2
"""Envelopes that are opened: a message of SNS, and what is in it."""


def keys_in(document: object) -> list[str] | None:
    """Return the object keys that a parsed notification is about; None when it is none of S3.

    What S3 sends when notifications are set up is about no object.
    """
    return _keys_in(document, _DEPTH)


def keys_told(text: str) -> list[str] | None:
    """Return the object keys that the text of a notification is about; None when it is none of S3."""
    return _keys_told(text, _DEPTH)


def _keys_told(text: str, depth: int) -> list[str] | None:
    try:
        return _keys_in(json.loads(text), depth)
    except (ValueError, RecursionError):
        return None


def _keys_in(document: object, depth: int) -> list[str] | None:
    match document:
        case {"Type": "Notification", "Message": str(text)} if depth > 1:
            return _keys_told(text, depth - 1)
        case {"Event": "s3:TestEvent"}:
            return []
        case {"Records": [*records]} if len(records) <= MOST_RECORDS:
            keys = [_key_in(record) for record in records]
            return [unquote_plus(key) for key in keys if key is not None] if None not in keys else None
    return None


def _key_in(record: object) -> str | None:
    match record:
        case {"s3": {"object": {"key": str(key)}}} if len(key) <= LONGEST_KEY:
            return key
    return None
