"""The object store port on S3: decisions about keys, markers, proof and repetition."""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from awscrt.checksums import crc64nvme

from tusgate.core.direct import PART_ALGORITHMS
from tusgate.core.errors import DirectOff, MultipartLost, ObjectLost, PieceLost, StoreRefused, StoreUnavailable
from tusgate.core.model import MultipartId, ObjectKey, StoredObject, UploadId
from tusgate.ports import Attributes, Body, SignedPart
from tusgate.s3.control import Control
from tusgate.s3.errors import ObjectAbsent, Transient
from tusgate.s3.profiles import ChecksumMode
from tusgate.s3.retry import TRIES, retried
from tusgate.s3.sign import Signer, encode_path
from tusgate.s3.wire import Wire, encode_digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from types_aiobotocore_s3.type_defs import HeadObjectOutputTypeDef

    from tusgate.core.direct import ListedPart, Plan, Slot
    from tusgate.core.model import ListedObject, Part, Piece
    from tusgate.ports import Presentation
    from tusgate.s3.config import S3Config

MARKER: Final = "tusgate-upload"
"""Metadata name (`x-amz-meta-…`) that holds the upload id: proof whose object it is."""
CHECK_KEY: Final = ".tusgate-check"
COPY_SOURCE: Final = "x-amz-copy-source"
"""Turns UploadPart into UploadPartCopy, of whatever the key that has signed may read."""
ABORTS: Final = 5
"""How often an abort is repeated while the store shows the upload: parts on their way may outlive one."""


