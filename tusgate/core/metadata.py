"""What clients say about a file, as Upload-Metadata has it (tus 1.0): read, cleaned and written. Pure functions.

Rule 1: strict. Python's base64 takes garbage: that is no grammar.
Rule 2: what is read out of it can be stored and shown anywhere; the raw header is echoed byte for byte.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from tusgate.core.errors import InvalidRequest
from tusgate.core.fingerprint import METADATA_KEY, Fingerprint, parse_fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", re.ASCII)
_METADATA_KEY = re.compile(r"[!-+\--~]+", re.ASCII)
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}(?:; ?[ -~]{1,128})?", re.ASCII)
_FILENAME_KEYS: Final = ("filename", "name")
_CONTENT_TYPE_KEYS: Final = ("filetype", "type")
_MAX_FILENAME: Final = 255
_UNPRINTABLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BIDI_CONTROLS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class Metadata:
    """An Upload-Metadata header: as received, and what is read out of it.

    Attributes:
        raw: the value byte for byte, echoed by HEAD; None when absent or empty.
        filename: cleaned of anything that cannot be printed or stored; None when not given.
        content_type: a media type in printable ASCII; None when not given or not one.
        fingerprint: what the client tells the file by; None when not given or not one.
    """

    raw: bytes | None = None
    filename: str | None = None
    content_type: str | None = None
    fingerprint: Fingerprint | None = None

    @classmethod
    def of(cls, raw: bytes, values: Mapping[str, bytes]) -> Self:
        """Return the metadata whose header is `raw`, empty when there is none, and whose pairs are `values`."""
        return cls(
            raw or None,
            clean_filename(_first(values, _FILENAME_KEYS)),
            clean_content_type(_first(values, _CONTENT_TYPE_KEYS)),
            _fingerprint(values.get(METADATA_KEY)),
        )

    @classmethod
    def written(cls, values: Mapping[str, str]) -> Self:
        """Return the metadata that says `values`. Raises InvalidRequest for a key that cannot stand in the header."""
        for key in values:
            _check_key(key)
        pairs = {key: value.encode("utf-8", "replace") for key, value in values.items()}
        raw = b",".join(b"%b %b" % (key.encode(), base64.b64encode(value)) for key, value in pairs.items())
        return cls.of(raw, pairs)


def metadata_values(text: str) -> dict[str, bytes]:
    """Return the decoded pairs of an Upload-Metadata header. Raises InvalidRequest outside the grammar."""
    values: dict[str, bytes] = {}
    for pair in text.split(",") if text else ():
        key, _, value = pair.partition(" ")
        _check_key(key)
        if key in values:
            raise InvalidRequest("Upload-Metadata", "each key once")
        values[key] = decode_base64("Upload-Metadata", value)
    return values


def decoded_metadata(raw: bytes | None) -> dict[str, str]:
    """Return an Upload-Metadata header as text by key; bytes that are not UTF-8 become U+FFFD.

    What an earlier release let through and is no base64 is left out: it is still echoed by HEAD.
    """
    found: dict[str, str] = {}
    for pair in (raw or b"").decode("ascii", "replace").split(","):
        key, _, value = pair.partition(" ")
        if key:
            with suppress(InvalidRequest):
                found[key] = decode_base64("Upload-Metadata", value).decode("utf-8", "replace")
    return found


def metadata_key(key: str) -> str:
    """Return `key` if it can be one of Upload-Metadata. Raises ValueError."""
    if _METADATA_KEY.fullmatch(key) is None:
        raise ValueError("keys of printable ASCII without blanks and commas")
    return key


def encoded_metadata(values: Mapping[str, str]) -> str:
    """Return the Upload-Metadata header that says `values`."""
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def _check_key(key: str) -> None:
    if _METADATA_KEY.fullmatch(key) is None:
        raise InvalidRequest("Upload-Metadata", "keys of printable ASCII without blanks and commas")


def decode_base64(field: str, text: str) -> bytes:
    """Return the bytes of canonical, padded base64."""
    if _BASE64.fullmatch(text) is None:
        raise InvalidRequest(field, "padded base64")
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidRequest(field, "padded base64") from error
    if base64.b64encode(decoded) != text.encode():
        raise InvalidRequest(field, "base64 without stray bits in its last character")
    return decoded


def _first(values: Mapping[str, bytes], keys: tuple[str, ...]) -> bytes | None:
    return next((values[key] for key in keys if values.get(key)), None)


def _fingerprint(value: bytes | None) -> Fingerprint | None:
    """Return a fingerprint; None for what is none: clients may mean something else by the key."""
    with suppress(InvalidRequest):
        return parse_fingerprint((value or b"").decode("ascii", "replace"))
    return None


def clean_filename(value: bytes | None) -> str | None:
    """Return a file name that can be shown and stored: one path segment, no control or bidi characters, no NUL.

    Bytes that are not UTF-8 (tus-java-client uses the platform's charset) become U+FFFD.
    """
    if value is None:
        return None
    segment = value.decode("utf-8", "replace").replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(c for c in segment if unicodedata.category(c) not in _UNPRINTABLE and c not in _BIDI_CONTROLS)
    name = printable.strip()[:_MAX_FILENAME]
    return name if name.strip(" .") else None


def clean_content_type(value: bytes | None) -> str | None:
    """Return a media type that is safe in a header; None for anything else."""
    if value is None:
        return None
    text = value.decode("utf-8", "replace")
    return text if _MEDIA_TYPE.fullmatch(text) else None
