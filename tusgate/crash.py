"""Named places at which the process dies on purpose, so that tests can show that it may die anywhere.

`TUSGATE_CRASH=after-commit:3` ends the process when it passes that place for the third time, as `kill -9` does:
nothing is flushed, nobody is told. There is a place before and one after every step of the ports, and around the
answer to a request for uploads. Places after a step are passed only when the step succeeded.

The ports are wrapped when the setting is given and not otherwise, so that nothing of this is ever in the way of a byte.
"""

from __future__ import annotations

import inspect
import os
import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NoReturn, ParamSpec, TypeVar, cast

import structlog

from tusgate.ports import AccessLog, Database, JobQueue, ObjectStore, ShareStore, SurveyedDatabase
from tusgate.telemetry import LogEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    Arguments = ParamSpec("Arguments")
    Result = TypeVar("Result")
    AnyDatabase = TypeVar("AnyDatabase", bound=Database)
    AnyStore = TypeVar("AnyStore", bound=ObjectStore)

EXIT_CODE: Final = 137
"""What a shell reports for a process that `kill -9` has ended."""
_ANSWER: Final = "answer"
BEFORE_ANSWER: Final = f"before-{_ANSWER}"
AFTER_ANSWER: Final = f"after-{_ANSWER}"
_NO_STEPS: Final = frozenset({"check", "close", "presign", "presign_part"})
"""Methods of ports that no upload depends on, or that ask nobody."""
_WRITTEN: Final = re.compile(r"(?P<place>[a-z-]+)(?::(?P<nth>[1-9][0-9]{0,8}))?", re.ASCII)

log = structlog.get_logger(__name__)


def _steps_of(port: type) -> list[str]:
    public = (name for name, member in vars(port).items() if inspect.isfunction(member) and not name.startswith("_"))
    return [name for name in public if name not in _NO_STEPS]


def _around(step: str) -> tuple[str, str]:
    name = step.replace("_", "-")
    return f"before-{name}", f"after-{name}"


PORTS: Final = (Database, ShareStore, AccessLog, ObjectStore)
STEPS: Final = tuple(
    name.replace("_", "-") for name in (*(step for port in PORTS for step in _steps_of(port)), _ANSWER)
)
"""What there are places around, in the order of the ports."""
_JOB: Final = "job_"
JOB_STEPS: Final = tuple((_JOB + name).replace("_", "-") for name in _steps_of(JobQueue))
"""The same about jobs of finished files; by names of their own, as some methods are called like others."""
PLACES: Final = tuple(place for step in (*STEPS, *JOB_STEPS) for place in _around(step))
"""All names."""


def parse(text: str) -> tuple[str, int]:
    """Return the place that `text` names, and which passage of it is meant. Raises ValueError for any other text."""
    written = _WRITTEN.fullmatch(text)
    if written is None or written["place"] not in PLACES:
        raise ValueError
    return written["place"], int(written["nth"] or 1)


def _die() -> NoReturn:
    os._exit(EXIT_CODE)


class Crash:
    """Ends the process at one passage of one place.

    Args:
        where: `place` or `place:n`, as `parse` takes it.
        die: ends the process.
    """

    def __init__(self, where: str, die: Callable[[], None] = _die) -> None:
        self._place, self._passages_left = parse(where)
        self._die = die

    def passing(self, place: str) -> None:
        """Die if `place` is the one and this is the passage."""
        if place != self._place:
            return
        self._passages_left -= 1
        if self._passages_left == 0:
            log.warning(LogEvent.CRASHING, place=place)
            self._die()

    def in_database(self, database: AnyDatabase) -> AnyDatabase:
        """Return `database` with the place in it, if it has that place."""
        return cast("AnyDatabase", _Wrapped(database, SurveyedDatabase, self))

    def in_store(self, store: AnyStore) -> AnyStore:
        """Return `store` with the place in it, if it has that place."""
        return cast("AnyStore", _Wrapped(store, ObjectStore, self))

    def is_around(self, step: str) -> bool:
        """Return whether the place is before or after the method `step` of a port."""
        return self._place in _around(step)

    def around_call(
        self, step: str, call: Callable[Arguments, Awaitable[Result]]
    ) -> Callable[Arguments, Awaitable[Result]]:
        """Return `call` between the two places of `step`."""
        before, after = _around(step)

        async def passed_on(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            self.passing(before)
            result = await call(*arguments, **named)
            self.passing(after)
            return result

        return passed_on

    def around_stream(
        self, step: str, stream: Callable[Arguments, AsyncGenerator[Result]]
    ) -> Callable[Arguments, AsyncGenerator[Result]]:
        """Return `stream` between the two places of `step`: before its first item, and after its last one."""
        before, after = _around(step)

        async def passed_on(*arguments: Arguments.args, **named: Arguments.kwargs) -> AsyncGenerator[Result]:
            self.passing(before)
            async with aclosing(stream(*arguments, **named)) as items:
                async for item in items:
                    yield item
            self.passing(after)

        return passed_on


class _Wrapped:
    """A port whose attributes are those of the real one, but for the step that the crash is around."""

    def __init__(self, real: Database | ObjectStore | JobQueue, port: type, crash: Crash, prefix: str = "") -> None:
        self._real = real
        self._port = port
        self._crash = crash
        self._prefix = prefix

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._real, name)
        if name == "jobs":
            return _Wrapped(attribute, JobQueue, self._crash, _JOB)
        step = self._prefix + name
        if not self._crash.is_around(step):
            return attribute
        if inspect.iscoroutinefunction(getattr(self._port, name)):
            return self._crash.around_call(step, attribute)
        return self._crash.around_stream(step, attribute)
