"""How a file is handed to a browser: under which type and name, and what the browser may do with it.

What a client calls its file is never believed. Uploaded HTML or SVG that runs in our origin could act as whoever looks
at it, so all is a download of octets unless it is of a few types that hold no scripts, and is then shown only in a
sandbox. Type, name and headers are the same whether we send the bytes or the store does.

Source: OWASP File Upload Cheat Sheet; RFC 6266 and RFC 8187 for names.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from tusgate.core.content import CODINGS, OCTETS
from tusgate.ports import Presentation

if TYPE_CHECKING:
    from tusgate.core.model import Upload

SHOWN_TYPES: Final = frozenset(
    {
        "audio/aac",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
        "image/avif",
        "image/bmp",
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/webp",
        "text/plain",
        "video/mp4",
        "video/ogg",
        "video/webm",
    }
)
"""Types that keep their name. No SVG, HTML or XML in any form, which are programs, and no PDF: browsers show none in a
sandbox."""
_TEXT: Final = "text/plain"
SAFETY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
    ),
    "Cross-Origin-Resource-Policy": "same-site",
    "Referrer-Policy": "no-referrer",
}
"""Of every answer with a file: no script, no form, no frame, and an origin of its own. (Browsers style what they make
around an image.)"""
_RISKY: Final = frozenset('"\\/%:*?<>|')
_EXTENDED_SAFE: Final = "!#$&+-.^_`|~"
"""RFC 8187, attr-char: what is not letter or digit and may stand in an extended value as it is."""


def presentation_of(upload: Upload, *, inline: bool, cache_control: str) -> Presentation:
    """Return how the bytes of `upload` are presented.

    Args:
        upload: the file.
        inline: it may be shown, if it is of a type that may; else it is saved.
        cache_control: how long it may be kept by whom.
    """
    media_type = (upload.content_type or "").partition(";")[0].strip().lower()
    is_shown = media_type in SHOWN_TYPES
    content_type = media_type if is_shown else OCTETS
    if content_type == _TEXT:
        content_type += "; charset=utf-8"  # else a file may choose one in which harmless bytes are markup
    kind = "inline" if inline and is_shown else "attachment"
    return Presentation(content_type, f"{kind}; {filename_parameters(upload.filename or upload.id)}", cache_control)


def coding_of(upload: Upload) -> str | None:
    """Return the Content-Encoding that the uploading request had, if every client can undo it."""
    return upload.content_coding if upload.content_coding in CODINGS else None


def filename_parameters(name: str) -> str:
    """Return `filename` and `filename*`: the name in ASCII for those who know no better, and as it is (RFC 6266)."""
    encoded = quote(name.encode("utf-8", "replace"), safe=_EXTENDED_SAFE)
    return f"filename=\"{_fallback(name)}\"; filename*=UTF-8''{encoded}"


def _fallback(name: str) -> str:
    """Return `name` without what ends a quoted string, means a path, or is read as an escape by some browsers."""
    plain = (c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" and c not in _RISKY else "_" for c in plain)
