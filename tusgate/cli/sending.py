"""One HTTP request of a client, and errors that say whether trying again helps."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from yarl import URL

    Body = Callable[[int, int], AsyncIterator[bytes]]
    """Called with offset and size; yields the bytes, in order."""

STALL_TIMEOUT: Final = 60.0
"""Seconds without one byte accepted by the network after which a request is given up."""
ANSWER_TIMEOUT: Final = 300.0
"""Seconds to wait for an answer once all is sent: some servers put the object together before they answer."""


class TransferError(Exception):
    """The upload cannot go on; the text is for the user."""


class UploadGoneError(TransferError):
    """The server does not know this upload (any more)."""


class TransferInterruptedError(TransferError):
    """The request failed in a way that another one may not.

    Attributes:
        retry_after: seconds that the server asked to wait; 0 when it did not say.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@asynccontextmanager
async def requested(
    session: aiohttp.ClientSession,
    method: str,
    url: str | URL,
    headers: Mapping[str, str],
    body: AsyncIterator[bytes] | bytes | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send a request and give its answer, whatever its status.

    Raises:
        TransferInterruptedError: no answer has come, or not all of it.
        TransferError: `url` is none; or `body` has raised this.
    """
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT) as deadline:
            data = body if body is None or isinstance(body, bytes) else _watched(body, deadline)
            async with session.request(
                method, url, headers=headers, data=data, allow_redirects=False, skip_auto_headers=["Content-Type"]
            ) as answer:
                yield answer
    except TimeoutError as error:
        raise TransferInterruptedError("the server does not answer") from error
    except aiohttp.InvalidURL as error:
        raise TransferError(f"{url} is not a URL") from error
    except aiohttp.ClientError as error:
        if isinstance(error.__cause__, TransferError):  # raised by the body
            raise error.__cause__ from None
        raise TransferInterruptedError(str(error) or "the connection was closed") from error


async def _watched(body: AsyncIterator[bytes], deadline: asyncio.Timeout) -> AsyncIterator[bytes]:
    """Pass `body` on; each chunk that the network takes buys another `STALL_TIMEOUT`."""
    clock = asyncio.get_running_loop().time
    async for chunk in body:
        deadline.reschedule(clock() + STALL_TIMEOUT)
        yield chunk
    deadline.reschedule(clock() + ANSWER_TIMEOUT)


def retry_after(answer: aiohttp.ClientResponse) -> float:
    """Return the seconds that the server asks to wait; 0 when it does not say."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def status_line(answer: aiohttp.ClientResponse) -> str:
    """Return status and reason of an answer."""
    return f"{answer.status} {answer.reason or ''}".strip()
