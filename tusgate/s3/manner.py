"""How objects of a route are stored: storage class, encryption, and what the store tells those who read them.

The headers are those of PutObject and CreateMultipartUpload; where the customer has the key (SSE-C), S3 demands it in
every request that touches bytes or their description.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from tusgate.ports import Attributes

_SSE: Final = "x-amz-server-side-encryption"
_FILENAME_SAFE: Final = "!#$&+-.^_`|~"
"""RFC 8187: what stands in a value as it is, beside letters and digits."""


class Encryption(StrEnum):
    """Who encrypts objects, and with whose key."""

    NONE = "none"
    S3 = "s3"
    KMS = "kms"
    CUSTOMER = "customer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How objects are stored. The key never shows in `repr`.

    Attributes:
        kms_key: id of the key; None: the bucket's own.
        customer_key: 32 bytes in base64, with Encryption.CUSTOMER.
        content_disposition: `attachment` or `inline`; the name of the file is added.
    """

    storage_class: str | None = None
    encryption: Encryption = Encryption.NONE
    kms_key: str | None = None
    customer_key: str | None = field(default=None, repr=False)
    cache_control: str | None = None
    content_disposition: str | None = None
    tags: tuple[tuple[str, str], ...] = ()

    def creation_headers(self, attributes: Attributes) -> dict[str, str]:
        """Return what a new object is created with, beside its marker and type."""
        headers = self._encryption_headers() | self.key_headers()
        if attributes.is_passing:
            return headers  # classes and tags are about what stays
        if self.storage_class:
            headers["x-amz-storage-class"] = self.storage_class
        if self.cache_control:
            headers["cache-control"] = self.cache_control
        if self.content_disposition:
            headers["content-disposition"] = _disposition(self.content_disposition, attributes.filename)
        if self.tags:
            headers["x-amz-tagging"] = urlencode(self.tags, quote_via=quote)
        return headers

    def key_headers(self, *, of_source: bool = False) -> dict[str, str]:
        """Return the customer's key, for requests about an object that is encrypted with it.

        Args:
            of_source: of an object that is copied from.
        """
        if self.customer_key is None:
            return {}
        digest = hashlib.md5(base64.b64decode(self.customer_key), usedforsecurity=False).digest()
        prefix = f"x-amz-copy-source{_SSE.removeprefix('x-amz')}" if of_source else _SSE
        return {
            f"{prefix}-customer-algorithm": "AES256",
            f"{prefix}-customer-key": self.customer_key,
            f"{prefix}-customer-key-md5": base64.b64encode(digest).decode("ascii"),
        }

    def _encryption_headers(self) -> dict[str, str]:
        match self.encryption:
            case Encryption.S3:
                return {_SSE: "AES256"}
            case Encryption.KMS:
                key = {f"{_SSE}-aws-kms-key-id": self.kms_key} if self.kms_key else {}
                return {_SSE: "aws:kms", **key}
            case Encryption.NONE | Encryption.CUSTOMER:
                return {}


def _disposition(kind: str, filename: str | None) -> str:
    if not filename:
        return kind
    return f"{kind}; filename*=UTF-8''{quote(filename, safe=_FILENAME_SAFE, errors='replace')}"
