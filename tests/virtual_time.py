"""An event loop whose clock jumps: hours of waiting pass in milliseconds, in the same order every time.

Only for code that touches nothing but asyncio: no threads, no sockets.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

FOREVER = 100_000.0
"""Seconds of virtual time, more than a day, after which what still waits is taken to wait for ever."""


class _JumpingSelector(selectors.SelectSelector):
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("everything waits, and nothing is left that could happen")
        if not events and timeout is not None and timeout > 0:
            self.loop.now += timeout
        if self.loop.now > FOREVER:
            raise RuntimeError("timers go off, but what the test waits for does not happen")
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop in which sleeping costs no time."""

    def __init__(self) -> None:
        self.now = 1_000.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
