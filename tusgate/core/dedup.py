"""Who keeps each file once. How that is done without ever losing one is told in ARCHITECTURE.md, "Files".

Rule 1: files share an object within one tenant only, and only by a SHA-256 that the gateway has computed itself.
Rule 2: nothing is counted. An object is needed as long as a complete row refers to it, and those are looked up.
Rule 3: a row comes to refer to an object only from another row that is complete and refers to it, under locks of both.
        So an object to which no row refers can never be referred to again, and whoever collects it need not hurry.
        A new row that is complete at once (`core/possession.py`) is no exception: it comes under the lock of the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tusgate.core.model import NewUpload, StoredObject, Upload


@dataclass(frozen=True, slots=True)
class Dedup:
    """Which tenants keep each file once; or, of these, which may have files without sending them.

    Attributes:
        usual: for tenants that have no choice of their own.
        tenants: those that have.
    """

    usual: bool = False
    tenants: Mapping[str, bool] = field(default_factory=dict)

    def is_on(self, tenant: str) -> bool:
        """Return whether this tenant is one of them."""
        return self.tenants.get(tenant, self.usual)

    @property
    def is_on_anywhere(self) -> bool:
        """Whether there are any."""
        return self.usual or any(self.tenants.values())


NO_DEDUP: Final = Dedup()


def may_adopt(upload: Upload, twin: Upload, found: Iterable[Upload]) -> bool:
    """Return whether `upload` may refer to the object of `twin`.

    Args:
        upload, twin: as they were read.
        found: those of the two that are complete, as they are now, locked.
    """
    now = {each.id: each for each in found}
    if upload.id == twin.id or {upload.id, twin.id} != now.keys():
        return False
    are_as_read = all(
        (now[each.id].object_key, now[each.id].etag) == (each.object_key, each.etag) for each in (upload, twin)
    )
    digest, tenants = now[upload.id].sha256, {each.scope.tenant for each in now.values()}
    return are_as_read and len(tenants) == 1 and digest is not None and digest == now[twin.id].sha256


def may_begin_with(new: NewUpload, twin: Upload, found: Upload | None) -> bool:
    """Return whether `new` may be a complete file that refers to the object of `twin`.

    Args:
        new, twin: as they were read.
        found: the second one if it is complete, as it is now, locked.
    """
    if found is None or found.sha256 is None or found.sha256 != twin.sha256:
        return False
    is_as_read = (found.id, found.object_key, found.etag) == (twin.id, twin.object_key, twin.etag)
    return is_as_read and (new.scope.tenant, new.length, new.route, new.content_coding) == (
        found.scope.tenant,
        found.length,
        found.route,
        found.content_coding,
    )


def is_whole(twin: Upload, stored: StoredObject | None) -> bool:
    """Return whether `stored` is the object of `twin` as it was verified: else nobody may come to rely on it."""
    return stored is not None and (stored.size, stored.etag) == (twin.length, twin.etag)
