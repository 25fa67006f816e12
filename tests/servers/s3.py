"""An S3 server as tests see it, whichever program it is."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import minio
import psutil
import urllib3
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.process import Control

REGION = "us-east-1"
READ_BYTES = 1 << 20
MEMORY_DIRECTORY = Path("/dev/shm")
MEMORY_NEEDED_BYTES = 8 << 30


@dataclass(frozen=True)
class S3Server:
    """Address, keys and control of a running S3 server.

    Attributes:
        endpoint: base URL without a trailing slash.
        ca_file: certificate that the server shows, where no authority vouches for it.
        control: stop, kill, pause and restart it. All block: async tests call them by `asyncio.to_thread`.
    """

    endpoint: str
    access_key: str
    secret_key: str
    control: Control
    region: str = REGION
    ca_file: str | None = None

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self.control.pid

    def client(self) -> minio.Minio:
        """Return a blocking client that is no code of ours. It does not retry: a test sees what happened."""
        address = urlsplit(self.endpoint)
        return minio.Minio(
            endpoint=address.netloc,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=address.scheme == "https",
            region=self.region,
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=2, read=60), retries=False, ca_certs=self.ca_file
            ),
        )

    def make_bucket(self, prefix: str = "test") -> str:
        """Make an empty bucket with a name of its own and return the name."""
        bucket = f"{prefix}-{uuid.uuid4().hex[:20]}"
        self.client().make_bucket(bucket_name=bucket)
        return bucket

    def remove_bucket(self, bucket: str) -> None:
        """Remove a bucket and all that is in it."""
        client = self.client()
        names = [DeleteObject(name) for name in self.keys(bucket)]
        errors = list(client.remove_objects(bucket_name=bucket, delete_object_list=names))
        if errors:
            raise AssertionError(f"could not empty {bucket}: {errors[0]}")
        client.remove_bucket(bucket_name=bucket)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the names of all objects under `prefix`, sorted."""
        found = self.client().list_objects(bucket_name=bucket, prefix=prefix, recursive=True)
        return sorted(item.object_name for item in found)

    def exists(self, bucket: str, key: str) -> bool:
        """Tell whether the object is there."""
        try:
            self.client().stat_object(bucket_name=bucket, object_name=key)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return False
            raise
        return True

    def read(self, bucket: str, key: str) -> bytes:
        """Return the object's bytes."""
        return b"".join(self._chunks(bucket, key))

    def sha256(self, bucket: str, key: str) -> str:
        """Return the hexadecimal SHA-256 of the object's bytes, read in small chunks."""
        digest = hashlib.sha256()
        for chunk in self._chunks(bucket, key):
            digest.update(chunk)
        return digest.hexdigest()

    def _chunks(self, bucket: str, key: str) -> Iterator[bytes]:
        response = self.client().get_object(bucket_name=bucket, object_name=key)
        try:
            yield from response.stream(READ_BYTES)
        finally:
            response.close()
            response.release_conn()

    def answers(self) -> bool:
        """Tell whether the server serves a signed request now."""
        try:
            self.client().list_buckets()
        except (S3Error, urllib3.exceptions.HTTPError, minio.error.ServerError):
            return False
        return True

    def restart(self) -> None:
        """Stop it in good order and start it on the same port and data."""
        self.stop()
        self.start()

    def start(self) -> None:
        """Start it again and wait until it answers. No-op when it runs."""
        self.control.start()

    def stop(self) -> None:
        """Stop it in good order. No-op when it does not run."""
        self.control.stop()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.control.kill()

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        self.control.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        self.control.resume()

    def heal(self) -> None:
        """Bring it back after a test that left it stopped or paused."""
        self.resume()
        self.start()


@contextmanager
def scratch_directory(name: str, *, in_memory: bool) -> Iterator[Path]:
    """Give a directory that is removed at the end; in memory when asked and when there is plenty of it.

    A killed test run cannot remove its own: the next run does.
    """
    parent = MEMORY_DIRECTORY if in_memory and _memory_is_plenty() else Path(tempfile.gettempdir())
    prefix = f"tusgate-{name}"
    for abandoned in parent.glob(f"{prefix}-*-*"):
        owner = abandoned.name.removeprefix(f"{prefix}-").partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(abandoned, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-{os.getpid()}-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _memory_is_plenty() -> bool:
    return MEMORY_DIRECTORY.is_dir() and shutil.disk_usage(MEMORY_DIRECTORY).free >= MEMORY_NEEDED_BYTES
