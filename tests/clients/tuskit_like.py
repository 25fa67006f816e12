"""A client that behaves on the wire like TUSKit 3 (iOS).

It asks OPTIONS first, spells the header `TUS-Resumable`, sends 500 KiB per PATCH, and does not look at the status
of a PATCH: any answer with an `Upload-Offset` counts, the same offset as before is an error. After a lost
connection it asks HEAD and needs both `Upload-Offset` and `Upload-Length` from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.clients.raw_http import Answer, RawConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.clients.payload import Payload

CHUNK = 500 * 1024
TUS = {"TUS-Resumable": "1.0.0", "User-Agent": "Example/1 CFNetwork/1490 Darwin/23.2.0"}


class ProtocolError(Exception):
    """The answer is one that TUSKit gives up on."""


class TuskitLikeUpload:
    """One file on its way.

    Attributes:
        url: where the upload lives, from the 201.
        offset: what the gateway said last.
    """

    def __init__(self, endpoint: str, payload: Payload) -> None:
        self._payload = payload
        self.extensions = self._options(endpoint)
        self.url = self._create(endpoint)
        self.offset = 0

    def resume(self) -> None:
        """Learn from a HEAD where to go on."""
        answer = _exchange("HEAD", self.url)
        if not 200 <= answer.status < 300 or int(answer.headers["Upload-Length"]) != self._payload.size:
            raise ProtocolError(f"HEAD: {answer.status} {answer.headers.items()}")
        self.offset = answer.offset

    def send_all(self) -> None:
        """Send what is missing, chunk by chunk, over one connection as long as the gateway keeps it open."""
        while self.offset < self._payload.size:
            self._send_until_closed()

    def _send_until_closed(self) -> None:
        with RawConnection(self.url) as connection:
            while self.offset < self._payload.size:
                answer = self._send_chunk(connection)
                if answer.closes:
                    return

    def break_request(self, sent: int) -> None:
        """Begin the PATCH of the next chunk and lose the connection after `sent` bytes of it."""
        connection = RawConnection(self.url)
        self._send_head(connection)
        connection.send(self._chunk()[:sent])
        connection.reset()

    def send_chunk_at(self, offset: int) -> None:
        """Send a chunk from a wrong place, as after an answer that got lost, and believe the answer."""
        self.offset = offset
        with RawConnection(self.url) as connection:
            self._send_chunk(connection)

    def _send_chunk(self, connection: RawConnection) -> Answer:
        self._send_head(connection)
        connection.send(self._chunk())
        answer = connection.answer("PATCH")
        if answer.headers["Upload-Offset"] is None or answer.offset == self.offset:
            raise ProtocolError(f"PATCH at {self.offset}: {answer.status} {answer.headers['Upload-Offset']}")
        self.offset = answer.offset
        return answer

    def _send_head(self, connection: RawConnection) -> None:
        headers = {
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(self.offset),
            "Content-Length": str(len(self._chunk())),
        }
        connection.send_head("PATCH", self.url, TUS | headers)

    def _chunk(self) -> bytes:
        return self._payload.bytes(self.offset, self.offset + CHUNK)

    def _options(self, endpoint: str) -> list[str]:
        answer = _exchange("OPTIONS", endpoint)
        if answer.status not in (200, 204):
            raise ProtocolError(f"OPTIONS: {answer.status}")
        return str(answer.headers["Tus-Extension"]).split(",")

    def _create(self, endpoint: str) -> str:
        metadata = {"Upload-Metadata": "filename cGF5bG9hZC5iaW4=,filetype YXBwbGljYXRpb24vb2N0ZXQtc3RyZWFt"}
        answer = _exchange("POST", endpoint, {"Upload-Length": str(self._payload.size)} | metadata)
        if not 200 <= answer.status < 300 or answer.headers["Location"] is None:
            raise ProtocolError(f"POST: {answer.status}")
        return str(answer.headers["Location"])


def _exchange(method: str, url: str, headers: Mapping[str, str] | None = None) -> Answer:
    with RawConnection(url) as connection:
        connection.send_head(method, url, {**TUS, "Content-Length": "0", **(headers or {})})
        return connection.answer(method)
