"""A client that does what tus-js-client does, and a journal that holds the gateway to each of its words."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.audit.journal import Accepted, Journal, Told
from tests.fault.rig import id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from tests.fault.rig import Rig
    from tests.wire.client import Answer, Client

DEADLINE = 60.0
"""Seconds without progress after which an upload is taken for stuck, faults included."""
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
        clients: requests go to one after the other, as a load balancer without sticky sessions sends them. Default:
            the first gateway.
        acknowledged: the largest offset that the gateway has told so far.
        turned_away: statuses of answers that made the client ask again; 0 stands for no answer.
        deferred: the length is declared while it is under way, see `fields`.
        pause: seconds between two questions where it stands.
    """

    rig: Rig
    path: str
    data: bytes
    acknowledged: int = 0
    turned_away: list[int] = field(default_factory=list)
    deferred: bool = False
    clients: Sequence[Client] = ()
    pause: float = PAUSE
    journal: Journal = field(init=False)
    _proven: bool = False
    _patience: float = DEADLINE
    _waiting: asyncio.Timeout | None = None

    def __post_init__(self) -> None:
        self.journal = Journal(id_of(self.path))
        self.rig.journals.append(self.journal)
        self._next_client = itertools.cycle(self.clients or [self.rig.client])

    async def run(self, chunk: int | None = None, deadline: float = DEADLINE) -> None:
        """Send the file in PATCHes of `chunk` bytes (default: all in one) until HEAD says that all is there.

        A second client asks for the offset all the while, as a page that shows progress does.

        Raises TimeoutError when the offset has not grown for `deadline` seconds.
        """
        self._patience = deadline
        async with asyncio.timeout(deadline) as self._waiting, self.watched():
            await self.send(len(self.data), chunk)
            while await self.ask() != len(self.data):  # noqa: ASYNC110 # a client has no event to wait for
                await asyncio.sleep(self.pause)

    async def send(self, end: int, chunk: int | None = None) -> None:
        """Send the file up to `end`, from wherever the gateway says."""
        offset: int | None = self.acknowledged
        while offset is None or offset < end:
            if offset is None:
                await asyncio.sleep(self.pause)
                offset = await self.ask()
            else:
                offset = await self._patch(offset, min(end, offset + (chunk or end)))

    async def retain(self) -> None:
        """Have the finished file kept for longer than any test lasts."""
        body = b'{"retain_until": "2999-01-01T00:00:00Z"}'
        fields = {"Host": "localhost", "Content-Type": "application/json"}
        while not self.journal.retained:
            try:
                client = next(self._next_client)
                answer = await client.request("PATCH", f"/api/v1/files/{id_of(self.path)}", fields, body)
            except LOST:
                await asyncio.sleep(self.pause)
            else:
                assert answer.status in (200, 503), answer
                self.journal.retained = answer.status == 200

    async def ask(self) -> int | None:
        """HEAD: return the offset, None when the client has to ask again."""
        known = self.acknowledged
        try:
            answer = await next(self._next_client).head(self.path)
        except LOST:
            return None
        assert answer.status in (200, 423), answer  # after anything else tus-js-client starts from nothing
        if answer.status == 423:
            return None
        declared = answer.headers.get("Upload-Length")
        assert declared == str(len(self.data)) or (self.deferred and declared is None), answer
        return await self._told(answer, known)

    def fields(self, offset: int, end: int) -> dict[str, str]:
        """Return what a PATCH of `data[offset:end]` says beside what each one must say."""
        return {}

    async def _patch(self, offset: int, end: int) -> int | None:
        known = self.acknowledged
        try:
            answer = await next(self._next_client).patch(
                self.path, offset, self.data[offset:end], self.fields(offset, end)
            )
        except LOST:
            self.turned_away.append(0)
            return None
        assert answer.status in (204, 409, 423, 503), answer  # tus-js-client gives up on other ones below 500
        if "Upload-Offset" in answer.headers:
            told = await self._told(answer, known, proof=answer.status == 204)
            assert answer.status != 204 or told == end
        if answer.status == 204:
            self.journal.accepted.append(Accepted(self.data, offset, end))
        if answer.status != 204:
            self.turned_away.append(answer.status)
            return None
        return end

    async def _told(self, answer: Answer, known: int, *, proof: bool = True) -> int:
        """Hold an offset against the journal. `known`: what had been told before the request was sent."""
        committed = self.rig.committed(self.path)
        self.journal.told.append(Told(answer.offset, answer.status, known, committed))
        assert known <= answer.offset <= len(self.data), (known, answer)
        if answer.offset > self.acknowledged:
            self.acknowledged = answer.offset
            if self._waiting is not None and self._waiting.when() is not None:
                self._waiting.reschedule(asyncio.get_running_loop().time() + self._patience)
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
            await asyncio.sleep(self.pause)


async def heard(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask until there is an answer, as a client does that cannot know whether it was the first one to be asked."""
    while True:
        with contextlib.suppress(*LOST):
            return await ask()
        await asyncio.sleep(PAUSE)


async def begin(rig: Rig, data: bytes, clients: Sequence[Client] = ()) -> Upload:
    """Create an upload for `data`; nothing is sent yet. One whose URL was never heard is left to expire."""
    client = clients[0] if clients else rig.client
    while True:
        answer = await heard(lambda: client.post({"Upload-Length": str(len(data))}))
        if answer.status != 503:
            break
        await asyncio.sleep(PAUSE)
    assert answer.status == 201, answer
    return Upload(rig, answer.upload_path, data, clients=clients)


def letters_of(data: bytes, block: int) -> str:
    """Return the first byte of each block: `ABCDEF` where blocks of letters are in order."""
    return data[::block].decode("ascii")
