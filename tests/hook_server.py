"""A hook server of tusd on a real socket, which answers as a test wants it to."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.receiver import Received, Receiver, receiving, status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.receiver import Behaviour

NO_OBJECTION: dict[str, Any] = {}


def said(answer: object) -> bytes:
    """Return an HTTP answer whose body is the JSON of `answer`; bytes are the body."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class HookServer:
    """What arrived, and what is answered.

    Attributes:
        answers: by type of question: JSON, bytes for what is no such thing, or a behaviour. Others have no objection.
        held: questions of these types wait until `go_on` is set.
    """

    receiver: Receiver
    answers: dict[str, Any] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def asked(self) -> list[str]:
        """Types of all questions so far."""
        return [question["Type"] for question in self.questions]

    @property
    def questions(self) -> list[dict[str, Any]]:
        return [json.loads(request.body) for request in self.receiver.received]

    def event(self, kind: str) -> dict[str, Any]:
        """Return the event of the last question of a type."""
        events: list[dict[str, Any]] = [each["Event"] for each in self.questions if each["Type"] == kind]
        return events[-1]

    async def answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        kind = json.loads(request.body)["Type"]
        if kind in self.held:
            await self.go_on.wait()
        answer: Behaviour | object = self.answers.get(kind, NO_OBJECTION)
        if callable(answer):
            await answer(request, writer)
            return
        writer.write(status(answer) if isinstance(answer, int) else said(answer))
        await writer.drain()


@asynccontextmanager
async def hook_server() -> AsyncIterator[HookServer]:
    """Give a hook server that has no objections."""
    async with receiving() as receiver:
        server = HookServer(receiver)
        receiver.answers = [server.answer]
        yield server
        server.go_on.set()
