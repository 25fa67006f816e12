"""The hot path: UploadPart and PutObject, straight from the buffers that the client's bytes arrived in.

Measured (8 MiB parts, four at a time, uvloop, CPU-s/GiB to a discarding sink / to MinIO): 0.25 / 0.26 as it is;
the buffers from an async generator 0.25 / 0.37; joined first 0.69 / 0.80. `Expect: 100-continue` gained nothing:
a body in memory can be sent again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NoReturn

import aiohttp
from aiohttp.payload import Payload
from awscrt import checksums
from yarl import URL

from tusgate.core.errors import StoreUnavailable
from tusgate.s3.errors import Damaged, PieceDamaged, Transient, error_code, failure
from tusgate.s3.profiles import ChecksumMode
from tusgate.s3.retry import retried
from tusgate.s3.sign import Signer, encode_path, encode_query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from aiohttp.abc import AbstractStreamWriter

    from tusgate.core.model import Piece
    from tusgate.ports import Body, Buffer
    from tusgate.s3.config import S3Config

    PieceReader = Callable[[Piece], AsyncIterator[bytes]]

WRITE_SIZE: Final = 8 * 1024 * 1024
"""Bytes handed to the transport at a time: by reference, the kernel takes them from our buffers."""
TLS_WRITE_SIZE: Final = 512 * 1024
"""The same over TLS, where the transport encrypts all that it is handed at once: into new memory, and blocking."""
DNS_TTL: Final = 2
"""Seconds for which an address is remembered: one that moved has to be found, connected to and asked within ten."""
ANSWER_LIMIT: Final = 64 * 1024
"""Bytes of an answer that are read; S3 errors are far shorter."""
CRC64_HEADER: Final = "x-amz-checksum-crc64nvme"

_TRANSPORT_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


def encode_crc64(crc64: int) -> str:
    """Return a CRC64NVME as S3 writes it: base64 of eight bytes, most significant first."""
    return encode_digest(crc64.to_bytes(8, "big"))


def encode_digest(digest: bytes) -> str:
    """Return a digest as it stands in x-amz-checksum headers and documents."""
    return base64.b64encode(digest).decode("ascii")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request: status, headers that matter, and the (short) body."""

    status: int
    etag: str
    crc64: str | None
    retry_after: str | None
    body: bytes


class _StallWatch:
    """Aborts a connection whose write buffer does not shrink for `timeout` seconds.

    Not `asyncio.timeout` around the drain: a slow store is not a stalled one, and aiohttp cannot wait again for
    a drain that was cancelled.
    """

    def __init__(self, transport: asyncio.WriteTransport, timeout: float) -> None:
        self._transport = transport
        self._timeout = timeout
        self._start()

    def stop(self) -> None:
        """Stop watching."""
        self._timer.cancel()

    def _start(self) -> None:
        self._left = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(self._timeout, self._look)

    def _look(self) -> None:
        if self._transport.get_write_buffer_size() >= self._left:
            self._transport.abort()
        else:
            self._start()


