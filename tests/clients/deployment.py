"""A gateway with its database and store, and a look at what is stored that does not go through the gateway."""

from __future__ import annotations

import hashlib
import http.client
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from tests.servers.process import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server

PIECES = ".tusgate/"
"""Where the gateway keeps what is no finished object."""


class Objects(Protocol):
    """The finished objects of a deployment."""

    def keys(self) -> list[str]:
        """Return the keys of all finished objects."""

    def sha256(self, key: str) -> str:
        """Return the hexadecimal digest of one object."""


@dataclass(frozen=True)
class BucketObjects:
    """Finished objects in a bucket."""

    server: S3Server
    bucket: str

    def keys(self) -> list[str]:
        return [key for key in self.server.keys(self.bucket) if not key.startswith(PIECES)]

    def sha256(self, key: str) -> str:
        return self.server.sha256(self.bucket, key)


@dataclass(frozen=True)
class DirectoryObjects:
    """Finished objects of a directory store."""

    directory: Path

    def keys(self) -> list[str]:
        paths = [path for path in self.directory.rglob("*") if path.is_file()]
        names = [str(path.relative_to(self.directory)) for path in paths]
        return [name for name in names if not name.startswith(PIECES)]

    def sha256(self, key: str) -> str:
        with (self.directory / key).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Deployment:
    """A running gateway and the objects behind it."""

    gateway: Gateway
    objects: Objects

    @property
    def control(self) -> Gateway:
        """The gateway, under the name by which the report of a failed test finds logs."""
        return self.gateway

    def stored_sha256(self, upload_url: str) -> str:
        """Return the digest of what the upload became.

        A request that was cut off or taken over while it stored a whole small file may leave an object that waits
        for the garbage collection; it must not differ.
        """
        upload_id = upload_url.rsplit("/", 1)[-1]
        (digest,) = {self.objects.sha256(key) for key in self.objects.keys() if upload_id in key}  # noqa: SIM118
        return digest

    def offset(self, upload_url: str) -> int:
        """Ask the gateway how many bytes it has acknowledged."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=60)
        try:
            connection.request("HEAD", urlsplit(upload_url).path, headers={"Tus-Resumable": "1.0.0"})
            answer = connection.getresponse()
            assert answer.status == http.HTTPStatus.OK, f"HEAD was answered with {answer.status}"
            return int(answer.headers["Upload-Offset"])
        finally:
            connection.close()

    def wait_for_offset(self, upload_url: str, at_least: int) -> int:
        """Wait until that many bytes are acknowledged and return how many there are."""
        wait_until(lambda: self.offset(upload_url) >= at_least, f"{at_least} bytes of {upload_url}")
        return self.offset(upload_url)
