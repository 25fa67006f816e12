"""A client that behaves on the wire like tus-java-client (and so tus-android-client).

Every PATCH is chunked without a Content-Length, waits for `100 Continue`, carries at most 10 MiB in 2 MiB chunks,
and the answer must show exactly the offset that was sent. The end of the file is noticed only by reading on: an
upload whose size is a multiple of 10 MiB ends with an empty chunked PATCH.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.clients.raw_http import RawConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.payload import Payload

REQUEST_PAYLOAD = 10 * 1024 * 1024
CHUNK = 2 * 1024 * 1024
TRIES = 5
TUS = {"Tus-Resumable": "1.0.0", "User-Agent": "Java/17.0.9", "Connection": "keep-alive"}
PATCH = {
    **TUS,
    "Content-Type": "application/offset+octet-stream",
    "Expect": "100-continue",
    "Transfer-Encoding": "chunked",
}


class ProtocolError(Exception):
    """The answer is one that tus-java-client does not go on from."""


class RefusedError(ProtocolError):
    """409: the upload is at another offset."""


class JavaLikeUpload:
    """One file on its way.

    Attributes:
        url: where the upload lives, from the 201.
        offset: what the gateway acknowledged.
    """

    def __init__(self, endpoint: str, payload: Payload) -> None:
        self._payload = payload
        self.url = self._create(endpoint)
        self.offset = 0

    def _create(self, endpoint: str) -> str:
        with RawConnection(endpoint) as connection:
            headers = {
                "Upload-Length": str(self._payload.size),
                "Upload-Metadata": "filename cGF5bG9hZC5iaW4=",
                "Content-Length": "0",
            }
            connection.send_head("POST", endpoint, TUS | headers)
            answer = connection.answer("POST")
        if not 200 <= answer.status < 300 or answer.headers["Location"] is None:
            raise ProtocolError(f"POST: {answer.status}")
        return str(answer.headers["Location"])

    def resume(self) -> None:
        """Learn from a HEAD where to go on."""
        with RawConnection(self.url) as connection:
            connection.send_head("HEAD", self.url, TUS)
            answer = connection.answer("HEAD")
        if not 200 <= answer.status < 300:
            raise ProtocolError(f"HEAD: {answer.status}")
        self.offset = answer.offset

    def finish(self) -> None:
        """Resume and send all, as an application does that lets its user try again after a failure.

        What a broken request had sent may be committed after the HEAD; then the PATCH is refused with 409.
        """
        for _ in range(TRIES):
            with suppress(RefusedError):
                self.resume()
                self.send_all()
                return
        raise ProtocolError(f"refused {TRIES} times")

    def send_all(self) -> None:
        """Send what is missing, in as many requests as it takes."""
        while self.send_request() == REQUEST_PAYLOAD:
            pass

    def send_request(self) -> int:
        """Send one whole PATCH and return how many bytes it carried; fewer than 10 MiB means the end of the file."""
        end = min(self.offset + REQUEST_PAYLOAD, self._payload.size)
        sent = end - self.offset
        with RawConnection(self.url) as connection:
            self._begin(connection)
            connection.send_chunks(self._chunks(self.offset, end))
            connection.end_chunks()
            answer = connection.answer("PATCH")
        if not 200 <= answer.status < 300 or answer.offset != end:
            raise ProtocolError(f"PATCH: {answer.status} {answer.headers['Upload-Offset']}, sent up to {end}")
        self.offset = end
        return sent

    def break_request(self, sent: int, *, reset: bool) -> None:
        """Begin a PATCH and lose the connection after `sent` bytes, by a reset or a plain close."""
        connection = RawConnection(self.url)
        self._begin(connection)
        connection.send_chunks(self._chunks(self.offset, self.offset + sent))
        connection.send(b"%x\r\n" % CHUNK)  # one more chunk was begun
        if reset:
            connection.reset()
        else:
            connection.close_in_the_middle()

    def lose_answer(self) -> None:
        """Send one whole PATCH and be gone before the answer comes."""
        connection = RawConnection(self.url)
        self._begin(connection)
        connection.send_chunks(self._chunks(self.offset, min(self.offset + REQUEST_PAYLOAD, self._payload.size)))
        connection.end_chunks()
        connection.close_in_the_middle()

    def _begin(self, connection: RawConnection) -> None:
        connection.send_head("PATCH", self.url, PATCH | {"Upload-Offset": str(self.offset)})
        status = connection.wait_for_continue()
        if status == 409:
            raise RefusedError
        if status != 100:
            raise ProtocolError(f"expected 100 Continue, got {status}")

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        for chunk_start, chunk_end in pairwise([*range(start, end, CHUNK), end]):
            yield self._payload.bytes(chunk_start, chunk_end)
