"""What an upload may become, and whether a request may change it. Illegal = typed error, nothing changed.

    uploading ──► sealed ──► complete
        │  └────────┼───────────▲        (one PutObject: no sealed step)
        ├──► expired◄───────────┤
        ├──► failed ◄┘          │
        └──► terminated ◄───────┴── also from sealed, complete and failed

Rule 1: a state changes only along `TRANSITIONS`.
Rule 2: `offset` only rises, and only while uploading.
Rule 3: an upload is sealed by the same commit that brings its last byte, or, where requests end uploads, by the one
        that brings the end. A partial that lies in the multipart upload of its group is not: it becomes no object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import (
    AlreadyComplete,
    FinalIsFixed,
    InconsistentLength,
    NotComplete,
    OffsetMismatch,
    OnlyDirect,
    Overrun,
    TooLarge,
    UploadGone,
    WrongProtocol,
)
from tusgate.core.model import FOREVER, CreatedVia, Role, State, Step, StoredObject

if TYPE_CHECKING:
    from tusgate.core.model import Keeping, Part, Piece, Upload

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.UPLOADING: frozenset(
        {State.UPLOADING, State.SEALED, State.COMPLETE, State.FAILED, State.EXPIRED, State.TERMINATED}
    ),
    State.SEALED: frozenset({State.SEALED, State.COMPLETE, State.FAILED, State.TERMINATED}),
    State.COMPLETE: frozenset({State.EXPIRED, State.TERMINATED}),
    State.FAILED: frozenset({State.TERMINATED}),
    State.EXPIRED: frozenset(),
    State.TERMINATED: frozenset(),
}
LEFT_OUT: Final = "its group was concatenated without it"
"""Reason of partials that ended so."""
GONE: Final = frozenset({State.FAILED, State.EXPIRED, State.TERMINATED})


def sources_of(state: State) -> tuple[State, ...]:
    """Return the states from which `state` may be entered (what an UPDATE must find)."""
    return tuple(before for before, after in TRANSITIONS.items() if state in after and before is not state)


def check_present(upload: Upload) -> None:
    """Raise UploadGone when the upload is expired, terminated or failed.

    A client that names a group means the final that it was: that was deleted, and its partials still need the bytes.
    """
    check_alive(upload)
    if upload.role is Role.GROUP:
        raise UploadGone(State.TERMINATED.value)


def check_complete(upload: Upload) -> None:
    """Raise NotComplete unless the object of the upload is there and verified, UploadGone when it will never be."""
    check_present(upload)
    if upload.state is not State.COMPLETE:
        raise NotComplete


def check_comes_through(upload: Upload) -> None:
    """Raise OnlyDirect when the bytes of `upload` are still on their way to the store, past the gateway."""
    if upload.created_via is CreatedVia.DIRECT and upload.state is State.UPLOADING:
        raise OnlyDirect


def check_alive(upload: Upload) -> None:
    """Raise UploadGone when what the upload has stored is lost or about to be removed."""
    if upload.state in GONE:
        raise UploadGone(upload.state.value, upload.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """A request to continue an upload.

    Attributes:
        offset: where the client believes the upload stands.
        size: bytes of the body when announced (Content-Length); None for a chunked body.
        length: the upload length when the request declares it.
        ends: whether the request says that the upload ends with its body.
        via: the protocol of the request.
    """

    offset: int
    size: int | None
    length: int | None
    ends: bool = False
    via: CreatedVia = CreatedVia.TUS


def check_append(upload: Upload, append: Append, max_size: int | None) -> int | None:
    """Decide whether `append` may write to `upload`; return the upload length from now on.

    The order of the checks is part of the contract with clients: gone, final, protocol, complete, offset, length,
    size. The
    returned length is not recorded yet: it is committed with the first step (DEF-09).

    Raises:
        UploadGone: expired, terminated, failed.
        OnlyDirect: its parts are sent to the store itself (DM-12).
        FinalIsFixed: it is made of partials (CAT-06), or is one and the request is not of tus (SH-06).
        WrongProtocol: created with another protocol, whose idea of the end is another one (SH-02).
        AlreadyComplete: its end has been declared and reached; only where requests end uploads.
        OffsetMismatch: other offset (tus 1.0 PATCH: MUST respond with 409).
        InconsistentLength: a second, different length, or one below the offset (DEF-06, DEF-07).
        TooLarge: the body passes the length, or the length passes `max_size`.
        Overrun: the body passes the length, and the upload must not go on (R-APP-08).
    """
    check_present(upload)
    if upload.role is Role.FINAL:
        raise FinalIsFixed
    check_comes_through(upload)
    if append.via is not upload.created_via:
        raise FinalIsFixed if upload.role is Role.PARTIAL else WrongProtocol
    if upload.ends_by_request and upload.state is State.COMPLETE:
        raise AlreadyComplete
    if append.offset != upload.offset:
        raise OffsetMismatch(upload.offset, append.offset)
    if upload.ends_by_request:
        _check_end(upload, append, upload.length)  # an overrun outweighs that the lengths do not agree
    declared = declared_length(append.offset, append.size, append.length, ends=append.ends)
    length = _agreed_length(upload, declared, max_size)
    _check_end(upload, append, length)
    if append.size is not None and max_size is not None and append.offset + append.size > max_size:
        raise TooLarge(f"more than the largest upload allowed, {max_size} bytes")
    return length


def declared_length(offset: int, size: int | None, length: int | None, *, ends: bool) -> int | None:
    """Return the upload length that a request declares, None when it does not.

    Args:
        offset: where its body begins.
        size: bytes of the body when announced.
        length: as stated by the request.
        ends: whether the upload ends with the body, which declares its length too.

    Raises:
        InconsistentLength: both are given and differ (R-CRE-06).
    """
    if not ends or size is None:
        return length
    if length not in (None, offset + size):
        raise InconsistentLength("Upload-Length", f"{offset + size}, where this request ends")
    return offset + size


def overrun(via: CreatedVia, message: str) -> TooLarge:
    """Return the error for a body that passes the declared length."""
    return Overrun(message) if via.ends_by_request else TooLarge(message)


def _check_end(upload: Upload, append: Append, length: int | None) -> None:
    if append.size is not None and length is not None and append.offset + append.size > length:
        raise overrun(upload.created_via, f"{append.offset} + {append.size} bytes is more than Upload-Length {length}")


def _agreed_length(upload: Upload, declared: int | None, max_size: int | None) -> int | None:
    if declared is None or declared == upload.length:
        return upload.length
    if upload.length is not None:
        raise InconsistentLength("Upload-Length", f"{upload.length}, as declared before")
    if declared < upload.offset:
        raise InconsistentLength("Upload-Length", f"at least the {upload.offset} bytes already stored")
    if (max_size is not None and declared > max_size) or declared > upload.grid.capacity:
        raise TooLarge(f"Upload-Length: {declared} is more than the largest upload allowed")
    return declared


def advance(
    upload: Upload,
    end: int,
    length: int | None,
    *,
    parts: tuple[Part, ...] = (),
    pieces: tuple[Piece, ...] = (),
    absorb: tuple[int, int] | None = None,
    stored: StoredObject | None = None,
    ends: bool = False,
    lifetime: float | None = None,
    max_age: float | None = None,
    keeping: Keeping = FOREVER,
) -> Step:
    """Return the step that brings `upload` to offset `end`; it seals the upload when that is the last byte.

    Args:
        upload: as committed.
        end: the new offset.
        length: the upload length from now on.
        parts: new ones.
        pieces: new ones.
        absorb: see `Step`.
        stored: the finished object, when it is there already.
        ends: the request has said that the upload ends at `length`; where requests end uploads nothing else does.
        lifetime: see `Step`.
        max_age: see `Step`.
        keeping: see `Step`.
    """
    if stored is not None:
        state = State.COMPLETE
    elif upload.group is None and length is not None and end == length and (ends or not upload.ends_by_request):
        state = State.SEALED
    else:
        state = State.UPLOADING
    if end < upload.offset or state not in TRANSITIONS[upload.state]:
        msg = f"illegal step of {upload.id}: {upload.state} at {upload.offset} to {state} at {end}"
        raise AssertionError(msg)
    return Step(
        end=end,
        length=length,
        state=state,
        parts=parts,
        pieces=pieces,
        absorb=absorb,
        stored=stored,
        lifetime=lifetime,
        max_age=max_age,
        keeping=keeping,
    )


def step_to_object_of(twin: Upload, upload: Upload, keeping: Keeping) -> Step:
    """Return the step that completes `upload`, which has no byte yet, with the object of `twin`, which has all."""
    assert twin.length is not None
    assert twin.etag is not None
    stored = StoredObject(twin.object_key, twin.length, twin.etag, -1 if twin.crc64 is None else twin.crc64)
    return advance(upload, twin.length, twin.length, stored=stored, keeping=keeping)
