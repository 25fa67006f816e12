"""Events as lines of JSON, at the end of a file or on stdout: for log shippers and pipes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import DeliveryFailed
from tusgate.sinks.document import document_of

if TYPE_CHECKING:
    from pathlib import Path

    from tusgate.core.events import Event
    from tusgate.ports import Sink

_APPEND: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class LinesSink:
    """The port `Sink` on a file, or on stdout.

    A file is opened for each event, so that it may be rotated, and flushed to disk. Several processes may write to
    one: they take turns. A full disk or a power cut may leave half a line; the next one begins after it, and the
    event that it was about is told again.

    Args:
        name: of the sink.
        path: None is stdout.
        source: see `document_of`.
    """

    def __init__(self, name: str, path: Path | None, source: str = "/files") -> None:
        self._name = name
        self._path = path
        self._source = source
        self._turn = asyncio.Lock()
        # A thread of its own: one that hangs with its disk is one that nobody else waits for.
        self._writer = ThreadPoolExecutor(1, f"sink-{name}")

    @property
    def name(self) -> str:
        """See `ports.Sink.name`."""
        return self._name

    async def deliver(self, event: Event) -> None:
        """See `ports.Sink.deliver`."""
        line = document_of(event, self._source) + b"\n"
        async with self._turn:
            try:
                await asyncio.get_running_loop().run_in_executor(self._writer, self._write, line)
            except OSError as error:
                raise DeliveryFailed(str(error.strerror or error)) from error

    def _write(self, line: bytes) -> None:
        if self._path is None:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            return
        descriptor = os.open(self._path, _APPEND, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # else the file may end within the line that another writes just now
            if _ends_within_a_line(descriptor):
                line = b"\n" + line
            written = os.write(descriptor, line)
            while written < len(line):
                written += os.write(descriptor, line[written:])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """See `ports.Sink.close`."""
        self._writer.shutdown(wait=False, cancel_futures=True)


def _ends_within_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


if TYPE_CHECKING:
    _: type[Sink] = LinesSink
