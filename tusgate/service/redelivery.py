"""What operators do with deliveries: look at them, have them made again, give them up for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusgate.service.paging import pages

if TYPE_CHECKING:
    from tusgate.core.events import Search
    from tusgate.ports import Deliveries


async def replay_all(deliveries: Deliveries, search: Search) -> int:
    """Let all that `search` finds be delivered again, under their ids; return how many are. Done page by page."""
    return sum([await deliveries.replay(page) async for page in pages(deliveries.find, search)])


async def drop_all(deliveries: Deliveries, search: Search) -> int:
    """Forget all that `search` finds; return how many were. Done page by page."""
    return sum([await deliveries.drop(page) async for page in pages(deliveries.find, search)])
