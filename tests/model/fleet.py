"""Replicas of the service over one database and one store, with clients and faults, in virtual time."""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from tests.doubles.database import MemoryDatabase
from tests.doubles.faults import LONGEST_WAY, OUT_OF_HAND, Crashed, Fault, Faults
from tests.doubles.store import MemoryStore
from tests.model.truth import LIVE, Kind, Request, Truth, current_request
from tests.model.witness import WitnessedDatabase, WitnessedStore
from tests.unit.service.rig import GRACE, LIFETIME, SCOPE, Process, Sender
from tusgate.core.checksum import Checksum
from tusgate.core.errors import DatabaseUnavailable, Draining, StoreUnavailable, TusgateError, Unavailable
from tusgate.core.grid import PartLimits
from tusgate.core.model import CreatedVia, ObjectKey, Role, State, UploadId
from tusgate.ports import Attributes, Body
from tusgate.service.digest import crc64_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tests.doubles.database import _Row as Row
    from tests.model.truth import Known
    from tests.virtual_time import VirtualTimeLoop
    from tusgate.core.concat import GroupWish
    from tusgate.core.model import Part, Piece, Upload
    from tusgate.ports import Database, ObjectStore

FOREIGN_KEY = ObjectKey("somebody/elses.bin")
FOREIGN_BYTES = b"not ours"
STRANGER = Attributes(UploadId("a-stranger"))
MAX_SIZE = 250
"""The largest upload, in bytes."""
LARGEST_CHUNK = 40
DEADLY = 0.2
"""Share of the calls that go wrong by dying."""
ANSWERED_WITHIN = 120.0
"""Seconds within which every request has its answer once nothing goes wrong any more."""
RESUMPTIONS = 3
"""Requests in which a client that comes back gets the rest through, likewise."""
FINISHED_WITHIN = 60.0
"""Seconds within which an upload with all its bytes is finished, without anybody's help, likewise."""

current_replica: ContextVar[Replica | None] = ContextVar("current_replica", default=None)
"""In which process a task runs: tasks inherit it."""


@dataclass(frozen=True)
class Shape:
    """How the gateway is set up.

    Attributes:
        seed: of the order in which things happen that happen at once.
        latency: seconds that a call takes at most, both ways.
        noise: share of the calls that go wrong; one in five of these is the last of its process.
    """

    seed: int = 0
    replicas: int = 2
    part_size: int = 10
    budget: int = 1000
    parts_in_flight: int = 3
    inline_max: int = 3
    warm_ttl: float = 0.0
    latency: float = 0.05
    noise: float = 0.0
    completes_all_parts: bool = False
    min_part_size: int = 1
    copies_parts: bool = True


