"""Looks at the first bytes of a file, before the store gets to make an object of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tusgate.core.content import HEAD, check_content
from tusgate.core.model import Piece, Role
from tusgate.ports import Body

if TYPE_CHECKING:
    from tusgate.core.model import NewUpload, ObjectKey, Upload
    from tusgate.core.tenant import Tenant
    from tusgate.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the content of one file has to be.

    Attributes:
        content_type: as declared.
        allowed: see `core.content.check_content`.
    """

    content_type: str | None
    allowed: tuple[str, ...]

    @classmethod
    def of(cls, tenant: Tenant | None, upload: Upload | NewUpload) -> Self | None:
        """Return what `upload` has to be; None where nobody looks: a partial is no file."""
        if tenant is None or not tenant.checks_content or upload.role is Role.PARTIAL:
            return None
        return cls(upload.content_type, tenant.types)

    async def look_at(self, body: Body, store: ObjectStore) -> None:
        """Check what a file begins with; `body` is its first part, or all of it.

        Raises:
            ContentMismatch: it is something else.
            StoreUnavailable: a piece of it could not be read.
        """
        check_content(await _head_of(body, store), self.content_type, self.allowed)

    async def look_at_object(self, key: ObjectKey, size: int, store: ObjectStore) -> None:
        """Check what an object of `size` bytes begins with. Raises like `look_at`."""
        if size:
            await self.look_at(Body(size, -1, (Piece(0, size, -1, key),)), store)


async def _head_of(body: Body, store: ObjectStore) -> bytes:
    head = bytearray()
    for piece in body.pieces:
        if len(head) >= HEAD:
            break
        assert piece.key is not None
        async for chunk in store.read(piece.key, piece.skip, min(piece.size, HEAD - len(head))):
            head += chunk
    for buffer in body.buffers:
        if len(head) >= HEAD:
            break
        head += memoryview(buffer)[: HEAD - len(head)]
    return bytes(head)
