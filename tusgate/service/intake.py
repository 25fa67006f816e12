"""The hot loop: one request's bytes from the socket into the store.

    source ─► open cell ─► part ────────► store ─► ledger ─► database
                 │          (up to `parts_in_flight` side by side, while the next cell fills)
                 └► piece at the end of the request, or when the budget needs the memory

Rule 1: bytes are kept by reference until the store has them; nothing is copied, joined or spooled.
Rule 2: only the ledger's commits raise the offset. What is not committed when a request ends was never received.
Rule 3: the cell that holds the upload's last byte is stored after the end of the body was seen, so that a body
        that turns out too long cannot complete the upload. Where requests end uploads, no cell is the last one
        before the body that ends the upload has ended.
Rule 4: no database connection is held while bytes flow.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tusgate.core.errors import ChecksumMismatch, ClientStalled, InconsistentLength, Interrupted, TooLarge
from tusgate.core.lifecycle import overrun
from tusgate.core.model import Intent, Part, Piece
from tusgate.core.naming import piece_key
from tusgate.core.placement import Place, multipart_intent, place_cell, whole_intent
from tusgate.core.pressure import PATIENCE, Holding
from tusgate.ports import Attributes, Body
from tusgate.service.cell import OpenCell
from tusgate.service.digest import RequestDigest, crc64
from tusgate.service.ledger import Ledger, Stored
from tusgate.service.multiparts import begin_multipart, join_multipart

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from tusgate.core.checksum import Checksum
    from tusgate.core.model import MultipartId, ObjectKey, Upload, UploadId
    from tusgate.ports import ByteSource, Database, ObjectStore
    from tusgate.service.budget import Budget
    from tusgate.service.inspection import Inspection
    from tusgate.service.ledger import Expiry, Progress
    from tusgate.service.warm import WarmCells


FIRST_CHUNK = 64 * 1024
"""Bytes that a read is expected to bring before one has been seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeTools:
    """What every intake of a process shares.

    Attributes:
        parts_in_flight: most parts and pieces of one upload that are on their way to the store at once.
        piece_inline_max: most bytes of one upload that may wait in the database row.
        max_size: largest upload in bytes for anybody; None = as large as its grid.
        expiry: when an unfinished upload ends by itself.
        inspection: looks at the first bytes of a file before the store gets to make an object of them; None: nobody.
        publishes: whether a request may make the object; False where somebody has to be asked first.
    """

    database: Database
    store: ObjectStore
    budget: Budget
    warm: WarmCells
    parts_in_flight: int
    piece_inline_max: int
    max_size: int | None
    expiry: Expiry
    inspection: Inspection | None = None
    publishes: bool = True


