"""A PATCH that is the writer of its upload, and whose body the test sends bit by bit."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.fault.honest import LOST
from tests.wire.client import CT, V

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fault.rig import Replica, Rig
    from tests.wire.client import Answer, Connection


@dataclass
class RunningPatch:
    """A PATCH that is the writer of its upload and whose body the test sends bit by bit."""

    rig: Rig
    path: str
    connection: Connection
    replica: Replica

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait until the gateway's process has taken every one from its socket."""
        self.connection.up.write(data)
        await self.connection.up.drain()
        await self.rig.until(lambda: not queued(self._ports))

    @property
    def _ports(self) -> tuple[int, int]:
        mine = self.connection.up.get_extra_info("sockname")[1]
        return mine, self.replica.gateway.port

    async def end(self) -> Answer | None:
        """Return the answer; None when the gateway closes without one."""
        try:
            return await self.connection.answer()
        except LOST:
            return None


@asynccontextmanager
async def patch_running(
    rig: Rig, path: str, offset: int, size: int, replica: Replica | None = None
) -> AsyncIterator[RunningPatch]:
    """Begin a PATCH at `replica` (default: the first one).

    `100 Continue` comes with the first read of the body, so the request is the writer by then.
    """
    replica = replica or rig.replicas[0]
    async with replica.client.connect() as connection:
        fields = {"Upload-Offset": str(offset), "Content-Length": str(size), "Expect": "100-continue"}
        connection.send_head("PATCH", path, {**V, **CT, **fields})
        assert (await connection._read_head()).status == 100
        yield RunningPatch(rig, path, connection, replica)


def queued(ports: tuple[int, int]) -> int:
    """Return how many bytes wait in the kernel between two loopback ports, sent and not read yet."""
    table = _tcp_table()
    return table[ports][0] + table[ports[::-1]][1]


def _tcp_table() -> dict[tuple[int, int], tuple[int, int]]:
    """Read the kernel's connections: (local port, remote port) → (bytes not acknowledged, bytes not read)."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file][1:]
    return {(int(row[1][-4:], 16), int(row[2][-4:], 16)): (int(row[4][:8], 16), int(row[4][9:], 16)) for row in rows}
