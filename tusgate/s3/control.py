"""Every S3 call about objects that carries no upload bytes, through aiobotocore.

Its retries are off: one policy (`retry`) serves the whole package, and botocore's would hide that Complete was
sent twice, which turns a lost answer into a NoSuchUpload.
"""

from __future__ import annotations

import asyncio
import base64
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from tusgate.core.direct import ListedPart
from tusgate.core.errors import MultipartLost, ObjectLost, StoreRefused, StoreUnavailable
from tusgate.core.model import ListedObject, ObjectKey
from tusgate.s3.bulk import BulkReader
from tusgate.s3.clients import open_client
from tusgate.s3.errors import Damaged, ObjectAbsent, Transient, failure
from tusgate.s3.profiles import ChecksumMode
from tusgate.s3.retry import retried
from tusgate.s3.wire import encode_crc64, encode_digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from botocore.model import OperationModel
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import (
        CompletedPartTypeDef,
        CompleteMultipartUploadRequestTypeDef,
        CreateMultipartUploadRequestTypeDef,
        GetObjectOutputTypeDef,
        GetObjectRequestTypeDef,
        HeadObjectOutputTypeDef,
        HeadObjectRequestTypeDef,
        ListObjectsV2RequestTypeDef,
        PartTypeDef,
        UploadPartCopyRequestTypeDef,
    )

    from tusgate.core.direct import Plan
    from tusgate.core.model import Part, Piece
    from tusgate.s3.config import S3Config

COMPLETE_TIMEOUT: Final = 900.0
"""Seconds without a byte of answer to Complete, or to a copy: MinIO and Versity answer when all bytes are there."""
LARGEST_WHOLE_SOURCE: Final = 5 * 1024 * 1024
"""Bytes of the largest object that S3 copies only as a whole: "you can copy a range only if the source object is
greater than 5 MB" (UploadPartCopy in the Amazon S3 API reference)."""
_CREATION_FIELDS: Final = {
    "x-amz-storage-class": "StorageClass",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-aws-kms-key-id": "SSEKMSKeyId",
    "x-amz-tagging": "Tagging",
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
}
"""Headers of a new object by the names that botocore has for them."""
_KEY_BEARING: Final = {
    "CreateMultipartUpload": False,
    "CompleteMultipartUpload": False,
    "ListParts": False,
    "HeadObject": False,
    "GetObject": False,
    "UploadPartCopy": True,
}
"""Operations that S3 wants a customer's key with, and whether they have a source that is encrypted with it, too."""
LEAST_BULK: Final = 2 * 1024 * 1024
"""Bytes of an answer that are worth a connection of its own: `BulkReader` leaves nothing that could be used again."""
BULK_DELETE: Final = 1000
"""Keys in one DeleteObjects (S3: 1,000)."""
SINGLE_DELETES: Final = 8
"""DeleteObject calls at a time where DeleteObjects is not to be had."""

T = TypeVar("T")

_TRANSPORT_ERRORS = (BotoCoreError, ResponseParserError, aiohttp.ClientError, OSError, TimeoutError)


