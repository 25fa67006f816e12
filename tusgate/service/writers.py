"""The requests of this process that are writing now, one per upload at most."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from tusgate.core.errors import Draining, Fenced, Superseded

if TYPE_CHECKING:
    from tusgate.core.model import UploadId
    from tusgate.service.intake import Intake


class Writers:
    """Finds the writer of an upload, to tell it that it was taken over or that the process shuts down.

    An accelerator: what really stops a stale writer is the epoch in its next commit.
    """

    def __init__(self) -> None:
        self._active: dict[UploadId, Intake] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    def enter(self, intake: Intake) -> None:
        """Register a writer; an older one of the same upload ends.

        Raises:
            Draining: the process is shutting down.
            Fenced: a later writer is here already: the answer to the earlier claim came after that to its own.
        """
        if self.draining:
            raise Draining
        other = self._active.get(intake.upload_id)
        if other is not None and other.epoch > intake.epoch:
            raise Fenced
        if other is not None:
            other.interrupt(Fenced())
        self._active[intake.upload_id] = intake
        self._idle.clear()

    def leave(self, intake: Intake) -> None:
        """Take a writer off the list. Idempotent."""
        intake.left.set()
        if self._active.get(intake.upload_id) is intake:
            del self._active[intake.upload_id]
        if not self._active:
            self._idle.set()

    async def wait_for_ending(self, upload_id: UploadId, seconds: float) -> None:
        """Wait, at most `seconds`, for a writer whose body is over; one that still receives is not waited for."""
        intake = self._active.get(upload_id)
        if intake is not None and intake.body_is_over:
            await _until_left(intake, seconds)

    async def end(self, upload_id: UploadId, seconds: float) -> None:
        """End the writer of `upload_id`, which saves what it has, and wait for that, at most `seconds`."""
        intake = self._active.get(upload_id)
        if intake is not None:
            intake.interrupt(Superseded())
            await _until_left(intake, seconds)

    def taken_over(self, upload_id: UploadId, epoch: int) -> None:
        """End the writer of `upload_id` if its epoch is older than `epoch`."""
        intake = self._active.get(upload_id)
        if intake is not None and intake.epoch < epoch:
            intake.interrupt(Fenced())

    async def drain(self) -> None:
        """Ask every writer to save what it has, and wait until all have left. New ones are refused."""
        self.draining = True
        for intake in list(self._active.values()):
            intake.interrupt(Draining())
        await self._idle.wait()


async def _until_left(intake: Intake, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await intake.left.wait()
