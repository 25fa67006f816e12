"""RUFH by hand, in each of its dialects: what a client of that draft writes, and what it may expect back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.wire.client import Answer, Client, Fields

VERSIONS = (3, 5, 6, 8, 9, None)
"""Interop versions; None is the final form, which names none."""
IDENTIFIED = (3, 5, 6, 8, 9)
PROBLEMS = "https://iana.org/assignments/http-problem-types#"


class Draft:
    """The header fields of one dialect."""

    def __init__(self, version: int | None) -> None:
        self.version = version
        self.identification = {} if version is None else {"Upload-Draft-Interop-Version": str(version)}
        self.is_old = version is not None and version <= 6

    def flag(self, ends: bool) -> dict[str, str]:
        if self.version == 3:
            return {} if ends else {"Upload-Incomplete": "?1"}
        return {"Upload-Complete": "?1" if ends else "?0"}

    def creation(self, *, ends: bool, length: int | None = None) -> dict[str, str]:
        stated = {} if length is None else {"Upload-Length": str(length)}
        return self.identification | self.flag(ends) | stated

    def append(self, offset: int, *, ends: bool) -> dict[str, str]:
        typed = {} if self.version in (3, 5) else {"Content-Type": "application/partial-upload"}
        return self.identification | self.flag(ends) | typed | {"Upload-Offset": str(offset)}

    def says_complete(self, answer: Answer) -> bool:
        """Return the flag of an answer, which must be there."""
        name, yes = ("Upload-Incomplete", "?0") if self.version == 3 else ("Upload-Complete", "?1")
        (value,) = answer.headers.getall(name)
        assert value in ("?0", "?1")
        return value == yes


class RufhClient:
    """Sends whole requests and holds every answer against the rules that all answers keep."""

    def __init__(self, client: Client, version: int | None) -> None:
        self.http = client
        self.draft = Draft(version)

    async def request(
        self,
        method: str,
        path: str,
        fields: Fields = (),
        body: bytes | None = None,
        *,
        chunked: bool = False,
    ) -> Answer:
        items = list(fields.items() if hasattr(fields, "items") else fields)
        if chunked:
            items.append(("Transfer-Encoding", "chunked"))
        elif body is not None:
            items.append(("Content-Length", str(len(body))))
        async with self.http.connect() as connection:
            connection.send_head(method, path, items)
            if chunked:
                if body:
                    connection.send_chunk(body)
                connection.send_chunk(b"")
            elif body:
                connection.up.write(body)
            answer = await connection.answer(to_head=method == "HEAD")
        self.check(answer)
        return answer

    def check(self, answer: Answer) -> None:
        """Assert what holds for every answer (R-VER-02, R-VER-03, SH-05)."""
        version = self.draft.identification.get("Upload-Draft-Interop-Version")
        for each in (*answer.early, answer):
            if each.status != 100:
                assert each.headers.get("Upload-Draft-Interop-Version") == version
            assert "Tus-Resumable" not in each.headers
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.status not in (301, 302, 303)
        if version is None:
            assert 104 not in answer.interim
        if answer.status >= 400:
            assert "Location" not in answer.headers
            assert answer.headers["Cache-Control"] == "no-store"
            if answer.body:
                assert problem(answer)["status"] == answer.status

    async def create(
        self, body: bytes | None = None, *, ends: bool = False, length: int | None = None, **more: str
    ) -> Answer:
        fields = self.draft.creation(ends=ends, length=length)
        return await self.request("POST", "/files", fields | named(more), body)

    async def begin(self, length: int | None = None) -> str:
        """Create an upload without bytes; return its path."""
        answer = await self.create(length=length)
        assert answer.status == 201
        return answer.upload_path

    async def append(
        self, path: str, offset: int, body: bytes = b"", *, ends: bool = False, chunked: bool = False, **more: str
    ) -> Answer:
        fields = self.draft.append(offset, ends=ends) | named(more)
        return await self.request("PATCH", path, fields, body, chunked=chunked)

    async def head(self, path: str, method: str = "HEAD") -> Answer:
        return await self.request(method, path, self.draft.identification)

    async def delete(self, path: str) -> Answer:
        return await self.request("DELETE", path, self.draft.identification)


def named(more: dict[str, str]) -> dict[str, str]:
    """Return keyword arguments as header fields."""
    return {name.replace("_", "-"): value for name, value in more.items()}


def problem(answer: Answer) -> dict[str, object]:
    """Return the problem details of an answer."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    details: dict[str, object] = json.loads(answer.body)
    assert {"type", "title", "status", "detail", "code"} <= details.keys()
    return details


def limits(answer: Answer) -> dict[str, int]:
    """Return the members of Upload-Limit."""
    return {
        name: int(value)
        for name, _, value in (member.partition("=") for member in answer.headers["Upload-Limit"].split(", "))
    }
