"""What must be true of every upload, kept as simply as possible: bytes, the largest offset told, a state.

`Truth` is told every effect at the ports (by `witness`) and every answer that a client got (by `fleet`). It knows
nothing of cells, parts, epochs' meaning, leases or memory. What contradicts it is noted in `Truth.broken`, with the
invariant's id, rather than raised: an error raised below the service would be handled by the service.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from tests.unit.service.rig import LIFETIME
from tusgate.core.errors import (
    AlreadyComplete,
    ChecksumMismatch,
    DatabaseUnavailable,
    Draining,
    Fenced,
    FinalIsFixed,
    Finishing,
    InconsistentLength,
    Interrupted,
    InvalidRequest,
    OffsetMismatch,
    StillNeeded,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
    TusgateError,
    UploadGone,
)
from tusgate.core.model import CreatedVia, Role, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.service.rig import Sender
    from tusgate.core.model import Step, StoredObject, Upload, UploadId

LATER: Final = {
    State.UPLOADING: {State.SEALED, State.COMPLETE, State.FAILED, State.EXPIRED, State.TERMINATED},
    State.SEALED: {State.COMPLETE, State.FAILED, State.TERMINATED},
    State.COMPLETE: {State.EXPIRED, State.TERMINATED},
    State.FAILED: {State.TERMINATED},
    State.EXPIRED: set[State](),
    State.TERMINATED: set[State](),
}
"""What each state may become, written down once more and not taken from the code under test."""
GONE: Final = {State.FAILED, State.EXPIRED, State.TERMINATED}
LIVE: Final = {State.UPLOADING, State.SEALED}


class Kind(Enum):
    """What a request asks for."""

    CREATE = auto()
    APPEND = auto()
    HEAD = auto()
    SETTLE = auto()
    TERMINATE = auto()
    CONCATENATE = auto()


@dataclass(eq=False)
class Request:
    """One request of a client, and what came of it.

    Attributes:
        file: what the client that creates an upload is going to send.
        data: the body that it would have if nothing went wrong.
        announced: whether the size of the body is told in advance.
        digest: whether the checksum that it announces is right; None: it announces none.
        declares: the upload length that it declares.
        sources: the partials that it wants a final of.
        refusable: not all of these were finished when it began, or bytes beside them would have been lost.
        told_before: the largest offset that any client was told when it began.
        held_before, steps_before: committed bytes, and how many commits there had been, when it began.
        committed: bytes of `data` that became part of the upload.
    """

    kind: Kind
    known: Known | None = None
    file: bytes = b""
    offset: int = 0
    data: bytes = b""
    sender: Sender | None = None
    announced: bool = True
    digest: bool | None = None
    declares: int | None = None
    ends: bool = False
    sources: list[Known] = field(default_factory=list)
    refusable: bool = False
    told_before: int = 0
    held_before: int = 0
    steps_before: int = 0
    committed: int = 0

    @property
    def end(self) -> int:
        """Where the upload stands when all of the body is in it."""
        return self.offset + len(self.data)


@dataclass(eq=False)
class Known:
    """All there is to know of one upload.

    Attributes:
        row: as it was when it was looked at last.
        file: what its honest client sends.
        held: the committed bytes.
        told: the largest offset that a client has been told.
        writer: the request that became the writer last; nobody else may commit.
        steps: how often something was committed.
        last_byte: when bytes were committed last.
        shaken: requests that contradict each other became writers: the upload may fail, but not mix their bytes.
        lost: the store has thrown its parts away: it may fail.
        unwanted: somebody has asked for its end.
        overrun: a request brought more bytes than its declared length, which spoils uploads that end by a request.
        was_complete: it is complete, or was before it was terminated: an answer may tell of a moment ago.
        url_told: its client has been told where it is.
        role: as in the row; a GROUP nobody can see.
        home: the group in whose multipart upload its parts lie.
        sources: the partials that it is the bytes of.
    """

    id: UploadId
    via: CreatedVia
    length: int | None
    row: Upload
    file: bytes
    held: bytearray = field(default_factory=bytearray)
    told: int = 0
    state: State = State.UPLOADING
    writer: Request | None = None
    writers: list[Request] = field(default_factory=list)
    epoch: int = 0
    steps: int = 0
    last_byte: float = 0.0
    shaken: bool = False
    lost: bool = False
    unwanted: bool = False
    overrun: bool = False
    was_complete: bool = False
    url_told: bool = False
    role: Role | None = None
    home: Known | None = None
    sources: list[Known] = field(default_factory=list)

    @property
    def may_fail(self) -> bool:
        """Whether something has happened that entitles the upload to fail."""
        own = self.shaken or self.lost or self.overrun
        return own or (self.home is not None and self.home.may_fail)

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are committed."""
        return self.length == len(self.held)

    @property
    def is_finished(self) -> bool:
        """Whether a final may be made of it, when it has become an object. An empty one needs a commit, too."""
        return self.is_whole and (self.home is not None or self.state is not State.UPLOADING)

    @property
    def is_gone(self) -> bool:
        """Whether its client is told that it is no more: a final that is deleted may live on, as a group."""
        return self.state in GONE or self.role is Role.GROUP


