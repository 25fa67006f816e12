"""What the store reports by itself: a reason to look, and nothing more.

A report that is forged, late, doubled or out of order is harmless for that: what counts is what the store answers when
it is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from tusgate.core.naming import ids_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tusgate.core.model import UploadId
    from tusgate.ports import Database
    from tusgate.service.direct import DirectUploads

log = structlog.get_logger(__name__)


class Evidence:
    """Takes reports about objects."""

    def __init__(self, database: Database, direct: DirectUploads) -> None:
        self._database = database
        self._direct = direct
        self._looking: set[UploadId] = set()

    async def objects_changed(self, keys: Iterable[str]) -> int:
        """Look after the uploads whose objects these are; return how many there are.

        Args:
            keys: as the store names them, with whatever prefix.

        Raises:
            Unavailable: the store should report it again; what was done is done.
        """
        looked = 0
        for key in dict.fromkeys(keys):
            for upload_id in ids_in(key):
                looked += await self._look(upload_id, key)
        return looked

    async def _look(self, upload_id: UploadId, key: str) -> bool:
        if upload_id in self._looking:
            return False  # a flood of reports about one object is one report
        self._looking.add(upload_id)
        try:
            upload = await self._database.get_any(upload_id)
            if upload is None or not key.endswith(upload.object_key):
                return False
            await self._direct.look_again(upload)
        finally:
            self._looking.discard(upload_id)
        log.info("evidence.taken", upload_id=upload_id)
        return True
