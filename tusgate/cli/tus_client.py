"""The client side of tus 1.0.0: one method per request, and errors that say whether trying again helps.

Nothing in here knows tusgate: any tus server will do.
"""

from __future__ import annotations

import base64
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

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
    from collections.abc import AsyncIterator, Mapping

    import aiohttp

    from tusgate.cli.sending import Body

TUS_VERSION: Final = "1.0.0"
_GONE: Final = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_TRY_AGAIN: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.LOCKED,
    HTTPStatus.TOO_MANY_REQUESTS,
}
_REASON_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an upload has come, by the server's word; `length` is None while it is not known."""

    offset: int
    length: int | None


class TusClient:
    """Speaks tus to the server at `endpoint`, over a session that the caller owns.

    Every method raises TransferInterruptedError when another try may help, TransferError when it will not.
    Cancelling a method closes its connection; the server keeps what it has received.
    """

    def __init__(self, session: aiohttp.ClientSession, endpoint: str) -> None:
        self._session = session
        self._endpoint = endpoint

    async def create(self, length: int | None, metadata: Mapping[str, str]) -> str:
        """Create an upload of `length` bytes (None: told later) and return its URL."""
        headers = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        if metadata:
            headers["Upload-Metadata"] = encode_metadata(metadata)
        async with self._request("POST", self._endpoint, headers) as answer:
            location = answer.headers.get("Location")
            if answer.status != HTTPStatus.CREATED or location is None:
                raise TransferError(f"{self._endpoint} does not answer like a tus server (status {answer.status})")
            return str(URL(self._endpoint).join(URL(location)))

    async def standing(self, url: str) -> Standing:
        """Ask how far the upload at `url` has come. Raises UploadGoneError when it does not exist."""
        async with self._request("HEAD", url, {}) as answer:
            length = answer.headers.get("Upload-Length")
            return Standing(_offset_in(answer), int(length) if length is not None and length.isdigit() else None)

    async def append(self, url: str, offset: int, size: int, body: Body, length: int | None = None) -> int:
        """Send bytes `offset` to `offset + size` and return the offset that the server has now.

        Args:
            body: called with offset and size; yields the bytes, in order.
            length: the upload's whole length, if this request is to declare it.
        """
        headers = {
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(size),
            "Upload-Offset": str(offset),
        }
        if length is not None:
            headers["Upload-Length"] = str(length)
        async with self._request("PATCH", url, headers, body(offset, size)) as answer:
            reached = _offset_in(answer)
        if not offset <= reached <= offset + size:
            raise TransferError(f"the server says that it has {reached} bytes, it was sent {offset + size}")
        return reached

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: AsyncIterator[bytes] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        fields = {"Tus-Resumable": TUS_VERSION, **headers}
        async with requested(self._session, method, url, fields, body) as answer:
            await _check_status(answer)
            yield answer


async def _check_status(answer: aiohttp.ClientResponse) -> None:
    status = answer.status
    if HTTPStatus(200) <= status < HTTPStatus(300):
        return
    text = (await answer.content.read(_REASON_LENGTH)).decode("utf-8", "replace").strip()
    message = f"the server refused: {status_line(answer)}" + (f" ({text.splitlines()[0]})" if text else "")
    if status in _TRY_AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise TransferInterruptedError(message, retry_after(answer))
    if status in _GONE and answer.method != "POST":
        raise UploadGoneError(message)
    raise TransferError(message)


def _offset_in(answer: aiohttp.ClientResponse) -> int:
    text = answer.headers.get("Upload-Offset", "")
    if not (text.isascii() and text.isdigit()):
        raise TransferError(f"{answer.url} does not answer like a tus upload: no Upload-Offset")
    return int(text)


def encode_metadata(metadata: Mapping[str, str]) -> str:
    """Return the Upload-Metadata header: `key base64(value)` pairs, separated by commas."""
    return ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}" if value else key for key, value in metadata.items()
    )