class Opened:
    """The body of one GetObject.

    Attributes:
        end: offset in the object of the byte after the last one that will come.
        etag: of the object, without quotes.
    """

    def __init__(self, answer: GetObjectOutputTypeDef, start: int, patience: float) -> None:
        self._body = answer["Body"]
        self._size = answer.get("ContentLength", 0)
        self._patience = patience
        self.end = start + self._size
        self.etag = answer.get("ETag", "").strip('"')

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what arrives as it arrives. Raises Transient when the connection breaks."""
        if self._size >= LEAST_BULK:
            async for chunk in self._bulk():
                yield chunk
            return
        content: aiohttp.StreamReader = self._body.raw_stream.content  # read(n) would cut and join
        while True:
            self._let_come(True)
            chunk = await _translated("GetObject", content.readany)
            if not chunk:
                return
            self._let_come(False)
            yield chunk

    async def _bulk(self) -> AsyncIterator[bytes]:
        """Yield what aiohttp has read behind the head, and then take the connection from it."""
        raw = self._body.raw_stream
        left = self._size
        while chunk := await _translated("GetObject", self._read_already):
            left -= len(chunk)
            yield chunk
        if left:  # nobody else has run since nothing was left in aiohttp
            if raw.connection is None:
                raise Transient("GetObject: the connection broke")
            reader = BulkReader(raw.connection.transport, left, self._patience)
            while chunk := await reader.read():
                yield chunk

    async def _read_already(self) -> bytes:
        self._let_come(False)
        chunk: bytes = self._body.raw_stream.content.read_nowait()  # may resume the transport
        self._let_come(False)
        return chunk

    def _let_come(self, wanted: bool) -> None:
        """Read from the socket, or leave what comes to the kernel: aiohttp reads 380 KiB ahead of a slow reader."""
        connection = self._body.raw_stream.connection
        transport = None if connection is None else connection.transport
        if transport is None or transport.is_closing():
            return
        if wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def close(self) -> None:
        """Give the connection back, or drop it when bytes are left."""
        self._body.close()


@dataclass(frozen=True)
class _Clients:
    """One connection pool for each kind of call.

    Attributes:
        quick: for what is answered at once.
        patient: for Complete, which may be answered after minutes.
        reading: for objects that are read at the pace of clients, who may take hours.
    """

    quick: S3Client
    patient: S3Client
    reading: S3Client


class Control:
    """Control calls on one bucket, with full keys. Clients are made at first use in the running loop."""

    def __init__(self, config: S3Config) -> None:
        self._config = config
        self._bucket = config.bucket
        self._key_headers = {
            operation: config.manner.key_headers() | (config.manner.key_headers(of_source=True) if copies else {})
            for operation, copies in _KEY_BEARING.items()
        }
        self._checksums = config.profile.checksum is ChecksumMode.CRC64NVME
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._clients: _Clients | None = None

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        self._clients = None
        await self._stack.aclose()

    async def create_multipart(
        self,
        key: str,
        marker: dict[str, str],
        content_type: str | None,
        content_coding: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        with_copies: bool = False,
        plan: Plan | None = None,
    ) -> str:
        """Begin a multipart upload and return its id. Tried once: a try whose answer is lost leaves one behind."""
        client = await self._client()
        request: CreateMultipartUploadRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": key,
            "Metadata": marker,
        }
        if content_type:
            request["ContentType"] = content_type
        if content_coding:
            request["ContentEncoding"] = content_coding
        request.update(_creation_fields(headers or {}))
        if self._checks_whole(with_copies, plan):
            request["ChecksumAlgorithm"] = "CRC64NVME"
            request["ChecksumType"] = "FULL_OBJECT"
        elif self._has_sha256(plan) and (self._config.profile.copied_part_checksums or not with_copies):
            request["ChecksumAlgorithm"] = "SHA256"
        answer = await _translated("CreateMultipartUpload", lambda: client.create_multipart_upload(**request))
        return answer["UploadId"]

    def _checks_whole(self, with_copies: bool, plan: Plan | None) -> bool:
        """Return whether a multipart upload is one with CRC64NVME, of its parts and of the whole."""
        if plan is not None and plan.algorithm != "crc64nvme":
            return False
        return self._checksums and (self._config.profile.copied_part_checksums or not with_copies)

    def _has_sha256(self, plan: Plan | None) -> bool:
        """Return whether a multipart upload is one whose parts bring a SHA-256."""
        return self._checksums and plan is not None and plan.algorithm == "sha256"

    async def copy_part(
        self, key: str, multipart_id: str, number: int, source_key: str, source: Piece, etag: str | None = None
    ) -> str:
        """Make a part of `source`, with up to three tries, and return its ETag without quotes.

        Raises:
            ObjectAbsent: NoSuchKey, of the source or (Ceph) of the multipart upload.
            ObjectLost: the source is another object than the one with `etag`.
            MultipartLost, StoreRefused, StoreUnavailable: see the port.
        """
        client = (await self._opened()).patient
        request: UploadPartCopyRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": key,
            "UploadId": multipart_id,
            "PartNumber": number,
            "CopySource": {"Bucket": self._bucket, "Key": source_key},
        }
        if etag_of_all := await self._etag_of_small_object(source_key, source):
            request["CopySourceIfMatch"] = etag_of_all
        else:
            request["CopySourceRange"] = f"bytes={source.skip}-{source.skip + source.size - 1}"
        if etag is not None:
            request["CopySourceIfMatch"] = f'"{etag}"'

        async def attempt() -> str:
            answer = await _translated("UploadPartCopy", lambda: client.upload_part_copy(**request))
            result = answer.get("CopyPartResult", {})
            etag = result.get("ETag", "").strip('"')
            if not etag:
                raise Transient("UploadPartCopy: 200 without an ETag")
            crc64 = result.get("ChecksumCRC64NVME")
            if crc64 and source.crc64 >= 0 and crc64 != encode_crc64(source.crc64):
                raise Damaged("UploadPartCopy: the store copied other bytes", answered=True)
            return etag

        try:
            return await retried(attempt)
        except Damaged as error:  # no link has had a hand in it: to copy is not this store's strength
            raise StoreRefused(str(error)) from error

    async def _etag_of_small_object(self, key: str, source: Piece) -> str | None:
        """Return the ETag of an object that S3 copies only as a whole, if `source` is all of it."""
        if source.skip or source.size > LARGEST_WHOLE_SOURCE:
            return None
        head = await self.head(key)
        return head["ETag"] if head is not None and head["ContentLength"] == source.size else None

    async def complete_multipart(
        self,
        key: str,
        multipart_id: str,
        parts: Sequence[Part],
        crc64: int,
        *,
        with_copies: bool = False,
        plan: Plan | None = None,
    ) -> None:
        """Complete: sent once, and given 15 minutes without a byte of answer.

        Raises:
            MultipartLost, StoreRefused: see the port.
            StoreUnavailable: the outcome is unknown, also after a 200 that does not name the object.
        """
        client = (await self._opened()).patient
        checks_whole = self._checks_whole(with_copies, plan)
        listed = [_listed(part, checks_whole) for part in parts]
        if plan is not None and self._has_sha256(plan):
            for each, digest in zip(listed, plan.digests, strict=True):
                each["ChecksumSHA256"] = encode_digest(digest)
        request: CompleteMultipartUploadRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": key,
            "UploadId": multipart_id,
            "MultipartUpload": {"Parts": listed},
        }
        if checks_whole:
            request["ChecksumCRC64NVME"] = encode_crc64(crc64)
            request["ChecksumType"] = "FULL_OBJECT"
        if self._config.profile.object_size_check:
            request["MpuObjectSize"] = sum(part.size for part in parts)
        answer = await _translated(
            "CompleteMultipartUpload",
            lambda: client.complete_multipart_upload(**request),
        )
        # botocore takes an empty answer for a success.
        if not any(name in answer for name in ("ETag", "Key", "Location")):
            raise StoreUnavailable("CompleteMultipartUpload: 200 without a result")

    async def abort_multipart(self, key: str, multipart_id: str) -> None:
        """Abort once. Raises MultipartLost when the store says that there is no such upload."""
        client = await self._client()
        await _repeated(
            "AbortMultipartUpload",
            lambda: client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=multipart_id),
        )

    async def multipart_exists(self, key: str, multipart_id: str) -> bool:
        """Return whether ListParts still knows the upload."""
        client = await self._client()
        try:
            await _repeated(
                "ListParts",
                lambda: client.list_parts(Bucket=self._bucket, Key=key, UploadId=multipart_id, MaxParts=1),
            )
        except MultipartLost:
            return False
        return True

    async def list_parts(self, key: str, multipart_id: str) -> list[ListedPart]:
        """Return all parts of a multipart upload, asked for page by page. Raises MultipartLost."""
        client = await self._client()

        async def list_all() -> list[ListedPart]:
            pages = client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=multipart_id)
            return [_listed_part(part) async for page in pages for part in page.get("Parts", ())]

        return await _repeated("ListParts", list_all)

    async def list_multiparts(self, key: str) -> list[str]:
        """Return the ids of all multipart uploads of exactly `key`."""
        client = await self._client()

        async def list_all() -> list[str]:
            pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=key)
            return [
                upload["UploadId"]
                async for page in pages
                for upload in page.get("Uploads", ())
                if upload.get("Key") == key
            ]

        return await _repeated("ListMultipartUploads", list_all)

    async def list_objects(self, prefix: str) -> AsyncIterator[ListedObject]:
        """Yield the objects whose full keys begin with `prefix`, asked for page by page."""
        client = await self._client()
        token: str | None = None
        while True:
            request: ListObjectsV2RequestTypeDef = {"Bucket": self._bucket, "Prefix": prefix}
            if token is not None:
                request["ContinuationToken"] = token
            page = await _repeated("ListObjectsV2", partial(client.list_objects_v2, **request))
            for found in page.get("Contents", ()):
                yield ListedObject(ObjectKey(found["Key"]), found["Size"], found["LastModified"])
            if not page.get("IsTruncated"):
                return
            token = page["NextContinuationToken"]

    async def head(self, key: str) -> HeadObjectOutputTypeDef | None:
        """Return what HeadObject says, None for a 404: a hint and no proof, as it has no body to read."""
        client = await self._client()
        request: HeadObjectRequestTypeDef = {"Bucket": self._bucket, "Key": key}
        if self._checksums:
            request["ChecksumMode"] = "ENABLED"

        async def head() -> HeadObjectOutputTypeDef | None:
            try:
                return await client.head_object(**request)
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise

        return await _repeated("HeadObject", head)

    async def surely_absent(self, key: str) -> bool:
        """Return whether the store says NoSuchKey, in an answer that has a body."""
        try:
            opened = await retried(partial(self.get, key, 0, None, None))
        except ObjectAbsent:
            return True
        opened.close()
        return False

    async def get(self, key: str, start: int, end: int | None, etag: str | None, *, slowly: bool = False) -> Opened:
        """Open bytes `[start, end)` of an object for reading, in one try; close what is returned.

        Args:
            key: full key.
            start: first byte.
            end: byte after the last one; None: to the end.
            etag: of the object that is meant.
            slowly: it may take hours to read it.

        Raises:
            ObjectLost: there is no such object, or another one by now.
            StoreUnavailable: also when the store offers other bytes than it was asked for.
        """
        clients = await self._opened()
        client = clients.reading if slowly else clients.quick
        whole = start == 0 and end is None
        request: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": key}
        if not whole:
            request["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if etag:
            request["IfMatch"] = f'"{etag}"'
        answer = await _translated("GetObject", lambda: client.get_object(**request))
        opened = Opened(answer, start, self._config.read_timeout)
        if etag and opened.etag != etag:  # not every store knows If-Match
            opened.close()
            raise ObjectLost("GetObject: there is another object now")
        in_place = whole or answer.get("ContentRange", "").startswith(f"bytes {start}-")
        if not in_place or (end is not None and opened.end != end):
            opened.close()
            raise StoreUnavailable(f"GetObject: asked for {request.get('Range')}, got something else")
        return opened

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; missing ones are fine."""
        if self._config.profile.bulk_delete and len(keys) > 1:
            for first in range(0, len(keys), BULK_DELETE):
                await self._delete_together(keys[first : first + BULK_DELETE])
        else:
            await self._delete_singly(keys)

    async def _delete_together(self, keys: Iterable[str]) -> None:
        client = await self._client()
        answer = await _repeated(
            "DeleteObjects",
            lambda: client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            ),
        )
        codes = {error.get("Code", "") for error in answer.get("Errors", ())} - {"NoSuchKey"}
        if codes:
            raise failure("DeleteObjects", 200, min(codes))

    async def _delete_singly(self, keys: Iterable[str]) -> None:
        client = await self._client()
        slots = asyncio.Semaphore(SINGLE_DELETES)

        async def delete(key: str) -> None:
            async with slots:
                await _repeated("DeleteObject", lambda: client.delete_object(Bucket=self._bucket, Key=key))

        for outcome in await asyncio.gather(*map(delete, keys), return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, ObjectAbsent):
                raise outcome

    async def _client(self) -> S3Client:
        return (await self._opened()).quick

    async def _opened(self) -> _Clients:
        async with self._opening:
            if self._clients is None:
                config = self._config
                self._clients = _Clients(
                    quick=await self._open(config.read_timeout, config.connections),
                    patient=await self._open(COMPLETE_TIMEOUT, config.connections),
                    reading=await self._open(config.read_timeout, config.readers),
                )
            return self._clients

    def _bring_key(self, model: OperationModel, params: dict[str, dict[str, str]], **_: object) -> None:
        """Add the customer's key, before the request is signed."""
        params["headers"].update(self._key_headers.get(model.name, {}))

    async def _open(self, read_timeout: float, connections: int) -> S3Client:
        client = await open_client(self._stack, self._config, read_timeout, connections)
        client.meta.events.register("before-call.s3", self._bring_key)
        return client