class BodyPayload(Payload):
    """An aiohttp payload that sends a `Body`: first its pieces, read back from the store, then its buffers.

    It ends with an error, never quietly, when a piece is short or damaged: the server discards the request.
    """

    _consumed = True  # aiohttp must not send it a second time behind our retries

    def __init__(self, body: Body, read_piece: PieceReader, write_size: int, stall_timeout: float) -> None:
        super().__init__(body)
        self._size = body.size
        self._body = body
        self._read_piece = read_piece
        self._write_size = write_size
        self._stall_timeout = stall_timeout

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> NoReturn:
        """Raise TypeError: a body is not text (aiohttp's abstract method)."""
        raise TypeError("a body is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send everything; a server that takes nothing for the stall time-out loses the connection."""
        try:
            for piece in self._body.pieces:
                await self._write_piece(writer, piece)
            await self._write_buffers(writer)
        except BaseException:
            # Half a body is of no use; a polite close would wait until the server has taken what is queued.
            if writer.transport is not None:
                writer.transport.abort()
            raise

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send everything: `content_length` is our own size, because it is what `size` announces."""
        await self.write(writer)

    async def _write_buffers(self, writer: AbstractStreamWriter) -> None:
        batch: list[Buffer] = []
        size = 0
        for buffer in self._body.buffers:
            batch.append(buffer)
            size += len(buffer)
            if size >= self._write_size:
                await self._write_batch(writer, batch)
                batch, size = [], 0
        if batch:
            await self._write_batch(writer, batch)

    async def _write_piece(self, writer: AbstractStreamWriter, piece: Piece) -> None:
        """Send a piece, one chunk behind what is read: damage is found before the last one is on its way."""
        crc64 = size = 0
        held = b""
        async for chunk in self._read_piece(piece):
            crc64 = checksums.crc64nvme(chunk, crc64)
            size += len(chunk)
            if held:
                await self._write_batch(writer, [held])
            held = chunk
        if size != piece.size or crc64 != piece.crc64:
            raise PieceDamaged(f"the stored piece at offset {piece.start} came back damaged")
        await self._write_batch(writer, [held])

    async def _write_batch(self, writer: AbstractStreamWriter, batch: list[Buffer]) -> None:
        writer.send_headers()  # does nothing after the first time
        transport = writer.transport
        if transport is None or transport.is_closing():
            raise aiohttp.ClientConnectionResetError("the store closed the connection")
        transport.writelines(batch)
        watch = _StallWatch(transport, self._stall_timeout)
        try:
            await writer.drain()
        finally:
            watch.stop()


class Wire:
    """Sends parts and objects. One connection pool, made at first use in the running loop."""

    def __init__(self, config: S3Config, read_piece: PieceReader) -> None:
        self._config = config
        self._read_piece = read_piece
        self._write_size = TLS_WRITE_SIZE if config.origin.startswith("https:") else WRITE_SIZE
        self._signer = Signer(config.credentials, config.region)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def put(
        self, operation: str, key: str, body: Body, *, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> str:
        """PUT `body` with up to three tries and return the ETag without quotes.

        Args:
            operation: the S3 operation, for messages.
            key: the full key.
            body: sent again from the start on every try.
            query: query parameters.
            headers: with lower-case names; checksums are added here.

        Raises:
            MultipartLost: the store says that there is no such multipart upload.
            Damaged: the bytes had another checksum than `body.crc64` on every try.
            StoreRefused: the store will never take this.
            PieceLost: a piece is gone, or came back damaged on every try.
            Transient: the tries are used up.
            StoreUnavailable: the store does not want us.
        """
        _check_size(body)
        complete = {"host": self._config.host, **headers, **await self._checksum_headers(body)}
        path = encode_path(self._config.root + key)
        encoded_query = encode_query(query)
        url = URL(f"{self._config.origin}{path}{'?' if encoded_query else ''}{encoded_query}", encoded=True)

        async def attempt() -> str:
            signed = self._signer.sign("PUT", path, encoded_query, complete, datetime.now(UTC))
            return _etag_of(operation, await self._send(operation, url, signed, body), complete)

        return await retried(attempt)

    async def _send(self, operation: str, url: URL, headers: Mapping[str, str], body: Body) -> Answer:
        payload = BodyPayload(body, self._read_piece, self._write_size, self._config.read_timeout)
        try:
            async with self._open().put(url, data=payload, headers=headers, allow_redirects=False) as response:
                return Answer(
                    response.status,
                    response.headers.get("etag", "").strip('"'),
                    response.headers.get(CRC64_HEADER),
                    response.headers.get("retry-after"),
                    await response.content.read(ANSWER_LIMIT),
                )
        except _TRANSPORT_ERRORS as error:
            if isinstance(error.__cause__, StoreUnavailable):  # a piece could not be read back
                raise error.__cause__ from error
            raise Transient(f"{operation}: {type(error).__name__}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            config = self._config
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=config.connections, ttl_dns_cache=DNS_TTL),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=config.connect_timeout, sock_read=config.read_timeout
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
                auto_decompress=False,
            )
        return self._session

    async def _checksum_headers(self, body: Body) -> dict[str, str]:
        match self._config.profile.checksum:
            case ChecksumMode.CRC64NVME:
                return {CRC64_HEADER: encode_crc64(body.crc64)}
            case ChecksumMode.CONTENT_MD5:
                return {"content-md5": await self._content_md5(body)}
            case ChecksumMode.NONE:
                return {}

    async def _content_md5(self, body: Body) -> str:
        """Return base64 of the MD5; pieces are read back once more for it."""
        digest = hashlib.md5(usedforsecurity=False)
        for piece in body.pieces:
            async for chunk in self._read_piece(piece):
                digest.update(chunk)
        await asyncio.to_thread(_update_all, digest, body)
        return base64.b64encode(digest.digest()).decode("ascii")


def _update_all(digest: hashlib._Hash, body: Body) -> None:
    for buffer in body.buffers:
        digest.update(buffer)


def _check_size(body: Body) -> None:
    size = sum(piece.size for piece in body.pieces) + sum(map(len, body.buffers))
    if size != body.size:
        # Sent as it is, the request would hang until the store gives up, or carry too much.
        raise ValueError(f"a body of {body.size} bytes has {size}")


def _etag_of(operation: str, answer: Answer, sent: Mapping[str, str]) -> str:
    if answer.status != 200:
        raise failure(operation, answer.status, error_code(answer.body), answer.retry_after)
    if not answer.etag:
        raise Transient(f"{operation}: 200 without an ETag")
    if answer.crc64 and CRC64_HEADER in sent and answer.crc64 != sent[CRC64_HEADER]:
        raise Damaged(f"{operation}: the store received other bytes", answered=True)
    return answer.etag
