"""Whether a finished object is the file that was declared before its bytes were sent past us.

Bytes that never passed through here have nobody who has hashed them but the store, and few stores hash the whole. So
unless a checksum that the store has verified says it all, the object is read once. Memory stays flat.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from tusgate.core.errors import StoreRefused
from tusgate.service.digest import RequestDigest

if TYPE_CHECKING:
    from tusgate.core.model import StoredObject, Upload
    from tusgate.ports import ObjectStore
    from tusgate.service.inspection import Inspection


async def check_arrived(
    store: ObjectStore, upload: Upload, stored: StoredObject, inspection: Inspection | None
) -> None:
    """Return when the object of a direct upload may be its file: as declared, and of the type that it claims.

    Args:
        store: where the object is.
        upload: sealed.
        stored: its object.
        inspection: what its content has to be, where the tenant wants that looked at.

    Raises:
        StoreRefused, ContentMismatch: it is another file. Reading it again would tell nothing else.
        StoreUnavailable: it could not be read to its end.
    """
    if inspection is not None:
        await inspection.look_at_object(stored.key, stored.size, store)
    await _check_digest(store, upload, stored)


async def _check_digest(store: ObjectStore, upload: Upload, stored: StoredObject) -> None:
    declared = None if upload.plan is None else upload.plan.whole
    if declared is None:
        return
    if declared.algorithm == "crc64nvme" and stored.crc64 >= 0:
        is_the_file = stored.crc64 == int.from_bytes(declared.digest, "big")
    else:
        digest = RequestDigest(declared)
        async with aclosing(store.read(stored.key, etag=stored.etag)) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
        is_the_file = digest.matches()
    if not is_the_file:
        raise StoreRefused(f"the file does not have the {declared.algorithm} that was declared")
