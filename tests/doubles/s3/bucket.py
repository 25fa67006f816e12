"""One bucket and the rules of S3, without I/O: every method is one atomic step that is done or refused."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.doubles.s3 import checksums
from tests.doubles.s3.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tests.doubles.s3.behaviour import Behaviour

LARGEST_PART = 5 << 30
LAST_PART = 10_000
LONGEST_KEY = 1024
MOST_METADATA = 2048


@dataclass(frozen=True)
class Attributes:
    """What an object is stored with beside its bytes.

    Attributes:
        headers: that come back as they came, such as Content-Type.
        metadata: names are lower case, without `x-amz-meta-`.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Blob:
    """A part: the bytes at rest, and what was computed over them when they arrived."""

    data: bytes
    sums: Mapping[str, bytes]
    etag: str

    @classmethod
    def of(cls, data: bytes, sums: Mapping[str, bytes]) -> Blob:
        return cls(data, sums, hashlib.md5(data).hexdigest())


@dataclass(frozen=True)
class Object:
    """An object as it lies there.

    Attributes:
        checksums: by algorithm, as they are shown.
        modified: seconds since 1970.
    """

    key: str
    data: bytes
    etag: str
    checksums: Mapping[str, str]
    checksum_type: str
    attributes: Attributes
    modified: float


@dataclass
class Multipart:
    """An unfinished multipart upload.

    Attributes:
        begun: seconds since 1970.
        algorithm, checksum_type: declared when it was begun; None: no checksum.
        remembered: shows in a listing without a prefix where that is a memory.
    """

    id: str
    key: str
    attributes: Attributes
    begun: float
    algorithm: str | None
    checksum_type: str
    parts: dict[int, Blob] = field(default_factory=dict)
    remembered: bool = True


@dataclass(frozen=True)
class ListedPart:
    """One `<Part>` of a Complete; `sums` are digests by algorithm."""

    number: int
    etag: str
    sums: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Whole:
    """What a Complete says about the object that it wants.

    Attributes:
        checksums: by algorithm, as they are shown.
        checksum_type: None: not said.
        size: bytes; None: not said.
    """

    checksums: Mapping[str, str] = field(default_factory=dict)
    checksum_type: str | None = None
    size: int | None = None


