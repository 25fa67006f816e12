"""An event loop whose clock jumps: hours of waiting pass in milliseconds, in the same order every time.

For code that touches nothing but asyncio: no threads, no sockets.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Generator

T = TypeVar("T")

FOREVER = 100_000.0
"""Seconds of virtual time, more than a day, after which what still waits is taken to wait for ever."""


class StuckError(RuntimeError):
    """What the loop was to run does not come to an end."""


class _JumpingSelector(selectors.SelectSelector):
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise StuckError("everything waits, and nothing is left that could happen")
        if not events and timeout is not None and timeout > 0:
            self.loop.now += timeout
        if self.loop.now > self.loop.patient_until:
            raise StuckError("timers go off, but what the test waits for does not happen")
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop in which sleeping costs no time."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.patient_until = FOREVER
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        self.patient_until = self.now + FOREVER
        return super().run_until_complete(future)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
