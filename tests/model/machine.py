"""The rules by which Hypothesis drives the fleet: anything that clients, operators, links and servers may do."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from tests.model.fleet import MAX_SIZE, Fleet, Shape
from tests.model.truth import Kind, Request
from tests.unit.service.rig import LIFETIME, Sender, small_scale, some_bytes
from tests.virtual_time import StuckError, VirtualTimeLoop
from tusgate.core.concat import GroupWish
from tusgate.core.errors import DatabaseUnavailable, StoreUnavailable
from tusgate.core.model import CreatedVia, Role, State
from tusgate.service import uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from tests.model.truth import Known

shapes = st.builds(
    Shape,
    seed=st.integers(0, 99),
    replicas=st.integers(2, 3),
    part_size=st.sampled_from([10, 10, 100]),
    budget=st.sampled_from([1000, 160, 60]),
    parts_in_flight=st.integers(1, 3),
    inline_max=st.sampled_from([3, 0, 20]),
    warm_ttl=st.sampled_from([0.0, 5.0]),
    latency=st.sampled_from([0.05, 0.0, 0.5]),
    noise=st.sampled_from([0.0, 0.02, 0.1]),
    completes_all_parts=st.sampled_from([False, False, True]),
    min_part_size=st.sampled_from([1, 5]),
    copies_parts=st.sampled_from([True, True, False]),
)
lengths = st.sampled_from([20, 57, None, 10, 9, 1, 0, 100, 200, MAX_SIZE + 1])
sizes = st.sampled_from([1000, 10, 5, 23, 40, 2, 1, 0, 70])
"""Bytes of a body; it is cut where the file ends."""
chunks = st.sampled_from([(7,), (40,), (1,), (10,), (16, 3)])
waits = st.sampled_from([60.0, 0.02, 0.2, 0.0])
"""Seconds that pass before the next rule; a request that has its answer by then makes the rest void."""
indexes = st.integers(0, 2)
digests = st.sampled_from([None, None, None, True, False])
stops = st.none() | st.integers(0, 30)
"""Bytes after which a body stands still, until another rule sends it on or breaks it off."""
questions = st.sampled_from([Kind.HEAD, Kind.HEAD, Kind.HEAD, Kind.SETTLE, Kind.SETTLE, Kind.TERMINATE])
cuts = st.none() | st.integers(0, 60)
DATABASE_CALLS: tuple[str, ...] = (
    *("create", "claim", "intend", "record_multipart", "commit", "get", "parts", "pieces", "absorb"),
    *("complete", "fail", "terminate", "lease_sealed", "claim_sealed", "expire", "due_garbage"),
    *("drop_garbage", "postpone_garbage", "release_sealed"),
    *("create_partial", "concatenate", "gather", "sources", "members", "find_final"),
)
STORE_CALLS: tuple[str, ...] = (
    *("put_object", "put_part", "create_multipart", "complete_multipart", "find", "multipart_exists"),
    *("abort_multipart", "list_multiparts", "delete_objects", "copy_part"),
)
calls = st.sampled_from([(call,) for call in DATABASE_CALLS + STORE_CALLS])
calls |= st.sampled_from(
    [DATABASE_CALLS, STORE_CALLS, ("commit",), ("put_part", "put_object"), ("complete_multipart", "find")]
)
"""Which call goes wrong: a certain one, or any of several."""


trouble = precondition(lambda self: self._troubles_left > 0)


class Uploading(RuleBasedStateMachine):
    """One fleet, and whatever happens to it. Fails as soon as the truth is contradicted."""

    uploads = Bundle("uploads")
    bodies = Bundle("bodies")

    def __init__(self) -> None:
        super().__init__()
        self._scale = ExitStack()
        self._scale.enter_context(small_scale())
        self._scale.enter_context(_ids_in_order())
        self._loop = VirtualTimeLoop()
        self._fleet: Fleet | None = None
        self._letters = 0
        self._troubles_left = 0
        """Rules that bring trouble may take a turn only as often as clients have done something."""

    @initialize(target=uploads, shape=shapes, length=lengths)
    def begin(self, shape: Shape, length: int | None) -> Any:
        self._fleet = Fleet(shape, self._loop)
        self._run(self._fleet.open())
        request = Request(Kind.CREATE, file=some_bytes(MAX_SIZE + 10), declares=length)
        self._serve(lambda: [self.fleet.create(self._replica(0), request, CreatedVia.TUS)], 60.0)
        return request

    # Clients

    @rule(
        target=uploads,
        index=indexes,
        length=lengths,
        via=st.sampled_from([CreatedVia.TUS, CreatedVia.TUS, CreatedVia.RUFH]),
        size=st.none() | sizes,
        cut=cuts,
        chunking=chunks,
        digest=digests,
        announced=st.booleans(),
        ends=st.booleans(),
        wait=waits,
    )
    def create(
        self, index: int, length: int | None, via: CreatedVia, size: int | None, wait: float, **body: Any
    ) -> Any:
        file = some_bytes(MAX_SIZE + 10, len(self.fleet.truth.uploads))
        request = Request(Kind.CREATE, file=file, declares=length)
        if size is not None:
            request.data = file[: min(size, length if length is not None else 200)]
            request.ends = body["ends"] and via is CreatedVia.RUFH
            self._with_body(request, **body)
        self._serve(lambda: [self.fleet.create(self._replica(index), request, via)], wait)
        return request

    @rule(
        target=bodies,
        upload=uploads,
        index=indexes,
        aside=st.sampled_from([0, 0, 0, 0, -1, 1, -10]),
        size=sizes,
        beyond=st.sampled_from([0, 0, 0, 0, 0, 1]),
        declares=st.sampled_from([None, None, "end", "end", "wrong"]),
        letter=st.sampled_from([False, False, False, True]),
        stop=stops,
        cut=cuts,
        chunking=chunks,
        digest=digests,
        announced=st.booleans(),
        ends=st.booleans(),
        wait=waits,
    )
    def append(
        self,
        upload: Request,
        index: int,
        aside: int,
        size: int,
        beyond: int,
        declares: str | None,
        letter: bool,
        wait: float,
        **body: Any,
    ) -> Any:
        known = _told(upload)
        if known is None:
            return multiple()
        request = self._append_of(known, aside, size, beyond, letter=letter)
        request.ends = body["ends"] and known.via is CreatedVia.RUFH
        if declares is not None:
            request.declares = request.end if declares == "end" else max(0, request.end - 3)
        self._with_body(request, **body)
        self._serve(lambda: [self.fleet.append(self._replica(index), request)], wait)
        return request

    @rule(upload=uploads, index=indexes, size=sizes, wait=waits)
    def continue_plainly(self, upload: Request, index: int, size: int, wait: float) -> None:
        known = self._unfinished(upload)
        if known is not None:
            self._continue(known, index, size, wait)

    def _continue(self, known: Known, index: int, size: int, wait: float) -> None:
        request = self._append_of(known, 0, size, 0, letter=False)
        request.ends = known.via is CreatedVia.RUFH and request.end == known.length
        self._with_body(request)
        self._serve(lambda: [self.fleet.append(self._replica(index), request)], wait)

    @rule(upload=uploads, size=sizes, rivals=st.integers(2, 3), letters=st.booleans(), stop=stops, wait=waits)
    def race(self, upload: Request, size: int, rivals: int, letters: bool, stop: int | None, wait: float) -> None:
        """Let clients at several replicas go on with one upload at the same time."""
        known = self._unfinished(upload)
        if known is None:
            return
        requests = [self._append_of(known, 0, size, 0, letter=letters) for _ in range(rivals)]
        for request in requests:
            self._with_body(request, stop=stop)

        self._serve(lambda: [self.fleet.append(self._replica(at), each) for at, each in enumerate(requests)], wait)

    @rule(
        target=uploads,
        index=indexes,
        sizes=st.lists(st.sampled_from([20, 57, 9, 3, 0]), min_size=1, max_size=3),
        group=st.sampled_from([None, "one", "one", "another"]),
        sent=st.sampled_from([1000, 1000, None, 13]),
        cut=cuts,
        wait=waits,
    )
    def create_partials(
        self, index: int, sizes: list[int], group: str | None, sent: int | None, cut: int | None, wait: float
    ) -> Any:
        """Have partials created, each at another replica, with all their bytes, some, or none."""
        return multiple(*self._create_partials(index, sizes, group, sent, cut, wait))

    def _create_partials(
        self, index: int, sizes: list[int], group: str | None, sent: int | None, cut: int | None, wait: float
    ) -> list[Request]:
        wish = None if group is None else GroupWish(group)
        requests = []
        for at, length in enumerate(sizes):
            file = some_bytes(MAX_SIZE + 10, len(self.fleet.truth.uploads) + at)
            request = Request(Kind.CREATE, file=file, declares=length)
            if sent is not None:
                request.data = file[: min(sent, length)]
                self._with_body(request, cut=cut)
            replica = self._replica(index + at)
            create = partial(self.fleet.create, replica, request, CreatedVia.TUS, Role.PARTIAL, wish)
            self._serve(partial(_one, create), wait)
            requests.append(request)
        return requests

    @precondition(lambda self: bool(self._partials()))
    @rule(
        target=uploads,
        index=indexes,
        picks=st.sampled_from(["group", "group", "group backwards"])
        | st.lists(st.integers(0, 5), min_size=1, max_size=3),
        askers=st.integers(1, 2),
        deletes=st.sampled_from([False, False, True]),
        wait=waits,
    )
    def concatenate(self, index: int, picks: str | list[int], askers: int, deletes: bool, wait: float) -> Any:
        """Ask for the final of some partials, or else of all finished ones of the latest group."""
        chosen = self._chosen(picks)
        if not chosen:
            return multiple()
        request = self._ask_for_final(chosen, index, askers, 0.0 if deletes else wait)
        if deletes:
            self._run(self._until_needed(chosen[0]))
            deletion = Request(Kind.TERMINATE, known=chosen[0])
            self._serve(lambda: [self.fleet.ask(self._replica(index + 1), deletion)], wait)
        return request

    @rule(
        target=uploads,
        index=indexes,
        sizes=st.lists(st.sampled_from([20, 57, 9, 3]), min_size=2, max_size=3),
        group=st.sampled_from(["third", None]),
        backwards=st.booleans(),
        wait=waits,
    )
    def upload_side_by_side(self, index: int, sizes: list[int], group: str | None, backwards: bool, wait: float) -> Any:
        """Let a client do all that it does for one file, as long as nothing goes wrong."""
        made = self._create_partials(index, sizes, group, 1000, None, 60.0)
        chosen = [request.known for request in made if request.known is not None and request.known.url_told]
        return self._ask_for_final(chosen[::-1] if backwards else chosen, index, 1, wait) if chosen else multiple()

    def _ask_for_final(self, chosen: list[Known], index: int, askers: int, wait: float) -> Request:
        requests = [Request(Kind.CONCATENATE, sources=chosen) for _ in range(askers)]
        self._serve(
            lambda: [self.fleet.concatenate(self._replica(index + at), each) for at, each in enumerate(requests)], wait
        )
        return requests[0]

    def _partials(self) -> list[Known]:
        known = self.fleet.truth.uploads.values()
        return [each for each in known if each.url_told and each.role is Role.PARTIAL]

    def _chosen(self, picks: str | list[int]) -> list[Known]:
        partials = self._partials()
        if isinstance(picks, list):
            return [partials[pick % len(partials)] for pick in picks if partials]
        grouped = [known for known in partials if known.home is not None]
        chosen = [known for known in grouped if known.home is grouped[-1].home and known.is_whole]
        return chosen if picks == "group" else chosen[::-1]

    async def _until_needed(self, partial: Known) -> None:
        """Wait until a final is being made of a partial, a few seconds at most."""
        for _ in range(300):
            if self.fleet.truth.is_needed(partial):
                return
            await asyncio.sleep(0.01)

    @rule(request=bodies, breaks=st.booleans(), wait=waits)
    def go_on(self, request: Request, breaks: bool, wait: float) -> None:
        assert request.sender is not None
        if breaks:
            request.sender.break_off()
        else:
            request.sender.go_on()
        self._run(asyncio.sleep(min(wait, 1.0)))

    @rule(upload=uploads, index=indexes, kind=questions, wait=waits)
    def ask(self, upload: Request, index: int, kind: Kind, wait: float) -> None:
        known = _told(upload)
        if known is not None:
            request = Request(kind, known=known)
            self._serve(lambda: [self.fleet.ask(self._replica(index), request)], wait)

    @rule(
        upload=uploads,
        index=indexes,
        kind=questions,
        after=st.sampled_from([None, None, 0.02, 0.3]),
        wait=waits,
    )
    def ask_meanwhile(self, upload: Request, index: int, kind: Kind, after: float | None, wait: float) -> None:
        """Ask another replica about an upload while its last bytes are on their way, or its object is made."""
        known = self._unfinished(upload)
        if known is not None:
            self._continue(known, index, MAX_SIZE, after or 0.0)
            if after is None:
                self._run(_until_sealed(known))
            request = Request(kind, known=known)
            self._serve(lambda: [self.fleet.ask(self._replica(index + 1), request)], wait)

    # Time and operators

    @trouble
    @rule(index=indexes, seconds=st.sampled_from([0.05, 2.0, 31.0, 61.0, 700.0, 0.6 * LIFETIME]), wait=waits)
    def pass_time(self, index: int, seconds: float, wait: float) -> None:
        """Let time go by, and a replica do its background work once."""
        self._troubles_left -= 1
        self._run(asyncio.sleep(seconds))
        for name in ("finish_abandoned", "expire", "collect_garbage"):
            self._run(_begun(partial(self._job, index, name), wait))

    @trouble
    @rule(index=indexes, how=st.sampled_from(["drained", "killed", "killed, but what it has sent arrives"]))
    def restart(self, index: int, how: str) -> None:
        self._troubles_left -= 1
        index %= len(self.fleet.replicas)
        if how == "drained":
            self._run(self.fleet.drain(index))
        else:
            self._run(self.fleet.crash(index, calls_arrive=how != "killed"))

    # Faults

    @trouble
    @rule(
        index=indexes,
        call=calls,
        how=st.sampled_from(["fails", "happens, but seems to fail", "seems to fail, and happens later", "takes long"]),
        nth=st.integers(1, 3),
        times=st.sampled_from([1, 2, 3, 6]),
    )
    def plant_fault(self, index: int, call: tuple[str, ...], how: str, nth: int, times: int) -> None:
        self._troubles_left -= 1
        self.fleet.truth.disturbed = True
        faults = self._replica(index).faults
        if how == "takes long":
            faults.pauses.update(dict.fromkeys(call, times * 5.0))
        else:
            after, held = how.startswith("happens"), how.endswith("later")
            faults.add(call, _error_of(call), nth=nth, times=times, after=after, held=held)

    @trouble
    @rule(index=indexes)
    def freeze(self, index: int) -> None:
        self._troubles_left -= 1
        self.fleet.truth.disturbed = True
        self._run(_turned(self._replica(index).faults.freeze))

    @precondition(lambda self: self.fleet.truth.disturbed)
    @rule(index=indexes, what=st.sampled_from(["deliver", "thaw", "heal"]))
    def ease(self, index: int, what: str) -> None:
        self._run(_turned(getattr(self._replica(index).faults, what)))

    @trouble
    @rule(upload=uploads)
    def lose_multipart(self, upload: Request) -> None:
        self._troubles_left -= 1
        if upload.known is not None:
            self.fleet.lose_multipart(upload.known)

    # The truth

    @invariant()
    def nothing_contradicts_the_truth(self) -> None:
        if self._fleet is not None:
            self._fleet.look()
            self._fleet.truth.check()

    def teardown(self) -> None:
        try:
            if self._fleet is not None and not self._fleet.truth.broken:
                self._run(self._fleet.finish(clients_return=len(self._fleet.truth.uploads) % 2 == 1))
                self._fleet.truth.check()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._fleet is not None:
            for replica in self._fleet.replicas:
                replica.faults.dead = True
            self._run(self._abandon())
        self._loop.close()
        self._scale.close()

    async def _abandon(self) -> None:
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)

    def _job(self, index: int, name: str) -> list[asyncio.Task[None]]:
        return [self.fleet.job(self._replica(index), name)]

    @property
    def fleet(self) -> Fleet:
        """The fleet, which the first rule has made."""
        assert self._fleet is not None
        return self._fleet

    def _replica(self, index: int) -> Any:
        return self.fleet.replicas[index % len(self.fleet.replicas)]

    def _unfinished(self, creation: Request) -> Known | None:
        """Return the upload that a creation has made, or once that has come to its end, the latest that has not."""
        known = _told(creation)
        if known is None or known.state is State.UPLOADING:
            return known
        others = [each for each in self.fleet.truth.uploads.values() if each.url_told]
        return next((each for each in reversed(others) if each.state is State.UPLOADING), known)

    def _append_of(self, known: Known, aside: int, size: int, beyond: int, *, letter: bool) -> Request:
        """Return a PATCH of at most `size` bytes of the file, or of one letter, `aside` of where the upload stands."""
        at = max(0, len(known.held) + aside)
        end = known.length if known.length is not None else 200
        data = known.file[at : max(at, min(at + size, end))]
        if letter:
            self._letters += 1
            data = bytes([ord("A") + self._letters % 26]) * len(data)
        return Request(Kind.APPEND, known=known, offset=at, data=data + b"!" * beyond)

    def _with_body(
        self,
        request: Request,
        *,
        chunking: tuple[int, ...] = (7,),
        cut: int | None = None,
        stop: int | None = None,
        digest: bool | None = None,
        announced: bool = True,
        ends: bool = False,
    ) -> None:
        """Give the request its body; `cut` and `stop` count for bodies that are longer."""
        size = len(request.data)
        request.digest, request.announced = digest, announced
        request.sender = Sender(
            request.data,
            chunking,
            cut=cut if cut is not None and cut < size else None,
            chunked=not announced,
            stop=stop if stop is not None and stop < size else None,
        )

    def _serve(self, begin: Callable[[], list[asyncio.Task[None]]], seconds: float) -> None:
        """Have clients begin requests, and wait for the answers, at most `seconds`."""
        self._troubles_left += 1
        self._run(_begun(begin, seconds))

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something, and let time pass."""
        try:
            self._loop.run_until_complete(work)
        except StuckError as stuck:
            msg = f"I15: {stuck}"
            raise AssertionError(msg) from stuck


@contextmanager
def _ids_in_order() -> Iterator[None]:
    """Name uploads by number: random names would make two runs of one example differ."""
    numbers = count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads, "secrets", SimpleNamespace(token_urlsafe=lambda _: f"upload-{next(numbers)}"))
        yield


def _one(begin: Callable[[], asyncio.Task[None]]) -> list[asyncio.Task[None]]:
    return [begin()]


async def _begun(begin: Callable[[], list[asyncio.Task[None]]], seconds: float) -> None:
    await asyncio.wait(begin(), timeout=seconds)


async def _until_sealed(known: Known) -> None:
    """Wait until all bytes are committed, a few seconds at most."""
    for _ in range(300):
        if known.state is not State.UPLOADING:
            return
        await asyncio.sleep(0.01)


async def _turned(turn: Callable[[], None]) -> None:
    turn()
    await asyncio.sleep(0.01)


def _told(creation: Request) -> Known | None:
    """Return the upload that a creation has made, if its client has been told of it."""
    return creation.known if creation.known is not None and creation.known.url_told else None


def _error_of(call: tuple[str, ...]) -> type[Exception]:
    return DatabaseUnavailable if call[0] in DATABASE_CALLS else StoreUnavailable
