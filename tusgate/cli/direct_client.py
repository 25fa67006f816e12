"""The client side of direct uploads: one method per request, to the gateway's API or to the object store.

The answers are read leniently: a newer gateway may tell more.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from yarl import URL

from tusgate.cli.sending import (
    TransferError,
    TransferInterruptedError,
    UploadGoneError,
    requested,
    retry_after,
    status_line,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import aiohttp

_LENIENT: Final = ConfigDict(extra="ignore")
_JSON: Final = {"Content-Type": "application/json"}
_GONE: Final = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_FINE: Final = {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED}
_TRY_AGAIN: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.LOCKED,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_REASON_LENGTH: Final = 200

T = TypeVar("T", bound=BaseModel)


class Links(BaseModel):
    """Where the parts of the API of one upload are."""

    model_config = _LENIENT
    self: str
    file: str
    parts: str
    urls: str
    complete: str
    plan: str | None = None


class Shown(BaseModel):
    """An upload as the gateway shows it."""

    model_config = _LENIENT
    state: str
    reason: str | None
    size: int | None
    part_size: int | None = None
    links: Links


class PartUrl(BaseModel):
    """How one part is sent."""

    model_config = _LENIENT
    number: int
    start: int
    size: int
    url: str
    headers: dict[str, str]


class UrlPage(BaseModel):
    """URLs of parts that are missing, and where the next page begins."""

    model_config = _LENIENT
    urls: list[PartUrl]
    next_after: int | None


class _WrongPart(BaseModel):
    model_config = _LENIENT
    wrong: str


class PartStanding(BaseModel):
    """One part as the store has it; `etag` is None when it has not."""

    model_config = _LENIENT
    number: int
    size: int
    etag: str | None
    wrong: list[_WrongPart]

    @property
    def is_there(self) -> bool:
        """Whether it need not be sent."""
        return self.etag is not None and not self.wrong


class _PartsPage(BaseModel):
    model_config = _LENIENT
    parts: list[PartStanding]
    next_after: int | None


class Begun(BaseModel):
    """An upload that waits for parts, and how many more the gateway can have by itself, if it is asked again."""

    model_config = _LENIENT
    upload: Shown
    copies_left: int = 0


class Range(BaseModel):
    """Bytes of a file."""

    model_config = _LENIENT
    start: int
    size: int


class Challenge(BaseModel):
    """What proves that somebody has a file."""

    model_config = _LENIENT
    challenge: str
    nonce: str
    ranges: list[Range]


class _FileLinks(BaseModel):
    model_config = _LENIENT
    self: str


class _File(BaseModel):
    model_config = _LENIENT
    links: _FileLinks


class _RefusedPart(BaseModel):
    model_config = _LENIENT
    number: int


class _Problem(BaseModel):
    model_config = _LENIENT
    code: str = ""
    detail: str = ""
    parts: list[_RefusedPart] = []


class PartsRefusedError(TransferError):
    """The store has other parts than planned.

    Attributes:
        numbers: of the parts that have to be sent again.
    """

    def __init__(self, message: str, numbers: Sequence[int]) -> None:
        super().__init__(message)
        self.numbers = list(numbers)


class DirectClient:
    """Speaks to the gateway, and to the store by the URLs that the gateway makes, over sessions that the caller owns.

    Args:
        gateway: with the credentials of the user in its headers.
        store: without them: nothing of the user's goes to another host.
        endpoint: address of `/api/v1/uploads`.

    Every method raises TransferInterruptedError when another try may help, TransferError when it will not,
    UploadGoneError when there is no such upload (any more).
    """

    def __init__(self, gateway: aiohttp.ClientSession, store: aiohttp.ClientSession, endpoint: str) -> None:
        self._gateway = gateway
        self._store = store
        self._endpoint = endpoint

    async def begin(self, wanted: Mapping[str, object]) -> Begun:
        """Make an upload, or find the one that an earlier request with the same fingerprint has made."""
        return await self._ask(Begun, "POST", self._endpoint, wanted)

    async def replan(self, url: str, wanted: Mapping[str, object]) -> Begun:
        """Let an unfinished upload be of the file as it is now."""
        return await self._ask(Begun, "PUT", url, wanted)

    async def look(self, url: str) -> Shown:
        """Return the upload as it is now."""
        return await self._ask(Shown, "GET", url)

    async def parts(self, url: str) -> list[PartStanding]:
        """Return how all parts stand in the store."""
        found: list[PartStanding] = []
        after: int | None = 0
        while after is not None:
            page = await self._ask(_PartsPage, "GET", f"{url}?after={after}")
            found += page.parts
            after = page.next_after
        return found

    async def missing(self, url: str, after: int, limit: int) -> UrlPage:
        """Return URLs for the next `limit` parts above number `after` that the store does not have."""
        return await self._ask(UrlPage, "POST", url, {"after": after, "limit": limit})

    async def sign(self, url: str, numbers: Sequence[int]) -> UrlPage:
        """Return URLs for these parts, whether the store has them or not."""
        return await self._ask(UrlPage, "POST", url, {"parts": list(numbers)})

    async def complete(self, url: str, etags: Mapping[int, str]) -> Shown:
        """Say that all parts are there, and what the store has called them. Raises PartsRefusedError."""
        parts = [{"number": number, "etag": etag} for number, etag in sorted(etags.items())]
        return await self._ask(Shown, "POST", url, {"parts": parts})

    async def put(self, part: PartUrl, body: AsyncIterator[bytes]) -> str:
        """Send one part to the store and return its ETag."""
        headers = {**part.headers, "Content-Length": str(part.size)}
        async with requested(self._store, "PUT", URL(part.url, encoded=True), headers, body) as answer:
            if answer.status != HTTPStatus.OK:
                # Also what looks final: a URL may have expired, and the gateway knows whether the upload is gone.
                message = f"the store refused part {part.number}: {status_line(answer)}"
                raise TransferInterruptedError(message, retry_after(answer))
            etag = answer.headers.get("ETag")
            if not etag:
                raise TransferInterruptedError(f"the store has not said that it has part {part.number}")
            return etag

    async def challenge(self, sha256: str, size: int) -> Challenge:
        """Return what would prove that one has this file."""
        return await self._ask(
            Challenge, "POST", f"{self._endpoint}/instant/challenge", {"sha256": sha256, "size": size}
        )

    async def prove(self, proof: Mapping[str, object]) -> str:
        """Make a file without sending it, or find the one that was made with this challenge; return its URL."""
        return (await self._ask(_File, "POST", f"{self._endpoint}/instant", proof)).links.self

    async def _ask(self, kind: type[T], method: str, url: str, question: Mapping[str, object] | None = None) -> T:
        body = None if question is None else json.dumps(question).encode()
        async with requested(self._gateway, method, url, {} if body is None else _JSON, body) as answer:
            text = await answer.read()
            if answer.status not in _FINE:
                raise _refusal(answer, text)
        try:
            return kind.model_validate_json(text)
        except ValidationError:
            raise TransferError(f"{url} does not answer like direct uploads of tusgate") from None


def _refusal(answer: aiohttp.ClientResponse, text: bytes) -> TransferError | TransferInterruptedError:
    """Return the error that a refusal of the gateway is."""
    try:
        problem = _Problem.model_validate_json(text)
    except ValidationError:
        problem = _Problem()
    told = f" ({problem.detail[:_REASON_LENGTH]})" if problem.detail else ""
    message = f"the server refused: {status_line(answer)}{told}"
    if problem.code == "parts_refused":
        return PartsRefusedError(message, [part.number for part in problem.parts])
    if answer.status in _TRY_AGAIN:
        return TransferInterruptedError(message, retry_after(answer))
    is_known = answer.method != "POST"  # a 404 to a creation is about the server
    return UploadGoneError(message) if is_known and answer.status in _GONE else TransferError(message)
