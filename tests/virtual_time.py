"""An event loop whose clock jumps: hours of waiting pass in milliseconds, in the same order every time.

For code that touches nothing but asyncio. What happens in a thread has to be announced (`VirtualTimeLoop.outside`):
the clock then stands still until it is done.
"""

from __future__ import annotations

import asyncio
import selectors
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Generator, Iterator

T = TypeVar("T")

FOREVER = 100_000.0
"""Seconds of virtual time, more than a day, after which what still waits is taken to wait for ever."""
REAL_PATIENCE = 30.0
"""Seconds that work outside of the loop may take."""


class _JumpingSelector(selectors.SelectSelector):
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.loop.abroad and (timeout is None or timeout > 0):
            return self._wait_for_outside()
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("everything waits, and nothing is left that could happen")
        if not events and timeout is not None and timeout > 0:
            self.loop.now += timeout
        if self.loop.now > self.loop.patient_until:
            raise RuntimeError("timers go off, but what the test waits for does not happen")
        return events

    def _wait_for_outside(self) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(REAL_PATIENCE)
        if not events:
            raise RuntimeError("what was announced to happen outside of the loop does not happen")
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop in which sleeping costs no time."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.patient_until = FOREVER
        self.abroad = 0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        self.patient_until = self.now + FOREVER
        return super().run_until_complete(future)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Let no time pass during the block, which waits for a thread or a socket."""
        self.abroad += 1
        try:
            yield
        finally:
            self.abroad -= 1


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