class S3Store:
    """`tusgate.ports.ObjectStore` on one bucket of an S3 server.

    Keys are inside `config.prefix`; it is added here and nowhere else. Connections are opened at first use.
    """

    def __init__(self, config: S3Config) -> None:
        self._prefix = config.prefix
        self._manner = config.manner
        self._control = Control(config)
        self._wire = Wire(config, self._read_piece)
        public = config.as_browsers_see_it
        # Looked at once: URLs are signed by the thousand.
        self._public_host, self._public_origin, self._public_root = public.host, public.origin, public.root
        self._handing_out = Signer(config.handed_out, config.region)
        self._kept_out = {COPY_SOURCE: ""} if config.profile.takes_unsigned_fields else {}
        self.limits = config.profile.limits
        self.completes_all_parts = config.profile.completes_all_parts
        self.copies_parts = config.profile.copy_part
        self.signs_parts = config.manner.customer_key is None  # who had a URL would have the key
        checks = config.profile.checksum is ChecksumMode.CRC64NVME
        self.part_checksums = frozenset(PART_ALGORITHMS) if checks else frozenset()
        shows = config.profile.copied_part_checksums or config.profile.shows_unasked_checksums
        self.copies_declared_parts = checks and self.copies_parts and shows
        self.direct_origin = self._public_origin if self.signs_parts else None

    async def check(self) -> None:
        """Go through the motions of an upload and throw it away: no object appears, no version is left."""
        key = self._full(CHECK_KEY)
        try:
            manner = self._manner.creation_headers(Attributes(UploadId(CHECK_KEY)))
            multipart_id = await self._control.create_multipart(key, {}, None, None, manner)
            try:
                await self._put_part(key, multipart_id, 1, Body(1, crc64nvme(b"\0"), buffers=[b"\0"]))
            finally:
                await self._abort(key, multipart_id)
        except StoreRefused as error:
            raise StoreUnavailable(f"the bucket does not take uploads: {error}") from error

    async def close(self) -> None:
        """Release all connections. Idempotent."""
        await self._wire.close()
        await self._control.close()

    async def put_object(self, key: ObjectKey, body: Body, attributes: Attributes) -> StoredObject:
        """Store a whole object. See the port."""
        headers = {f"x-amz-meta-{MARKER}": str(attributes.upload_id), **self._manner.creation_headers(attributes)}
        if attributes.content_type:
            headers["content-type"] = attributes.content_type
        if attributes.content_coding:
            headers["content-encoding"] = attributes.content_coding
        etag = await self._wire.put("PutObject", self._full(key), body, query={}, headers=headers)
        return StoredObject(key, body.size, etag, body.crc64)

    async def create_multipart(
        self, key: ObjectKey, attributes: Attributes, *, with_copies: bool = False, plan: Plan | None = None
    ) -> MultipartId:
        """Begin a multipart upload. See the port."""
        created = await self._control.create_multipart(
            self._full(key),
            {MARKER: str(attributes.upload_id)},
            attributes.content_type,
            attributes.content_coding,
            self._manner.creation_headers(attributes),
            with_copies=with_copies,
            plan=plan,
        )
        return MultipartId(created)

    async def put_part(self, key: ObjectKey, multipart_id: MultipartId, number: int, body: Body) -> str:
        """Store one part. See the port."""
        full = self._full(key)
        try:
            return await self._put_part(full, multipart_id, number, body)
        except Transient as error:
            # A server that refuses before it has read the body may reset the connection under its own answer.
            if not error.answered and not await self._control.multipart_exists(full, multipart_id):
                raise MultipartLost("UploadPart: the multipart upload is gone") from error
            raise

    async def _put_part(self, full_key: str, multipart_id: str, number: int, body: Body) -> str:
        query = {"partNumber": str(number), "uploadId": multipart_id}
        return await self._wire.put("UploadPart", full_key, body, query=query, headers=self._manner.key_headers())

    async def copy_part(
        self, key: ObjectKey, multipart_id: MultipartId, number: int, source: Piece, *, etag: str | None = None
    ) -> str:
        """Make one part of what the store holds. See the port."""
        if source.key is None:
            raise ValueError("the source of a copied part must be an object of the store")
        if not self.copies_parts:
            raise StoreRefused("UploadPartCopy: not to be had with this profile")
        full = self._full(key)
        try:
            return await self._control.copy_part(full, multipart_id, number, self._full(source.key), source, etag)
        except ObjectLost as error:
            # Ceph says NoSuchKey for a multipart upload, too, and MinIO when both are gone.
            if not await self._control.multipart_exists(full, multipart_id):
                raise MultipartLost("UploadPartCopy: the multipart upload is gone") from error
            raise PieceLost(f"the stored bytes at offset {source.start} are gone") from error

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
        """Make the object. Sent once: a second Complete would answer for the first. See the port."""
        await self._control.complete_multipart(
            self._full(key), multipart_id, parts, crc64, with_copies=with_copies, plan=plan
        )

    async def find(self, key: ObjectKey, upload_id: UploadId) -> StoredObject | None:
        """Return the object when it is ours, None when it is surely not there. See the port."""
        head = await self._head(self._full(key))
        if head is None or head["Metadata"].get(MARKER) != upload_id:
            return None
        return StoredObject(key, head["ContentLength"], head["ETag"].strip('"'), _full_object_crc64(head))

    async def _head(self, full_key: str) -> HeadObjectOutputTypeDef | None:
        """Return what the store tells about an object; None only when it is surely not there."""
        head = await self._control.head(full_key)
        if head is None:
            if await self._control.surely_absent(full_key):
                return None
            # It appeared in between, or something between us and the store made the 404 up.
            head = await self._control.head(full_key)
        if head is None:
            raise StoreUnavailable("HeadObject: 404, but the store does not say that the object is absent")
        return head

    async def owner_of(self, key: ObjectKey) -> UploadId | None:
        """Return whose marker the object carries. See the port."""
        head = await self._head(self._full(key))
        marker = None if head is None else head["Metadata"].get(MARKER)
        return None if marker is None else UploadId(marker)

    async def list_objects(self, prefix: str = "") -> AsyncIterator[ListedObject]:
        """Yield the objects below our prefix whose keys begin with `prefix`. See the port."""
        async for found in self._control.list_objects(self._full(prefix)):
            yield replace(found, key=ObjectKey(found.key.removeprefix(self._prefix)))

    async def multipart_exists(self, key: ObjectKey, multipart_id: MultipartId) -> bool:
        """Return whether the store still knows the multipart upload."""
        return await self._control.multipart_exists(self._full(key), multipart_id)

    async def list_parts(self, key: ObjectKey, multipart_id: MultipartId) -> list[ListedPart]:
        """Return all parts that the store has. See the port."""
        return await self._control.list_parts(self._full(key), multipart_id)

    def presign_part(
        self, key: ObjectKey, multipart_id: MultipartId, slot: Slot, plan: Plan, seconds: int
    ) -> SignedPart:
        """Return a URL for one part at the address that browsers use. See the port."""
        if not self.signs_parts:
            raise DirectOff
        path = encode_path(self._public_root + self._full(key))
        query = {"partNumber": str(slot.number), "uploadId": multipart_id}
        headers = {}
        if slot.digest is not None and plan.algorithm is not None:
            headers[f"x-amz-checksum-{plan.algorithm}"] = encode_digest(slot.digest)
        length = {} if slot.size is None else {"content-length": str(slot.size)}
        signed = self._handing_out.presign(
            "PUT",
            path,
            {**query, **self._kept_out},
            self._public_host,
            datetime.now(UTC),
            seconds,
            {**headers, **length, **self._kept_out},
        )
        return SignedPart(f"{self._public_origin}{path}?{signed}", headers)

    async def abort_multipart(self, key: ObjectKey, multipart_id: MultipartId) -> None:
        """Abort until the store says that it is gone. See the port."""
        await self._abort(self._full(key), multipart_id)

    async def _abort(self, full_key: str, multipart_id: str) -> None:
        for _ in range(ABORTS):
            with suppress(MultipartLost):
                await self._control.abort_multipart(full_key, multipart_id)
            if not await self._control.multipart_exists(full_key, multipart_id):
                return
        raise StoreUnavailable("AbortMultipartUpload: the store still shows the upload")

    async def list_multiparts(self, key: ObjectKey) -> list[MultipartId]:
        """Return the multipart uploads of exactly `key`."""
        return [MultipartId(found) for found in await self._control.list_multiparts(self._full(key))]

    async def delete_objects(self, keys: Sequence[ObjectKey]) -> None:
        """Delete objects; missing ones are fine."""
        await self._control.delete([self._full(key) for key in keys])

    async def read(
        self, key: ObjectKey, start: int = 0, size: int | None = None, *, etag: str | None = None
    ) -> AsyncGenerator[bytes]:
        """Stream bytes of an object; a broken connection is replaced where it broke. See the port."""
        if size == 0:
            return
        full, slowly = self._full(key), etag is not None
        position, end = start, None if size is None else start + size
        failures = 0
        while end is None or position < end:
            opened = await retried(partial(self._control.get, full, position, end, etag, slowly=slowly))
            try:
                end, etag = opened.end, opened.etag
                async for chunk in opened.chunks():
                    position += len(chunk)
                    failures = 0
                    yield chunk
            except Transient:
                failures += 1
                if failures == TRIES:
                    raise
            finally:
                opened.close()

    def presign(
        self, method: Literal["GET", "HEAD"], key: ObjectKey, presentation: Presentation, seconds: int
    ) -> str | None:
        """Return a URL for the object at the address that browsers use; None where they would need our key."""
        if self._manner.key_headers():
            return None
        path = encode_path(self._public_root + self._full(key))
        overrides = {
            "response-cache-control": presentation.cache_control,
            "response-content-disposition": presentation.disposition,
            "response-content-type": presentation.content_type,
        }
        query = self._handing_out.presign(method, path, overrides, self._public_host, datetime.now(UTC), seconds)
        return f"{self._public_origin}{path}?{query}"

    async def _read_piece(self, piece: Piece) -> AsyncIterator[bytes]:
        if piece.key is None:
            raise ValueError("a piece in a body must be an object of the store")
        try:
            async for chunk in self.read(piece.key, piece.skip, piece.size):
                yield chunk
        except ObjectAbsent as error:
            raise PieceLost(f"the stored piece at offset {piece.start} is gone") from error

    def _full(self, key: str) -> str:
        return self._prefix + key


def _full_object_crc64(head: HeadObjectOutputTypeDef) -> int:
    """Return the CRC64NVME of the whole object, -1 when the store reports none."""
    encoded = head.get("ChecksumCRC64NVME")
    if not encoded or head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return -1
    try:
        raw = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return -1
    return int.from_bytes(raw, "big") if len(raw) == 8 else -1