def _creation_fields(headers: Mapping[str, str]) -> CreateMultipartUploadRequestTypeDef:
    """Return how botocore names these headers; a customer's key is brought by a hook, in all requests alike."""
    fields = {_CREATION_FIELDS[name]: value for name, value in headers.items() if name in _CREATION_FIELDS}
    return cast("CreateMultipartUploadRequestTypeDef", fields)


def _listed(part: Part, with_checksum: bool) -> CompletedPartTypeDef:
    listed: CompletedPartTypeDef = {"PartNumber": part.number, "ETag": f'"{part.etag}"'}
    if with_checksum:
        listed["ChecksumCRC64NVME"] = encode_crc64(part.crc64)
    return listed


def _listed_part(part: PartTypeDef) -> ListedPart:
    crc64, sha256 = part.get("ChecksumCRC64NVME"), part.get("ChecksumSHA256")
    return ListedPart(
        part["PartNumber"],
        part["Size"],
        part["ETag"].strip('"'),
        int.from_bytes(base64.b64decode(crc64), "big") if crc64 else -1,
        base64.b64decode(sha256) if sha256 else None,
    )


async def _repeated(operation: str, call: Callable[[], Awaitable[T]]) -> T:
    return await retried(partial(_translated, operation, call))


async def _translated(operation: str, call: Callable[[], Awaitable[T]]) -> T:
    """Await `call()` and turn the errors of botocore and aiohttp into ours."""
    try:
        return await call()
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        raise failure(operation, _status(error), code, headers.get("retry-after")) from error
    except _TRANSPORT_ERRORS as error:
        raise Transient(f"{operation}: {type(error).__name__}") from error


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
