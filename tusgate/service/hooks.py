"""Asking hooks: which of them, for how long, and what their silence means.

Rule 1: hooks are asked one after the other, as they are listed; the first refusal ends it, and each sees the
metadata that those before it have set.
Rule 2: silence, an error and nonsense are one thing: no answer. Then the failure policy of the hook decides: an open
one is passed by, a closed one stops what was asked about, for now. Nothing is lost by that.
Rule 3: without a hook that wants to be asked nothing is read, made or waited for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from tusgate.core.errors import ClientGone, HookFailed, HookRefused, HookUnavailable, InvalidRequest
from tusgate.core.hooks import Moment, Reply
from tusgate.core.metadata import Metadata
from tusgate.core.model import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tusgate.core.hooks import Answer, Question, RequestSeen
    from tusgate.core.model import NewUpload, Upload
    from tusgate.ports import Hook

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Exchange:
    """One request: what hooks may know of it, and what they want to be answered.

    Attributes:
        seen: tells what hooks may know.
        is_abandoned: tells whether its client has left.
        reply: goes with the answer when the request succeeds.
        refusal: of the upload that the request has brought the last byte of.
    """

    seen: Callable[[], RequestSeen]
    is_abandoned: Callable[[], bool]
    reply: Reply | None = None
    refusal: HookRefused | None = None

    def add(self, reply: Reply) -> None:
        """Note what a hook wants to be told in a success."""
        self.reply = reply if self.reply is None else self.reply.followed_by(reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A hook, and how it is asked.

    Attributes:
        moments: when.
        tenants: about whose uploads; empty: everybody's.
        timeout: seconds for its answer, all its tries together.
        is_open: whether what it does not answer happens all the same.
    """

    hook: Hook
    moments: frozenset[Moment]
    tenants: frozenset[str] = frozenset()
    timeout: float = 15.0
    is_open: bool = False


class Hooks:
    """All hooks of a gateway.

    Args:
        asked: in this order.
        max_metadata: most bytes that the metadata of an upload may have, as a header.
    """

    def __init__(self, asked: Sequence[Asked] = (), max_metadata: int = 16 * 1024) -> None:
        self._asked = tuple(asked)
        self._max_metadata = max_metadata

    def want(self, moment: Moment, tenant: str) -> bool:
        """Return whether anybody is to be asked."""
        return bool(self._asked) and bool(self._for(moment, tenant))

    def want_to_know_end(self, upload: Upload | NewUpload) -> bool:
        """Return whether anybody is to be asked before `upload` is published: what files are made of never is."""
        return upload.role not in {Role.PARTIAL, Role.GROUP} and self.want(Moment.FINISH, upload.scope.tenant)

    async def ask(self, question: Question, exchange: Exchange | None = None) -> Metadata | None:
        """Ask everybody who wants to be asked; return the metadata that they want the upload to have, if they do.

        What they want to be answered is added to `exchange`.

        Raises:
            HookRefused: one of them is against it.
            HookUnavailable: one that has to be asked has not answered.
        """
        changed: Metadata | None = None
        if exchange is not None:
            question = replace(question, request=exchange.seen())
        for asked in self._for(question.moment, question.upload.scope.tenant):
            answer = await self._answer_of(asked, question)
            if answer is None:
                continue
            reply = answer.reply or Reply()
            if answer.refused:
                log.info("hook.refused", hook=asked.hook.name, moment=question.moment, upload_id=question.upload.id)
                raise HookRefused(asked.hook.name, reply.of_refusal())
            if exchange is not None and answer.reply is not None:
                exchange.add(reply.of_consent())
            if answer.metadata is not None and question.moment is Moment.CREATE:
                changed = Metadata.written(answer.metadata)
                question = replace(question, upload=_said_of(question.upload, changed))
        return changed

    async def close(self) -> None:
        """Release what the hooks hold."""
        for asked in self._asked:
            await asked.hook.close()

    def _for(self, moment: Moment, tenant: str) -> list[Asked]:
        return [
            asked for asked in self._asked if moment in asked.moments and (not asked.tenants or tenant in asked.tenants)
        ]

    async def _answer_of(self, asked: Asked, question: Question) -> Answer | None:
        """Return the answer of one hook, None for none that nobody needs. Raises HookUnavailable."""
        try:
            async with asyncio.timeout(asked.timeout):
                answer = await asked.hook.ask(question)
            self._check(answer)
        except TimeoutError:
            reason = f"no answer within {asked.timeout:g} s"
        except HookFailed as error:
            reason = str(error)
        except Exception as error:  # a bug of a plug-in is no answer either
            log.exception("hook.crashed", hook=asked.hook.name, moment=question.moment)
            reason = type(error).__name__
        else:
            return answer
        told = {"hook": asked.hook.name, "moment": question.moment, "upload_id": question.upload.id, "error": reason}
        log.error("hook.failed", **told, passed_by=asked.is_open)
        if asked.is_open:
            return None
        raise HookUnavailable(f"the hook {asked.hook.name} does not answer")

    def _check(self, answer: Answer) -> None:
        """Raise HookFailed for metadata that no upload can have."""
        if answer.metadata is None:
            return
        try:
            raw = Metadata.written(answer.metadata).raw or b""
        except InvalidRequest as error:
            raise HookFailed(f"it answered with metadata that is none: {error}") from error
        if len(raw) > self._max_metadata:
            raise HookFailed(f"it answered with metadata of more than {self._max_metadata} bytes")


def _said_of(upload: Upload | NewUpload, metadata: Metadata) -> Upload | NewUpload:
    return replace(upload, metadata=metadata.raw, filename=metadata.filename, content_type=metadata.content_type)


def check_refusal(exchange: Exchange | None) -> None:
    """Raise HookRefused when the upload that the request has ended was refused while it waited."""
    if exchange is not None and exchange.refusal is not None:
        raise exchange.refusal


def check_waited_for(exchange: Exchange | None) -> None:
    """Raise ClientGone when nobody waits for the answer any more."""
    if exchange is not None and exchange.is_abandoned():
        raise ClientGone
