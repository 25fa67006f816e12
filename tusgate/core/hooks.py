"""Whoever is asked before something happens to an upload, and may refuse it: what is asked, and what may be answered.

Rule 1: a hook is asked before the fact, so its yes is no promise: what comes after may still fail.
Rule 2: it may be asked twice about one fact, when a process dies in between or an answer is lost. It is asked about
every fact at least once, unless its failure policy lets what it cannot answer pass.
Rule 3: whatever a hook says about the answer to the client, that stays a legal answer of the protocol: see `Reply`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusgate.core.model import NewUpload, Upload, UploadId

DEFAULT_REFUSAL: Final = 400
"""Status of a refusal that names none, or none that says so; tusd's."""
REFUSALS: Final = range(400, 600)
ACCEPTANCES: Final = frozenset({200, 201, 202, 203, 204})
_BODILESS: Final = frozenset({204})
_NAMED: Final = frozenset(
    {"cache-control", "content-language", "content-type", "link", "retry-after", "www-authenticate"}
)
_OURS: Final = frozenset({"x-content-type-options", "x-http-method-override", "x-request-id"})
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", re.ASCII)
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,4096}")


class Moment(StrEnum):
    """When a hook is asked. Names are public.

    CREATE: before anything of a new upload is stored, finals and partials of tus concatenation included.
    FINISH: all bytes of a file are committed, and it is not published yet. Partials are no files.
    TERMINATE: a client wants to end an upload, or to delete a file.
    """

    CREATE = "create"
    FINISH = "finish"
    TERMINATE = "terminate"


@dataclass(frozen=True, slots=True)
class RequestSeen:
    """The HTTP request that a question is about.

    Attributes:
        method: as sent.
        uri: path and query, as sent.
        peer: address and port of whoever is connected, which may be a proxy.
        headers: all of them, credentials too: an adapter passes on what its operator has listed.
    """

    method: str
    uri: str
    peer: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May this happen?

    Attributes:
        upload: as it would be made, or as committed. A new one has an id that nobody knows yet.
        partials: what a final is made of, in order.
        request: None where no request is behind it: when another process goes on with what one has left.
    """

    moment: Moment
    upload: Upload | NewUpload
    partials: tuple[UploadId, ...] = ()
    request: RequestSeen | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a hook wants the client to be told beside, or instead of, what the protocol says.

    Attributes:
        status: None: that of the protocol.
        body: text; None: that of the protocol.
        headers: by name.
    """

    status: int | None = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def of_refusal(self) -> Reply:
        """Return what of it may be told with a refusal: a status of 4xx or 5xx, and allowed headers."""
        status = self.status if self.status in REFUSALS else DEFAULT_REFUSAL
        return Reply(status, _encodable(self.body), _allowed(self.headers))

    def of_consent(self) -> Reply:
        """Return what of it may be told with a success: a status of 2xx, and allowed headers."""
        status = self.status if self.status in ACCEPTANCES else None
        body = None if status in _BODILESS else self.body
        return Reply(status, _encodable(body), _allowed(self.headers))

    def followed_by(self, later: Reply | None) -> Reply:
        """Return both; `later` has the last word."""
        if later is None:
            return self
        body = self.body if later.body is None else later.body
        return Reply(later.status or self.status, body, {**self.headers, **later.headers})


def _encodable(body: str | None) -> str | None:
    """Return a text without halves of characters, which JSON can say and no encoding."""
    return None if body is None else body.encode("utf-8", "replace").decode()


def _allowed(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that describe the body or are the hook's own; those of the protocols and of HTTP are not."""
    return {
        name: value
        for name, value in headers.items()
        if _NAME.fullmatch(name) and _is_allowed(name.lower()) and _VALUE.fullmatch(value)
    }


def _is_allowed(name: str) -> bool:
    return name in _NAMED or (name.startswith("x-") and name not in _OURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a hook says.

    Attributes:
        refused: it must not happen.
        metadata: what the new upload is to have in place of what the client said; None: that. At CREATE only.
        reply: for the client.
    """

    refused: bool = False
    metadata: Mapping[str, str] | None = None
    reply: Reply | None = None
