"""A TCP proxy that breaks connections in the ways networks do.

It stands between client and gateway, gateway and database, or before an S3FaultProxy. It knows no protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

Direction = Literal["up", "down"]
How = Literal["reset", "close"]

CHUNK_BYTES = 64 * 1024
NO_LINGER = struct.pack("ii", 1, 0)


def reset(transport: asyncio.WriteTransport) -> None:
    """End a TCP connection with a reset, as a crashed peer or an impatient firewall does."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError, ValueError):  # already closed: uvloop gives the socket the descriptor -1
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    transport.abort()


@dataclass
class Cut:
    """End a connection at an exact byte.

    Attributes:
        direction: `up` is from the client to the target.
        after: so many bytes of one connection still pass in that direction.
        how: `close` delivers these bytes; `reset` may destroy some that the receiver had not read yet.
        times: how many connections it still will cut.
    """

    direction: Direction
    after: int
    how: How = "reset"
    times: int = 1


class Link:
    """One connection through the proxy.

    Attributes:
        passed: bytes forwarded so far, by direction.
    """

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self.client = client
        self.target = target
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}

    def end(self, how: How) -> None:
        """End both halves at once. Idempotent."""
        for writer in (self.client, self.target):
            if how == "reset":
                reset(writer.transport)
            else:
                writer.close()


class TcpFaultProxy:
    """Forwards connections to one address, with faults that may be changed while they run.

    Attributes:
        latency: seconds that each chunk waits, in both directions. Chunks wait one after the other, so it also
            limits the rate.
        bandwidth: bytes per second and direction of one connection; None is unlimited.
        slow_close: seconds between one side's end and the other side hearing of it.
        slices: bytes that go on at once, each slice in a packet of its own; None passes chunks as they come.
        links: connections that are open now, oldest first.
        accepted: how many connections there have been.
        passed: bytes forwarded over all connections, by direction.
        held: what `freeze` keeps back now, over all connections, by direction.

    Args:
        host, port: where it leads to.
        own: where it listens; port 0 is a free one.
        tls: what clients have to speak with it; plain TCP without one.
    """

    def __init__(
        self, host: str, port: int, own: tuple[str, int] = ("127.0.0.1", 0), tls: ssl.SSLContext | None = None
    ) -> None:
        self.host, self.port = own
        self._tls = tls
        self.latency = 0.0
        self.bandwidth: int | None = None
        self.slow_close = 0.0
        self.slices: int | None = None
        self.links: list[Link] = []
        self.accepted = 0
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        self.held: dict[Direction, list[bytes]] = {"up": [], "down": []}
        self._target = (host, port)
        self._cuts: list[Cut] = []
        self._flowing: dict[Direction, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.thaw()
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        await self.down()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def up(self) -> None:
        """Listen: at first on a free port, later again on the same one. No-op when it listens."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self.host, self.port, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]

    async def retarget(self, host: str, port: int) -> None:
        """Lead to another address from now on: the one name moves, and connections to the old one end."""
        self._target = (host, port)
        self.end_all()

    async def heal(self) -> None:
        """End all faults; connections that live go on."""
        self.latency = self.slow_close = 0.0
        self.bandwidth = self.slices = None
        self._cuts.clear()
        self.thaw()
        await self.up()

    async def down(self, how: How = "reset") -> None:
        """End all connections and refuse new ones until `up`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.end_all(how)

    def end_all(self, how: How = "reset") -> None:
        """End all connections; new ones are welcome."""
        for link in self.links:
            link.end(how)

    def cut(self, direction: Direction, after: int, how: How = "reset", times: int = 1) -> Cut:
        """End the next `times` connections that pass `after` bytes in `direction`, exactly there."""
        cut = Cut(direction, after, how, times)
        self._cuts.append(cut)
        return cut

    def freeze(self, *directions: Direction) -> None:
        """Swallow what is sent, ends of connections too: neither side learns anything. Default: both directions."""
        for direction in directions or self._flowing:
            self._flowing[direction].clear()

    def thaw(self) -> None:
        """Deliver what `freeze` held back."""
        for flowing in self._flowing.values():
            flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
        except OSError:
            reset(writer.transport)
            return
        link = Link(writer, target_writer)
        self.links.append(link)
        try:
            await asyncio.gather(
                self._pump(link, "up", reader, target_writer), self._pump(link, "down", target_reader, writer)
            )
        finally:
            self.links.remove(link)
            link.end("close")

    async def _pump(
        self, link: Link, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                await self._hinder(direction, chunk)
                if await self._cut_inside(link, direction, chunk, writer):
                    return
                await self._pass(link, direction, chunk, writer)
            await self._flowing[direction].wait()
            await asyncio.sleep(self.slow_close)
            if not writer.is_closing() and writer.can_write_eof():
                writer.write_eof()
        except OSError:
            await self._flowing[direction].wait()
            link.end("reset")

    async def _hinder(self, direction: Direction, chunk: bytes) -> None:
        if self.latency or self.bandwidth:
            await asyncio.sleep(self.latency + (len(chunk) / self.bandwidth if self.bandwidth else 0))
        self.held[direction].append(chunk)
        try:
            await self._flowing[direction].wait()
        finally:
            self.held[direction].remove(chunk)

    async def _cut_inside(self, link: Link, direction: Direction, chunk: bytes, writer: asyncio.StreamWriter) -> bool:
        for cut in self._cuts:
            room = cut.after - link.passed[direction]
            if cut.direction == direction and cut.times > 0 and len(chunk) > room:
                cut.times -= 1
                await self._pass(link, direction, chunk[: max(room, 0)], writer)
                link.end(cut.how)
                return True
        return False

    async def _pass(self, link: Link, direction: Direction, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        size = self.slices or max(len(chunk), 1)
        for start in range(0, len(chunk), size):
            if writer.is_closing():
                raise ConnectionResetError  # which asyncio says by itself, uvloop by a RuntimeError
            writer.write(chunk[start : start + size])
            await writer.drain()
            if self.slices:
                await asyncio.sleep(0)  # lets the packet leave before the next one joins it
        link.passed[direction] += len(chunk)
        self.passed[direction] += len(chunk)
