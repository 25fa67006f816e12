"""A hook server of tusd, or one made like it: asked by HTTP POST, answers in JSON (see `tusd.py`).

Rule: a connection that fails, and a 5xx, are tried again while there is time; all else is an answer, or none for good.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.errors import HookFailed
from tusgate.sinks.posting import MOST_ANSWER, NO_ANSWER, Posting, Receiver, read_all, said
from tusgate.sinks.tusd import CONTENT_TYPE, answer_of, question_of

if TYPE_CHECKING:
    from tusgate.core.hooks import Answer, Question
    from tusgate.ports import Hook

log = structlog.get_logger(__name__)

_FIRST_ERROR_OF_SERVER: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpHookConfig:
    """One hook server.

    Attributes:
        name: of the hook.
        receiver: where it is, and how it knows us.
        forwarded: headers of the client's request that go on to it; also in the question, where credentials are
            left out otherwise.
        retries: tries after the first one.
        backoff: seconds between two tries.
    """

    name: str
    receiver: Receiver
    forwarded: tuple[str, ...] = field(default=())
    retries: int = 3
    backoff: float = 1.0


class _AgainError(HookFailed):
    """Another try may bring an answer."""


class HttpHook:
    """The port `Hook` on an HTTP client."""

    def __init__(self, config: HttpHookConfig) -> None:
        self._config = config
        self._forwarded = frozenset(name.lower() for name in config.forwarded)
        self._posting = Posting(config.receiver)

    @property
    def name(self) -> str:
        """See `ports.Hook.name`."""
        return self._config.name

    async def ask(self, question: Question) -> Answer:
        """See `ports.Hook.ask`."""
        body, message_id = question_of(question, self._forwarded), f"ask_{secrets.token_urlsafe(18)}"
        seen = () if question.request is None else question.request.headers
        more = [(name, value) for name, value in seen if name.lower() in self._forwarded]
        for _ in range(self._config.retries):
            try:
                return await self._ask_once(question, message_id, body, more)
            except _AgainError as error:
                log.debug("hook.failed", hook=self.name, error=str(error), retry_in=self._config.backoff)
            await asyncio.sleep(self._config.backoff)
        return await self._ask_once(question, message_id, body, more)

    async def _ask_once(self, question: Question, message_id: str, body: bytes, more: list[tuple[str, str]]) -> Answer:
        try:
            async with self._posting.posted(message_id, CONTENT_TYPE, body, more) as answer:
                if not 200 <= answer.status < 300:
                    answer.close()
                    kind = _AgainError if answer.status >= _FIRST_ERROR_OF_SERVER else HookFailed
                    raise kind(f"it answered {answer.status}")
                received = await read_all(answer)
        except NO_ANSWER as error:
            raise _AgainError(said(error)) from error
        if received is None:
            raise HookFailed(f"it answered with more than {MOST_ANSWER} bytes")
        said_so, ignored = answer_of(received, question.moment)
        if ignored:
            log.warning("hook.ignored", hook=self.name, moment=question.moment, members=ignored)
        return said_so

    async def close(self) -> None:
        """See `ports.Hook.close`."""
        await self._posting.close()


if TYPE_CHECKING:
    _: type[Hook] = HttpHook
