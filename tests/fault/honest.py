"""A client that does what tus-js-client does, and a journal that holds the gateway to each of its words."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fault.rig import Rig
    from tests.wire.client import Answer

DEADLINE = 60.0
"""Seconds for one upload, faults included."""
PAUSE = 0.05
"""Seconds between two attempts of a client that was turned away."""
LOST = (OSError, EOFError, TimeoutError)
"""What a broken connection looks like."""


@dataclass
class Upload:
    """One file on its way: PATCH after PATCH, and after anything unexpected HEAD, and on from there.

    Every offset that the gateway tells is checked when it is told: it never falls behind an earlier one (I1), and
    it equals the length only when the object is in the store, byte for byte (I3, I4).

    Attributes:
        path: of the upload.
        data: the file.
        acknowledged: the largest offset that the gateway has told so far.
        turned_away: statuses of answers that made the client ask again; 0 stands for no answer.
    """

    rig: Rig
    path: str
    data: bytes
    acknowledged: int = 0
    turned_away: list[int] = field(default_factory=list)
    _proven: bool = False

    async def run(self, chunk: int | None = None, deadline: float = DEADLINE) -> None:
        """Send the file in PATCHes of `chunk` bytes (default: all in one) until HEAD says that all is there.

        A second client asks for the offset all the while, as a page that shows progress does.
        """
        async with asyncio.timeout(deadline), self.watched():
            await self.send(len(self.data), chunk)
            while await self.ask() != len(self.data):  # noqa: ASYNC110 # a client has no event to wait for
                await asyncio.sleep(PAUSE)

    async def send(self, end: int, chunk: int | None = None) -> None:
        """Send the file up to `end`, from wherever the gateway says."""
        offset: int | None = self.acknowledged
        while offset is None or offset < end:
            if offset is None:
                await asyncio.sleep(PAUSE)
                offset = await self.ask()
            else:
                offset = await self._patch(offset, min(end, offset + (chunk or end)))

    async def ask(self) -> int | None:
        """HEAD: return the offset, None when the client has to ask again."""
        known = self.acknowledged
        try:
            answer = await self.rig.client.head(self.path)
        except LOST:
            return None
        assert answer.status in (200, 423), answer  # after anything else tus-js-client starts from nothing
        if answer.status == 423:
            return None
        assert int(answer.headers["Upload-Length"]) == len(self.data)
        return await self._told(answer, known)

    async def _patch(self, offset: int, end: int) -> int | None:
        known = self.acknowledged
        try:
            answer = await self.rig.client.patch(self.path, offset, self.data[offset:end])
        except LOST:
            self.turned_away.append(0)
            return None
        assert answer.status in (204, 409, 423, 503), answer  # tus-js-client gives up on other ones below 500
        if "Upload-Offset" in answer.headers:
            told = await self._told(answer, known, proof=answer.status == 204)
            assert answer.status != 204 or told == end
        if answer.status != 204:
            self.turned_away.append(answer.status)
            return None
        return end

    async def _told(self, answer: Answer, known: int, *, proof: bool = True) -> int:
        """Hold an offset against the journal. `known`: what had been told before the request was sent."""
        assert known <= answer.offset <= len(self.data), (known, answer)
        self.acknowledged = max(self.acknowledged, answer.offset)
        if proof and answer.offset == len(self.data) and not self._proven:
            await self.check_object()
            self._proven = True
        return answer.offset

    async def check_object(self) -> None:
        """Compare the object in the store with the file."""
        stored = await self.rig.stored(self.path)
        assert len(stored) == len(self.data)
        assert hashlib.sha256(stored).digest() == hashlib.sha256(self.data).digest()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Ask for the offset all the while that the block runs; what was wrong with an answer is raised at its end."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        while True:
            await self.ask()
            await asyncio.sleep(PAUSE)


async def begin(rig: Rig, data: bytes) -> Upload:
    """Create an upload for `data`; nothing is sent yet."""
    return Upload(rig, await rig.client.create(len(data)), data)


def letters_of(data: bytes, block: int) -> str:
    """Return the first byte of each block: `ABCDEF` where blocks of letters are in order."""
    return data[::block].decode("ascii")
