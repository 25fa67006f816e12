"""A client that behaves on the wire as the drafts of RUFH have it, in the dialect of its interop version.

It sends the whole file with its creation, and learns from the 104 where to go on when the connection breaks: as
URLSession does. Without a version (the final form) there is no 104, so it creates the upload first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.clients.raw_http import Answer, RawConnection

if TYPE_CHECKING:
    from tests.clients.payload import Payload


class RufhLikeUpload:
    """One file on its way.

    Args:
        version: interop version; None = the final form.

    Attributes:
        url: where the upload lives; None until told.
        early: the interim answers so far.
    """

    def __init__(self, endpoint: str, payload: Payload, version: int | None) -> None:
        self._endpoint = endpoint
        self._payload = payload
        self._version = version
        self._identification = {} if version is None else {"Upload-Draft-Interop-Version": str(version)}
        self.url: str | None = None
        self.early: list[Answer] = []

    def create(self) -> None:
        """Create the upload without a byte of the file."""
        with RawConnection(self._endpoint) as connection:
            connection.send_head("POST", self._endpoint, self._creation(ends=False) | {"Content-Length": "0"})
            answer = connection.answer("POST")
        assert answer.status == 201, answer
        self.early += answer.early
        self.url = answer.headers["Location"]

    def send_whole(self) -> Answer:
        """Create the upload with the whole file; return the final answer."""
        with RawConnection(self._endpoint) as connection:
            connection.send_head("POST", self._endpoint, self._creation(ends=True) | self._size(0))
            connection.send(self._payload.bytes())
            return self._final(connection, "POST")

    def break_creation(self, sent: int) -> None:
        """Begin a creation with the whole file, and lose the connection after the 104 and `sent` bytes."""
        connection = RawConnection(self._endpoint)
        connection.send_head("POST", self._endpoint, self._creation(ends=True) | self._size(0))
        early = connection.interim()
        assert early.status == 104, early
        self.early.append(early)
        self.url = early.headers["Location"]
        connection.send(self._payload.bytes(0, sent))
        connection.close_in_the_middle()

    def break_append(self, offset: int, sent: int) -> None:
        """Begin to append the rest of the file, and lose the connection after `sent` bytes of it."""
        connection = self._begin_append(offset)
        connection.send(self._payload.bytes(offset, offset + sent))
        connection.close_in_the_middle()

    def ask(self) -> tuple[int, bool]:
        """Return the offset, and whether the upload is complete."""
        assert self.url is not None
        with RawConnection(self.url) as connection:
            connection.send_head("HEAD", self.url, self._identification)
            answer = connection.answer("HEAD")
        assert answer.status == 204, answer
        return answer.offset, self.is_complete(answer)

    def send_rest(self, offset: int) -> Answer:
        """Append the rest of the file; return the final answer."""
        with self._begin_append(offset) as connection:
            connection.send(self._payload.bytes(offset))
            return self._final(connection, "PATCH")

    def is_complete(self, answer: Answer) -> bool:
        """Return what the flag of an answer says."""
        if self._version == 3:
            return answer.headers["Upload-Incomplete"] == "?0"
        return answer.headers["Upload-Complete"] == "?1"

    def finish(self) -> None:
        """Ask and send until all is there.

        More than once when a request that was given up reached the gateway after the question: then the rest is
        refused with 409.
        """
        while not (state := self.ask())[1]:
            answer = self.send_rest(state[0])
            assert answer.status in (201, 409), answer

    def _begin_append(self, offset: int) -> RawConnection:
        assert self.url is not None
        typed = {} if self._version in (3, 5) else {"Content-Type": "application/partial-upload"}
        fields = self._creation(ends=True) | typed | {"Upload-Offset": str(offset)} | self._size(offset)
        connection = RawConnection(self.url)
        connection.send_head("PATCH", self.url, fields)
        return connection

    def _final(self, connection: RawConnection, method: str) -> Answer:
        answer = connection.answer(method)
        self.early += answer.early
        self.url = self.url or answer.headers["Location"]
        return answer

    def _creation(self, *, ends: bool) -> dict[str, str]:
        if self._version == 3:
            return self._identification | ({} if ends else {"Upload-Incomplete": "?1"})
        return self._identification | {"Upload-Complete": "?1" if ends else "?0"}

    def _size(self, offset: int) -> dict[str, str]:
        return {"Content-Length": str(self._payload.size - offset)}
