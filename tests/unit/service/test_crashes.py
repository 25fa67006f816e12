"""Nothing leaks and nothing is lost, at whichever call to the database or the store a process dies or is cut off.

Each test runs its story once to count the calls, and then again for every call: dying before it takes effect, and
after it. Then a client resumes elsewhere or never comes back, and after expiry and garbage collection there must be
nothing in the store but finished objects.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.doubles.faults import Crashed, Faults
from tests.unit.service.rig import SCOPE, Process, Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.checksum import Checksum
from tusgate.core.errors import DatabaseUnavailable, StoreUnavailable, TusgateError
from tusgate.core.model import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tusgate.core.model import Upload

    Story = Callable[[Process], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("small_scale")

DATA = some_bytes(57)


def digest(data: bytes) -> Checksum:
    return Checksum("sha256", hashlib.sha256(data).digest())


async def small_file_with_its_creation(process: Process) -> None:
    await process.create(8, Sender(DATA[:8]))


async def empty_file(process: Process) -> None:
    await process.create(0)


async def large_file_with_its_creation(process: Process) -> None:
    await process.create(57, Sender(DATA))


async def one_request(process: Process) -> None:
    await process.append(await process.create(57), Sender(DATA))


async def many_requests(process: Process) -> None:
    upload = await process.create(57)
    for start in range(0, 57, 8):
        upload = await process.append(upload, Sender(DATA[start : start + 8]))


async def crumbs_of_a_small_file(process: Process) -> None:
    upload = await process.create(9)
    for start in range(0, 9, 2):
        upload = await process.append(upload, Sender(DATA[start : min(start + 2, 9)]))


async def small_file_in_two_pieces(process: Process) -> None:
    upload = await process.append(await process.create(10), Sender(DATA[:5]))
    await process.append(upload, Sender(DATA[5:10]))


async def checked_requests(process: Process) -> None:
    upload = await process.create(57)
    for start, end in ((0, 25), (25, 57)):
        upload = await process.append(upload, Sender(DATA[start:end]), checksum=digest(DATA[start:end]))


async def deferred_length(process: Process) -> None:
    upload = await process.append(await process.create(None), Sender(DATA[:33], chunked=True))
    await process.append(upload, Sender(DATA[33:57]), length=57)


async def cut_connections(process: Process) -> None:
    upload = await process.create(57)
    for cut in (4, 17, 38):
        await asyncio.gather(
            process.append(upload, Sender(DATA[upload.offset :], cut=cut - upload.offset)), return_exceptions=True
        )
        upload = await process.uploads.head(SCOPE, upload.id)
    await process.append(upload, Sender(DATA[upload.offset :]))


async def terminated(process: Process) -> None:
    upload = await process.append(await process.create(57), Sender(DATA[:25]))
    await process.uploads.terminate(SCOPE, upload.id)


STORIES: list[Story] = [
    small_file_with_its_creation,
    empty_file,
    large_file_with_its_creation,
    one_request,
    many_requests,
    crumbs_of_a_small_file,
    small_file_in_two_pieces,
    checked_requests,
    deferred_length,
    cut_connections,
    terminated,
]
every_story = pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
every_profile = pytest.mark.parametrize("completes_all_parts", [False, True], ids=["usual", "completes all parts"])


async def told(process: Process, story: Story) -> None:
    """Run `story` in `process`, as far as it goes."""
    (outcome,) = await asyncio.gather(story(process), return_exceptions=True)
    # What the process was still doing in the background does what it can, which is nothing once it is dead.
    await process.completion.stop()
    assert outcome is None or isinstance(outcome, (TusgateError, Crashed, asyncio.CancelledError)), outcome


def calls_of(story: Story, completes_all_parts: bool) -> int:
    async def count() -> int:
        faults = Faults()
        await told(World(completes_all_parts=completes_all_parts).process(faults), story)
        return len(faults.calls)

    return run(count())


def uploads_of(world: World) -> list[Upload]:
    return [row.upload for row in world.database._rows.values()]


async def resumed(world: World) -> None:
    """Have every unfinished upload continued by its client, in another process, and compare the objects."""
    process = world.process(holder="survivor")
    for upload in uploads_of(world):
        if upload.state is State.UPLOADING:
            length = upload.length if upload.length is not None else 57
            await process.append(upload, Sender(DATA[upload.offset : length]), length=length)
    await world.settle()
    for upload in uploads_of(world):
        never_told = upload.length == 0  # an empty upload is complete before its URL is told: nobody can resume it
        if upload.state is not State.TERMINATED and not (never_told and upload.state is State.EXPIRED):
            assert upload.state is State.COMPLETE, upload
            assert world.body_of(upload) == DATA[: upload.length]


async def assert_nothing_leaked(world: World) -> None:
    await world.settle()
    assert await world.leaks() == []
    assert world.database.all_garbage() == []


@every_story
@every_profile
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_process_that_dies_at_any_call_leaks_nothing_and_loses_nothing(
    story: Story, completes_all_parts: bool, comes_back: bool
) -> None:
    async def die(nth: int, after: bool) -> None:
        world = World(completes_all_parts=completes_all_parts)
        faults = Faults()
        faults.add(None, Crashed, nth=nth, after=after)
        await told(world.process(faults), story)
        assert faults.dead
        if comes_back:
            await resumed(world)
        await assert_nothing_leaked(world)

    for nth in range(1, calls_of(story, completes_all_parts) + 1):
        for after in (False, True):
            run(die(nth, after))


@every_story
@every_profile
@pytest.mark.parametrize("error", [StoreUnavailable, DatabaseUnavailable])
def test_an_answer_lost_at_any_call_leaks_nothing_and_loses_nothing(
    story: Story, completes_all_parts: bool, error: type[TusgateError]
) -> None:
    """One call goes wrong, with or without effect, and the process lives on with what it believes."""

    async def fail(nth: int, after: bool) -> None:
        world = World(completes_all_parts=completes_all_parts)
        faults = Faults()
        faults.add(None, error, nth=nth, after=after)
        process = world.process(faults)
        await told(process, story)
        assert process.budget.used == process.budget.leaving == 0
        await resumed(world)
        await assert_nothing_leaked(world)

    for nth in range(1, calls_of(story, completes_all_parts) + 1):
        for after in (False, True):
            run(fail(nth, after))


@every_story
def test_a_request_cancelled_at_any_call_leaks_nothing_and_loses_nothing(story: Story) -> None:
    async def cut_off(nth: int, after: bool) -> None:
        world = World(disorder=2)
        faults = Faults()
        process = world.process(faults)
        telling = asyncio.create_task(told(process, story))

        def cancel() -> BaseException:
            telling.cancel()
            return asyncio.CancelledError()

        faults.add(None, cancel, nth=nth, after=after)
        await asyncio.gather(telling, return_exceptions=True)
        await asyncio.sleep(100)
        assert process.budget.used == process.budget.leaving == 0
        await resumed(world)
        await assert_nothing_leaked(world)

    for nth in range(1, calls_of(story, completes_all_parts=False) + 1):
        for after in (False, True):
            run(cut_off(nth, after))
