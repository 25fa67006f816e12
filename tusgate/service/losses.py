"""Whether bytes that the store says it has lost are lost: to believe it ends an upload, and removes what is there.

One answer proves nothing: it may come from a node that lags behind, or have been damaged on its way. So the store is
asked again, in another way, before an upload fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusgate.core.errors import MultipartLost, ObjectLost, PieceLost
from tusgate.service.digest import crc64_in_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.core.model import Piece, Upload, UploadId
    from tusgate.ports import ObjectStore


def loss_reason(error: MultipartLost | PieceLost) -> str:
    """Return why an upload has failed whose stored bytes are lost."""
    if isinstance(error, MultipartLost):
        return "the object store threw the unfinished multipart upload away"
    return "the object store lost bytes that waited for their part"


async def has_multipart(store: ObjectStore, home: Upload) -> bool:
    """Return whether the store shows the multipart upload of `home`. Raises StoreUnavailable."""
    return home.multipart_id is not None and await store.multipart_exists(home.object_key, home.multipart_id)


async def has_pieces(store: ObjectStore, upload_id: UploadId, pieces: Sequence[Piece]) -> bool:
    """Return whether the store has all `pieces` as they were committed; they are read. Raises StoreUnavailable."""
    for piece in pieces:
        if piece.key is not None and not await _has_piece(store, upload_id, piece):
            return False
    return True


async def _has_piece(store: ObjectStore, upload_id: UploadId, piece: Piece) -> bool:
    assert piece.key is not None
    found = await store.find(piece.key, upload_id)
    if found is None or found.size != piece.size:
        return False
    try:
        return await crc64_in_store(store, piece.key, piece.skip, piece.size) == piece.crc64
    except ObjectLost:
        return False
