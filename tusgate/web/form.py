"""A file in a form: the bytes of the last field of a `multipart/form-data` body, as a `ByteSource`.

RFC 7578. Only forms that browsers make are taken: with their length announced, the file last, nothing behind the
closing boundary but its line end. So the size of the file is known before its first byte, and it is streamed as any
other body.
"""

from __future__ import annotations

from email.message import Message
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import InvalidRequest

if TYPE_CHECKING:
    from tusgate.ports import ByteSource

FILE_FIELD: Final = "file"
MOST_BEFORE: Final = 64 * 1024
"""Bytes of other fields and of headers, before the file."""
LONGEST_BOUNDARY: Final = 70
"""RFC 2046, 5.1.1."""


class FormFile:
    """The file of one form. A cancelled `read` loses nothing.

    Attributes:
        size: bytes of the file.
    """

    def __init__(self, body: ByteSource, size: int, first: bytes, end: bytes) -> None:
        """Take what `opened_form` found."""
        self.size: int | None = size
        self._body = body
        self._left = size
        self._waiting = first
        self._end = end

    @property
    def is_abandoned(self) -> bool:
        """See `ports.ByteSource.is_abandoned`."""
        return self._body.is_abandoned

    async def read(self, paid: int = 0) -> bytes:
        """Return the next bytes of the file; see `ports.ByteSource.read`.

        Raises:
            InvalidRequest: the form does not end behind the file.
        """
        chunk, self._waiting = self._waiting, b""
        if not chunk and self._left:
            chunk = await self._body.read(paid)
        if len(chunk) <= self._left:
            self._left -= len(chunk)
            if chunk:
                return chunk
        data, rest = chunk[: self._left], chunk[self._left :]
        self._left = 0
        self._waiting = rest
        return data or await self._ended(rest)

    def interrupt(self, error: Exception) -> None:
        """See `ports.ByteSource.interrupt`."""
        self._body.interrupt(error)

    async def _ended(self, rest: bytes) -> bytes:
        while chunk := await self._body.read():
            rest += chunk
            self._waiting = rest
        if rest != self._end:
            raise InvalidRequest("body", f"the field {FILE_FIELD!r} as the last one of the form")
        return b""


async def opened_form(body: ByteSource, content_type: str) -> FormFile:
    """Read `body` up to the file that is in it.

    Args:
        body: of the request; nothing of it has been read.
        content_type: of the request.

    Raises:
        InvalidRequest: it is no such form.
    """
    boundary = _parameter(content_type, "boundary").encode("latin-1", "replace")
    if not 1 <= len(boundary) <= LONGEST_BOUNDARY:
        raise InvalidRequest("Content-Type", "multipart/form-data with a boundary")
    if body.size is None:
        raise InvalidRequest("Content-Length", "the bytes of the form")
    read = b""
    begin = None
    while begin is None:
        chunk = await body.read()
        read += chunk
        begin = _begin_of_file(read, b"--" + boundary)
        if (begin is None and not chunk) or (begin or len(read)) > MOST_BEFORE:
            raise InvalidRequest("body", f"a form with the field {FILE_FIELD!r}, and little before it")
    end = b"\r\n--" + boundary + b"--\r\n"
    size = body.size - begin - len(end)
    if size < 0:
        raise InvalidRequest("body", f"the field {FILE_FIELD!r} as the last one of the form")
    return FormFile(body, size, read[begin:], end)


def _begin_of_file(read: bytes, delimiter: bytes) -> int | None:
    """Return where the file begins; None when that has not been read. Raises InvalidRequest for what is no form."""
    if not read.startswith(delimiter[: len(read)]):
        raise InvalidRequest("body", "a form that begins with its boundary")
    position = len(delimiter)
    while True:
        head_end = read.find(b"\r\n\r\n", position)
        if head_end < 0:
            return None
        if _field_of(read[position:head_end]) == FILE_FIELD:
            return head_end + 4
        following = read.find(b"\r\n" + delimiter, head_end + 2)
        if following < 0:
            return None
        position = following + 2 + len(delimiter)


def _field_of(head: bytes) -> str | None:
    for line in head.split(b"\r\n"):
        name, _, value = line.decode("utf-8", "replace").partition(":")
        if name.strip().lower() == "content-disposition":
            return _parameter(value, "name")
    return None


def _parameter(field: str, name: str) -> str:
    """Return a parameter of a header field; "" where there is none."""
    message = Message()
    message["Content-Type"] = " ".join(field.split())
    value = message.get_param(name, "")
    return value if isinstance(value, str) else ""


if TYPE_CHECKING:
    _: type[ByteSource] = FormFile
