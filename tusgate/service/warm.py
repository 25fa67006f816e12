"""Warm cells: the memory of an open cell, kept a few seconds after its bytes became durable.

The next request on this replica then needs no read-back. Only a convenience: dropping one loses nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tusgate.core.model import Upload, UploadId
    from tusgate.service.budget import Budget
    from tusgate.service.cell import OpenCell


class WarmCells:
    """Open cells between two requests, at most one per upload, each for `ttl` seconds, within the budget."""

    def __init__(self, budget: Budget, ttl: float) -> None:
        self._budget = budget
        self._ttl = ttl
        self._cells: dict[UploadId, WarmCell] = {}

    def keep(self, upload: Upload, cell: OpenCell) -> None:
        """Take over `cell` and the budget bytes that it holds."""
        if self._ttl <= 0 or not cell.held:
            self._budget.give(cell.held)
            return
        warm = WarmCell(self, upload, cell)
        self._cells[upload.id] = warm
        self._budget.keep_warm(warm, cell.held)
        warm.timer = asyncio.get_running_loop().call_later(self._ttl, self.release, warm)

    def take(self, upload: Upload) -> OpenCell | None:
        """Hand out the cell if it is exactly what `upload`, freshly claimed, continues; its bytes stay held."""
        warm = self._cells.get(upload.id)
        if warm is None:
            return None
        if warm.epoch + 1 == upload.epoch and warm.cell.filled == upload.offset:
            self._budget.chill(warm)
            self.forget(warm)
            return warm.cell
        self.release(warm)
        return None

    def forget(self, warm: WarmCell) -> None:
        """Remove `warm` without giving its bytes back. Idempotent."""
        if self._cells.get(warm.upload_id) is warm:
            del self._cells[warm.upload_id]
        if warm.timer is not None:
            warm.timer.cancel()

    def release(self, warm: WarmCell) -> None:
        """Remove `warm` and give its bytes back."""
        self._budget.chill(warm)
        self.forget(warm)
        self._budget.give(warm.cell.held)


class WarmCell:
    """One kept cell; the budget may drop it at any time."""

    def __init__(self, owner: WarmCells, upload: Upload, cell: OpenCell) -> None:
        self._owner = owner
        self.upload_id = upload.id
        self.epoch = upload.epoch
        self.cell = cell
        self.timer: asyncio.TimerHandle | None = None

    def drop(self) -> None:
        """Forget the bytes: the budget needs them and has taken them back."""
        self._owner.forget(self)
