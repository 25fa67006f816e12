"""What a tenant may do. Values and decisions; what changes from request to request is in `service/tenants.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tusgate.core.content import OCTETS, check_type, is_listed, media_type
from tusgate.core.errors import TooLarge, UnsupportedMediaType
from tusgate.core.model import Role

if TYPE_CHECKING:
    from tusgate.core.quota import Quota


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant and its limits; None = no limit.

    Attributes:
        name: as identities name it.
        route: name of the store that new uploads go to; None: the one of the plain settings.
        key_template: of new objects; None: that of the plain settings.
        max_size: bytes of the largest upload.
        types: media types of files, or patterns such as `image/*`; empty: all.
        checks_content: the first bytes of each file must be of its type.
        coded_types: media types of files, or patterns, that clients may have compressed; None: all.
        quota: what the tenant may have in all.
        request_rate: requests per second.
        bandwidth: bytes of uploads per second.
        processors: of its files, by their names; None: as in the plain settings.
        publish_when_clean: those that have to be done before anybody reads a file; None: as in the plain settings.
        dedup: equal files share an object; None: as in the plain settings.
        instant: who proves to have an equal file need not send it; None: as in the plain settings.
    """

    name: str = "default"
    route: str | None = None
    key_template: str | None = None
    max_size: int | None = None
    types: tuple[str, ...] = ()
    checks_content: bool = False
    coded_types: tuple[str, ...] | None = None
    quota: Quota | None = None
    request_rate: float | None = None
    bandwidth: int | None = None
    processors: tuple[str, ...] | None = None
    publish_when_clean: tuple[str, ...] | None = None
    dedup: bool | None = None
    instant: bool | None = None

    def check_type(self, content_type: str | None, role: Role | None) -> None:
        """Raise TypeNotAllowed unless the tenant takes such files.

        Partials are no files: what is made of them is asked for its type. Where content is looked at, it may speak
        for a file of no declared type.
        """
        is_file = role not in {Role.PARTIAL, Role.GROUP}
        content_will_tell = self.checks_content and media_type(content_type) is None
        if is_file and not content_will_tell:
            check_type(content_type, self.types)

    def check_coding(self, content_coding: str | None, content_type: str | None, *, has_gates: bool) -> None:
        """Raise UnsupportedMediaType unless the tenant takes such files as coded as they are.

        Nobody undoes a coding here: whoever looks at a file before it is read would see the coded bytes, and readers
        what they stand for.

        Args:
            content_coding, content_type: of a file.
            has_gates: processors have to be done with files of the tenant before they are read.
        """
        if content_coding is None:
            return
        if self.checks_content or has_gates:
            raise UnsupportedMediaType("Content-Encoding: expected none, as files are looked at")
        if self.coded_types is not None and not is_listed(media_type(content_type) or OCTETS, self.coded_types):
            raise UnsupportedMediaType("Content-Encoding: expected none for files of this type")

    def check_size(self, length: int | None) -> None:
        """Raise TooLarge when an upload of `length` bytes is larger than the tenant's largest."""
        if self.max_size is not None and length is not None and length > self.max_size:
            raise TooLarge(f"Upload-Length: {length} is more than the largest upload allowed, {self.max_size}")


def least(*limits: int | None) -> int | None:
    """Return the smallest limit; None when there is none."""
    return min((limit for limit in limits if limit is not None), default=None)
