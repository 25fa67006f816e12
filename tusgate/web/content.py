"""What a request that brings a file by itself says about it, in the fields that HTTP has for that.

tus has fields of its own for all of it; the other protocols share these.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from tusgate.core.checksum import DIGEST_SIZES, Checksum
from tusgate.core.errors import InvalidRequest, UnsupportedMediaType
from tusgate.core.metadata import clean_content_type, clean_filename
from tusgate.web.headers import clean_content_coding
from tusgate.web.structured import byte_sequences

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

_DIGESTS: Final = {
    "sha-512": "sha512",
    "sha-256": "sha256",
    "sha": "sha1",
    "md5": "md5",
    "crc32c": "crc32c",
}
"""RFC 9530 name to our name, strongest first: the first one that is there is verified."""
_CURL_DEFAULT: Final = "application/x-www-form-urlencoded"
"""What curl calls everything that it posts; says nothing."""


@dataclass(frozen=True, slots=True)
class Content:
    """A description of the file.

    Attributes:
        filename: cleaned of anything that cannot be printed or stored; None when not given.
        content_type: a media type that is safe in a header; None when not given or not one.
        content_coding: such as `gzip`; the bytes are stored as sent, coded.
    """

    filename: str | None
    content_type: str | None
    content_coding: str | None


def describe(fields: CIMultiDictProxy[str], path: str = "") -> Content:
    """Return what the request says about its file; a file name in Content-Disposition counts more than `path`.

    Raises:
        UnsupportedMediaType: a form, which would be stored with its boundaries; several or malformed codings.
        InvalidRequest: Content-Range. RFC 9110, 14.5: a part must not be taken for the whole.
    """
    if "Content-Range" in fields:
        raise InvalidRequest("Content-Range", "no such field: send the whole file, or resume by a protocol")
    media_type = fields.get("Content-Type", "")
    if media_type.lower().startswith("multipart/form-data"):
        raise UnsupportedMediaType("Content-Type: expected the file itself, not a form (curl: -T, not -F)")
    content_type = None if media_type == _CURL_DEFAULT else clean_content_type(_raw(media_type))
    name = _disposition_name(fields.get("Content-Disposition")) or unquote(path)
    return Content(clean_filename(_raw(name)), content_type, clean_content_coding(fields.get("Content-Encoding")))


def announced_digest(fields: CIMultiDictProxy[str], *, whole: bool) -> Checksum | None:
    """Return the strongest digest of the body that the request gives and we offer; others are not looked at.

    Args:
        fields: of the request.
        whole: the body is the whole file, so that Repr-Digest is about it too. RFC 9530, 3: else it is about bytes
            of several requests, whose digest nobody has computed.

    Raises:
        InvalidRequest: malformed, of the wrong size, or two digests of the same bytes that differ.
    """
    digests = _digests(fields, "Content-Digest")
    if whole:
        for name, digest in _digests(fields, "Repr-Digest").items():
            if digests.setdefault(name, digest) != digest:
                raise InvalidRequest("Repr-Digest", "the digest in Content-Digest, as the body is the whole file")
    return next((Checksum(ours, digests[name]) for name, ours in _DIGESTS.items() if name in digests), None)


def _digests(fields: CIMultiDictProxy[str], field: str) -> dict[str, bytes]:
    if field not in fields:
        return {}
    digests = byte_sequences(fields, field)
    if digests is None:
        raise InvalidRequest(field, "a dictionary of digests, such as sha-256=:base64:")
    for name, digest in digests.items():
        ours = _DIGESTS.get(name)
        if ours is not None and len(digest) != DIGEST_SIZES[ours]:
            raise InvalidRequest(field, f"{DIGEST_SIZES[ours]} bytes for {name}")
    return digests


def _disposition_name(disposition: str | None) -> str | None:
    """Return the file name of a Content-Disposition (RFC 6266: `filename*` counts more than `filename`)."""
    if disposition is None:
        return None
    message = Message()
    message["Content-Disposition"] = _raw(disposition).decode("utf-8", "replace")
    # The annotations of the standard library leave out that an encoded value is a tuple.
    parameters: list[tuple[str, str | tuple[str, str, str]]] = [*message.get_params([], "Content-Disposition")]
    names = [value for name, value in parameters if name.lower() == "filename"]
    names.sort(key=lambda value: isinstance(value, str))
    return collapse_rfc2231_value(names[0]) if names else None


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
