"""What operators do with deliveries: look at them, have them made again, give them up for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tusgate.core.events import Delivery, Search
    from tusgate.ports import Deliveries

PAGE: Final = 500


async def pages(deliveries: Deliveries, search: Search) -> AsyncIterator[list[Delivery]]:
    """Give all that `search` finds, page by page. What is changed meanwhile is neither missed nor given twice."""
    last: Delivery | None = None
    while found := await deliveries.find(search, PAGE, last):
        yield found
        last = found[-1]


async def replay_all(deliveries: Deliveries, search: Search) -> int:
    """Let all that `search` finds be delivered again, under their ids; return how many are. Done page by page."""
    return sum([await deliveries.replay(page) async for page in pages(deliveries, search)])


async def drop_all(deliveries: Deliveries, search: Search) -> int:
    """Forget all that `search` finds; return how many were. Done page by page."""
    return sum([await deliveries.drop(page) async for page in pages(deliveries, search)])