class Replica:
    """One process of the gateway and all that runs in it."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        chance, latency = fleet.chance, fleet.shape.latency
        self.faults = Faults(latency=(lambda: chance.uniform(0, latency)) if latency else None)
        if fleet.shape.noise:
            self.faults.noise = partial(fleet.noise, self)
        self.tasks: dict[asyncio.Task[Any], None] = {}
        shape = fleet.shape
        self.process = Process(
            fleet,
            self.faults,
            budget=shape.budget,
            parts_in_flight=shape.parts_in_flight,
            inline_max=shape.inline_max,
            warm_ttl=shape.warm_ttl,
            max_size=MAX_SIZE,
            holder=f"replica-{number}",
        )

    def run(self, work: Coroutine[Any, Any, None], request: Request | None = None) -> asyncio.Task[None]:
        """Run `work` as a task of this process."""
        context = copy_context()
        context.run(current_replica.set, self)
        context.run(current_request.set, request)
        return asyncio.create_task(work, context=context)


class Fleet:
    """Everything that one run of the model consists of. Its methods are called inside the loop.

    Attributes:
        truth: what must be true; see `Truth.broken`.
        replicas: the processes that are alive.
    """

    def __init__(self, shape: Shape, loop: VirtualTimeLoop) -> None:
        self.shape = shape
        self.part_size = shape.part_size
        self.truth = Truth(MAX_SIZE)
        self.truth.disturbed = shape.noise > 0
        self.chance = random.Random(shape.seed)
        self._memory = MemoryDatabase(loop.time)
        self._memory_store = MemoryStore(
            PartLimits(min_part_size=shape.min_part_size),
            delay=lambda: self.chance.uniform(0, 2 * shape.latency),
            completes_all_parts=shape.completes_all_parts,
            copies_parts=shape.copies_parts,
        )
        self.database = cast("Database", WitnessedDatabase(self._memory, self._memory_store, self.truth))
        self.store = cast("ObjectStore", WitnessedStore(self._memory_store, self._memory, self.truth))
        self.others: dict[str, ObjectStore] = {}
        self._started = 0
        self.replicas: list[Replica] = []
        self._answers: dict[asyncio.Task[None], Request | None] = {}
        self._loop = loop
        self._replacements: list[asyncio.Task[None]] = []
        self._calm = False
        """Nothing goes wrong any more, in replicas that are yet to be started neither."""
        loop.set_task_factory(_task_of_a_replica)
        loop.set_exception_handler(self._note_exception)

    async def open(self) -> None:
        """Put something into the bucket that is not ours, and start the replicas."""
        await self._memory_store.put_object(
            FOREIGN_KEY, Body(len(FOREIGN_BYTES), crc64_of([FOREIGN_BYTES]), (), [FOREIGN_BYTES]), STRANGER
        )
        await self._memory_store.create_multipart(FOREIGN_KEY, STRANGER)
        self.replicas = [self._new_replica() for _ in range(self.shape.replicas)]

    def _new_replica(self) -> Replica:
        self._started += 1
        return Replica(self, self._started)

    # Requests

    def create(
        self,
        replica: Replica,
        request: Request,
        via: CreatedVia,
        role: Role | None = None,
        group: GroupWish | None = None,
    ) -> asyncio.Task[None]:
        """Have a client create an upload of length `request.declares`, with `request.sender` as its body if given."""
        work = partial(
            replica.process.create,
            request.declares,
            request.sender,
            _checksum(request),
            via=via,
            ends=request.ends,
            role=role,
            group=group,
            # A tus client learns its URL from the answer only.
            progress=None if via is CreatedVia.TUS else partial(self.truth.progressed, request),
        )
        return self._serve(replica, request, work)

    def append(self, replica: Replica, request: Request) -> asyncio.Task[None]:
        """Have a client send a PATCH."""
        assert request.known is not None
        assert request.sender is not None
        work = partial(
            replica.process.append,
            request.known.row,
            request.sender,
            offset=request.offset,
            length=request.declares,
            checksum=_checksum(request),
            ends=request.ends,
            progress=partial(self.truth.progressed, request),
        )
        return self._serve(replica, request, work)

    def concatenate(self, replica: Replica, request: Request) -> asyncio.Task[None]:
        """Have a client ask for the final of `request.sources`."""
        partials = [known.row for known in request.sources]
        return self._serve(replica, request, partial(replica.process.concatenate, *partials))

    def ask(self, replica: Replica, request: Request) -> asyncio.Task[None]:
        """Have a client send a HEAD, a HEAD that ends the writer, or a DELETE."""
        assert request.known is not None
        uploads = replica.process.uploads
        work: dict[Kind, Callable[..., Awaitable[Upload | None]]] = {
            Kind.HEAD: uploads.head,
            Kind.SETTLE: uploads.settle,
            Kind.TERMINATE: uploads.terminate,
        }
        return self._serve(replica, request, partial(work[request.kind], SCOPE, request.known.id))

    def _serve(
        self, replica: Replica, request: Request, work: Callable[[], Awaitable[Upload | None]]
    ) -> asyncio.Task[None]:
        self.truth.asked(request)
        task = replica.run(self._answer(replica, request, work), request)
        self._answers[task] = request
        task.add_done_callback(lambda done: self._answers.pop(done, None))
        return task

    async def _answer(self, replica: Replica, request: Request, work: Callable[[], Awaitable[Upload | None]]) -> None:
        try:
            upload = await work()
        except TusgateError as error:
            if not replica.faults.dead:
                self.truth.refused(request, error)
        except (Crashed, asyncio.CancelledError):
            self.truth.expect(replica.faults.dead, "I20", f"{request.kind.name} was cut off by the gateway")
        except Exception as error:  # noqa: BLE001 - noted: it must not end the run
            self.truth.expect(False, "I20", f"{request.kind.name} ended with {error!r}")
        else:
            if not replica.faults.dead:
                self.truth.succeeded(request, upload)

    def job(self, replica: Replica, name: str) -> asyncio.Task[None]:
        """Run one of the background jobs once."""
        task = replica.run(self._work(replica, name))
        self._answers[task] = None
        task.add_done_callback(lambda done: self._answers.pop(done, None))
        return task

    async def _work(self, replica: Replica, name: str) -> None:
        try:
            await getattr(replica.process.jobs, name)()
        except Unavailable as error:
            self.truth.expect(self.truth.disturbed, "I20", f"{name} failed though nothing has gone wrong: {error}")
        except (Crashed, asyncio.CancelledError):
            self.truth.expect(replica.faults.dead, "I20", f"{name} was cut off")
        except Exception as error:  # noqa: BLE001 - noted: it must not end the run
            self.truth.expect(False, "I20", f"{name} ended with {error!r}")

    # Faults

    def noise(self, replica: Replica, call: str) -> Fault | None:
        """Decide whether a call goes wrong, and how."""
        if self._calm or call == "check" or self.chance.random() >= self.shape.noise:
            return None
        if self.chance.random() < DEADLY:
            self._replacements.append(
                self._loop.create_task(self._replace(replica), name=OUT_OF_HAND, context=Context())
            )
            return Fault(call, Crashed, after=self.chance.random() < 0.5)
        error = DatabaseUnavailable if hasattr(self._memory, call) else StoreUnavailable
        how = self.chance.randrange(3)
        return Fault(call, error, after=how == 1, held=how == 2)

    async def _replace(self, replica: Replica) -> None:
        if replica in self.replicas:
            await self.crash(self.replicas.index(replica), calls_arrive=False)

    async def crash(self, index: int, *, calls_arrive: bool) -> None:
        """Kill a replica and start another one. What it has just sent may arrive all the same."""
        self.truth.disturbed = True
        replica = self.replicas[index]
        replica.faults.dead = True
        replica.faults.thaw()
        if calls_arrive:
            await asyncio.sleep(1)
        while doomed := [task for task in replica.tasks if task.get_name() != OUT_OF_HAND]:
            for task in doomed:
                task.cancel()
            await asyncio.sleep(0)
        if self.replicas[index] is replica:
            self.replicas[index] = self._new_replica()

    async def drain(self, index: int) -> None:
        """Stop a replica in an orderly way and start another one."""
        replica = self.replicas[index]
        replica.faults.heal()
        await asyncio.wait_for(replica.process.writers.drain(), ANSWERED_WITHIN)
        if requests := [task for task in self._answers if task in replica.tasks]:
            await asyncio.wait(requests, timeout=ANSWERED_WITHIN)
        await replica.process.completion.stop()
        await self._until_idle([replica])
        await self._assert_nothing_held(replica)
        if self.replicas[index] is replica:
            self.replicas[index] = self._new_replica()

    def lose_multipart(self, known: Known) -> None:
        """Let the store throw away what it has of an unfinished upload."""
        self.truth.disturbed = True
        for owner in filter(None, (known, known.home)):
            multiparts = self._memory_store.multiparts
            mine = [name for name, found in multiparts.items() if found.attributes.upload_id == owner.id]
            owner.lost = owner.lost or bool(mine)
            for multipart_id in mine:
                del multiparts[multipart_id]

    # What must be true now

    def look(self) -> None:
        """Compare all that is committed and stored with what is known."""
        rows = list(self._memory._rows.values())
        self.truth.expect(len(rows) == len(self.truth.uploads), "I1", f"{len(rows)} rows")
        for row in rows:
            self.truth.look(row.upload)
            self._look_into_store(row)
        self._look_at_strangers()
        for replica in self.replicas:
            self._look_at_memory(replica)

    def _look_into_store(self, row: Row) -> None:
        upload, known = row.upload, self.truth.uploads[row.upload.id]
        expect = self.truth.expect
        if upload.state is State.COMPLETE:
            found = self._memory_store.objects.get(upload.object_key)
            right = found is not None and found.data == known.held and found.attributes.upload_id == upload.id
            expect(right, "I4", f"the object of a complete upload is {found}")
        if upload.state in LIVE and upload.role in (None, Role.PARTIAL):
            both: list[Part | Piece] = [*row.parts.values(), *row.pieces.values()]
            stored = sorted(both, key=lambda each: each.start)
            at = 0
            for each in stored:
                expect(each.start == at, "I2", f"{each} follows {at}")
                expect(self._holds(known, upload, each), "I2", f"{each} is not in the store as it was accepted")
                at += each.size
            expect(at == upload.offset, "I2", f"{at} bytes are in parts and pieces, the offset is {upload.offset}")

    def _holds(self, known: Known, upload: Upload, each: Part | Piece) -> bool:
        accepted = bytes(known.held[each.start : each.start + each.size])
        if hasattr(each, "number"):
            home = known.home or known
            row = self._memory._rows[home.id].upload
            multipart = self._memory_store.multiparts.get(cast("Any", row.multipart_id))
            blob = multipart.parts.get(each.number) if multipart is not None else None
            # Once the object is made, before that is committed, the parts are in it.
            found = self._memory_store.objects.get(row.object_key)
            made = row.state is not State.UPLOADING and found is not None and found.data == home.held
            return home.lost or home.shaken or made or (blob is not None and blob.data == accepted)
        stored = self._memory_store.objects.get(each.key) if each.key is not None else None
        return (each.data if stored is None else stored.data) == accepted

    def _look_at_strangers(self) -> None:
        found = self._memory_store.objects.get(FOREIGN_KEY)
        self.truth.expect(found is not None and found.data == FOREIGN_BYTES, "I10", "a foreign object was touched")
        left = [each for each in self._memory_store.multiparts.values() if each.attributes is STRANGER]
        self.truth.expect(len(left) == 1, "I10", "a foreign multipart upload was touched")

    def _look_at_memory(self, replica: Replica) -> None:
        budget = replica.process.budget
        beyond = (LARGEST_CHUNK + self.shape.inline_max) * (1 + len(self._answers))
        self.truth.expect(0 <= budget.leaving <= budget.used <= budget.limit + beyond, "I15", f"{budget.used} are held")
        if not replica.tasks and not self.shape.warm_ttl:
            self.truth.expect(budget.used == 0, "I15", f"{budget.used} bytes are held, and nothing is going on")

    # The end

    async def finish(self, *, clients_return: bool) -> None:
        """End all faults and see that everything comes to a good end: answers, objects, and an empty store."""
        self._calm = True
        for replica in self.replicas:
            replica.faults.heal()
        await self._all_answered()
        if clients_return:
            await self._resume_all()
        await self._finish_sealed()
        self.look()
        await self._clean_up()
        for replica in self.replicas:
            await replica.process.completion.stop()
            await self._until_idle([replica])
            await self._assert_nothing_held(replica)
        self._look_at_rest()

    async def _all_answered(self) -> None:
        for request in list(self._answers.values()):
            if request is not None and request.sender is not None:
                request.sender.go_on()
        if self._answers:
            await asyncio.wait(self._answers, timeout=ANSWERED_WITHIN)
        for request in self._answers.values():
            self.truth.expect(False, "I15", f"no answer to {request.kind.name if request else 'a job'}")

    async def _resume_all(self) -> None:
        """Have the clients of all unfinished uploads of known length come back, each to another replica."""
        for number, known in enumerate(list(self.truth.uploads.values())):
            if known.length is not None and known.url_told and known.role in (None, Role.PARTIAL):
                await self._resume(self.replicas[number % len(self.replicas)], known)

    async def _resume(self, replica: Replica, known: Known) -> None:
        """Send the rest, again if it is refused: a commit that was on its way may have moved the offset."""
        for _ in range(RESUMPTIONS):
            if known.state is not State.UPLOADING or (known.home is not None and known.is_whole):
                return
            body = known.file[len(known.held) : known.length]
            ends = known.via is not CreatedVia.TUS
            request = Request(Kind.APPEND, known=known, offset=len(known.held), data=body, ends=ends)
            request.sender = Sender(body)
            await self.append(replica, request)
        done = known.state is not State.UPLOADING or (known.home is not None and known.is_whole)
        self.truth.expect(done, "I1", f"{known.id} cannot be continued")

    async def _finish_sealed(self) -> None:
        for _ in range(int(FINISHED_WITHIN / 2)):
            if all(known.state is not State.SEALED for known in self.truth.uploads.values()):
                return
            for replica in self.replicas:
                await self.job(replica, "finish_abandoned")
            await asyncio.sleep(2)
        for known in self.truth.uploads.values():
            self.truth.expect(known.state is not State.SEALED, "I5", f"{known.id} is not finished")

    async def _clean_up(self) -> None:
        await asyncio.sleep(LONGEST_WAY + 1)  # what a dead replica has sent may make an upload, or a final
        await self._finish_sealed()
        await asyncio.sleep(LIFETIME + 1)
        await self.job(self.replicas[0], "expire")
        await self.job(self.replicas[0], "expire")  # groups after their partials
        for number in range(4):
            await asyncio.sleep(GRACE + 1)
            await self.job(self.replicas[number % len(self.replicas)], "collect_garbage")

    async def _until_idle(self, replicas: list[Replica]) -> None:
        """Wait for the tasks of `replicas`, and for the memory that they keep warm."""
        for replica in replicas:
            if replica.tasks:
                await asyncio.wait(replica.tasks, timeout=ANSWERED_WITHIN)
        await asyncio.sleep(self.shape.warm_ttl + 1)

    async def _assert_nothing_held(self, replica: Replica) -> None:
        budget = replica.process.budget
        self.truth.expect(not replica.tasks, "I15", f"tasks are left: {list(replica.tasks)}")
        self.truth.expect(budget.used == budget.leaving == 0, "I15", f"{budget.used} bytes are held for ever")

    def _look_at_rest(self) -> None:
        """See that nothing is left but the objects of complete uploads, and what is not ours."""
        rows = [row.upload for row in self._memory._rows.values()]
        kept = {upload.object_key for upload in rows if upload.state is State.COMPLETE} | {FOREIGN_KEY}
        found = set(self._memory_store.objects)
        self.truth.expect(found == kept, "I11", f"left over: {found - kept}, missing: {kept - found}")
        multiparts = [each.key for each in self._memory_store.multiparts.values() if each.attributes is not STRANGER]
        self.truth.expect(not multiparts, "I11", f"multipart uploads are left over: {multiparts}")
        garbage = self._memory.all_garbage()
        self.truth.expect(not garbage, "I11", f"rows of garbage are left over: {garbage}")
        states = {upload.state for upload in rows}
        self.truth.expect(not states & LIVE, "I11", f"uploads are {states}")

    def _note_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, (Crashed, Draining)):
            self.truth.expect(False, "I20", f"{context['message']}: {error!r}")


def _checksum(request: Request) -> Checksum | None:
    if request.digest is None:
        return None
    told = request.data if request.digest else request.data + b"and more"
    return Checksum("sha1", hashlib.sha1(told, usedforsecurity=False).digest())


def _task_of_a_replica(loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
    """Make a task, and note in which replica it runs."""
    context = named.get("context")
    replica = context.get(current_replica) if context is not None else current_replica.get()
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **named)
    if replica is not None:
        replica.tasks[task] = None
        task.add_done_callback(lambda done: replica.tasks.pop(done, None))
    return task
