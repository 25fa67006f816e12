"""Three tries with jitter, for every call to the store that may be repeated."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, TypeVar

from tusgate.s3.errors import Transient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TRIES: Final = 3
FIRST_DELAY: Final = 0.2
"""Seconds before the second try, at most; doubled before the third."""
LONGEST_DELAY: Final = 10.0
"""Seconds; a store that wants to be left alone for longer gets its wish from our caller."""

T = TypeVar("T")

_random = random.SystemRandom()


async def retried(call: Callable[[], Awaitable[T]]) -> T:
    """Await `call()` until it succeeds, at most three times; the last error is raised.

    Tried again: connections that failed, 5xx, throttling (after the time that the store asked for, with jitter
    on top so that not all come back at once), and bytes that were damaged on the way.
    """
    for attempt in range(1, TRIES):
        try:
            return await call()
        except Transient as error:
            if error.delay > LONGEST_DELAY:
                raise
            await asyncio.sleep(error.delay + _random.uniform(0, FIRST_DELAY * 2 ** (attempt - 1)))
    return await call()
