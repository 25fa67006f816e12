"""What is measured: each contender takes a workload and answers with seconds, CPU and memory."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import psutil
from minio.deleteobjects import DeleteObject

from bench.load import BLOCK
from tests.gateway import Gateway, minio_settings
from tests.servers import acquire, node
from tests.servers.process import ServerProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.s3 import S3Server

PEER = Path(__file__).with_name("peer")
LOAD_SECONDS = 300.0


@dataclass(frozen=True)
class Workload:
    """`uploads` files of `size` bytes, `connections` at once."""

    name: str
    connections: int
    size: int
    uploads: int


@dataclass(frozen=True)
class Result:
    """One run of one workload.

    Attributes:
        seconds: wall time.
        cpu: CPU seconds of the server under test, its children included; None when there is none, or it is not ours.
        rss: highest resident memory of the server so far, in bytes.
    """

    seconds: float
    cpu: float | None = None
    rss: int | None = None


class Contender(Protocol):
    """A way to bring files into the bucket."""

    name: str
    bucket: str | None
    """Where its objects are; None when that is not ours to look into."""

    def run(self, workload: Workload) -> Result:
        """Do all of `workload`. Raises AssertionError when an upload failed."""


class Direct:
    """Straight into S3: the floor."""

    name = "direct"

    def __init__(self, minio: S3Server, bucket: str) -> None:
        self.bucket: str | None = bucket
        self._address = [minio.endpoint, minio.access_key, minio.secret_key, bucket]

    def run(self, workload: Workload) -> Result:
        """See Contender."""
        return Result(_load("bench.direct", [*self._address, *_numbers(workload)], workload))


class TusServer:
    """A tus server at `endpoint`; `pid` is the process to measure, when it is ours."""

    def __init__(self, name: str, endpoint: str, pid: int | None = None, bucket: str | None = None) -> None:
        self.name = name
        self.bucket = bucket
        parts = urlsplit(endpoint)
        self.address = [str(parts.port or 80), parts.path or "/"]
        self._pid = pid

    @property
    def pid(self) -> int:
        """The process under test. Raises AssertionError when it is not ours."""
        assert self._pid is not None
        return self._pid

    def run(self, workload: Workload) -> Result:
        """See Contender."""
        before = self._cpu()
        seconds = _load("bench.load", [*self.address, *_numbers(workload)], workload)
        after = self._cpu()
        cpu = after - before if after is not None and before is not None else None
        return Result(seconds, cpu, None if self._pid is None else peak_rss(self._pid))

    def _cpu(self) -> float | None:
        return None if self._pid is None else cpu_seconds(self._pid)


@contextmanager
def tusgate(name: str, home: Path, minio: S3Server, bucket: str, settings: dict[str, str]) -> Iterator[TusServer]:
    """Run a gateway on `bucket`."""
    quiet = {"TUSGATE_LOG_LEVEL": "warning"}
    with Gateway(home, minio_settings(minio, bucket) | quiet | settings) as gateway:
        yield TusServer(name, gateway.endpoint, gateway.pid, bucket)


@contextmanager
def node_peer(home: Path, minio: S3Server, bucket: str) -> Iterator[TusServer]:
    """Run @tus/server with @tus/s3-store on `bucket`, with the part size that we use."""
    if not (PEER / "node_modules").is_dir() and node.install(PEER) != 0:
        raise acquire.MissingError("npm could not install the peer")
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [str(acquire.find_node()), str(PEER / "server.mjs"), str(port), minio.endpoint, bucket]
    keys = {"ACCESS_KEY": minio.access_key, "SECRET_KEY": minio.secret_key, "TMPDIR": str(home), "HOME": str(home)}

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    server = ServerProcess("peer", command, answers, home / "peer.log", environment=keys)
    server.start()
    try:
        yield TusServer("@tus/server", f"http://127.0.0.1:{port}/files", server.pid, bucket)
    finally:
        server.kill()


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process and its living children."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def check_and_empty(minio: S3Server, bucket: str, workload: Workload, *, content: bool) -> None:
    """Raise AssertionError when `bucket` lacks files of `workload`, by size or also by `content`; then empty it.

    What else a server keeps there (pieces, notes of its own) does not count.
    """
    client = minio.client()
    found = list(client.list_objects(bucket_name=bucket, recursive=True))
    files = [item.object_name for item in found if item.size == workload.size]
    assert len(files) == workload.uploads, f"{bucket} has {len(files)} of {workload.uploads} files"
    if content:
        wanted = _sha256(workload.size)
        wrong = [key for key in files if minio.sha256(bucket, key) != wanted]
        assert not wrong, f"other bytes in {bucket}: {wrong}"
    names = [DeleteObject(item.object_name) for item in found]
    errors = list(client.remove_objects(bucket_name=bucket, delete_object_list=names))
    assert not errors, errors[0]


def peak_rss(pid: int) -> int:
    """Return the highest resident memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _sha256(size: int) -> str:
    """Return the hash of `size` bytes as the load generators send them."""
    digest = hashlib.sha256()
    for start in range(0, size, len(BLOCK)):
        digest.update(BLOCK[: size - start])
    return digest.hexdigest()


def _numbers(workload: Workload) -> list[str]:
    return [str(workload.connections), str(workload.size), str(workload.uploads)]


def _load(module: str, arguments: list[str], workload: Workload) -> float:
    """Run a load generator and return its seconds."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LOAD_SECONDS)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["done"] == workload.uploads, report["failures"]
    return float(report["seconds"])
