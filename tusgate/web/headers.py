"""Every tus header field, parsed and formatted. Pure functions; each stands under the rule it enforces.

Rule 1: strict. Python's `int()` takes `+5`, `1_0` and Arabic digits, its base64 takes garbage: neither is a grammar.
Rule 2: a malformed field is InvalidRequest naming the field and what was expected.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

from tusgate.core.access import UNLIMITED, imposed_metadata
from tusgate.core.checksum import DIGEST_SIZES, Checksum
from tusgate.core.errors import ChecksumUnsupported, InvalidRequest, MetadataTooLarge, UnsupportedMediaType
from tusgate.core.metadata import Metadata, decode_base64, metadata_values

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from multidict import CIMultiDictProxy, MultiMapping

    from tusgate.core.access import Limits

MAX_NUMBER: Final = 2**63 - 1
"""Largest length and offset: what a database bigint holds."""
MAX_HEADER_BLOCK: Final = 64 * 1024
"""Largest sum of all header names and values in bytes."""
TUS_CONTENT_TYPE: Final = "application/offset+octet-stream"

_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_SAME_CODINGS = {"x-gzip": "gzip", "x-compress": "compress"}
"""RFC 9110, 8.4.1: other names of a coding."""
_CODING = re.compile(r"[\w!#$%&'*+.^`|~-]{1,64}", re.ASCII)
_SINGLETONS: Final = frozenset({"authorization", "x-http-method-override"})
_SINGLETON_PREFIXES: Final = ("upload-", "tus-")


def refuse_duplicates(headers: CIMultiDictProxy[str]) -> None:
    """Raise InvalidRequest when a field that has one value is given more than once, even with equal values.

    aiohttp passes them on, and two readers of a request may each pick another one.
    """
    for name in headers:
        folded = name.lower()
        is_singleton = folded in _SINGLETONS or folded.startswith(_SINGLETON_PREFIXES)
        if is_singleton and len(headers.getall(name)) > 1:
            raise InvalidRequest(name, "the field once")


def refuse_oversize(headers: Mapping[str, str] | MultiMapping[str]) -> None:
    """Raise MetadataTooLarge when all header fields together pass `MAX_HEADER_BLOCK`."""
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADER_BLOCK:
        raise MetadataTooLarge(f"the request headers are larger than {MAX_HEADER_BLOCK} bytes")


def parse_number(field: str, text: str) -> int:
    """Return a non-negative integer below 2^63. tus 1.0: Upload-Offset and Upload-Length are non-negative integers."""
    if _NUMBER.fullmatch(text) is None or int(text) > MAX_NUMBER:
        raise InvalidRequest(field, f"a decimal number from 0 to {MAX_NUMBER}")
    return int(text)


def optional_number(headers: Mapping[str, str], field: str) -> int | None:
    """Return the number in `field`, None when the field is absent."""
    text = headers.get(field)
    return None if text is None else parse_number(field, text)


def required_number(headers: Mapping[str, str], field: str) -> int:
    """Return the number in `field`; its absence is InvalidRequest too."""
    return parse_number(field, headers.get(field, ""))


def creation_length(headers: Mapping[str, str]) -> int | None:
    """Return the length of a new upload, None when it is deferred.

    tus 1.0: either Upload-Length or `Upload-Defer-Length: 1`, and no other value of the latter.
    """
    length = optional_number(headers, "Upload-Length")
    deferred = headers.get("Upload-Defer-Length")
    if deferred is None:
        if length is None:
            raise InvalidRequest("Upload-Length", "a number, or Upload-Defer-Length: 1")
        return length
    if deferred != "1":
        raise InvalidRequest("Upload-Defer-Length", "1")
    if length is not None:
        raise InvalidRequest("Upload-Defer-Length", "no Upload-Length beside it")
    return None


def parse_metadata(text: str | None, limit: int, limits: Limits = UNLIMITED) -> Metadata:
    """Return the metadata of a creation request.

    tus 1.0: comma separated pairs of key and base64 value, separated by a blank; keys are not empty, ASCII, without
    blanks and commas, and unique. An empty value may come without the blank. An empty header counts as absent
    (tuspy and go-tus send it always). What an upload token imposes is put behind what the client says.

    Raises:
        MetadataTooLarge: longer than `limit` bytes.
        InvalidRequest: outside the grammar.
        NotCovered: an upload token demands another value, or a key that is missing.
    """
    raw = (text or "").encode("utf-8", "surrogateescape")
    if len(raw) > limit:
        raise MetadataTooLarge(f"Upload-Metadata: at most {limit} bytes are taken, got {len(raw)}")
    values = metadata_values(text) if text else {}
    imposed = imposed_metadata(limits, values)
    values |= imposed
    pairs = [b"%b %b" % (key.encode(), base64.b64encode(value)) for key, value in imposed.items()]
    return Metadata.of(b",".join([raw, *pairs] if raw else pairs), values)


def clean_content_coding(text: str | None) -> str | None:
    """Return a Content-Encoding that is safe in a header, None when the body is not coded.

    Raises UnsupportedMediaType for anything else: bytes whose coding is forgotten cannot be read again.
    """
    if not text or text.lower() == "identity":
        return None
    if _CODING.fullmatch(text) is None:
        raise UnsupportedMediaType("Content-Encoding: expected the name of one coding")
    return _SAME_CODINGS.get(text.lower(), text.lower())


def parse_checksum(text: str) -> Checksum:
    """Return what an Upload-Checksum header announces: an algorithm, a blank, the base64 of the digest.

    Raises:
        ChecksumUnsupported: well-formed, but not an algorithm that we offer. Names are lower case (tus 1.0).
        InvalidRequest: malformed, or a digest of the wrong size.
    """
    algorithm, _, encoded = text.partition(" ")
    if not algorithm or not encoded:
        raise InvalidRequest("Upload-Checksum", "an algorithm, a blank and the base64 of the digest")
    digest = decode_base64("Upload-Checksum", encoded)
    size = DIGEST_SIZES.get(algorithm)
    if size is None:
        raise ChecksumUnsupported("Upload-Checksum", f"one of {', '.join(DIGEST_SIZES)}")
    if len(digest) != size:
        raise InvalidRequest("Upload-Checksum", f"a digest of {size} bytes for {algorithm}")
    return Checksum(algorithm, digest)


def is_tus_content_type(text: str | None) -> bool:
    """Whether a Content-Type is that of tus, in any case and with any parameters."""
    return text is not None and text.partition(";")[0].strip().lower() == TUS_CONTENT_TYPE


def format_date(moment: datetime) -> str:
    """Return an RFC 9110 date, such as `Wed, 25 Jun 2014 16:00:00 GMT`, in English whatever the locale is."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)
