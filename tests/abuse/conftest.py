"""The victim of the abuse tests: a real gateway over MinIO that must be as well at the end as it was before."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.abuse.vitals import client_connections, complaints
from tests.fault.conftest import start_rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from tests.fault.rig import Rig
    from tests.gateway import Gateway

__all__ = ["start_rig"]


@pytest.fixture
async def start_victim(
    start_rig: Callable[..., Awaitable[Rig]],
) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    """Start victims: `await start_victim(settings, database="postgres")`.

    When the test ends, their logs hold no error, no connection is left, and the audit of the rig finds nothing.
    """
    victims: list[Rig] = []

    async def start(settings: Mapping[str, str] | None = None, **how: str) -> Rig:
        victims.append(await start_rig(settings or {}, **how))
        return victims[-1]

    yield start
    for victim in victims:
        gateway = victim.gateway
        await victim.until(partial(_is_left_alone, gateway))
        assert complaints(await asyncio.to_thread(gateway.log_path.read_text)) == []


def _is_left_alone(gateway: Gateway) -> bool:
    return client_connections(gateway) == 0


@pytest.fixture
async def victim(start_victim: Callable[..., Awaitable[Rig]]) -> Rig:
    """Give a victim with default settings."""
    return await start_victim()
