"""All that a search finds, without holding it all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Sought = TypeVar("Sought")
Row = TypeVar("Row")

PAGE: Final = 500


async def pages(
    find: Callable[[Sought, int, Row | None], Awaitable[list[Row]]], search: Sought
) -> AsyncIterator[list[Row]]:
    """Give all that `search` finds, page by page. What is changed meanwhile is neither missed nor given twice.

    Args:
        find: a method of a port: returns so many rows, from the first one behind a row.
        search: its first argument.
    """
    last: Row | None = None
    while found := await find(search, PAGE, last):
        yield found
        last = found[-1]
