"""A client of clamd, for the two commands that a scan takes (clamd(8): INSTREAM, VERSION). It blocks.

Bytes go over the connection, so clamd may run elsewhere and as whoever it likes: it never opens a file of ours.
"""

from __future__ import annotations

import re
import socket
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from tusgate.core.addresses import place_of
from tusgate.processors.contract import ProcessorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_PATIENCE: Final = 120.0
"""Seconds without a byte from clamd, which answers when it has looked at all; its own ReadTimeout is 120 s."""
_CHUNK: Final = 1 << 16
_LONGEST_REPLY: Final = 4096
_LIMITS: Final = "Heuristics.Limits.Exceeded"
"""How clamd calls it, with AlertExceedsMax, that it has not looked at everything."""
_FOUND: Final = re.compile(r"stream: (?P<name>.+) FOUND", re.DOTALL)


class Clamd:
    """clamd at one address, as `core.addresses.place_of` reads it. All errors are ProcessorError."""

    def __init__(self, address: str) -> None:
        self._place = place_of(address)

    def version(self) -> str:
        """Return which engine with which signatures it is, such as `ClamAV 1.4.3/27500/Fri Jan  2 03:04:05 2026`."""
        with self._connected() as connection:
            connection.sendall(b"zVERSION\0")
            return self._reply(connection)

    def scan(self, content: BinaryIO, size: int, progress: Callable[[float], None]) -> str | None:
        """Return the name of what was found in `content`, or None when clamd has looked at all of it and found nothing.

        Raises:
            ProcessorError: clamd has not looked at all of it; permanent where that is because of its limits.
        """
        with self._connected() as connection:
            # What breaks while we send is looked at in the answer: clamd may have given it before we were at the end.
            is_sent = False
            with suppress(ConnectionError):
                self._send(connection, content, size, progress)
                is_sent = True
            found = _verdict(self._reply(connection))
        if found is None and not is_sent:
            raise ProcessorError("clamd has answered before it had all of it", permanent=False)
        return found

    def _send(self, connection: socket.socket, content: BinaryIO, size: int, progress: Callable[[float], None]) -> None:
        connection.sendall(b"zINSTREAM\0")
        sent = 0
        while chunk := content.read(_CHUNK):
            connection.sendall(struct.pack(">I", len(chunk)) + chunk)
            sent += len(chunk)
            progress(sent / max(sent, size))
        connection.sendall(struct.pack(">I", 0))

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        try:
            with self._open() as connection:
                yield connection
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ProcessorError(f"clamd cannot be asked ({reason})", permanent=False) from None

    def _open(self) -> socket.socket:
        if not isinstance(self._place, str):
            return socket.create_connection(self._place, timeout=_PATIENCE)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(self._place)
        except OSError:
            connection.close()
            raise
        return connection

    @staticmethod
    def _reply(connection: socket.socket) -> str:
        reply = b""
        while not reply.endswith(b"\0"):
            part = connection.recv(_LONGEST_REPLY)
            reply += part
            if not part or len(reply) > _LONGEST_REPLY:
                raise ProcessorError("clamd broke off before it had answered", permanent=False)
        return reply[:-1].decode(errors="replace")


def _verdict(reply: str) -> str | None:
    if reply == "stream: OK":
        return None
    found = _FOUND.fullmatch(reply)
    if found is None:
        # `INSTREAM size limit exceeded. ERROR` is about the file; all others are about clamd.
        raise ProcessorError(f"clamd answered: {reply[:200]}", permanent="size limit exceeded" in reply)
    if found["name"].startswith(_LIMITS):
        raise ProcessorError(f"clamd has not looked at all of it ({found['name']})", permanent=True)
    return found["name"]
