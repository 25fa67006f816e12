"""The object store port in memory, with a bandwidth, for tests that run in virtual time. Held to the same contract."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from tusgate.core.direct import ListedPart
from tusgate.core.errors import DirectOff, MultipartLost, ObjectLost, PieceLost, StoreRefused, StoreUnavailable
from tusgate.core.grid import PartLimits
from tusgate.core.model import ListedObject, MultipartId, ObjectKey, StoredObject
from tusgate.core.naming import PIECES
from tusgate.service.digest import combined_crc64, crc64_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from tusgate.core.direct import Plan, Slot
    from tusgate.core.model import Part, Piece, UploadId
    from tusgate.ports import Attributes, Body, Presentation, SignedPart, SurveyedStore

READ_BLOCK = 64 * 1024


@dataclass(frozen=True)
class _Blob:
    """Bytes as they were received; `data` is empty when only sizes are kept."""

    size: int
    crc64: int
    data: bytes

    @property
    def etag(self) -> str:
        return f"{self.crc64:016x}"


@dataclass(frozen=True)
class _Object:
    stored: StoredObject
    data: bytes
    attributes: Attributes
    modified: datetime = field(default_factory=lambda: _now())


@dataclass
class _Multipart:
    key: ObjectKey
    attributes: Attributes
    parts: dict[int, _Blob] = field(default_factory=dict)


class MemoryStore:
    """Objects in a dictionary. All writes share `bandwidth` bytes per second (None: they take no time).

    Args:
        limits: default: parts of any size.
        bandwidth: of all writes together.
        delay: seconds that each write waits besides; by different ones, writes end in another order than they began.
        keep_bytes: False stores sizes only, for simulations that push gigabytes.
        completes_all_parts: refuse a Complete that leaves out an uploaded part.
        copies_parts: False refuses to copy any.

    Attributes:
        bytes_written: of all bodies, pieces that were read back included, copied parts not.
        bytes_copied: of all copied parts.
        writes: key and size of each body, in the order of their end; part numbers are not told apart.
    """

    def __init__(
        self,
        limits: PartLimits | None = None,
        bandwidth: float | None = None,
        *,
        delay: Callable[[], float] | None = None,
        keep_bytes: bool = True,
        completes_all_parts: bool = False,
        copies_parts: bool = True,
    ) -> None:
        self.limits = limits or PartLimits(min_part_size=1)
        self.completes_all_parts = completes_all_parts
        self.copies_parts = copies_parts
        self.signs_parts = False
        self.direct_origin: str | None = None
        self.part_checksums: frozenset[str] = frozenset()
        self.copies_declared_parts = False
        self.objects: dict[ObjectKey, _Object] = {}
        self.multiparts: dict[MultipartId, _Multipart] = {}
        self.bytes_written = 0
        self.bytes_read = 0
        self.bytes_copied = 0
        self.writes: list[tuple[ObjectKey, int]] = []
        self._bandwidth = bandwidth
        self._delay = delay
        self._keep_bytes = keep_bytes
        self._free_at = 0.0
        self._next = 0

    @property
    def pieces_written(self) -> int:
        return sum(key.startswith(PIECES) for key, _ in self.writes)

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return

    async def put_object(self, key: ObjectKey, body: Body, attributes: Attributes) -> StoredObject:
        blob = await self._receive(key, body)
        stored = StoredObject(key, blob.size, blob.etag, blob.crc64)
        self.objects[key] = _Object(stored, blob.data, attributes)
        return stored

    async def create_multipart(
        self, key: ObjectKey, attributes: Attributes, *, with_copies: bool = False, plan: Plan | None = None
    ) -> MultipartId:
        self._next += 1
        multipart_id = MultipartId(f"multipart-{self._next}")
        self.multiparts[multipart_id] = _Multipart(key, attributes)
        return multipart_id

    async def put_part(self, key: ObjectKey, multipart_id: MultipartId, number: int, body: Body) -> str:
        blob = await self._receive(key, body)
        self._multipart(key, multipart_id).parts[number] = blob
        return blob.etag

    async def copy_part(
        self, key: ObjectKey, multipart_id: MultipartId, number: int, source: Piece, *, etag: str | None = None
    ) -> str:
        """Take no time for the bytes: they stay where they are."""
        if not self.copies_parts:
            raise StoreRefused("copies are switched off")
        await self._take_time(0)
        multipart = self._multipart(key, multipart_id)
        found = None if source.key is None else self.objects.get(source.key)
        if etag is not None and found is not None and found.stored.etag != etag:
            raise PieceLost(f"{source.key} is another object")
        multipart.parts[number] = blob = _Blob(source.size, source.crc64, self._bytes_of(source))
        self.bytes_copied += source.size
        return blob.etag

    async def complete_multipart(
        self,
        key: ObjectKey,
        multipart_id: MultipartId,
        parts: Sequence[Part],
        crc64: int,
        *,
        with_copies: bool = False,
        plan: Plan | None = None,
    ) -> None:
        multipart = self._multipart(key, multipart_id)
        self._check_complete(multipart, parts, crc64)
        blobs = [multipart.parts[part.number] for part in parts]
        size = sum(blob.size for blob in blobs)
        stored = StoredObject(key, size, f"{crc64:016x}-{len(parts)}", crc64)
        self.objects[key] = _Object(stored, b"".join(blob.data for blob in blobs), multipart.attributes)
        del self.multiparts[multipart_id]

    async def find(self, key: ObjectKey, upload_id: UploadId) -> StoredObject | None:
        found = self.objects.get(key)
        return found.stored if found is not None and found.attributes.upload_id == upload_id else None

    async def multipart_exists(self, key: ObjectKey, multipart_id: MultipartId) -> bool:
        return multipart_id in self.multiparts

    async def list_parts(self, key: ObjectKey, multipart_id: MultipartId) -> list[ListedPart]:
        parts = sorted(self._multipart(key, multipart_id).parts.items())
        return [ListedPart(number, blob.size, blob.etag, blob.crc64) for number, blob in parts]

    def presign_part(
        self, key: ObjectKey, multipart_id: MultipartId, slot: Slot, plan: Plan, seconds: int
    ) -> SignedPart:
        raise DirectOff

    async def abort_multipart(self, key: ObjectKey, multipart_id: MultipartId) -> None:
        self.multiparts.pop(multipart_id, None)

    async def list_multiparts(self, key: ObjectKey) -> list[MultipartId]:
        return [multipart_id for multipart_id, found in self.multiparts.items() if found.key == key]

    async def delete_objects(self, keys: Sequence[ObjectKey]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ListedObject]:
        for key, found in list(self.objects.items()):
            if key.startswith(prefix):
                yield ListedObject(key, found.stored.size, found.modified)

    async def owner_of(self, key: ObjectKey) -> UploadId | None:
        found = self.objects.get(key)
        return None if found is None else found.attributes.upload_id

    async def read(
        self, key: ObjectKey, start: int = 0, size: int | None = None, *, etag: str | None = None
    ) -> AsyncGenerator[bytes]:
        await self._take_time(0)
        data = self._data(key)
        if etag is not None and self.objects[key].stored.etag != etag:
            raise ObjectLost(f"{key} was replaced")
        end = len(data) if size is None else start + size
        if not start <= end <= len(data):
            raise StoreUnavailable(f"{key} has {len(data)} bytes, {start} to {end} were wanted")
        for at in range(start, end, READ_BLOCK):
            yield data[at : min(at + READ_BLOCK, end)]

    def presign(self, method: Literal["GET", "HEAD"], key: ObjectKey, presentation: Presentation, seconds: int) -> None:
        return

    def _data(self, key: ObjectKey) -> bytes:
        found = self.objects.get(key)
        if found is None:
            raise ObjectLost(f"{key} is missing")
        return found.data

    def _multipart(self, key: ObjectKey, multipart_id: MultipartId) -> _Multipart:
        found = self.multiparts.get(multipart_id)
        if found is None or found.key != key:
            raise MultipartLost
        return found

    def _check_complete(self, multipart: _Multipart, parts: Sequence[Part], crc64: int) -> None:
        numbers = [part.number for part in parts]
        if not parts or numbers != sorted(set(numbers)):
            raise StoreRefused("InvalidPartOrder")
        for part in parts:
            blob = multipart.parts.get(part.number)
            if blob is None or (blob.etag, blob.crc64) != (part.etag, part.crc64):
                raise StoreRefused("InvalidPart")
        if self.completes_all_parts and numbers != sorted(multipart.parts):
            raise StoreRefused("InvalidPart: a part is left out")
        if any(part.size < self.limits.min_part_size for part in parts[:-1]):
            raise StoreRefused("EntityTooSmall")
        if self.limits.equal_parts and len({part.size for part in parts[:-1]}) > 1:
            raise StoreRefused("InvalidPart: all parts but the last must have one size")
        if combined_crc64(parts) != crc64:
            raise StoreRefused("BadDigest")

    async def _receive(self, key: ObjectKey, body: Body) -> _Blob:
        """Take the bytes of `body` in, at the store's bandwidth, first come first served."""
        await self._take_time(body.size)
        self.bytes_written += body.size
        self.writes.append((key, body.size))
        if not self._keep_bytes:
            return _Blob(body.size, body.crc64, b"")
        data = b"".join([*self._read_back(body), *body.buffers])
        if len(data) != body.size:
            raise ValueError(f"a body of {body.size} bytes has {len(data)}")
        if crc64_of([data]) != body.crc64:
            raise StoreUnavailable("BadDigest")
        return _Blob(body.size, body.crc64, data)

    def _read_back(self, body: Body) -> list[bytes]:
        self.bytes_read += sum(piece.size for piece in body.pieces)
        return [self._bytes_of(piece) for piece in body.pieces]

    def _bytes_of(self, piece: Piece) -> bytes:
        if piece.key is None:
            raise ValueError("a piece that is read must be an object of the store")
        found = self.objects.get(piece.key)
        if found is None:
            raise PieceLost(f"{piece.key} is gone")
        if not self._keep_bytes:
            return b""
        data = found.data[piece.skip : piece.skip + piece.size]
        if (len(data), crc64_of([data])) != (piece.size, piece.crc64):
            raise PieceLost(f"{piece.key} is not what was stored")
        return data

    async def _take_time(self, size: int) -> None:
        loop = asyncio.get_running_loop()
        if self._bandwidth is not None:
            self._free_at = max(self._free_at, loop.time()) + size / self._bandwidth
            await asyncio.sleep(self._free_at - loop.time())
        await asyncio.sleep(self._delay() if self._delay is not None else 0)


def _now() -> datetime:
    return datetime.fromtimestamp(asyncio.get_running_loop().time(), UTC)


if TYPE_CHECKING:
    _: type[SurveyedStore] = MemoryStore