current_request: ContextVar[Request | None] = ContextVar("current_request", default=None)
"""On whose behalf a call is made: tasks inherit it."""


class Truth:
    """The model.

    Attributes:
        broken: everything that contradicts it.
        disturbed: a fault was planted some time, so that errors of a dependency are to be expected.
    """

    def __init__(self, max_size: int) -> None:
        self.uploads: dict[UploadId, Known] = {}
        self.broken: list[str] = []
        self.disturbed = False
        self._max_size = max_size

    def expect(self, holds: bool, invariant: str, what: str) -> None:
        if not holds:
            self.broken.append(f"{invariant}: {what}")

    def check(self) -> None:
        """Raise AssertionError when something has contradicted the truth."""
        assert not self.broken, "\n".join(self.broken)

    # Effects, as they happen at the ports.

    def created(self, new: Upload, now: float) -> None:
        request = current_request.get()
        assert request is not None
        known = Known(new.id, new.created_via, new.length, new, request.file, last_byte=now, epoch=new.epoch)
        known.role = new.role
        known.home = None if new.group is None else self.uploads[new.group]
        self.uploads[new.id] = request.known = known
        if new.epoch:
            known.writer = request
            known.writers.append(request)

    def grouped(self, group: Upload) -> None:
        """Take note of a row that holds partials together."""
        self.uploads[group.id] = Known(group.id, group.created_via, None, group, b"", role=Role.GROUP)

    def concatenated(self, made: Upload, sources: Sequence[Upload], now: float) -> None:
        """Take note of a final, or of a group that becomes an object, and of its partials that are left out."""
        known = self.uploads.setdefault(made.id, Known(made.id, made.created_via, None, made, b""))
        found = [self.uploads[source.id] for source in sources]
        known.sources = found if made.role is Role.FINAL else []
        for source in found:
            there = source.state is State.COMPLETE or (source.home is not None and source.state is State.UPLOADING)
            self.expect(there and source.is_whole, "I3", f"made of a partial that is {source.state}")
        for source in known.sources:
            source.last_byte = now  # they live as long as if bytes had come; members that are gathered do not
        known.held = bytearray(b"".join(source.held for source in found))
        known.role, known.state, known.length = made.role, State.SEALED, len(known.held)
        self.expect(made.length == made.offset == known.length, "I3", f"{made.length} of {known.length} bytes")
        for member in self._members(known):
            if member not in found:
                self.expect(not member.held, "I1", "a partial was left out, and its bytes are lost")
                member.state = State.TERMINATED

    def _members(self, group: Known) -> list[Known]:
        """Return the partials whose only copy is in the multipart upload of the group."""
        return [each for each in self.uploads.values() if each.home is group and each.state is State.UPLOADING]

    def claimed(self, before: Upload, claimed: Upload) -> None:
        known, request = self.uploads[before.id], current_request.get()
        self.expect(claimed.epoch > known.epoch, "I6", f"epoch {claimed.epoch} was given out twice")
        self.expect(claimed.offset == len(known.held), "I6", f"claimed at {claimed.offset} of {len(known.held)}")
        known.writer, known.epoch = request, claimed.epoch
        if request is not None and request.kind is Kind.APPEND:
            self.expect(request.offset == len(known.held), "I6", "a writer begins elsewhere than the upload stands")
            known.shaken = known.shaken or any(_contradict(request, earlier) for earlier in known.writers)
            known.writers.append(request)
            if known.home is not None:
                known.home.shaken = known.home.shaken or known.shaken

    def committed(self, before: Upload, step: Step, after: Upload, now: float) -> None:
        known = self.uploads[before.id]
        request, at = known.writer, len(known.held)
        self.expect(known.state is State.UPLOADING, "I9", f"a commit to an upload that is {known.state}")
        self.expect(before.epoch == known.epoch, "I6", "a commit of a writer that was taken over")
        self.expect(before.offset == at, "I6", f"a commit from {before.offset}, where the upload is at {at}")
        self.expect(after.offset == step.end >= at, "I1", f"the offset went from {at} to {after.offset}")
        known.steps += 1
        known.state = after.state
        if request is not None:
            self._take(known, request, step.end, now)
            self._check_end(known, request, after)
        if known.length is not None:
            self.expect(step.length == known.length, "I9", f"the length {known.length} became {step.length}")
        known.length = step.length

    def _take(self, known: Known, request: Request, end: int, now: float) -> None:
        new = request.data[len(known.held) - request.offset : end - request.offset]
        if end == len(known.held):
            return
        arrived = 0 if request.sender is None else request.sender.arrived
        self.expect(end <= request.offset + arrived, "I2", f"{end} is committed, where {arrived} bytes have arrived")
        self.expect(request.digest is not False, "I9", "bytes with a wrong checksum are committed")
        whole = (request.offset, request.end) == (len(known.held), end)
        self.expect(request.digest is None or whole, "I9", "a part of the bytes of one checksum is committed")
        known.held += new
        known.last_byte = now
        request.committed += len(new)

    def _check_end(self, known: Known, request: Request, after: Upload) -> None:
        ended = after.state is not State.UPLOADING
        if known.home is not None:
            self.expect(not ended, "I5", f"a partial of a group is {after.state}")
        elif known.via is CreatedVia.TUS:
            self.expect(ended == (after.length == after.offset), "I5", f"{after.state} at {after.offset}")
        else:
            is_end = request.ends and request.end == after.offset == after.length
            self.expect(is_end or not ended, "I5", f"{after.state} at {after.offset} without an end")

    def finished(self, upload: Upload, stored: StoredObject, content: bytes | None) -> None:
        known = self.uploads[upload.id]
        self.expect(content == bytes(known.held), "I3", f"{stored.key} is not what was accepted")
        self.expect(stored.size == len(known.held) == known.length, "I3", f"{stored.key} has {stored.size} bytes")
        known.state, known.was_complete = State.COMPLETE, True

    def failed(self, upload: Upload) -> None:
        known = self.uploads[upload.id]
        self.expect(known.may_fail, "I1", "an upload failed for no reason")
        for each in [known, *self._members(known)]:
            each.state = State.FAILED

    def terminated(self, upload: Upload) -> None:
        known = self.uploads[upload.id]
        request = current_request.get()
        takes_back = request is not None and request.kind is Kind.CREATE
        self.expect(known.unwanted or takes_back, "I1", "an upload was terminated, which nobody has asked for")
        self.expect(not self.is_needed(known), "I1", "a partial was deleted that an unfinished final is made of")
        if upload.role is Role.GROUP:
            self.expect(bool(self._members(known)), "I11", "a deleted final was kept, and nobody needs it")
            known.role = Role.GROUP
            return
        known.state = State.TERMINATED

    def expired(self, upload: Upload, now: float) -> None:
        known = self.uploads[upload.id]
        if known.role is Role.GROUP:
            self.expect(not self._members(known), "I1", "a group expired before its partials")
        else:
            self.expect(now >= known.last_byte + LIFETIME, "I1", "an upload expired that had just received bytes")
        lasts = known.state is State.COMPLETE and known.role not in {Role.PARTIAL, Role.GROUP}
        self.expect(not lasts, "I4", "a complete upload expired")
        self.expect(not self.is_needed(known), "I1", "a partial expired that an unfinished final is made of")
        known.state = State.EXPIRED

    def is_needed(self, known: Known) -> bool:
        """Return whether an unfinished final is made of it."""
        return any(known in final.sources for final in self.uploads.values() if final.state is State.SEALED)

    # Answers, as clients get them.

    def asked(self, request: Request) -> None:
        known = request.known
        if request.kind is Kind.CONCATENATE:
            request.refusable = not all(source.is_finished for source in request.sources) or self._others(request)
        if known is not None:
            request.told_before, request.held_before = known.told, len(known.held)
            request.steps_before = known.steps
            known.unwanted = known.unwanted or request.kind is Kind.TERMINATE
            lengths = [length for length in (known.length, request.declares) if length is not None]
            if known.via is not CreatedVia.TUS and any(request.end > length for length in lengths):
                known.overrun = True

    def _others(self, request: Request) -> bool:
        """Return whether partials lie with those that `request` names which it does not."""
        homes = {source.home for source in request.sources} - {None}
        return any(each.home in homes and each not in request.sources for each in self.uploads.values())

    def progressed(self, request: Request, upload: Upload) -> None:
        self.uploads[upload.id].url_told = True
        self._told(request, upload, "progress")

    def succeeded(self, request: Request, upload: Upload | None) -> None:
        known = request.known
        if upload is not None and request.kind is Kind.CONCATENATE:
            known = request.known = self.uploads[upload.id]
        if upload is None or known is None:
            return
        known.url_told = True
        self._told(request, upload, "success")
        at_end = upload.final_length == upload.offset
        if request.kind in {Kind.HEAD, Kind.SETTLE}:
            hides = known.role is Role.FINAL or known.home is not None
            done = upload.state is State.COMPLETE or hides
            self.expect(not at_end or done, "I5", f"shown at its end while {upload.state}")
            return
        if request.kind is Kind.CONCATENATE:
            self.expect(known.sources == request.sources, "I3", "the final of other partials was returned")
            done = upload.state is State.COMPLETE or self.disturbed
            self.expect(done, "I5", f"a final is {upload.state}, and nothing has gone wrong")
            return
        self.expect(upload.offset == request.end, "I8", f"success at {upload.offset}, the body ends at {request.end}")
        self.expect(bytes(known.held[request.offset : request.end]) == request.data, "I3", "success for other bytes")
        self.expect(request.digest is not False, "I9", "success with a wrong checksum")

    def refused(self, request: Request, error: TusgateError) -> None:
        known, upload = request.known, error.upload
        if upload is not None and known is not None and upload.state in {*LIVE, State.COMPLETE}:
            self._told(request, upload, f"{error.code}")
        of_finals: tuple[type[TusgateError], ...] = (FinalIsFixed, StillNeeded)
        of_finals += (InvalidRequest,) if request.kind is Kind.CONCATENATE else ()
        why_not = self._why_no_final if isinstance(error, of_finals) else self._why_not
        reason = why_not(request, known, error)
        self.expect(reason is None, "I9", f"{request.kind.name} was refused with {error.code}: {reason}")

    def _told(self, request: Request, upload: Upload, how: str) -> None:
        known = self.uploads[upload.id]
        self.expect(upload.offset <= len(known.held), "I2", f"{how}: told {upload.offset}, has {len(known.held)}")
        self.expect(
            upload.offset >= request.told_before, "I1", f"{how}: told {upload.offset} after {request.told_before}"
        )
        known.told = max(known.told, upload.offset)

    def _why_not(self, request: Request, known: Known | None, error: TusgateError) -> str | None:  # noqa: PLR0911 - a table
        """Return what is wrong with a refusal; None when it is in order."""
        match error:
            case UploadGone():
                named = [each for each in (known, *request.sources) if each is not None]
                return None if any(each.is_gone for each in named) else "it is there"
            case OffsetMismatch():
                moved = known is not None and known.steps != request.steps_before
                return None if moved or request.offset != request.held_before else "that is where it stands"
            case ChecksumMismatch():
                return None if request.digest is False and not request.committed else "it was right, or was kept"
            case InconsistentLength():
                return None if request.declares is not None or request.ends else "it declared none"
            case AlreadyComplete():
                return None if known is not None and known.was_complete else "it is not complete"
            case TooLarge():
                return self._why_not_too_large(request, known)
            case Finishing():
                whole = request.kind is Kind.CONCATENATE or (known is not None and known.is_whole)
                return None if whole else "it is not at its end"
            case Interrupted():
                return _why_not_interrupted(request, error)
            case Fenced() | DatabaseUnavailable() | StoreUnavailable() | StoreRefused():
                raced = request.kind is Kind.CONCATENATE or (known is not None and len(known.writers) > 1)
                excused = self.disturbed or (isinstance(error, Fenced) and raced)
                return None if excused else "nothing has gone wrong"
            case _:
                return "not an answer to such a request"

    def _why_no_final(self, request: Request, known: Known | None, error: TusgateError) -> str | None:
        """Likewise, for refusals that only partials and finals know."""
        match error:
            case FinalIsFixed():
                # A final that is deleted meanwhile, with partials in its object, is a hidden group by now.
                was_final = known is not None and known.role in {Role.FINAL, Role.GROUP}
                return None if was_final else "it is no final"
            case StillNeeded():
                needed = any(known in each.sources for each in self.uploads.values())
                return None if needed else "no final is made of it"
            case _:
                refusable = request.refusable or self._others(request)
                return None if refusable else "all partials are finished"

    def _why_not_too_large(self, request: Request, known: Known | None) -> str | None:
        if request.kind is Kind.CONCATENATE:
            total = sum(source.length or 0 for source in request.sources)
            return None if total > self._max_size else f"{total} in all"
        if request.announced and request.committed:
            return "its size was announced, yet bytes of it were committed"
        lengths = [request.declares, self._max_size, known.length if known is not None else None]
        most = min(length for length in lengths if length is not None)
        too_much = request.end > most or (request.declares or 0) > self._max_size
        return None if too_much else f"{request.end} of {most}"

    # What is there, after a while.

    def look(self, row: Upload) -> None:
        """Compare the row of an upload with what is known of it."""
        known = self.uploads[row.id]
        self.expect(row.offset == len(known.held), "I1", f"the offset is {row.offset} of {len(known.held)}")
        self.expect(row.state is known.state, "I9", f"{row.state}, where {known.state} is known")
        if row.state is not known.row.state:
            later = LATER[known.row.state] | (LATER[State.COMPLETE] if known.row.state is State.SEALED else set())
            self.expect(row.state in later, "I9", f"{known.row.state} became {row.state}")
        elif row.state not in LIVE and row.role is known.row.role:
            # How long a partial lives is another matter: finals that are made of it prolong that.
            before = replace(known.row, expires_at=row.expires_at) if row.role is Role.PARTIAL else known.row
            self.expect(row == before, "I9", f"an upload changed that is {row.state}")
        self.expect(row.role is known.role, "I9", f"the role is {row.role}, where {known.role} is known")
        known.row = row


def _contradict(request: Request, earlier: Request) -> bool:
    """Return whether two requests bring different bytes for the same place, or end the upload in different places."""
    low, high = max(request.offset, earlier.offset), min(request.end, earlier.end)
    own = request.data[low - request.offset : high - request.offset]
    differ = low < high and own != earlier.data[low - earlier.offset : high - earlier.offset]
    return differ or _is_beyond(request, earlier) or _is_beyond(earlier, request)


def _is_beyond(request: Request, other: Request) -> bool:
    """Return whether `request` brings bytes after the end that `other` declares: the last part of that is shorter."""
    end = other.end if other.ends else other.declares
    return end is not None and request.end > end


def _why_not_interrupted(request: Request, error: Interrupted) -> str | None:
    """An interrupted body keeps all that has arrived, or with a checksum nothing."""
    if request.sender is None or error.upload is None:
        at_end = request.known is not None and len(request.known.held) == request.known.length
        return None if isinstance(error, Draining) or at_end else "it does not say where the upload stands"
    if error.upload.state in GONE:
        return None
    kept = request.offset + (0 if request.digest is not None else request.sender.arrived)
    return None if error.upload.offset == kept else f"at {error.upload.offset}, where {kept} had arrived"
