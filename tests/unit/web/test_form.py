"""Files in forms: what is read of them, however they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusgate.core.errors import InvalidRequest
from tusgate.web.form import MOST_BEFORE, opened_form

TYPE = "multipart/form-data; boundary=----xyz"


class Arriving:
    """A body that arrives in pieces of the given sizes, and then all at once."""

    is_abandoned = False

    def __init__(self, body: bytes, sizes: list[int] | None = None, size: int | None = -1) -> None:
        self._body = body
        self._sizes = list(sizes or [])
        self.size = len(body) if size == -1 else size

    async def read(self, paid: int = 0) -> bytes:
        most = self._sizes.pop(0) if self._sizes else len(self._body)
        chunk, self._body = self._body[:most], self._body[most:]
        return chunk

    def interrupt(self, error: Exception) -> None:
        raise error


def a_form(content: bytes, *, before: bytes = b"", after: bytes = b"\r\n------xyz--\r\n") -> bytes:
    head = b'------xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: text/plain\r\n\r\n'
    return before + head + content + after


def a_field(name: str, value: bytes) -> bytes:
    return b'------xyz\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)


async def content_of(body: Arriving, content_type: str = TYPE) -> bytes:
    form = await opened_form(body, content_type)
    read = b""
    while chunk := await form.read():
        read += chunk
    assert await form.read() == b""
    assert len(read) == form.size
    return read


@given(
    content=st.binary(max_size=300) | st.lists(st.sampled_from([b"\r\n", b"------xyz", b"--", b"a"])).map(b"".join),
    values=st.lists(st.binary(max_size=30).filter(lambda value: b"\r\n------xyz" not in value), max_size=3),
    sizes=st.lists(st.integers(1, 40), max_size=60),
)
async def test_the_file_is_what_stands_between_its_head_and_the_end_of_the_form(
    content: bytes, values: list[bytes], sizes: list[int]
) -> None:
    """Also where its bytes look like a boundary: the length of the form says where it ends."""
    fields = b"".join(a_field(f"field{number}", value) for number, value in enumerate(values))
    assert await content_of(Arriving(a_form(content, before=fields), sizes)) == content


@pytest.mark.parametrize(
    ("body", "content_type", "field"),
    [
        (a_form(b"x"), "multipart/form-data", "Content-Type"),
        (a_form(b"x"), "multipart/form-data; boundary=" + "b" * 71, "Content-Type"),
        (a_form(b"x"), "multipart/form-data; boundary=other", "body"),
        (b"", TYPE, "body"),
        (b"------xyz--\r\n", TYPE, "body"),
        (a_field("other", b"x") + b"------xyz--\r\n", TYPE, "body"),
        (a_form(b"x", before=a_field("other", bytes(MOST_BEFORE))), TYPE, "body"),
        (a_form(b"x", after=b""), TYPE, "body"),
        (a_form(b"x" * 99, after=b""), TYPE, "body"),
        (a_form(b"x", after=b"\r\n------xyz--"), TYPE, "body"),
        (a_form(b"x", after=b"\r\n" + a_field("late", b"y") + b"------xyz--\r\n")[:-1] + b"z", TYPE, "body"),
    ],
)
async def test_what_is_no_form_with_a_file_at_its_end_is_refused(body: bytes, content_type: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await content_of(Arriving(body), content_type)
    assert refused.value.field == field


async def test_a_form_of_unknown_length_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        await opened_form(Arriving(a_form(b"x"), size=None), TYPE)
    assert refused.value.field == "Content-Length"
