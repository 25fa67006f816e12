"""What hooks decide when processes die, take over and come back, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.doubles.faults import Crashed, Faults
from tests.unit.core.uploads import a_new_upload
from tests.unit.service.rig import PRINCIPAL, SCOPE, Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.concat import GroupWish
from tusgate.core.errors import (
    ClientGone,
    Finishing,
    HookFailed,
    HookRefused,
    HookUnavailable,
    StoreUnavailable,
    UploadGone,
)
from tusgate.core.hooks import Answer, Moment, Question, Reply, RequestSeen
from tusgate.core.model import CreatedVia, Role, State
from tusgate.service.completion import LEASE
from tusgate.service.hooks import Asked, Exchange, Hooks
from tusgate.service.uploads import Creation

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.core.model import Upload

pytestmark = pytest.mark.usefixtures("small_scale")


@dataclass
class Judge:
    """A hook in Python: answers what `say` returns, and remembers what it was asked."""

    name: str = "judge"
    say: Callable[[Question], Answer] = lambda _: Answer()
    delay: float = 0.0
    asked: list[Question] = field(default_factory=list)

    async def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        await asyncio.sleep(self.delay)
        return self.say(question)

    async def close(self) -> None:
        pass


def hooks(*judges: Judge, **settings: Any) -> Hooks:
    return Hooks([Asked(**{"hook": judge, "moments": frozenset({Moment.FINISH}), **settings}) for judge in judges])


def refuse(_: Question) -> Answer:
    return Answer(refused=True, reply=Reply(451, "no"))


def break_down(_: Question) -> Answer:
    raise RuntimeError


def fail(_: Question) -> Answer:
    raise HookFailed


def exchange(*, abandoned: bool = False) -> Exchange:
    return Exchange(lambda: RequestSeen("PATCH", "/files/x", "127.0.0.1:5", ()), lambda: abandoned)


@pytest.mark.parametrize("size", [0, 3, 9, 10, 25, 200])
def test_without_objections_files_of_all_sizes_arrive_whole(size: int) -> None:
    """I1: in small pieces, and in one request."""

    async def scenario() -> None:
        world, judge = World(), Judge()
        process = world.process(hooks=hooks(judge))
        data = some_bytes(size)
        at_once = await process.create(size, Sender(data))
        assert at_once.state is State.COMPLETE
        assert world.body_of(at_once) == data
        slowly = await process.create(size)
        for start in range(0, size, 7):
            slowly = await process.append(slowly, Sender(data[start : start + 7]))
        assert slowly.state is State.COMPLETE
        assert world.body_of(slowly) == data
        assert [question.upload.id for question in judge.asked] == [at_once.id, slowly.id]
        assert all(question.upload.offset == size for question in judge.asked)
        await world.settle()
        assert await world.leaks() == []

    run(scenario())


@pytest.mark.parametrize("size", [0, 3, 10, 25])
def test_what_is_refused_fails_with_a_reason_and_leaves_nothing_in_the_store(size: int) -> None:
    async def scenario() -> None:
        world = World()
        process = world.process(hooks=hooks(Judge(say=refuse)))
        with pytest.raises(HookRefused) as refused:
            await process.uploads.create(PRINCIPAL, creation_of(size), Sender(some_bytes(size)), exchange=exchange())
        assert (refused.value.reply.status, refused.value.reply.body) == (451, "no")
        await world.settle()
        (row,) = world.database._rows.values()
        assert (row.upload.state, row.upload.reason) == (State.FAILED, "the hook judge refused it")
        assert await world.leaks() == []

    run(scenario())


def creation_of(size: int) -> Any:
    return Creation(created_via=CreatedVia.TUS, length=size, metadata=None, filename="a.bin", content_type=None)


def test_partials_are_no_files_and_nobody_is_asked_to_publish_them() -> None:
    async def scenario() -> None:
        world, judge = World(), Judge()
        process = world.process(hooks=hooks(judge))
        partials = [await process.partial(some_bytes(size, size)) for size in (3, 12)]
        assert judge.asked == []
        final = await process.concatenate(*partials)
        (question,) = judge.asked
        assert (question.upload.role, question.partials) == (Role.FINAL, tuple(partial.id for partial in partials))
        assert final.state is State.COMPLETE

    run(scenario())


@pytest.mark.parametrize("wish", [None, GroupWish("a file")], ids=["copied", "in place"])
def test_a_final_that_is_refused_leaves_nothing_behind(wish: GroupWish | None) -> None:
    async def scenario() -> None:
        world = World()
        process = world.process(hooks=hooks(Judge(say=refuse)))
        partials = [await process.partial(some_bytes(20, seed), wish) for seed in range(2)]
        with pytest.raises((HookRefused, UploadGone)):
            await process.concatenate(*partials)
        states = {row.upload.role: row.upload.state for row in world.database._rows.values()}
        assert states[Role.FINAL] is State.FAILED
        await world.settle()
        assert await world.leaks() == []

    run(scenario())


@pytest.mark.parametrize("size", [3, 10, 25])
def test_a_process_that_dies_while_a_hook_thinks_loses_no_byte_and_the_next_one_asks_again(size: int) -> None:
    """I5: with at least one question, and one object."""

    async def scenario() -> None:
        world, slow, quick = World(), Judge(delay=3600.0), Judge()
        dying = world.process(hooks=hooks(slow, timeout=7200.0), finish_wait=1.0, holder="dying")
        data = some_bytes(size)
        upload = await dying.create(size)
        with pytest.raises(Finishing):
            await dying.append(upload, Sender(data))
        assert (await dying.committed(upload.id)).state is State.SEALED
        for task in dying.completion._tasks.values():
            task.get_loop().call_soon(task.cancel)
        await asyncio.sleep(60)
        heir = world.process(hooks=hooks(quick), holder="heir")
        await heir.jobs.finish_abandoned()
        await asyncio.sleep(60)
        done = await heir.committed(upload.id)
        assert done.state is State.COMPLETE
        assert world.body_of(done) == data
        assert (len(slow.asked), len(quick.asked)) == (1, 1)
        assert quick.asked[0].request is None

    run(scenario())


def test_what_is_published_already_is_not_asked_about_by_the_heir() -> None:
    """A process died between Complete and its commit: the hook had agreed, and may not take that back."""

    async def scenario() -> None:
        world, judge, faults = World(), Judge(say=refuse), Faults()
        faults.add("complete", Crashed)
        upload = await upload_by_a_doomed_process(world, faults, 25)
        await inherit(world, hooks(judge))
        done = await world.database.get(SCOPE, upload.id)
        assert (done.state, judge.asked) == (State.COMPLETE, [])
        assert world.body_of(done) == some_bytes(25)

    run(scenario())


@pytest.mark.parametrize("size", [0, 3, 10, 25])
@pytest.mark.parametrize("heir_says", [lambda _: Answer(), refuse], ids=["agrees", "refuses"])
def test_a_process_may_die_at_any_call_and_the_file_is_whole_or_refused_by_the_heir(
    size: int, heir_says: Callable[[Question], Answer]
) -> None:
    """I1, I5, and nothing leaks."""

    async def die_at(nth: int, after: bool) -> bool:
        world, faults, judge = World(), Faults(), Judge(say=heir_says)
        upload = await world.process().create(size) if size else None
        faults.add(None, Crashed, nth=nth, after=after)
        created = await upload_by_a_doomed_process(world, faults, size, upload)
        await inherit(world, hooks(judge))
        done = await world.database.get(SCOPE, created.id) if created is not None else None
        if done is not None and done.state is State.COMPLETE:
            assert world.body_of(done) == some_bytes(size)
        elif done is not None and done.state is State.FAILED:
            assert judge.asked != []
            assert done.reason == "the hook judge refused it"
        await world.settle()
        assert await world.leaks() == []
        return faults.dead

    for after in (False, True):
        nth = 1
        while run(die_at(nth, after)):
            nth += 1
        assert nth > 3


async def upload_by_a_doomed_process(world: World, faults: Faults, size: int, upload: Upload | None = None) -> Any:
    """Send a file to a process whose hooks agree, and which may die; return the upload if it was made."""
    doomed = world.process(faults, hooks=hooks(Judge()), holder="doomed", finish_wait=1.0)
    if upload is None:
        made = doomed.create(size, Sender(some_bytes(size)))
    else:
        made = doomed.append(upload, Sender(some_bytes(size)))
    await asyncio.gather(made, return_exceptions=True)
    await asyncio.sleep(5)
    await asyncio.gather(doomed.completion.stop(), return_exceptions=True)
    rows = list(world.database._rows.values())
    return rows[0].upload if rows else None


async def inherit(world: World, asked: Hooks) -> None:
    """Let another process do what is left, once the leases have run out."""
    await asyncio.sleep(LEASE + 1)
    heir = world.process(hooks=asked, holder="heir")
    await heir.jobs.finish_abandoned()
    await asyncio.sleep(60)
    await heir.completion.stop()


def test_one_replica_asks_however_long_it_takes_and_however_many_are_waiting_for_it() -> None:
    """The lease is kept while a hook thinks for longer than that lasts."""

    async def scenario() -> None:
        world, judge = World(), Judge(delay=LEASE + 15)
        first, second = [
            world.process(hooks=hooks(judge, timeout=60.0), holder=holder) for holder in ("first", "second")
        ]
        upload = await first.create(25)
        sending = asyncio.create_task(first.append(upload, Sender(some_bytes(25))))
        await asyncio.sleep(1)
        looks = [asyncio.create_task(process.uploads.head(SCOPE, upload.id)) for process in (first, second)]
        assert [type(each) for each in await asyncio.gather(sending, *looks, return_exceptions=True)] == [Finishing] * 3
        await second.jobs.finish_abandoned()
        done = await second.uploads.head(SCOPE, upload.id)
        assert (done.state, len(judge.asked)) == (State.COMPLETE, 1)
        assert world.body_of(done) == some_bytes(25)

    run(scenario())


def test_an_upload_goes_on_as_soon_as_a_closed_hook_answers_again() -> None:
    async def scenario() -> None:
        world, judge = World(), Judge(say=fail)
        process = world.process(hooks=hooks(judge), finish_wait=1.0)
        upload = await process.create(5)
        with pytest.raises(Finishing):
            await process.append(upload, Sender(some_bytes(5)))
        await asyncio.sleep(86_400.0)
        assert (await process.committed(upload.id)).state is State.SEALED
        judge.say = lambda _: Answer()
        await asyncio.sleep(10.0)
        assert (await process.committed(upload.id)).state is State.COMPLETE

    run(scenario())


def test_a_hook_is_asked_once_however_often_the_store_has_to_be() -> None:
    async def scenario() -> None:
        world, judge, faults = World(), Judge(), Faults()
        faults.add("complete_multipart", StoreUnavailable, times=3)
        process = world.process(faults, hooks=hooks(judge))
        upload = await process.create(25)
        await process.append(upload, Sender(some_bytes(25)))
        assert (await process.committed(upload.id)).state is State.COMPLETE
        assert (len(judge.asked), faults.count("complete_multipart") > 1) == (1, True)

    run(scenario())


def question_of_creation() -> Question:
    return Question(moment=Moment.CREATE, upload=a_new_upload())


CREATE = {"moments": frozenset({Moment.CREATE})}


def test_each_hook_sees_what_the_one_before_has_made_of_the_metadata() -> None:
    async def scenario() -> None:
        first = Judge("first", lambda _: Answer(metadata={"filename": "b.txt", "n": "1"}))
        second = Judge("second", lambda _: Answer(reply=Reply(headers={"X-Second": "2"})))
        talk = exchange()
        changed = await hooks(first, second, **CREATE).ask(question_of_creation(), talk)
        assert changed is not None
        assert (changed.filename, changed.raw) == ("b.txt", b"filename Yi50eHQ=,n MQ==")
        assert second.asked[0].upload.metadata == changed.raw
        assert talk.reply == Reply(headers={"X-Second": "2"})

    run(scenario())


def test_the_first_refusal_ends_it() -> None:
    async def scenario() -> None:
        after = Judge("after")
        with pytest.raises(HookRefused):
            await hooks(Judge(say=refuse), after, **CREATE).ask(question_of_creation())
        assert after.asked == []

    run(scenario())


@pytest.mark.parametrize("say", [break_down, fail, lambda _: Answer(metadata={"no key": ""})])
def test_a_hook_that_breaks_has_not_answered(say: Callable[[Question], Answer]) -> None:
    async def scenario() -> None:
        with pytest.raises(HookUnavailable):
            await hooks(Judge(say=say), **CREATE).ask(question_of_creation())
        assert await hooks(Judge(say=say), is_open=True, **CREATE).ask(question_of_creation()) is None

    run(scenario())


def test_one_that_takes_too_long_has_not_answered() -> None:
    async def scenario() -> None:
        with pytest.raises(HookUnavailable):
            await hooks(Judge(delay=16.0), **CREATE).ask(question_of_creation())

    run(scenario())


def test_a_creation_whose_client_has_left_is_none() -> None:
    async def scenario() -> None:
        world = World()
        process = world.process(hooks=hooks(Judge(), **CREATE))
        with pytest.raises(ClientGone):
            await process.uploads.create(PRINCIPAL, creation_of(5), exchange=exchange(abandoned=True))
        assert world.database._rows == {}

    run(scenario())


def test_whoever_takes_over_while_a_hook_is_asked_about_a_deletion_finds_it_deleted() -> None:
    async def scenario() -> None:
        world, judge = World(), Judge(delay=5.0)
        process = world.process(hooks=hooks(judge, moments=frozenset({Moment.TERMINATE})))
        upload = await process.create(10)
        deleting = asyncio.create_task(process.uploads.terminate(SCOPE, upload.id))
        await asyncio.sleep(1.0)
        await process.append(upload, Sender(some_bytes(10)))
        await deleting
        assert (await process.committed(upload.id)).state is State.TERMINATED
        await world.settle()
        assert await world.leaks() == []

    run(scenario())


@pytest.mark.parametrize("asked", [[], [Moment.TERMINATE]], ids=["no hook", "a hook for something else"])
def test_moments_at_which_nobody_is_asked_cost_nothing(asked: list[Moment]) -> None:
    """No look at the request, and no call that would not be made without hooks."""

    def seen() -> RequestSeen:
        raise AssertionError

    async def calls_of(given: Hooks | None) -> list[str]:
        world, faults = World(), Faults()
        process = world.process(faults, hooks=given)
        talk = Exchange(seen, lambda: False)
        small = await process.uploads.create(PRINCIPAL, creation_of(5), Sender(some_bytes(5)), exchange=talk)
        large = await process.uploads.create(PRINCIPAL, creation_of(25), exchange=talk)
        large = await process.append(large, Sender(some_bytes(25)))
        assert (small.state, large.state) == (State.COMPLETE, State.COMPLETE)
        return faults.calls

    async def scenario() -> None:
        judge = Judge()
        given = hooks(judge, moments=frozenset(asked)) if asked else Hooks()
        assert await calls_of(given) == await calls_of(None)
        assert judge.asked == []

    run(scenario())
