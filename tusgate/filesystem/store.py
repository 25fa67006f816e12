"""The object store port on a local directory.

    root/objects/<key>                      the bytes of finished objects and pieces, as plain files
    root/attributes/<aa>/<digest>-<file>    whose object the file at a key is, and its checksum (JSON)
    root/multipart/<id>/                    `upload` (JSON), and one file for each part: its bytes, then its CRC
    root/staging/                           what is being written
    root/identity                           a random name, by which this tree is told from another one at its path

An object becomes visible by one rename. Its attributes are written before, under a name that holds the inode and
modification time of that very file, so a reader never sees the attributes of another file at the same key. (A copy
of the tree has other inodes: its objects can be read, but no longer be proven to belong to an upload. Whether it is
still the object that a reader wants, the checksum tells: it is computed when a process first meets such a file.)

A volume that is not mounted any more leaves an empty directory in its place. Nothing is lost by that, so nothing is
called lost there, removed or made: as long as the tree is not the one that the process has opened, the store is away.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import stat
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from errno import EEXIST, EISDIR, ENAMETOOLONG, ENOTDIR
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from awscrt.checksums import combine_crc64nvme, crc64nvme

from tusgate.core.direct import ListedPart
from tusgate.core.errors import DirectOff, MultipartLost, ObjectLost, PieceLost, StoreRefused, StoreUnavailable
from tusgate.core.grid import PartLimits
from tusgate.core.model import ListedObject, MultipartId, ObjectKey, StoredObject, UploadId
from tusgate.filesystem import durable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
    from io import FileIO
    from pathlib import Path

    from tusgate.core.direct import Plan, Slot
    from tusgate.core.model import Part, Piece
    from tusgate.ports import Attributes, Body, Presentation, SignedPart

READ_SIZE: Final = 1 << 20
"""Bytes read at a time: each read is a trip to another thread."""
MOST_COMPUTED: Final = 10_000
"""Files without attributes whose computed ETags are remembered."""
CRC_SIZE: Final = 8
"""Bytes of the CRC64NVME at the end of a part's file."""
_MULTIPART_ID: Final = re.compile(r"[0-9a-f]{48}", re.ASCII)
_KEY_DIGEST_LENGTH: Final = 16
"""Hexadecimal digits of the key's digest that a multipart id begins with, so that they are found by key."""
IDENTITY_SIZE: Final = 16
"""Random bytes in the name of a tree."""
_REFUSED_ERRNOS: Final = frozenset({EEXIST, EISDIR, ENAMETOOLONG, ENOTDIR})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What a multipart upload was begun with."""

    key: str
    upload_id: str
    content_type: str | None
    content_coding: str | None = None


@dataclass(frozen=True, slots=True)
class _ObjectAttributes:
    """What is known about the file at a key."""

    key: str
    upload_id: str
    content_type: str | None
    size: int
    crc64: int
    content_coding: str | None = None


class DirectoryStore:
    """`tusgate.ports.ObjectStore` in a local directory. All file access happens in threads.

    Makes its directories at once. Several processes may share it.

    Raises:
        StoreUnavailable: the directories cannot be made.
    """

    limits = PartLimits(min_part_size=1)
    completes_all_parts = False
    copies_parts = True
    signs_parts = False
    direct_origin: str | None = None
    part_checksums: frozenset[str] = frozenset()
    copies_declared_parts = False

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._attributes = root / "attributes"
        self._multipart = root / "multipart"
        self._staging = root / "staging"
        self._identity_path = root / "identity"
        self._computed: dict[Path, str] = {}
        try:
            self._make_tree()
            self._tree = self._name_tree()
        except OSError as error:
            raise StoreUnavailable(f"{error.strerror} in the storage directory") from error

    async def check(self) -> None:
        """Write a file and remove it; also remove what dead processes have left in the staging directory."""

        def work() -> None:
            self._make_tree()
            durable.remove_stale(self._staging)
            with durable.staged(self._staging) as (descriptor, _):
                os.write(descriptor, b"check")
                os.fsync(descriptor)

        await self._in_place(work)

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    async def put_object(self, key: ObjectKey, body: Body, attributes: Attributes) -> StoredObject:
        """Store a whole object. See the port."""
        path = self._object_path(key)
        about = _ObjectAttributes(
            key, attributes.upload_id, attributes.content_type, body.size, body.crc64, attributes.content_coding
        )

        def work() -> StoredObject:
            with durable.staged(self._staging) as (descriptor, staged):
                self._write_body(descriptor, body)
                self._publish_object(descriptor, staged, path, about)
            return StoredObject(key, body.size, _etag(body.crc64, body.size), body.crc64)

        return await self._in_place(work)

    async def create_multipart(
        self, key: ObjectKey, attributes: Attributes, *, with_copies: bool = False, plan: Plan | None = None
    ) -> MultipartId:
        """Begin a multipart upload; copied parts are checked as uploaded ones are. See the port."""
        self._object_path(key)  # refuses impossible keys before any bytes are uploaded
        manifest = _Manifest(key, attributes.upload_id, attributes.content_type, attributes.content_coding)
        multipart_id = MultipartId(_key_digest(key)[:_KEY_DIGEST_LENGTH] + secrets.token_hex(16))

        def work() -> MultipartId:
            staged = self._staging / multipart_id
            staged.mkdir()
            self._write_json(staged / "upload", asdict(manifest))
            durable.publish(staged, self._multipart / multipart_id)
            return multipart_id

        return await self._in_place(work)

    async def put_part(self, key: ObjectKey, multipart_id: MultipartId, number: int, body: Body) -> str:
        """Store one part. See the port."""

        def work() -> str:
            self._manifest(key, multipart_id)
            with durable.staged(self._staging) as (descriptor, staged):
                self._write_body(descriptor, body)
                return self._publish_part(descriptor, staged, multipart_id, number, body)

        return await self._in_place(work)

    async def copy_part(
        self, key: ObjectKey, multipart_id: MultipartId, number: int, source: Piece, *, etag: str | None = None
    ) -> str:
        """Make one part of a file's bytes: the kernel copies them, and they are read once for their checksum.

        See the port.
        """

        def work() -> str:
            self._manifest(key, multipart_id)
            if etag is not None:
                self._check_source(source, etag)
            with durable.staged(self._staging) as (descriptor, staged):
                self._copy_piece(descriptor, source)
                return self._publish_part(descriptor, staged, multipart_id, number, source)

        return await self._in_place(work)

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
        """Make the object by appending the parts' files to one. See the port."""
        path = self._object_path(key)
        _check_order(parts)
        if _combined_crc64(parts) != crc64:
            raise StoreRefused("BadDigest: the parts do not have the checksum of the whole")

        def work() -> None:
            manifest = self._manifest(key, multipart_id)
            size = sum(part.size for part in parts)
            about = _ObjectAttributes(
                key, manifest.upload_id, manifest.content_type, size, crc64, manifest.content_coding
            )
            with durable.staged(self._staging) as (descriptor, staged):
                for part in parts:
                    self._append_part(descriptor, key, multipart_id, part)
                self._publish_object(descriptor, staged, path, about)
            self._discard_multipart(multipart_id)

        await self._in_place(work)

    async def find(self, key: ObjectKey, upload_id: UploadId) -> StoredObject | None:
        """Return the object when it is ours, None when it is not there. See the port."""
        path = self._object_path(key)

        def work() -> StoredObject | None:
            about = self._read_attributes(key, path)
            if about is None or about.upload_id != upload_id:
                return None
            return StoredObject(key, about.size, _etag(about.crc64, about.size), about.crc64)

        return await self._in_place(work)

    async def multipart_exists(self, key: ObjectKey, multipart_id: MultipartId) -> bool:
        """Return whether the multipart upload is still there."""
        try:
            await self._in_place(lambda: self._manifest(key, multipart_id))
        except MultipartLost:
            return False
        return True

    async def list_parts(self, key: ObjectKey, multipart_id: MultipartId) -> list[ListedPart]:
        """Return all parts that are there. See the port."""

        def work() -> list[ListedPart]:
            self._manifest(key, multipart_id)
            numbers = sorted(
                int(path.name) for path in (self._multipart / multipart_id).iterdir() if path.name.isdigit()
            )
            return [self._listed_part(multipart_id, number) for number in numbers]

        return await self._in_place(work)

    def _listed_part(self, multipart_id: MultipartId, number: int) -> ListedPart:
        with self._part_path(multipart_id, number).open("rb") as file:
            size = file.seek(-CRC_SIZE, os.SEEK_END)
            crc64 = int.from_bytes(file.read(), "big")
        return ListedPart(number, size, _etag(crc64, size), crc64)

    def presign_part(
        self, key: ObjectKey, multipart_id: MultipartId, slot: Slot, plan: Plan, seconds: int
    ) -> SignedPart:
        """Raise DirectOff: files have no URLs."""
        raise DirectOff

    async def abort_multipart(self, key: ObjectKey, multipart_id: MultipartId) -> None:
        """Throw the multipart upload away. See the port."""
        if await self.multipart_exists(key, multipart_id):
            await self._in_place(lambda: self._discard_multipart(multipart_id))

    async def list_multiparts(self, key: ObjectKey) -> list[MultipartId]:
        """Return the multipart uploads of exactly `key`."""
        prefix = _key_digest(key)[:_KEY_DIGEST_LENGTH]

        def candidates() -> list[MultipartId]:
            return [MultipartId(entry.name) for entry in self._multipart.glob(f"{prefix}*")]

        return [found for found in await self._in_place(candidates) if await self.multipart_exists(key, found)]

    async def delete_objects(self, keys: Sequence[ObjectKey]) -> None:
        """Delete objects; missing ones are fine."""
        paths = {key: self._object_path(key) for key in keys}

        def work() -> None:
            for key, path in paths.items():
                self._delete_object(key, path)

        await self._in_place(work)

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ListedObject]:
        """Yield the files whose keys begin with `prefix`, directory by directory. See the port."""
        directories = [self._objects]
        while directories:
            found, below = await self._in_place(partial(self._listed, directories.pop(), prefix))
            directories += below
            for listed in found:
                yield listed

    async def owner_of(self, key: ObjectKey) -> UploadId | None:
        """Return whose object the file is. See the port."""
        path = self._object_path(key)
        about = await self._in_place(lambda: self._read_attributes(key, path))
        return None if about is None else UploadId(about.upload_id)

    async def read(
        self, key: ObjectKey, start: int = 0, size: int | None = None, *, etag: str | None = None
    ) -> AsyncGenerator[bytes]:
        """Stream bytes of an object. A file that is open stays what it is, whatever takes its place. See the port."""
        with await _in_thread(partial(self._open_object, key, etag)) as file:
            length = os.fstat(file.fileno()).st_size
            end = length if size is None else start + size
            if not start <= end <= length:
                raise StoreUnavailable(f"the object has {length} bytes, asked for {start} to {end}")
            file.seek(start)
            while start < end:
                chunk = await _in_thread(partial(file.read, min(READ_SIZE, end - start)))
                if not chunk:
                    raise StoreUnavailable("the object became shorter while it was read")
                start += len(chunk)
                yield chunk

    def presign(self, method: Literal["GET", "HEAD"], key: ObjectKey, presentation: Presentation, seconds: int) -> None:
        """Return None: files have no URLs."""

    def _open_object(self, key: ObjectKey, etag: str | None) -> FileIO:
        """Open an object, if it is the one with `etag`. Raises ObjectLost, StoreUnavailable."""
        path = self._object_path(key)
        self._check_identity()
        try:
            file = path.open("rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectLost("there is no such file in the storage directory") from error
        with ExitStack() as opened:
            opened.enter_context(file)
            if etag is not None and self._etag_of(key, file) != etag:
                raise ObjectLost("there is another file in the storage directory now")
            opened.pop_all()
        return file

    def _etag_of(self, key: ObjectKey, file: FileIO) -> str:
        """Return the ETag of an open file: as it was noted, or else computed, as for a copy of the tree."""
        found = os.fstat(file.fileno())
        attributes = self._attributes_path(key, found)
        try:
            about = _ObjectAttributes(**json.loads(attributes.read_text("utf-8")))
            return _etag(about.crc64, found.st_size)
        except FileNotFoundError:
            if attributes not in self._computed:
                if len(self._computed) >= MOST_COMPUTED:
                    self._computed.clear()
                self._computed[attributes] = _etag(_crc64_of_file(file), found.st_size)
            return self._computed[attributes]

    def _listed(self, directory: Path, prefix: str) -> tuple[list[ListedObject], list[Path]]:
        """Return the objects right in `directory`, and the directories in it, as far as `prefix` leads there."""
        found, below = [], []
        for path in _entries(directory):
            key = path.relative_to(self._objects).as_posix()
            if key.startswith(prefix) and (file := _stat_file(path)) is not None:
                modified = datetime.fromtimestamp(file.st_mtime, UTC)
                found.append(ListedObject(ObjectKey(key), file.st_size, modified))
            elif f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                below.append(path)
        return found, [path for path in below if path.is_dir()]

    def _make_tree(self) -> None:
        for directory in (self._objects, self._attributes, self._multipart, self._staging):
            durable.make_directories(directory)

    def _name_tree(self) -> str:
        """Return the name of the tree, which gets one if it has none."""
        if not self._identity_path.exists():
            with durable.staged(self._staging) as (descriptor, staged):
                durable.write_all(descriptor, [secrets.token_hex(IDENTITY_SIZE).encode()])
                os.fsync(descriptor)
                try:
                    self._identity_path.hardlink_to(staged)
                except FileExistsError:
                    pass  # another process was faster
                except OSError:  # no links to be had: of two processes that are the first, one may see the other's name
                    durable.publish(staged, self._identity_path)
            durable.sync_directory(self._identity_path.parent)
        return self._identity_path.read_text("ascii")

    async def _in_place(self, work: Callable[[], T]) -> T:
        """Run blocking `work` in a thread, on the tree that was opened.

        Raises:
            StoreUnavailable: that is not there, or was not any more when the work ended: it has seen nothing then.
        """

        def guarded() -> T:
            self._check_identity()
            try:
                return work()
            finally:
                self._check_identity()

        return await _in_thread(guarded)

    def _check_identity(self) -> None:
        try:
            found = self._identity_path.read_text("ascii")
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found != self._tree:
            raise StoreUnavailable("the storage directory is not the one that was opened: is it mounted?")

    def _object_path(self, key: str) -> Path:
        """Return where the object is; refuse keys that a directory cannot hold or that lead out of it."""
        segments = key.split("/")
        if any(segment in {"", ".", ".."} or "\0" in segment for segment in segments):
            raise StoreRefused("the key is not a path inside the storage directory")
        try:
            os.fsencode(key)
        except UnicodeEncodeError as error:
            raise StoreRefused("the key cannot be a file name") from error
        return self._objects.joinpath(*segments)

    def _part_path(self, multipart_id: MultipartId, number: int) -> Path:
        if not 1 <= number <= self.limits.max_parts:
            raise StoreRefused(f"InvalidArgument: part number {number}")
        return self._multipart / multipart_id / f"{number:05d}"

    def _manifest(self, key: str, multipart_id: MultipartId) -> _Manifest:
        """Return what the multipart upload was begun with. Raises MultipartLost."""
        if not _MULTIPART_ID.fullmatch(multipart_id):
            raise _lost()
        try:
            text = (self._multipart / multipart_id / "upload").read_text("utf-8")
        except FileNotFoundError as error:
            raise _lost() from error
        manifest = _Manifest(**json.loads(text))
        if manifest.key != key:
            raise _lost()
        return manifest

    def _write_body(self, descriptor: int, body: Body) -> None:
        """Write pieces and buffers. Raises StoreUnavailable when they are not what `body` says they are."""
        crc64 = size = 0
        for piece in body.pieces:
            self._append_piece(descriptor, piece)
            crc64 = combine_crc64nvme(crc64, piece.crc64, piece.size)
            size += piece.size
        for buffer in body.buffers:
            crc64 = crc64nvme(buffer, crc64)
            size += len(buffer)
        if size != body.size:
            raise ValueError(f"a body of {body.size} bytes has {size}")
        if crc64 != body.crc64:
            raise StoreUnavailable("BadDigest: the bytes do not have the checksum that came with them")
        durable.write_all(descriptor, body.buffers)

    def _append_piece(self, descriptor: int, piece: Piece) -> None:
        crc64 = size = 0
        with self._open_piece(piece) as file:
            for chunk in durable.read_range(file.fileno(), piece.skip, piece.size):
                crc64 = crc64nvme(chunk, crc64)
                size += len(chunk)
                durable.write_all(descriptor, [chunk])
        _check_piece(piece, size, crc64)

    def _copy_piece(self, descriptor: int, piece: Piece) -> None:
        """Copy a piece to the beginning of an empty file. Raises PieceLost when other bytes have arrived there."""
        crc64 = size = 0
        with self._open_piece(piece) as file, suppress(EOFError):  # the check below finds it too short
            durable.append_file(file.fileno(), descriptor, piece.size, piece.skip)
        for chunk in durable.read_range(descriptor, 0, piece.size):
            crc64 = crc64nvme(chunk, crc64)
            size += len(chunk)
        _check_piece(piece, size, crc64)

    def _check_source(self, piece: Piece, etag: str) -> None:
        """Raise PieceLost unless the piece lies in the object with `etag`."""
        with self._open_piece(piece) as file:
            if piece.key is not None and self._etag_of(piece.key, file) != etag:
                raise PieceLost("there is another file in the storage directory now")

    def _open_piece(self, piece: Piece) -> FileIO:
        if piece.key is None:
            raise ValueError("a piece that is read must be an object of the store")
        try:
            return self._object_path(piece.key).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise PieceLost(f"the stored piece at offset {piece.start} is gone") from error

    def _publish_part(
        self, descriptor: int, staged: Path, multipart_id: MultipartId, number: int, content: Body | Piece
    ) -> str:
        """Give a part, written to `staged`, its name, and return its ETag. Raises MultipartLost."""
        durable.write_all(descriptor, [content.crc64.to_bytes(CRC_SIZE, "big")])
        os.fsync(descriptor)
        try:
            durable.publish(staged, self._part_path(multipart_id, number))
        except FileNotFoundError as error:
            raise _lost() from error
        return _etag(content.crc64, content.size)

    def _append_part(self, descriptor: int, key: str, multipart_id: MultipartId, part: Part) -> None:
        """Append a part's bytes. Raises StoreRefused when it is not the part that the caller means."""
        try:
            source = os.open(self._part_path(multipart_id, part.number), os.O_RDONLY)
        except FileNotFoundError as error:
            self._manifest(key, multipart_id)  # another Complete may have finished meanwhile: that is no refusal
            raise StoreRefused(f"InvalidPart: {part.number} was never uploaded") from error
        try:
            size = os.fstat(source).st_size - CRC_SIZE
            crc64 = int.from_bytes(os.pread(source, CRC_SIZE, size), "big")
            if (size, crc64, _etag(crc64, size)) != (part.size, part.crc64, part.etag):
                raise StoreRefused(f"InvalidPart: {part.number} holds other bytes")
            durable.append_file(source, descriptor, size)
        finally:
            os.close(source)

    def _publish_object(self, descriptor: int, staged: Path, path: Path, about: _ObjectAttributes) -> None:
        os.fsync(descriptor)
        replaced = _stat_file(path)
        self._write_json(self._attributes_path(about.key, os.fstat(descriptor)), asdict(about))
        durable.publish(staged, path, make_parents=True)
        if replaced is not None:
            self._attributes_path(about.key, replaced).unlink(missing_ok=True)

    def _read_attributes(self, key: str, path: Path) -> _ObjectAttributes | None:
        """Return what is known about the file at `path`; None when there is none, or nothing is known."""
        while (found := _stat_file(path)) is not None:
            try:
                text = self._attributes_path(key, found).read_text("utf-8")
            except FileNotFoundError:
                now = _stat_file(path)
                if now is not None and _identity(now) == _identity(found):
                    return None  # somebody else's file
                continue  # replaced while we looked
            about = _ObjectAttributes(**json.loads(text))
            if about.size != found.st_size:
                raise StoreUnavailable(f"the object has {found.st_size} bytes instead of {about.size}")
            return about
        return None

    def _delete_object(self, key: str, path: Path) -> None:
        found = _stat_file(path)
        if found is None:
            return
        path.unlink(missing_ok=True)
        durable.sync_directory(path.parent)
        self._attributes_path(key, found).unlink(missing_ok=True)
        durable.prune_directories(path.parent, self._objects)

    def _discard_multipart(self, multipart_id: MultipartId) -> None:
        """Make the multipart upload unknown by one rename, then remove its files."""
        doomed = self._staging / secrets.token_hex(16)
        try:
            (self._multipart / multipart_id).rename(doomed)
        except FileNotFoundError:
            return
        durable.sync_directory(self._multipart)
        durable.remove(doomed)

    def _attributes_path(self, key: str, file: os.stat_result) -> Path:
        digest = _key_digest(key)
        return self._attributes / digest[:2] / f"{digest}-{_identity(file)}"

    def _write_json(self, path: Path, content: dict[str, object]) -> None:
        with durable.staged(self._staging) as (descriptor, staged):
            durable.write_all(descriptor, [json.dumps(content).encode()])
            os.fsync(descriptor)
            durable.publish(staged, path, make_parents=True)


async def _in_thread(work: Callable[[], T]) -> T:
    """Run blocking `work`; when cancelled it still runs to its end."""
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        message = f"{error.strerror or type(error).__name__} in the storage directory"
        raise (StoreRefused if error.errno in _REFUSED_ERRNOS else StoreUnavailable)(message) from error


def _lost() -> MultipartLost:
    return MultipartLost("NoSuchUpload: the multipart upload is gone")


def _check_piece(piece: Piece, size: int, crc64: int) -> None:
    if (size, crc64) != (piece.size, piece.crc64):
        raise PieceLost(f"the stored piece at offset {piece.start} came back damaged")


def _check_order(parts: Sequence[Part]) -> None:
    numbers = [part.number for part in parts]
    if not numbers or numbers != sorted(set(numbers)):
        raise StoreRefused("InvalidPartOrder: expected one or more parts in ascending order")


def _combined_crc64(parts: Iterable[Part]) -> int:
    crc64 = 0
    for part in parts:
        crc64 = combine_crc64nvme(crc64, part.crc64, part.size)
    return crc64


def _crc64_of_file(file: FileIO) -> int:
    crc64 = 0
    while chunk := file.read(READ_SIZE):
        crc64 = crc64nvme(chunk, crc64)
    return crc64


def _etag(crc64: int, size: int) -> str:
    return f"{crc64:016x}-{size:x}"


def _key_digest(key: str) -> str:
    return hashlib.sha256(os.fsencode(key)).hexdigest()


def _identity(file: os.stat_result) -> str:
    # The time is there because an inode may be used again.
    return f"{file.st_ino:x}-{file.st_mtime_ns:x}"


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []  # removed as empty meanwhile


def _stat_file(path: Path) -> os.stat_result | None:
    """Return the status of a regular file; None when there is no such file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None
