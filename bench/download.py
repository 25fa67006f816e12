"""Downloads: through the gateway beside straight from the store, many slow readers, and what the access log costs."""

from __future__ import annotations

import hashlib
import re
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.table import Table

from bench.contenders import TusServer, cpu_seconds, peak_rss, tusgate
from bench.load import Connection, patch_fields
from bench.memory import resident
from tests.gateway import Gateway
from tests.servers import postgres
from tusgate.core.model import ObjectKey
from tusgate.ports import Presentation
from tusgate.s3.config import S3Config
from tusgate.s3.profiles import PROFILES
from tusgate.s3.store import S3Store

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from tests.servers.s3 import S3Server

MIB = 1 << 20
GIB = 1 << 30
READERS = 200
SMALL = 1024
SMALL_READERS = 32
SMALL_DOWNLOADS = 4000
READ_AT_ONCE = 8 * 1024
"""Bytes that a slow reader takes twice a second."""
_HEAD_END = b"\r\n\r\n"


def show_downloads(console: Console, home: Path, store: S3Server, *, size: int, rounds: int, seconds: float) -> None:
    """Measure and print.

    Args:
        console: to print on.
        home: an empty directory.
        store: where the file is.
        size: bytes of the file.
        rounds: of both ways, interleaved; medians are shown.
        seconds: for which the slow readers read.
    """
    bucket = store.make_bucket("download")
    with tusgate("tusgate", home / "gateway", store, bucket, {"TUSGATE_MAX_DOWNLOADS": str(READERS)}) as server:
        path = _uploaded(server, size)
        port, base = server.address
        gateway = f"http://127.0.0.1:{port}/api/v1/files/{path.removeprefix(base + '/')}/content"
        direct = _signed(store, bucket, path.rsplit("/", 1)[1])
        show_speed(console, server, direct, gateway, size, rounds)
        show_slow_readers(console, server, gateway, seconds)


def show_speed(console: Console, server: TusServer, direct: str, gateway: str, size: int, rounds: int) -> None:
    """Print how fast one reader is."""
    taken: dict[str, list[float]] = {direct: [], gateway: []}
    used = []
    digests = set()
    for number in range(rounds + 1):  # the first one warms the caches of the store
        for url, seconds in taken.items():
            before = cpu_seconds(server.pid)
            begin = time.perf_counter()
            digests.add(_fetch(url, size, hashed=number == 0))
            if number:
                seconds.append(time.perf_counter() - begin)
                used += [cpu_seconds(server.pid) - before] if url == gateway else []
    assert len({digest for digest in digests if digest}) == 1, "the two ways gave different bytes"
    table = Table(title=f"one download of {size // MIB} MiB", title_justify="left")
    for heading in ("", "MB/s", "of direct", "gateway CPU-s/GiB", "peak RSS MiB"):
        table.add_column(heading, justify="right" if heading else "left")
    medians = {url: statistics.median(seconds) for url, seconds in taken.items()}
    table.add_row("direct GET", f"{size / medians[direct] / 1e6:.0f}", "1.00", "", "")
    table.add_row(
        "through the gateway",
        f"{size / medians[gateway] / 1e6:.0f}",
        f"{medians[direct] / medians[gateway]:.2f}",
        f"{statistics.median(used) / (size / GIB):.2f}",
        f"{peak_rss(server.pid) / MIB:.0f}",
    )
    console.print(table)


def show_slow_readers(console: Console, server: TusServer, gateway: str, seconds: float) -> None:
    """Print the resident memory while many readers take 16 KiB/s each."""
    before = resident(server.pid)
    readers = [_asked(gateway) for _ in range(READERS)]
    measured = []
    for _ in range(2):
        until = time.monotonic() + seconds / 2
        while time.monotonic() < until:
            for reader in readers:
                assert reader.recv(READ_AT_ONCE), "a slow reader was cut off"
            time.sleep(0.5)
        measured.append(resident(server.pid))
    for reader in readers:
        reader.close()
    table = Table(title=f"resident memory with {READERS} slow readers, MiB", title_justify="left")
    for heading in ("before", f"after {seconds / 2:g} s", f"after {seconds:g} s", "each, KiB"):
        table.add_column(heading, justify="right")
    each = (max(measured) - before) / READERS / 1024
    table.add_row(*(f"{value / MIB:.0f}" for value in (before, *measured)), f"{each:.0f}")
    console.print(table)


