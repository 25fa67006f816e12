"""A gateway on MinIO and PostgreSQL whose calls to the store are seen, for clients that occupy the test's thread."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tests.clients.deployment import BucketObjects, Deployment
from tests.fault.proxy import S3FaultProxy
from tests.gateway import minio_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from tests.clients.payload import Payload
    from tests.fault.calls import History
    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server

T = TypeVar("T")
SMALL_PARTS = {"TUSGATE_PART_SIZE": "5MiB"}


@contextmanager
def in_background(service: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Run an asynchronous service on a loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        started = asyncio.run_coroutine_threadsafe(service.__aenter__(), loop).result()
        try:
            yield started
        finally:
            asyncio.run_coroutine_threadsafe(service.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(frozen=True)
class Watched:
    """A gateway and its calls.

    Attributes:
        deployment: the gateway and its objects.
        calls: what it asked the store.
    """

    deployment: Deployment
    calls: History

    @property
    def url(self) -> str:
        """Address of the gateway."""
        return self.deployment.gateway.url

    @property
    def endpoint(self) -> str:
        """Where uploads are created."""
        return self.deployment.gateway.endpoint

    @property
    def moved(self) -> tuple[int, int, int]:
        """Bytes that were sent to the store, ranges that it copied, and how often its objects were read."""
        return self.calls.bytes_put, self.calls.count("UploadPartCopy", "CopyObject"), self.calls.count("GetObject")

    def check(self, url: str, file: Payload) -> None:
        """Hold the object of the finished upload at `url` against its file."""
        assert url, "the client has not finished"
        assert self.deployment.stored_sha256(url) == file.sha256


@contextmanager
def watching(
    minio: S3Server,
    bucket: str,
    dsn: str,
    start_gateway: Callable[..., Gateway],
    settings: Mapping[str, str] | None = None,
) -> Iterator[Watched]:
    """Start a gateway with small parts."""
    with in_background(S3FaultProxy(minio.endpoint)) as store:
        own = minio_settings(minio, bucket) | {"TUSGATE_S3_ENDPOINT": store.url, "TUSGATE_DATABASE_URL": dsn}
        gateway = start_gateway(own | SMALL_PARTS | dict(settings or {}))
        store.history.clear()
        try:
            yield Watched(Deployment(gateway, BucketObjects(minio, bucket)), store.history)
        finally:
            gateway.kill()
