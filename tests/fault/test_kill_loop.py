"""`kill -9` at random times, over and over, while clients upload over a lossy link (CR-01).

All that the test does at random comes from one seed, which a failure shows and TUSGATE_TEST_SEED repeats; how the
processes then meet is theirs. TUSGATE_TEST_ROUNDS says how often a gateway is killed.

Held by all of it: I1 (no offset goes back), I2, I3 (each object is its file), I4, I5 (what was sealed is finished by
whoever comes next), I20. And no client starts from nothing: a HEAD is answered with 200 or 423, or not at all.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import begin
from tests.fault.joined import begin_any
from tests.fault.rig import KIB, MIB, PART

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fault.rig import Rig
    from tests.fault.tcp import How, TcpFaultProxy

CLIENTS = 20
ROUNDS = int(os.environ.get("TUSGATE_TEST_ROUNDS", "15"))
LONGEST_LIFE = 4.0
"""Seconds; a gateway needs about one to start, so that some are killed before they serve."""
LENGTHS = (1, 50 * KIB, 3 * MIB, PART, PART + 1, 2 * PART + 100 * KIB, 4 * PART)
IN_PARTIALS = 0.3
"""How many of the files arrive as two partials."""
CHUNKS = (64 * KIB, MIB, 3 * MIB, 7 * MIB, None)
BREAKS: tuple[How, ...] = ("reset", "close")
DEADLINE = 180.0
"""Seconds for one upload: the lease of each process that dies while it finishes it takes half a minute to run out."""


async def send_files(rig: Rig, chance: random.Random, *, until: asyncio.Event) -> int:
    """Upload one file after the other, at least one; return how many have arrived."""
    files = 0
    while not (files and until.is_set()):
        clients = [replica.far_client for replica in chance.sample(rig.replicas, len(rig.replicas))]
        data = chance.randbytes(chance.choice(LENGTHS))
        in_partials = chance.random() < IN_PARTIALS
        upload = await (begin_any(rig, data, chance, clients) if in_partials else begin(rig, data, clients))
        await upload.run(chance.choice(CHUNKS), DEADLINE)
        files += 1
    return files


async def lose_connections(link: TcpFaultProxy, chance: random.Random) -> None:
    """Break connections for as long as it is let: somewhere in a request, in an answer, or all of them."""
    while True:
        await asyncio.sleep(chance.uniform(0.1, 0.6))
        how = chance.choice(BREAKS)
        match chance.randrange(4):
            case 0:
                link.end_all(how)
            case 1:
                link.cut("down", chance.randrange(300), how)
            case _:
                link.cut("up", chance.randrange(PART), how)


async def kill_in_turn(rig: Rig, chance: random.Random) -> None:
    """Kill the gateways `ROUNDS` times, one after the other, whatever they are doing."""
    for number in range(ROUNDS):
        gateway = rig.replicas[number % len(rig.replicas)].gateway
        await asyncio.sleep(chance.uniform(0, LONGEST_LIFE))
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway._spawn)  # not `start`, which would wait until it serves


async def survive(rig: Rig) -> None:
    seed = int(os.environ.get("TUSGATE_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"TUSGATE_TEST_SEED={seed}")
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        sending = [
            group.create_task(send_files(rig, random.Random(f"{seed} client {number}"), until=over))
            for number in range(CLIENTS)
        ]
        losing = [
            group.create_task(lose_connections(replica.client_link, random.Random(f"{seed} link {number}")))
            for number, replica in enumerate(rig.replicas)
        ]
        await kill_in_turn(rig, random.Random(f"{seed} kill"))
        over.set()
        await asyncio.wait(sending)
        for task in losing:
            task.cancel()
    arrived = sum(task.result() for task in sending)
    print(f"{arrived} files arrived")
    await rig.until(lambda: "sealed" not in states_of_files(rig), DEADLINE)
    assert states_of_files(rig) == {"complete"}


def states_of_files(rig: Rig) -> set[str]:
    """Return the states of all that has bytes, except partials.

    When all files are there, a final may have to be ended of which its client never heard, and so asked for another.
    """
    statement = "SELECT DISTINCT state FROM uploads WHERE upload_offset > 0 AND group_id IS NULL"
    return {row["state"] for row in rig.rows(statement)}


async def test_every_upload_ends_well_though_the_gateway_is_killed_again_and_again(
    start_rig: Callable[..., Awaitable[Rig]],
) -> None:
    await survive(await start_rig(SMALLEST_PARTS_AND_COLD))


async def test_every_upload_ends_well_though_two_replicas_are_killed_in_turn(
    start_rig: Callable[..., Awaitable[Rig]],
) -> None:
    """I6: and every request may meet the other replica than the one before it."""
    await survive(await start_rig(SMALLEST_PARTS_AND_COLD, database="postgres", replicas=2))