def show_small(console: Console, home: Path, *, rounds: int, downloads: int = SMALL_DOWNLOADS) -> None:
    """Print what the access log costs many readers of a tiny file in a directory: nothing else takes time there."""
    kinds = [(database, kept) for database in ("SQLite", "PostgreSQL") for kept in ("none", "90d")]
    table = Table(title=f"{downloads} downloads of 1 KiB, {SMALL_READERS} connections", title_justify="left")
    for heading in ("", "downloads/s", "of no log", "gateway CPU ms each"):
        table.add_column(heading, justify="right" if heading else "left")
    with ExitStack() as stack:
        dsn = stack.enter_context(postgres.running()).new_database
        servers, paths = {}, {}
        for number, (database, kept) in enumerate(kinds):
            settings = {"TUSGATE_ACCESS_RETENTION": kept}
            settings |= {"TUSGATE_DATABASE_URL": dsn()} if database == "PostgreSQL" else {}
            name = f"{database}, {'no log' if kept == 'none' else 'access log'}"
            servers[name] = server = stack.enter_context(Gateway(home / f"small-{number}", settings))
            file_id = _uploaded(TusServer(name, server.endpoint), SMALL).rsplit("/", 1)[1]
            paths[name] = f"/api/v1/files/{file_id}/content"
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for turn in range(rounds + 1):
            for name, server in servers.items():
                cpu, begin = cpu_seconds(server.pid), time.perf_counter()
                _read_small(server.port, paths[name], downloads)
                if turn:
                    taken[name].append((time.perf_counter() - begin, cpu_seconds(server.pid) - cpu))
    floor = 0.0
    for name, runs in taken.items():
        seconds, cpu = (statistics.median(each) for each in zip(*runs, strict=True))
        floor = seconds if name.endswith("no log") else floor
        rate = f"{downloads / seconds:.0f}"
        table.add_row(name, rate, f"{floor / seconds:.2f}", f"{cpu / downloads * 1000:.2f}")
    console.print(table)


def _read_small(port: int, path: str, downloads: int) -> None:
    """Download a tiny file so many times over keep-alive connections, each with a thread."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()

    def read(times: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(times):
                connection.sendall(request)
                received = b""
                while _HEAD_END not in received or len(received.partition(_HEAD_END)[2]) < SMALL:
                    chunk = connection.recv(65536)
                    assert chunk, "the connection broke"
                    received += chunk
                assert received.startswith(b"HTTP/1.1 200"), received[:200]

    with ThreadPoolExecutor(SMALL_READERS) as readers:
        for done in [readers.submit(read, downloads // SMALL_READERS) for _ in range(SMALL_READERS)]:
            done.result()


def _uploaded(server: TusServer, size: int) -> str:
    """Upload a file of `size` bytes and return its path."""
    connection = Connection(int(server.address[0]))
    path = connection.create(server.address[1], size)
    assert connection.ask("PATCH", path, patch_fields(0, size), size).startswith("HTTP/1.1 204")
    connection.socket.close()
    return path


def _signed(store: S3Server, bucket: str, key: str) -> str:
    config = S3Config(
        store.endpoint, store.region, bucket, "", store.access_key, store.secret_key, profile=PROFILES["minio"]
    )
    presentation = Presentation("application/octet-stream", "attachment", "private")
    url = S3Store(config).presign("GET", ObjectKey(key), presentation, 3600)
    assert url is not None
    return url


def _asked(url: str) -> socket.socket:
    """Send a GET on a connection of its own and return that."""
    address = urlsplit(url)
    connection = socket.create_connection((str(address.hostname), address.port or 80))
    target = address.path + ("?" + address.query if address.query else "")
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
    return connection


def _fetch(url: str, size: int, *, hashed: bool) -> str:
    """Read a whole file and return its SHA-256, or "" unless it is to be `hashed`."""
    digest, buffer = hashlib.sha256(), bytearray(MIB)
    with _asked(url) as connection:
        head = b""
        while _HEAD_END not in head:
            head += connection.recv(65536)
        head, _, body = head.partition(_HEAD_END)
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        assert head.startswith(b"HTTP/1.1 200"), head
        assert length is not None, head
        assert int(length[1]) == size, head
        left = size - len(body)
        digest.update(body)
        while left:
            read = connection.recv_into(buffer)
            assert read, f"the connection broke with {left} bytes left"
            left -= read
            if hashed:
                digest.update(memoryview(buffer)[:read])
    return digest.hexdigest() if hashed else ""
