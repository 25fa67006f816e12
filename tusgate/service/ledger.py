"""Commits what the store has taken, in the order of offsets.

Parts are stored side by side and finish in any order; the offset only ever moves along the gap-free prefix. While a
request announces a checksum the ledger is on hold: nothing is committed before the digest of the whole body matched.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tusgate.core.errors import DatabaseUnavailable, Fenced
from tusgate.core.lifecycle import advance
from tusgate.core.model import FOREVER, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.core.model import Keeping, Part, Piece, Step, StoredObject, Upload
    from tusgate.ports import Database

    Progress = Callable[[Upload], None]
    """Told each committed state of an upload as its request goes on. Must neither block nor raise."""

RECHECK_DELAYS = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds between looks at the database after a commit whose outcome is unknown."""
RECHECK_PATIENCE = 4.0
"""Seconds after which no further look begins: a silent database has used up the client's patience by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """When an unfinished upload ends by itself: seconds since the last byte, and since its creation; None = never.

    Attributes:
        keeping: what becomes of it when it is finished.
    """

    lifetime: float | None
    max_age: float | None
    keeping: Keeping = FOREVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Bytes `[start, end)` of this request that are in the store now, and the rows that say so.

    `start` is the first byte that is new: a part also covers the older pieces of its cell.
    """

    start: int
    end: int
    part: Part | None = None
    piece: Piece | None = None
    absorb: tuple[int, int] | None = None
    whole: StoredObject | None = None


class Ledger:
    """The committed state of one upload, as one writer moves it forward.

    `upload` is always what the database holds for sure. A `Fenced` or `DatabaseUnavailable` from `add` or `release`
    is final: nothing further is committed by this ledger.
    """

    def __init__(
        self,
        database: Database,
        upload: Upload,
        length: int | None,
        expiry: Expiry,
        progress: Progress | None = None,
    ) -> None:
        self.upload = upload
        self.on_hold = False
        self._database = database
        self._length = length
        self._ends = False
        self._expiry = expiry
        self._progress = progress
        self._waiting: dict[int, Stored] = {}
        self._committing = False
        self._broken: Exception | None = None

    async def add(self, stored: Stored) -> None:
        """Note `stored` and commit as far as there is no gap."""
        self._waiting[stored.start] = stored
        if not self.on_hold:
            await self._settle()

    async def release(self) -> None:
        """End the hold and commit everything, in one transaction."""
        self.on_hold = False
        await self._settle()

    def end_at(self, length: int) -> None:
        """Note that the request has declared the end of the upload: the step that reaches `length` seals it."""
        self._length = length
        self._ends = True

    @property
    def is_declared(self) -> bool:
        """Whether the length, and the end, that the request declares are committed."""
        return self.upload.length == self._length and not (self._ends and self.upload.state is State.UPLOADING)

    async def declare(self) -> None:
        """Commit the length or the end alone (no bytes have carried them)."""
        await self._commit([])

    async def _settle(self) -> None:
        if self._committing:
            return  # whoever commits now will find the new entry when it looks again
        self._committing = True
        try:
            while run := self._contiguous():
                await self._commit(run)
        finally:
            self._committing = False

    def _contiguous(self) -> list[Stored]:
        run: list[Stored] = []
        position = self.upload.offset
        while (stored := self._waiting.pop(position, None)) is not None:
            run.append(stored)
            if stored.end == stored.start:
                break
            position = stored.end
        return run

    async def _commit(self, run: list[Stored]) -> None:
        if self._broken is not None:
            raise self._broken
        last = run[-1] if run else None
        absorbed = [stored.absorb for stored in run if stored.absorb is not None]
        parts = tuple(stored.part for stored in run if stored.part is not None)
        step = advance(
            self.upload,
            last.end if last else self.upload.offset,
            self._length,
            parts=parts,
            pieces=tuple(
                stored.piece
                for stored in run
                if stored.piece is not None and not any(_within(stored.piece, part) for part in parts)
            ),
            absorb=(min(low for low, _ in absorbed), max(high for _, high in absorbed)) if absorbed else None,
            stored=last.whole if last else None,
            ends=self._ends,
            lifetime=self._expiry.lifetime,
            max_age=self._expiry.max_age,
            keeping=self._expiry.keeping,
        )
        try:
            try:
                self.upload = await self._database.commit(self.upload, step)
            except DatabaseUnavailable as error:
                self.upload = await self._look_again(step, error)
        except Exception as error:
            self._broken = error
            raise
        if self._progress is not None:
            self._progress(self.upload)

    async def _look_again(self, step: Step, error: DatabaseUnavailable) -> Upload:
        """Find out whether a commit whose answer was lost has happened; the database alone can tell.

        The step is not repeated: a request that lost its database ends, and the client resumes at what is committed.
        """
        now = asyncio.get_running_loop().time
        end = now() + RECHECK_PATIENCE
        for delay in RECHECK_DELAYS:
            if now() + delay > end:
                break
            await asyncio.sleep(delay)
            try:
                found = await self._database.get(self.upload.scope, self.upload.id)
            except DatabaseUnavailable:
                continue
            if found.epoch != self.upload.epoch:
                raise Fenced from error
            if (found.offset, found.length, found.state) == (step.end, step.length, step.state):
                return found
            raise error
        raise error


def _within(piece: Piece, part: Part) -> bool:
    return part.start <= piece.start and piece.end <= part.start + part.size
