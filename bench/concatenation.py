"""One file as parallel pieces: beside one stream and beside direct uploads, and how long the last request takes."""

from __future__ import annotations

import asyncio
import base64
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from bench.contenders import Workload, check_and_empty, tusgate
from bench.direct import upload, warm_up
from bench.load import Connection, patch_fields
from tusgate.core.grid import MIB
from tusgate.s3.config import S3Config
from tusgate.s3.profiles import PROFILES
from tusgate.s3.store import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

    from bench.contenders import TusServer
    from tests.servers.s3 import S3Server

PIECES = 4
PARTIALS = "partials"


@dataclass(frozen=True)
class Took:
    """Seconds of a whole file, and of Complete, or the POST of the final, where that stands alone."""

    whole: float
    last: float = 0.0


def show_concatenation(console: Console, home: Path, store: S3Server, *, size: int, rounds: int) -> None:
    """Measure all ways in turn and print medians.

    Args:
        console: to print on.
        home: an empty directory.
        store: where the file goes.
        size: bytes of the file.
        rounds: of all ways, interleaved.
    """
    bucket = store.make_bucket("concat")
    with tusgate("tusgate", home / "gateway", store, bucket, {}) as server:
        ways: dict[str, Callable[[], Took]] = {
            "direct": lambda: asyncio.run(_direct(store, bucket, size)),
            "one stream": lambda: _stream(server, size),
            f"{PIECES} {PARTIALS} in place": lambda: _partials(server, size, grouped=True),
            f"{PIECES} {PARTIALS}, copied": lambda: _partials(server, size, grouped=False),
        }
        taken: dict[str, list[Took]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                taken[name].append(way())
                check_and_empty(store, bucket, Workload(name, 1, size, 1), content=False)
    console.print(_table(size, taken))


def _table(size: int, taken: dict[str, list[Took]]) -> Table:
    table = Table(title=f"one file of {size // MIB} MiB", title_justify="left")
    for heading in ("", "MB/s", "of direct", "last request ms", "beyond Complete ms"):
        table.add_column(heading, justify="right" if heading else "left")
    whole = {name: statistics.median([took.whole for took in runs]) for name, runs in taken.items()}
    last = {name: statistics.median([took.last for took in runs]) for name, runs in taken.items()}
    for name, seconds in whole.items():
        speed, ratio = f"{size / seconds / 1e6:.0f}", f"{whole['direct'] / seconds:.2f}"
        beyond = f"{(last[name] - last['direct']) * 1000:.0f}" if PARTIALS in name else ""
        table.add_row(name, speed, ratio, f"{last[name] * 1000:.0f}" if last[name] else "", beyond)
    return table


async def _direct(server: S3Server, bucket: str, size: int) -> Took:
    config = S3Config(
        server.endpoint, server.region, bucket, "", server.access_key, server.secret_key, profile=PROFILES["minio"]
    )
    store = S3Store(config)
    try:
        await warm_up(store)
        begin = time.perf_counter()
        complete = await upload(store, 0, size)
        return Took(time.perf_counter() - begin, complete)
    finally:
        await store.close()


def _stream(server: TusServer, size: int) -> Took:
    begin = time.perf_counter()
    Connection(int(server.address[0])).upload(server.address[1], size)
    return Took(time.perf_counter() - begin)


def _partials(server: TusServer, size: int, *, grouped: bool) -> Took:
    """Send all pieces at once, then the final. They differ in length: that is how the gateway knows their order."""
    lengths = [size // PIECES + index for index in range(PIECES - 1)]
    lengths.append(size - sum(lengths))
    fields = "Upload-Concat: partial\r\n"
    if grouped:
        group, listed = f"{time.monotonic_ns()}", ",".join(map(str, lengths))
        fields += f"Upload-Metadata: concat-group {_encoded(group)},concat-lengths {_encoded(listed)}\r\n"
    port, base = server.address

    def send(length: int) -> str:
        connection = Connection(int(port))
        path = connection.create(base, length, fields)
        done = connection.ask("PATCH", path, patch_fields(0, length), length)
        assert done.startswith("HTTP/1.1 204"), done
        return path

    begin = time.perf_counter()
    with ThreadPoolExecutor(PIECES) as threads:
        paths = list(threads.map(send, lengths))
    connection = Connection(int(port))
    last = time.perf_counter()
    made = connection.ask("POST", base, f"Upload-Concat: final;{' '.join(paths)}\r\nContent-Length: 0", 0)
    end = time.perf_counter()
    assert made.startswith("HTTP/1.1 201"), made
    return Took(end - begin, end - last)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
