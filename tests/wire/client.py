"""HTTP/1.1 written by hand, so that a test says exactly what goes over the wire and sees exactly what comes back."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multidict import CIMultiDict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    Fields = Mapping[str, str] | Iterable[tuple[str, str]]

V = {"Tus-Resumable": "1.0.0"}
CT = {"Content-Type": "application/offset+octet-stream"}


@dataclass
class Answer:
    """One answer.

    Attributes:
        interim: statuses of the 1xx answers that came before.
        early: those answers themselves.
    """

    status: int
    reason: str
    headers: CIMultiDict[str]
    body: bytes = b""
    early: list[Answer] = field(default_factory=list)

    @property
    def interim(self) -> list[int]:
        return [answer.status for answer in self.early]

    @property
    def offset(self) -> int:
        return int(self.headers["Upload-Offset"])

    @property
    def upload_path(self) -> str:
        return "/" + self.headers["Location"].split("/", 3)[3]


class Connection:
    """One open connection."""

    def __init__(self, down: asyncio.StreamReader, up: asyncio.StreamWriter) -> None:
        self._down = down
        self.up = up

    def send_head(self, method: str, path: str, fields: Fields, version: str = "HTTP/1.1") -> None:
        items = list(fields.items() if hasattr(fields, "items") else fields)
        if not any(name.lower() == "host" for name, _ in items):
            items.insert(0, ("Host", "gateway.test"))
        lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in items), "", ""]
        self.up.write("\r\n".join(lines).encode("utf-8", "surrogateescape"))

    def send_chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body; an empty one ends it."""
        self.up.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def answer(self, *, to_head: bool = False) -> Answer:
        """Read one answer. ConnectionError when the server closed without one."""
        early: list[Answer] = []
        while 100 <= (answer := await self._read_head()).status < 200:
            early.append(answer)
        answer.early = early
        if not to_head and answer.status not in (204, 304):
            answer.body = await self._down.readexactly(int(answer.headers["Content-Length"]))
        return answer

    async def interim(self) -> Answer:
        """Read one interim answer."""
        answer = await self._read_head()
        assert 100 <= answer.status < 200, answer
        return answer

    async def _read_head(self) -> Answer:
        try:
            head = (await self._down.readuntil(b"\r\n\r\n")).decode("utf-8", "surrogateescape")
        except asyncio.IncompleteReadError as error:
            raise ConnectionError(f"closed without an answer, after {error.partial!r}") from error
        status_line, *lines = head[:-4].split("\r\n")
        _, status, reason = status_line.split(" ", 2)
        headers: CIMultiDict[str] = CIMultiDict()
        for line in lines:
            name, _, value = line.partition(":")
            headers.add(name, value.strip())
        return Answer(int(status), reason, headers)

    async def some(self, size: int) -> bytes:
        """Return the next `size` bytes, whatever they are."""
        return await self._down.readexactly(size)

    async def more(self) -> bytes:
        """Return what has come, b"" once the server has closed."""
        return await self._down.read(64 * 1024)

    async def rest(self) -> bytes:
        """Return what still comes until the server closes."""
        return await self._down.read()


class Client:
    """Sends requests to one server and holds every answer against the rules that all answers keep."""

    def __init__(self, port: int) -> None:
        self.port = port

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        down, up = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Connection(down, up)
        finally:
            up.close()

    async def request(
        self,
        method: str,
        path: str,
        fields: Fields = (),
        body: bytes | None = None,
        *,
        chunked: bool = False,
        version: str = "HTTP/1.1",
    ) -> Answer:
        """Send one request on a connection of its own and return the answer."""
        items = list(fields.items() if hasattr(fields, "items") else fields)
        if chunked:
            items.append(("Transfer-Encoding", "chunked"))
        elif body is not None:
            items.append(("Content-Length", str(len(body))))
        async with self.connect() as connection:
            connection.send_head(method, path, items, version)
            if chunked:
                if body:
                    connection.send_chunk(body)
                connection.send_chunk(b"")
            elif body:
                connection.up.write(body)
            answer = await connection.answer(to_head=method == "HEAD")
            check(method, path, answer)
        return answer

    async def post(self, fields: Fields = (), body: bytes | None = None, *, chunked: bool = False) -> Answer:
        """POST to the creation URL with Tus-Resumable."""
        return await self.request("POST", "/files", with_version(fields), body, chunked=chunked)

    async def create(self, length: int | None, **more: str) -> str:
        """Create an upload; return its path."""
        declared = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        answer = await self.post(declared | {name.replace("_", "-"): value for name, value in more.items()})
        assert answer.status == 201, answer
        return answer.upload_path

    async def head(self, path: str) -> Answer:
        return await self.request("HEAD", path, V)

    async def offset(self, path: str) -> int:
        """Return the offset that HEAD shows."""
        return (await self.head(path)).offset

    async def patch(
        self, path: str, offset: int, body: bytes = b"", more: Fields = (), *, chunked: bool = False
    ) -> Answer:
        """PATCH with all that a valid one needs, and `more`."""
        fields = [*V.items(), *CT.items(), ("Upload-Offset", str(offset)), *dict(more).items()]
        return await self.request("PATCH", path, fields, body, chunked=chunked)

    async def delete(self, path: str) -> Answer:
        return await self.request("DELETE", path, V)


def with_version(fields: Fields) -> list[tuple[str, str]]:
    items = list(fields.items() if hasattr(fields, "items") else fields)
    return [*V.items(), *items]


def check(method: str, path: str, answer: Answer) -> None:
    """Assert what holds for every answer (Z-01, Z-03, Z-05)."""
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if (path == "/files" or path.startswith("/files/")) and answer.status != 505:
        assert answer.headers.getall("Tus-Resumable") == ["1.0.0"]
    if answer.status >= 400:
        assert "Location" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"
        if answer.status not in (409, 503):
            assert "Upload-Offset" not in answer.headers
        if path.startswith("/s/") and answer.headers.get("Content-Type", "").startswith("text/html"):
            return  # a page for whoever was given a link
        is_problem = path.startswith("/api/") or (path.startswith("/s/") and answer.status in (412, 416))
        if method != "HEAD" and answer.body and is_problem:
            details = json.loads(answer.body)
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert details["status"] == answer.status
            assert {"type", "title", "detail", "code"} <= set(details)
        elif method != "HEAD" and answer.body:
            code, _, message = answer.body.decode().partition(": ")
            assert code.replace("_", "").isalpha()
            assert message.endswith("\n")
            assert message.count("\n") == 1
