"""Which store an upload lies in.

Rule 1: a route is decided when an upload is created, and kept in its row by name. What changes in the settings later
        changes where new uploads go, never where old ones are looked for.
Rule 2: an upload whose route is not known here is not lost but out of reach: StoreUnavailable, until the route is back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from tusgate.core.errors import StoreUnavailable
from tusgate.ports import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

StoreT = TypeVar("StoreT", bound=ObjectStore, covariant=True)


class Stores(Generic[StoreT]):
    """All stores of a gateway.

    Attributes:
        default: the one of the plain settings; its route is None.
    """

    def __init__(self, default: StoreT, others: Mapping[str, StoreT] | None = None) -> None:
        """Take `others` by the names of their routes."""
        self.default = default
        self._others = dict(others or {})

    def of(self, route: str | None) -> StoreT:
        """Return the store that a route leads to. Raises StoreUnavailable when there is no such route."""
        if route is None:
            return self.default
        store = self._others.get(route)
        if store is None:
            raise StoreUnavailable(f"route {route}: expected in the tenants file, because uploads were stored by it")
        return store

    def __iter__(self) -> Iterator[tuple[str | None, StoreT]]:
        """Yield every route with its store."""
        yield None, self.default
        yield from self._others.items()

    async def check(self) -> None:
        """Raise StoreUnavailable when the default store cannot be used: it is what all replicas have in common.

        A tenant's own store that is away must not take the gateway from the others.
        """
        await self.default.check()

    async def close(self) -> None:
        """Release all connections. Idempotent."""
        await asyncio.gather(*(store.close() for _, store in self))
