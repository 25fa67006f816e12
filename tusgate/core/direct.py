"""Direct uploads: what a client promises of the parts that it sends to the store itself, and whether it kept its word.

Rule 1: only what the store lists counts. What a client says of its parts is compared with that, and never believed.
Rule 2: one part that is not as planned, too many or missing refuses all of them; all that is wrong is told at once.
Rule 3: nothing here changes an upload: a client that was refused sends what is wrong again.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tusgate.core.checksum import DIGEST_SIZES, Checksum
from tusgate.core.errors import InvalidRequest, NotDirect, PartsFixed, PartsRefused, TooLarge, UploadGone
from tusgate.core.lifecycle import GONE
from tusgate.core.model import CreatedVia, Part, State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from tusgate.core.grid import PartLimits
    from tusgate.core.model import ObjectKey, StoredObject, Upload

PART_ALGORITHMS: Final = ("sha256", "crc64nvme")
"""Checksums of parts that a store can be made to verify: they stand in the signed URL."""
MOST_PART_DIGESTS: Final = 1000
"""Parts whose checksums can be declared; they are kept in the row of the upload."""
_OF_PARTS: Final = re.compile(r".+-[0-9]+")
"""ETag of an object that was made of parts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was declared of a direct upload when it was created.

    Attributes:
        whole: digest of the whole file, of sha256 or crc64nvme; None when not declared.
        algorithm: of the digests of the parts; None when not declared.
        digests: one for each part, in order.
        left_over: parts up to this number may lie in the store from an earlier plan, and do not count. Not declared,
            so not compared.
        cut_by_client: the client cuts the file as it likes, also once the length is known. Follows from the creation.
    """

    whole: Checksum | None = None
    algorithm: str | None = None
    digests: tuple[bytes, ...] = ()
    left_over: int = field(default=0, compare=False)
    cut_by_client: bool = field(default=False, compare=False)

    def digest(self, number: int) -> bytes | None:
        """Return the declared digest of part `number`, None when none was declared."""
        return self.digests[number - 1] if number <= len(self.digests) else None

    def encode(self) -> str:
        """Return the text stored with the upload."""
        stored: dict[str, list[str] | int] = {}
        if self.whole is not None:
            stored["whole"] = [self.whole.algorithm, _text(self.whole.digest)]
        if self.algorithm is not None:
            stored["parts"] = [self.algorithm, _text(b"".join(self.digests))]
        if self.left_over:
            stored["left_over"] = self.left_over
        if self.cut_by_client:
            stored["cut_by_client"] = True
        return json.dumps(stored)

    @classmethod
    def decode(cls, text: str) -> Plan:
        """Return the plan that `encode` wrote."""
        stored = json.loads(text)
        whole = stored.get("whole")
        algorithm, joined = stored.get("parts", (None, ""))
        digests = base64.b64decode(joined or "")
        size = DIGEST_SIZES.get(algorithm or "", 1)
        return cls(
            None if whole is None else Checksum(whole[0], base64.b64decode(whole[1])),
            algorithm,
            tuple(digests[at : at + size] for at in range(0, len(digests), size)),
            stored.get("left_over", 0),
            stored.get("cut_by_client", False),
        )


@dataclass(frozen=True, slots=True)
class Slot:
    """One part that a client is to send.

    Attributes:
        start, size: its bytes; None when only the client knows how it cuts the file.
        digest: as declared.
    """

    number: int
    start: int | None = None
    size: int | None = None
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class ListedPart:
    """A part as the store lists it.

    Attributes:
        etag: without quotes.
        crc64: -1 when the store shows none.
        sha256: None when the store shows none.
    """

    number: int
    size: int
    etag: str
    crc64: int = -1
    sha256: bytes | None = None

    def digest(self, algorithm: str) -> bytes | None:
        """Return what the store has computed of the part."""
        if algorithm == "sha256":
            return self.sha256
        return None if self.crc64 < 0 else self.crc64.to_bytes(DIGEST_SIZES[algorithm], "big")


@dataclass(frozen=True, slots=True)
class KnownPart:
    """A part of a finished file, whose bytes a part of another upload may be copied from.

    Attributes:
        sha256: as the store has proved it.
        start, size: its bytes in the object.
        key: of the object.
        etag: of the object as it was verified.
    """

    sha256: bytes
    start: int
    size: int
    key: ObjectKey
    etag: str


class Wrong(StrEnum):
    """What can be wrong with a part."""

    MISSING = "missing"
    """The store does not have it."""
    NOT_NAMED = "not_named"
    """The store has it and it belongs to the upload, but the request leaves it out."""
    FOREIGN = "foreign"
    """It is no part of the upload, or the request does not name it: who sent it?"""
    SIZE = "size"
    """Too large, or too small."""
    ETAG = "etag"
    """The store has other bytes than the client has sent: parts were swapped, or sent again."""
    CHECKSUM = "checksum"
    """The store has other bytes than were declared, or does not show that it has these."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with one part. `expected` and `found`: sizes, ETags or digests where these differ."""

    number: int
    wrong: Wrong
    expected: str | None = None
    found: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How one part stands.

    Attributes:
        slot: as planned.
        found: in the store.
        faults: why it has to be sent, or sent again.
    """

    slot: Slot
    found: ListedPart | None
    faults: tuple[Fault, ...]


def check_takes_parts(upload: Upload) -> None:
    """Raise unless parts of `upload` may be sent now.

    Raises:
        NotDirect: it goes through the gateway, by another protocol (DM-12).
        UploadGone: expired, terminated or failed.
        PartsFixed: it is being finished, or is complete.
    """
    check_is_direct(upload)
    if upload.state in GONE:
        raise UploadGone(upload.state.value, upload.reason)
    if upload.state is not State.UPLOADING:
        raise PartsFixed


def check_is_direct(upload: Upload) -> None:
    """Raise NotDirect when `upload` goes through the gateway."""
    if upload.created_via is not CreatedVia.DIRECT:
        raise NotDirect


def part_count(upload: Upload) -> int | None:
    """Return how many parts `upload` has; None when only the client knows."""
    if upload.length is None or (upload.plan is not None and upload.plan.cut_by_client):
        return None
    return -(-upload.length // part_size(upload))


def part_size(upload: Upload) -> int:
    """Return the size of all parts but the last, where the length is declared. It is one for all of them."""
    return upload.grid.runs[0][1]


def slot(upload: Upload, number: int, limits: PartLimits) -> Slot:
    """Return part `number` of `upload`.

    Raises:
        InvalidRequest: it has no such part.
    """
    count = part_count(upload)
    most = limits.max_parts if count is None else count
    if not 1 <= number <= most:
        raise InvalidRequest("parts", f"numbers from 1 to {most}")
    if count is None:
        return Slot(number)
    assert upload.length is not None
    start = (number - 1) * part_size(upload)
    size = min(part_size(upload), upload.length - start)
    return Slot(number, start, size, None if upload.plan is None else upload.plan.digest(number))


def replanned(upload: Upload, length: int, plan: Plan, limits: PartLimits) -> Plan:
    """Return `plan` as that of the unfinished `upload` when it becomes one of a file of `length` bytes.

    What the store has of it stays where it is as declared now; all else is to be sent. Parts keep their size.

    Raises InvalidRequest: it was begun without SHA-256 of its parts, or `plan` has not one for each part.
    """
    former = upload.plan or Plan()
    if former.algorithm != "sha256" or plan.algorithm != "sha256":
        raise InvalidRequest("part_checksums", "those of sha256, of an upload that was begun with such")
    most = part_size(upload) * limits.max_parts
    if not 0 < length <= most:
        raise InvalidRequest("size", f"from 1 to {most}, as parts keep their size")
    check_count(plan, length, part_size(upload))
    return replace(plan, left_over=max(former.left_over, part_count(upload) or 0))


def check_count(plan: Plan, length: int, size: int) -> None:
    """Raise InvalidRequest unless there is a digest for each part of `size` bytes."""
    count = -(-length // size)
    if len(plan.digests) != count:
        raise InvalidRequest("part_checksums.values", f"{count}, one for each part of {size} bytes")


def wrong_numbers(upload: Upload, listed: Sequence[ListedPart], limits: PartLimits) -> Iterator[int]:
    """Yield the numbers of the parts that have still to be sent, or sent again. Of a declared length only."""
    found = {part.number: part for part in listed}
    for number in range(1, (part_count(upload) or 0) + 1):
        if any(_faults_of(slot(upload, number, limits), found.get(number), None, upload.plan)):
            yield number


def standings(upload: Upload, listed: Sequence[ListedPart], limits: PartLimits) -> Iterator[Standing]:
    """Yield how each part of `upload` stands, in order: the planned ones, and those that the store has."""
    found = {part.number: part for part in listed}
    planned = range(1, (part_count(upload) or 0) + 1)
    for number in sorted({*planned, *found}):
        if part_count(upload) is None:
            yield Standing(Slot(number), found[number], ())
        elif number in planned:
            wanted = slot(upload, number, limits)
            faults = tuple(_faults_of(wanted, found.get(number), None, upload.plan))
            yield Standing(wanted, found.get(number), faults)
        elif not _is_left_over(upload, number):
            yield Standing(Slot(number), found[number], (Fault(number, Wrong.FOREIGN),))


def copies_for(upload: Upload, known: Sequence[KnownPart], limits: PartLimits) -> dict[int, KnownPart]:
    """Return what parts of `upload` may be copied from, by their numbers: as declared, and as large."""
    found = {(part.sha256, part.size): part for part in known}
    slots = [slot(upload, number, limits) for number in range(1, (part_count(upload) or 0) + 1)]
    matches = {each.number: found.get((each.digest or b"", each.size or 0)) for each in slots}
    return {number: part for number, part in matches.items() if part is not None}


def unproved_etags(upload: Upload, listed: Sequence[ListedPart]) -> list[tuple[bytes, str]]:
    """Return declared SHA-256 and ETag of the parts that the store shows no SHA-256 of: some show none of copies."""
    plan = upload.plan
    if plan is None or plan.algorithm != "sha256":
        return []
    declared = [(plan.digest(part.number), part.etag) for part in listed if part.sha256 is None]
    return [(digest, etag) for digest, etag in declared if digest is not None]


def with_proofs(
    upload: Upload, listed: Sequence[ListedPart], proofs: Collection[tuple[bytes, str]]
) -> list[ListedPart]:
    """Return `listed`, where a part has the SHA-256 that was proved of another one with its ETag.

    An ETag that two parts share is the MD5 of both: a store that makes other ones makes each of them once. Nobody can
    use another file with this MD5 here, as what is sent under the URL of a part has to have its SHA-256.
    """
    plan = upload.plan or Plan()
    return [
        replace(part, sha256=digest)
        if part.sha256 is None and digest is not None and (digest, part.etag) in proofs
        else part
        for part, digest in ((part, plan.digest(part.number)) for part in listed)
    ]


def fixed_standings(upload: Upload, parts: Sequence[Part], limits: PartLimits) -> Iterator[Standing]:
    """Yield how the parts stand of an upload that has all of them: those that it was, or is being, made of.

    Where somebody else has made the object of them it is not known what each of them was.
    """
    if _is_foreign_whole(parts):
        for number in range(1, (part_count(upload) or 0) + 1):
            yield Standing(slot(upload, number, limits), None, ())
        return
    plan = upload.plan or Plan()
    for part in parts:
        declared = plan.digest(part.number)
        found = ListedPart(
            part.number, part.size, part.etag, part.crc64, declared if plan.algorithm == "sha256" else None
        )
        yield Standing(Slot(part.number, part.start, part.size, declared), found, ())


def check_same_parts(parts: Sequence[Part], named: Mapping[int, str] | None) -> None:
    """Raise unless `named` are the parts that an upload was, or is being, made of: a Complete that is said again.

    Raises:
        PartsRefused: they are others (DM-02).
    """
    if named is None or _is_foreign_whole(parts):
        return
    etags = {part.number: part.etag for part in parts}
    faults = [Fault(number, Wrong.NOT_NAMED) for number in etags.keys() - named.keys()]
    faults += [Fault(number, Wrong.FOREIGN) for number in named.keys() - etags.keys()]
    faults += [
        Fault(number, Wrong.ETAG, bare_etag(named[number]), etag)
        for number, etag in etags.items()
        if named.get(number) and not same_etag(named[number], etag)
    ]
    if faults:
        raise PartsRefused(sorted(faults, key=lambda fault: fault.number))


def _is_foreign_whole(parts: Sequence[Part]) -> bool:
    """Return whether the one part is an object that somebody else has completed: only such ETags count parts."""
    return len(parts) == 1 and _OF_PARTS.fullmatch(parts[0].etag) is not None


def check_parts(
    upload: Upload, listed: Sequence[ListedPart], named: Mapping[int, str] | None, limits: PartLimits
) -> tuple[Part, ...]:
    """Return the parts that `upload` is completed with, in order.

    Args:
        upload: that takes parts.
        listed: all that the store has of it.
        named: ETag by part number, as the client says; None: it says nothing, which it may where all else is declared.
        limits: of the store.

    Raises:
        InvalidRequest: nothing says how many parts there are.
        PartsRefused: with everything that is wrong (DM-02, DM-03).
    """
    found = {part.number: part for part in listed}
    count = part_count(upload)
    if count is None and not named:
        raise InvalidRequest("parts", "all parts, as their number and sizes were not declared")
    wanted = range(1, (max(named or {}, default=0) if count is None else count) + 1)
    named_or_all = dict.fromkeys(wanted, "") if named is None else named
    faults = [
        fault
        for number in wanted
        for fault in _faults_of(slot(upload, number, limits), found.get(number), named_or_all.get(number), upload.plan)
    ]
    faults += [Fault(n, Wrong.NOT_NAMED) for n in wanted if n in found and n not in named_or_all]
    counted = {n for n in found if not _is_left_over(upload, n)}
    faults += [Fault(n, Wrong.FOREIGN) for n in sorted({*counted, *named_or_all} - {*wanted})]
    if count is None:
        faults += _faults_of_sizes({n: found[n].size for n in wanted if n in found}, wanted[-1], limits)
    if faults:
        raise PartsRefused(sorted(faults, key=lambda fault: fault.number))
    return tuple(_placed([found[number] for number in wanted], upload.plan or Plan()))


def is_the_file(upload: Upload, stored: StoredObject) -> bool:
    """Return whether an object with our marker, which somebody else has completed, may be the file of `upload`.

    Only where all that was declared can still be looked up: checksums of parts cannot.
    """
    has_no_digests = upload.plan is None or upload.plan.algorithm is None
    return has_no_digests and upload.length == stored.size


def as_one_part(stored: StoredObject) -> Part:
    """Return the part that an object counts as which is there without our Complete; see `_is_foreign_whole`."""
    return Part(1, 0, stored.size, stored.etag, stored.crc64)


def check_size(parts: Sequence[Part], max_size: int | None) -> int:
    """Return the bytes of `parts` together. Raises TooLarge when that is more than is allowed."""
    size = sum(part.size for part in parts)
    if max_size is not None and size > max_size:
        raise TooLarge(f"the parts have {size} bytes, more than the largest upload allowed, {max_size}")
    return size


def _is_left_over(upload: Upload, number: int) -> bool:
    """Return whether the part is one of an earlier plan that was of more parts: the store drops it at Complete."""
    count = part_count(upload)
    return count is not None and upload.plan is not None and count < number <= upload.plan.left_over


def _faults_of(wanted: Slot, found: ListedPart | None, named: str | None, plan: Plan | None) -> Iterator[Fault]:
    if found is None:
        yield Fault(wanted.number, Wrong.MISSING)
        return
    if wanted.size is not None and found.size != wanted.size:
        yield Fault(wanted.number, Wrong.SIZE, str(wanted.size), str(found.size))
    if named and not same_etag(named, found.etag):
        yield Fault(wanted.number, Wrong.ETAG, bare_etag(named), found.etag)
    if wanted.digest is not None and plan is not None and plan.algorithm is not None:
        computed = found.digest(plan.algorithm)
        if computed != wanted.digest:
            yield Fault(
                wanted.number, Wrong.CHECKSUM, _text(wanted.digest), None if computed is None else _text(computed)
            )


def _faults_of_sizes(sizes: Mapping[int, int], last: int, limits: PartLimits) -> Iterator[Fault]:
    """Yield what the store would refuse at the end, of parts that the client has cut as it liked.

    Args:
        sizes: by number, of those that are there.
        last: number of the last part, which may be smaller.
        limits: of the store.
    """
    usual = next(iter(sizes.values()), 0)
    for number, size in sizes.items():
        if number < last and size < limits.min_part_size:
            yield Fault(number, Wrong.SIZE, f"at least {limits.min_part_size}", str(size))
        elif number < last and limits.equal_parts and size != usual:
            yield Fault(number, Wrong.SIZE, str(usual), str(size))
        elif number == last and limits.equal_parts and size > usual:
            yield Fault(number, Wrong.SIZE, f"at most {usual}", str(size))


def _placed(found: Sequence[ListedPart], plan: Plan) -> Iterator[Part]:
    """Yield the parts where they lie in the file; what was declared of them is proved by now."""
    start = 0
    for part in found:
        sha256 = plan.digest(part.number) if plan.algorithm == "sha256" else None
        yield Part(part.number, start, part.size, part.etag, part.crc64, sha256)
        start += part.size


def bare_etag(etag: str) -> str:
    """Return an ETag without its quotes."""
    return etag.strip().strip('"')


def same_etag(one: str, other: str) -> bool:
    """Return whether two ETags are the same: servers and clients differ in quotes and case."""
    return bare_etag(one).lower() == bare_etag(other).lower()


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")
