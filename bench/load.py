"""A tus client that costs little: raw sockets, one thread per connection, one shared buffer. Prints one JSON line.

`python -m bench.load PORT PATH CONNECTIONS SIZE UPLOADS`: each upload is a POST and one PATCH, as tus-js-client does.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass, field

BLOCK = memoryview(bytes(range(256)) * 4096)
"""1 MiB, sent again and again."""


@dataclass
class Work:
    """What all connections share: the uploads still to be made, and how those made went."""

    port: int
    path: str
    size: int
    uploads: int
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()

    def run(self) -> None:
        """Make uploads on one connection until there are none left."""
        connection = Connection(self.port)
        while next(self._numbers) < self.uploads:
            begin = time.perf_counter()
            try:
                connection.upload(self.path, self.size)
            except (OSError, AssertionError) as error:
                self.failures.append(str(error))
                connection = Connection(self.port)
            else:
                self.seconds.append(time.perf_counter() - begin)


class Connection:
    """One keep-alive connection to a tus server on this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def upload(self, path: str, size: int) -> None:
        """Create an upload and send all its bytes. Raises AssertionError for any other answer than success."""
        done = self.ask("PATCH", self.create(path, size), patch_fields(0, size), size)
        assert done.startswith("HTTP/1.1 204"), done
        assert re.search(rf"\r\nupload-offset: *{size}\r", done, re.IGNORECASE), done

    def create(self, path: str, size: int, more: str = "") -> str:
        """Create an upload, with the header lines `more`; return its path."""
        created = self.ask("POST", path, f"{more}Upload-Length: {size}\r\nContent-Length: 0", 0)
        assert created.startswith("HTTP/1.1 201"), created
        location = re.search(r"\r\nlocation: *(?:https?://[^/]+)?([^\r]+)", created, re.IGNORECASE)
        assert location is not None, created
        return location[1]

    def send_head(self, method: str, path: str, fields: str) -> None:
        """Send the head of a request."""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nTus-Resumable: 1.0.0\r\n{fields}\r\n\r\n"
        self.socket.sendall(head.encode())

    def ask(self, method: str, path: str, fields: str, size: int) -> str:
        """Send a request with `size` bytes of body; return the head of its answer."""
        self.send_head(method, path, fields)
        while size:
            sent = min(size, len(BLOCK))
            self.socket.sendall(BLOCK[:sent])
            size -= sent
        return self._answer()

    def _answer(self) -> str:
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = self.socket.recv(65536)
            assert more, f"connection closed after {answer!r}"
            answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        missing = int(length[1]) - len(body) if length else 0
        while missing > 0:
            missing -= len(self.socket.recv(65536))
        return (head + b"\r\n").decode("latin-1")


def patch_fields(offset: int, size: int) -> str:
    """Return the header fields of a PATCH."""
    return f"Upload-Offset: {offset}\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: {size}"


def main() -> None:
    """Run the load that the command line asks for."""
    port, path, connections, size, uploads = sys.argv[1:]
    work = Work(int(port), path, int(size), int(uploads))
    threads = [threading.Thread(target=work.run) for _ in range(int(connections))]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begin
    print(json.dumps({"seconds": took, "done": len(work.seconds), "failures": work.failures[:3]}))


if __name__ == "__main__":
    main()
