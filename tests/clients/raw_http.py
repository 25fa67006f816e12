"""HTTP/1.1 over a plain socket, for clients whose way of sending no library here would imitate."""

from __future__ import annotations

import http.client
import socket
import struct
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from email.message import Message

TIMEOUT = 60.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() send a reset, as when a phone loses its network and comes back."""


@dataclass(frozen=True)
class Answer:
    """Status, headers and body of one answer.

    Attributes:
        early: the interim answers (1xx) that were read together with it.
    """

    status: int
    headers: Message
    body: bytes
    early: list[Answer] = field(default_factory=list)

    @property
    def offset(self) -> int:
        """The `Upload-Offset` header. KeyError when it is missing."""
        value = self.headers["Upload-Offset"]
        if value is None:
            raise KeyError("Upload-Offset")
        return int(value)

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this answer."""
        return str(self.headers["Connection"]).lower() == "close"


class RawConnection:
    """One connection that is written to piece by piece.

    Args:
        url: only its host and port count.
    """

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        host, _, port = self._host.partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def send_head(self, method: str, url: str, headers: Mapping[str, str]) -> None:
        """Send the request line and the headers."""
        lines = [f"{method} {urlsplit(url).path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def send(self, data: bytes) -> None:
        """Send bytes of the body as they are."""
        self._socket.sendall(data)

    def send_chunks(self, chunks: Iterable[bytes]) -> None:
        """Send a body, or a part of one, in the chunked transfer coding, without its end."""
        for chunk in chunks:
            self._socket.sendall(b"%x\r\n" % len(chunk))
            self._socket.sendall(chunk)
            self._socket.sendall(b"\r\n")

    def end_chunks(self) -> None:
        """Send the end of a chunked body."""
        self._socket.sendall(b"0\r\n\r\n")

    def wait_for_continue(self) -> int:
        """Read `HTTP/1.1 100 Continue` without a byte of what follows, and return the status."""
        return self.interim().status

    def interim(self) -> Answer:
        """Read one interim answer without a byte of what follows."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self._socket.recv(1)
            if not byte:
                raise ConnectionError(f"closed instead of an interim answer: {head!r}")
            head += byte
        status_line, _, lines = head.partition(b"\r\n")
        return Answer(int(status_line.split(b" ", 2)[1]), http.client.parse_headers(BytesIO(lines)), b"")

    def answer(self, method: str) -> Answer:
        """Read the answer to the request that was sent, and the interim ones before it."""
        early = []
        while self._socket.recv(len(b"HTTP/1.1 1"), socket.MSG_PEEK | socket.MSG_WAITALL).endswith(b" 1"):
            early.append(self.interim())
        response = http.client.HTTPResponse(self._socket, method=method)
        response.begin()
        return Answer(response.status, response.headers, response.read(), early)

    def reset(self) -> None:
        """Break the connection with a TCP reset; what the peer has not read yet is lost."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._socket.close()

    def close_in_the_middle(self) -> None:
        """End the sending side and close: the peer reads all that was sent, and then the end."""
        self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()
