"""The end of every fault test: all faults healed, all gateways up, nothing unfinished, and then the facts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.audit.facts import gather
from tests.audit.rules import violations

if TYPE_CHECKING:
    from tests.audit.rules import Violation
    from tests.fault.rig import Rig


async def audit(rig: Rig) -> list[Violation]:
    """Bring `rig` to rest as an operator would find it after the last fault, and return what is broken.

    Raises:
        TimeoutError: it did not come to rest within a minute (I5, I20).
    """
    await bring_to_rest(rig)
    return violations(await gather(rig))


async def bring_to_rest(rig: Rig) -> None:
    """End all faults, start what is down, and wait until nothing is on its way."""
    for replica in rig.replicas:
        await replica.heal()
    await asyncio.to_thread(rig.minio.heal)
    for replica in rig.replicas:
        if replica.gateway.running:
            await asyncio.to_thread(replica.gateway.resume)
        await asyncio.to_thread(replica.gateway.start)
        await rig.until(replica.gateway.answers_ready)
    await rig.until(lambda: not rig.rows("SELECT 1 FROM uploads WHERE state = 'sealed'"))
    await rig.until(lambda: all(call.finished for replica in rig.replicas for call in replica.store_link.history.calls))
