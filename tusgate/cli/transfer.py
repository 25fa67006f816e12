"""Bringing one file, or stdin, to a tus server: chunks, retries, resumption. No terminal in here."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from tusgate.cli.patience import Patience
from tusgate.cli.resume import Fingerprint
from tusgate.cli.sending import TransferError, TransferInterruptedError, UploadGoneError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from tusgate.cli.resume import ResumeStore
    from tusgate.cli.sending import Body
    from tusgate.cli.tus_client import TusClient

READ_SIZE: Final = 256 * 1024
"""Bytes read from disk at a time: enough to keep a network busy, little enough for a smooth bar."""
STREAM_BLOCK: Final = 8 << 20
"""Bytes of stdin that are kept until the server has them, when no chunk size is given."""


class Watcher(Protocol):
    """Who is told how an upload goes. Called often; must be quick."""

    def moved(self, offset: int) -> None:
        """The upload now stands at `offset` (bytes sent; after a failure: bytes that the server has)."""

    def waiting(self, seconds: float, reason: str) -> None:
        """A request failed for `reason` and is tried again in `seconds`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How uploads are made.

    Attributes:
        chunk_size: most bytes of one request; None sends the rest of the file in one.
        retries: tries without any progress after which an upload is given up.
        metadata: sent with every upload, beside its file name.
        first_pause: seconds before the first retry; each further one waits twice as long.
    """

    chunk_size: int | None
    retries: int
    metadata: Mapping[str, str]
    first_pause: float = 0.5


def check_unchanged(path: Path, file: Fingerprint, store: ResumeStore) -> None:
    """Raise TransferError when the file at `path` is no longer `file`; what was sent of that cannot be used."""
    if Fingerprint.of(path) != file:
        store.forget(file)
        raise TransferError("the file changed while it was being uploaded; run the command again")


async def upload_file(client: TusClient, path: Path, plan: Plan, store: ResumeStore, watcher: Watcher) -> str:
    """Upload the file at `path`, going on where an earlier try stopped; return its URL.

    Cancelled or failed, it leaves the upload on the server and its URL in `store`.

    Raises:
        TransferError: it cannot be uploaded, or it changed meanwhile.
        OSError: it cannot be read.
    """
    file = Fingerprint.of(path)
    transfer = _Transfer(client, plan, watcher)
    metadata = {"filename": path.name, **plan.metadata}
    url = store.url_of(file)
    if url is None or not await transfer.resume(url, file.size):
        url = await transfer.create(file.size, metadata)
        store.remember(file, url)
    chunk = plan.chunk_size or max(file.size, 1)
    with path.open("rb") as opened:
        body = file_body(opened.fileno(), partial(check_unchanged, path, file, store), watcher.moved)
        while transfer.offset < file.size:
            await transfer.bring(url, min(transfer.offset + chunk, file.size), body)
    store.forget(file)
    return url


async def upload_stream(client: TusClient, stream: BinaryIO, plan: Plan, watcher: Watcher) -> str:
    """Upload what `stream` gives until its end, its length told with the last bytes; return its URL.

    The server must offer creation-defer-length. Nothing is remembered: a pipe cannot be read again.
    """
    transfer = _Transfer(client, plan, watcher)
    size = plan.chunk_size or STREAM_BLOCK
    block = await asyncio.to_thread(stream.read, size)
    following = await asyncio.to_thread(stream.read, size) if block else b""
    url = await transfer.create(None if following else len(block), plan.metadata)
    while block:
        start, end = transfer.offset, transfer.offset + len(block)
        await transfer.bring(url, end, _block_body(block, start, watcher), length=None if following else end)
        block = following
        following = await asyncio.to_thread(stream.read, size) if block else b""
    return url


class _Transfer:
    """One upload on its way; `offset` is what the server has confirmed."""

    def __init__(self, client: TusClient, plan: Plan, watcher: Watcher) -> None:
        self.offset = 0
        self._client = client
        self._watcher = watcher
        self._patience = Patience(plan.retries, plan.first_pause, watcher.waiting)

    async def create(self, length: int | None, metadata: Mapping[str, str]) -> str:
        while True:
            try:
                url = await self._client.create(length, metadata)
            except TransferInterruptedError as error:
                await self._patience.pause(error)
            else:
                self._patience.progressed()
                return url

    async def resume(self, url: str, size: int) -> bool:
        """Find out where the upload at `url` stands; False when it cannot be continued with `size` bytes."""
        while True:
            try:
                standing = await self._client.standing(url)
            except UploadGoneError:
                return False
            except TransferInterruptedError as error:
                await self._patience.pause(error)
            else:
                self._patience.progressed()
                self._arrive(standing.offset)
                return standing.length == size and standing.offset <= size

    async def bring(self, url: str, end: int, body: Body, length: int | None = None) -> None:
        """Bring the upload to offset `end`; after each failure ask the server where it stands."""
        asked = True
        while self.offset < end:
            try:
                if not asked:
                    self._arrive((await self._client.standing(url)).offset)
                    asked = True
                    continue
                self._arrive(await self._client.append(url, self.offset, end - self.offset, body, length))
            except TransferInterruptedError as error:
                asked = False
                await self._patience.pause(error)

    def _arrive(self, offset: int) -> None:
        if offset < self.offset:
            raise TransferError(f"the server lost bytes: it had {self.offset} and says {offset} now")
        if offset > self.offset:
            self._patience.progressed()
        self.offset = offset
        self._watcher.moved(offset)


def file_body(descriptor: int, check_unchanged: Callable[[], None], moved: Callable[[int], None]) -> Body:
    """Return what reads bytes of the file `descriptor`, and tells `moved` up to where they have gone out."""

    # Nothing is opened in here and no position is shared: a request that was cut leaves its generator behind.
    async def body(offset: int, size: int) -> AsyncIterator[bytes]:
        end = offset + size
        while offset < end:
            chunk = await asyncio.to_thread(os.pread, descriptor, min(READ_SIZE, end - offset), offset)
            offset += len(chunk)
            if offset == end or not chunk:
                # Before the last bytes go out: the server must never get to complete a mixture of two files.
                check_unchanged()
            yield chunk
            moved(offset)

    return body


def _block_body(block: bytes, start: int, watcher: Watcher) -> Body:
    async def body(offset: int, size: int) -> AsyncIterator[bytes]:
        for at in range(offset - start, offset - start + size, READ_SIZE):
            yield block[at : min(at + READ_SIZE, offset - start + size)]
            watcher.moved(min(start + at + READ_SIZE, offset + size))

    return body
