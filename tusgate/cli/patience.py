"""How long a client waits before it tries again, and when it gives up."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from tusgate.cli.sending import TransferError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.cli.sending import TransferInterruptedError

LONGEST_PAUSE: Final = 30.0
LONGEST_ASKED_PAUSE: Final = 120.0


class Patience:
    """Counts the tries without progress; each pause is twice as long as the one before, with jitter.

    Args:
        retries: tries without any progress after which an upload is given up.
        first_pause: seconds before the first retry.
        waiting: told of each pause, in seconds, and why.
    """

    def __init__(self, retries: int, first_pause: float, waiting: Callable[[float, str], None]) -> None:
        self._retries = retries
        self._first_pause = first_pause
        self._waiting = waiting
        self._failures = 0

    def progressed(self) -> None:
        """Begin anew: something has worked."""
        self._failures = 0

    async def pause(self, error: TransferInterruptedError) -> None:
        """Wait before the next try. Raises TransferError when there have been enough of them."""
        self._failures += 1
        if self._failures > self._retries:
            raise TransferError(f"{error}; given up after {self._failures} tries without progress") from error
        longest = min(self._first_pause * 2 ** (self._failures - 1), LONGEST_PAUSE)
        jittered = longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, hides nothing
        seconds = max(jittered, min(error.retry_after, LONGEST_ASKED_PAUSE))
        self._waiting(seconds, str(error))
        await asyncio.sleep(seconds)
