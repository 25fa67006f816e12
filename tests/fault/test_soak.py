"""Fifty clients over lossy links, a fault every few seconds, a replica restarted all the time: for as long as you like.

TUSGATE_TEST_SOAK says how many seconds of it (`make soak`: 20 minutes), TUSGATE_TEST_SEED repeats the choices of a run.
Every upload must finish with the bytes of its file, the audit must find nothing, and memory and descriptors of the
gateways stay within bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import LOST, PAUSE, begin
from tests.fault.joined import begin_any
from tests.fault.proxy import Delay, Drop, DropAnswer, s3_error
from tests.fault.rig import KIB, MIB, PART
from tests.servers.process import StartFailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fault.honest import Upload
    from tests.fault.proxy import Fault
    from tests.fault.rig import Replica, Rig
    from tests.wire.client import Client

SECONDS = float(os.environ.get("TUSGATE_TEST_SOAK") or 20)
CLIENTS = 50
BUDGET = 64 * MIB
LENGTHS = (0, 1, 70 * KIB, MIB, PART, PART + 1, 2 * PART + 200 * KIB)
IN_PARTIALS = 0.3
"""How many of the files arrive as two partials."""
CHUNKS = (100 * KIB, 500 * KIB, 2 * MIB, 6 * MIB, None)
DEADLINE = 240.0
"""Seconds in which an upload gets on: some wait for the lease of a killed process."""
WATCH_EVERY = 0.5
"""Seconds between two looks of a page at each upload: the machine is for uploads, not for a storm of HEADs."""
RESTART_EVERY = 60.0
FAULT_PAUSE = (0.5, 3.0)
BOUND = BUDGET + 200 * MIB
"""Resident memory of a gateway: the code, the budget, half a MiB for each connection, and the allocator's reserve."""
SPARE_DESCRIPTORS = 40
CALLS = (
    "UploadPart",
    "PutObject",
    "CreateMultipartUpload",
    "CompleteMultipartUpload",
    "HeadObject",
    "GetObject",
    "UploadPartCopy",
    "*",
)


@dataclass
class Samples:
    """What the gateways used: the most of it, and the number of looks."""

    memory: int = 0
    descriptors: list[int] = field(default_factory=list)

    def look(self, rig: Rig) -> None:
        for replica in rig.replicas:
            try:
                process = psutil.Process(replica.gateway.pid)
                self.memory = max(self.memory, process.memory_info().rss)
                self.descriptors.append(process.num_fds())
            except (psutil.Error, StartFailedError):
                continue  # it is being restarted