class Bucket:
    """Objects and multipart uploads.

    Args:
        behaviour: whose habits it has.
        now: seconds since 1970, by the clock that ages are counted with.
    """

    def __init__(self, behaviour: Behaviour, now: Callable[[], float]) -> None:
        self.objects: dict[str, Object] = {}
        self.multiparts: dict[str, Multipart] = {}
        self._behaviour = behaviour
        self._now = now
        self._done: dict[str, tuple[Object, tuple[tuple[int, str], ...]]] = {}
        self._numbers = itertools.count(1)

    def put(
        self, key: str, data: bytes, sums: Mapping[str, bytes], attributes: Attributes, *, unless_there: bool = False
    ) -> Object:
        """Store a whole object."""
        _check_name(key, attributes)
        self._check_absent(key, unless_there)
        shown = {name: checksums.encoded(digest) for name, digest in sums.items()}
        etag = hashlib.md5(data).hexdigest()
        made = Object(key, data, etag, shown, checksums.FULL_OBJECT, attributes, self._now())
        self.objects[key] = made
        return made

    def get(self, key: str) -> Object:
        """Return an object. Raises Refused: NoSuchKey."""
        try:
            return self.objects[key]
        except KeyError:
            raise Refused("NoSuchKey", key) from None

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is fine."""
        self.objects.pop(key, None)

    def begin(self, key: str, attributes: Attributes, algorithm: str | None, checksum_type: str | None) -> Multipart:
        """Begin a multipart upload."""
        _check_name(key, attributes)
        kind = checksums.FULL_OBJECT
        if algorithm is not None:
            kind = checksums.kind_of(algorithm, checksum_type)
        number = next(self._numbers)
        # An id that no other bucket, key or run gives away, as opaque as a real one.
        name = hashlib.sha256(f"{id(self)} {number} {key}".encode()).hexdigest()
        made = Multipart(name, key, attributes, self._now(), algorithm, kind)
        self.multiparts[made.id] = made
        return made

    def multipart(self, key: str, multipart_id: str) -> Multipart:
        """Return an unfinished multipart upload. Raises Refused with the code for what is gone."""
        found = self.multiparts.get(multipart_id)
        if found is None or found.key != key:
            raise Refused(self._behaviour.gone, "no such multipart upload")
        return found

    def put_part(self, key: str, multipart_id: str, number: int, data: bytes, sums: Mapping[str, bytes]) -> Blob:
        """Store a part. The one that is done last counts."""
        multipart = self.multipart(key, multipart_id)
        check_number(number)
        if multipart.algorithm is not None and multipart.algorithm not in sums:
            raise Refused("InvalidRequest", f"the upload was begun with {multipart.algorithm}, the part has none")
        part = Blob.of(data, sums)
        before = multipart.parts.get(number)
        if before is not None and not self._behaviour.takes_parts_again and before.data != data:
            raise Refused("NotImplemented", f"part {number} was uploaded before")
        multipart.parts[number] = part
        return part

    def copy_part(
        self, key: str, multipart_id: str, number: int, source: Object, wanted: tuple[int, int] | None
    ) -> Blob:
        """Make bytes `[start, end)`, or all (None), of an object of this or another bucket a part."""
        if not self._behaviour.copies:
            raise Refused("NotImplemented", "UploadPartCopy")
        multipart = self.multipart(key, multipart_id)
        data = source.data if wanted is None else self._range_of(source, *wanted)
        name = multipart.algorithm
        if name is not None and not self._behaviour.checks_copies:
            raise Refused("InvalidArgument", f"checksum missing, want {name}")
        sums = {} if name is None else {name: checksums.DIGESTS[name](data)}
        return self.put_part(key, multipart_id, number, data, sums)

    def _range_of(self, source: Object, start: int, end: int) -> bytes:
        size = len(source.data)
        if end - start > LARGEST_PART:
            raise Refused("InvalidRequest", f"{end - start} bytes are more than can be copied at once")
        if not 0 <= start < end <= size:
            raise Refused("InvalidArgument", f"{source.key} has {size} bytes")
        if size <= self._behaviour.smallest_ranged:
            raise Refused("InvalidRequest", f"{source.key} has {size} bytes, too few to copy a range of them")
        return source.data[start:end]

    def abort(self, key: str, multipart_id: str) -> None:
        """Throw a multipart upload away."""
        del self.multiparts[self.multipart(key, multipart_id).id]

    def complete(
        self, key: str, multipart_id: str, listed: Sequence[ListedPart], whole: Whole, *, unless_there: bool = False
    ) -> Object:
        """Make an object of exactly the listed parts. Refused when anything at all does not fit."""
        done = self._done.get(multipart_id)
        if done is not None and self._behaviour.repeats_complete and done[0].key == key:
            if done[1] != _identity(listed):
                raise Refused("InvalidPart", "it was completed with other parts")
            return done[0]
        multipart = self.multipart(key, multipart_id)
        parts = self._chosen(multipart, listed)
        shown = _whole_checksum(multipart, parts)
        self._check_whole(multipart, parts, shown, whole)
        self._check_absent(key, unless_there)
        digests = b"".join(bytes.fromhex(part.etag) for part in parts)
        made = Object(
            key,
            b"".join(part.data for part in parts),
            f"{hashlib.md5(digests).hexdigest()}-{len(parts)}",
            shown,
            multipart.checksum_type,
            multipart.attributes,
            self._now(),
        )
        self.objects[key] = made
        del self.multiparts[multipart_id]
        self._done[multipart_id] = (made, _identity(listed))
        return made

    def list_objects(self, prefix: str) -> list[Object]:
        """Return the objects whose keys begin so, in the order of the keys' bytes."""
        found = [stored for key, stored in self.objects.items() if key.startswith(prefix)]
        return sorted(found, key=lambda stored: stored.key.encode())

    def list_multiparts(self, prefix: str) -> list[Multipart]:
        """Return the multipart uploads that a listing by prefix shows, ordered by key and age."""
        found: Iterable[Multipart] = self.multiparts.values()
        if not self._behaviour.forgets_multiparts:
            found = (upload for upload in found if upload.key.startswith(prefix))
        elif prefix:
            found = (upload for upload in found if upload.key == prefix)
        else:
            found = (upload for upload in found if upload.remembered)
        return sorted(found, key=lambda upload: (upload.key.encode(), upload.begun))

    def forget(self) -> None:
        """Lose what a restart loses; without effect on a vendor that keeps its listings on disk."""
        for upload in self.multiparts.values():
            upload.remembered = False

    def sweep(self) -> None:
        """Throw away the multipart uploads that have become too old, however lately they got a part."""
        limit = self._behaviour.sweeps_after
        if limit is not None:
            begun_before = self._now() - limit
            self.multiparts = {name: found for name, found in self.multiparts.items() if found.begun > begun_before}

    def rot(self, key: str, at: int) -> None:
        """Flip the bits of one byte of an object at rest; checksums and ETag stay what they were."""
        stored = self.get(key)
        self.objects[key] = replace(stored, data=_flipped(stored.data, at))

    def rot_part(self, multipart_id: str, number: int, at: int) -> None:
        """Flip the bits of one byte of a part at rest."""
        parts = self.multiparts[multipart_id].parts
        parts[number] = replace(parts[number], data=_flipped(parts[number].data, at))

    def _check_absent(self, key: str, unless_there: bool) -> None:
        if unless_there and self._behaviour.conditional and key in self.objects:
            raise Refused("PreconditionFailed", f"{key} is there")

    def _chosen(self, multipart: Multipart, listed: Sequence[ListedPart]) -> list[Blob]:
        numbers = [part.number for part in listed]
        if numbers != sorted({*numbers}):
            raise Refused("InvalidPartOrder", f"{numbers}")
        if multipart.algorithm is None and self._behaviour.ignores_unasked_checksums:
            listed = [replace(part, sums={}) for part in listed]
        parts = [_found(multipart, part) for part in listed]
        if self._behaviour.wants_all_parts and numbers != sorted(multipart.parts):
            raise Refused("InvalidPart", f"uploaded were {sorted(multipart.parts)}, listed are {numbers}")
        sizes = [len(part.data) for part in parts]
        if any(size < self._behaviour.min_part_size for size in sizes[:-1]):
            raise Refused("EntityTooSmall", f"{sizes}")
        if self._behaviour.equal_parts and (len({*sizes[:-1]}) > 1 or sizes[-1] > sizes[0]):
            raise Refused("InvalidPart", f"all parts but the last must have one size, not {sizes}")
        return parts

    def _check_whole(self, multipart: Multipart, parts: Sequence[Blob], shown: Mapping[str, str], whole: Whole) -> None:
        if self._behaviour.verifies_checksums:
            if whole.checksum_type not in (None, multipart.checksum_type):
                raise Refused("InvalidRequest", f"it was begun as {multipart.checksum_type}")
            for name, value in whole.checksums.items():
                if shown.get(name) != value:
                    raise Refused("BadDigest", f"{name} of the object is {shown.get(name)}, not {value}")
        size = sum(len(part.data) for part in parts)
        if self._behaviour.checks_object_size and whole.size not in (None, size):
            raise Refused("InvalidRequest", f"the object has {size} bytes, not {whole.size}")


