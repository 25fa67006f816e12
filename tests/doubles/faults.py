"""Faults between the service and its ports: errors before a call takes effect or after it, and the death of a process.

A wrapped port passes every call on. Which one goes wrong, and how, is decided by a `Faults` that several ports share,
so that "the 17th call of this process" means something.
"""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.ports import Database, ObjectStore


class Crashed(BaseException):
    """The process is dead: nothing that it still attempts has an effect."""


@dataclass
class Fault:
    """One thing that goes wrong.

    Attributes:
        call: name of a method; None counts all.
        error: raised instead of an answer; called anew each time.
        nth: the first matching call that it strikes, counted from 1.
        times: how many calls in a row.
        after: the call takes effect first: only its answer is lost.
    """

    call: str | None
    error: Callable[[], BaseException]
    nth: int = 1
    times: int = 1
    after: bool = False
    seen: int = 0

    def strikes(self, name: str) -> bool:
        if self.call not in {None, name}:
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


@dataclass
class Faults:
    """What goes wrong in one process, and what it has called so far.

    Attributes:
        pauses: seconds that calls of a name are on their way before they take effect.
    """

    faults: list[Fault] = field(default_factory=list)
    pauses: dict[str, float] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    dead: bool = False

    def add(self, call: str | None, error: Callable[[], BaseException], **details: Any) -> None:
        self.faults.append(Fault(call, error, **details))

    def count(self, name: str) -> int:
        return self.calls.count(name)

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
        if struck is not None and not struck.after:
            raise self._raised(struck)
        if name in self.pauses:
            await asyncio.sleep(self.pauses[name])
        result = await method(*arguments, **named)
        if struck is not None:
            raise self._raised(struck)
        if self.dead:
            raise Crashed
        return result

    def _raised(self, fault: Fault) -> BaseException:
        error = fault.error()
        self.dead = self.dead or isinstance(error, Crashed)
        return error


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