async def test_uploads_finish_whatever_happens_for_a_long_time(start_rig: Callable[..., Awaitable[Rig]]) -> None:
    """I1 to I11, I15, I16, I19, I20."""
    seed = int(os.environ.get("TUSGATE_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"TUSGATE_TEST_SEED={seed}")
    settings = SMALLEST_PARTS_AND_COLD | {"TUSGATE_BUDGET": str(BUDGET), "TUSGATE_WARM_CELL_TTL": "2s"}
    rig = await start_rig(settings, database="postgres", replicas=2)
    samples, over = Samples(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        chances = (random.Random(f"{seed} client {number}") for number in range(CLIENTS))
        clients = [group.create_task(use(rig, chance, over)) for chance in chances]
        group.create_task(break_something(rig, random.Random(f"{seed} faults"), over))
        group.create_task(restart_in_turn(rig, random.Random(f"{seed} restarts"), over))
        watching = group.create_task(watch(rig, samples))
        await asyncio.sleep(SECONDS)
        over.set()
        await asyncio.wait(clients)
        watching.cancel()
    finished = sum(client.result() for client in clients)
    print(
        f"{finished} uploads in {SECONDS:.0f} s, at most {samples.memory >> 20} MiB, {max(samples.descriptors)} files"
    )
    assert finished >= CLIENTS
    assert samples.memory < BOUND
    await rig.until(lambda: all(files_of(replica) < CLIENTS + SPARE_DESCRIPTORS for replica in rig.replicas))


async def use(rig: Rig, chance: random.Random, over: asyncio.Event) -> int:
    """Upload one file after the other, delete each but the first when it has been compared; return how many."""
    finished, kept = 0, False
    while not over.is_set():
        clients = [replica.far_client for replica in rig.replicas]
        chance.shuffle(clients)
        data = chance.randbytes(chance.choice(LENGTHS))
        if chance.random() < IN_PARTIALS:
            final = await begin_any(rig, data, chance, clients)
            for partial in final.partials:
                partial.pause = WATCH_EVERY
            path = await final.run(chance.choice(CHUNKS), DEADLINE)
            assert final.journal is not None
            await delete(clients[0], path)
            final.journal.deleted = True
            for partial in final.partials:
                await forget(partial)
        else:
            upload = await begin(rig, data, clients)
            upload.pause = WATCH_EVERY
            await upload.run(chance.choice(CHUNKS), DEADLINE)
            await (forget(upload) if kept else keep(upload))
            kept = True
        finished += 1
    return finished


async def forget(upload: Upload) -> None:
    """Delete the upload, and let its bytes go: a soak has more of them than memory."""
    await delete(upload.clients[0], upload.path)
    upload.journal.deleted = True
    upload.journal.accepted.clear()
    upload.data = b""


async def keep(upload: Upload) -> None:
    """Have the file kept, and try to delete it all the same; the auditor looks at it in the end."""
    async with asyncio.timeout(DEADLINE):
        await upload.retain()
        with contextlib.suppress(*LOST):
            assert (await upload.clients[0].delete(upload.path)).status in (409, 423, 503)


async def delete(client: Client, path: str) -> None:
    """Delete an upload.

    409 is for partials: a creation of their final that the client has given up for lost may arrive when the final of
    the next try has been deleted already. It makes another final, which is finished soon.
    """
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                answer = await client.delete(path)
            except LOST:
                answer = None
            if answer is not None and answer.status in (204, 410):  # 410: the first answer was lost
                break
            assert answer is None or answer.status in (409, 423, 503), answer
            await asyncio.sleep(PAUSE)


async def break_something(rig: Rig, chance: random.Random, over: asyncio.Event) -> None:
    """Break one link after the other, each for a moment."""
    while not over.is_set():
        await asyncio.sleep(chance.uniform(*FAULT_PAUSE))
        replica = chance.choice(rig.replicas)
        await chance.choice((break_clients, break_store, break_database))(replica, chance)


async def break_clients(replica: Replica, chance: random.Random) -> None:
    """Cut, slow down or silence the network of clients."""
    link = replica.client_link
    match chance.randrange(5):
        case 0:
            link.end_all(chance.choice(("reset", "close")))
        case 1:
            for _ in range(10):
                link.cut("up", chance.randrange(2 * MIB), chance.choice(("reset", "close")))
        case 2:
            link.cut("down", chance.randrange(300), times=5)
        case 3:
            link.bandwidth, link.slices = 256 * KIB, 1000
            await asyncio.sleep(chance.uniform(0.5, 2))
        case _:
            link.freeze()
            await asyncio.sleep(chance.uniform(0.5, 2))
    await link.heal()


async def break_store(replica: Replica, chance: random.Random) -> None:
    """Let some calls to the store fail in one of the ways that they can."""
    faults: list[Fault] = [
        s3_error(503, "SlowDown"),
        s3_error(500, "InternalError"),
        Drop(),
        Drop(after=MIB),
        DropAnswer(),
        Delay(1.0),
    ]
    replica.store_link.on(chance.choice(CALLS), chance.choice(faults), times=chance.randint(1, 8))
    await asyncio.sleep(chance.uniform(0.2, 2))
    replica.store_link.clear_rules()
    replica.store_link.history.forget_finished()


async def break_database(replica: Replica, chance: random.Random) -> None:
    """Cut, silence or refuse connections to PostgreSQL."""
    link = replica.database_link
    assert link is not None
    match chance.randrange(4):
        case 0:
            link.end_all("reset")
        case 1:
            link.cut("down", chance.randrange(2000), times=3)
        case 2:
            await link.down()
            await asyncio.sleep(chance.uniform(0.2, 2))
        case _:
            link.freeze()
            await asyncio.sleep(chance.uniform(0.2, 2))
    await link.heal()


async def restart_in_turn(rig: Rig, chance: random.Random, over: asyncio.Event) -> None:
    """Drain, kill or freeze one replica after the other."""
    for replica in itertools.cycle(rig.replicas):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(RESTART_EVERY, SECONDS / 4)):
                await over.wait()
        if over.is_set():
            return
        gateway = replica.gateway
        match chance.randrange(3):
            case 0:
                await asyncio.to_thread(gateway.restart)
            case 1:
                await asyncio.to_thread(gateway.crash_and_start)
            case _:
                await asyncio.to_thread(gateway.pause)
                await asyncio.sleep(chance.uniform(0.5, 5))
                await asyncio.to_thread(gateway.resume)


async def watch(rig: Rig, samples: Samples) -> None:
    """Look at the gateways all the while."""
    while True:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(samples.look, rig)


def files_of(replica: Replica) -> int:
    """Return the number of open file descriptors."""
    return int(psutil.Process(replica.gateway.pid).num_fds())
