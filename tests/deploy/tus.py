"""tus by hand: one connection per request, written to as the test wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.clients.raw_http import RawConnection

if TYPE_CHECKING:
    from tests.clients.raw_http import Answer

TUS = {"Tus-Resumable": "1.0.0"}
APPEND = {**TUS, "Content-Type": "application/offset+octet-stream"}


def create(endpoint: str, length: int, **headers: str) -> str:
    """Create an upload and return its URL."""
    with RawConnection(endpoint) as connection:
        connection.send_head("POST", endpoint, {**TUS, "Upload-Length": str(length), **headers})
        answer = connection.answer("POST")
    assert answer.status == 201
    location: str = answer.headers["Location"]
    return location


def append(url: str, offset: int, data: bytes) -> Answer:
    """Send `data` in one request."""
    with RawConnection(url) as connection:
        begin(connection, url, offset, len(data))
        connection.send(data)
        return connection.answer("PATCH")


def begin(connection: RawConnection, url: str, offset: int, size: int) -> None:
    """Send the head of a request that announces `size` bytes."""
    headers = {**APPEND, "Upload-Offset": str(offset), "Content-Length": str(size)}
    connection.send_head("PATCH", url, headers)
