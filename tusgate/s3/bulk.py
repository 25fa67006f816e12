"""The body of a large answer, straight from its socket.

aiohttp copies each byte three times on its way: into a read, out of it by the parser, and together with its neighbours.
Behind the head of an answer of known length there is nothing to parse, so the connection can be had without that. It
belongs to one answer from then on. Measured with 1 GiB from MinIO: see "Decisions" in ARCHITECTURE.md.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tusgate.s3.errors import Transient

READ_SIZE: Final = 768 * 1024
"""Bytes that are read and handed on at a time, at most: what a download holds while its reader is slow."""
_BUFFER: Final = memoryview(bytearray(READ_SIZE))
"""All connections read through it: each read is over before the next one begins."""


class BulkReader(asyncio.BufferedProtocol):
    """Reads one chunk when it is asked to, and leaves what comes meanwhile to the kernel.

    Args:
        transport: of the connection; it must not be read from, and its protocol has nothing left.
        size: bytes that belong to the body still.
        patience: seconds without a byte after which the connection is given up.
    """

    def __init__(self, transport: asyncio.Transport, size: int, patience: float) -> None:
        self._transport = transport
        self._left = size
        self._patience = patience
        self._former = transport.get_protocol()
        self._chunk: asyncio.Future[bytes] | None = None
        self._is_lost = transport.is_closing()
        transport.set_protocol(self)

    async def read(self) -> bytes:
        """Return the next bytes, nothing when all have come. Raises Transient when the connection breaks before."""
        if not self._left:
            return b""
        if self._is_lost:
            raise Transient("GetObject: the connection broke")
        self._chunk = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._patience):
                self._transport.resume_reading()
                return await self._chunk
        except TimeoutError:
            raise Transient("GetObject: nothing came") from None
        finally:
            self._chunk = None
            self._transport.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next read goes; it takes nothing that lies behind the body."""
        return _BUFFER[: max(1, self._left)]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read, and read no more."""
        self._transport.pause_reading()
        self._left -= nbytes
        if self._chunk is not None and not self._chunk.done():
            self._chunk.set_result(bytes(_BUFFER[:nbytes]))
        else:
            self._is_lost = True  # whoever waited has gone, and nobody will have these bytes

    def eof_received(self) -> None:
        """The store sends no more."""
        self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended; aiohttp, which counts them, is told."""
        self._lose()
        self._former.connection_lost(exc)

    def _lose(self) -> None:
        self._is_lost = True
        if self._chunk is not None and not self._chunk.done():
            self._chunk.set_exception(Transient("GetObject: the connection broke"))