class Intake:
    """One request that writes to one upload. Made after the claim; `run` is called once."""

    def __init__(
        self,
        tools: IntakeTools,
        upload: Upload,
        pieces: list[Piece],
        intents: Sequence[Intent],
        source: ByteSource,
        length: int | None,
        checksum: Checksum | None,
        *,
        ends: bool = False,
        max_size: int | None,
        before_end: Callable[[], Awaitable[None]] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Take over the freshly claimed `upload`.

        Args:
            tools: shared by all intakes.
            upload: with the epoch of this writer.
            pieces: the committed pieces of the open cell.
            intents: those that the claim has written already.
            source: the request's body.
            length: the upload length from now on; committed with the first step.
            checksum: what the body must hash to; nothing is committed before it does.
            ends: the upload ends with this body.
            max_size: largest upload in bytes; None = as large as its grid.
            before_end: called once the body has brought the upload's last byte, before anything is stored that could
                complete it. What it raises ends the request; what the open cell holds is thrown away then.
            progress: told of every commit.
        """
        self.upload_id: UploadId = upload.id
        self.epoch = upload.epoch
        self._tools = tools
        self._claimed = upload
        self._pieces = pieces
        self._intended = {(intent.key, intent.multipart) for intent in intents}
        self._source = source
        self._ends = ends
        self._declared = length
        self._length = None if upload.ends_by_request else length
        """Where the last cell is cut; None while the end is open."""
        self._digest = RequestDigest(checksum) if checksum else None
        self._before_end = before_end
        self._ledger = Ledger(tools.database, upload, length, tools.expiry, progress)
        self._ledger.on_hold = self._digest is not None
        # A store that must list every part at Complete may not be sent parts that a wrong digest takes back.
        self._stages_pieces = self._digest is not None and tools.store.completes_all_parts
        bounds = (length, max_size, upload.grid.capacity)
        self._limit = min(bound for bound in bounds if bound is not None)
        self._arrived = upload.offset
        self._usual_chunk = FIRST_CHUNK
        self._handed_over = upload.offset
        self._cell: OpenCell | None = None
        self._cell_opened = (0.0, 0)
        self._full_at = 0.0
        self._next_piece = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._multipart_id = upload.multipart_id
        self._multipart_key = upload.object_key
        self._multipart_lock = asyncio.Lock()
        self._error: Exception | None = None
        self.body_is_over = False
        self.left = asyncio.Event()
        """Set once this request writes no more."""

    @property
    def upload(self) -> Upload:
        """The upload as this writer has committed it so far."""
        return self._ledger.upload

    def interrupt(self, error: Exception) -> None:
        """End the body with `error`: Draining saves what has arrived, Fenced throws it away."""
        self._source.interrupt(error)

    async def run(self) -> Upload:
        """Take in the whole body; return the upload as committed then.

        Raises:
            Interrupted: the body ended early; what had arrived is committed (nothing of it with a checksum).
            TooLarge: the body passes the length or the limit; what was not committed by then is thrown away.
            InconsistentLength: the body that ends the upload ends before the declared length; likewise.
            ChecksumMismatch: nothing was committed.
            Fenced, StoreUnavailable, StoreRefused, DatabaseUnavailable, what `before_end` raises: the gap-free prefix
                is committed.

        Cancelled: waits for the stores in flight (a second time: cancels them); what they bring may still be committed.
        """
        self._tools.budget.enter(self)
        try:
            stop = await self._take_in_and_store()
            if self._error is not None:
                raise self._error
            await self._commit_rest(stop)
            self._keep_warm()
            if stop is not None:
                raise stop
        finally:
            self._release()
        return self._ledger.upload

    async def _take_in_and_store(self) -> Interrupted | None:
        """Read the body and wait for all stores; return what interrupted the body, if anything did."""
        try:
            stop = await self._take_in()
            if self._digest is not None:
                if stop is not None:
                    raise stop
                if not self._digest.matches():
                    raise ChecksumMismatch
            if self._ends and stop is None:
                self._end_here()
            if self._before_end is not None and self._arrived == self._length:
                await self._before_end()
            await self._close_cell()
            return stop
        finally:
            await self._join()

    async def _take_in(self) -> Interrupted | None:
        try:
            await self._pump()
        except Interrupted as stop:
            return stop
        finally:
            self.body_is_over = True
        return None

    async def _pump(self) -> None:
        while chunk := await self._read():
            self._arrived += len(chunk)
            cell = self._cell
            if cell is not None and len(chunk) < cell.room:
                cell.add(chunk)
            else:
                await self._spread(memoryview(chunk))

    async def _read(self) -> bytes:
        """Return the next chunk, paid for from the budget.

        While memory is short it is paid for in advance, by the size of the last one: what waits in line then has no
        bytes in hand, so that many blocked connections do not add up to memory outside the budget. Not where only the
        end of the body may follow: that needs none, and the cell that waits for it cannot become a piece.
        """
        budget = self._tools.budget
        paid = self._usual_chunk if budget.is_short and self._arrived < self._limit else 0
        if paid:
            await budget.take(paid)
        size = 0
        try:
            chunk = await self._source.read(paid)
            self._check(chunk)
            size = len(chunk)
        finally:
            if size < paid:
                budget.give(paid - size)
        if size > paid:
            self._usual_chunk = size
            if paid:
                budget.force(size - paid)
            elif not budget.try_take(size):
                await budget.take(size)
        return chunk

    def _check(self, chunk: bytes) -> None:
        """Raise TooLarge at the first byte too many; hash what is taken."""
        if self._arrived + len(chunk) > self._limit:
            message = f"the body passes {self._limit} bytes"
            raise overrun(self._claimed.created_via, message) if self._limit == self._declared else TooLarge(message)
        if self._digest is not None:
            self._digest.update(chunk)

    async def _spread(self, chunk: memoryview) -> None:
        """Lay `chunk` over as many cells as it touches. Cancelled: what no cell holds yet is given back."""
        try:
            while chunk:
                cell = self._cell or self._open_cell()
                room = cell.room
                cell.add(chunk[:room])
                chunk = chunk[room:]
                if cell.room == 0:
                    await self._pass_on(cell)
        finally:
            if chunk:
                self._tools.budget.give(len(chunk))

    def _open_cell(self) -> OpenCell:
        """Open the cell at the first byte that has no cell yet; the first one continues what is committed."""
        offset = self._handed_over
        now = asyncio.get_running_loop().time()
        cell = self._resume_cell() if offset == self._claimed.offset else None
        self._cell = cell or OpenCell(self._claimed.grid.cell_at(offset, self._length), [])
        self._cell_opened = (now, self._cell.filled)
        return self._cell

    def _resume_cell(self) -> OpenCell | None:
        cell = self._claimed.grid.cell_at(self._claimed.offset, self._length)
        warm = self._tools.warm.take(self._claimed)
        if warm is not None:
            warm.fit_length(cell)
            return warm
        resumed = OpenCell(cell, self._pieces)
        # The inline bytes are in memory already, so they are counted without waiting; 64 KiB at most.
        self._tools.budget.force(resumed.held)
        return resumed

    async def _pass_on(self, cell: OpenCell) -> None:
        """Send a full cell, or a full memory window of a large one, on its way."""
        if cell.filled == self._length:
            self._full_at = asyncio.get_running_loop().time()
            return  # Rule 3
        if cell.is_full:
            self._cell = None
        if cell.is_full and not self._stages_pieces:
            self._store_cell(cell)
        else:
            self._save_piece(cell)
        await self._wait_for_slot()

    def _end_here(self) -> None:
        """The body that ends the upload has ended: what has arrived is the length, and the open cell the last one."""
        if self._declared not in (None, self._arrived):
            raise InconsistentLength("Upload-Length", f"{self._arrived}, where this request ends")
        self._length = self._arrived
        self._ledger.end_at(self._arrived)
        if self._cell is not None:
            self._cell.fit_length(self._claimed.grid.cell_at(self._cell.cell.start, self._arrived))

    async def _close_cell(self) -> None:
        """The body is over: store what the open cell holds."""
        cell = self._cell
        if cell is None:
            if self._length != 0:
                return
            cell = self._open_cell()
        place = self._place(cell)
        if place is Place.PIECE:
            self._save_piece(cell, keep_memory=cell.filled != self._length)
        elif place is Place.INLINE:
            await self._save_inline(cell)
        elif place is Place.NOWHERE and self._length == 0:
            await self._ledger.add(Stored(start=0, end=0))
        elif place is not Place.NOWHERE:
            self._cell = None
            self._store_cell(cell)

    def _place(self, cell: OpenCell) -> Place:
        return place_cell(
            cell.cell,
            cell.marks,
            self._length,
            multipart=self._multipart_id is not None or self._claimed.group is not None,
            inline_max=self._tools.piece_inline_max,
            publishes=self._tools.publishes,
        )

    def _hand_over(self, cell: OpenCell) -> int:
        """Return the first byte of `cell` that was not sent on its way yet, and note that all are now."""
        start, self._handed_over = self._handed_over, cell.filled
        return start

    def _store_cell(self, cell: OpenCell) -> None:
        """Begin to store a full cell; its memory is given back as soon as the store has it."""
        self._tools.budget.leave(cell.held)
        put = self._put_whole if self._place(cell) is Place.WHOLE else self._put_part
        self._launch(self._store_and_free(put, cell, self._hand_over(cell)))

    async def _store_and_free(
        self, put: Callable[[OpenCell, int], Awaitable[Stored]], cell: OpenCell, start: int
    ) -> None:
        held = cell.held
        try:
            entry = await put(cell, start)
        finally:
            cell.buffers.clear()
            self._tools.budget.give(held, left=True)
        await self._ledger.add(entry)

    async def _put_part(self, cell: OpenCell, start: int) -> Stored:
        if cell.pieces_on_the_way:
            await asyncio.gather(*cell.pieces_on_the_way)
        number, body = cell.cell.number, cell.body()
        await self._inspect(cell.cell.start, body)
        multipart_id = await self._multipart()
        etag = await self._tools.store.put_part(self._multipart_key, multipart_id, number, body)
        part = Part(number, cell.cell.start, body.size, etag, body.crc64)
        return Stored(start=start, end=cell.filled, part=part, absorb=(cell.cell.start, cell.cell.end))

    async def _put_whole(self, cell: OpenCell, start: int) -> Stored:
        if cell.pieces_on_the_way:
            await asyncio.gather(*cell.pieces_on_the_way)
        body = cell.body()
        await self._inspect(cell.cell.start, body)
        key = await self._attempt()
        stored = await self._tools.store.put_object(key, body, Attributes.of(self._claimed))
        return Stored(start=start, end=cell.filled, whole=stored)

    async def _inspect(self, start: int, body: Body) -> None:
        if start == 0 and self._tools.inspection is not None:
            await self._tools.inspection.look_at(body, self._tools.store)

    async def _attempt(self) -> ObjectKey:
        """Return the key for this writer's PutObject of the whole upload, announced before it is written."""
        upload = self._claimed
        announced = whole_intent(replace(upload, put_attempts=upload.put_attempts - 1))
        if (announced.key, False) in self._intended:
            return announced.key
        intent = whole_intent(upload)
        await self._intend(intent)
        return intent.key

    async def _multipart(self) -> MultipartId:
        """Return the multipart upload, created at the first whole cell."""
        async with self._multipart_lock:
            if self._multipart_id is None and self._claimed.group is not None:
                self._multipart_id = await join_multipart(self._tools.database, self._tools.store, self._claimed)
            elif self._multipart_id is None:
                intent = (multipart_intent(self._claimed).key, True)
                announced = intent in self._intended
                self._intended.discard(intent)  # it stands for one attempt; the next part may have to try again
                tools = self._tools
                begun = await begin_multipart(tools.database, tools.store, self._claimed, announced=announced)
                self._multipart_id, self._multipart_key = begun.multipart_id, begun.object_key
            assert self._multipart_id is not None
            return self._multipart_id

    def _save_piece(self, cell: OpenCell, *, keep_memory: bool = False) -> None:
        """Begin to store the unsaved bytes of `cell` as a new piece; a new key each time, so nothing is overwritten."""
        body, start = cell.unsaved_body(), self._hand_over(cell)
        key = piece_key(self.upload_id, self.epoch, self._next_piece)
        self._next_piece += 1
        piece = Piece(cell.saved, body.size, body.crc64, key)
        entry = Stored(start=start, end=cell.filled, piece=piece, absorb=(cell.saved, cell.filled))
        cell.mark_saved(piece)
        freed = 0
        if not keep_memory:
            freed = cell.held
            cell.forget_memory()
            self._tools.budget.leave(freed)
        self._launch(self._put_piece(entry, piece, body, freed), cell)

    async def _put_piece(self, entry: Stored, piece: Piece, body: Body, freed: int) -> None:
        assert piece.key is not None
        try:
            await self._intend(Intent(piece.key))
            await self._tools.store.put_object(piece.key, body, Attributes(self.upload_id, is_passing=True))
        finally:
            body.buffers.clear()
            self._tools.budget.give(freed, left=True)
        await self._ledger.add(entry)

    async def _save_inline(self, cell: OpenCell) -> None:
        data = cell.new_bytes()
        piece = Piece(cell.durable, len(data), crc64(data, 0), data=data)
        start = self._hand_over(cell)
        cell.mark_saved(piece)
        await self._ledger.add(Stored(start=start, end=cell.filled, piece=piece))

    async def _commit_rest(self, stop: Interrupted | None) -> None:
        """Commit what waited for the digest, and a length or an end that no byte has carried yet (DEF-05, DEF-09)."""
        if self._digest is not None:
            await self._ledger.release()
        if stop is None and not self._ledger.is_declared:
            await self._ledger.declare()

    def _keep_warm(self) -> None:
        cell, self._cell = self._cell, None
        if cell is not None:
            cell.pieces_on_the_way.clear()
            self._tools.warm.keep(self._ledger.upload, cell)

    async def _intend(self, intent: Intent) -> None:
        if (intent.key, intent.multipart) not in self._intended:
            await self._tools.database.intend(self._claimed, [intent])

    def _launch(self, work: Coroutine[None, None, None], cell: OpenCell | None = None) -> None:
        """Run `work` beside the body; an error of it ends the body. `cell` waits for it before it is read back."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._landed)
        if cell is not None:
            cell.pieces_on_the_way.append(task)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception) and self._error is None:
            self._error = error
            self._source.interrupt(error)

    async def _wait_for_slot(self) -> None:
        while len(self._tasks) >= self._tools.parts_in_flight:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _join(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _release(self) -> None:
        self._tools.budget.exit(self)
        for task in self._tasks:
            task.cancel()
        if self._cell is not None:
            self._tools.budget.give(self._cell.held)
            self._cell = None

    def holding(self, now: float) -> Holding:
        """Return what saving the open cell would free (see `service.budget.Holder`).

        One that is full waits for the end of the body (rule 3), which as a rule is there at once.
        """
        cell = self._cell
        if cell is None or (cell.is_full and (self.body_is_over or now - self._full_at < PATIENCE)):
            return Holding(0, 0, 0.0)
        opened, filled = self._cell_opened
        rate = (cell.filled - filled) / max(now - opened, 0.001)
        return Holding(cell.held, cell.cell.end - cell.filled, rate)

    def spill(self) -> None:
        """Save the open cell as a piece, because others need its memory (see `service.budget.Holder`).

        Of a full one only the end of the body is missing, and it cannot be saved before that: the client keeps it back.
        """
        cell = self._cell
        if cell is None:
            return
        if cell.is_full:
            self._source.interrupt(ClientStalled("all bytes are there, and the request body does not end"))
        elif cell.unsaved:
            self._save_piece(cell)
        else:
            freed = cell.held
            cell.forget_memory()
            self._tools.budget.give(freed)
