"""What clients saw of one upload: written down while they see it, held against the facts at the end."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Told:
    """An offset that an answer showed.

    Attributes:
        offset: bytes acknowledged.
        status: of the answer.
        known: the largest offset that had been told before the request was sent.
        committed: what the database held when the answer had arrived, read beside the gateway; None if not read.
    """

    offset: int
    status: int
    known: int
    committed: int | None = None


@dataclass(frozen=True)
class Accepted:
    """Bytes `[start, end)` of `body` that a 204 acknowledged."""

    body: bytes = field(repr=False)
    start: int
    end: int


@dataclass
class Journal:
    """One upload as its clients know it.

    Attributes:
        upload_id: names it in the database and the bucket.
        metadata: the Upload-Metadata header that it was created with, None for none.
        told: every offset, in the order of the answers.
        accepted: every acknowledged range, by any writer.
        deleted: a DELETE was answered with 204.
        gone: a request was answered with 410.
        retained: it is a file, and the gateway has said that it keeps it for longer than any test lasts.
    """

    upload_id: str
    metadata: bytes | None = None
    told: list[Told] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    deleted: bool = False
    gone: bool = False
    retained: bool = False
