"""Whether the first bytes of a file are of the type that it claims to be of.

Signatures prove little: they tell a picture from a program, not a harmless file from a harmful one. Types that have
none (CSV, JSON, source code) are told from binary ones only.
"""

from __future__ import annotations

import codecs
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, get_args

import puremagic

from tusgate.core.errors import ContentMismatch, TypeNotAllowed

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD: Final = 40 * 1024
"""First bytes of a file that are looked at: some signatures stand behind 32 KiB."""
OCTETS: Final = "application/octet-stream"
"""The type of a file of which nothing is known."""
Coding = Literal["br", "deflate", "gzip", "zstd"]
"""Content coding that clients can undo; of another one the coded bytes are the file."""
CODINGS: Final = frozenset(get_args(Coding))
"""All of them."""
_SURE: Final = 0.6
"""Confidence from which a signature contradicts a type that has none of its own."""
_TEXTUAL: Final = ("text/*", "*/json", "*+json", "*/xml", "*+xml", "*/javascript", "*/yaml", "*/x-yaml", "*/toml")
_SAME: Final = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp",
    "image/vnd.microsoft.icon": "image/x-icon",
    "application/x-pdf": "application/pdf",
    "application/x-zip-compressed": "application/zip",
    "application/x-gzip": "application/gzip",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/mp4": "video/mp4",
    "audio/x-m4a": "video/mp4",
    "audio/webm": "video/webm",
}
"""Other names of a type, or of one with the same signature."""


def media_type(content_type: str | None) -> str | None:
    """Return the type without parameters, in lower case; None when there is none."""
    name = (content_type or "").partition(";")[0].strip().lower()
    return name or None


def is_listed(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a media type is one of `patterns`, such as `image/*` or `application/pdf`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_type(content_type: str | None, allowed: tuple[str, ...]) -> None:
    """Raise TypeNotAllowed unless a file may be declared to be of this type; without patterns any may."""
    name = media_type(content_type)
    if not allowed or (name is not None and is_listed(name, allowed)):
        return
    got = "no type" if name is None else name
    raise TypeNotAllowed(f"the type of the file: expected one of {', '.join(allowed)}, got {got}")


def check_content(head: bytes, content_type: str | None, allowed: tuple[str, ...]) -> None:
    """Raise ContentMismatch unless a file that begins with `head` is what it claims to be.

    Args:
        head: the first `HEAD` bytes, or all there are.
        content_type: as declared, and allowed.
        allowed: patterns of types; one of them has to fit a file of no declared type.
    """
    name = media_type(content_type)
    if not head or name == OCTETS:
        return
    found = _signatures(head)
    if name is None:
        if allowed and not any(is_listed(kind, allowed) for kind in found):
            raise ContentMismatch(f"the content: expected one of {', '.join(allowed)}, got {_told(found)}")
    elif is_listed(name, _TEXTUAL):
        if not _is_text(head):
            raise ContentMismatch(f"the content: expected text ({name}), got {_told(found)}")
    elif _plain(name) not in found and (_plain(name) in _known() or any(sure >= _SURE for sure in found.values())):
        raise ContentMismatch(f"the content: expected {name}, got {_told(found)}")


def _signatures(head: bytes) -> dict[str, float]:
    """Return the types whose signature fits, each with how sure that is (up to 1)."""
    try:
        matches = puremagic.magic_string(head)
    except puremagic.PureError:
        return {}
    found: dict[str, float] = {}
    for match in matches:
        if match.mime_type:
            kind = _plain(match.mime_type.lower())
            found[kind] = max(match.confidence, found.get(kind, 0.0))
    return found


@cache
def _known() -> frozenset[str]:
    """Return the types that have a signature."""
    return frozenset(_plain(entry.mime_type.lower()) for entry in puremagic.magic_header_array if entry.mime_type)


def _plain(name: str) -> str:
    return _SAME.get(name, name)


def _told(found: dict[str, float]) -> str:
    return max(found, key=lambda kind: found[kind]) if found else "an unknown type"


def _is_text(head: bytes) -> bool:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    return not any(byte < 32 and byte not in b"\t\n\v\f\r\x1b" for byte in head)
