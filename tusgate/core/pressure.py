"""Who gives memory back when the budget runs short. A decision on numbers; `service/budget.py` carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOW_FILL = 1.0
"""Seconds to the end of the cell beyond which a request counts as slow."""
EAGER_LEVEL = 0.75
"""Share of the budget resting in open cells above which slow ones are saved at once."""
PATIENT_LEVEL = 0.25
"""The same once somebody has waited for memory longer than `PATIENCE`."""
PATIENCE = 1.0
"""Seconds that a request waits for memory before others are asked to save what they have."""
RELIEF = 0.25
"""Share of the budget to be freed at once, so that saving happens in few, larger pieces."""


@dataclass(frozen=True, slots=True)
class Holding:
    """One open cell that rests in memory.

    Attributes:
        held: bytes that saving it as a piece would free.
        room: bytes that it still lacks to become a part.
        rate: bytes per second at which it has filled so far.
    """

    held: int
    room: int
    rate: float

    @property
    def seconds_to_fill(self) -> float:
        """How long the cell will still rest at its present rate."""
        return self.room / self.rate if self.rate > 0 else float("inf")


def excess(limit: int, resting: int, waited: float) -> int:
    """Return how many resting bytes should be saved as pieces now.

    Bytes on their way to the store are not counted: they free themselves at the store's speed, and writing more
    would only slow that down.

    Args:
        limit: the budget in bytes.
        resting: bytes in open cells, not on their way to the store.
        waited: seconds that the longest waiting request has waited for memory; 0 when nobody waits.
    """
    level = PATIENT_LEVEL if waited >= PATIENCE else EAGER_LEVEL
    if resting <= level * limit:
        return 0
    return int(max(RELIEF * limit, resting - EAGER_LEVEL * limit))


def choose(holdings: Sequence[Holding], wanted: int, *, only_slow: bool) -> list[int]:
    """Return the indexes of the cells to save: those that would occupy the most memory for the longest time first.

    Args:
        holdings: all open cells.
        wanted: bytes to free.
        only_slow: spare cells that will be full within `SLOW_FILL` seconds. Not when nothing else moves: every byte
            of the budget may sit in half-filled cells of fast clients, which then wait for each other.
    """
    ranked = sorted(
        (
            index
            for index, h in enumerate(holdings)
            if h.held > 0 and not (only_slow and h.seconds_to_fill <= SLOW_FILL)
        ),
        key=lambda index: holdings[index].held * min(holdings[index].seconds_to_fill, 3600.0),
        reverse=True,
    )
    chosen: list[int] = []
    for index in ranked:
        if wanted <= 0:
            break
        chosen.append(index)
        wanted -= holdings[index].held
    return chosen
