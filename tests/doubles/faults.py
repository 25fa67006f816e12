"""Faults between the service and its ports: errors before or after a call takes effect, late effects, freezes, death.

A wrapped port passes every call on. Which one goes wrong, and how, is decided by a `Faults` that several ports share,
so that "the 17th call of this process" means something.
"""

from __future__ import annotations

import asyncio
import inspect
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from tusgate.core.errors import TusgateError
from tusgate.ports import Body

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.ports import Database, ObjectStore

OUT_OF_HAND = "out of the hands of the process"
"""Name of the tasks that outlive the process that began them: calls that are on their way."""
LONGEST_WAY = 300.0
"""Seconds after which a call that is held takes effect, and a frozen process goes on, without being told to."""


class Crashed(BaseException):
    """The process is dead: nothing that it still attempts has an effect."""


@dataclass
class Fault:
    """One thing that goes wrong.

    Attributes:
        call: name of a method, or several names; None counts all.
        error: raised instead of an answer; called anew each time.
        nth: the first matching call that it strikes, counted from 1.
        times: how many calls in a row.
        after: the call takes effect first: only its answer is lost.
        held: the caller gets the error, and the call takes effect when `Faults.deliver` is called.
    """

    call: str | tuple[str, ...] | None
    error: Callable[[], BaseException]
    nth: int = 1
    times: int = 1
    after: bool = False
    held: bool = False
    seen: int = 0

    def strikes(self, name: str) -> bool:
        names = (self.call,) if isinstance(self.call, str) else self.call
        if names is not None and name not in names:
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


@dataclass
class Faults:
    """What goes wrong in one process, and what it has called so far.

    Attributes:
        pauses: seconds that calls of a name are on their way before they take effect.
        latency: seconds that each call, and each answer, is on its way besides.
        noise: asked at each call that no fault strikes whether something goes wrong all the same.
    """

    faults: list[Fault] = field(default_factory=list)
    pauses: dict[str, float] = field(default_factory=dict)
    latency: Callable[[], float] | None = None
    noise: Callable[[str], Fault | None] | None = None
    calls: list[str] = field(default_factory=list)
    dead: bool = False
    _delivery: asyncio.Event = field(default_factory=asyncio.Event)
    _on_the_way: set[asyncio.Task[None]] = field(default_factory=set)
    _frozen: asyncio.Event | None = None

    def add(self, call: str | tuple[str, ...] | None, error: Callable[[], BaseException], **details: Any) -> None:
        self.faults.append(Fault(call, error, **details))

    def count(self, name: str) -> int:
        return self.calls.count(name)

    def heal(self) -> None:
        """Let nothing more go wrong from now on."""
        self.faults.clear()
        self.noise = None
        self.pauses.clear()
        self.deliver()
        self.thaw()

    def deliver(self) -> None:
        """Let the held calls take effect, in any order."""
        self._delivery.set()
        self._delivery = asyncio.Event()

    def freeze(self) -> None:
        """Stop the process: it neither calls anything nor sees an answer until `thaw`."""
        if self._frozen is None or self._frozen.is_set():
            self._frozen = asyncio.Event()
            asyncio.get_running_loop().call_later(LONGEST_WAY, self._frozen.set)

    def thaw(self) -> None:
        if self._frozen is not None:
            self._frozen.set()
            self._frozen = None

    def database(self, database: Database) -> Database:
        return cast("Database", _Wrapped(database, self))

    def store(self, store: ObjectStore) -> ObjectStore:
        return cast("ObjectStore", _Wrapped(store, self))

    async def run(
        self, name: str, method: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        if self.dead:
            raise Crashed
        self.calls.append(name)
        struck = next((fault for fault in self.faults if fault.strikes(name)), None)
        if struck is None and self.noise is not None:
            struck = self.noise(name)
        if struck is not None and struck.held:
            self._hold(method, arguments, named)
        if struck is not None and not struck.after:
            raise self._raised(struck)
        await self._travel(self.pauses.get(name))
        result = await method(*arguments, **named)
        await self._travel()
        if struck is not None:
            raise self._raised(struck)
        if self.dead:
            raise Crashed
        return result

    async def _travel(self, pause: float | None = None) -> None:
        if pause is not None:
            await asyncio.sleep(pause)
        if self.latency is not None:
            await asyncio.sleep(self.latency())
        if self._frozen is not None:
            await self._frozen.wait()

    def _hold(self, method: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        sent = [_copied(each) for each in arguments]
        task = asyncio.create_task(self._deliver(self._delivery, method, sent, named), name=OUT_OF_HAND)
        self._on_the_way.add(task)
        task.add_done_callback(self._on_the_way.discard)

    async def _deliver(
        self, delivery: asyncio.Event, method: Callable[..., Any], arguments: list[Any], named: dict[str, Any]
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_WAY):
                await delivery.wait()
        with suppress(TusgateError):
            await method(*arguments, **named)

    def _raised(self, fault: Fault) -> BaseException:
        error = fault.error()
        self.dead = self.dead or isinstance(error, Crashed)
        return error


def _copied(argument: object) -> object:
    """Return what is on its way when the caller has forgotten its buffers."""
    if isinstance(argument, Body):
        return replace(argument, buffers=[bytes(buffer) for buffer in argument.buffers])
    return argument


class _Wrapped:
    def __init__(self, port: object, faults: Faults) -> None:
        self._port = port
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def call(*arguments: Any, **named: Any) -> Any:
            return await self._faults.run(name, attribute, arguments, named)

        return call