def check_number(number: int) -> None:
    """Raise Refused for a part number that S3 does not have."""
    if not 1 <= number <= LAST_PART:
        raise Refused("InvalidArgument", f"part number {number}")


def _check_name(key: str, attributes: Attributes) -> None:
    if len(key.encode()) > LONGEST_KEY:
        raise Refused("KeyTooLongError", f"{len(key.encode())} bytes")
    size = sum(len(name) + len(value.encode()) for name, value in attributes.metadata.items())
    if size > MOST_METADATA:
        raise Refused("MetadataTooLarge", f"{size} bytes")


def _found(multipart: Multipart, listed: ListedPart) -> Blob:
    part = multipart.parts.get(listed.number)
    if part is None or part.etag != listed.etag.lower():
        raise Refused("InvalidPart", f"part {listed.number} is not there, or has another ETag")
    if multipart.algorithm is not None and multipart.algorithm not in listed.sums:
        raise Refused("InvalidPart", f"part {listed.number} is listed without {multipart.algorithm}")
    if any(part.sums.get(name) != digest for name, digest in listed.sums.items()):
        raise Refused("InvalidPart", f"part {listed.number} has another checksum")
    return part


def _whole_checksum(multipart: Multipart, parts: Sequence[Blob]) -> dict[str, str]:
    """Return the checksum of the object from those of its parts: what is at rest is not read again."""
    name = multipart.algorithm
    if name is None:
        return {}
    return {
        name: checksums.of_object(name, multipart.checksum_type, [(part.sums[name], len(part.data)) for part in parts])
    }


def _identity(listed: Sequence[ListedPart]) -> tuple[tuple[int, str], ...]:
    return tuple((part.number, part.etag.lower()) for part in listed)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
