"""Every method of the service is cancelled wherever it waits, and nothing is lost, held, or left running.

A web server may cancel a request when its connection breaks, and the process ends its jobs so. Each method runs once
for every await on its way, and is cancelled at the first, the second, and so on, until it comes to its end unharmed.
Calls of the ports take time both ways, so an await may lie before an effect or after it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import types
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.doubles.faults import Faults
from tests.unit.service.rig import GRACE, LIFETIME, SCOPE, Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.access import Principal
from tusgate.core.checksum import Checksum
from tusgate.core.concat import GroupWish
from tusgate.core.errors import TusgateError, UploadGone
from tusgate.core.listing import FileFilter
from tusgate.core.model import CreatedVia, ObjectKey, Role, State
from tusgate.ports import Attributes, Body
from tusgate.service.digest import crc64_of
from tusgate.service.files import Files
from tusgate.service.reconcile import Mending, Reconciler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from tests.unit.service.rig import Process
    from tusgate.core.model import Upload, UploadId
    from tusgate.ports import ReadingDatabase

    Call = Callable[[], Coroutine[Any, Any, Any]]
    Prepare = Callable[["Stage"], Awaitable["Call | tuple[Call, Call]"]]

pytestmark = pytest.mark.usefixtures("small_scale")

DATA = some_bytes(57)
GROUP = GroupWish("one file")
RUFH = CreatedVia.RUFH
LONG_ENOUGH = 100.0
"""Seconds after which whatever a cancelled method has left behind is over."""


@types.coroutine
def telling(work: Coroutine[Any, Any, Any], waits: Callable[[], None]) -> Generator[Any, None, Any]:
    """Run `work`, and call `waits` each time that it is about to wait."""
    step: Callable[[], Any] = partial(work.send, None)
    while True:
        try:
            awaited = step()
        except StopIteration as end:
            return end.value
        waits()
        try:
            yield awaited
        except BaseException as error:  # noqa: BLE001 - handed on
            step = partial(work.throw, error)
        else:
            step = partial(work.send, None)


def files_of(process: Process) -> Files:
    return Files(cast("ReadingDatabase", process.tools.database), process.stores, process.uploads, 10)


@dataclass
class Stage:
    """A process whose ports take time, and what its clients were told."""

    world: World = field(default_factory=lambda: World(disorder=4))
    told: dict[UploadId, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        chance = random.Random(1)
        self.process = self.world.process(Faults(latency=lambda: chance.uniform(0, 0.02)), budget=200)
        self.files = files_of(self.process)

    def progress(self, upload: Upload) -> None:
        self.told[upload.id] = max(upload.offset, self.told.get(upload.id, 0))

    async def cut_off(self, call: Call, nth: int, times: int) -> bool:
        """Cancel `call` at its await number `nth`, and `times - 1` times in the clean-up; False: it has fewer."""
        left = times

        def at_await() -> None:
            nonlocal nth, left
            nth -= 1
            if nth <= 0 and left:
                left -= 1
                task.cancel()

        async def work() -> Any:
            return await telling(call(), at_await)

        task: asyncio.Task[Any] = asyncio.create_task(work())
        outcome: Any
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if left == times:
            assert not isinstance(outcome, BaseException), outcome
            return False
        assert isinstance(outcome, asyncio.CancelledError), outcome
        return True

    async def assert_nothing_is_held(self) -> None:
        await asyncio.sleep(LONG_ENOUGH)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert self.process.budget.used == self.process.budget.leaving == 0
        assert self.process.writers._active == {}
        assert self.files.downloads == 0
        for upload_id, offset in self.told.items():
            upload = await self.process.committed(upload_id)
            assert upload.offset >= offset or upload.state is State.TERMINATED

    async def assert_nothing_leaked(self) -> None:
        await self.world.settle()
        await self.world.settle()  # groups end after their partials
        assert await self.world.leaks() == []
        assert self.world.database.all_garbage() == []

    # What clients do

    def created(self, length: int | None, data: bytes | None = None, **details: Any) -> Call:
        async def create() -> None:
            sender = None if data is None else Sender(data)
            upload = await self.process.create(length, sender, progress=self.progress, **details)
            if upload.state is State.COMPLETE:
                assert self.world.body_of(upload) == (data or b"")

        return create

    async def half(self, length: int | None = 57, sent: int = 25, **details: Any) -> Upload:
        upload = await self.process.create(length, **details)
        return await self.process.append(upload, Sender(DATA[:sent]), progress=self.progress)

    def appended(self, upload: Upload, end: int = 57, checksum: bool = False, **details: Any) -> tuple[Call, Call]:
        """Return a request that brings the rest, and what its client does when it has no answer."""

        def send(known: Upload) -> Coroutine[Any, Any, Upload]:
            data = DATA[known.offset : end]
            digest = Checksum("sha256", hashlib.sha256(data).digest()) if checksum else None
            ends = known.created_via is RUFH
            return self.process.append(
                known, Sender(data, (4,)), checksum=digest, ends=ends, progress=self.progress, **details
            )

        async def resume() -> None:
            known = await self.process.uploads.head(SCOPE, upload.id)
            if known.state is State.UPLOADING:
                known = await send(known)
            assert known.state is State.COMPLETE
            assert self.world.body_of(known) == DATA[:end]

        return partial(send, upload), resume

    async def complete(self) -> Upload:
        upload = await self.process.append(await self.process.create(57), Sender(DATA))
        assert upload.state is State.COMPLETE
        return upload

    async def sealed(self) -> Upload:
        """Return an upload that has all its bytes, and whose finishing has just begun."""
        upload = await self.half()
        sending = asyncio.create_task(self.process.append(upload, Sender(DATA[25:])))
        while (found := await self.process.committed(upload.id)).state is State.UPLOADING:  # noqa: ASYNC110 - virtual
            await asyncio.sleep(0.001)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await self.process.completion.stop()
        return found

    def is_complete(self, upload: Upload) -> Call:
        async def look() -> None:
            found = await self.process.uploads.head(SCOPE, upload.id)
            assert found.state is State.COMPLETE
            assert self.world.body_of(found) == DATA

        return look

    def is_ended(self, upload: Upload) -> Call:
        async def end() -> None:
            with suppress(UploadGone):
                await self.process.uploads.terminate(SCOPE, upload.id)
            with pytest.raises(UploadGone):
                await self.process.uploads.terminate(SCOPE, upload.id)

        return end

    async def partials(self, group: GroupWish | None) -> tuple[list[Upload], bytes]:
        files = [some_bytes(size, seed) for seed, size in enumerate((23, 31))]
        return [await self.process.partial(each, group) for each in files], b"".join(files)

    async def concatenated(self, group: GroupWish | None, *, backwards: bool = False) -> Call:
        partials, data = await self.partials(group)
        if backwards:
            partials, data = partials[::-1], data[23:] + data[:23]

        async def ask() -> None:
            final = await self.process.concatenate(*partials)
            assert final.state is State.COMPLETE
            assert self.world.body_of(final) == data

        return ask


async def create(stage: Stage) -> Call:
    return stage.created(57)


async def create_an_empty_file(stage: Stage) -> Call:
    return stage.created(0)


async def create_a_small_file_with_its_bytes(stage: Stage) -> Call:
    return stage.created(8, DATA[:8])


async def create_a_file_of_many_parts_with_its_bytes(stage: Stage) -> Call:
    return stage.created(57, DATA)


async def create_a_file_of_a_request_that_ends_it(stage: Stage) -> Call:
    return stage.created(None, DATA, via=RUFH, ends=True)


async def create_a_partial_of_a_group(stage: Stage) -> Call:
    return stage.created(57, DATA[:30], role=Role.PARTIAL, group=GROUP)


async def append_all(stage: Stage) -> tuple[Call, Call]:
    return stage.appended(await stage.process.create(57))


async def append_the_rest_after_a_piece(stage: Stage) -> tuple[Call, Call]:
    return stage.appended(await stage.half())


async def append_a_crumb_that_waits_in_the_database(stage: Stage) -> tuple[Call, Call]:
    upload = await stage.half(sent=32)
    _, resume = stage.appended(upload)
    return partial(stage.process.append, upload, Sender(DATA[32:34]), progress=stage.progress), resume


async def append_with_a_checksum(stage: Stage) -> tuple[Call, Call]:
    return stage.appended(await stage.half(), checksum=True)


async def append_with_a_length_that_was_deferred(stage: Stage) -> tuple[Call, Call]:
    return stage.appended(await stage.half(None), length=57)


async def append_the_end(stage: Stage) -> tuple[Call, Call]:
    return stage.appended(await stage.half(None, via=RUFH))


async def append_while_memory_is_short(stage: Stage) -> tuple[Call, Call]:
    stage.process = stage.world.process(stage.process.faults, budget=12, parts_in_flight=3)
    stage.files = files_of(stage.process)
    return stage.appended(await stage.process.create(57))


async def append_a_cut_body(stage: Stage) -> tuple[Call, Call]:
    upload = await stage.half()
    _, resume = stage.appended(upload)

    async def send() -> None:
        try:
            await stage.process.append(upload, Sender(DATA[25:], (4,), cut=19), progress=stage.progress)
        except TusgateError as error:
            assert error.upload is not None  # noqa: PT017 - cancelled is another outcome
            assert error.upload.offset == 44  # noqa: PT017

    return send, resume


async def append_to_a_partial_of_a_group(stage: Stage) -> tuple[Call, Call]:
    upload = await stage.half(role=Role.PARTIAL, group=GROUP)
    send, _ = stage.appended(upload)

    async def resume() -> None:
        known = await stage.process.uploads.head(SCOPE, upload.id)
        known = await stage.process.append(known, Sender(DATA[known.offset :]))
        final = await stage.process.concatenate(known)
        assert stage.world.body_of(final) == DATA

    return send, resume


async def append_nothing_to_a_sealed_upload(stage: Stage) -> tuple[Call, Call]:
    sealed = await stage.sealed()
    return partial(stage.process.append, sealed, Sender(b"")), stage.is_complete(sealed)


async def head(stage: Stage) -> Call:
    upload = await stage.half()
    return partial(stage.process.uploads.head, SCOPE, upload.id)


async def head_of_a_sealed_upload(stage: Stage) -> Call:
    return stage.is_complete(await stage.sealed())


async def head_while_the_writer_saves_its_last_bytes(stage: Stage) -> tuple[Call, Call]:
    upload = await stage.half()
    _, resume = stage.appended(upload)
    sending = asyncio.create_task(stage.process.append(upload, Sender(DATA[25:], cut=19)))
    sending.add_done_callback(lambda done: done.exception())
    active = stage.process.writers._active
    while not active or not active[upload.id].body_is_over:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.001)
    return partial(stage.process.uploads.head, SCOPE, upload.id), resume


async def settle(stage: Stage) -> tuple[Call, Call]:
    upload = await stage.half(None, via=RUFH)
    _, resume = stage.appended(upload)
    return partial(stage.process.uploads.settle, SCOPE, upload.id), resume


async def terminate(stage: Stage) -> tuple[Call, Call]:
    upload = await stage.half()
    return partial(stage.process.uploads.terminate, SCOPE, upload.id), stage.is_ended(upload)


async def terminate_a_final(stage: Stage) -> tuple[Call, Call]:
    partials, _ = await stage.partials(GROUP)
    final = await stage.process.concatenate(*partials)
    return partial(stage.process.uploads.terminate, SCOPE, final.id), stage.is_ended(final)


async def concatenate_in_place(stage: Stage) -> Call:
    return await stage.concatenated(GROUP)


async def concatenate_copies(stage: Stage) -> Call:
    return await stage.concatenated(None)


async def concatenate_in_another_order(stage: Stage) -> Call:
    return await stage.concatenated(GROUP, backwards=True)


async def wait_for_completion(stage: Stage) -> tuple[Call, Call]:
    sealed = await stage.sealed()
    return partial(stage.process.completion.wait, sealed, 25.0), stage.is_complete(sealed)


async def resume_abandoned(stage: Stage) -> tuple[Call, Call]:
    sealed = await stage.sealed()
    return stage.process.jobs.finish_abandoned, stage.is_complete(sealed)


async def stop_completion(stage: Stage) -> tuple[Call, Call]:
    sealed = await stage.sealed()
    stage.process.completion.start(sealed)
    await asyncio.sleep(0.01)
    return stage.process.completion.stop, stage.is_complete(sealed)


async def run_the_jobs(stage: Stage) -> tuple[Call, Call]:
    sealed = await stage.sealed()
    jobs = stage.process.jobs
    jobs.start()
    await asyncio.sleep(2)

    async def stop() -> None:
        await jobs.stop()

    return stop, stage.is_complete(sealed)


async def expire(stage: Stage) -> tuple[Call, Call]:
    upload = await stage.half()
    await asyncio.sleep(LIFETIME + 1)

    async def again() -> None:
        await stage.process.jobs.expire()
        with pytest.raises(UploadGone):
            await stage.process.uploads.head(SCOPE, upload.id)

    return stage.process.jobs.expire, again


async def collect_garbage(stage: Stage) -> Call:
    for _ in range(3):
        await stage.process.uploads.terminate(SCOPE, (await stage.half()).id)
    await asyncio.sleep(GRACE + 1)
    return stage.process.jobs.collect_garbage


async def reconcile(stage: Stage) -> Call:
    kept = await stage.complete()
    blob = Body(1, crc64_of([b"x"]), buffers=[b"x"])
    for key in (".tusgate/pieces/lost/1-0", "lost/a.bin"):
        await stage.world.store.put_object(ObjectKey(key), blob, replace(Attributes.of(kept)))
    await stage.world.store.create_multipart(kept.object_key, Attributes.of(kept))
    tools = stage.process.tools
    reconciler = Reconciler(
        database=tools.database,  # type: ignore[arg-type]  # the double can be surveyed
        stores=stage.process.stores,  # type: ignore[arg-type]  # likewise
        mending=Mending(repair=True, delete_objects=True),
        now=datetime.fromtimestamp(asyncio.get_running_loop().time(), UTC) + timedelta(days=2),
    )

    async def compare() -> None:
        async for _ in reconciler.run():
            pass
        assert await stage.world.leaks() == []
        assert stage.world.body_of(kept) == DATA

    return compare


async def read_a_file(stage: Stage) -> Call:
    upload = await stage.complete()

    async def read() -> None:
        found = await stage.files.finished(SCOPE, upload.id)
        assert b"".join([chunk async for chunk in stage.files.read(found, 0, 57)]) == DATA

    return read


async def look_at_files(stage: Stage) -> Call:
    upload = await stage.complete()

    async def look() -> None:
        assert (await stage.files.find(SCOPE, upload.id)).id == upload.id
        page, _ = await stage.files.page(SCOPE, FileFilter(), None, 10)
        assert [found.id for found in page] == [upload.id]
        changed = await stage.files.describe(Principal(scope=SCOPE), upload.id, {"filename": "c.bin"})
        assert changed.filename == "c.bin"

    return look


async def delete_files(stage: Stage) -> Call:
    files = [(await stage.complete()).id for _ in range(3)]

    async def delete() -> None:
        assert set(await stage.files.delete_many(Principal(scope=SCOPE), files)) == set(files)
        assert set((await stage.files.delete_many(Principal(scope=SCOPE), files)).values()) == {"gone"}

    return delete


METHODS: list[Prepare] = [
    create,
    create_an_empty_file,
    create_a_small_file_with_its_bytes,
    create_a_file_of_many_parts_with_its_bytes,
    create_a_file_of_a_request_that_ends_it,
    create_a_partial_of_a_group,
    append_all,
    append_the_rest_after_a_piece,
    append_a_crumb_that_waits_in_the_database,
    append_with_a_checksum,
    append_with_a_length_that_was_deferred,
    append_the_end,
    append_while_memory_is_short,
    append_a_cut_body,
    append_to_a_partial_of_a_group,
    append_nothing_to_a_sealed_upload,
    head,
    head_of_a_sealed_upload,
    head_while_the_writer_saves_its_last_bytes,
    settle,
    terminate,
    terminate_a_final,
    concatenate_in_place,
    concatenate_copies,
    concatenate_in_another_order,
    wait_for_completion,
    resume_abandoned,
    stop_completion,
    run_the_jobs,
    expire,
    collect_garbage,
    reconcile,
    read_a_file,
    look_at_files,
    delete_files,
]


@pytest.mark.parametrize("prepare", METHODS, ids=lambda prepare: prepare.__name__)
@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["once", "twice"])
def test_a_method_that_is_cancelled_anywhere_loses_nothing_holds_nothing_and_can_be_repeated(
    prepare: Prepare, times: int
) -> None:
    """I1, I2, I3, I11, I15, I20. A second cancellation strikes the clean-up after the first."""

    async def cancelled_at(nth: int) -> bool:
        stage = Stage()
        prepared = await prepare(stage)
        call, again = prepared if isinstance(prepared, tuple) else (prepared, prepared)
        was_cancelled = await stage.cut_off(call, nth, times)
        await stage.assert_nothing_is_held()
        await again()
        await stage.assert_nothing_is_held()
        await stage.assert_nothing_leaked()
        return was_cancelled

    nth = 1
    while run(cancelled_at(nth)):
        nth += 1
    assert nth > 1
