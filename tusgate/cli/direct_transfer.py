"""Bringing one file straight to the object store: parallel parts, retries, fresh URLs, resumption. No terminal in here.

The work goes in rounds: ask which parts are missing, send these, say that all are there. Whatever fails ends its round,
and the next one begins with what the store says; so URLs that have expired are made anew, and nothing has to be
remembered but the address of the upload.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from tusgate.cli.direct_client import PartsRefusedError
from tusgate.cli.part_digests import part_digests, part_size_for
from tusgate.cli.patience import Patience
from tusgate.cli.resume import Fingerprint
from tusgate.cli.sending import TransferError, TransferInterruptedError, UploadGoneError
from tusgate.cli.transfer import check_unchanged, file_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

    from tusgate.cli.direct_client import Begun, DirectClient, PartUrl, Shown
    from tusgate.cli.resume import ResumeStore
    from tusgate.cli.transfer import Plan, Watcher

T = TypeVar("T")

LEAST_AT_ONCE: Final = 3
MOST_AT_ONCE: Final = 8
"""Parts of one file on their way: one more for every two that arrive, half as many after one that does not."""
URLS_AT_ONCE: Final = 50
SMALLEST_WISH: Final = 8 << 20
PARTS_WISHED: Final = 500
FINISHING_PAUSE: Final = 1.0


async def upload_directly(
    client: DirectClient, path: Path, plan: Plan, store: ResumeStore, watcher: Watcher, *, sync: bool = False
) -> str:
    """Upload the file at `path`, going on where an earlier try stopped; return the URL of the file in the API.

    Cancelled or failed, it leaves the upload on the server and its URL in `store`. With `sync` the file is read once
    before, and what the server has of it in other files is not sent.

    Raises:
        TransferError: it cannot be uploaded, or it changed meanwhile.
        OSError: it cannot be read.
    """
    file = Fingerprint.of(path)
    patience = Patience(plan.retries, plan.first_pause, watcher.waiting)
    upload = await _found(client, patience, store.url_of(file), file.size)
    if upload is None:
        wanted = _wish(path.name, file.size, plan)
        if sync and file.size:
            wanted |= await _declared(path, file.size, plan)
            upload = await _replanned(client, patience, store.url_of_earlier(file), wanted)
        if upload is None:
            upload = await _ready(patience, lambda: client.begin(wanted))
        store.remember(file, upload.links.self)
    with path.open("rb") as opened:
        is_same = partial(check_unchanged, path, file, store)
        await _DirectTransfer(client, upload, opened.fileno(), is_same, patience, watcher).bring()
    store.forget(file)
    return upload.links.file


def _wish(name: str, size: int, plan: Plan) -> dict[str, object]:
    return {
        "size": size,
        "filename": plan.metadata.get("filename") or name,
        "metadata": dict(plan.metadata),
        "part_size": plan.chunk_size or max(SMALLEST_WISH, -(-size // PARTS_WISHED)),
        # A creation whose answer was lost is found again by this. It tells nothing of the file: another one with the
        # same name, size and date, on another machine, must not go on with this upload.
        "fingerprint": f"client:{secrets.token_urlsafe(24)}",
        "urls": 0,
    }


async def _declared(path: Path, size: int, plan: Plan) -> dict[str, object]:
    """Return what tells the parts of the file, whose size is the same for every version of it."""
    part_size = part_size_for(size, plan.chunk_size)
    digests = await asyncio.to_thread(part_digests, path, size, part_size)
    return {"part_size": part_size, "part_checksums": {"algorithm": "sha256", "values": digests}}


async def _found(client: DirectClient, patience: Patience, url: str | None, size: int) -> Shown | None:
    """Return the upload at `url` if it can be continued with `size` bytes."""
    if url is None:
        return None
    try:
        upload = await _patiently(patience, lambda: client.look(url))
    except UploadGoneError:
        return None
    return upload if upload.size == size and upload.state in ("uploading", "sealed", "complete") else None


async def _replanned(
    client: DirectClient, patience: Patience, url: str | None, wanted: Mapping[str, object]
) -> Shown | None:
    """Return the unfinished upload at `url` as one of the file that is `wanted` now; None where that cannot be."""
    if url is None:
        return None
    try:
        upload = await _patiently(patience, lambda: client.look(url))
        address = upload.links.plan
        if address is None or upload.state != "uploading" or upload.part_size != wanted["part_size"]:
            return None
        change = {name: wanted[name] for name in ("size", "part_checksums", "fingerprint", "urls")}
        return await _ready(patience, lambda: client.replan(address, change))
    except TransferError:
        return None


async def _ready(patience: Patience, ask: Callable[[], Awaitable[Begun]]) -> Shown:
    """Return the upload when the gateway has all parts that it can have without us: an answer waits only so long."""
    begun = await _patiently(patience, ask)
    left = begun.copies_left + 1
    while 0 < begun.copies_left < left:
        left = begun.copies_left
        begun = await _patiently(patience, ask)
    return begun.upload


async def _patiently(patience: Patience, ask: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            answer = await ask()
        except TransferInterruptedError as error:
            await patience.pause(error)
        else:
            patience.progressed()
            return answer


class _DirectTransfer:
    """One upload on its way."""

    def __init__(
        self,
        client: DirectClient,
        upload: Shown,
        descriptor: int,
        check_unchanged: Callable[[], None],
        patience: Patience,
        watcher: Watcher,
    ) -> None:
        self._client = client
        self._upload = upload
        self._descriptor = descriptor
        self._check_unchanged = check_unchanged
        self._patience = patience
        self._watcher = watcher
        self._etags: dict[int, str] = {}
        self._stored: dict[int, int] = {}
        self._moving: dict[int, int] = {}
        self._again: list[int] = []
        self._at_once = float(LEAST_AT_ONCE)

    async def bring(self) -> None:
        """Send what is missing until the file is complete."""
        is_stale = False
        while is_stale or self._upload.state != "complete":
            try:
                if is_stale:
                    self._upload = await self._client.look(self._upload.links.self)
                    is_stale = False
                await self._go_on()
            except TransferInterruptedError as error:
                is_stale = True
                self._at_once = max(1.0, self._at_once / 2)
                await self._patience.pause(error)

    async def _go_on(self) -> None:
        match self._upload.state:
            case "uploading":
                await self._send_missing()
                self._check_unchanged()
                await self._complete()
            case "sealed":
                await asyncio.sleep(FINISHING_PAUSE)
                self._upload = await self._client.look(self._upload.links.self)
            case "complete":
                return
            case ended:
                raise TransferError(f"the upload has ended: {self._upload.reason or ended}")

    async def _complete(self) -> None:
        try:
            self._upload = await self._client.complete(self._upload.links.complete, self._etags)
        except PartsRefusedError as error:
            self._again = error.numbers
            raise TransferInterruptedError(str(error)) from error

    async def _send_missing(self) -> None:
        standing = await self._client.parts(self._upload.links.parts)
        # What was just answered to a PUT of ours counts more: a part that somebody has replaced is refused by it.
        self._etags = {part.number: part.etag or "" for part in standing if part.is_there} | self._etags
        self._stored = {part.number: part.size for part in standing if part.is_there}
        self._moving.clear()
        self._tell()
        if self._again:
            again, self._again = self._again[:URLS_AT_ONCE], []
            await self._send((await self._client.sign(self._upload.links.urls, again)).urls)
        after: int | None = 0
        while after is not None:
            page = await self._client.missing(self._upload.links.urls, after, URLS_AT_ONCE)
            await self._send(page.urls)
            after = page.next_after

    async def _send(self, parts: Iterable[PartUrl]) -> None:
        """Send these parts, some at a time. One that fails lets those beside it finish; cancelled, all end at once."""
        running: set[asyncio.Task[None]] = set()
        try:
            for part in parts:
                while len(running) >= int(self._at_once):
                    running = await _some_done(running)
                running.add(asyncio.create_task(self._put(part)))
            while running:
                running = await _some_done(running)
        except TransferInterruptedError:
            await asyncio.gather(*running, return_exceptions=True)
            raise
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _put(self, part: PartUrl) -> None:
        def moved(offset: int) -> None:
            self._moving[part.number] = offset - part.start
            self._tell()

        self._stored.pop(part.number, None)
        body = file_body(self._descriptor, self._check_unchanged, moved)
        try:
            self._etags[part.number] = await self._client.put(part, body(part.start, part.size))
        finally:
            self._moving.pop(part.number, None)
        self._stored[part.number] = part.size
        self._at_once = min(float(MOST_AT_ONCE), max(float(LEAST_AT_ONCE), self._at_once + 0.5))
        self._patience.progressed()
        self._tell()

    def _tell(self) -> None:
        self._watcher.moved(sum(self._stored.values()) + sum(self._moving.values()))


async def _some_done(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait for one of them at least, and return the others. Raises what one has raised."""
    done, waiting = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return waiting
